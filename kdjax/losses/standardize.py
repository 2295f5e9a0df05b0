"""Standardised logits: the student learns their shape, not their scale."""

import chex
import jax
import jax.numpy as jnp

from kdjax.losses.numerics import EQUAL, square_root


def standardize_logits(logits: chex.Array, *, epsilon: float = 1e-7) -> chex.Array:
    r"""Logits as z-scores over the classes.

    .. math:: \frac{z - \bar z}{\sigma(z) + \epsilon}, \quad
        \sigma(z)^2 = \frac{1}{K - 1} \sum_k (z_k - \bar z)^2

    Applied to student and teacher before any loss of logits, it frees the student from matching
    the range of the teacher's logits: ``soft_target_kl(standardize_logits(z),
    standardize_logits(t), temperature=2.0)``, with a weight of 9 in the authors' CIFAR-100
    commands. The loss keeps its own temperature.

    >>> standardize_logits(jnp.array([[1.0, 2.0, 3.0]])).round(4).tolist()
    [[-1.0, 0.0, 1.0]]

    Args:
      logits: ``[..., classes]`` floats, usually ``[batch, classes]``.
      epsilon: added to the deviation; equal logits give 0, and get no gradient.

    Returns:
      ``[..., classes]`` float32.

    Raises:
      ValueError: if there is one class, or epsilon is not above 0.

    References:
      Sun, Ren, Li, Wang, Cao, *Logit Standardization in Knowledge Distillation*, CVPR 2024,
      section 4.3 and algorithm 1. The paper divides the variance by K; here it is divided by K - 1,
      and epsilon is added, as in the released code.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon is {epsilon}: it must be above 0")
    logits = jnp.asarray(logits, jnp.float32)
    classes = logits.shape[-1]
    if classes < 2:
        raise ValueError(f"logits have shape {logits.shape}: a deviation needs 2 classes or more")
    # Squares of logits above 1e19 overflow. Scaling by a power of two is exact.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(logits), axis=-1, keepdims=True))
    scale = jnp.ldexp(jnp.ones_like(largest), -jnp.clip(jnp.frexp(largest)[1] - 40, 0, 100))
    scaled = logits * scale
    centred = scaled - jnp.mean(scaled, axis=-1, keepdims=True)
    squared = jnp.sum(jnp.square(centred), axis=-1, keepdims=True)
    # Equal logits differ only by rounding. Divided by epsilon, these differences would give large
    # values and gradients, so the result is set to 0.
    equal = squared <= EQUAL * jnp.sum(jnp.square(scaled), axis=-1, keepdims=True)
    deviation = square_root(jnp.where(equal, 0.0, squared) / (classes - 1))
    return jnp.where(equal, 0.0, centred / (deviation + epsilon * scale))
