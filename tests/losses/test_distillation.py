"""Distillation from a fixed teacher, compared with float64 arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.losses import distillation_loss, hard_label_cross_entropy

STUDENTS, BATCH, CLASSES = 3, 5, 4
TERMS = ("hard", "feature", "soft")


def example(seed=0):
    """Returns (logits, teacher logits, feature pairs of two blocks, labels), float32."""
    generator = np.random.default_rng(seed)

    def draw(*shape):
        return generator.normal(0, 2, shape).astype(np.float32)

    teacher_maps = (draw(BATCH, 3, 3, 2), draw(BATCH, 2, 2, 3))
    pairs = [
        [None if student == 1 else (draw(*target.shape), target) for student in range(STUDENTS)]
        for target in teacher_maps
    ]
    labels = generator.integers(0, CLASSES, BATCH)
    return draw(STUDENTS, BATCH, CLASSES), draw(BATCH, CLASSES), pairs, labels


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def expected_terms(logits, teacher, pairs, labels, temperature, smoothing=0.0):
    """Returns each term by the paper's formula, one student and example at a time, in float64."""
    terms = {name: np.zeros((STUDENTS, BATCH)) for name in TERMS}
    for student in range(STUDENTS):
        for one in range(BATCH):
            target = np.full(CLASSES, smoothing / CLASSES)
            target[labels[one]] += 1 - smoothing
            terms["hard"][student, one] = -target @ log_softmax(logits[student, one])
            ours = log_softmax(np.float64(logits[student, one]) / temperature)
            theirs = log_softmax(np.float64(teacher[one]) / temperature)
            divergence = np.exp(theirs) @ (theirs - ours)
            terms["soft"][student, one] = temperature**2 * divergence
            for block in pairs:
                if block[student] is not None:
                    a, b = (np.float64(maps[one]) for maps in block[student])
                    terms["feature"][student, one] += np.mean((a - b) ** 2)
    return terms


@pytest.mark.parametrize(("temperature", "smoothing"), [(1.0, 0.0), (4.0, 0.1)])
@pytest.mark.parametrize(
    "weights",
    [
        {"hard": 0.5, "feature": 0.2, "soft": 0.3},
        {
            "hard": np.array([0.5, 1.0, 0.1]),
            "feature": np.array([0.2, 0.0, 3.0]),
            "soft": np.array([0.3, 0.0, 0.7]),
        },
    ],
    ids=["numbers", "per student"],
)
def test_equals_float64(weights, temperature, smoothing):
    logits, teacher, pairs, labels = example()
    total, terms = distillation_loss(
        logits,
        teacher,
        pairs,
        labels,
        weights=weights,
        temperature=temperature,
        label_smoothing=smoothing,
    )
    expected = expected_terms(logits, teacher, pairs, labels, temperature, smoothing)
    assert set(terms) == set(TERMS)
    for name in TERMS:
        assert (terms[name].shape, terms[name].dtype) == ((STUDENTS, BATCH), jnp.float32)
        np.testing.assert_allclose(terms[name], expected[name], rtol=2e-5, atol=1e-5, err_msg=name)
    summed = sum(np.broadcast_to(weights[name], STUDENTS) @ expected[name] for name in TERMS)
    assert (total.shape, total.dtype) == ((BATCH,), jnp.float32)
    np.testing.assert_allclose(total, summed, rtol=2e-5, atol=1e-5)


def test_by_hand():
    """Two classes: the student's odds are 1 to 1, the teacher's 3 to 1 at temperature 2."""
    teacher = jnp.array([[2 * np.log(3.0), 0.0]])
    total, terms = distillation_loss(
        jnp.zeros((1, 1, 2)),
        teacher,
        [[(jnp.full((1, 2), 3.0), jnp.array([[1.0, 2.0]]))]],
        jnp.array([0]),
        weights={"hard": 1.0, "feature": 10.0, "soft": 100.0},
        temperature=2.0,
    )
    soft = 4 * (0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5))
    assert float(terms["hard"][0, 0]) == pytest.approx(np.log(2))
    assert float(terms["feature"][0, 0]) == pytest.approx((4 + 1) / 2)
    assert float(terms["soft"][0, 0]) == pytest.approx(soft)
    assert float(total[0]) == pytest.approx(np.log(2) + 25 + 100 * soft)


def test_a_student_that_is_not_taught_has_the_plain_loss_and_gradient():
    logits, teacher, pairs, labels = example()
    weights = {
        "hard": np.array([0.5, 1.0, 0.5]),
        "feature": np.array([0.1, 0.0, 0.1]),
        "soft": np.array([0.4, 0.0, 0.4]),
    }

    def loss(logits):
        return distillation_loss(logits, teacher, pairs, labels, weights=weights, temperature=4.0)[
            0
        ].sum()

    def plain(logits):
        return hard_label_cross_entropy(logits, labels).sum()

    np.testing.assert_allclose(jax.grad(loss)(logits)[1], jax.grad(plain)(logits[1]), atol=1e-6)
    alone = distillation_loss(
        logits[1:2],
        teacher,
        [],
        labels,
        weights={"hard": 1.0, "feature": 0.0, "soft": 0.0},
        temperature=4.0,
    )[0]
    np.testing.assert_array_equal(alone, hard_label_cross_entropy(logits[1], labels))


WEIGHTS = {"hard": 0.5, "feature": 0.2, "soft": 0.3}


def test_no_gradient_reaches_the_teacher():
    logits, teacher, pairs, labels = example()

    def loss(logits, ours, teacher, theirs):
        blocks = [[(ours, theirs), None, (ours, theirs)]]
        return distillation_loss(logits, teacher, blocks, labels, weights=WEIGHTS, temperature=4.0)[
            0
        ].sum()

    ours, theirs = pairs[0][0]
    gradients = jax.grad(loss, argnums=(0, 1, 2, 3))(logits, ours, teacher, theirs)
    assert all(np.any(gradient) for gradient in gradients[:2])
    np.testing.assert_array_equal(gradients[2], 0)
    np.testing.assert_array_equal(gradients[3], 0)


def test_students_do_not_see_each_other():
    logits, teacher, pairs, labels = example()

    def loss(logits):
        return distillation_loss(logits, teacher, pairs, labels, weights=WEIGHTS, temperature=2.0)[
            0
        ].sum()

    changed = logits.copy()
    changed[0] += np.random.default_rng(1).normal(size=changed[0].shape)
    before, after = jax.grad(loss)(logits), jax.grad(loss)(changed)
    np.testing.assert_array_equal(before[1:], after[1:])
    assert np.abs(before[0] - after[0]).max() > 1e-3


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_it():
    _, teacher, pairs, labels = example()
    maps = pairs[0][0][1]
    _, terms = distillation_loss(
        teacher[None], teacher, [[(maps, maps)]], labels, weights=WEIGHTS, temperature=3.0
    )
    np.testing.assert_allclose(terms["soft"], 0, atol=1e-6)
    np.testing.assert_array_equal(terms["feature"], 0)


def test_extreme_logits_stay_finite():
    logits = jnp.array([[[1e4, -1e4, 0.0, 0.0]]])
    teacher = jnp.array([[-1e4, 1e4, 0.0, 0.0]])
    total, _ = distillation_loss(
        logits, teacher, [], jnp.array([0]), weights=WEIGHTS, temperature=1.0
    )
    assert np.isfinite(total).all()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"hard": 1.0, "soft": 1.0}, r"weights names \['hard', 'soft'\]: expected \['feature', "),
        ({**WEIGHTS, "alpha": 1.0}, r"weights names \['alpha', 'feature', 'hard', 'soft'\]"),
    ],
)
def test_wrong_weights_are_refused(weights, message):
    logits, teacher, pairs, labels = example()
    with pytest.raises(ValueError, match=message):
        distillation_loss(logits, teacher, pairs, labels, weights=weights, temperature=1.0)


def test_wrong_pairs_are_refused():
    logits, teacher, pairs, labels = example()
    with pytest.raises(
        ValueError, match=r"feature_pairs\[1\] has 2 entries: expected one for each of the 3 st"
    ):
        distillation_loss(
            logits, teacher, [pairs[0], pairs[1][:2]], labels, weights=WEIGHTS, temperature=1.0
        )
    narrow = [[(pairs[0][0][0][..., :1], pairs[0][0][1]), None, None]]
    with pytest.raises(ValueError, match="feature maps differ in shape"):
        distillation_loss(logits, teacher, narrow, labels, weights=WEIGHTS, temperature=1.0)
