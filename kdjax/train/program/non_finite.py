"""Finds numbers that are not finite inside the compiled step, and names them outside of it.

A step counts as faulty if a loss term, the norm of a network's gradient or one of its running
statistics is NaN or infinite. ``config.faults.non_finite`` says what happens then.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from kdjax import models
from kdjax.train.program.layout import Layout, Layouts

Metrics = Mapping[str, tuple[Any, Any]]

# Metrics with one flag per network: 1 if something is not finite, else 0. They are not averages.
GRADIENT, STATISTICS = "gradient_fault", "statistics_fault"
FLAGS = {GRADIENT: "gradient", STATISTICS: "batch statistics"}


class NonFiniteError(ArithmeticError):
    """Raised if a number is NaN or infinite; the message says where."""


def networks(params: Iterable[str], batch_stats: Iterable[str]) -> dict[str, list[str]]:
    """The names of the networks that each flag metric covers; the stem counts as a network."""
    return {GRADIENT: sorted(params), STATISTICS: sorted(batch_stats)}


def flags(
    gradients: Mapping[str, Any], batch_stats: Mapping[str, Any], layouts: Layouts | None = None
) -> dict[str, Any]:
    """Returns metrics with a flag for each network, in the sorted order of the networks' names.

    Args:
      gradients: the gradients by network; the stem counts as a network.
      batch_stats: new running statistics, by network.
      layouts: the layouts of both if they are vectors; None: they are trees.

    Returns:
      ``gradient_norm``, over all networks, and the flags.
    """
    squares = _sums(jnp.square, gradients, layouts and layouts.params)
    # A sum is finite if all statistics of the network are. Only numbers near 1e38 could overflow.
    sums = _sums(jnp.abs, batch_stats, layouts and layouts.batch_stats)
    one = jnp.float32(1.0)
    return {
        "gradient_norm": (jnp.sqrt(jnp.sum(squares)), one),
        GRADIENT: (~jnp.isfinite(squares) * one, one),
        STATISTICS: (~jnp.isfinite(sums) * one, one),
    }


def _sums(change: Callable[[chex.Array], chex.Array], tree: Any, layout: Layout | None) -> Any:
    """Applies ``change`` to each network's numbers and sums them, ``[networks]``."""
    if layout is None:
        return _sums_of_rows(change, tree)
    # On a TPU, sums of rows take fifteen times the cycles of ``layout.sums``
    # (experiments/throughput/plan.md).
    return jax.lax.platform_dependent(
        tree,
        tpu=lambda vectors: layout.sums(jax.tree.map(change, vectors)),
        default=lambda vectors: _sums_of_rows(change, layout.networks(vectors)),
    )


def _sums_of_rows(
    change: Callable[[chex.Array], chex.Array], networks: Mapping[str, Any]
) -> chex.Array:
    """Sums a matrix with one row for each network: all numbers of the network, then zeros.

    One sum over rows takes fewer kernels than one sum for each network or for each leaf.
    """
    vectors = [
        jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(networks[name])])
        for name in sorted(networks)
    ]
    if not vectors:  # No network has running statistics.
        return jnp.zeros(0)
    longest = max(vector.size for vector in vectors)
    rows = [jnp.pad(vector, (0, longest - vector.size)) for vector in vectors]
    return jnp.sum(change(jnp.stack(rows)), axis=1)


def finite(metrics: Metrics, networks: Mapping[str, Sequence[str]], separate: bool) -> Any:
    """Returns for every network whether the step may change it.

    Args:
      metrics: the metrics of one step.
      networks: the networks with parameters, under :data:`GRADIENT`, and those with statistics,
        under :data:`STATISTICS`, each in the order of the flags.
      separate: whether the networks do not influence each other; otherwise a fault in one counts
        for all.

    Returns:
      Name of each network -> bool scalar.
    """
    names = sorted(set(networks[GRADIENT]) | set(networks[STATISTICS]))
    good = {name: jnp.bool_(True) for name in names}
    for kind in FLAGS:
        for name, flag in zip(networks[kind], metrics[kind][0], strict=True):
            good[name] &= flag == 0
    for value, _ in (pair for name, pair in metrics.items() if name not in FLAGS):
        if value.ndim == 1:
            for number, one in enumerate(value, start=1):
                if models.student_name(number) in good:
                    good[models.student_name(number)] &= jnp.isfinite(one)
    if separate:
        return good
    everything = jnp.all(jnp.stack(list(good.values())))
    return dict.fromkeys(names, everything)


def keep_finite(new: Any, old: Any, good: Mapping[str, chex.Array]) -> Any:
    """Takes ``new`` for networks that are good and ``old`` for the others.

    Args:
      new: a tree of arrays, after the step.
      old: the same tree before the step.
      good: name of each network -> boolean scalar. A leaf of ``new`` belongs to the network whose
        name is in its path; a leaf that belongs to none is taken if all networks are good.
    """
    everything = jnp.all(jnp.stack(list(good.values())))

    def choose(path: Any, after: chex.Array, before: chex.Array) -> chex.Array:
        keys = (str(getattr(entry, "key", "")) for entry in path)
        own = next((good[key] for key in keys if key in good), everything)
        return jnp.where(own, after, before)

    return jax.tree_util.tree_map_with_path(choose, new, old)


def find(metrics: Metrics, networks: Mapping[str, Sequence[str]]) -> dict[int, list[str]]:
    """Returns the faulty rows of stacked metrics, and what is not finite in each.

    Args:
      metrics: ``[steps_per_dispatch, ...]``, on the host.
      networks: as :func:`finite` takes them.
    """
    wrong = {
        name: np.asarray(value) != 0 if name in FLAGS else ~np.isfinite(value)
        for name, (value, _) in metrics.items()
    }
    rows = np.zeros(len(next(iter(wrong.values()))), bool)
    for bad in wrong.values():
        rows |= bad.reshape(len(bad), -1).any(axis=1)
    return {
        int(row): [
            place for name, bad in wrong.items() for place in _places(name, bad[row], networks)
        ]
        for row in np.flatnonzero(rows)
    }


def _places(name: str, bad: np.ndarray, networks: Mapping[str, Sequence[str]]) -> list[str]:
    if name in FLAGS:
        chosen = (network for network, flag in zip(networks[name], bad, strict=True) if flag)
        return [f"{FLAGS[name]} of {network.replace('_', ' ')}" for network in chosen]
    if bad.ndim == 1:
        return [f"{name} of student {index + 1}" for index in np.flatnonzero(bad)]
    return [name] if bad else []


def without(metrics: Metrics, rows: Sequence[int]) -> dict[str, tuple[Any, Any]]:
    """Returns stacked metrics in which the values and counts of some steps are 0."""
    kept = {}
    for name, (value, count) in metrics.items():
        value, count = np.array(value), np.array(count)
        value[list(rows)], count[list(rows)] = 0, 0
        kept[name] = value, count
    return kept
