"""Initial variables, drawn on the host: no compilation, seconds at any depth."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np


def initialize(
    net: nn.Module, seed: int, image_shape: tuple[int, int, int] = (32, 32, 3)
) -> dict[str, Any]:
    """The variables of a network or an ensemble, with the tree and distributions of ``net.init``.

    ``net.init`` compiles for minutes on deep ensembles; here shapes come from abstract evaluation
    and numbers from NumPy. Each array has a random stream of its own, named by its path below the
    student, so that a network starts alike whoever stands beside it and whatever its number: a
    student of an ensemble as its baseline, two candidates of one structure as each other. Only
    twins in one ensemble, students of equal widths, start differently: they would stay equal.

    Args:
      net: any module of :mod:`kdjax.models`.
      seed: non-negative.
      image_shape: (height, width, channels) of the input.

    Returns:
      ``{"params": ..., "batch_stats": ...}`` of float32 NumPy arrays.

    References:
      He et al., *Delving Deep into Rectifiers*, ICCV 2015, equation 10, for convolutions and
      the dense layers that a ReLU follows; LeCun et al., *Efficient BackProp*, 1998, section 4.6,
      elsewhere.
    """
    return draw(variable_shapes(net, image_shape), seed)


def variable_shapes(
    net: nn.Module, image_shape: tuple[int, int, int] = (32, 32, 3)
) -> dict[str, Any]:
    """The tree of ``net.init`` with shapes in place of arrays; nearly all of the time."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), images)


def draw(shapes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The arrays of :func:`initialize` for a tree of :func:`variable_shapes`."""
    flat = flax.traverse_util.flatten_dict(shapes)
    twins = _twins(shapes["params"])
    return flax.traverse_util.unflatten_dict(
        {
            path: _draw_leaf(path, leaf.shape, seed, twins.get(path[1], 0))
            for path, leaf in flat.items()
        }
    )


def _twins(params: Mapping[str, Any]) -> dict[str, int]:
    """For each student of an ensemble how many before it have its shapes."""
    if "stem" not in params:  # A single network, or networks that do not see each other.
        return {}
    seen: list[Any] = []
    numbers = {}
    for student in sorted(params, key=lambda name: (len(name), name)):
        if student.startswith("student_"):
            shapes = jax.tree.map(lambda leaf: leaf.shape, params[student])
            numbers[student] = seen.count(shapes)
            seen.append(shapes)
    return numbers


def _draw_leaf(path: tuple[str, ...], shape: tuple[int, ...], seed: int, twin: int) -> np.ndarray:
    kind = path[-1]
    if kind in _CONSTANTS:
        return np.full(shape, _CONSTANTS[kind], np.float32)
    # Names that only say where a network stands do not count.
    below = [part for part in path if not re.fullmatch(r"branch|student_\d+", part)]
    name = "/".join([*below, *([f"twin {twin}"] if twin else [])])
    stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    generator = np.random.default_rng([seed, stream])
    # The axes before the last hold one output's inputs, also in grouped convolutions.
    variance = (2.0 if path[-2] in _RECTIFIED else 1.0) / np.prod(shape[:-1])
    return _truncated_normal(generator, shape) * np.float32(np.sqrt(variance))


def _truncated_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Unit-variance normal numbers, cut at two standard deviations as flax cuts them."""
    numbers = generator.standard_normal(shape, np.float32)
    while (outside := np.abs(numbers) > 2).any():
        numbers[outside] = generator.standard_normal(outside.sum(), np.float32)
    return numbers / np.float32(0.87962566103423978)  # The deviation that the cut leaves.


# Names of convolutions, and of the dense layers that a ReLU follows.
_RECTIFIED = ("conv", "dense1", "dense2")
_CONSTANTS: Mapping[str, float] = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}
