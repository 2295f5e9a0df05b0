"""Living channels of a traced network, from widths or indices, and back."""

from collections.abc import Mapping, Sequence

import numpy as np

from kdjax.tracing.description import Traced


def alive_from_kept(traced: Traced, kept: Mapping[str, Sequence[int] | np.ndarray]) -> np.ndarray:
    """``[classes]`` bool: alive where a channel of theirs is kept.

    Args:
      traced: of the full network.
      kept: name of a width -> indices of the channels that stay; names left out keep all.

    Raises:
      ValueError: if a name or an index is unknown, a channel stays in one width and goes in one
        that is tied to it, or a channel goes that cannot.
    """
    alive = np.ones(traced.classes, bool)
    for name in kept:
        if name not in traced.widths:
            raise ValueError(f"kept names {name!r}: the widths are {', '.join(traced.widths)}")
        alive[traced.widths[name]] = False
    for name, indices in kept.items():
        alive[traced.widths[name][np.asarray(indices, int)]] = True
    alive[0] = True
    for name, indices in kept.items():
        stays = np.flatnonzero(alive[traced.widths[name]])
        if not np.array_equal(stays, np.unique(np.asarray(indices, int))):
            reason = traced.fixed.get(name) or "it is tied to other channels, or split in units"
            raise ValueError(
                f"kept[{name!r}] has {len(set(np.asarray(indices).tolist()))} channels, but "
                f"{len(stays)} stay: {reason}"
            )
    return alive


def widths(traced: Traced, alive: np.ndarray) -> dict[str, int]:
    """Name of each width -> its living channels, with ``alive [classes]``."""
    return {name: int(alive[classes].sum()) for name, classes in traced.widths.items()}


def units(traced: Traced, alive: np.ndarray) -> np.ndarray:
    """``[groups]`` living classes of each group."""
    return np.array([alive[group.start : group.stop].sum() for group in traced.groups], float)
