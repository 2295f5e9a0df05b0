"""Traces a method's losses on shapes alone, to find mistakes in a user's loss without training."""

from typing import Any

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp

from kdjax.train.program import term_modules
from kdjax.train.program.methods import Method
from kdjax.train.program.objective import Examples


def trace_losses(
    method: Method,
    image_shape: tuple[int, int, int],
    *,
    batch_size: int,
    train_size: int,
    mixed: bool,
    axis_name: str | None,
    joined_losses: bool,
    teacher: Any = None,
) -> None:
    """Runs the forward pass and all losses of a method on shapes; nothing is computed.

    Args:
      method: the networks and their losses.
      image_shape: (height, width, channels) of the images.
      batch_size: the images of one device's share of a batch.
      train_size: the number of examples in the training split.
      mixed: whether images are mixed, so that labels are distributions.
      axis_name: the mapped axis of the devices; None: there is one device.
      joined_losses: whether a loss that compares examples sees those of all devices.
      teacher: the shapes of a fixed teacher's variables, if the method has one.

    Raises:
      ValueError: if a loss does not return one number for each example, or a memory of another
        shape than it was given. Anything else that a loss raises is passed on.
    """
    initial = method.initial(image_shape, train_size)
    variables = initial.start.shapes
    memories = flax.traverse_util.unflatten_dict(
        {
            place: jax.eval_shape(first, jax.random.key(0))
            for place, first in initial.memories.items()
        }
    )
    if method.copies_decay:
        teacher = variables["params"]

    def losses(
        variables: Any, teacher: Any, memories: Any, images: chex.Array, labels: chex.Array
    ) -> Any:
        mask = jnp.ones(batch_size, bool)
        inputs, _ = method.forward(variables, teacher, images, mask, jax.random.key(0))
        examples = Examples(
            labels,
            mask,
            axis_name=axis_name if joined_losses else None,
            devices=axis_name,
            indices=jnp.arange(batch_size),
            key=jax.random.key(0),
        )
        memory = {**method.memory, term_modules.NETWORK: memories}
        return method.loss(inputs, examples, method.weights(jnp.int32(0)), memory).memory

    classes = (method.model.architecture.num_classes,)
    labels = (classes, jnp.float32) if mixed else ((), jnp.int32)
    given = [(image_shape, jnp.float32), labels]
    if axis_name is None:
        batch = [jax.ShapeDtypeStruct((batch_size, *shape), dtype) for shape, dtype in given]
        after = jax.eval_shape(losses, variables, teacher, memories, *batch)
    else:  # One device stands for all: shapes are the same on each.
        batch = [jax.ShapeDtypeStruct((1, batch_size, *shape), dtype) for shape, dtype in given]
        over_devices = jax.vmap(losses, in_axes=(None, None, None, 0, 0), axis_name=axis_name)
        stacked = jax.eval_shape(over_devices, variables, teacher, memories, *batch)
        after = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stacked)
    _check_memories(memories, after)


def _check_memories(before: Any, after: Any) -> None:
    for name, memory in before.items():
        kept, made = (
            jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)
            for tree in (memory, after[name])
        )
        if kept != made:
            raise ValueError(
                f"the loss of config.weights.{name} returned a memory of {made}: expected what it "
                f"was given, {kept}"
            )
