"""An ONNX graph while it is written."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


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

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.place = ""  # The module that nodes are named after.
        self._taken: dict[str, int] = {}

    def constant(self, array: np.ndarray, kind: str = "constant") -> str:
        """Adds a constant; returns its name."""
        name = self._name(kind)
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def sizes(self, sizes: Sequence[Any]) -> str:
        """Adds sizes of axes as a constant, -1 for the batch's; returns its name."""
        known = [size if is_known(size) else -1 for size in sizes]
        return self.constant(np.array(known, np.int64), "sizes")

    def add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds an operation; returns its result's name."""
        output = self._name(operator)
        self.nodes.append(Node(operator, list(inputs), output, attributes))
        return output

    def ordered(self, value: Value, order: Sequence[int], kind: str = "constant") -> str:
        """Returns the name of a value with its axes stored in another order.

        Args:
          value: the value; a scalar fits every order.
          order: JAX's axes in the order in which they shall be stored.
          kind: what a constant is named.
        """
        if isinstance(value, np.ndarray):
            return self.constant(value.transpose(order) if value.ndim else value, kind)
        if value.order == tuple(order):
            return value.name
        permutation = [value.order.index(axis) for axis in order]
        return self.add("Transpose", [value.name], perm=permutation)

    def full(self, value: Value, shape: Sequence[Any]) -> Value:
        """Returns the value with all axes at JAX's sizes.

        Raises:
          NotImplementedError: if it would have to be repeated for every image of the batch.
        """
        if tuple(value.shape) == tuple(shape):
            return value
        if any(
            not is_known(size) and size != had for size, had in zip(shape, value.shape, strict=True)
        ):
            raise NotImplementedError("it repeats a value for each image")
        if isinstance(value, np.ndarray):
            return np.broadcast_to(value, shape)
        # A size of 1 leaves the batch's axis as it is.
        wanted = [shape[axis] if is_known(shape[axis]) else 1 for axis in value.order]
        name = self.add("Expand", [value.name, self.sizes(wanted)])
        return Tensor(name, tuple(shape), value.order)

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


def model(
    graph: Graph, output: str, image_shape: Sequence[int], classes: int, producer: Mapping[str, str]
) -> bytes:
    """Returns the graph as an ONNX file, checked by the package onnx.

    Args:
      graph: the finished graph, which reads ``images``.
      output: name of its result, which the file calls ``logits``.
      image_shape: (height, width, channels).
      classes: number of logits.
      producer: ``producer_name`` and ``producer_version``.
    """
    import onnx
    from onnx import helper, numpy_helper

    def renamed(name: str) -> str:
        return "logits" if name == output else name

    nodes = [
        helper.make_node(
            node.operator,
            [renamed(name) for name in node.inputs],
            [renamed(node.output)],
            name=node.output,
            **node.attributes,
        )
        for node in graph.nodes
    ]
    used = {name for node in graph.nodes for name in node.inputs}
    onnx_graph = helper.make_graph(
        nodes,
        "kdjax",
        [
            helper.make_tensor_value_info(
                "images", onnx.TensorProto.UINT8, ["batch", *map(int, image_shape)]
            )
        ],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", classes])],
        [
            numpy_helper.from_array(array, name)
            for name, array in graph.constants.items()
            if name in used
        ],
    )
    made = helper.make_model(
        onnx_graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        **producer,
    )
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


# Old enough for the runtimes in use, and new enough for every operator that is written.
OPSET = 17
IR_VERSION = 8
