"""Simplifies a graph: folds constants into layers, and writes known pairs as one operation."""

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from kdjax.deploy.onnx.graph import Graph, Node


def fuse(graph: Graph, output: str) -> str:
    """Replaces pairs of operations by one, in place, as long as there are such pairs.

    - A convolution times a constant for each channel, or plus one, becomes a convolution with
      another kernel or bias. Batch normalisation is such a product and sum. A dense layer likewise.
    - A product divided by its constant becomes what it was: a sum, which is written as a mean times
      the number of terms, becomes a mean.
    - ReLU, then a minimum, becomes ``Clip``.

    Args:
      graph: the graph.
      output: name of its result.

    Returns:
      The name that the result has now.
    """
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    uses[output] += 1
    producers: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        node.inputs = [renamed.get(name, name) for name in node.inputs]
        producers[node.output] = node
        for name in node.inputs:
            first = producers.get(name)
            # If anything else reads the first one's result, both stay.
            joined = _join(graph, first, node) if first and uses[name] == 1 else None
            if joined is not None:
                renamed[node.output] = joined
                uses[joined] += uses[node.output] - 1
                del producers[node.output]
                if joined != name:
                    del producers[name]
                break
    graph.nodes = list(producers.values())
    return renamed.get(output, output)


def _join(graph: Graph, first: Node, second: Node) -> str | None:
    """Gives the first operation the work of both, if there is a way; returns the result's name."""
    rule = _PAIRS.get((first.operator, second.operator))
    others = [name for name in second.inputs if name != first.output]
    if rule is None or len(others) != 1 or others[0] not in graph.constants:
        return None
    constant = graph.constants[others[0]]
    if second.operator in ("Div", "Sub") and second.inputs[0] != first.output:
        return None
    graph.place = first.output.rpartition("/")[0]  # New constants are named after its module.
    return rule(graph, first, constant)


def _scale(graph: Graph, layer: Node, factor: np.ndarray) -> str | None:
    """A layer times a constant."""
    kernel = graph.constants.get(layer.inputs[1])
    if kernel is None or not _per_channel(factor, kernel):
        return None
    # The kernel's first axis is that of the outputs.
    by_output = factor.astype(np.float64).reshape(-1, *[1] * (kernel.ndim - 1))
    layer.inputs[1] = graph.constant((kernel * by_output).astype(kernel.dtype), "kernel")
    if len(layer.inputs) > 2:
        bias = graph.constants[layer.inputs[2]] * factor.reshape(-1)
        layer.inputs[2] = graph.constant(bias, "bias")
    return layer.output


def _shift(graph: Graph, layer: Node, offset: np.ndarray) -> str | None:
    """A layer plus a constant."""
    kernel = graph.constants.get(layer.inputs[1])
    if kernel is None or not _per_channel(offset, kernel):
        return None
    bias = np.broadcast_to(offset.reshape(-1), kernel.shape[:1])
    if len(layer.inputs) > 2:
        bias = graph.constants[layer.inputs.pop()] + bias
    layer.inputs.append(graph.constant(bias, "bias"))
    return layer.output


def _shift_back(graph: Graph, layer: Node, offset: np.ndarray) -> str | None:
    """A layer minus a constant."""
    return _shift(graph, layer, -offset)


def _per_channel(constant: np.ndarray, kernel: np.ndarray) -> bool:
    """Whether there is one number for each output of a layer, or one for all."""
    return constant.size == 1 or (
        constant.ndim > 1 and constant.shape[1] == constant.size == kernel.shape[0]
    )


def _cancel(graph: Graph, product: Node, divisor: np.ndarray) -> str | None:
    """A product divided by its own constant."""
    value, factor = product.inputs
    known = graph.constants.get(factor)
    same = known is not None and known.size == divisor.size == 1 and known.item() == divisor.item()
    return value if same else None


def _clip(graph: Graph, relu: Node, bound: np.ndarray) -> str | None:
    """The minimum of a ReLU and a constant."""
    if bound.size > 1:
        return None
    bounds = [np.zeros((), bound.dtype), bound.reshape(())]
    relu.operator = "Clip"
    relu.inputs += [graph.constant(each) for each in bounds]
    return relu.output


# (first operator, second operator) -> a function from the graph, the first operation and the
# second one's constant to the name of the result, or to None if they cannot be one.
_PAIRS: Mapping[tuple[str, str], Callable[[Graph, Node, np.ndarray], str | None]] = {
    ("Conv", "Mul"): _scale,
    ("Conv", "Add"): _shift,
    ("Conv", "Sub"): _shift_back,
    ("Gemm", "Mul"): _scale,
    ("Gemm", "Add"): _shift,
    ("Gemm", "Sub"): _shift_back,
    ("Mul", "Div"): _cancel,
    ("Relu", "Min"): _clip,
}
