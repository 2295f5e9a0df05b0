"""Hard labels: cross entropy against integer classes."""

import chex
import jax
import jax.numpy as jnp


def hard_label_cross_entropy(
    logits: chex.Array, labels: chex.Array, *, label_smoothing: float = 0.0
) -> chex.Array:
    r"""Cross entropy of logits against integer labels, optionally smoothed.

    .. math:: -\sum_k y_k \log \mathrm{softmax}(z)_k, \quad
        y = (1 - s) \, \mathrm{onehot}(\mathrm{label}) + s / K

    >>> round(float(hard_label_cross_entropy(jnp.array([0.0, 0.0]), jnp.array(1))), 4)
    0.6931

    Args:
      logits: ``[..., classes]`` floats, unnormalised.
      labels: integers in ``[0, classes)`` whose shape broadcasts to the leading shape of
        ``logits``: ``[batch]`` labels serve ``[students, batch, classes]`` logits. Values are not
        checked here (they may be traced); a label out of range yields NaN.
      label_smoothing: s in [0, 1).

    Returns:
      ``[...]`` float32: one cross entropy per example.

    Raises:
      ValueError: if ``label_smoothing`` is outside [0, 1) or the labels are not integers.

    References:
      Walawalkar, Shen, Savvides, ECCV 2020, section 3 (normal loss).
      Szegedy et al., *Rethinking the Inception Architecture*, CVPR 2016, section 7 (smoothing).
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}: it must be in [0, 1)")
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels have dtype {labels.dtype}: they must be integers")
    log_q = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    labels = jnp.broadcast_to(labels, log_q.shape[:-1])
    # mode="fill" turns an out-of-range label into NaN instead of silently clipping it; negative
    # indices would wrap around, so they are sent out of range first.
    labels = jnp.where(labels < 0, log_q.shape[-1], labels)
    picked = jnp.take_along_axis(log_q, labels[..., None], axis=-1, mode="fill")[..., 0]
    if label_smoothing == 0.0:
        return -picked
    return -((1.0 - label_smoothing) * picked + label_smoothing * jnp.mean(log_q, axis=-1))
