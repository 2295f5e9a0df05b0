"""From a function of images to an ONNX file: its operations one by one, constants computed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from kdjax import tracing
from kdjax.deploy.onnx.fuse import fuse
from kdjax.deploy.onnx.graph import INPUT, Graph, Tensor, UnsupportedError, Value, is_known
from kdjax.deploy.onnx.operations import ELEMENTWISE, RULES
from kdjax.deploy.onnx.serialize import serialize
from kdjax.deploy.onnx.step import Step

# Those that runtimes commonly compute with.
_DTYPES = ("bool", "uint8", "int32", "int64", "float16", "float32", "float64")


def translate(
    function: Callable[[jax.Array], jax.Array],
    images: jax.ShapeDtypeStruct,
    producer: Mapping[str, str],
) -> bytes:
    """Returns a function of images as an ONNX file of operator set 17.

    The file's input is ``images``, ``[batch, height, width, channels]`` uint8, its output
    ``logits``, ``[batch, classes]`` float32; the batch may have any size. Convolutions have
    ONNX's order of axes and contain the batch normalisation that follows them.

    Args:
      function: from images to logits, with all parameters inside.
      images: ``[batch, height, width, channels]`` uint8; the batch's size is symbolic.
      producer: ``producer_name`` and ``producer_version`` of the file.

    Raises:
      UnsupportedError: at an operation that has no rule; the message names it and its module.
      jax.errors.InconclusiveDimensionOperation: if the function computes with the batch's size.
    """
    closed = jax.make_jaxpr(function)(images)
    (result,) = closed.out_avals
    batch, *image_shape = images.shape
    if result.dtype != jnp.float32 or result.ndim != 2 or result.shape[0] != batch:
        raise UnsupportedError(
            f"logits of shape {result.shape} and dtype {result.dtype}: expected [batch, classes] "
            "float32"
        )
    graph = Graph(image_shape, batch)
    given = Tensor(INPUT, tuple(images.shape), (0, 1, 2, 3))
    # What the logits do not need is left out, so it needs no rule.
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True], instantiate=True)
    constants = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    used = [np.asarray(constants[variable]) for variable in jaxpr.constvars]
    (logits,) = _walk(graph, jaxpr, used, [given], "")
    graph.place = ""
    logits = graph.full(logits, result.shape)
    output = fuse(graph, graph.ordered(logits, (0, 1)))
    return serialize(graph, output, result.shape[1], producer)


def _walk(
    graph: Graph, jaxpr: Any, constants: Sequence[Value], inputs: Sequence[Value], outer: str
) -> list[Value]:
    """Writes a function; returns its results."""
    found: dict[Any, Value] = dict(zip(jaxpr.constvars, constants, strict=True))
    found |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Value:
        if isinstance(atom, core.Literal):
            aval: Any = atom.aval
            return np.asarray(atom.val, aval.dtype)
        return found[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        place = tracing.module_path(equation, outer)
        inner = tracing.called(equation)
        if inner is not None:
            consts = [np.asarray(each) for each in inner.consts]
            results: Sequence[Value] = _walk(graph, inner.jaxpr, consts, operands, place)
        else:
            graph.place = place
            results = _written(graph, equation, operands, place)
        found.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _written(graph: Graph, equation: Any, operands: Sequence[Value], place: str) -> Sequence[Value]:
    """Returns the results of one operation: computed if it has only constants, else written."""
    name = equation.primitive.name
    try:
        if name == "dim_as_value":
            raise UnsupportedError("it computes with the size of the batch")
        computed = _computed(equation, operands)
        if computed is not None:
            return computed
        if name not in RULES:
            raise UnsupportedError("there is no rule for it")
        shapes = [tuple(atom.aval.shape) for atom in equation.invars]
        results = [variable.aval for variable in equation.outvars]
        for result in results:
            if result.dtype not in _DTYPES:
                raise UnsupportedError(f"its result is {result.dtype}")
        dtypes = [atom.aval.dtype for atom in equation.invars]
        return RULES[name](Step(graph, operands, shapes, dtypes, equation.params, results))
    # JAX raises the other one where it cannot compute with a symbolic size.
    except (UnsupportedError, NotImplementedError) as error:
        where = f" in {place}" if place else ""
        raise UnsupportedError(f"the operation {name!r}{where}: {error}") from error


def _computed(equation: Any, operands: Sequence[Value]) -> Sequence[Value] | None:
    """The results of an operation whose operands are all constants of known size."""
    arrays = [operand for operand in operands if isinstance(operand, np.ndarray)]
    if len(arrays) < len(operands):
        return None
    for variable in equation.outvars:
        if jax.dtypes.issubdtype(variable.aval.dtype, jax.dtypes.extended):
            raise UnsupportedError(f"its result is {variable.aval.dtype}")
    shapes = [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]
    if all(is_known(size) for shape in shapes for size in shape):
        arrays = [
            np.broadcast_to(array, atom.aval.shape)
            for array, atom in zip(arrays, equation.invars, strict=True)
        ]
    elif equation.primitive.name in ELEMENTWISE:
        arrays = list(np.broadcast_arrays(*arrays))
    else:
        return None
    results = equation.primitive.bind(*map(jnp.asarray, arrays), **equation.params)
    found = results if equation.primitive.multiple_results else [results]
    return [np.asarray(result) for result in found]
