"""Hard labels: cross entropy against classes, or against given distributions over them."""

import chex
import jax
import jax.numpy as jnp
import optax

from kdjax.losses.arguments import class_indices, is_known

_TOLERANCE = 1e-2  # Labels may have been rounded to bfloat16.


def hard_label_cross_entropy(
    logits: chex.Array, labels: chex.Array, *, label_smoothing: float = 0.0
) -> chex.Array:
    r"""Cross entropy of logits against labels, optionally smoothed.

    .. math:: -\sum_k y_k \log \mathrm{softmax}(z)_k, \quad
        y = (1 - s) \, \mathrm{onehot}(\mathrm{label}) + s / K

    Labels mixed by mixup or cutmix are distributions. They replace the one-hot labels.

    >>> round(float(hard_label_cross_entropy(jnp.array([0.0, 0.0]), jnp.array(1))), 4)
    0.6931

    Args:
      logits: ``[..., classes]`` floats, unnormalised.
      labels: integers in ``[0, classes)`` whose shape broadcasts to the leading shape of
        ``logits``, such as ``[batch]`` for logits ``[students, batch, classes]``. Inside ``jit``
        their values are not known: there, a label out of range gives NaN. Labels may also be
        floats ``[..., classes]`` that broadcast to ``logits``, each row a distribution.
        Inside ``jit`` that is not checked.
      label_smoothing: s in [0, 1).

    Returns:
      ``[...]`` float32: one cross entropy per example.

    Raises:
      ValueError: if ``label_smoothing`` is outside [0, 1), the labels are neither integers nor
        distributions over the classes, or (outside ``jit``) a label is out of range or a row is no
        distribution.

    References:
      Walawalkar, Shen, Savvides, *Online Ensemble Model Compression using Knowledge Distillation*,
      ECCV 2020 (normal loss).
      Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*, CVPR 2016,
      section 7 (smoothing).
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}: it must be in [0, 1)")
    logits = jnp.asarray(logits, jnp.float32)
    # Optax subtracts two numbers as large as the logits. Shifting the logits first makes both
    # small, so that little is lost to rounding.
    logits -= jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    if jnp.issubdtype(jnp.result_type(labels), jnp.floating):
        given = optax.softmax_cross_entropy(logits, _distributions(labels, logits))
    else:
        indices, valid = class_indices(labels, logits.shape[-1])
        indices = jnp.broadcast_to(indices, logits.shape[:-1])
        given = optax.softmax_cross_entropy_with_integer_labels(logits, indices)
        given = jnp.where(valid, given, jnp.nan)
    if label_smoothing == 0.0:
        return given
    uniform = optax.softmax_cross_entropy(logits, jnp.full_like(logits, 1 / logits.shape[-1]))
    return (1.0 - label_smoothing) * given + label_smoothing * uniform


def likeliest_class(labels: chex.Array) -> chex.Array:
    """One class for each example: the class with the largest share of its label.

    >>> likeliest_class(jnp.array([[0.3, 0.7], [1.0, 0.0]])).tolist()
    [1, 0]

    Args:
      labels: ``[batch]`` integers, which are returned as they are, or ``[batch, classes]``
        distributions.

    Returns:
      ``[batch]`` integers.
    """
    if jnp.issubdtype(jnp.result_type(labels), jnp.floating):
        return jnp.argmax(labels, axis=-1)
    return labels


def _distributions(labels: chex.Array, logits: chex.Array) -> chex.Array:
    labels = jnp.asarray(labels, jnp.float32)
    shape, classes = labels.shape, logits.shape[-1]
    # A vector with one float per example holds class numbers in a wrong dtype. It is no
    # distribution, even if there are as many examples as classes.
    if labels.ndim < min(2, logits.ndim) or labels.ndim > logits.ndim or shape[-1] != classes:
        raise ValueError(
            f"labels are floats of shape {shape}: they must be integers, or distributions of "
            f"shape [..., {classes}] for logits of shape {logits.shape}"
        )
    if is_known(labels) and labels.size:
        with jax.ensure_compile_time_eval():
            sums = jnp.sum(labels, axis=-1)
            # NaN fails every comparison, so it is refused too.
            close = jnp.all(jnp.abs(sums - 1.0) <= _TOLERANCE)
            if not bool(jnp.all(labels >= -_TOLERANCE) & close):
                raise ValueError(
                    "labels are floats, and not every row is a distribution: their sums go from "
                    f"{float(jnp.min(sums)):.6g} to {float(jnp.max(sums)):.6g}, their smallest "
                    f"entry is {float(jnp.min(labels)):.6g}"
                )
    return jnp.broadcast_to(labels, logits.shape)
