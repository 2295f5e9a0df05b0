"""How the compiled functions hold variables: a few long vectors instead of thousands of arrays.

A deep ensemble has thousands of parameters and running averages, most of them a few numbers long.
If the optimiser handled each array by itself, each would need a program of its own, to compile and
to start on the device. So all leaves of one name lie in one vector: the kernels of all layers in
one, all scales in one, all biases in one. On the host, in checkpoints and wherever a module is
applied, variables are trees as usual.
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

from kdjax.train.program.online_teacher import COPIES
from kdjax.train.program.state import TrainState

Vectors = dict[str, Any]  # Name of the leaves, such as `kernel` -> vector.
_CONVOLUTION = 4  # Axes of its kernel.


class Layout:
    """The places of a tree's leaves in vectors, one for each name of leaves.

    One network lies after the other, unless ``merged``, and in each the layers of blocks of one
    kind are neighbours, as loops over blocks want them.
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
          shapes: network -> ... -> leaf with a ``shape``; float32 throughout.
          outputs_first: whether kernels of convolutions, ``[height, width, in, out]``, lie in the
            order (out, height, width, in), in which cuDNN reads them and writes their gradients.
          merged: whether the networks run as one. Then scales, biases and the like, a number for
            each channel, lie layer by layer: what the networks have of one layer is one piece.
          by_student: whether a student's adapters, and its modules of terms, belong to its network;
            else all adapters are a network of their own, and so are all such modules.
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
        """The vectors of a tree: NumPy arrays if all its leaves are, else JAX's."""
        leaves = flax.traverse_util.flatten_dict(tree)
        xp = np if all(isinstance(leaf, np.ndarray) for leaf in leaves.values()) else jnp
        return {
            name: xp.concatenate([self._flat(leaves[path]) for path in paths])
            for name, paths in self._paths.items()
        }

    def split(self, vectors: Vectors) -> dict[str, Any]:
        """The tree of :meth:`join`; if the vectors are NumPy arrays, its leaves are views."""
        leaves: dict[tuple[str, ...], Any] = {}
        for name, paths in self._paths.items():
            shapes = [self._shapes[path] for path in paths]
            parts = _cut(vectors[name], [self._stored(shape) for shape in shapes])
            leaves.update(
                (path, part.transpose(1, 2, 3, 0) if self._moves(shape) else part)
                for path, part, shape in zip(paths, parts, shapes, strict=True)
            )
        return flax.traverse_util.unflatten_dict(leaves)

    @property
    def names(self) -> set[str]:
        """The networks that :meth:`networks` finds."""
        return {self._network(path) for path in self._shapes}

    def networks(self, vectors: Vectors) -> dict[str, Vectors]:
        """The parts of the vectors that are each network's: network -> name -> vector."""
        found: dict[str, Vectors] = {}
        for name, owners in self._owners.items():
            for network, places in owners.items():
                found.setdefault(network, {})[name] = _take(vectors[name], places)
        return found

    def sums(self, vectors: Vectors) -> chex.Array:
        """The sum of each network's numbers ``[networks]``, in the sorted order of their names.

        The same as sums over :meth:`networks`, without cutting the vectors up.
        """
        names = sorted(self.names)
        found = jnp.zeros(len(names), jnp.float32)
        for name, owners in self._owners.items():
            found += _sums(vectors[name], [owners.get(network, []) for network in names])
        return found

    def whole(self, networks: Mapping[str, Vectors]) -> Vectors:
        """The vectors of :meth:`networks`, traced."""
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
        """Name -> network, in the order of their first numbers -> where its numbers are."""
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
        """An optimiser's state whose momenta and the like are trees -> one of vectors."""
        return _map(self.join, state, {path[0] for path in self._shapes})

    def split_state(self, state: Any) -> Any:
        """The inverse of :meth:`join_state`; of NumPy arrays, views of them."""
        return _map(self.split, state, self._paths.keys())

    def networks_of_state(self, state: Any) -> Any:
        """:meth:`networks` of whatever in an optimiser's state is vectors."""
        return _map(self.networks, state, self._paths.keys())

    def whole_state(self, state: Any) -> Any:
        """The inverse of :meth:`networks_of_state`."""
        return _map(self.whole, state, self.names)

    def optimizer(self, of_trees: optax.GradientTransformation) -> optax.GradientTransformation:
        """Adapts an optimiser that has to see trees to vectors."""
        return _between(of_trees, (self.split, self.join), (self.split_state, self.join_state))

    def optimizer_by_network(
        self, of_networks: optax.GradientTransformation
    ) -> optax.GradientTransformation:
        """Adapts an optimiser that has to see each network's parameters apart to vectors."""
        return _between(
            of_networks, (self.networks, self.whole), (self.networks_of_state, self.whole_state)
        )


def _between(
    optimizer: optax.GradientTransformation,
    forms: tuple[Callable[[Any], Any], Callable[[Any], Any]],
    state_forms: tuple[Callable[[Any], Any], Callable[[Any], Any]],
) -> optax.GradientTransformation:
    """Adapts an optimiser to another form of parameters, given the conversions both ways."""
    (to, back), (state_to, state_back) = forms, state_forms

    def init(params: Any) -> Any:
        return state_back(optimizer.init(to(params)))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moved, state = optimizer.update(to(updates), state_to(state), to(params))
        return back(moved), state_back(state)

    return optax.GradientTransformation(init, update)


class Layouts(NamedTuple):
    """How all variables of a method lie on the devices."""

    params: Layout
    batch_stats: Layout

    @classmethod
    def of(cls, shapes: Mapping[str, Any], **options: bool) -> "Layouts":
        """Lays out ``params`` and ``batch_stats``; ``options`` are those of :class:`Layout`."""
        params, batch_stats = (Layout(shapes.get(name, {}), **options) for name in cls._fields)
        return cls(params, batch_stats)

    def join(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Variables as vectors."""
        return {
            "params": self.params.join(variables["params"]),
            "batch_stats": self.batch_stats.join(variables["batch_stats"]),
        }

    def split(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Variables as trees; inside compiled functions, with derivatives."""
        return {
            "params": self.params.split_for_gradients(variables["params"]),
            "batch_stats": self.batch_stats.split(variables["batch_stats"]),
        }

    def join_state(self, state: TrainState) -> TrainState:
        """A host's state, for the devices."""
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
        """A state of vectors, cut by network, but for its memory."""
        return state.replace(
            params=self.params.networks(state.params),
            batch_stats=self.batch_stats.networks(state.batch_stats),
            optimizer_state=self.params.networks_of_state(state.optimizer_state),
        )

    def whole(self, state: TrainState) -> TrainState:
        """The inverse of :meth:`networks`, traced."""
        return state.replace(
            params=self.params.whole(state.params),
            batch_stats=self.batch_stats.whole(state.batch_stats),
            optimizer_state=self.params.whole_state(state.optimizer_state),
        )


def _with_copies(change: Callable[[Any], Any], memory: Mapping[str, Any]) -> Mapping[str, Any]:
    """A memory with its averaged copies of the parameters changed, if it has any."""
    return {**memory, COPIES: change(memory[COPIES])} if COPIES in memory else memory


def _map(change: Callable[[Any], Any], state: Any, keys: Set[str]) -> Any:
    """Changes what in a state is a dictionary with exactly these keys."""

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
    # A few operations of lax, where indexing would be traced thousands of times.
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
    """The network that a variable is of; of adapters and terms the student whose they are."""
    names = (re.match(r"student_\d+(?=_|$)", name) for name in path[:-1])
    return next((found[0] for found in names if found), path[0])


def _by_layer(path: tuple[str, ...]) -> list[list[Any]]:
    network, *layers, _ = path
    return [_natural(name) for name in (*reversed(layers), network)]


def _natural(name: str) -> list[Any]:
    """Sorts numbers in names as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
