"""One operation of a network, in the form that the rules for following channels take."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kdjax.tracing.record import Record
from kdjax.tracing.values import Value


class Equation(NamedTuple):
    """One operation, and the record that its rule writes into.

    Attributes:
      record: the record of the trace, for ties, pins and layers.
      values: the operands.
      params: parameters of the primitive, with JAX's names.
      name: name of the primitive.
      shapes: shapes of the results.
    """

    record: Record
    values: Sequence[Value]
    params: Mapping[str, Any]
    name: str
    shapes: Sequence[tuple[int, ...]]


Rule = Callable[[Equation], list[Value]]  # It returns one value for each result.
