"""Network names. A new family adds its file and a line here."""

import difflib
import functools
from collections.abc import Callable

from kdjax.models import (
    densenet,
    efficientnet,
    imagenet_resnet,
    mobilenet_v2,
    resnet,
    vgg,
    wide_resnet,
)
from kdjax.models.architecture import Architecture


def _families() -> dict[str, Callable[[int], Architecture]]:
    table: dict[str, Callable[[int], Architecture]] = {}
    for depth in resnet.DEPTHS:
        name = f"resnet{depth}"
        table[name] = functools.partial(resnet.create, name, depth)
    for name in mobilenet_v2.EARLY_STRIDES:
        table[name] = functools.partial(mobilenet_v2.create, name)
    for name in vgg.DENSE_LAYERS:
        table[name] = functools.partial(vgg.create, name)
    for family in (wide_resnet, densenet, imagenet_resnet, efficientnet):
        for name in family.VARIANTS:
            table[name] = functools.partial(family.create, name)
    return table


_NETWORKS = _families()


def names() -> tuple[str, ...]:
    """The known network names."""
    return tuple(_NETWORKS)


def create(name: str, num_classes: int, *, width: float = 1.0) -> Architecture:
    """The architecture of that name.

    >>> create("resnet20", num_classes=10).widths["stage3"]
    64

    Args:
      name: one of :func:`names`.
      num_classes: at least 2.
      width: multiplies every group's full width, the stem's included, and rounds as the family
        rounds (most: floored, at least 1).

    Raises:
      ValueError: if the name is unknown (the message lists the known ones), or a number is out of
        range.
    """
    if name not in _NETWORKS:
        near = difflib.get_close_matches(name, _NETWORKS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"unknown network {name!r}{hint}: known are {', '.join(_NETWORKS)}")
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}: it must be at least 2")
    return _NETWORKS[name](num_classes).scaled(width)
