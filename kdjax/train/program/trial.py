"""Traces a training step on shapes alone, to find mistakes in a user's loss before training."""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax

from kdjax.data.batches import Batch
from kdjax.train.devices.parallel import Parallel
from kdjax.train.program import term_modules
from kdjax.train.program.methods import Method, first_memory
from kdjax.train.program.objective import LossError
from kdjax.train.program.state import TrainState
from kdjax.train.program.step import train_step


def trace_step(
    method: Method,
    image_shape: tuple[int, int, int],
    parallel: Parallel,
    *,
    batch_size: int,
    train_size: int,
    mixed: bool,
    joined_losses: bool,
    teacher: Any = None,
) -> None:
    """Runs a training step of a method on shapes; nothing is computed but the terms' memories.

    Args:
      method: the networks and their losses.
      image_shape: (height, width, channels) of the images.
      parallel: the devices.
      batch_size: images per step, over all devices.
      train_size: the number of examples in the training split.
      mixed: whether images are mixed, so that labels are distributions.
      joined_losses: whether a loss that compares examples sees those of all devices.
      teacher: the shapes of a fixed teacher's variables, if the method has one.

    Raises:
      LossError: if a loss fails, does not return one number for each example, or returns a memory
        of another shape than it was given.
    """
    initial = method.initial(image_shape, train_size)
    variables = initial.start.shapes
    optimizer = optax.set_to_zero()
    state = TrainState(
        step=np.int32(0),
        key=np.asarray(jax.random.key_data(jax.random.key(0))),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        optimizer_state=optimizer.init(variables["params"]),
        memory=first_memory(method, initial, variables["params"], seed=0),
    )
    own = batch_size // len(parallel.devices)
    classes = method.model.architecture.num_classes
    labels = ((own, classes), np.float32) if mixed else ((own,), np.int32)
    batch = Batch(
        images=jax.ShapeDtypeStruct((own, *image_shape), np.float32),
        labels=jax.ShapeDtypeStruct(*labels),
        mask=jax.ShapeDtypeStruct((own,), np.bool_),
        indices=jax.ShapeDtypeStruct((own,), np.int32),
    )
    # What a search observes needs the state of its own optimiser.
    method = dataclasses.replace(method, observe=lambda *_: {})

    def step(state: TrainState, batch: Batch, teacher: Any) -> Any:
        after, _ = train_step(
            state,
            batch,
            method=method,
            optimizer=optimizer,
            weights=method.weights(state.step),
            teacher=teacher,
            axis_name=parallel.axis_name,
            joined_losses=joined_losses,
        )
        return after.memory.get(term_modules.NETWORK, {})

    given = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(parallel.stacked_shape(np.shape(leaf)), leaf.dtype),
        (state, batch, teacher),
    )
    after = jax.eval_shape(parallel.compile(step), *given)
    skipped = len(parallel.stacked_shape(()))
    _check_memories(given[0].memory.get(term_modules.NETWORK, {}), after, skipped)


def _check_memories(before: Any, after: Any, skipped: int) -> None:
    """Raises LossError at the first difference; the first ``skipped`` axes are of devices."""
    given, made = (_shapes(tree, skipped) for tree in (before, after))
    for place in sorted(given.keys() | made.keys()):
        if given.get(place) != made.get(place):
            raise LossError(
                f"the loss of config.weights.{place[0]} returned a memory whose "
                f"{'/'.join(place[1:])} is {made.get(place, 'missing')}: expected what it was "
                f"given, {given.get(place, 'nothing')}"
            )


def _shapes(tree: Any, skipped: int) -> dict[tuple[str, ...], str]:
    """Place of each array -> its dtype and shape, such as ``float32[8, 16]``."""
    return {
        tuple(str(getattr(key, "key", key)) for key in path): (
            f"{leaf.dtype}{list(leaf.shape[skipped:])}"
        )
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
