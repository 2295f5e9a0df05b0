"""Traces a small and a full network and checks that the small one only lacks some channels."""

import flax.linen as nn
import numpy as np

from kdjax.tracing.description import Traced
from kdjax.tracing.record import Grouping
from kdjax.tracing.trace import trace
from kdjax.tracing.values import Path


def check(
    traced: Traced, alive: np.ndarray, net: nn.Module, image_shape: tuple[int, int, int]
) -> Traced:
    """Traces a thinned network and compares it with the full one, channel by channel.

    The structure of a module may depend on its widths: a shortcut may appear where two widths
    differ, or a padding or a split may be computed from them. So the sliced variables have to fit
    the small network. Where two axes of the full network hold the same channels, the same axes of
    the small network have to hold the same channels too.

    Args:
      traced: the description of the full network.
      alive: ``[units]`` bool.
      net: the small network.
      image_shape: (height, width, channels) of the input.

    Returns:
      The description of the small network.

    Raises:
      ValueError: if it is not the full network without some channels; the message names the
        variable that differs.
    """
    # With few channels left, the number of groups no longer says how a convolution is thinned.
    grouping: dict[Path, Grouping] = {
        layer.kernel: "whole"
        if layer.loses_whole_groups
        else "across"
        if layer.groups > 1
        else "none"
        for layer in traced.layers
        if layer.kernel
    }
    small = trace(net, image_shape, grouping=grouping)
    _same_variables(traced, small)
    towards: dict[int, tuple[int, Path]] = {}
    back: dict[int, tuple[int, Path]] = {}
    for path, axes in traced.leaves.items():
        for number, (own, full) in enumerate(zip(small.leaves[path], axes, strict=True)):
            left = full[alive[full]]
            if len(own) != len(left):
                raise ValueError(
                    f"{'/'.join(path)} has {len(own)} channels on axis {number} in the small "
                    f"network: {len(left)} of the full one's {len(full)} live"
                )
            _match(back, own, left, path)
            # A single channel cannot be confused with another one.
            if len(own) > 1:
                _match(towards, left, own, path)
    return small


def _same_variables(traced: Traced, small: Traced) -> None:
    for first, second, text in (
        (traced.leaves, small.leaves, "only the full network has"),
        (small.leaves, traced.leaves, "only the small network has"),
    ):
        if missing := [path for path in first if path not in second]:
            raise ValueError(
                f"{text} {'/'.join(missing[0])}: the module is another one at these widths, and "
                "the full network's variables do not fit it"
            )


def _match(
    seen: dict[int, tuple[int, Path]], keys: np.ndarray, values: np.ndarray, path: Path
) -> None:
    """Checks that each key always comes with the same value; 0 (channels that stay) is skipped."""
    for key, value in zip(keys.tolist(), values.tolist(), strict=True):
        if key == 0:
            continue
        known, where = seen.setdefault(key, (value, path))
        if known != value:
            raise ValueError(
                f"{'/'.join(path)} and {'/'.join(where)} do not hold the same channels in both "
                "networks: the module cuts, pads or joins them by its widths in another way"
            )
