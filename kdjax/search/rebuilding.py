"""Checks that a network built from new widths is the searched one without its dead channels."""

from collections.abc import Collection, Mapping

import numpy as np

from kdjax import tracing
from kdjax.models import Architecture
from kdjax.search.channels import Channels
from kdjax.search.extract import Kept, kept_channels, with_counts


def check_rebuilt(
    architecture: Architecture,
    channels: Channels,
    kept: Kept,
    widths: Mapping[str, int],
    image_shape: tuple[int, int, int],
) -> None:
    """Checks the network with these widths against the full network, channel by channel.

    Args:
      architecture: the architecture of both networks.
      channels: the layout of the full network.
      kept: name of a width -> indices of the channels that live.
      widths: the widths of the small network.
      image_shape: (height, width, channels) of the input.

    Raises:
      ValueError: if it is not the full network without some channels; the message names the
        variable that differs.
    """
    alive = tracing.alive_from_kept(channels.traced, kept)
    net = architecture.build(architecture.check(widths))
    try:
        tracing.check(channels.traced, alive, net, image_shape)
    except ValueError as error:
        reason = str(error)
    except (AssertionError, TypeError, ZeroDivisionError) as error:  # From flax or a user's module.
        reason = f"its modules cannot be built ({type(error).__name__}"
        reason += f": {error}" if str(error) else ""
        reason += "); the groups of a convolution, say, have to divide its channels"
    else:
        return
    raise ValueError(
        f"{architecture.name} with widths {dict(widths)} is not the full network without some "
        f"channels: {reason}"
    )


def check_equal_widths(
    architecture: Architecture,
    channels: Channels,
    image_shape: tuple[int, int, int],
    held: Collection[str] = (),
) -> None:
    """Checks a network whose groups all have about the same small width against the full network.

    A module may compare two widths and, for example, leave out a projection where they are equal.
    If a search makes them equal, the module changes. This check finds such a module before the
    search.

    Args:
      architecture: the architecture of the network.
      channels: the layout of the network.
      image_shape: (height, width, channels) of the input.
      held: names of groups that keep their width.

    Raises:
      ValueError: as :func:`check_rebuilt`; the message says what a module must not do.
    """
    # With one channel per group, the check could not tell channels apart, so each gets two or more.
    common = max(2, *(group.unit_size for group in channels.groups))
    counts = [
        group.channels
        if group.name in held
        else min(group.channels, max(1, common // group.unit_size) * group.unit_size)
        for group in channels.groups
    ]
    widths = with_counts(architecture.widths, channels, np.array(counts))
    units = len(channels.group_of)
    kept = kept_channels(channels, np.zeros(units), np.zeros(units, bool), widths)
    try:
        check_rebuilt(architecture, channels, kept, widths, image_shape)
    except ValueError as error:
        raise ValueError(
            f"a search may make widths equal, and then {error}: a module must not change "
            "its structure when two widths are equal"
        ) from None
