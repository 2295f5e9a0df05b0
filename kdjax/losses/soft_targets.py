"""Soft targets: the divergence between a teacher's and a student's softened predictions."""

import chex
import jax
import jax.numpy as jnp

from kdjax.losses.arguments import check_temperature
from kdjax.losses.numerics import excess, saturate

# Above this exponent exp() may overflow, so the plain sum of log ratios is used. It is also used
# where the student gives more than half of its probability to classes that have probability 0 for
# the teacher. In both cases it is as exact.
_LARGEST_EXPONENT = 60.0


def soft_target_kl(
    student_logits: chex.Array,
    teacher_logits: chex.Array,
    *,
    temperature: chex.Numeric,
    axis: int = -1,
    where: chex.Array | None = None,
) -> chex.Array:
    r"""Kullback-Leibler divergence from the student's to the teacher's softened distribution.

    .. math::
        T^2 \sum_k p_k (\log p_k - \log q_k), \quad
        p = \mathrm{softmax}(t / T), \; q = \mathrm{softmax}(z / T)

    The factor :math:`T^2` keeps the size of the gradient independent of the temperature. The
    relative error stays near that of float32 for T from 1e-3 to 1e6, even if the divergence is tiny
    before the multiplication. A class with probability zero for the teacher (a logit of ``-inf``)
    contributes zero, in value and in gradient. Values and gradients are finite as long as
    logits divided by T are: a result above the largest float32 number is replaced by that number.

    The function is differentiable in both arguments. If the teacher is fixed, the caller stops its
    gradient, as :func:`kdjax.losses.online_ensemble_loss` does.

    >>> float(soft_target_kl(jnp.zeros(3), jnp.zeros(3), temperature=2.0))
    0.0

    Args:
      student_logits: ``[..., classes]`` floats, unnormalised.
      teacher_logits: floats that broadcast against ``student_logits``.
      temperature: T from 1e-3 to 1e6, a number or a scalar array.
      axis: the axis of the classes.
      where: booleans that broadcast against the logits; classes that are False are left out.

    Returns:
      ``[...]`` float32: one divergence per distribution, at least 0 up to rounding.

    Raises:
      ValueError: if the temperature is not in its range, or the logits do not
        broadcast.

    References:
      Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, 2015.
      Walawalkar, Shen, Savvides, *Online Ensemble Model Compression using Knowledge Distillation*,
      ECCV 2020 (soft loss).
    """
    temperature = check_temperature(temperature)
    student, teacher = jnp.broadcast_arrays(
        jnp.asarray(student_logits, jnp.float32), jnp.asarray(teacher_logits, jnp.float32)
    )
    if where is not None:
        where = jnp.broadcast_to(where, teacher.shape)
        student = jnp.where(where, student, -jnp.inf)
        teacher = jnp.where(where, teacher, -jnp.inf)
    divergence = _divergence(
        _shifted(student, axis) / temperature, _shifted(teacher, axis) / temperature
    )
    scaled = saturate(temperature**2 * divergence)
    return jnp.where(jnp.isinf(divergence), divergence, scaled)


def _shifted(logits: chex.Array, axis: int) -> chex.Array:
    """Logits with the classes last, shifted so that the largest is 0, which loses no precision."""
    logits = jnp.moveaxis(logits, axis, -1)
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    return logits - jnp.where(jnp.isfinite(peak), peak, 0.0)


# optax.losses.kl_divergence and similar functions subtract logarithms of probabilities that are
# nearly equal at high temperatures. They are off by 7e-6 to 3e-5 at T = 20 and by 2 to 10 % at
# T = 1,000. At T = 1e6 none of their digits is right, while this function is exact to 4e-7.
@jax.custom_jvp
def _divergence(student: chex.Array, teacher: chex.Array) -> chex.Array:
    r"""KL over the last axis of logits whose largest entry is 0.

    Let :math:`x_k = (z_k - t_k) - \sum_j p_j (z_j - t_j)`, and u be the student's probability of
    the classes that have probability 0 for the teacher. Because :math:`\sum_k p_k x_k = 0`,

    .. math::
        \mathrm{KL} = \log \sum_k p_k e^{x_k} - \log(1 - u)
        = \mathrm{log1p} \sum_k p_k (e^{x_k} - 1 - x_k) - \mathrm{log1p}(-u)

    This is a sum of numbers that are all at least 0, so nothing cancels: a small divergence is as
    exact as a large one.
    """
    p, q, centred, present, near = _parts(student, teacher)
    missed = jnp.sum(jnp.where(present, 0.0, q), axis=-1)
    sizes = jnp.sum(p * excess(jnp.where(near, centred, 0.0)), axis=-1)
    close = jnp.log1p(sizes) - jnp.log1p(-jnp.where(near[..., 0], missed, 0.0))
    ratio = jnp.where(present, _log_probabilities(teacher) - _log_probabilities(student), 0.0)
    return jnp.where(near[..., 0], close, jnp.sum(p * ratio, axis=-1))


@_divergence.defjvp
def _divergence_jvp(primals, tangents):
    # d/dz = q - p = p (exp(x - KL) - 1) and d/dt = p (log p - log q - KL) = -p x.
    p, q, centred, present, near = _parts(*primals)
    divergence = _divergence(*primals)
    exponent = jnp.where(near, centred - divergence[..., None], 0.0)
    by_student = jnp.where(near & present, p * jnp.expm1(exponent), q - p)
    change = jnp.sum(by_student * tangents[0] - p * centred * tangents[1], axis=-1)
    return divergence, change


def _parts(student: chex.Array, teacher: chex.Array) -> tuple[chex.Array, ...]:
    """Returns p, q, x, the mask p > 0, and the mask ``[..., 1]`` of where exp(x) may be used."""
    p = jnp.exp(_log_probabilities(teacher))
    q = jnp.exp(_log_probabilities(student))
    present = p > 0
    difference = jnp.where(present, student - jnp.where(present, teacher, 0.0), 0.0)
    mean = jnp.sum(p * difference, axis=-1, keepdims=True)
    finite = jnp.isfinite(mean)
    centred = jnp.where(present & finite, difference - jnp.where(finite, mean, 0.0), 0.0)
    missed = jnp.sum(jnp.where(present, 0.0, q), axis=-1, keepdims=True)
    largest = jnp.max(centred, axis=-1, keepdims=True)
    near = finite & (largest <= _LARGEST_EXPONENT) & (missed <= 0.5)
    return p, q, centred, present, near


def _log_probabilities(shifted: chex.Array) -> chex.Array:
    """Log softmax of logits whose largest entry is 0; ``-inf`` everywhere if no class is left."""
    total = jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True)
    return shifted - jnp.log(jnp.where(total > 0, total, 1.0))
