"""Teacher rules of an online ensemble: whose logits teach which student.

Each rule is a function of all students' logits, and of labels or shares where it needs them. It
returns ``[students, batch, classes]``, a teacher for each student; ``[students, teachers, batch,
classes]``, several for each; or ``[batch, classes]``, one teacher for all. :func:`accuracy_weights`
returns weights for :func:`kdjax.losses.ensemble_logits` instead. The functions are differentiable;
if the teachers are to be constants, the caller stops their gradient.
"""

import chex
import jax
import jax.numpy as jnp

from kdjax.losses.arguments import check_students_logits, class_indices
from kdjax.losses.hard_labels import hard_label_cross_entropy


def leave_one_out_logits(logits: chex.Array) -> chex.Array:
    """Each student is taught by the mean of the others.

    >>> leave_one_out_logits(jnp.array([[[1.0]], [[2.0]], [[6.0]]]))[:, 0, 0].tolist()
    [4.0, 3.5, 1.5]

    Args:
      logits: ``[students, batch, classes]`` floats, at least two students.

    Returns:
      ``[students, batch, classes]`` float32.

    Raises:
      ValueError: if there is only one student, or an axis is missing.

    References:
      Song, Chai, *Collaborative Learning for Deep Neural Networks*, NeurIPS 2018, section 3.
    """
    students = _check_two_students(logits)
    logits = jnp.asarray(logits, jnp.float32)
    return (jnp.sum(logits, axis=0) - logits) / (students - 1)


def wider_only_logits(logits: chex.Array) -> chex.Array:
    """Each student is taught by the mean of the students before it, which are wider.

    The first student has no teacher. Its row holds its own logits, so that its divergence from them
    is 0. A cross entropy with them, as in NKD, is not 0: the caller has to leave it out.

    >>> wider_only_logits(jnp.array([[[1.0]], [[2.0]], [[6.0]]]))[:, 0, 0].tolist()
    [1.0, 1.0, 1.5]

    Args:
      logits: ``[students, batch, classes]`` floats, the widest first, at least two students.

    Returns:
      ``[students, batch, classes]`` float32.

    Raises:
      ValueError: if there is only one student, or an axis is missing.
    """
    students = _check_two_students(logits)
    logits = jnp.asarray(logits, jnp.float32)
    counts = jnp.arange(1, students, dtype=jnp.float32)[:, None, None]
    return jnp.concatenate([logits[:1], jnp.cumsum(logits[:-1], axis=0) / counts])


def pairwise_logits(logits: chex.Array) -> chex.Array:
    """Each student is taught by every other one, separately: mutual learning.

    >>> pairwise_logits(jnp.array([[[1.0]], [[2.0]], [[6.0]]]))[..., 0, 0].tolist()
    [[2.0, 6.0], [1.0, 6.0], [1.0, 2.0]]

    Args:
      logits: ``[students, batch, classes]`` floats, at least two students.

    Returns:
      ``[students, students - 1, batch, classes]`` float32: a student's loss is the mean over its
      teachers, the second axis.

    Raises:
      ValueError: if there is only one student, or an axis is missing.

    References:
      Zhang, Xiang, Hospedales, Lu, *Deep Mutual Learning*, CVPR 2018, equation 8.
    """
    students = _check_two_students(logits)
    logits = jnp.asarray(logits, jnp.float32)
    teachers = [[j for j in range(students) if j != i] for i in range(students)]
    return logits[jnp.array(teachers)]


def best_logits(logits: chex.Array, labels: chex.Array) -> chex.Array:
    """For each example, all are taught by the student with the smallest cross entropy.

    >>> logits = jnp.array([[[2.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    >>> best_logits(logits, jnp.array([0, 1])).tolist()
    [[2.0, 0.0], [0.0, 1.0]]

    Args:
      logits: ``[students, batch, classes]`` floats.
      labels: ``[batch]`` integers, or ``[batch, classes]`` distributions.

    Returns:
      ``[batch, classes]`` float32.

    References:
      Guo et al., *Online Knowledge Distillation via Collaborative Learning*, CVPR 2020, section
      3.2 (KDCL-Naive).
    """
    logits = jnp.asarray(logits, jnp.float32)
    chosen = jnp.argmin(hard_label_cross_entropy(logits, labels), axis=0)
    return jnp.take_along_axis(logits, chosen[None, :, None], axis=0)[0]


def min_margin_logits(logits: chex.Array, labels: chex.Array) -> chex.Array:
    """All are taught by the smallest of the students' margins to the labelled class.

    From all logits of a student, its logit of the labelled class is subtracted. For each class the
    result is the smallest of these differences over the students. So every other class is trusted
    only as much as by the student that trusts it least.

    >>> logits = jnp.array([[[2.0, 0.0, 1.0]], [[5.0, 4.0, 1.0]]])
    >>> min_margin_logits(logits, jnp.array([0])).tolist()
    [[0.0, -2.0, -4.0]]

    Args:
      logits: ``[students, batch, classes]`` floats.
      labels: ``[batch]`` integers.

    Returns:
      ``[batch, classes]`` float32.

    Raises:
      ValueError: if a label is out of range, where labels are known.

    References:
      Guo et al., CVPR 2020, section 3.2, equation 5 (KDCL-MinLogit).
    """
    logits = jnp.asarray(logits, jnp.float32)
    indices, _ = class_indices(labels, logits.shape[-1])
    at = jnp.broadcast_to(indices[None, :, None], (*logits.shape[:2], 1))
    return jnp.min(logits - jnp.take_along_axis(logits, at, axis=-1), axis=0)


def gated_logits(logits: chex.Array, shares: chex.Array) -> chex.Array:
    """All are taught by one combination of all students, with separate shares for each example.

    >>> gated_logits(jnp.array([[[1.0]], [[3.0]]]), jnp.array([[0.25, 0.75]])).tolist()
    [[2.5]]

    Args:
      logits: ``[students, batch, classes]`` floats.
      shares: ``[batch, students]`` floats, computed by a gate.

    Returns:
      ``[batch, classes]`` float32.

    References:
      Lan, Zhu, Gong, *Knowledge Distillation by On-the-Fly Native Ensemble*, NeurIPS 2018,
      equation 4.
    """
    logits, shares = jnp.asarray(logits, jnp.float32), jnp.asarray(shares, jnp.float32)
    return jnp.sum(shares.T[:, :, None] * logits, axis=0)


def accuracy_weights(losses: chex.Array, *, sharpness: float = 1.0) -> chex.Array:
    r"""The students' weights in their teacher; a smaller training loss gives a larger weight.

    .. math:: w = \mathrm{softmax}(-s \, \ell / \min_j \ell_j)

    Dividing by the smallest loss keeps the weights different when all losses become small.

    >>> accuracy_weights(jnp.array([1.0, 1.0])).tolist()
    [0.5, 0.5]

    Args:
      losses: ``[students]`` floats, running means of each student's cross entropy, above 0.
      sharpness: s, at least 0; 0 gives equal shares.

    Returns:
      ``[students]`` float32, none negative, summing to 1.
    """
    losses = jnp.asarray(losses, jnp.float32)
    return jax.nn.softmax(-sharpness * losses / jnp.maximum(jnp.min(losses), 1e-6))


def _check_two_students(logits: chex.Array) -> int:
    check_students_logits(logits)
    if logits.shape[0] < 2:
        raise ValueError(f"logits have shape {logits.shape}: a rule needs at least 2 students")
    return logits.shape[0]
