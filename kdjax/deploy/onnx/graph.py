"""An ONNX graph while it is written."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# Names of the file's input and output.
INPUT, OUTPUT = "images", "logits"


class UnsupportedError(Exception):
    """A network has an operation that cannot be written with ONNX's, or not here."""


class Tensor(NamedTuple):
    """A value that the graph computes from the images.

    Convolutions of JAX have channels last, those of ONNX have them second. A tensor says in which
    order its axes are stored, so a permutation is written only where an operation needs it.

    Attributes:
      name: its name in the graph.
      shape: in JAX's order of axes. An axis along which all numbers are equal may have size 1 here
        and more in JAX, since ONNX repeats such axes by itself. The batch's size is symbolic.
      order: JAX's axes in the order in which they are stored.
    """

    name: str
    shape: tuple[Any, ...]
    order: tuple[int, ...]

    @property
    def stored_shape(self) -> tuple[Any, ...]:
        """The shape in the stored order."""
        return tuple(self.shape[axis] for axis in self.order)


# A constant is an array with JAX's order of axes; as in a Tensor, an axis may have size 1.
Value = Tensor | np.ndarray


def is_known(size: Any) -> bool:
    """Whether an axis's size is a number; the batch's is not."""
    return isinstance(size, int | np.integer)


@dataclasses.dataclass
class Node:
    """One operation of the graph: ONNX's operator, names of operands and result, attributes."""

    operator: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any]


class Graph:
    """Nodes in the order in which they run, and constants by name."""

    def __init__(self, image_shape: Sequence[int], batch: Any) -> None:
        """An empty graph that reads ``images``, ``[batch, *image_shape]`` uint8.

        Args:
          image_shape: (height, width, channels).
          batch: the symbolic size of the batch.
        """
        self.image_shape = tuple(image_shape)
        self.batch = batch
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.place = ""  # The module that nodes are named after.
        self._taken: dict[str, int] = {}
        self._known: dict[tuple[Any, ...], str] = {}

    def constant(self, array: np.ndarray, kind: str = "constant") -> str:
        """Adds a constant, unless an equal one is there; returns its name."""
        array = np.asarray(array, order="C")
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._known:
            self._known[key] = self._name(kind)
            self.constants[self._known[key]] = array
        return self._known[key]

    def integers(self, numbers: Sequence[int]) -> str:
        """Adds integers, such as axes, as a constant; returns its name."""
        return self.constant(np.array(numbers, np.int64), "integers")

    def reshaped(self, name: str, shape: Sequence[Any]) -> str:
        """Adds a change of shape; at most one size may be symbolic.

        Raises:
          UnsupportedError: if several are.
        """
        if sum(not is_known(size) for size in shape) > 1:
            raise UnsupportedError("its result has several axes of the batch's size")
        sizes = self.integers([size if is_known(size) else -1 for size in shape])
        return self.add("Reshape", [name, sizes])

    def add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds an operation; returns its result's name."""
        output = self._name(operator)
        self.nodes.append(Node(operator, list(inputs), output, attributes))
        return output

    def cast(self, name: str, dtype: Any) -> str:
        """Adds a change of dtype; returns its result's name."""
        from onnx import helper

        return self.add("Cast", [name], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def ordered(self, value: Value, order: Sequence[int], kind: str = "constant") -> str:
        """Returns the name of a value with its axes stored in another order.

        Args:
          value: the value; a scalar fits every order.
          order: JAX's axes in the order in which they shall be stored.
          kind: what a constant is named.
        """
        if isinstance(value, np.ndarray):
            return self.constant(value.transpose(order) if value.ndim else value, kind)
        if value.order in (tuple(order), ()):
            return value.name
        permutation = [value.order.index(axis) for axis in order]
        return self.add("Transpose", [value.name], perm=permutation)

    def full(self, value: Value, shape: Sequence[Any]) -> Value:
        """Returns the value with all axes at JAX's sizes.

        Raises:
          UnsupportedError: if an axis gets a size that is computed from the batch's.
        """
        if tuple(value.shape) == tuple(shape):
            return value
        if isinstance(value, np.ndarray) and all(map(is_known, shape)):
            return np.broadcast_to(value, shape)
        if isinstance(value, np.ndarray):
            value = Tensor(self.constant(value), value.shape, tuple(range(value.ndim)))
        # Axes that keep their size, such as the batch's, may be given as 1.
        wanted = [1 if shape[axis] == value.shape[axis] else shape[axis] for axis in value.order]
        sizes = self._sizes(wanted)
        return Tensor(self.add("Expand", [value.name, sizes]), tuple(shape), value.order)

    def _sizes(self, sizes: Sequence[Any]) -> str:
        """Adds sizes of axes, one of which may be the batch's; returns their name."""
        unknown = [size for size in sizes if not is_known(size)]
        if any(size != self.batch for size in unknown):
            raise UnsupportedError("it computes with the size of the batch")
        if not unknown:
            return self.integers(sizes)
        batch = self.add("Shape", [INPUT], start=0, end=1)
        parts = [self.integers([size]) if is_known(size) else batch for size in sizes]
        return self.add("Concat", parts, axis=0)

    def _name(self, kind: str) -> str:
        stem = f"{self.place}/{kind}" if self.place else kind
        number = self._taken[stem] = self._taken.get(stem, 0) + 1
        return stem if number == 1 else f"{stem}_{number}"


def common_order(values: Sequence[Value]) -> tuple[int, ...]:
    """The order of the largest tensor, so that the smaller ones are permuted."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    return max(tensors, key=lambda tensor: sum(size != 1 for size in tensor.shape)).order


def common_shape(values: Sequence[Value]) -> tuple[Any, ...]:
    """The shape of values that are combined number by number; scalars fit every shape."""
    shapes = [value.shape for value in values if value.shape]
    return tuple(
        next((size for size in sizes if size != 1), 1) for sizes in zip(*shapes, strict=True)
    )
