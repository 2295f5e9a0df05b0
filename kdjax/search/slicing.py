"""Slicing the surviving channels out of a network: the small network, equal to the masked one."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from kdjax.costs import Layer
from kdjax.search.extract import Kept

Path = tuple[str, ...]


def slim(tree: Any, layers: Sequence[Layer], kept: Kept) -> Any:
    """The part of a network's variables that belongs to the channels that stay.

    Args:
      tree: ``{"params": ..., "batch_stats": ...}`` of the full network, or any tree of them, such
        as an optimiser's state: whatever has the shape of the parameters is sliced alike.
      layers: the full network's layer table.
      kept: for each group that shrinks the indices of the channels that stay, increasing; see
        :func:`kdjax.search.extract.kept_channels`.

    Returns:
      A tree of the same kind with NumPy arrays, for the network whose widths are the lengths of
      ``kept``. Its evaluation output equals that of the full network where all other channels
      have scales and biases of 0, as those have that died in a search.
    """
    slices = dict(_slices(layers, kept))

    def cut(path: tuple[Any, ...], leaf: Any) -> Any:
        names = tuple(str(getattr(key, "key", getattr(key, "name", ""))) for key in path)
        for start in range(len(names)):
            if names[start:] in slices:
                return _take(np.asarray(leaf), *slices[names[start:]])
        return leaf

    return jax.tree_util.tree_map_with_path(cut, tree)


def _slices(
    layers: Sequence[Layer], kept: Kept
) -> Iterator[tuple[Path, tuple[Layer, np.ndarray | None, np.ndarray | None]]]:
    """Path of each array of the network -> (its layer, inputs that stay, outputs that stay)."""
    for layer in layers:
        sources = kept.get(str(layer.in_group)) if layer.groups == 1 else None
        targets = kept.get(str(layer.out_group))
        chosen = (layer, sources, targets)
        for path in ((*layer.path, "conv"), layer.path):
            yield (*path, "kernel"), chosen
            yield (*path, "bias"), (layer, None, targets)
        for name in ("scale", "bias", "mean", "var"):
            yield (*layer.path, "norm", name), (layer, None, targets)


def _take(
    array: np.ndarray, layer: Layer, sources: np.ndarray | None, targets: np.ndarray | None
) -> np.ndarray:
    if array.ndim <= 1:
        return array if targets is None or array.ndim == 0 else array[targets]
    # A dense layer that reads a flattened map has its kernel flattened too.
    inputs = layer.in_channels // layer.groups
    full = array.reshape(*layer.kernel, inputs, layer.out_channels)
    if sources is not None:
        full = full[:, :, sources]
    if targets is not None:
        full = full[..., targets]
    return full if array.ndim == 4 else full.reshape(-1, full.shape[-1])
