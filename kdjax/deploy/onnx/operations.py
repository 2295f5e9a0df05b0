"""Which rule writes which operation of JAX with ONNX's operators.

A rule is a function from a :class:`kdjax.deploy.onnx.step.Step` to a value for each result. To
support a new operation, write a rule and add a line here.
"""

from collections.abc import Mapping

from kdjax.deploy.onnx.arithmetic import (
    cast,
    clamp,
    elementwise,
    integer_power,
    logical,
    maximum,
    same,
    select,
    square,
    with_constant,
)
from kdjax.deploy.onnx.arrangement import (
    broadcast,
    concatenate,
    cut,
    gather,
    pad,
    reshape,
    reverse,
    split,
    squeeze,
    stack,
    transpose,
)
from kdjax.deploy.onnx.contraction import convolution, dot, pool, reduction, total
from kdjax.deploy.onnx.step import Rule

# Operations that treat each number by itself; on constants they are computed in any shape.
ELEMENTWISE: Mapping[str, Rule] = {
    "abs": elementwise("Abs"),
    "add": elementwise("Add"),
    "add_any": elementwise("Add"),
    "and": logical("And"),
    "ceil": elementwise("Ceil"),
    "clamp": clamp,
    "convert_element_type": cast,
    "cos": elementwise("Cos"),
    "div": elementwise("Div"),
    "eq": elementwise("Equal"),
    "erf": elementwise("Erf"),
    "erfc": with_constant("Sub", 1.0, first=True, after="Erf"),
    "exp": elementwise("Exp"),
    "expm1": with_constant("Sub", 1.0, after="Exp"),
    "floor": elementwise("Floor"),
    "ge": elementwise("GreaterOrEqual"),
    "gt": elementwise("Greater"),
    "integer_pow": integer_power,
    "le": elementwise("LessOrEqual"),
    "log": elementwise("Log"),
    "logistic": elementwise("Sigmoid"),
    "lt": elementwise("Less"),
    "max": maximum,
    "min": elementwise("Min"),
    "mul": elementwise("Mul"),
    "ne": elementwise("Equal", "Not"),
    "neg": elementwise("Neg"),
    "not": logical("Not"),
    "or": logical("Or"),
    "pow": elementwise("Pow"),
    "rsqrt": elementwise("Sqrt", "Reciprocal"),
    "select_n": select,
    "sign": elementwise("Sign"),
    "sin": elementwise("Sin"),
    "sqrt": elementwise("Sqrt"),
    "square": square,
    "sub": elementwise("Sub"),
    "tanh": elementwise("Tanh"),
}


RULES: Mapping[str, Rule] = {
    **ELEMENTWISE,
    "broadcast_in_dim": broadcast,
    "concatenate": concatenate,
    "conv_general_dilated": convolution,
    "copy": same,
    "copy_p": same,
    "dot_general": dot,
    "gather": gather,
    "name": same,
    "optimization_barrier": same,
    "pad": pad,
    "reduce_max": reduction("ReduceMax"),
    "reduce_min": reduction("ReduceMin"),
    "reduce_prod": reduction("ReduceProd"),
    "reduce_sum": total,
    "reduce_window_max": pool("MaxPool"),
    "reduce_window_sum": pool("AveragePool"),
    "reshape": reshape,
    "rev": reverse,
    "slice": cut,
    "split": split,
    "squeeze": squeeze,
    "stack": stack,
    "stop_gradient": same,
    "transpose": transpose,
}
