"""Tracing a linen module: one abstract forward pass, from which everything else is derived."""

import functools
from collections.abc import Mapping
from typing import Any, Protocol

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.tracing import interpreter
from kdjax.tracing.description import OUTPUTS, Traced
from kdjax.tracing.names import collected, named
from kdjax.tracing.record import Grouping, Record
from kdjax.tracing.stored import stored_parameters
from kdjax.tracing.units import describe
from kdjax.tracing.values import RIGID, Path, Value, along, rigid
from kdjax.widths import WidthVector


class Buildable(Protocol):
    """Anything that builds a linen module from a width vector."""

    @property
    def widths(self) -> WidthVector: ...

    @property
    def keeps_cardinality(self) -> bool: ...

    def build(self, widths: Mapping[str, int]) -> nn.Module: ...


@functools.lru_cache(maxsize=64)
def trace_architecture(architecture: Buildable, image_shape: tuple[int, int, int]) -> Traced:
    """The description of an architecture at its full widths, cached for later calls.

    Args:
      architecture: hashable; its ``build(widths)`` returns a module as for :func:`trace`.
      image_shape: (height, width, channels) of the input.

    Raises:
      ValueError: if an entry of the width vector is not the number of outputs of any layer.
      NotImplementedError: as :func:`trace`.
    """
    widths = architecture.widths
    description = trace(
        architecture.build(named(widths)),
        image_shape,
        keeps_cardinality=architecture.keeps_cardinality,
        closed=True,
    )
    if lost := [name for name in widths if name not in description.widths]:
        raise ValueError(
            f"the widths {lost} are no layer's number of outputs: a module has to take each entry "
            "of the width vector as it is, without arithmetic, and pass it to a layer"
        )
    return description


def trace(
    net: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    grouping: Mapping[Path, Grouping] | None = None,
    keeps_cardinality: bool = False,
    closed: bool = False,
) -> Traced:
    """Describes a network by following its channels through ``net.apply`` in evaluation mode.

    Args:
      net: ``net.apply(variables, images, train=False)`` returns logits, or an object that has
        them as ``logits``.
      image_shape: (height, width, channels) of the input.
      grouping: path of a convolution's kernel -> what the convolution loses: channels (``none``),
        groups (``whole``), or the same channel of each group (``across``). For other convolutions
        the number of groups decides.
      keeps_cardinality: whether convolutions with several groups keep their number of groups. They
        then lose the same channel of each group.
      closed: whether widths that are not in the width vector stay as they are.

    Raises:
      NotImplementedError: at an operation that cannot be followed; the message names the operation,
        its module and what can be done.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), images)
    # JAX reuses earlier traces of compiled functions. Modules inside them would not be called, and
    # the names of their widths would not be seen. Without jit, JAX's loops over blocks become plain
    # Python loops too.
    with jax.disable_jit(), stored_parameters(), collected() as met:
        closed_jaxpr = jax.make_jaxpr(lambda v, x: _outputs(net.apply(v, x, train=False)))(
            variables, images
        )
    shapes = {path: leaf.shape for path, leaf in _flat(variables).items()}
    sizes = {path: int(np.prod(shape)) for path, shape in shapes.items()}
    record = Record(sizes, grouping or {}, keeps_cardinality)
    leaves = {path: [record.fresh(size) for size in shape] for path, shape in shapes.items()}
    values = [_variable(path, shapes[path], leaves[path]) for path in _order(variables)]
    values.append(_image(record, image_shape))
    logits, *maps = interpreter.walk(record, closed_jaxpr, values)
    record.place = ""
    for label in logits.labels:
        record.pin(label.atoms, OUTPUTS)
    declared = {
        module: width.name
        for module, width in met.items()
        if any(
            layer.kernel and layer.kernel[1:-1] == module and len(layer.writes) == width
            for layer in record.layers
        )
    }
    return describe(record, leaves, declared, [_channels(value) for value in maps], closed=closed)


def _outputs(outputs: Any) -> tuple[Any, ...]:
    """The logits, followed by the maps after the blocks if the network returns them."""
    return getattr(outputs, "logits", outputs), *getattr(outputs, "features", ())


def _channels(value: Value) -> np.ndarray:
    """The atoms of a map's last axis; ``RIGID`` everywhere if its channels are not known."""
    last = len(value.shape) - 1
    label = value.label(last)
    if label is None or label.axes != (last,):
        return np.full(value.shape[last], RIGID)
    return label.atoms.reshape(-1)


def _flat(variables: Any) -> dict[Path, Any]:
    return flax.traverse_util.flatten_dict(variables)


def _order(variables: Any) -> list[Path]:
    """Paths in the order in which JAX flattens the variables."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    return [tuple(key.key for key in path) for path, _ in leaves]


def _variable(path: Path, shape: tuple[int, ...], axes: list[np.ndarray]) -> Value:
    labels = tuple(along(axis, len(shape), atoms) for axis, atoms in enumerate(axes))
    scale = path[0] == "params" and len(shape) == 1
    return Value(shape, labels, frozenset([path]), frozenset([path] if scale else []))


def _image(record: Record, image_shape: tuple[int, int, int]) -> Value:
    shape = (1, *image_shape)
    channels = record.fresh(image_shape[-1])
    record.pin(channels, "they are the image's channels")
    places = [label for label in rigid(shape) if label.axes[0] in (1, 2)]
    return Value(shape, (*places, along(3, 4, channels)))
