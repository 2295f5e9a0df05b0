"""Times the convolutions of a training step on a CPU one by one, in kdjax and in PyTorch.

The convolutions are those of the step itself. kdjax's are read from the jaxpr of its forward pass,
with students packed as in training; the peer's are read from its modules. Each convolution is run
by itself, with its operands ready: forward, gradient of its input, gradient of its kernel. Times of
each kind are summed over the step.

    python experiments/throughput/convolutions.py --network=resnet20 --batch=64 \\
        --torch_python=PATH --out=experiments/throughput/cpu_convolutions.json
"""

import argparse
import collections
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import options
import records

KINDS = ("forward", "input gradient", "kernel gradient")


class Convolution(NamedTuple):
    """A shape: input height in pixels, input and output channels, kernel size, stride."""

    pixels: int
    inputs: int
    outputs: int
    size: int
    stride: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_job(parser)
    parser.add_argument("--execution", default="packed", help="of kdjax")
    parser.add_argument("--torch_python", default=sys.executable, help="one that has PyTorch")
    parser.add_argument("--rounds", type=int, default=3, help="of both sides in turn")
    parser.add_argument("--seconds", type=float, default=0.2, help="for one convolution, each time")
    parser.add_argument("--side", default="", choices=("", "kdjax", "torch"), help="one alone")
    parser.add_argument("--out", default="", help="JSON")
    chosen = parser.parse_args()
    if chosen.dtype != "float32":
        parser.error(f"--dtype is {chosen.dtype}: the times are of float32")
    if chosen.side:
        print(json.dumps(_measure(chosen)))
        return
    import contestants  # It imports kdjax, which the PyTorch side does not have.

    host, rounds = records.host(), collections.defaultdict(list)
    with contestants.caches("") as cache:
        sides = (  # Only their environments and interpreters are used.
            contestants.kdjax("kdjax", cache=cache),
            contestants.torch("torch", cache=cache, python=chosen.torch_python),
        )
        for _ in range(chosen.rounds):
            for side in sides:
                command = [side.command[0], __file__, *sys.argv[1:], f"--side={side.name}"]
                answer = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True, env=side.variables()
                ).stdout
                rounds[side.name].append(json.loads(answer.splitlines()[-1]))
    content = {"sides": {side: _median(runs) for side, runs in rounds.items()}}
    records.save(content | {"host": host, "command": records.command()}, chosen.out)
    print(records.table(_rows(content["sides"])))


def _measure(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the seconds of each convolution of one side, by kind."""
    layers, prepare = {"kdjax": _of_kdjax, "torch": _of_torch}[chosen.side](chosen)
    found = []
    for place, (layer, count) in enumerate(layers.items()):
        runs = prepare(layer, chosen.batch)
        if place == 0:  # The stem: training needs no gradient of the images.
            del runs["input gradient"]
        seconds = {kind: _seconds(run, chosen.seconds) for kind, run in runs.items()}
        found.append({**layer._asdict(), "count": count, "seconds": seconds})
    return found


def _of_kdjax(chosen: argparse.Namespace) -> tuple[dict[Convolution, int], Callable]:
    import jax
    import jax.numpy as jnp

    from kdjax import models
    from kdjax.models.convolution import convolve
    from kdjax.models.execution import execution_named

    architecture = models.create(chosen.network, chosen.classes)
    vectors = models.student_vectors(architecture, options.student_scales(chosen))
    execution = execution_named(chosen.execution)
    net = models.StudentEnsemble(architecture, vectors, execution=execution)
    images = jax.ShapeDtypeStruct((2, chosen.image_size, chosen.image_size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x), images)
    jaxpr = jax.make_jaxpr(lambda v, x: net.apply(v, x, True, mutable=["batch_stats"]))(
        variables, images
    )
    found = collections.Counter(_convolutions(jaxpr.jaxpr))

    def prepare(layer: Convolution, batch: int) -> dict[str, Callable]:
        key = jax.random.key(0)
        x = jax.random.normal(key, (batch, layer.pixels, layer.pixels, layer.inputs))
        kernel = jax.random.normal(key, (layer.size, layer.size, layer.inputs, layer.outputs))
        dy = jnp.ones_like(convolve(x, kernel, layer.stride))
        functions = {
            "forward": lambda x, kernel, _: convolve(x, kernel, layer.stride),
            "input gradient": lambda x, kernel, dy: jax.vjp(
                lambda x: convolve(x, kernel, layer.stride), x
            )[1](dy),
            "kernel gradient": lambda x, kernel, dy: jax.vjp(
                lambda kernel: convolve(x, kernel, layer.stride), kernel
            )[1](dy),
        }

        def ready(function: Callable) -> Callable:
            program = jax.jit(function).lower(x, kernel, dy).compile()
            return lambda: jax.block_until_ready(program(x, kernel, dy))

        return {kind: ready(function) for kind, function in functions.items()}

    return found, prepare


def _convolutions(jaxpr: Any, times: int = 1) -> Iterator[Convolution]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            x, kernel = (variable.aval.shape for variable in equation.invars)
            stride = equation.params["window_strides"][0]
            layer = Convolution(x[1], kernel[2], kernel[3], kernel[0], stride)
            yield from [layer] * times
        turns = equation.params.get("length", 1)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _convolutions(inner, times * turns)


def _of_torch(chosen: argparse.Namespace) -> tuple[dict[Convolution, int], Callable]:
    import peer
    import torch

    torch.set_num_threads(records.usable_cores())
    torch.set_flush_denormal(True)
    widths = peer.student_widths(chosen.network, options.student_scales(chosen))
    model = peer.Ensemble(widths, chosen.classes).to(memory_format=torch.channels_last)
    found: collections.Counter[Convolution] = collections.Counter()

    def note(module: torch.nn.Conv2d, inputs: tuple[torch.Tensor, ...], _: Any) -> None:
        sides = module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0]
        found[Convolution(inputs[0].shape[-1], *sides)] += 1

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(note)
    images = torch.zeros(2, 3, chosen.image_size, chosen.image_size)
    model(images, torch.zeros(2, dtype=torch.int64))

    def prepare(layer: Convolution, batch: int) -> dict[str, Callable]:
        last = {"memory_format": torch.channels_last}
        x = torch.randn(batch, layer.inputs, layer.pixels, layer.pixels).contiguous(**last)
        kernel = torch.randn(layer.outputs, layer.inputs, layer.size, layer.size)
        kernel, pad, ones = kernel.contiguous(**last), [layer.size // 2] * 2, [1, 1]
        stride = [layer.stride] * 2

        def forward() -> torch.Tensor:
            return torch.nn.functional.conv2d(x, kernel, None, stride, pad)

        dy = torch.ones_like(forward())

        def backward(*wanted: bool) -> Any:
            return torch.ops.aten.convolution_backward(
                dy, x, kernel, None, stride, pad, ones, False, [0, 0], 1, [*wanted, False]
            )

        return {
            "forward": forward,
            "input gradient": lambda: backward(True, False),
            "kernel gradient": lambda: backward(False, True),
        }

    return found, prepare


def _seconds(run: Callable, limit: float) -> float:
    """Returns the median time of as many calls as fit into ``limit`` seconds, at least five."""
    run()
    taken, end = [], time.perf_counter() + limit
    while len(taken) < 5 or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return records.summary(taken)["median"]


def _median(runs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Returns the layers with the medians of their times over the rounds."""
    return [
        own[0]
        | {
            "seconds": {
                kind: records.summary([run["seconds"][kind] for run in own])["median"]
                for kind in own[0]["seconds"]
            }
        }
        for own in zip(*runs, strict=True)
    ]


def _rows(sides: dict[str, list[dict[str, Any]]]) -> list[tuple[str, ...]]:
    """Returns table rows: ms of a step by kind and side, and convolutions in a forward pass."""
    names = list(sides)
    rows = [("ms a step", *names)]
    for kind in (*KINDS, "all"):
        total = [
            sum(
                1e3 * layer["count"] * seconds
                for layer in layers
                for own, seconds in layer["seconds"].items()
                if kind in (own, "all")
            )
            for layers in sides.values()
        ]
        rows.append((kind, *(f"{value:.0f}" for value in total)))
    counts = [sum(layer["count"] for layer in layers) for layers in sides.values()]
    rows.append(("convolutions", *(str(count) for count in counts)))
    return rows


if __name__ == "__main__":
    main()
