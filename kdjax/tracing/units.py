"""Turns the record of a trace into units and groups of channels."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from kdjax.tracing.description import Group, Layer, Traced
from kdjax.tracing.record import Found, Record
from kdjax.tracing.values import Path


def describe(
    record: Record,
    leaves: Mapping[Path, Sequence[np.ndarray]],
    declared: Mapping[Path, str],
    maps: Sequence[np.ndarray] = (),
    *,
    closed: bool,
) -> Traced:
    """The description of a traced network.

    Args:
      record: the record of the trace.
      leaves: path of each variable -> atoms of each axis.
      declared: path of a module -> name of the width that it writes.
      maps: atoms of the channels of each map that the network returns.
      closed: whether widths without a declared name cannot change.
    """
    names = [_name(layer, declared) for layer in record.layers]
    _tie_names(record, names)
    _pin_further_axes(record, leaves)
    roots = record.roots()
    reasons = _reasons(record, roots)
    numbering = _Numbering(record, leaves, roots, reasons)
    layers = tuple(
        Layer(
            path=found.kernel[1:-1] if found.kernel else tuple(found.module.split("/")),
            kernel=found.kernel,
            name=name,
            taps=found.taps,
            positions=found.positions,
            outputs=found.outputs,
            groups=found.groups,
            fan_in=found.fan_in,
            loses_whole_groups=found.loses_whole_groups,
            reads=numbering.units(found.reads),
            writes=numbering.units(found.writes),
            operation=found.operation,
        )
        for found, name in zip(record.layers, names, strict=True)
    )
    widths = {layer.name: layer.writes for layer in reversed(layers)}
    widths = {name: widths[name] for name in dict.fromkeys(names)}
    undeclared = set(names) - set(declared.values()) if closed else set()
    groups = _groups(record, numbering, widths, undeclared)
    return Traced(
        groups=groups,
        layers=layers,
        leaves=MappingProxyType(
            {path: tuple(numbering.units(axis) for axis in axes) for path, axes in leaves.items()}
        ),
        owners=MappingProxyType(
            {path: _owner(record, path) for path in leaves if path[0] == "params"}
        ),
        widths=MappingProxyType(widths),
        fixed=MappingProxyType(_fixed(record, names, numbering, groups)),
        maps=tuple(numbering.units(atoms) for atoms in maps),
    )


def _name(layer: Found, declared: Mapping[Path, str]) -> str:
    if layer.kernel is None:
        return f"{layer.module}.product"
    module = layer.kernel[1:-1]
    return declared.get(module, "/".join(module))


def _tie_names(record: Record, names: Sequence[str]) -> None:
    """Ties the channels of layers that write the same entry of the width vector."""
    first: dict[str, Found] = {}
    for layer, name in zip(record.layers, names, strict=True):
        other = first.setdefault(name, layer)
        if other is not layer and len(other.writes) == len(layer.writes):
            record.tie(other.writes, layer.writes, f"they share the width {name!r} with others")


def _pin_further_axes(record: Record, leaves: Mapping[Path, Sequence[np.ndarray]]) -> None:
    """Pins all but two channel axes of a variable: a cost is a product of two channel counts."""
    pinned = np.concatenate([atoms for atoms, _ in record.pins()] or [np.zeros(0, int)])
    for path, axes in leaves.items():
        if len(axes) < 3:
            continue
        loose = [axis for axis in axes if not np.isin(axis, pinned).all()]
        for axis in sorted(loose, key=len)[:-2]:
            record.pin(axis, f"{'/'.join(path[1:])} has more than two axes of channels")


def _reasons(record: Record, roots: np.ndarray) -> dict[int, str]:
    """Root of each unit that stays -> the reason; a reason with text replaces an empty one."""
    reasons: dict[int, str] = {int(roots[0]): ""}
    for atoms, why in record.pins():
        for root in np.unique(roots[atoms]):
            reasons[int(root)] = reasons.get(int(root)) or why
    return reasons


class _Numbering:
    """Numbers the units so that the units of a group are consecutive, in order of execution."""

    def __init__(
        self,
        record: Record,
        leaves: Mapping[Path, Sequence[np.ndarray]],
        roots: np.ndarray,
        reasons: Mapping[int, str],
    ) -> None:
        self.roots, self.reasons = roots, reasons
        written = np.concatenate([layer.writes for layer in record.layers] or [np.zeros(0, int)])
        found, first = np.unique(roots[written], return_index=True)
        order = found[np.argsort(first)]
        order = order[~np.isin(order, list(reasons))]
        profiles = self._profiles(leaves, order)
        members: dict[bytes, list[int]] = {}
        for root in order.tolist():
            members.setdefault(profiles[root], []).append(root)
        self.members = list(members.values())
        # Channels that no layer writes, such as those of padding with zeros, stay.
        self.number = np.zeros(roots.max(initial=0) + 1, np.int64)
        ordered = [root for group in self.members for root in group]
        self.number[ordered] = np.arange(1, len(ordered) + 1)

    def units(self, atoms: np.ndarray) -> np.ndarray:
        found = self.number[self.roots[atoms]]
        found.setflags(write=False)
        return found

    def _profiles(
        self, leaves: Mapping[Path, Sequence[np.ndarray]], order: np.ndarray
    ) -> dict[int, bytes]:
        """Root -> the axes of variables that hold it, and how often each axis holds it."""
        rows, columns = [], []
        axes = [axis for leaf in leaves.values() for axis in leaf]
        for column, axis in enumerate(axes):
            rows.append(self.roots[axis])
            columns.append(np.full(len(axis), column))
        pairs = np.stack([np.concatenate(rows), np.concatenate(columns)], axis=1)
        pairs, counts = np.unique(pairs, axis=0, return_counts=True)
        starts = np.searchsorted(pairs[:, 0], order, side="left")
        ends = np.searchsorted(pairs[:, 0], order, side="right")
        signature = np.stack([pairs[:, 1], counts], axis=1)
        return {
            int(root): signature[start:end].tobytes()
            for root, start, end in zip(order, starts, ends, strict=True)
        }


def _groups(
    record: Record,
    numbering: _Numbering,
    widths: Mapping[str, np.ndarray],
    undeclared: set[str],
) -> tuple[Group, ...]:
    first_scales: dict[int, list[Path]] = {}
    ends = np.cumsum([1] + [len(roots) for roots in numbering.members])

    def groups_of(units: np.ndarray) -> list[int]:
        return np.unique(np.searchsorted(ends, units[units > 0], side="right") - 1).tolist()

    for path, atoms in record.scales:
        for number in groups_of(numbering.units(atoms)):
            known = first_scales.setdefault(number, [])
            known += [] if path in known else [path]
    held: dict[int, str] = {}
    for atoms, place in record.uncontrolled():
        for number in groups_of(numbering.units(atoms)):
            held.setdefault(number, f"{place} reads them before a scale multiplies them")
    members: dict[int, list[str]] = {}
    for name, units in widths.items():
        for number in groups_of(units):
            members.setdefault(number, []).append(name)
    for number, names in members.items():
        # A layer may take its width from its input. It then belongs to the declared width that it
        # is tied to.
        if own := [name for name in names if name not in undeclared]:
            members[number] = own
        else:
            held[number] = f"the width of {names[0]} is not in the width vector"
    groups, uses = [], dict.fromkeys(widths, 0)
    for number in range(len(numbering.members)):
        own = members[number]
        uses[own[0]] += 1
        start, stop = int(ends[number]), int(ends[number + 1])
        unit_size = int((widths[own[0]] == start).sum())
        suffix = f":{uses[own[0]]}" if uses[own[0]] > 1 else ""
        scales = tuple(first_scales.get(number, ()))
        reason = held.get(number, "" if scales else "no scale multiplies them")
        groups.append(Group(own[0] + suffix, tuple(own), start, stop, unit_size, scales, reason))
    return tuple(groups)


def _owner(record: Record, path: Path) -> int:
    """Number of the first layer whose kernel is ``path``, or whose output it is combined with."""
    for number, layer in enumerate(record.layers):
        if layer.kernel == path:
            return number
    return record.owners.get(path, 0)


def _fixed(
    record: Record,
    names: Sequence[str],
    numbering: _Numbering,
    groups: Sequence[Group],
) -> dict[str, str]:
    """Name of each width with channels that cannot be thinned -> why."""
    fixed = {name: group.held for group in groups if group.held for name in group.members}
    for layer, name in zip(record.layers, names, strict=True):
        roots = numbering.roots[layer.writes]
        staying = roots[numbering.number[roots] == 0]
        reasons = {numbering.reasons.get(root, "") for root in np.unique(staying).tolist()} - {""}
        if len(staying):
            fixed.setdefault(name, "; ".join(sorted(reasons)) or "they are positions, not channels")
    return fixed
