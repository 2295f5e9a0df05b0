"""Slicing the surviving channels out of a network: the small network, equal to the masked one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
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
      ``kept``. Its evaluation output equals that of the full network :func:`masked` to ``kept``.
    """
    slices = dict(_slices(layers, kept))

    def cut(path: tuple[Any, ...], leaf: Any) -> Any:
        names = tuple(str(getattr(key, "key", getattr(key, "name", ""))) for key in path)
        for start in range(len(names)):
            if names[start:] in slices:
                return _take(np.asarray(leaf), *slices[names[start:]])
        return leaf

    return jax.tree_util.tree_map_with_path(cut, tree)


def masked(
    net: nn.Module,
    variables: Mapping[str, Any],
    layers: Sequence[Layer],
    kept: Kept,
    image_shape: tuple[int, int, int],
) -> dict[str, Any]:
    """The full network with all other channels silent.

    A channel whose scale is 0 still emits a constant, what its bias leaves after the activation.
    That constant is first moved into what reads it, the running mean or the bias of the next
    layer, which is exact but for the zeros around a padded map; then scale and bias become 0.

    Args:
      net: the full network.
      variables: its variables; the scales of the channels that go are 0 (else what they would
        have contributed beyond a constant is lost).
      layers: as for :func:`slim`.
      kept: as for :func:`slim`.
      image_shape: (height, width, channels) of the input.

    References:
      Ye, Lu, Lin, Wang, *Rethinking the Smaller-Norm-Less-Informative Assumption in Channel
      Pruning*, ICLR 2018, section 4.1 (moving constants into the next layer).
    """
    inputs = _layer_inputs(net, variables, layers, image_shape)
    params = dict(flax.traverse_util.flatten_dict(variables["params"]))
    stats = dict(flax.traverse_util.flatten_dict(variables.get("batch_stats", {})))
    for layer in layers:
        gone_in = _gone(kept, layer.in_group, layer.in_channels)
        if gone_in.any() and layer.groups == 1:
            kernel = _kernel(layer, params)
            constant = np.where(gone_in, inputs[layer.path], 0.0)
            moved = np.einsum("hwio,hwi->o", kernel, np.broadcast_to(constant, kernel.shape[:3]))
            if layer.norm:
                mean = (*layer.path, "norm", "mean")
                stats[mean] = np.asarray(stats[mean]) - moved
            else:
                bias = (*layer.path, "bias")
                params[bias] = np.asarray(params[bias]) + moved
    for layer in layers:
        gone_out = _gone(kept, layer.out_group, layer.out_channels)
        if gone_out.any():
            for name in ("scale", "bias"):
                path = (*layer.path, "norm", name)
                params[path] = np.where(gone_out, 0.0, params[path]).astype(np.float32)
    return {
        "params": flax.traverse_util.unflatten_dict(params),
        "batch_stats": flax.traverse_util.unflatten_dict(stats),
    }


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


def _gone(kept: Kept, group: str | None, channels: int) -> np.ndarray:
    """``[channels]`` bool: those of a group that do not stay."""
    gone = np.zeros(channels, bool)
    if group in kept:
        gone[:] = True
        gone[kept[str(group)]] = False
    return gone


def _kernel(layer: Layer, params: Mapping[Path, Any]) -> np.ndarray:
    """``[height, width, in, out]`` also of a dense layer, whose input may be a flattened map."""
    convolution = (*layer.path, "conv", "kernel")
    kernel = params[convolution if convolution in params else (*layer.path, "kernel")]
    return np.asarray(kernel).reshape(*layer.kernel, layer.in_channels, layer.out_channels)


def _layer_inputs(
    net: nn.Module,
    variables: Mapping[str, Any],
    layers: Sequence[Layer],
    image_shape: tuple[int, int, int],
) -> dict[Path, np.ndarray]:
    """Layer path -> what it reads of an image of zeros: the pixel in the middle, ``[channels]``.

    A dense layer reads ``[height, width, channels]``, all of a map that was flattened for it.
    """
    kernels = {layer.path: (*layer.kernel, layer.in_channels) for layer in layers}
    seen: dict[Path, np.ndarray] = {}

    def look(
        call: Any, arguments: Any, keywords: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module, path = context.module, tuple(context.module.path)
        if context.method_name == "__call__" and isinstance(module, nn.Conv):
            _, height, width, _ = arguments[0].shape
            seen[path[:-1]] = np.asarray(arguments[0][0, height // 2, width // 2])
        elif context.method_name == "__call__" and isinstance(module, nn.Dense):
            seen[path] = np.asarray(arguments[0][0]).reshape(kernels[path])
        return call(*arguments, **keywords)

    with nn.intercept_methods(look):
        net.apply(variables, jnp.zeros((1, *image_shape)), train=False)
    return seen
