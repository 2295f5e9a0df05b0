"""The student ensemble, and the same students as independent networks."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models.architecture import Architecture, Network, Outputs, check_images
from kdjax.models.convolution import convolve
from kdjax.models.execution import PLAIN, Execution, Mode
from kdjax.models.normalization import BATCH_STATS
from kdjax.models.packing import Packing, pack_kernels
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
      dtype: of the computation; parameters, statistics and logits are float32.
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
                self.architecture.branch(vector, name=f"student_{number}", **fields)(x, train, mask)
                for number, vector in enumerate(vectors, start=1)
            ]
        else:
            mode = Mode(train, mask, self.dtype, self.bn_axis_name)
            outputs, joint = _run(self, (), x, vectors, mode, images.shape[1:])
        stacked = _stack(outputs)
        at_once = self.execution.pack == "all"
        adapted = Adapters(self.dtype, at_once, name="adapters")(stacked.features, joint)
        return stacked._replace(adapted=adapted)


class Adapters(nn.Module):
    """1x1 convolutions with bias that bring students' maps to the pivot's channels.

    Attributes:
      dtype: of the computation.
      at_once: run those of a block as one convolution, whose kernel is block-diagonal.

    References:
      Walawalkar, Shen, Savvides, ECCV 2020, section 3 (adaptation layers).
    """

    dtype: chex.ArrayDType = jnp.float32
    at_once: bool = False

    @nn.compact
    def __call__(
        self,
        features: tuple[tuple[chex.Array, ...], ...],
        joint: tuple[chex.Array | None, ...] = (),
    ) -> tuple[tuple[chex.Array, ...], ...]:
        """The maps of students 2..S at the pivot's channels, for each block.

        Args:
          features: for each block each student's map.
          joint: of :class:`kdjax.models.execution.Branches`.
        """
        if self.at_once and not self.is_initializing():
            joint = joint or (None,) * len(features)
            return tuple(
                self._block_at_once(block, maps, whole) if len(maps) > 1 else ()
                for block, (maps, whole) in enumerate(zip(features, joint, strict=True), start=1)
            )
        return tuple(
            tuple(
                nn.Conv(
                    pivot.shape[-1],
                    (1, 1),
                    dtype=self.dtype,
                    name=f"student_{number}_block{block}",
                )(student)
                for number, student in enumerate(students, start=2)
            )
            for block, (pivot, *students) in enumerate(features, start=1)
        )

    def _block_at_once(
        self, block: int, maps: tuple[chex.Array, ...], joint: chex.Array | None
    ) -> tuple[chex.Array, ...]:
        widths, pivot = tuple(own.shape[-1] for own in maps), maps[0].shape[-1]
        layers = [
            self.variables["params"][f"student_{number}_block{block}"]
            for number in range(2, len(maps) + 1)
        ]
        # The pivot's channels stay in the input, with a kernel of no outputs: all maps come as one
        # array, and cutting it would be a copy, also of its gradient.
        source = Packing(widths, sum(widths) if joint is None else joint.shape[-1])
        target = Packing.of([0, *[pivot] * len(layers)], lanes=1)
        nothing = jnp.zeros((1, 1, pivot, 0), layers[0]["kernel"].dtype)
        kernel = pack_kernels([nothing, *(layer["kernel"] for layer in layers)], source, target)
        x = source.join(maps) if joint is None else joint
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), 1)
        biases = [layer["bias"].astype(self.dtype) for layer in layers]
        return tuple(add_biases(y, biases, Packing(target.widths[1:], target.channels)))


def add_biases(y: chex.Array, biases: Sequence[chex.Array], packing: Packing) -> list[chex.Array]:
    """Each student's map with its bias, from all of them side by side.

    In the derivative a bias has the sum of its map's gradient. A TPU sums each gradient where it is
    computed, if each is summed by itself. On a GPU every sum is two kernels: one sum is best.

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
    """:func:`add_biases` as TPUs take it.

    Args:
      y: ``[batch, height, width, channels]``.
      biases: ``[channels_i]`` of each student.
      packing: where in ``y`` the students' channels lie.
    """
    return list(map(operator.add, packing.split(y), biases))


class IndependentNetworks(nn.Module):
    """The same students side by side, each with its own stem, none seeing another.

    They are the baselines of an ensemble: parameters are ``student_1``, ``student_2``, ..., each
    the whole tree of :class:`kdjax.models.Network`. One network alone is allowed too.

    Attributes:
      architecture: the family, depth and classes.
      student_widths: one width vector per student.
      dtype: of the computation; parameters, statistics and logits are float32.
      bn_axis_name: the mapped axis to share batch statistics over, if any.
      adapters: for each student whether a fixed teacher, the full network, teaches it feature by
        feature; empty: none. Such a student's maps are returned at the teacher's channels, by
        1x1 convolutions under ``adapters`` where they differ, for training only.
      teacher_channels: for each block the channels of the teacher's map that teaches it, None where
        none does; empty: those of the full network.
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
                name=f"student_{number}",
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


class TeacherAdapters(nn.Module):
    """Brings students' maps to a fixed teacher's channels; None for students and blocks without.

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
            name = f"student_{number}_block{block}"
            return nn.Conv(channels, (1, 1), dtype=self.dtype, name=name)(x)

        return tuple(
            tuple(adapt(x, number, block) for number, x in enumerate(maps, start=1))
            for block, maps in enumerate(features, start=1)
        )


def feature_shapes(network: Network, images: Any) -> list[tuple[int, ...]]:
    """The shape ``[batch, height, width, channels]`` of each feature map; computes nothing.

    Args:
      network: a single one.
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
    """Outputs and joint maps of all students' branches; keeps their running statistics."""

    def of(student: str, collection: str) -> Any:
        tree = module.variables.get(collection, {}).get(student, {})
        for name in path:
            tree = tree.get(name, {})
        return tree

    names = [f"student_{number}" for number in range(1, len(vectors) + 1)]
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
      variables: of a :class:`StudentEnsemble` or :class:`IndependentNetworks`.
      student: 1 for the pivot, up to the number of students.

    Returns:
      The variables of ``architecture.build(student_widths[student - 1])``, whose evaluation
      output equals the ensemble's for that student. Arrays are shared, not copied.

    Raises:
      ValueError: if there is no such student.
    """
    names = [name for name in variables["params"] if name.startswith("student_")]
    name = f"student_{student}"
    if name not in names:
        raise ValueError(f"student is {student}: this ensemble has students 1 to {len(names)}")
    if "stem" not in variables["params"]:
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
      architecture: of the students.
      factors: of the widths, one for each student, the pivot's first.

    Raises:
      ValueError: if a factor is not a finite number above 0.

    References:
      Walawalkar, Shen, Savvides, ECCV 2020, section 4: 1, .8, .6, .4, .2.
    """
    return tuple(architecture.student(factor) for factor in factors)
