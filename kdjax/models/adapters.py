"""Adapters: 1x1 convolutions that give students' feature maps their teacher's channels."""

import functools
import operator
from collections.abc import Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models.convolution import convolve
from kdjax.models.packing import Packing, pack_kernels
from kdjax.models.student_names import student_name

Maps = tuple[tuple[chex.Array, ...], ...]
Distances = tuple[chex.Array, ...]


class Adapters(nn.Module):
    """1x1 convolutions with bias that bring students' maps to the pivot's channels, in training.

    Attributes:
      dtype: the dtype of the computation.
      at_once: run the adapters of a block as one convolution with a block-diagonal kernel.

    References:
      Walawalkar, Shen, Savvides, ECCV 2020, section 3 (adaptation layers).
    """

    dtype: chex.ArrayDType = jnp.float32
    at_once: bool = False

    @nn.compact
    def __call__(
        self, features: Maps, joint: tuple[chex.Array | None, ...] = ()
    ) -> tuple[Maps, Distances]:
        """For each block the maps of students 2..S at the pivot's channels, and their distances.

        Args:
          features: for each block each student's map.
          joint: as in :class:`kdjax.models.execution.Branches`.

        Returns:
          ``(adapted, distances)``, as in :class:`kdjax.models.Outputs`.
        """
        if self.at_once and not self.is_initializing():
            joint = joint or (None,) * len(features)
            blocks = [
                self._block_at_once(block, maps, whole) if len(maps) > 1 else ((), None)
                for block, (maps, whole) in enumerate(zip(features, joint, strict=True), start=1)
            ]
            distances = tuple(apart for _, apart in blocks if apart is not None)
            complete = len(distances) == len(blocks)
            return tuple(adapted for adapted, _ in blocks), distances if complete else ()
        adapted = tuple(
            tuple(
                nn.Conv(
                    pivot.shape[-1],
                    (1, 1),
                    dtype=self.dtype,
                    name=f"{student_name(number)}_block{block}",
                )(student)
                for number, student in enumerate(students, start=2)
            )
            for block, (pivot, *students) in enumerate(features, start=1)
        )
        return adapted, ()

    def _block_at_once(
        self, block: int, maps: tuple[chex.Array, ...], joint: chex.Array | None
    ) -> tuple[tuple[chex.Array, ...], chex.Array | None]:
        widths, pivot = tuple(own.shape[-1] for own in maps), maps[0].shape[-1]
        layers = [
            self.variables["params"][f"{student_name(number)}_block{block}"]
            for number in range(2, len(maps) + 1)
        ]
        # All maps come as one array. Cutting out the pivot's channels would copy the array and its
        # gradient, so they stay in the input, with a kernel that has no outputs.
        source = Packing(widths, sum(widths) if joint is None else joint.shape[-1])
        target = Packing.of([0, *[pivot] * len(layers)], lanes=1)
        nothing = jnp.zeros((1, 1, pivot, 0), layers[0]["kernel"].dtype)
        kernel = pack_kernels([nothing, *(layer["kernel"] for layer in layers)], source, target)
        x = (source.join(maps) if joint is None else joint).astype(self.dtype)
        y = convolve(x, kernel.astype(self.dtype), 1)
        biases = [layer["bias"].astype(self.dtype) for layer in layers]
        adapted = tuple(add_biases(y, biases, Packing(target.widths[1:], target.channels)))
        if joint is None or self.dtype != jnp.bfloat16:
            # In float32 a GPU may round the factors of a product: the pivot's map would be rounded.
            return adapted, None
        bias = target.join([layer["bias"] for layer in layers])
        return adapted, distances_from_pivot(x, kernel, bias, pivot)


def distances_from_pivot(
    x: chex.Array, kernel: chex.Array, bias: chex.Array, pivot: int
) -> chex.Array:
    """The mean squared distance between each student's adapted map and the pivot's map.

    The adapting convolution also subtracts the pivot's map: the pivot's channels are among its
    inputs, with a kernel of -1 to the outputs that are compared with them. So no map is read only
    for the distance. No gradient flows into the pivot's map.

    Args:
      x: ``[batch, height, width, channels]``: the students' maps side by side, the pivot's first.
      kernel: ``[1, 1, channels, (students - 1) * pivot]`` of the adapters, 0 for the pivot.
      bias: ``[(students - 1) * pivot]`` float32.
      pivot: the pivot's number of channels.

    Returns:
      ``[students - 1, batch]`` float32.
    """
    batch, height, width, _ = x.shape
    squares = _squares(pivot, x, kernel, bias).reshape(batch, -1, pivot)
    return jnp.sum(squares, axis=-1).T / (height * width * pivot)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _squares(pivot: int, x: chex.Array, kernel: chex.Array, bias: chex.Array) -> chex.Array:
    """Sums over the map of squared differences from the pivot, ``[batch, outputs]`` float32."""
    return _squares_forward(pivot, x, kernel, bias)[0]


def _squares_forward(pivot, x, kernel, bias):
    minus = -jnp.tile(jnp.eye(pivot, dtype=kernel.dtype), (1, kernel.shape[-1] // pivot))
    subtracting = kernel.at[0, 0, :pivot].set(minus)
    apart = convolve(x, subtracting.astype(x.dtype), 1) + bias.astype(x.dtype)
    difference = apart.astype(jnp.float32)
    squares = jnp.sum(jnp.square(difference), axis=(1, 2))
    # With the sums, the gradient of the bias does not need to read the map again.
    return squares, (x, kernel, bias, apart, jnp.sum(difference, axis=(1, 2)))


def _squares_backward(pivot, residuals, weights):
    del pivot
    x, kernel, bias, apart, sums = residuals
    gradient = (2 * weights[:, None, None, :] * apart.astype(jnp.float32)).astype(x.dtype)
    _, back = jax.vjp(lambda x, kernel: convolve(x, kernel.astype(x.dtype), 1), x, kernel)
    return *back(gradient), jnp.sum(2 * weights * sums, axis=0).astype(bias.dtype)


_squares.defvjp(_squares_forward, _squares_backward)


def add_biases(y: chex.Array, biases: Sequence[chex.Array], packing: Packing) -> list[chex.Array]:
    """Each student's map with its bias added, cut out of a map of all students.

    The gradient of a bias is the sum of its map's gradient. On a TPU separate sums are best: each
    is computed together with its map's gradient. On a GPU every sum is two kernels, so one sum of
    all is best.

    Args:
      y: ``[batch, height, width, channels]``.
      biases: ``[channels_i]`` of each student.
      packing: where in ``y`` the students' channels lie.
    """
    return jax.lax.platform_dependent(
        y,
        list(biases),
        tpu=lambda y, biases: biases_one_by_one(y, biases, packing),
        default=lambda y, biases: packing.split(y + packing.join(biases)),
    )


def biases_one_by_one(
    y: chex.Array, biases: Sequence[chex.Array], packing: Packing
) -> list[chex.Array]:
    """The form of :func:`add_biases` for TPUs: one addition for each student.

    Args:
      y: ``[batch, height, width, channels]``.
      biases: ``[channels_i]`` of each student.
      packing: where in ``y`` the students' channels lie.
    """
    return list(map(operator.add, packing.split(y), biases))


class TeacherAdapters(nn.Module):
    """Brings students' maps to a fixed teacher's channels; None for maps that are not taught.

    It is called with each block's maps, a tuple with ``[batch, height, width, channels]`` of each
    student, and returns the same with the teacher's channels.

    Attributes:
      channels: for each block the teacher's channels, None if no map of the teacher is paired.
      students: for each student whether it learns from maps.
      dtype: the dtype of the computation.

    References:
      Romero et al., *FitNets*, ICLR 2015, section 2.2 (regressors, here 1x1 convolutions).
    """

    channels: tuple[int | None, ...]
    students: tuple[bool, ...]
    dtype: chex.ArrayDType = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[tuple[chex.Array, ...], ...]
    ) -> tuple[tuple[chex.Array | None, ...], ...]:
        def adapt(x: chex.Array, number: int, block: int) -> chex.Array | None:
            channels = self.channels[block - 1]
            if channels is None or not self.students[number - 1]:
                return None
            if x.shape[-1] == channels:
                return x
            name = f"{student_name(number)}_block{block}"
            return nn.Conv(channels, (1, 1), dtype=self.dtype, name=name)(x)

        return tuple(
            tuple(adapt(x, number, block) for number, x in enumerate(maps, start=1))
            for block, maps in enumerate(features, start=1)
        )
