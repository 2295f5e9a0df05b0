"""How the students of an ensemble run: strategies over the same parameters.

Every strategy gives the same numbers up to rounding, as long as they are finite: 0 times NaN is
NaN, so a fault of one student reaches all who run as one network with it. Which is fastest depends
on the device: a packed network runs few wide convolutions in place of many thin ones, a scanned one
compiles a block once for all blocks of its shape.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import chex

if TYPE_CHECKING:
    from kdjax.models.architecture import Outputs

EXECUTIONS = (
    "sequential",
    "scanned",
    "packed",
    "packed_scanned",
    "merged",
    "merged_scanned",
)


@dataclasses.dataclass(frozen=True)
class Execution:
    """A strategy.

    Attributes:
      pack: ``none``: students run one after another; ``pairs``: the pivot by itself, then the
        widest of the others together with the thinnest, and so on inwards, which wastes the fewest
        multiply-adds; ``all``: all students as one network.
      scan: run equal blocks as a loop over their stacked parameters.
      lanes: pad the channels of every map to a multiple of this, with zeros.
      remat: store the inputs of blocks only, and compute blocks again in the backward pass.
    """

    pack: str = "none"
    scan: bool = False
    lanes: int = 1
    remat: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the modules run as they are written."""
        return self == PLAIN

    def groups(self, students: int) -> tuple[tuple[int, ...], ...]:
        """Which students run together, each by its place, from 0."""
        if self.pack == "all":
            return (tuple(range(students)),)
        if self.pack == "none":
            return tuple((place,) for place in range(students))
        others = list(range(1, students))
        pairs = []
        while others:
            first = others.pop(0)
            pairs.append((first, others.pop()) if others else (first,))
        return ((0,), *pairs)


PLAIN = Execution()


class Mode(NamedTuple):
    """What every layer of one pass has in common.

    Attributes:
      train: whether batch statistics normalise, or running ones.
      mask: ``[batch]`` bool, False for padding; or None.
      dtype: of the computation.
      axis_name: the mapped axis to share batch statistics over, if any.
    """

    train: bool
    mask: chex.Array | None
    dtype: chex.ArrayDType
    axis_name: str | None


class Branches(NamedTuple):
    """What the branches of several students return.

    Attributes:
      outputs: of each student.
      statistics: each student's running statistics after this batch.
      joint: for each block one map with the channels of all students side by side, in their order,
        as they were computed; channels after the last student's are 0. None for a block without
        one; empty where no block has one.
    """

    outputs: "list[Outputs]"
    statistics: list[dict[str, Any]]
    joint: tuple[chex.Array | None, ...] = ()


def of_all(runs: Mapping[tuple[int, ...], Branches]) -> Branches:
    """The branches of all students, from those of each group that ran together.

    Args:
      runs: by the places of a group's students.
    """
    order = sorted((place, group, own) for group in runs for own, place in enumerate(group))
    return Branches(
        [runs[group].outputs[own] for _, group, own in order],
        [runs[group].statistics[own] for _, group, own in order],
        next(iter(runs.values())).joint if len(runs) == 1 else (),
    )


def named(name: str, *, lanes: int = 1, remat: bool = False) -> Execution:
    """The strategy with a name in :data:`EXECUTIONS`.

    Args:
      name: one of :data:`EXECUTIONS`.
      lanes: channels of packed or scanned maps are padded to a multiple of this.
      remat: whether blocks are computed again in the backward pass instead of being stored.

    Raises:
      ValueError: if there is none.
    """
    if name not in EXECUTIONS:
        raise ValueError(f"execution is {name!r}: one of {', '.join(EXECUTIONS)}")
    pack = {"packed": "pairs", "merged": "all"}.get(name.split("_")[0], "none")
    return Execution(pack, name.endswith("scanned"), lanes, remat)
