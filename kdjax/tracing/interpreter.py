"""Evaluates a jaxpr with values that hold their channels instead of their numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from kdjax.tracing import arithmetic, arrangement, calls, contraction
from kdjax.tracing.equation import Equation, Rule
from kdjax.tracing.record import Record
from kdjax.tracing.values import Value, constant

# Functions of each number that at most multiply it by a constant.
_PROPORTIONAL = "convert_element_type copy neg reduce_precision name optimization_barrier"
_UNARY = (
    "abs sign floor ceil round is_finite exp exp2 log expm1 log1p sqrt rsqrt cbrt sin cos tan tanh "
    "asin acos atan sinh cosh asinh acosh atanh logistic erf erfc erf_inv integer_pow square not "
    "lgamma digamma real imag population_count stop_gradient"
)
_ELEMENTWISE = "max min pow rem atan2 nextafter and or xor eq ne ge gt le lt clamp"
_REDUCTIONS = (
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin reduce_xor"
)
_WINDOWS = "reduce_window reduce_window_sum reduce_window_max reduce_window_min"
_ALONG = "cumsum cumprod cummax cummin cumlogsumexp sort"
_PICKING = (
    "gather scatter scatter-add dynamic_slice dynamic_update_slice top_k iota "
    "random_bits random_wrap random_unwrap random_seed random_fold_in threefry2x32"
)


def _table() -> dict[str, Rule]:
    rules: dict[str, Rule] = {
        "add": arithmetic.elementwise("sum"),
        "add_any": arithmetic.elementwise("sum"),
        "sub": arithmetic.elementwise("sum"),
        "mul": arithmetic.elementwise("product"),
        "div": arithmetic.elementwise("quotient"),
        "select_n": arithmetic.select,
        "transpose": arrangement.transpose,
        "rev": arrangement.reverse,
        "slice": arrangement.cut,
        "split": arrangement.split,
        "squeeze": arrangement.squeeze,
        "broadcast_in_dim": arrangement.broadcast,
        "concatenate": arrangement.concatenate,
        "stack": arrangement.stack,
        "pad": arrangement.pad,
        "reshape": arrangement.reshape,
        "conv_general_dilated": contraction.convolution,
        "dot_general": contraction.dot,
    }
    rules |= dict.fromkeys(_PROPORTIONAL.split(), arithmetic.unary(multiple=True))
    rules |= dict.fromkeys(_UNARY.split(), arithmetic.unary(multiple=False))
    rules |= dict.fromkeys(_ELEMENTWISE.split(), arithmetic.elementwise("function"))
    rules |= dict.fromkeys(_REDUCTIONS.split(), arithmetic.reduce)
    rules |= dict.fromkeys(_WINDOWS.split(), arithmetic.window)
    rules |= dict.fromkeys(_ALONG.split(), arithmetic.along_axis)
    rules |= dict.fromkeys(_PICKING.split(), arithmetic.opaque)
    return rules


# Primitive -> its rule. To support a new operation, write a function from an Equation to the values
# of its results, and add a line to _table.
RULES: dict[str, Rule] = _table()


def walk(record: Record, closed: core.ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
    """Returns the results of a function as values.

    Args:
      record: the record of the trace.
      closed: the function with its constants.
      inputs: a value for each argument.

    Raises:
      NotImplementedError: at an operation that has no rule; the message says what to do.
    """
    return _walk(record, closed.jaxpr, [constant(each) for each in closed.consts], inputs, "")


def _walk(
    record: Record,
    jaxpr: Any,
    constants: Sequence[Value],
    inputs: Sequence[Value],
    outer: str,
) -> list[Value]:
    found: dict[Any, Value] = dict(zip(jaxpr.constvars, constants, strict=True))
    found |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Value:
        return constant(np.asarray(atom.val)) if isinstance(atom, core.Literal) else found[atom]

    for equation in jaxpr.eqns:
        values = [read(atom) for atom in equation.invars]
        place = calls.module_path(equation, outer)
        inner = calls.called(equation)
        if inner is None:
            results = _apply(record, equation, equation.primitive.name, values, place)
        else:
            consts = [constant(each) for each in inner.consts]
            results = _walk(record, inner.jaxpr, consts, values, place)
        found.update(zip(equation.outvars, results, strict=False))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(
    record: Record, equation: Any, name: str, values: Sequence[Value], place: str
) -> list[Value]:
    if name not in RULES:
        raise NotImplementedError(_advice(name, place, "tracing does not know it"))
    shapes = [tuple(variable.aval.shape) for variable in equation.outvars]
    record.place = place
    try:
        results = RULES[name](Equation(record, values, equation.params, name, shapes))
    except ValueError as error:
        raise NotImplementedError(_advice(name, place, str(error))) from error
    for value, shape in zip(results, shapes, strict=False):
        sound = value.shape == shape and all(
            label.atoms.shape[axis] == shape[axis] for label in value.labels for axis in label.axes
        )
        if not sound:
            raise NotImplementedError(_advice(name, place, "tracing lost its channels"))
    return results


def _advice(name: str, place: str, reason: str) -> str:
    return (
        f"the operation {name!r} in {place or 'the network'} cannot be followed: {reason}. Write "
        "it with operations that are (loops over layers as Python loops), keep it out of the "
        "network, or add a rule for it to kdjax.tracing.interpreter.RULES"
    )
