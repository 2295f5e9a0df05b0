"""The variables of a thinned network: living positions of each axis of each array."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from kdjax.tracing.description import Traced


def take(tree: Any, traced: Traced, alive: np.ndarray) -> Any:
    """The part of a network's variables that belongs to the living channels.

    Args:
      tree: the variables of the full network, or any tree of them, such as an optimiser's state:
        whatever has the name and shape of a variable is sliced alike.
      traced: of the full network.
      alive: ``[classes]`` bool.

    Returns:
      A tree of the same kind with NumPy arrays.

    Raises:
      ValueError: if an array has a variable's name and another shape.
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


def silence(
    variables: Mapping[str, Any], traced: Traced, alive: np.ndarray
) -> dict[str, dict[str, Any]]:
    """The full network's variables with scales and biases of all other channels 0.

    What a dead channel would have added by its bias is lost; a network whose dead channels had
    none gives the same output.

    Args:
      variables: of the full network.
      traced: of the full network.
      alive: ``[classes]`` bool.
    """
    flat = dict(flax.traverse_util.flatten_dict(variables))
    for path, axes in traced.leaves.items():
        if path[0] == "params" and len(axes) == 1:
            flat[path] = np.where(alive[axes[0]], flat[path], 0).astype(flat[path].dtype)
    return flax.traverse_util.unflatten_dict(flat)
