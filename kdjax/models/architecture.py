"""The interface that every network family implements, and the single network built from it."""

import abc
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import chex
import flax.linen as nn
import jax.numpy as jnp

from kdjax import costs, tracing
from kdjax.models import merging
from kdjax.models.execution import Branches, Execution, Mode
from kdjax.widths import WidthVector, check, scale


class Outputs(NamedTuple):
    """What a network or an ensemble returns.

    Attributes:
      logits: float32, ``[batch, classes]``; of an ensemble ``[students, batch, classes]``.
      features: the map after each block, ``[batch, height, width, channels]``; of an ensemble,
        for each block a tuple with each student's map.
      adapted: only for students that learn from feature maps: for each block a tuple with the maps
        of students 2..S, brought to the pivot's channels. If the teacher is fixed, the maps of all
        students, brought to the teacher's channels; None for students that are not taught.
      distances: for each block the mean squared distances ``[students - 1, batch]`` between the
        adapted maps of students 2..S and the pivot's map, into which no gradient flows. Empty if
        the execution strategy does not compute them with the adapters.
    """

    logits: chex.Array
    features: tuple[Any, ...]
    adapted: tuple[tuple[chex.Array | None, ...], ...] = ()
    distances: tuple[chex.Array, ...] = ()


@dataclasses.dataclass(frozen=True)
class Architecture(abc.ABC):
    """A network family at one depth and number of classes; widths are still open.

    A family says how its stem and its branch (blocks and classifier) are built from a width
    vector, and by what rule its widths are scaled. Everything else in kdjax works on any
    Architecture.

    Attributes:
      name: as given to :func:`kdjax.models.create`.
      num_classes: number of classes.
      widths: the full width vector.
    """

    name: str
    num_classes: int
    widths: WidthVector

    @property
    def shared(self) -> tuple[str, ...]:
        """Groups that belong to the stem, which the students of an ensemble share."""
        return ("stem",)

    @property
    def keeps_cardinality(self) -> bool:
        """Whether grouped convolutions keep their number of groups at all widths.

        If so, a search removes the same channel from each group, and removes none from a depthwise
        convolution, whose groups are single channels. If not, it removes whole groups.
        """
        return False

    @property
    def drops(self) -> bool:
        """Whether training drops parts of the network at random; the random key is ``dropout``."""
        return False

    @property
    @abc.abstractmethod
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks, in order; a feature map is taken after each."""

    @abc.abstractmethod
    def stem(self, widths: Mapping[str, int], **module_fields: Any) -> nn.Module:
        """A module ``(images, train, mask) -> map``.

        Args:
          widths: the widths of the network.
          module_fields: the fields that all modules share: ``dtype``, ``bn_axis_name`` (the mapped
            axis of the devices, or None) and, in an ensemble, ``name``.
        """

    @abc.abstractmethod
    def branch(self, widths: Mapping[str, int], **module_fields: Any) -> nn.Module:
        """A module ``(map, train, mask) -> Outputs``; arguments as in :meth:`stem`."""

    def scaled(self, width: float) -> Self:
        """This architecture with every full width times ``width``, the stem's included.

        Raises:
          ValueError: if ``width`` is not a finite number above 0.
        """
        return dataclasses.replace(self, widths=scale(self.widths, width))

    def student(self, factor: float) -> WidthVector:
        """The widths of a student ``factor`` times as wide, whose stem stays as it is.

        Raises:
          ValueError: if ``factor`` is not a finite number above 0.
        """
        return scale(self.widths, factor, self.shared)

    def check(self, widths: Mapping[str, int], *, name: str = "widths") -> WidthVector:
        """Checks that ``widths`` describes a network of this architecture.

        Args:
          widths: the vector to check.
          name: what the vector is called in error messages.

        Returns:
          ``widths`` as a WidthVector, groups in the order of the full one.

        Raises:
          ValueError: if the widths do not fit; the message names the group.
        """
        return check(widths, self.widths, name=name)

    def cost(self, widths: Mapping[str, int], image_shape: tuple[int, int, int]) -> costs.Cost:
        """The cost of the network with these widths, counted in its own forward pass.

        Args:
          widths: a width vector that fits this architecture.
          image_shape: (height, width, channels) of the input.

        Raises:
          ValueError: if the widths do not fit; the message names the group.
          NotImplementedError: if an operation cannot be traced; the message says which.
        """
        return _cost(self, self.check(widths), image_shape)

    @property
    def executions(self) -> tuple[str, ...]:
        """Names of the supported strategies: ``sequential`` and those of :meth:`run_branches`."""
        # Merged students would all drop the same parts. And if a grouped convolution keeps its
        # number of groups, each group would read channels of several students.
        if self.drops or self.keeps_cardinality:
            return ("sequential",)
        return ("sequential", "packed", "merged")

    def run_branches(
        self,
        student_widths: Sequence[Mapping[str, int]],
        variables: Sequence[Mapping[str, Any]],
        inputs: Any,
        mode: Mode,
        execution: Execution,
        image_shape: tuple[int, int, int],
    ) -> Branches:
        """Runs the branches of several students by a strategy; results are those of the modules.

        Args:
          student_widths: a width vector for each student.
          variables: each student's ``{"params": ..., "batch_stats": ...}`` of its branch.
          inputs: the stem's map ``[batch, height, width, channels]``, or a list with one for each
            student.
          mode: training or evaluation, and how to compute.
          execution: the strategy.
          image_shape: (height, width, channels) of what the stem reads.

        Raises:
          ValueError: if students of this family cannot run as one network; the message says why.
        """
        return merging.run_branches(
            self, student_widths, variables, inputs, mode, execution, image_shape
        )

    def build(
        self,
        widths: Mapping[str, int] | None = None,
        *,
        dtype: chex.ArrayDType = jnp.float32,
        bn_axis_name: str | None = None,
    ) -> "Network":
        """The linen module with these widths (None: the full ones).

        Args:
          widths: a width vector that fits this architecture.
          dtype: the dtype of the computation; parameters, statistics and logits are float32.
          bn_axis_name: the mapped axis to share batch statistics over, if any.

        Raises:
          ValueError: if the widths do not fit; the message names the group.
        """
        vector = self.widths if widths is None else self.check(widths)
        return Network(self, vector, dtype=dtype, bn_axis_name=bn_axis_name)


@functools.lru_cache(maxsize=1024)
def _cost(
    architecture: Architecture, widths: WidthVector, image_shape: tuple[int, int, int]
) -> costs.Cost:
    return tracing.count(tracing.trace(architecture.build(widths), image_shape))


class Network(nn.Module):
    """One deployable network: a stem and a branch. Built by :meth:`Architecture.build`.

    ``net.apply(variables, images, train=False)`` takes ``[batch, height, width, channels]`` floats
    and returns :class:`Outputs`. With ``train=True`` and ``mutable=["batch_stats"]`` it normalises
    by batch statistics, which leave out the examples where ``mask [batch]`` is False.
    """

    architecture: Architecture
    widths: WidthVector
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    def setup(self) -> None:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        self.stem = self.architecture.stem(self.widths, **fields)
        self.branch = self.architecture.branch(self.widths, **fields)

    def __call__(
        self, images: chex.Array, train: bool = False, mask: chex.Array | None = None
    ) -> Outputs:
        """Logits and feature maps of images.

        Args:
          images: ``[batch, height, width, channels]`` floats, normalised.
          train: whether to use the batch's statistics, and to update the running ones.
          mask: ``[batch]`` booleans, False for padding; None: all images are real.
        """
        return self.branch(self.stem_map(images, train, mask), train, mask)

    def stem_map(
        self, images: chex.Array, train: bool = False, mask: chex.Array | None = None
    ) -> chex.Array:
        """The stem's map, which the branch reads, ``[batch, height, width, channels]``.

        Args:
          images: ``[batch, height, width, channels]`` floats, normalised.
          train: whether to use the batch's statistics, and to update the running ones.
          mask: ``[batch]`` booleans, False for padding; None: all images are real.
        """
        check_images(images)
        return self.stem(images, train, mask)


def check_images(images: chex.Array) -> None:
    """Raises ValueError unless ``images`` is a batch of floating-point maps."""
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images have shape {images.shape} and dtype {images.dtype}: expected floats "
            "[batch, height, width, channels]"
        )
