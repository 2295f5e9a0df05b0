"""Checks that the peer and kdjax compute the same training step on the same weights and images.

This program, the kdjax half, writes parameters, a batch and everything its step computes to npz
files, one for each of several batches. The PyTorch half, ``check_peer.py``, computes the step again
in float64 and float32. Augmented images, logits, each term of the loss, the loss, all gradients and
the optimiser's first update are compared. The exit status is 1 if a difference, relative to an
array's largest entry, is above the tolerance.

If an activation is within rounding of zero, float32 and float64 may take different sides of the
ReLU, which changes some gradients by a percent. A real mistake shows in every batch, but this
effect only in few. Therefore the smallest difference over the batches counts for each array; the
JSON has all differences.

Command:  python experiments/throughput/check.py --network=resnet20 --out=check.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import optax
import options
import records

import kdjax
from kdjax import models
from kdjax.bench.workload import Workload
from kdjax.data.batches import Batch, Batches, DeviceData, crop_and_flip
from kdjax.train.program.objective import Examples
from kdjax.train.program.optimizer import make_optimizer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_job(parser)
    # Small batches have few activations: with 32 images of 32 x 32, every batch has an activation
    # within rounding of zero.
    parser.set_defaults(network="resnet20", batch=8, image_size=16)
    parser.add_argument("--execution", default="sequential", help="a value of compute.execution")
    parser.add_argument("--torch_python", default=sys.executable, help="one that has PyTorch")
    parser.add_argument("--batches", type=int, default=4, help="how many are compared")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of relative differences")
    parser.add_argument("--out", default="", help="JSON")
    chosen = parser.parse_args()
    if chosen.dtype != "float32":
        parser.error("--dtype: only float32 can be compared number by number")
    if jax.devices()[0].platform != "cpu":
        # TF32 would hide a small mistake behind a large tolerance.
        jax.config.update("jax_default_matmul_precision", "float32")
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, arrays in enumerate(compute(chosen)):
            paths.append(str(Path(folder) / f"step{number}.npz"))
            np.savez(paths[-1], **arrays)
        program = str(Path(__file__).with_name("check_peer.py"))
        done = subprocess.run(
            [chosen.torch_python, program, *paths], stdout=subprocess.PIPE, text=True
        )
    if done.returncode:
        print(f"the PyTorch half ended with status {done.returncode}", file=sys.stderr)
        return 2
    found = json.loads(done.stdout)
    smallest = {
        side: {name: float(np.min(values)) for name, values in found[side].items()}
        for side in ("kdjax", "torch_float32")
    }
    # np.min keeps NaN, and `<=` is False for it, so that NaN does not pass.
    passed = all(value <= chosen.tolerance for value in smallest["kdjax"].values())
    content = {
        "passed": passed,
        "tolerance": chosen.tolerance,
        "worst": {side: group(values) for side, values in smallest.items()},
        "job": options.job(chosen) | {"execution": chosen.execution},
        "differences": found,
        "versions": {"kdjax": kdjax.__version__, "jax": jax.__version__, "torch": found["torch"]},
        "device": jax.devices()[0].device_kind,
        "host": records.host(),
        "command": records.command(),
    }
    records.save(content, chosen.out)
    rows = [("largest relative difference from float64", "kdjax", "PyTorch float32")]
    for name, value in content["worst"]["kdjax"].items():
        rows.append((name, f"{value:.1e}", f"{content['worst']['torch_float32'][name]:.1e}"))
    print(records.table(rows))
    print("passed" if passed else f"FAILED: above {chosen.tolerance:g}")
    return 0 if passed else 1


def compute(chosen: argparse.Namespace) -> Iterator[dict[str, np.ndarray]]:
    """Computes the step with kdjax's own functions; yields named arrays for each batch."""
    scales = options.student_scales(chosen)
    workload = Workload(
        network=chosen.network,
        batch_size=chosen.batch,
        execution=chosen.execution,
        student_scales=scales,
        classes=chosen.classes,
        image_size=chosen.image_size,
    )
    experiment = workload.experiment()
    config = experiment.config
    method = experiment.runner(workload.method, experiment.feed()).method
    rng = np.random.default_rng(0)
    shape = (chosen.image_size, chosen.image_size, 3)
    variables = models.initialize(method.model, 0, shape)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _disturb(rng, path[-1].key, leaf), variables["params"]
    )

    def objective(params: Any, batch: Batch):
        outputs, _ = method.forward({**variables, "params": params}, None, batch.images, batch.mask)
        examples = Examples(batch.labels, batch.mask, None)
        total, terms, _ = method.loss(outputs, examples, dict(config.weights), {})
        means = jax.tree.map(lambda values: values.mean(-1), terms)
        return total.mean(), (outputs.logits, means)

    optimizer = make_optimizer(
        config.optimizer, optax.constant_schedule(0.1), separate=method.separate
    )

    differentiate = jax.value_and_grad(objective, has_aux=True)

    @jax.jit
    def step(params: Any, batch: Batch):
        (loss, (logits, terms)), gradients = differentiate(params, batch)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return loss, logits, terms, gradients, updates

    for _ in range(chosen.batches):
        raw, batch = make_batch(rng, chosen.batch, chosen.classes, shape)
        loss, logits, terms, gradients, updates = step(params, batch)
        arrays = {
            **raw,
            "network": chosen.network,
            "classes": chosen.classes,
            "scales": scales,
            "images": batch.images,
            "labels": batch.labels,
            "loss": loss,
            "logits": logits,
            **{f"term/{name}": values for name, values in terms.items()},
        }
        for kind, tree in (("parameter", params), ("gradient", gradients), ("update", updates)):
            flat = flax.traverse_util.flatten_dict(tree)
            arrays |= {f"{kind}/{'/'.join(path)}": leaf for path, leaf in flat.items()}
        yield {name: np.asarray(value) for name, value in arrays.items()}


def make_batch(rng: np.random.Generator, batch: int, classes: int, shape: tuple[int, int, int]):
    """Returns raw images with their random crops and flips, and kdjax's batch of them."""
    count = 2 * batch
    raw = {
        "raw_images": rng.integers(0, 256, (count, *shape), dtype=np.uint8),
        "indices": rng.integers(0, count, batch),
        "offsets": rng.integers(-4, 5, (batch, 2)),
        "flips": rng.random(batch) < 0.5,
    }
    taken = crop_and_flip(raw["raw_images"][raw["indices"]], raw["offsets"], raw["flips"])
    labels = rng.integers(0, classes, batch).astype(np.int32)
    cut = Batches(batch, batch, 1, shape, (0.5,) * 3, (0.25,) * 3)
    rows = taken.reshape(batch, -1)
    return raw, cut.evaluation_batch(DeviceData(rows, jax.numpy.asarray(labels)), 0, batch, 0)


def group(differences: dict[str, float]) -> dict[str, float]:
    """Returns the largest difference of each kind: ``gradient/student_1/...`` is a ``gradient``."""
    worst: dict[str, float] = {}
    for name, value in differences.items():
        kind = name.split("/")[0]
        worst[kind] = max(worst.get(kind, 0.0), value)
    return worst


def _disturb(rng: np.random.Generator, name: str, leaf: np.ndarray) -> np.ndarray:
    """Moves scales and biases away from 1 and 0, because mistakes do not show at these values."""
    if name == "kernel":
        return leaf
    return (leaf + 0.2 * rng.normal(size=leaf.shape)).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
