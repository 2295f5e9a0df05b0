"""Checks numerically that students compute the same as one network and each by itself."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.models.execution import Branches, Mode
from kdjax.models.normalization import BATCH_STATS
from kdjax.widths import WidthVector

if TYPE_CHECKING:
    from kdjax.models.architecture import Architecture

_BATCH = 4
_TOLERANCE = 1e-3  # Relative to the largest value; float32 rounding stays far below.

# (variables of each student, input of the network, mode) -> the students' branches.
Together = Callable[[Sequence[Any], chex.Array, Mode], Branches]


def check_agreement(
    architecture: "Architecture",
    students: Sequence[WidthVector],
    together: Together,
    image_shape: tuple[int, int, int],
    *,
    shared: bool,
    one_map: bool,
) -> None:
    """Compares random students as one network and each by itself, in training and evaluation.

    All read random maps. A module may reorder channels, group them, or compute with their number.
    Then the network that is as wide as all students together computes something else than each
    student by itself.

    Args:
      architecture: the architecture of all students.
      students: their widths.
      together: runs the same students' branches as one network.
      image_shape: (height, width, channels) of an image.
      shared: whether all students read one stem's map.
      one_map: whether ``together`` takes that map, or a map for each student, side by side.

    Raises:
      ValueError: if the numbers differ; the message says by how much.
    """
    branches = [architecture.branch(widths) for widths in students]
    generator = np.random.default_rng(0)
    # A training step may be being traced; these computations must not become part of it.
    with jax.ensure_compile_time_eval(), jax.default_matmul_precision("highest"), _on_host():
        maps = _random_maps(architecture, students, image_shape, generator)
        maps = maps[:1] * len(maps) if shared else maps
        variables = [
            _random_variables(jax.eval_shape(_initialized(branch), x)[1], generator)
            for branch, x in zip(branches, maps, strict=True)
        ]

        def apart_and_together(variables: Any, maps: Any, train: bool) -> tuple[Any, Any]:
            apart = [
                branch.apply(own, x, train, None, mutable=[BATCH_STATS])[0]
                for branch, own, x in zip(branches, variables, maps, strict=True)
            ]
            x = maps[0] if one_map else jnp.concatenate(maps, axis=-1)
            mode = Mode(train, None, jnp.float32, None)
            return apart, together(variables, x, mode).outputs

        run = jax.jit(apart_and_together, static_argnums=2)
        differences = [
            float(np.max(np.abs(own - other)) / max(float(np.max(np.abs(own))), 1e-30))
            for train in (False, True)
            for own, other in zip(
                *(jax.tree.leaves(jax.device_get(side)) for side in run(variables, maps, train)),
                strict=True,
            )
        ]
    worst = np.max(differences)  # NaN if any difference is NaN.
    if not worst <= _TOLERANCE:
        raise ValueError(
            f"{architecture.name} cannot run several students as one network: its numbers differ "
            f"from those of separate students, by {worst:.2g} of the largest. Its modules must not "
            "reorder channels, group them, or compute with how many there are"
        )


def _initialized(module: Any) -> Any:
    """A function: a module's input -> its output and its initial variables."""
    return lambda x: module.init_with_output(jax.random.key(0), x, False, None)


def _random_maps(
    architecture: "Architecture",
    students: Sequence[WidthVector],
    image_shape: tuple[int, int, int],
    generator: np.random.Generator,
) -> list[np.ndarray]:
    """Random maps in place of the stems'; none below 0, since a branch may take square roots."""
    images = jax.ShapeDtypeStruct((_BATCH, *image_shape), np.float32)
    stems = [architecture.stem(widths) for widths in students]
    shapes = [jax.eval_shape(_initialized(stem), images)[0].shape for stem in stems]
    return [generator.uniform(size=shape).astype(np.float32) for shape in shapes]


def _random_variables(shapes: Any, generator: np.random.Generator) -> Any:
    """Random variables in which no value is 0 and no two channels are equal."""

    def fill(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(shape.shape) < 2:
            return generator.uniform(0.5, 1.5, shape.shape).astype(shape.dtype)
        kernel = generator.normal(size=shape.shape) / math.sqrt(math.prod(shape.shape[:-1]))
        return kernel.astype(shape.dtype)

    return jax.tree.map(fill, shapes)


@contextlib.contextmanager
def _on_host() -> Iterator[None]:
    """Computes on the CPU, if JAX has a CPU backend besides an accelerator."""
    try:
        host = jax.devices("cpu")[0]
    except RuntimeError:
        yield
        return
    with jax.default_device(host):
        yield
