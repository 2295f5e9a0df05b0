"""NaN is kept: a broken teacher or student shows in every loss."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

LABELS = np.array([0, 1, 2, 3])


def standardized(student, teacher):
    student, teacher = map(losses.standardize_logits, (student, teacher))
    return losses.soft_target_kl(student, teacher, temperature=2.0)


OF_LOGITS = {
    "soft": lambda s, t: losses.soft_target_kl(s, t, temperature=4.0),
    "standardized": standardized,
    "dkd": lambda s, t: losses.dkd(s, t, LABELS),
    "nkd": lambda s, t: losses.nkd(s, t, LABELS),
    "dist": losses.dist,
    "mlkd": losses.mlkd_batch,
    "mlkd_class": losses.mlkd_class,
}
OF_MAPS = {
    name: getattr(losses, name)
    for name in ("attention_transfer", "similarity_preserving", "nst", "pkt", "rkd", "feature_mse")
}


@pytest.mark.parametrize("name", [*OF_LOGITS, *OF_MAPS])
def test_a_broken_network_shows(name):
    rng = np.random.default_rng(0)
    shape = (4, 5) if name in OF_LOGITS else (4, 4, 4, 3)
    loss = (OF_LOGITS | OF_MAPS)[name]
    compiled = jax.jit(jax.value_and_grad(lambda a, b: jnp.sum(loss(a, b)), (0, 1)))
    for whose, value in itertools.product((0, 1), (np.nan, np.inf)):
        given = [rng.normal(size=shape).astype(np.float32) for _ in range(2)]
        given[whose][...] = value
        values, gradients = compiled(*given)
        assert not np.isfinite(values)
        assert not all(np.isfinite(gradient).all() for gradient in gradients)
