"""Arguments whose axes do not fit are refused, because broadcasting would give wrong numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

WEIGHTS = {"hard": 1.0, "feature": 1.0, "soft": 1.0}
LOGITS, LABELS = jnp.zeros((2, 4, 5)), jnp.zeros(4, int)
ONE_IMAGE = jnp.zeros((1, 2, 2, 3))


def ensemble(logits=LOGITS, labels=LABELS, pairs=()):
    return losses.online_ensemble_loss(logits, pairs, labels, weights=WEIGHTS, temperature=2.0)


def distillation(teacher, labels=LABELS):
    return losses.distillation_loss(LOGITS, teacher, (), labels, weights=WEIGHTS, temperature=2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ensemble(LOGITS[0]), r"shape \(4, 5\): expected \[students, batch, classes\]"),
        (lambda: ensemble(labels=LABELS[:1]), r"labels have shape \(1,\), expected \(4,\)"),
        (
            lambda: ensemble(pairs=[[(ONE_IMAGE, ONE_IMAGE)]]),
            r"feature_pairs\[0\]: the maps of student 2 have 1 examples, the logits 4",
        ),
        (
            lambda: distillation(LOGITS[0, :1]),
            r"teacher_logits have shape \(1, 5\), expected \(4, 5\)",
        ),
        (lambda: losses.leave_one_out_logits(LOGITS[0]), r"expected \[students, batch, classes\]"),
        (lambda: losses.pairwise_logits(LOGITS[0]), r"expected \[students, batch, classes\]"),
        (
            lambda: losses.soft_target_kl(LOGITS, LOGITS, temperature=jnp.ones((4, 1))),
            r"temperature has shape \(4, 1\): it must be one number",
        ),
        (lambda: losses.min_margin_logits(LOGITS, LABELS + 5), "labels hold 5"),
    ],
)
def test_what_would_broadcast_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_shares_of_the_students_may_be_computed_inside_jit():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    running = jnp.array([1.0, 2.0, 3.0])

    def teacher(running):
        return losses.ensemble_logits(logits, losses.accuracy_weights(running))

    np.testing.assert_allclose(jax.jit(teacher)(running), teacher(running), rtol=1e-6)
