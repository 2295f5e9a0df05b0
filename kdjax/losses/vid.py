"""Variational information distillation: how well the student's map predicts the teacher's."""

import chex
import jax.numpy as jnp


def vid(mean_map: chex.Array, teacher_map: chex.Array, variance: chex.Array) -> chex.Array:
    r"""Negative log likelihood of the teacher's map under a Gaussian, without its constant.

    .. math:: \frac{1}{HWC} \sum_{h,w,c} \frac{1}{2} \Big(
        \frac{(\mu_{hwc} - t_{hwc})^2}{\sigma_c^2} + \log \sigma_c^2 \Big)

    The mean comes from a small network on the student's map (in the released code three 1 x 1
    convolutions with ReLU between them). The variance is one trained number per channel. The caller
    keeps the parameters of both and gives them to the optimiser. The released code has
    :math:`\sigma^2 = \mathrm{softplus}(s) + 10^{-5}`, which is 5 at the start.

    >>> vid(jnp.ones((1, 2, 2, 3)), jnp.zeros((1, 2, 2, 3)), jnp.ones(3)).tolist()
    [0.5]

    Args:
      mean_map: ``[batch, ..., channels]`` floats, predicted from the student.
      teacher_map: floats of the same shape. The loss is differentiable in all arguments; if the
        teacher is fixed, the caller stops its gradient.
      variance: ``[channels]`` or a scalar, above 0.

    Returns:
      ``[batch]`` float32.

    Raises:
      ValueError: if the maps differ in shape, or ``variance`` is not one number per channel.

    References:
      Ahn, Hu, Damianou, Lawrence, Dai, *Variational Information Distillation for Knowledge
      Transfer*, CVPR 2019; the mean over the map as in RepDistiller.
    """
    if mean_map.shape != teacher_map.shape:
        raise ValueError(
            f"mean_map has shape {mean_map.shape} and teacher_map {teacher_map.shape}: they must "
            "be equal"
        )
    variance = jnp.asarray(variance, jnp.float32)
    channels = mean_map.shape[-1]
    if variance.shape not in ((), (channels,)):
        raise ValueError(
            f"variance has shape {variance.shape}: it must be one number, or [{channels}], one for "
            "each channel of the teacher's map"
        )
    difference = jnp.asarray(mean_map, jnp.float32) - jnp.asarray(teacher_map, jnp.float32)
    likelihood = 0.5 * (jnp.square(difference) / variance + jnp.log(variance))
    return jnp.mean(likelihood, axis=tuple(range(1, likelihood.ndim)))
