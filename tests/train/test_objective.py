"""The table of terms: each equals its loss and costs nothing when off; who teaches whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import config as configuration
from kdjax import losses, models
from kdjax.models.initialize import draw
from kdjax.train.program import methods
from kdjax.train.program.objective import Examples, Taps, objective
from kdjax.train.program.online_teacher import initial_memory, remember, teacher_logits
from kdjax.train.tasks.experiment import resolve

STUDENTS, BATCH, CLASSES = 3, 6, 5
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(STUDENTS, BATCH, CLASSES)).astype(np.float32)
TEACHER = RNG.normal(size=(BATCH, CLASSES)).astype(np.float32)
LABELS = np.array([0, 3, 1, 4, 2, 2], np.int32)
SHAPES = ((4, 4, 3), (2, 2, 6))


def maps():
    return [
        tuple(RNG.normal(size=(BATCH, *shape)).astype(np.float32) for _ in range(2))
        for shape in SHAPES
    ]


PAIRS = [None, maps(), maps()]
ADAPTED = [None, maps(), maps()]
TAPS = Taps(LOGITS, TEACHER[None, None], PAIRS, ADAPTED)
EXAMPLES = Examples(LABELS, np.ones(BATCH, bool), None)


def only(name, **fields):
    """Returns the configuration with one term on, at weight 1."""
    config = configuration.default()
    for term in config.weights:
        config.weights[term] = float(term == name)
    config.update_from_flattened_dict(fields)
    return config


def pooled(pair):
    return [np.mean(each, axis=(1, 2)) for each in pair]


EXPECTED = {
    "hard": lambda i: losses.hard_label_cross_entropy(LOGITS[i], LABELS),
    "soft": lambda i: losses.soft_target_kl(LOGITS[i], TEACHER, temperature=2.0),
    "dkd": lambda i: losses.dkd(LOGITS[i], TEACHER, LABELS),
    "nkd": lambda i: losses.nkd(LOGITS[i], TEACHER, LABELS),
    "dist": lambda i: losses.dist(LOGITS[i], TEACHER),
    "mlkd_batch": lambda i: losses.mlkd_batch(LOGITS[i], TEACHER),
    "mlkd_class": lambda i: losses.mlkd_class(LOGITS[i], TEACHER),
    "feature": lambda i: sum(losses.feature_mse(*pair) for pair in ADAPTED[i]),
    "attention_transfer": lambda i: sum(losses.attention_transfer(*pair) for pair in PAIRS[i]),
    "similarity_preserving": lambda i: losses.similarity_preserving(*PAIRS[i][-1]),
    "nst": lambda i: losses.nst(*PAIRS[i][-1]),
    "rkd": lambda i: losses.rkd(*pooled(PAIRS[i][-1])),
    "pkt": lambda i: losses.pkt(*pooled(PAIRS[i][-1])),
    "fsp": lambda i: losses.fsp(
        ADAPTED[i][0][0], ADAPTED[i][1][0], ADAPTED[i][0][1], ADAPTED[i][1][1]
    ),
}


def test_distances_that_a_module_computed_stand_for_its_maps():
    distances = [
        np.stack([losses.feature_mse(*ADAPTED[i][block]) for i in (1, 2)])
        for block in range(len(SHAPES))
    ]
    found = [
        objective(only("feature"))(taps, EXAMPLES, {"feature": 2.0})
        for taps in (TAPS, TAPS._replace(adapted=[None] * STUDENTS, distances=distances))
    ]
    for ours, theirs in zip(jax.tree.leaves(found[1]), jax.tree.leaves(found[0]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    # Terms that need the maps themselves ignore these distances.
    fsp = objective(only("fsp"))(TAPS._replace(distances=distances), EXAMPLES, {"fsp": 1.0})
    np.testing.assert_allclose(fsp.terms["fsp"][1], EXPECTED["fsp"](1), rtol=1e-5)


def test_every_term_is_compared_with_its_loss():
    # Terms with modules or a memory are tested in test_term_modules.py.
    learned = {name for name, term in configuration.TERMS.items() if term.parts}
    assert set(EXPECTED) | learned == set(configuration.TERMS)
    assert learned == {"vid", "review_kd", "crd"}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_term_is_its_loss_for_each_student(name):
    wanted = jax.jit(objective(only(name)).__call__)
    total, terms, _ = wanted(TAPS, EXAMPLES, {name: jnp.float32(2.0)})
    assert list(terms) == [name]
    by_logits = configuration.TERMS[name].reads in ("labels", "logits", "logits and labels")
    first = 0 if by_logits else 1  # The pivot has no teacher of maps.
    expected = jax.jit(lambda: [EXPECTED[name](student) for student in range(first, STUDENTS)])()
    np.testing.assert_allclose(terms[name][first:], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(terms[name][:first], 0.0)
    np.testing.assert_allclose(total, 2 * terms[name].sum(0), rtol=1e-6)


def test_a_terms_own_fields_reach_its_loss():
    wanted = objective(only("dkd", **{"dkd.other_weight": 2.0, "dkd.temperature": 3.0}))
    _, terms, _ = wanted(TAPS, EXAMPLES, {"dkd": 1.0})
    expected = losses.dkd(LOGITS[1], TEACHER, LABELS, other_weight=2.0, temperature=3.0)
    np.testing.assert_allclose(terms["dkd"][1], expected, rtol=1e-5)


def test_logits_can_be_standardised():
    _, terms, _ = objective(only("soft", standardize_logits=True))(TAPS, EXAMPLES, {"soft": 1.0})
    z = [losses.standardize_logits(logits) for logits in (LOGITS[2], TEACHER)]
    expected = losses.soft_target_kl(*z, temperature=2.0)
    np.testing.assert_allclose(terms["soft"][2], expected, rtol=1e-5)


def test_of_several_teachers_the_mean_counts():
    teachers = RNG.normal(size=(STUDENTS, 2, BATCH, CLASSES)).astype(np.float32)
    taps = TAPS._replace(teacher_logits=teachers)
    _, terms, _ = objective(only("soft"))(taps, EXAMPLES, {"soft": 1.0})
    each = [losses.soft_target_kl(LOGITS[1], t, temperature=2.0) for t in teachers[1]]
    np.testing.assert_allclose(terms["soft"][1], np.mean(each, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    "name", [name for name, term in configuration.TERMS.items() if term.coupled]
)
def test_padded_rows_leave_terms_that_judge_a_batch_as_they_are(name):
    real = np.arange(BATCH) < 4
    wanted = jax.jit(objective(only(name)).__call__)
    _, padded, _ = wanted(TAPS, EXAMPLES._replace(mask=real), {name: 1.0})
    compact = jax.tree.map(lambda leaf: leaf[:4], PAIRS)
    taps = Taps(LOGITS[:, :4], TEACHER[None, None, :4], compact, ())
    _, alone, _ = wanted(taps, Examples(LABELS[:4], np.ones(4, bool), None), {name: 1.0})
    np.testing.assert_allclose(padded[name][:, :4], alone[name], rtol=1e-4, atol=1e-6)


def compiled(config):
    """Returns the compiled gradient of a small ensemble's loss, as text."""
    config.update_from_flattened_dict({"network_width": 0.25, "student_scales": (1.0, 0.5)})
    architecture = models.create("resnet8", 4, width=0.25)
    vectors = models.ensemble.student_vectors(architecture, (1.0, 0.5))
    method = methods.make("ensemble", config, architecture, vectors, 1, None)
    images = jnp.ones((2, 8, 8, 1))
    examples = Examples(jnp.array([0, 1]), jnp.ones(2, bool), None)
    variables = draw(method.initial((8, 8, 1), 2).start, 0)

    def total(params):
        outputs, _ = method.forward({**variables, "params": params}, None, images, examples.mask)
        return method.loss(outputs, examples, method.weights(0), {})[0].sum()

    return jax.jit(jax.grad(total)).lower(variables["params"]).compile().as_text()


def test_a_term_that_is_off_costs_nothing():
    plain = only("hard", **{"weights.soft": 1.0})
    count = compiled(plain).count("convolution(")
    for term in ("feature", "vid"):
        more = only("hard", **{"weights.soft": 1.0, f"weights.{term}": 1.0})
        assert compiled(more).count("convolution(") > count
    assert list(objective(plain).terms) == ["hard", "soft"]


# Rules


def taught(rule, memory=None, shares=(), labels=LABELS, gates=None, copies=None):
    config = configuration.default()
    config.ensemble.rule, config.teacher_weights = rule, shares
    logits, memory = jnp.asarray(LOGITS), memory or {}
    found = teacher_logits(logits, labels, memory, config, shares=gates, copies=copies)
    return np.asarray(found)


def test_rules_against_arithmetic():
    z = LOGITS.astype(np.float64)
    np.testing.assert_allclose(taught("average")[0, 0], z.mean(0), rtol=1e-5, atol=1e-6)
    shares = taught("average", shares=(0.5, 0.3, 0.2))
    np.testing.assert_allclose(shares[0, 0], 0.5 * z[0] + 0.3 * z[1] + 0.2 * z[2], atol=1e-6)
    others = taught("leave_one_out")
    np.testing.assert_allclose(others[1, 0], (z[0] + z[2]) / 2, atol=1e-6)
    wider = taught("wider_only")
    np.testing.assert_allclose(wider[:, 0], [z[0], z[0], (z[0] + z[1]) / 2], atol=1e-6)
    np.testing.assert_allclose(taught("pairwise")[2], z[:2], atol=1e-6)
    entropy = np.log(np.exp(z).sum(-1)) - np.take_along_axis(z, LABELS[None, :, None], 2)[..., 0]
    best = z[entropy.argmin(0), np.arange(BATCH)]
    np.testing.assert_allclose(taught("best")[0, 0], best, atol=1e-6)
    margins = z - np.take_along_axis(z, LABELS[None, :, None], 2)
    np.testing.assert_allclose(taught("min_logit")[0, 0], margins.min(0), atol=1e-6)
    # For losses 1, 2, 2 the shares are exp(-1), exp(-2), exp(-2), normalised.
    weighted = taught("by_accuracy", {"losses": np.array([1.0, 2.0, 2.0], np.float32)})
    share = np.exp([-1.0, -2.0, -2.0]) / np.exp([-1.0, -2.0, -2.0]).sum()
    np.testing.assert_allclose(weighted[0, 0], np.tensordot(share, z, 1), rtol=1e-5, atol=1e-6)
    gates = RNG.dirichlet(np.ones(STUDENTS), BATCH).astype(np.float32)
    gated = np.stack([sum(gates[b, i] * z[i, b] for i in range(STUDENTS)) for b in range(BATCH)])
    np.testing.assert_allclose(taught("gate", gates=gates)[0, 0], gated, atol=1e-6)
    copies = taught("ema", copies=2 * LOGITS)
    np.testing.assert_allclose(copies[1, 0], z[0] + z[2], atol=1e-6)


def test_rules_take_the_likeliest_class_of_mixed_labels():
    mixed = np.eye(CLASSES, dtype=np.float32)[LABELS] * 0.6 + 0.4 / CLASSES
    np.testing.assert_array_equal(taught("min_logit", labels=mixed), taught("min_logit"))
    # The best student has the smallest cross entropy against the label distribution.
    z = LOGITS.astype(np.float64)
    entropy = -(mixed * (z - np.log(np.exp(z).sum(-1, keepdims=True)))).sum(-1)
    expected = z[entropy.argmin(0), np.arange(BATCH)]
    np.testing.assert_allclose(taught("best", labels=mixed)[0, 0], expected, atol=1e-6)
    for name in ("dkd", "nkd"):
        term = objective(only(name))
        examples = EXAMPLES._replace(labels=mixed)
        given = [term(TAPS, each, {name: 1.0}).terms[name] for each in (EXAMPLES, examples)]
        np.testing.assert_array_equal(*given)


@pytest.mark.parametrize("rule", configuration.RULES)
def test_no_gradient_flows_into_teachers(rule):
    config = configuration.default()
    config.ensemble.rule = rule
    memory = initial_memory(configuration.RULES[rule], STUDENTS)
    shares = np.full((BATCH, STUDENTS), 1 / STUDENTS, np.float32)

    def total(z, shares, copies):
        return teacher_logits(z, LABELS, memory, config, shares=shares, copies=copies).sum()

    for gradient in jax.grad(total, argnums=(0, 1, 2))(LOGITS, shares, LOGITS):
        assert not gradient.any()


def test_running_losses_follow_the_metrics_and_pass_over_what_is_not_finite():
    memory = initial_memory(configuration.RULES["by_accuracy"], 2)
    after = remember(memory, {"hard": (np.array([30.0, np.nan]), np.float32(10.0))})
    np.testing.assert_allclose(after["losses"], [0.99 + 0.01 * 3.0, 0.99 + 0.01], rtol=1e-6)
    assert remember({}, {}) == {}


def test_wider_only_needs_students_in_order(small_config):
    small_config.student_scales = (1.0, 0.25, 0.5)
    resolve(small_config)
    small_config.ensemble.rule, small_config.teacher_weights = "wider_only", ()
    with pytest.raises(ValueError, match=r"student 3 has .* channels and student 2 has"):
        resolve(small_config)
    small_config.student_scales = (1.0, 0.5, 0.5)
    resolve(small_config)


def test_the_widest_learns_from_no_logits_by_the_rule_wider_only(small_config):
    small_config.ensemble.rule, small_config.teacher_weights = "wider_only", ()
    small_config.weights.update(hard=1.0, soft=0.5, nkd=2.0, feature=0.0)
    experiment = resolve(small_config)
    runner = experiment.runner("ensemble", experiment.feed())
    weights = runner.method.weights(jnp.int32(0))
    np.testing.assert_array_equal(weights["nkd"], [0.0, 2.0])
    np.testing.assert_array_equal(weights["soft"], [0.0, 0.5])
    assert weights["hard"] == 1.0


def test_a_rule_with_memory_is_part_of_the_state(small_config):
    small_config.ensemble.rule = "by_accuracy"
    experiment = resolve(small_config)
    runner = experiment.runner("ensemble", experiment.feed())
    np.testing.assert_array_equal(runner.initial_state(0).memory["losses"], np.ones(2))
