"""How the compiled functions hold variables: a few long vectors instead of thousands of arrays.

A deep ensemble has thousands of parameters and running averages, most of them a few numbers long.
Whatever acts on one by one, the optimiser above all, is a kernel for each: to compile, to start,
to send between devices. Side by side in one vector for each network and kind, it is a kernel for
all. On the host, in checkpoints and wherever a module is applied, variables are trees as usual.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

# Network -> name of the leaves -> vector.
Vectors = dict[str, dict[str, Any]]
_CONVOLUTION = 4  # Axes of its kernel.


class Layout:
    """The places of a tree's leaves in vectors, one for each network and name of leaves.

    The leaves of a network that share a name, such as all its kernels, lie one after another.
    Layers of blocks of one kind are neighbours, as loops over blocks want them.
    """

    def __init__(self, shapes: Mapping[str, Any], *, outputs_first: bool = False):
        """Lays out a tree.

        Args:
          shapes: network -> ... -> leaf with a ``shape``; float32 throughout.
          outputs_first: whether kernels of convolutions, ``[height, width, in, out]``, lie in the
            order (out, height, width, in), in which cuDNN reads them and writes their gradients.
        """
        self._outputs_first = outputs_first
        leaves = flax.traverse_util.flatten_dict(shapes)
        chex.assert_type(list(leaves.values()), jnp.float32)
        self._shapes = {path: leaves[path].shape for path in sorted(leaves, key=_order)}
        self._paths: dict[str, dict[str, list[tuple[str, ...]]]] = {}
        for path in self._shapes:
            self._paths.setdefault(path[0], {}).setdefault(path[-1], []).append(path)

    def join(self, tree: Mapping[str, Any]) -> Vectors:
        """The vectors of a tree; NumPy arrays of NumPy arrays, traced ones of traced ones."""
        leaves = flax.traverse_util.flatten_dict(tree)
        xp = np if all(isinstance(leaf, np.ndarray) for leaf in leaves.values()) else jnp
        return {
            network: {
                name: xp.concatenate([self._flat(leaves[path]) for path in paths])
                for name, paths in names.items()
            }
            for network, names in self._paths.items()
        }

    def split(self, vectors: Vectors) -> dict[str, Any]:
        """The tree of :meth:`join`; of NumPy arrays, views of them."""
        leaves: dict[tuple[str, ...], Any] = {}
        for network, names in self._paths.items():
            for name, paths in names.items():
                shapes = [self._shapes[path] for path in paths]
                stored = [self._stored(shape) for shape in shapes]
                parts = _cut(vectors[network][name], stored)
                leaves.update(
                    (path, part.transpose(1, 2, 3, 0) if self._moves(shape) else part)
                    for path, part, shape in zip(paths, parts, shapes, strict=True)
                )
        return flax.traverse_util.unflatten_dict(leaves)

    def _stored(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a leaf in the order in which it lies in a vector."""
        return (shape[-1], *shape[:-1]) if self._moves(shape) else shape

    def _flat(self, leaf: Any) -> Any:
        return (leaf.transpose(3, 0, 1, 2) if self._moves(leaf.shape) else leaf).reshape(-1)

    def _moves(self, shape: tuple[int, ...]) -> bool:
        return self._outputs_first and len(shape) == _CONVOLUTION

    @functools.cached_property
    def split_for_gradients(self) -> Callable[[Vectors], dict[str, Any]]:
        """:meth:`split`, but its derivative joins; the automatic one would add up padded leaves."""
        split = jax.custom_vjp(self.split)
        split.defvjp(
            lambda vectors: (self.split(vectors), None), lambda _, tree: (self.join(tree),)
        )
        return split

    def join_state(self, state: Any) -> Any:
        """An optimiser's state whose momenta and the like are trees -> one in which they join."""
        return self._map(self.join, state)

    def split_state(self, state: Any) -> Any:
        """The inverse of :meth:`join_state`; of NumPy arrays, views of them."""
        return self._map(self.split, state)

    def _map(self, change: Callable[[Any], Any], state: Any) -> Any:
        def has_networks(part: Any) -> bool:
            return isinstance(part, dict) and part.keys() == self._paths.keys()

        return jax.tree.map(
            lambda part: change(part) if has_networks(part) else part, state, is_leaf=has_networks
        )

    def optimizer(self, of_trees: optax.GradientTransformation) -> optax.GradientTransformation:
        """An optimiser that has to see trees as one of vectors."""

        def init(params: Vectors) -> Any:
            return self.join_state(of_trees.init(self.split(params)))

        def update(updates: Vectors, state: Any, params: Any = None) -> tuple[Vectors, Any]:
            moved, state = of_trees.update(
                self.split(updates), self.split_state(state), self.split(params)
            )
            return self.join(moved), self.join_state(state)

        return optax.GradientTransformation(init, update)


def _cut(vector: chex.Array, shapes: Sequence[tuple[int, ...]]) -> list[chex.Array]:
    sizes = [math.prod(shape) for shape in shapes]
    if isinstance(vector, np.ndarray):
        parts = np.split(vector, np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    # A few operations of lax, where indexing would be traced thousands of times.
    traced = jax.lax.split(vector, sizes)
    return [jax.lax.reshape(part, shape) for part, shape in zip(traced, shapes, strict=True)]


def _order(path: tuple[str, ...]) -> list[list[Any]]:
    """Sorts by name from the leaf up to the network, and numbers in names as numbers."""
    return [
        [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
        for name in reversed(path)
    ]
