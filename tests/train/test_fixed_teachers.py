"""Fixed teachers of any family: pairs of blocks, adapters, weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import config as configuration
from kdjax import losses, models
from kdjax.losses.pooling import pool_to
from kdjax.models import Outputs
from kdjax.train.program import methods, term_modules
from kdjax.train.program.fixed_teachers import (
    FixedTeachers,
    TeacherNetwork,
    block_pairs,
    map_pairs,
)
from kdjax.train.program.objective import Examples, objective
from kdjax.train.program.reading import TaughtOutputs, teacher_taps
from kdjax.train.program.term_modules import LossInputs


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (3, 3, [(1, 1), (2, 2), (3, 3)]),
        (3, 7, [(1, 3), (2, 5), (3, 7)]),
        (5, 3, [(2, 1), (4, 2), (5, 3)]),
        (1, 4, [(1, 4)]),
        (3, 0, []),
    ],
)
def test_blocks_are_paired_by_depth(student, teacher, pairs):
    assert [(own + 1, other + 1) for own, other in block_pairs(student, teacher)] == pairs


def test_maps_of_other_sizes_are_averaged_to_the_smaller():
    rng = np.random.default_rng(0)
    student = [rng.normal(size=(2, size, size, 3)).astype(np.float32) for size in (8, 4, 2)]
    teacher = [rng.normal(size=(2, size, size, 3)).astype(np.float32) for size in (8, 8, 4, 2, 1)]
    pairs = map_pairs(student, teacher, equal_sizes=True)
    # Pairs 1-2, 2-4 and 3-5: 8 and 8, 4 and 2, 2 and 1 pixels.
    halves = student[1].reshape(2, 2, 2, 2, 2, 3).mean(axis=(2, 4))
    whole = student[2].mean(axis=(1, 2), keepdims=True)
    for (found, target), expected, other in zip(
        pairs, (student[0], halves, whole), (1, 3, 4), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(target, teacher[other])
    as_they_are = map_pairs(student, teacher, equal_sizes=False)
    assert [pair[0].shape[1] for pair in as_they_are] == [8, 4, 2]


def test_the_feature_term_between_families_is_that_of_the_pairs():
    """Three blocks of the student learn from five of the teacher; student 2 is not taught."""
    rng = np.random.default_rng(1)

    def maps(*shapes):
        return [rng.normal(size=(2, s, s, c)).astype(np.float32) for s, c in shapes]

    teacher = maps((8, 3), (4, 5), (4, 5), (2, 7), (2, 9))
    own, adapted = maps((8, 2), (4, 2), (2, 2)), maps((8, 5), (4, 7), (2, 9))
    outputs = TaughtOutputs(
        np.zeros((2, 2, 4), np.float32),
        tuple((each, each) for each in own),
        tuple((each, None) for each in adapted),
        Outputs(np.ones((2, 4), np.float32), tuple(teacher)),
    )
    config = configuration.distill_default()
    config.weights.update(hard=0.0, soft=0.0, feature=1.0)
    taps = teacher_taps(outputs, (True, False))
    examples = Examples(np.zeros(2, np.int32), np.ones(2, bool), None)
    _, terms, _ = objective(config)(taps, examples, {"feature": np.array([1.0, 0.0])})
    expected = sum(
        losses.feature_mse(pool_to(mine, size, size), pool_to(teacher[other], size, size))
        for mine, other, size in zip(adapted, (1, 3, 4), (4, 2, 2), strict=True)
    )
    np.testing.assert_allclose(terms["feature"], [expected, np.zeros(2)], rtol=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "channels"),
    [
        ("resnet8", "mobilenet_v2", (8, 24, 80)),  # A quarter of 32, 96 and 320.
        ("mobilenet_v2", "resnet8", (None, None, 4, None, 8, None, 16)),
        ("resnet8", "vgg16_bn", (32, 128, 128)),
    ],
)
def test_students_are_adapted_to_teachers_of_other_families(student, teacher, channels):
    """Every term works between any two families; only shapes are computed here."""
    own, other = (models.create(name, 4, width=0.25) for name in (student, teacher))
    config = configuration.distill_default()
    names = [name for name in config.weights if name not in ("fsp", "review_kd")]
    config.weights.update(dict.fromkeys((*names, "review_kd"), 1.0))
    frozen = FixedTeachers((TeacherNetwork(other, other.widths),))
    assert frozen.channels(len(own.blocks), (32, 32, 3)) == channels
    method = methods.from_teacher(
        config,
        own,
        (own.widths,) * 2,
        (True, False),
        None,
        teachers=frozen,
        image_shape=(32, 32, 3),
        steps_per_epoch=3,
    )
    images = jnp.zeros((2, 32, 32, 3))
    numbers = jnp.zeros(2, jnp.int32)
    examples = Examples(numbers, jnp.ones(2, bool), None, indices=numbers, key=jax.random.key(0))
    beginning = method.initial((32, 32, 3), 8)
    memory = {
        term_modules.NETWORK: jax.tree.map(jnp.asarray, term_modules.initial_memories(beginning, 0))
    }

    def objective_of(variables, taught):
        outputs, _ = method.forward(variables, taught, images, examples.mask)
        return method.loss(outputs, examples, method.weights(jnp.int32(0)), memory)

    variables = beginning.start.shapes
    taught = jax.eval_shape(other.build().init, jax.random.key(0), images)
    total, terms, _ = jax.eval_shape(objective_of, variables, taught)
    assert total.shape == (2,)
    assert {leaf.shape for leaf in terms.values()} == {(2, 2)}
    adapters = variables["params"]["adapters"]
    assert sorted(adapters) == [
        f"student_1_block{block}" for block, width in enumerate(channels, 1) if width
    ]


def test_without_a_weight_of_labels_the_student_alone_still_learns_them():
    architecture = models.create("resnet8", 4, width=0.25)
    config = configuration.distill_default()
    config.weights.update(hard=0.0, soft=1.0)
    method = methods.from_teacher(
        config,
        architecture,
        (architecture.widths,) * 2,
        (True, False),
        None,
        image_shape=(8, 8, 1),
        steps_per_epoch=10,
    )
    logits = jnp.array(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    outputs = LossInputs(logits, TaughtOutputs(logits, (), (), Outputs(logits[0], ())), {})
    examples = Examples(jnp.array([0, 1, 2]), jnp.ones(3, bool), None)
    total, _, _ = method.loss(outputs, examples, method.weights(jnp.int32(0)), {})
    # The first student agrees with its teacher: only the second one's cross entropy is left.
    expected = losses.hard_label_cross_entropy(logits[1], examples.labels)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-6)
