"""The student ensemble, and the same students as independent networks."""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models.adapters import Adapters, TeacherAdapters
from kdjax.models.architecture import Architecture, Network, Outputs, check_images
from kdjax.models.execution import PLAIN, Execution, Mode
from kdjax.models.normalization import BATCH_STATS
from kdjax.models.student_names import STUDENT, share_stem, student_name
from kdjax.widths import WidthVector, check_students


class StudentEnsemble(nn.Module):
    """Students of one architecture that share a stem; the first, the pivot, is the widest.

    ``apply(variables, images, train, mask)`` takes ``[batch, height, width, channels]`` floats and
    returns :class:`Outputs` with logits ``[students, batch, classes]``. Parameters are
    ``stem``, the branches ``student_1``, ``student_2``, ... and ``adapters``, so that one student
    is a sub-tree: see :func:`extract_student`. Adapters serve training only and are never deployed.

    Attributes:
      architecture: the family, depth and classes.
      student_widths: one width vector per student, the pivot's first.
      dtype: the dtype of the computation; parameters, statistics and logits are float32.
      bn_axis_name: the mapped axis to share batch statistics over, if any.
      stop_stem_gradient: block every gradient from the branches into the stem.
      execution: how the branches run; the parameters and results are the same.

    Raises:
      ValueError: when applied, if the widths are not those of an ensemble.

    References:
      Walawalkar, Shen, Savvides, ECCV 2020, section 3 and figure 1.
    """

    architecture: Architecture
    student_widths: tuple[Mapping[str, int], ...]
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None
    stop_stem_gradient: bool = False
    execution: Execution = PLAIN

    @nn.compact
    def __call__(
        self, images: chex.Array, train: bool = False, mask: chex.Array | None = None
    ) -> Outputs:
        """Logits and feature maps of all students.

        Args:
          images: ``[batch, height, width, channels]`` floats, normalised.
          train: whether to use the batch's statistics, and to update the running ones.
          mask: ``[batch]`` booleans, False for padding; None: all images are real.
        """
        check_images(images)
        vectors = check_students(
            self.student_widths, self.architecture.widths, shared=self.architecture.shared
        )
        for index, vector in enumerate(vectors):
            self.architecture.check(vector, name=f"student_widths[{index}]")
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        joint: tuple[chex.Array | None, ...] = ()
        x = self.architecture.stem(vectors[0], name="stem", **fields)(images, train, mask)
        if self.stop_stem_gradient:
            x = jax.lax.stop_gradient(x)
        if self.execution.is_plain or self.is_initializing():
            outputs = [
                self.architecture.branch(vector, name=student_name(number), **fields)(
                    x, train, mask
                )
                for number, vector in enumerate(vectors, start=1)
            ]
        else:
            mode = Mode(train, mask, self.dtype, self.bn_axis_name)
            outputs, joint = _run(self, (), x, vectors, mode, images.shape[1:])
        stacked = _stack(outputs)
        at_once = self.execution.pack == "all"
        adapters = Adapters(self.dtype, at_once, name="adapters")
        adapted, distances = adapters(stacked.features, joint)
        return stacked._replace(adapted=adapted, distances=distances)


class IndependentNetworks(nn.Module):
    """The same students as independent networks: each has its own stem, and nothing is shared.

    They are the baselines of an ensemble: parameters are ``student_1``, ``student_2``, ..., each
    the whole tree of :class:`kdjax.models.Network`. One network alone is allowed too.

    Attributes:
      architecture: the family, depth and classes.
      student_widths: one width vector per student.
      dtype: the dtype of the computation; parameters, statistics and logits are float32.
      bn_axis_name: the mapped axis to share batch statistics over, if any.
      adapters: for each student whether it learns from the feature maps of a fixed teacher, the
        full network; empty: none does. The maps of such a student are also returned at the
        teacher's channels. Where the channels differ, 1x1 convolutions under ``adapters`` convert
        the maps; they are for training only.
      teacher_channels: for each block the channels of the teacher's map that it learns from, None
        if there is no such map; empty: the channels of the full network.
      execution: how the branches run; the parameters and results are the same.
    """

    architecture: Architecture
    student_widths: tuple[Mapping[str, int], ...]
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None
    adapters: tuple[bool, ...] = ()
    teacher_channels: tuple[int | None, ...] = ()
    execution: Execution = PLAIN

    @nn.compact
    def __call__(
        self, images: chex.Array, train: bool = False, mask: chex.Array | None = None
    ) -> Outputs:
        """Logits and feature maps of all students.

        Args:
          images: ``[batch, height, width, channels]`` floats, normalised.
          train: whether to use the batch's statistics, and to update the running ones.
          mask: ``[batch]`` booleans, False for padding; None: all images are real.
        """
        networks = [
            Network(
                self.architecture,
                self.architecture.check(widths, name=f"student_widths[{number - 1}]"),
                self.dtype,
                self.bn_axis_name,
                name=student_name(number),
            )
            for number, widths in enumerate(self.student_widths, start=1)
        ]
        if self.execution.is_plain or self.is_initializing():
            outputs = [network(images, train, mask) for network in networks]
        else:
            stems = [network.stem_map(images, train, mask) for network in networks]
            mode = Mode(train, mask, self.dtype, self.bn_axis_name)
            outputs, _ = _run(self, ("branch",), stems, self.student_widths, mode, images.shape[1:])
        stacked = _stack(outputs)
        if not any(self.adapters):
            return stacked
        channels = self.teacher_channels or tuple(
            shape[-1] for shape in feature_shapes(self.architecture.build(), images)
        )
        adapted = TeacherAdapters(channels, self.adapters, self.dtype, name="adapters")
        return stacked._replace(adapted=adapted(stacked.features))


def feature_shapes(network: Network, images: Any) -> list[tuple[int, ...]]:
    """The shape ``[batch, height, width, channels]`` of each map, without computing the maps.

    Args:
      network: a single network.
      images: ``[batch, height, width, channels]`` floats, or a :class:`jax.ShapeDtypeStruct`.
    """
    shapes: Any = jax.eval_shape(
        lambda x: network.init_with_output(jax.random.key(0), x)[0], images
    )
    return [feature.shape for feature in shapes.features]


def _run(
    module: StudentEnsemble | IndependentNetworks,
    path: tuple[str, ...],
    inputs: Any,
    vectors: Sequence[Mapping[str, int]],
    mode: Mode,
    image_shape: tuple[int, int, int],
) -> tuple[list[Outputs], tuple[chex.Array | None, ...]]:
    """Runs all branches and stores their statistics; returns their outputs and joint maps."""

    def of(student: str, collection: str) -> Any:
        tree = module.variables.get(collection, {}).get(student, {})
        for name in path:
            tree = tree.get(name, {})
        return tree

    names = [student_name(number) for number in range(1, len(vectors) + 1)]
    variables = [
        {collection: of(name, collection) for collection in ("params", BATCH_STATS)}
        for name in names
    ]
    run = module.architecture.run_branches(
        vectors, variables, inputs, mode, module.execution, image_shape
    )
    if mode.train:
        for name, statistics in zip(names, run.statistics, strict=True):
            if not statistics:
                continue
            for part in reversed(path):
                statistics = {part: statistics}
            others = module.variables[BATCH_STATS][name] if path else {}
            module.put_variable(BATCH_STATS, name, {**others, **statistics})
    return run.outputs, run.joint


def _stack(outputs: list[Outputs]) -> Outputs:
    return Outputs(
        logits=jnp.stack([output.logits for output in outputs]),
        features=tuple(zip(*(output.features for output in outputs), strict=True)),
    )


def extract_student(variables: Mapping[str, Any], student: int) -> dict[str, Any]:
    """One student's variables, as those of its own deployable network.

    Args:
      variables: the variables of a :class:`StudentEnsemble` or :class:`IndependentNetworks`.
      student: 1 for the pivot, up to the number of students.

    Returns:
      The variables of ``architecture.build(student_widths[student - 1])``, whose evaluation
      output equals the ensemble's for that student. Arrays are shared, not copied.

    Raises:
      ValueError: if there is no such student.
    """
    names = [name for name in variables["params"] if STUDENT.fullmatch(name)]
    name = student_name(student)
    if name not in names:
        raise ValueError(f"student is {student}: this ensemble has students 1 to {len(names)}")
    if not share_stem(variables["params"]):
        # A network without normalisation has no statistics.
        return {collection: tree.get(name, {}) for collection, tree in variables.items()}
    parts = {"stem": "stem", "branch": name}
    return {  # A stem without normalisation has no statistics.
        collection: {part: tree[theirs] for part, theirs in parts.items() if theirs in tree}
        for collection, tree in variables.items()
    }


def student_vectors(
    architecture: Architecture, factors: tuple[float, ...]
) -> tuple[WidthVector, ...]:
    """Width vectors of students by the family's own rule; the shared stem stays as it is.

    >>> from kdjax import models
    >>> [vector["stage3"] for vector in student_vectors(models.create("resnet20", 10), (1.0, 0.6))]
    [64, 38]

    Args:
      architecture: the architecture of the students.
      factors: the factors of the widths, one for each student, the pivot's first.

    Raises:
      ValueError: if a factor is not a finite number above 0.

    References:
      Walawalkar, Shen, Savvides, ECCV 2020, section 4: 1, 0.8, 0.6, 0.4 and 0.2.
    """
    return tuple(architecture.student(factor) for factor in factors)
