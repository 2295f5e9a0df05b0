"""Networks as tables of layers, for tests with numbers that are computed by hand."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kdjax import tracing
from kdjax.search import Channels

Path = tuple[str, ...]


class Layer(NamedTuple):
    """A convolution or dense layer from one group of channels to another.

    None stands for the image (``in_group``) or the classes (``out_group``). With ``norm`` a
    normalisation follows.
    """

    path: Path
    in_group: str | None
    out_group: str | None
    in_channels: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    out_size: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = False
    norm: bool = False


def channels(layers: Sequence[Layer], ties: Sequence[Sequence[str]] = ()) -> Channels:
    """Returns the layout of the scales in a table's network."""
    description = traced(layers, ties)
    names = dict.fromkeys(layer.out_group for layer in layers if layer.out_group)
    return Channels.in_network(description, tuple(names))


def writers(group: tracing.Group) -> tuple[Path, ...]:
    """Returns the layers whose normalisations decide about a group."""
    return tuple(path[1:-2] for path in group.scales)


def traced(layers: Sequence[Layer], ties: Sequence[Sequence[str]] = ()) -> tracing.Traced:
    """Returns what tracing would find in a network of these layers; additions tie some groups."""
    leader = {member: tie[0] for tie in ties for member in tie}
    writing: dict[str, list[Layer]] = {}
    sizes: dict[str, int] = {}
    for layer in layers:
        if layer.out_group:
            name = leader.get(layer.out_group, layer.out_group)
            writing.setdefault(name, []).append(layer)
            inputs = layer.in_channels // layer.groups if layer.groups > 1 else 1
            sizes[name] = max(sizes.get(name, 1), inputs)
    groups, units, start = [], {None: None}, 1
    for name, own in writing.items():
        members = tuple(dict.fromkeys(str(layer.out_group) for layer in own))
        count = own[0].out_channels // sizes[name]
        bare = [layer.path for layer in own if not layer.norm]
        scales = tuple(("params", *layer.path, "norm", "scale") for layer in own)
        held = f"{bare[0]} has no scales" if bare else ""
        group = tracing.Group(name, members, start, start + count, sizes[name], scales, held)
        groups.append(group)
        units |= dict.fromkeys(members, np.repeat(np.arange(start, group.stop), sizes[name]))
        start = group.stop

    def side(group: str | None, size: int) -> np.ndarray:
        return np.zeros(size, int) if group is None else units[group]

    found, leaves, owners = [], {}, {}
    for number, layer in enumerate(layers):
        reads = side(layer.in_group, layer.in_channels)
        writes = side(layer.out_group, layer.out_channels)
        fan_in, grouped = layer.in_channels // layer.groups, layer.groups > 1
        base = ("params", *layer.path)
        kernel = (*base, *(["conv"] if layer.norm else []), "kernel")
        own = {kernel: (*(np.zeros(n, int) for n in layer.kernel), reads, writes)}
        if grouped:
            own[kernel] = (*own[kernel][:2], np.zeros(fan_in, int), writes)
        if layer.bias:
            own[(*kernel[:-1], "bias")] = (writes,)
        if layer.norm:
            own |= {(*base, "norm", name): (writes,) for name in ("scale", "bias")}
        leaves |= own
        owners |= dict.fromkeys(own, number)
        positions = int(np.prod(layer.out_size))
        found.append(
            tracing.Layer(
                path=layer.path,
                kernel=kernel,
                name=layer.out_group or "/".join(layer.path),
                taps=int(np.prod(layer.kernel)),
                positions=positions,
                outputs=positions,
                groups=layer.groups,
                fan_in=fan_in,
                loses_whole_groups=grouped,
                reads=reads,
                writes=writes,
            )
        )
    widths = {name: own for name, own in units.items() if name is not None}
    fixed = {name: group.held for group in groups if group.held for name in group.members}
    return tracing.Traced(tuple(groups), tuple(found), leaves, owners, widths, fixed)
