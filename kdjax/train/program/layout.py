"""How the compiled functions hold variables: a few long vectors instead of thousands of arrays.

A deep ensemble has thousands of arrays of parameters and running averages, and most of them hold
only a few numbers. If the optimiser handled each array by itself, each array would need its own
program to compile and to start on the device. So all leaves of one name lie in one vector: the
kernels of all layers in one, all scales in one, all biases in one. On the host, in checkpoints and
wherever a module is applied, variables are trees as usual.
"""

import functools
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax.models.student_names import STUDENT
from kdjax.train.program.online_teacher import COPIES
from kdjax.train.program.state import TrainState

Vectors = dict[str, Any]  # Name of the leaves, such as `kernel`, -> vector.
_CONVOLUTION = 4  # The number of axes of a convolution's kernel.


class Layout:
    """The places of a tree's leaves in vectors; there is one vector for each name of leaves.

    Unless ``merged``, the networks lie one after another. Within a network, equal layers of
    similar blocks lie next to each other, because loops over blocks use them together.
    """

    def __init__(
        self,
        shapes: Mapping[str, Any],
        *,
        outputs_first: bool = False,
        merged: bool = False,
        by_student: bool = False,
    ):
        """Lays out a tree.

        Args:
          shapes: network -> ... -> leaf with a ``shape``; all leaves are float32.
          outputs_first: whether kernels of convolutions, ``[height, width, in, out]``, lie in the
            order (out, height, width, in), in which cuDNN reads them and writes their gradients.
          merged: whether the networks run as one. Then leaves with one number per channel, such as
            scales and biases, lie layer by layer: one layer of all networks is one piece.
          by_student: whether a student's adapters and its modules of terms belong to its network.
            If not, all adapters count as one network, and all modules of terms as another.
        """
        self._network: Callable[[tuple[str, ...]], str] = (
            _student if by_student else operator.itemgetter(0)
        )
        self._outputs_first = outputs_first
        leaves = flax.traverse_util.flatten_dict(shapes)
        chex.assert_type(list(leaves.values()), jnp.float32)
        names = {path[-1] for path in leaves}
        deep = {path[-1] for path, leaf in leaves.items() if len(leaf.shape) > 1}
        self._paths = {
            name: sorted(
                (path for path in leaves if path[-1] == name),
                key=_by_layer if merged and name not in deep else self._by_network,
            )
            for name in sorted(names)
        }
        self._shapes = {
            path: leaves[path].shape for paths in self._paths.values() for path in paths
        }

    def join(self, tree: Mapping[str, Any]) -> Vectors:
        """Returns the vectors of a tree: NumPy arrays if all leaves are, otherwise JAX arrays."""
        leaves = flax.traverse_util.flatten_dict(tree)
        xp = np if all(isinstance(leaf, np.ndarray) for leaf in leaves.values()) else jnp
        return {
            name: xp.concatenate([self._flat(leaves[path]) for path in paths])
            for name, paths in self._paths.items()
        }

    def split(self, vectors: Vectors) -> dict[str, Any]:
        """The inverse of :meth:`join`; if the vectors are NumPy arrays, the leaves are views."""
        leaves: dict[tuple[str, ...], Any] = {}
        for name, paths in self._paths.items():
            shapes = [self._shapes[path] for path in paths]
            parts = _cut(vectors[name], [self._stored(shape) for shape in shapes])
            leaves.update(
                (path, part.transpose(1, 2, 3, 0) if self._is_transposed(shape) else part)
                for path, part, shape in zip(paths, parts, shapes, strict=True)
            )
        return flax.traverse_util.unflatten_dict(leaves)

    @property
    def names(self) -> set[str]:
        """The names of the networks that :meth:`networks` returns."""
        return {self._network(path) for path in self._shapes}

    def networks(self, vectors: Vectors) -> dict[str, Vectors]:
        """Splits the vectors by network: network -> name of the leaves -> vector."""
        found: dict[str, Vectors] = {}
        for name, owners in self._owners.items():
            for network, places in owners.items():
                found.setdefault(network, {})[name] = _take(vectors[name], places)
        return found

    def sums(self, vectors: Vectors) -> chex.Array:
        """The sum of each network's numbers, ``[networks]``, in the sorted order of their names.

        The result equals sums over :meth:`networks`, but the vectors are not split.
        """
        names = sorted(self.names)
        found = jnp.zeros(len(names), jnp.float32)
        for name, owners in self._owners.items():
            found += _sums(vectors[name], [owners.get(network, []) for network in names])
        return found

    def whole(self, networks: Mapping[str, Vectors]) -> Vectors:
        """The inverse of :meth:`networks`; traced."""
        vectors = {}
        for name, owners in self._owners.items():
            vector = jnp.concatenate([networks[network][name] for network in owners])
            if any(len(places) > 1 for places in owners.values()):
                index = np.concatenate([_index(places) for places in owners.values()])
                vector = jnp.take(vector, np.argsort(index), unique_indices=True, mode="clip")
            vectors[name] = vector
        return vectors

    @functools.cached_property
    def _owners(self) -> dict[str, dict[str, list[range]]]:
        """Name of the leaves -> network -> where its numbers are.

        The networks are in the order of their first numbers.
        """
        found: dict[str, dict[str, list[range]]] = {}
        for name, paths in self._paths.items():
            owners = found[name] = {}
            end = 0
            for path in paths:
                start, end = end, end + math.prod(self._shapes[path])
                places = owners.setdefault(self._network(path), [range(start, start)])
                if places[-1].stop == start:
                    places[-1] = range(places[-1].start, end)
                else:
                    places.append(range(start, end))
        return found

    def _by_network(self, path: tuple[str, ...]) -> list[list[Any]]:
        *layers, _ = path
        return [_natural(name) for name in (self._network(path), *reversed(layers))]

    def _stored(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a leaf with the axes in the order in which a vector stores it."""
        return (shape[-1], *shape[:-1]) if self._is_transposed(shape) else shape

    def _flat(self, leaf: Any) -> Any:
        return (leaf.transpose(3, 0, 1, 2) if self._is_transposed(leaf.shape) else leaf).reshape(-1)

    def _is_transposed(self, shape: tuple[int, ...]) -> bool:
        return self._outputs_first and len(shape) == _CONVOLUTION

    @functools.cached_property
    def split_for_gradients(self) -> Callable[[Vectors], dict[str, Any]]:
        """:meth:`split` with :meth:`join` as derivative; JAX's own would add up padded leaves."""
        split = jax.custom_vjp(self.split)
        split.defvjp(
            lambda vectors: (self.split(vectors), None), lambda _, tree: (self.join(tree),)
        )
        return split

    def join_state(self, state: Any) -> Any:
        """Turns trees in an optimiser's state, such as momenta, into vectors."""
        return _map(self.join, state, {path[0] for path in self._shapes})

    def split_state(self, state: Any) -> Any:
        """The inverse of :meth:`join_state`; if the vectors are NumPy arrays, leaves are views."""
        return _map(self.split, state, self._paths.keys())

    def networks_of_state(self, state: Any) -> Any:
        """Applies :meth:`networks` to the vectors in an optimiser's state."""
        return _map(self.networks, state, self._paths.keys())

    def whole_state(self, state: Any) -> Any:
        """The inverse of :meth:`networks_of_state`."""
        return _map(self.whole, state, self.names)

    def optimizer(self, of_trees: optax.GradientTransformation) -> optax.GradientTransformation:
        """Makes an optimiser of trees work on vectors."""
        return _between(of_trees, (self.split, self.join), (self.split_state, self.join_state))

    def optimizer_by_network(
        self, of_networks: optax.GradientTransformation
    ) -> optax.GradientTransformation:
        """Makes an optimiser that needs each network's parameters separately work on vectors."""
        return _between(
            of_networks, (self.networks, self.whole), (self.networks_of_state, self.whole_state)
        )


def _between(
    optimizer: optax.GradientTransformation,
    forms: tuple[Callable[[Any], Any], Callable[[Any], Any]],
    state_forms: tuple[Callable[[Any], Any], Callable[[Any], Any]],
) -> optax.GradientTransformation:
    """Makes an optimiser work on another form of parameters, given the conversions both ways."""
    (to, back), (state_to, state_back) = forms, state_forms

    def init(params: Any) -> Any:
        return state_back(optimizer.init(to(params)))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moved, state = optimizer.update(to(updates), state_to(state), to(params))
        return back(moved), state_back(state)

    return optax.GradientTransformation(init, update)


class Layouts(NamedTuple):
    """The layouts of all variables of a method on the devices."""

    params: Layout
    batch_stats: Layout

    @classmethod
    def of(cls, shapes: Mapping[str, Any], **options: bool) -> "Layouts":
        """Lays out ``params`` and ``batch_stats``; ``options`` are those of :class:`Layout`."""
        params, batch_stats = (Layout(shapes.get(name, {}), **options) for name in cls._fields)
        return cls(params, batch_stats)

    def join(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Turns variables from trees into vectors."""
        return {
            "params": self.params.join(variables["params"]),
            "batch_stats": self.batch_stats.join(variables["batch_stats"]),
        }

    def split(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Turns variables into trees; compiled functions can take derivatives through it."""
        return {
            "params": self.params.split_for_gradients(variables["params"]),
            "batch_stats": self.batch_stats.split(variables["batch_stats"]),
        }

    def join_state(self, state: TrainState) -> TrainState:
        """Turns a host state into the form for the devices."""
        return state.replace(
            **self.join(state.variables),
            optimizer_state=self.params.join_state(state.optimizer_state),
            memory=_with_copies(self.params.join, state.memory),
        )

    def split_state(self, state: TrainState) -> TrainState:
        """The inverse of :meth:`join_state`; arrays are views."""
        return state.replace(
            params=self.params.split(state.params),
            batch_stats=self.batch_stats.split(state.batch_stats),
            optimizer_state=self.params.split_state(state.optimizer_state),
            memory=_with_copies(self.params.split, state.memory),
        )

    def networks(self, state: TrainState) -> TrainState:
        """Splits the vectors of a state by network, except those in its memory."""
        return state.replace(
            params=self.params.networks(state.params),
            batch_stats=self.batch_stats.networks(state.batch_stats),
            optimizer_state=self.params.networks_of_state(state.optimizer_state),
        )

    def whole(self, state: TrainState) -> TrainState:
        """The inverse of :meth:`networks`; traced."""
        return state.replace(
            params=self.params.whole(state.params),
            batch_stats=self.batch_stats.whole(state.batch_stats),
            optimizer_state=self.params.whole_state(state.optimizer_state),
        )


def _with_copies(change: Callable[[Any], Any], memory: Mapping[str, Any]) -> Mapping[str, Any]:
    """Applies ``change`` to the averaged copies of the parameters in a memory, if it has any."""
    return {**memory, COPIES: change(memory[COPIES])} if COPIES in memory else memory


def _map(change: Callable[[Any], Any], state: Any, keys: Set[str]) -> Any:
    """Applies ``change`` to every dictionary in a state that has exactly these keys."""

    def has_keys(part: Any) -> bool:
        return isinstance(part, dict) and part.keys() == keys

    return jax.tree.map(
        lambda part: change(part) if has_keys(part) else part, state, is_leaf=has_keys
    )


def _cut(vector: chex.Array, shapes: Sequence[tuple[int, ...]]) -> list[chex.Array]:
    sizes = [math.prod(shape) for shape in shapes]
    if isinstance(vector, np.ndarray):
        parts = np.split(vector, np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    # A few operations of lax are faster to trace than thousands of indexing operations.
    traced = jax.lax.split(vector, sizes)
    return [jax.lax.reshape(part, shape) for part, shape in zip(traced, shapes, strict=True)]


def _take(vector: chex.Array, places: Sequence[range]) -> chex.Array:
    """The numbers of a vector in some places, one after another."""
    if len(places) == 1:
        return jax.lax.slice(vector, (places[0].start,), (places[0].stop,))
    return jnp.take(vector, _index(places), unique_indices=True, mode="clip")


def _sums(vector: chex.Array, pieces: Sequence[Sequence[range]]) -> chex.Array:
    """The sum of a vector's numbers in the places of each piece, in one reduction."""
    index = jnp.arange(vector.size)

    def inside(places: Sequence[range]) -> Any:
        if len(places) == 1:
            return (index >= places[0].start) & (index < places[0].stop)
        mask = np.zeros(vector.size, bool)
        for place in places:
            mask[place.start : place.stop] = True
        return mask

    parts = [jnp.where(inside(places), vector, 0.0) for places in pieces]
    zeros = [jnp.zeros((), vector.dtype)] * len(parts)
    add = functools.partial(jax.tree.map, operator.add)
    return jnp.stack(jax.lax.reduce(parts, zeros, add, (0,)))


def _index(places: Sequence[range]) -> np.ndarray:
    return np.concatenate([np.arange(place.start, place.stop) for place in places])


def _student(path: tuple[str, ...]) -> str:
    """The network of a variable; adapters and modules of terms belong to their student."""
    names = (re.match(rf"{STUDENT.pattern}(?=_|$)", name) for name in path[:-1])
    return next((found[0] for found in names if found), path[0])


def _by_layer(path: tuple[str, ...]) -> list[list[Any]]:
    network, *layers, _ = path
    return [_natural(name) for name in (*reversed(layers), network)]


def _natural(name: str) -> list[Any]:
    """A sort key that compares numbers in names as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
