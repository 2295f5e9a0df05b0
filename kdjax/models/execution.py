"""Strategies for running the students of an ensemble, all with the same parameters.

Every strategy gives the same numbers up to rounding, as long as they are finite. 0 times NaN is
NaN, so NaN in one student reaches all students that run as one network with it. Which strategy is
fastest depends on the device: a packed network runs few wide convolutions instead of many thin
ones, and a scanned network compiles a block once for all blocks of its shape.
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
    """A strategy for running the students.

    Attributes:
      pack: ``none``: students run one after another; ``pairs``: the pivot by itself, then the
        widest of the others with the thinnest, the second widest with the second thinnest, and so
        on, which wastes the fewest multiply-adds; ``all``: all students as one network.
      scan: run equal blocks as a loop over their stacked parameters.
      lanes: pad the channels of every map to a multiple of this, with zeros.
      remat: store only the inputs of blocks, and compute the blocks again in the backward pass.
    """

    pack: str = "none"
    scan: bool = False
    lanes: int = 1
    remat: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether each module runs by itself, without packing, scanning or the like."""
        return self == PLAIN

    def groups(self, students: int) -> tuple[tuple[int, ...], ...]:
        """The groups of students that run together; each student is given by its place, from 0."""
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
    """The settings that all layers of one pass share.

    Attributes:
      train: whether to normalise by batch statistics; else by running statistics.
      mask: ``[batch]`` bool, False for padding; or None.
      dtype: the dtype of the computation.
      axis_name: the mapped axis to share batch statistics over, if any.
    """

    train: bool
    mask: chex.Array | None
    dtype: chex.ArrayDType
    axis_name: str | None


class Branches(NamedTuple):
    """What the branches of several students return.

    Attributes:
      outputs: the outputs of each student.
      statistics: each student's running statistics after this batch.
      joint: for each block one map with the channels of all students side by side, in their order,
        as they were computed; channels after the last student's are 0. None for a block that has
        no such map; empty if no block has one.
    """

    outputs: "list[Outputs]"
    statistics: list[dict[str, Any]]
    joint: tuple[chex.Array | None, ...] = ()


def of_all(runs: Mapping[tuple[int, ...], Branches]) -> Branches:
    """The branches of all students, from those of each group that ran together.

    Args:
      runs: places of a group's students -> their branches.
    """
    order = sorted((place, group, own) for group in runs for own, place in enumerate(group))
    return Branches(
        [runs[group].outputs[own] for _, group, own in order],
        [runs[group].statistics[own] for _, group, own in order],
        next(iter(runs.values())).joint if len(runs) == 1 else (),
    )


def execution_named(name: str, *, lanes: int = 1, remat: bool = False) -> Execution:
    """The strategy with a name in :data:`EXECUTIONS`.

    Args:
      name: one of :data:`EXECUTIONS`.
      lanes: the channels of every map are padded to a multiple of this.
      remat: whether blocks are computed again in the backward pass instead of being stored.

    Raises:
      ValueError: if there is no such strategy.
    """
    if name not in EXECUTIONS:
        raise ValueError(f"execution is {name!r}: one of {', '.join(EXECUTIONS)}")
    pack = {"packed": "pairs", "merged": "all"}.get(name.split("_")[0], "none")
    return Execution(pack, name.endswith("scanned"), lanes, remat)
