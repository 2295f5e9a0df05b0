"""One operation of a network, in the form that the rules for writing it take."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdjax.deploy.onnx.graph import Graph, Tensor, UnsupportedError, Value


class Step(NamedTuple):
    """One operation that is being written.

    Attributes:
      graph: where it is written.
      operands: its operands.
      shapes: JAX's shapes of the operands; the batch's size is symbolic.
      dtypes: the dtypes of the operands.
      params: parameters of the primitive, with JAX's names.
      results: JAX's shape and dtype of each result.
    """

    graph: Graph
    operands: Sequence[Value]
    shapes: Sequence[tuple[Any, ...]]
    dtypes: Sequence[np.dtype]
    params: Mapping[str, Any]
    results: Sequence[Any]

    def whole(self) -> Tensor:
        """Returns the first operand with all its axes at JAX's sizes.

        Raises:
          UnsupportedError: if it is constant, while another operand depends on the images.
        """
        value = self.graph.full(self.operands[0], self.shapes[0])
        if isinstance(value, np.ndarray):
            raise UnsupportedError("its first operand is constant")
        return value


Rule = Callable[[Step], Sequence[Value]]
