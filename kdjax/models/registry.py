"""Network names. A new family adds its file and a line here."""

import difflib
import functools
from collections.abc import Callable

from kdjax.models import (
    densenet,
    efficientnet,
    imagenet_resnet,
    mobilenet_v2,
    own,
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
    for name in vgg.VARIANTS:
        table[name] = functools.partial(vgg.create, name)
    for family in (wide_resnet, densenet, imagenet_resnet, efficientnet):
        for name in family.VARIANTS:
            table[name] = functools.partial(family.create, name)
    return table


_NETWORKS = _families()


def register(name: str, create: Callable[[int], Architecture]) -> None:
    """Registers a user's network under a name, for as long as the process runs.

    Args:
      name: a name that is not taken yet.
      create: number of classes -> architecture.

    Raises:
      ValueError: if the name is empty or taken.
    """
    if not name or name in _NETWORKS:
        raise ValueError(f"the network name {name!r} is {'taken' if name else 'empty'}")
    _NETWORKS[name] = functools.partial(own.checked, name, create)


def names() -> tuple[str, ...]:
    """The known network names."""
    return tuple(_NETWORKS)


def create(name: str, num_classes: int, *, width: float = 1.0) -> Architecture:
    """The architecture of that name.

    >>> create("resnet20", num_classes=10).widths["stage3"]
    64

    Args:
      name: one of :func:`names`, or ``file.py:function``: a function in a file that takes the
        number of classes and returns an :class:`Architecture`.
      num_classes: at least 2.
      width: multiplies every group's full width, the stem's included; the result is rounded by the
        family's rule (for most families: floored, at least 1).

    Raises:
      ValueError: if the name is unknown (the message lists the known ones), a file or its function
        is not valid, or a number is out of range.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}: it must be at least 2")
    if own.is_file(name):
        return own.create(name, num_classes).scaled(width)
    if name not in _NETWORKS:
        near = difflib.get_close_matches(name, _NETWORKS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"unknown network {name!r}{hint}: known are {', '.join(_NETWORKS)}, "
            "or file.py:function for one of your own"
        )
    return _NETWORKS[name](num_classes).scaled(width)
