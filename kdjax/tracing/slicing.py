"""Slices a network: which of its channels live, and the parts of its arrays that belong to them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kdjax.tracing.description import Traced


def alive_from_kept(traced: Traced, kept: Mapping[str, Sequence[int] | np.ndarray]) -> np.ndarray:
    """``[units]`` bool: true for each unit that has a kept channel.

    Args:
      traced: the description of the full network.
      kept: name of a width -> indices of the channels that stay, or ``[channels]`` bool; widths
        that are left out keep all channels.

    Raises:
      ValueError: if a name or an index is unknown, no channel of a width stays, a channel stays in
        one width but is removed in a tied width, or a channel is removed that must stay.
    """
    alive = np.ones(traced.units, bool)
    for name in kept:
        if name not in traced.widths:
            raise ValueError(f"kept names {name!r}: the widths are {', '.join(traced.widths)}")
        alive[traced.widths[name]] = False
    chosen = {name: _indices(name, given, traced) for name, given in kept.items()}
    for name, indices in chosen.items():
        alive[traced.widths[name][indices]] = True
    alive[0] = True
    for name, indices in chosen.items():
        stays = np.flatnonzero(alive[traced.widths[name]])
        if not np.array_equal(stays, indices):
            reason = traced.fixed.get(name) or "it is tied to other channels, or split in units"
            raise ValueError(
                f"kept[{name!r}] has {len(indices)} channels, but {len(stays)} stay: {reason}"
            )
    return alive


def _indices(name: str, given: Sequence[int] | np.ndarray, traced: Traced) -> np.ndarray:
    """The channels of a width that stay, each once, in order."""
    channels, values = len(traced.widths[name]), np.asarray(given)
    if values.dtype == bool:
        if values.shape != (channels,):
            raise ValueError(
                f"kept[{name!r}] has shape {values.shape}: expected one for each of {channels} "
                "channels"
            )
        values = np.flatnonzero(values)
    if not len(values):
        raise ValueError(f"kept[{name!r}] is empty: at least one of {channels} channels must stay")
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(
            f"kept[{name!r}] has dtype {values.dtype}: expected indices, whole numbers, or a mask "
            "of booleans"
        )
    found = np.unique(values)
    if found[0] < 0 or found[-1] >= channels:
        wrong = found[0] if found[0] < 0 else found[-1]
        raise ValueError(f"kept[{name!r}] names channel {wrong}: there are 0 to {channels - 1}")
    return found


def take(tree: Any, traced: Traced, alive: np.ndarray) -> Any:
    """The part of a network's variables that belongs to the living channels.

    Args:
      tree: the variables of the full network, or any tree that contains arrays of their names and
        shapes, such as an optimiser's state. Each such array is sliced like the variable.
      traced: the description of the full network.
      alive: ``[units]`` bool.

    Returns:
      A tree of the same kind with NumPy arrays.

    Raises:
      ValueError: if an array has the name of a variable but another shape.
    """
    slices = {path[1:]: axes for path, axes in traced.leaves.items()}

    def cut(path: tuple[Any, ...], leaf: Any) -> Any:
        names = tuple(str(getattr(key, "key", getattr(key, "name", ""))) for key in path)
        axes = next(
            (slices[names[start:]] for start in range(len(names)) if names[start:] in slices), None
        )
        if axes is None or np.ndim(leaf) == 0:
            return leaf
        if np.shape(leaf) != tuple(len(axis) for axis in axes):
            raise ValueError(
                f"{'/'.join(names)} has shape {np.shape(leaf)}: expected that of the variable, "
                f"{tuple(len(axis) for axis in axes)}"
            )
        return np.asarray(leaf)[np.ix_(*(alive[axis] for axis in axes))]

    return jax.tree_util.tree_map_with_path(cut, tree)
