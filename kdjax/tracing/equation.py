"""One operation of a network, as the rules that follow channels through it see it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kdjax.tracing.record import Record
from kdjax.tracing.values import Value


class Equation(NamedTuple):
    """One operation, and the record that its rule writes into.

    Attributes:
      record: of the trace; it takes ties, pins and layers.
      values: the operands.
      params: of the primitive, as JAX names them.
      name: of the primitive.
      shapes: of the results.
    """

    record: Record
    values: Sequence[Value]
    params: Mapping[str, Any]
    name: str
    shapes: Sequence[tuple[int, ...]]


Rule = Callable[[Equation], list[Value]]  # One value for each result.
