"""Blocks: the parts of a network that a user controls one by one."""

import dataclasses
import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from kdjax.models import Architecture
from kdjax.search.channels import Channels
from kdjax.tracing import Layer


@dataclasses.dataclass(frozen=True)
class Block:
    """A named part of the network, and how its structure is learnt.

    Attributes:
      name: name of the block.
      groups: names of its groups among :attr:`Channels.groups`.
      strength: strength of its penalty, relative to the other blocks.
      resource: what its channels are penalised for: ``flops``, ``params``, ``latency``, ``both``
        (FLOPs and parameters), or ``targets`` (every resource that has a target).
      target: share of the block's own cost to reach, in (0, 1]; 0 for none.
      frozen: whether its widths stay as they are.
    """

    name: str
    groups: tuple[str, ...]
    strength: float = 1.0
    resource: str = "targets"
    target: float = 0.0
    frozen: bool = False


def partition(
    architecture: Architecture,
    channels: Channels,
    *,
    names: Sequence[str] = (),
    patterns: Sequence[str] = (),
    strengths: Sequence[float] = (),
    resources: Sequence[str] = (),
    targets: Sequence[float] = (),
    frozen: Iterable[str] = (),
) -> tuple[Block, ...]:
    """Divides the groups of a network into blocks.

    Args:
      architecture: gives the blocks if ``names`` is empty. Groups before its first block belong to
        the first block, groups after its last block to the last one. A group is in the block whose
        name its own name begins with, as ``stage2.block1.conv1`` is in ``stage2``; groups without
        the name of a block are in the block of the group before.
      channels: the groups that can be thinned.
      names: names of the blocks.
      patterns: for each block, glob patterns of its groups, separated by spaces.
      strengths: one per block, or empty for the default of :class:`Block`.
      resources: likewise.
      targets: likewise.
      frozen: names of blocks whose widths do not change.

    Raises:
      ValueError: if a name or a pattern fits nothing, a group is in no block or in two, a sequence
        has the wrong length, or a block is frozen or has a strength or a resource of its own but no
        groups.
    """
    names = tuple(names) or architecture.blocks
    if not names:
        raise ValueError(
            f"search.blocks.names is (): {architecture.name} has no blocks of its own, so name at "
            "least one, with search.blocks.groups for its channel groups"
        )
    for field, values in (
        ("groups", patterns),
        ("strengths", strengths),
        ("resources", resources),
        ("targets", targets),
    ):
        if values and len(values) != len(names):
            raise ValueError(
                f"search.blocks.{field} has {len(values)} entries: expected one for each of the "
                f"{len(names)} blocks, {', '.join(names)}"
            )
    for name in frozen:
        check_block_name(name, names, "search.blocks.frozen")
    if patterns:
        members = _by_patterns(channels, dict(zip(names, patterns, strict=True)))
    else:
        members = _by_position(channels, names)
    blocks = tuple(
        Block(
            name,
            members[name],
            strengths[number] if strengths else 1.0,
            resources[number] if resources else "targets",
            targets[number] if targets else 0.0,
            name in set(frozen),
        )
        for number, name in enumerate(names)
    )
    for block in blocks:
        if not block.groups:
            _check_plain(block)
    return blocks


def _check_plain(block: Block) -> None:
    """Raises ValueError if a block without groups is frozen, or has a strength or a resource."""
    settings = {
        "frozen": block.frozen,
        "strengths": block.strength != 1.0,
        "resources": block.resource != "targets",
    }
    if ignored := [field for field, given in settings.items() if given]:
        raise ValueError(
            f"search.blocks.{ignored[0]} is set for {block.name!r}, which has no groups to thin: "
            f"groups belong to a block whose name they begin with, such as {block.name}.conv1, or "
            "search.blocks.names and search.blocks.groups say which block has which"
        )


def check_block_name(name: str, names: Sequence[str], field: str) -> None:
    """Raises ValueError unless ``name`` is among ``names``.

    Args:
      name: the name to check.
      names: names of all blocks.
      field: field of the configuration, for the message.
    """
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{field} names {name!r}{hint}: the blocks are {', '.join(names)}")


def layers_of(block: Block, blocks: Sequence[Block], channels: Channels) -> tuple[int, ...]:
    """The numbers of the layers whose cost counts in a block.

    A layer counts in the block of the group that it writes. If it writes no group that can be
    thinned, it counts in the block of the last group that it reads; if it reads none either, in the
    last block.

    Args:
      block: the block.
      blocks: the partition of the groups.
      channels: the layout of the network.
    """
    owner = {name: each.name for each in blocks for name in each.groups}

    def block_of(layer: Layer) -> str:
        for units, place in ((layer.writes, 0), (layer.reads, -1)):
            found = [group.name for group in channels.groups if group.has(units).any()]
            if found:
                return owner[found[place]]
        return blocks[-1].name

    return tuple(
        number
        for number, layer in enumerate(channels.traced.layers)
        if block_of(layer) == block.name
    )


def _by_position(channels: Channels, names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    members: dict[str, list[str]] = {name: [] for name in names}
    current = names[0]
    for group in channels.groups:
        own = [member.split(".")[0] for member in group.members]
        current = next((name for name in own if name in members), current)
        members[current].append(group.name)
    return {name: tuple(groups) for name, groups in members.items()}


def _by_patterns(channels: Channels, patterns: Mapping[str, str]) -> Mapping[str, tuple[str, ...]]:
    known = [member for group in channels.groups for member in group.members]
    taken: dict[str, str] = {}
    members: dict[str, list[str]] = {name: [] for name in patterns}
    for name, text in patterns.items():
        for pattern in text.split():
            if not fnmatch.filter(known, pattern):
                raise ValueError(
                    f"search.blocks.groups for {name!r} has {pattern!r}, which matches no group: "
                    f"the groups are {', '.join(known)}"
                )
        for group in channels.groups:
            fits = any(
                fnmatch.fnmatchcase(member, pattern)
                for member in group.members
                for pattern in text.split()
            )
            if not fits:
                continue
            if group.name in taken:
                tied = f" (tied: {', '.join(group.members)})" if len(group.members) > 1 else ""
                raise ValueError(
                    f"search.blocks.groups puts {group.name!r}{tied} in {taken[group.name]!r} and "
                    f"in {name!r}: a group belongs to one block"
                )
            taken[group.name] = name
            members[name].append(group.name)
    if left := [group.name for group in channels.groups if group.name not in taken]:
        raise ValueError(f"search.blocks.groups leaves out {', '.join(left)}: add them to a block")
    return {name: tuple(groups) for name, groups in members.items()}
