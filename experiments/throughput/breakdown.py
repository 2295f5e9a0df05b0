"""Where the time of a training step goes on a CPU, in kdjax and in the PyTorch peer.

The profilers of JAX and of PyTorch measure every operation that the CPU runs; they are added up by
what it does. The two are measured one after another, in processes of their own; shares and
milliseconds are those of one run, on whatever else the machine does.

Command:  python experiments/throughput/breakdown.py --network=resnet20 --batch=64 \\
              --torch_python=PATH --out=experiments/throughput/cpu_breakdown.json
"""

import argparse
import collections
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import options

LARGEST_KERNEL = 7  # Pixels; what is larger is a map that moves over another: a weight gradient.
NORMALISATION = {"normalization.py", "sums.py"}
# What moves numbers and computes nothing.
MOVES = {"fusion", "parameter", "bitcast", "reshape", "copy", "transpose", "slice", "concatenate"}
MOVES |= {"tuple", "get-tuple-element", "dynamic-slice", "dynamic-update-slice", "constant", "pad"}
# Operations of PyTorch by what they do; the rest is "other".
PEER_KINDS = {
    "aten::mkldnn_convolution": "convolutions, forward",
    "aten::convolution_backward": "convolutions, both gradients",
    "aten::native_batch_norm": "normalisation",
    "aten::native_batch_norm_backward": "normalisation",
    "aten::threshold_backward": "element by element",
    "aten::relu": "element by element",
    "aten::relu_": "element by element",
    "aten::clamp_min": "element by element",
    "aten::clamp_min_": "element by element",
    "aten::add_": "element by element",
    "aten::add": "element by element",
    "aten::mul": "element by element",
    "aten::copy_": "copies and transposes",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_job(parser)
    parser.add_argument("--execution", default="auto", help="a value of compute.execution")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--torch_python", default="", help="a Python with PyTorch; none: no peer")
    parser.add_argument("--out", default="", help="a JSON file")
    parser.add_argument("--side", default="", choices=("", "peer"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side == "peer":
        print(json.dumps(peer(chosen)))
        return
    found = {"kdjax": kdjax(chosen)}
    if chosen.torch_python:
        command = [chosen.torch_python, *sys.argv, "--side=peer"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found["peer"] = json.loads(output.splitlines()[-1])
    if chosen.out:
        job = options.job(chosen) | {"execution": chosen.execution, "steps": chosen.steps}
        Path(chosen.out).write_text(json.dumps({"job": job, **found}, indent=2) + "\n")
    for name, milliseconds in found.items():
        total = sum(milliseconds.values())
        print(f"\n{name}: {total:.0f} ms a step")
        for kind, each in sorted(milliseconds.items(), key=lambda item: -item[1]):
            print(f"  {kind:40} {each:8.1f} ms  {each / total:6.1%}")


def kdjax(chosen: argparse.Namespace) -> dict[str, float]:
    """Milliseconds a step of each kind of operation."""
    import jax

    from kdjax.bench.workload import Job, Workload

    job = Job(
        Workload(
            network=chosen.network,
            batch_size=chosen.batch,
            execution=chosen.execution,
            student_scales=options.student_scales(chosen),
            classes=chosen.classes,
            image_size=chosen.image_size,
        )
    )
    each = job.runner.steps_per_dispatch
    program, _ = job.runner.compile_steps(job.state, job.inputs)
    kinds = _kinds(program.as_text())
    job.dispatch(-(-2 // each))
    dispatches = -(-chosen.steps // each)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            job.dispatch(dispatches)
        (path,) = Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    nanoseconds: collections.Counter[str] = collections.Counter()
    for event in (event for plane in planes for line in plane.lines for event in line.events):
        operation = dict(event.stats).get("hlo_op")
        # A loop's own event lasts as long as all that it runs.
        if operation and not operation.startswith(("while", "call")):
            nanoseconds[kinds.get(operation, "other")] += event.duration_ns
    return {kind: spent / 1e6 / (dispatches * each) for kind, spent in nanoseconds.items()}


def _kinds(text: str) -> dict[str, str]:
    """What each operation of a compiled program does."""
    from kdjax.plan.hlo import parse

    module = parse(text)

    def within(instruction: Any) -> list[Any]:
        called = [module.computations[name] for name in instruction.called()]
        inner = [each for computation in called for each in computation.instructions.values()]
        return [instruction, *(found for each in inner for found in within(each))]

    def kind(instruction: Any) -> str:
        parts = within(instruction)
        for part in parts:
            if part.opcode == "convolution":
                size = max(map(int, re.findall(r"size=(\d+)x(\d+)", part.text)[0]))
                backward = "transpose(jvp" in part.text
                which = "weight gradients" if size > LARGEST_KERNEL else "input gradients"
                return f"convolutions, {which if backward else 'forward'}"
        opcodes = {part.opcode for part in parts}
        if "dot" in opcodes:
            return "matrix products"
        if opcodes <= MOVES:
            return "copies and transposes"
        if opcodes & {"transpose", "copy"}:
            return "other computations that also transpose"
        files = {Path(file).name for part in parts for file, _ in module.source(part)}
        return "normalisation" if files & NORMALISATION else "element by element"

    return {
        instruction.name: kind(instruction)
        for computation in module.computations.values()
        for instruction in computation.instructions.values()
    }


def peer(chosen: argparse.Namespace) -> dict[str, float]:
    """The same of the peer; runs where PyTorch is installed."""
    import numpy as np
    import peer as peers
    import records
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(records.usable_cores())
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    shape = (8 * chosen.batch, chosen.image_size, chosen.image_size, 3)
    images = torch.as_tensor(rng.integers(0, 256, shape, dtype=np.uint8))
    labels = torch.as_tensor(rng.integers(0, chosen.classes, len(images)))
    widths = peers.student_widths(chosen.network, options.student_scales(chosen))
    model = peers.Ensemble(widths, chosen.classes)
    trainer = peers.Trainer(model, images, labels, chosen.batch)
    for _ in range(2):
        trainer.step()
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        for _ in range(chosen.steps):
            trainer.step()
    found: collections.Counter[str] = collections.Counter()
    for event in measured.key_averages():
        kind = PEER_KINDS.get(event.key, "other")
        found[kind] += event.self_cpu_time_total / 1e3 / chosen.steps
    return dict(found)


if __name__ == "__main__":
    main()
