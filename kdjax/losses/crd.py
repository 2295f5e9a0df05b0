"""Contrastive representation distillation against a memory of the training set's embeddings."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from kdjax.losses.arguments import check_equal_shapes, check_temperature, is_known
from kdjax.losses.global_batch import Rows
from kdjax.losses.numerics import EXACT, unit

_EPSILON = 1e-7
# Entries have lengths of at most sqrt(3), so exp(score) cannot overflow.
_LOWEST_TEMPERATURE = 0.02


class CRDMemory(NamedTuple):
    """The memory that the loss keeps between steps: a tree of arrays.

    Attributes:
      student: ``[examples, dim]`` float32, embeddings of length 1 (about 1 at the start).
      teacher: the same for the teacher.
      student_normaliser: scalar that divides the scores of the student's embeddings. It is 0 until
        the first :func:`crd_update` sets it; later calls keep it.
      teacher_normaliser: the same for the teacher's embeddings.
    """

    student: chex.Array
    teacher: chex.Array
    student_normaliser: chex.Array
    teacher_normaliser: chex.Array


def crd_memory(key: chex.PRNGKey, *, examples: int, dim: int) -> CRDMemory:
    """A memory of random embeddings for a training set.

    Args:
      key: for the random numbers.
      examples: number of examples in the training set; they are numbered from 0.
      dim: length of an embedding; 128 in the released code.

    Returns:
      Entries drawn uniformly between plus and minus ``sqrt(3 / dim)``, and no normalisers yet.

    Raises:
      ValueError: if there are fewer than 2 examples or 1 dimension.
    """
    if examples < 2 or dim < 1:
        raise ValueError(
            f"examples is {examples} and dim {dim}: at least 2 examples and 1 dimension are needed"
        )
    limit = (3 / dim) ** 0.5
    draws = jax.random.uniform(key, (2, examples, dim), jnp.float32, minval=-limit, maxval=limit)
    zero = jnp.zeros((), jnp.float32)
    return CRDMemory(draws[0], draws[1], zero, zero)


def crd_negatives(
    key: chex.PRNGKey,
    indices: chex.Array,
    *,
    examples: int,
    count: int = 16384,
    labels: chex.Array | None = None,
) -> chex.Array:
    """Draws the negatives: the examples that each example of a batch is contrasted with.

    They are drawn with replacement, uniformly among all other examples. With ``labels`` they are
    drawn among the examples of other classes, as in the released CIFAR-100 code (but that code
    draws without replacement if there are enough of them).

    Args:
      key: for the random numbers; a different one for every step and every device.
      indices: ``[batch]`` integers, the numbers of the batch's examples in the training set.
      examples: number of examples in the training set.
      count: negatives for each example; at most ``examples - 1`` are drawn.
      labels: ``[examples]`` integers of at least two classes, of the whole training set.

    Returns:
      ``[batch, min(count, examples - 1)]`` integers.

    Raises:
      ValueError: if ``count`` is below 1, ``labels`` does not have one entry for each example, or
        all labels are equal (checked where their values are known).
    """
    if count < 1:
        raise ValueError(f"count is {count}: at least 1 negative is needed")
    if labels is not None:
        if labels.shape != (examples,):
            raise ValueError(f"labels have shape {labels.shape}: expected [{examples}]")
        if is_known(labels):
            with jax.ensure_compile_time_eval():
                alike = examples > 0 and bool(jnp.all(jnp.asarray(labels) == labels[0]))
            if alike:
                raise ValueError(f"labels are all {labels[0]}: no example is of another class")
    shape = (indices.shape[0], min(count, examples - 1))
    # Order the examples so that those to leave out are neighbours. If a drawn number is at or after
    # the first of these, it is moved past all of them.
    if labels is None:
        order, first, left_out = jnp.arange(examples), indices, jnp.ones_like(indices)
    else:
        labels = jnp.asarray(labels)
        order = jnp.argsort(labels)
        first = jnp.searchsorted(labels[order], labels[indices], side="left")
        left_out = jnp.searchsorted(labels[order], labels[indices], side="right") - first
    drawn = jax.random.randint(key, shape, 0, (examples - left_out)[:, None], jnp.int32)
    return order[jnp.where(drawn >= first[:, None], drawn + left_out[:, None], drawn)]


def crd(
    student_embedding: chex.Array,
    teacher_embedding: chex.Array,
    memory: CRDMemory,
    indices: chex.Array,
    negatives: chex.Array,
    *,
    temperature: chex.Numeric = 0.07,
    where: chex.Array | None = None,
    axis_name: str | None = None,
) -> chex.Array:
    r"""Noise contrastive estimation: find an example's own embedding among those of K others.

    Let v be one network's embedding of example i, divided by its length. Let :math:`m_j` be the
    memory's entry of the *other* network's embedding of example j, Z a normaliser and n the
    number of training examples. The score is :math:`s_j = \exp(v \cdot m_j / T) / Z`. The value of
    example i is the sum over both networks of

    .. math:: -\log \frac{s_i}{s_i + K/n + \epsilon}
        - \sum_{j \in \mathrm{negatives}} \log \frac{K/n}{s_j + K/n + \epsilon},
        \quad \epsilon = 10^{-7}

    Z is n times the mean score of the first batch, where the score is not yet divided by Z. It is
    read from ``memory``. Before the first :func:`crd_update` it is computed from this batch. A
    training step draws negatives, computes the loss and its gradient, then updates the memory. The
    weight in the released code is 0.8.

    Args:
      student_embedding: ``[batch, dim]`` floats, from a trained linear map of the pooled features.
      teacher_embedding: the same for the teacher. The teacher's linear map is trained too, so the
        function is differentiable in both. No gradient flows into the memory.
      memory: from :func:`crd_memory` or :func:`crd_update`.
      indices: ``[batch]`` integers, the numbers of the examples in the training set.
      negatives: ``[batch, K]`` integers from :func:`crd_negatives`.
      temperature: T from 0.02 to 1e6.
      where: ``[batch]`` booleans: real rows. Padded rows are ignored.
      axis_name: a mapped axis of devices that share the batch (:mod:`kdjax.losses.global_batch`);
        it matters only for the first batch, which sets Z. None: this device has the whole batch.

    Returns:
      ``[batch]`` float32, 0 in padded rows.

    Raises:
      ValueError: if shapes do not fit the memory, or the temperature is not in its range.

    References:
      Tian, Krishnan, Isola, *Contrastive Representation Distillation*, ICLR 2020, equation 18, and
      the authors' released code.
    """
    _check(student_embedding, teacher_embedding, memory, temperature)
    rows = Rows.of(student_embedding.shape[0], where, axis_name)
    ours, theirs = _scores(
        rows, student_embedding, teacher_embedding, memory, indices, negatives, temperature
    )
    examples = memory.student.shape[0]
    by_student = _contrast(ours - jnp.log(_normaliser(rows, ours, memory, "student")), examples)
    by_teacher = _contrast(theirs - jnp.log(_normaliser(rows, theirs, memory, "teacher")), examples)
    return rows.keep(by_student + by_teacher)


def crd_update(
    memory: CRDMemory,
    student_embedding: chex.Array,
    teacher_embedding: chex.Array,
    indices: chex.Array,
    negatives: chex.Array,
    *,
    momentum: float = 0.5,
    temperature: chex.Numeric = 0.07,
    where: chex.Array | None = None,
    axis_name: str | None = None,
) -> CRDMemory:
    """The memory after a batch: its examples moved towards their new embeddings.

    An entry becomes ``momentum * old + (1 - momentum) * new``, divided by its length. The first
    call sets the normalisers, computed with the memory before the update. No gradient flows through
    the result, and it is equal on all devices of ``axis_name``.

    Args:
      memory: the memory before this step.
      student_embedding: ``[batch, dim]`` floats, as given to :func:`crd`.
      teacher_embedding: the same for the teacher.
      indices: ``[batch]`` integers. If an example is in the batch twice, the memory keeps one of
        its two embeddings; which one is not specified.
      negatives: ``[batch, K]`` integers, as given to :func:`crd`.
      momentum: in [0, 1).
      temperature: as given to :func:`crd`.
      where: ``[batch]`` booleans: real rows. Padded rows change nothing.
      axis_name: a mapped axis of devices that share the batch; None: this device has the whole
        batch.

    Returns:
      The memory for the next step.

    Raises:
      ValueError: if shapes do not fit the memory, the momentum is outside [0, 1), or the
        temperature is not in its range.

    References:
      Tian, Krishnan, Isola, *Contrastive Representation Distillation*, ICLR 2020, and the authors'
      released code.
    """
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum is {momentum}: it must be in [0, 1)")
    _check(student_embedding, teacher_embedding, memory, temperature)
    rows = Rows.of(student_embedding.shape[0], where, axis_name)
    ours, theirs = _scores(
        rows, student_embedding, teacher_embedding, memory, indices, negatives, temperature
    )
    examples = memory.student.shape[0]
    # Padded rows get a number outside the memory, where writes are dropped.
    targets = rows.everywhere(jnp.where(rows.real, indices, examples))

    def moved(entries: chex.Array, embedding: chex.Array) -> chex.Array:
        new = rows.everywhere(unit(rows.keep(embedding), axis=-1))
        old = entries[jnp.minimum(targets, examples - 1)]
        mixed = unit(momentum * old + (1.0 - momentum) * new, axis=-1)
        return entries.at[targets].set(mixed, mode="drop")

    after = CRDMemory(
        moved(memory.student, student_embedding),
        moved(memory.teacher, teacher_embedding),
        _normaliser(rows, ours, memory, "student"),
        _normaliser(rows, theirs, memory, "teacher"),
    )
    return jax.tree.map(jax.lax.stop_gradient, after)


def _check(
    student: chex.Array, teacher: chex.Array, memory: CRDMemory, temperature: chex.Numeric
) -> None:
    check_temperature(temperature, _LOWEST_TEMPERATURE)
    check_equal_shapes(student, teacher, "embedding")
    if student.ndim != 2 or student.shape[1] != memory.student.shape[1]:
        raise ValueError(
            f"student_embedding has shape {student.shape}: the memory holds embeddings of "
            f"{memory.student.shape[1]} numbers, so it must be [batch, {memory.student.shape[1]}]"
        )


def _scores(
    rows: Rows,
    student: chex.Array,
    teacher: chex.Array,
    memory: CRDMemory,
    indices: chex.Array,
    negatives: chex.Array,
    temperature: chex.Numeric,
) -> tuple[chex.Array, chex.Array]:
    """Logs of scores before normalisation, ``[batch, 1 + K]``; column 0 is the example itself."""
    candidates = jnp.concatenate([indices[:, None], negatives], axis=1)
    candidates = jnp.where(rows.real[:, None], candidates, 0)

    def against(embedding: chex.Array, entries: chex.Array) -> chex.Array:
        # Computing all products and choosing some of them needs less memory than copying the
        # chosen entries.
        directions = unit(rows.keep(embedding), axis=-1)
        entries = jax.lax.stop_gradient(entries)
        products = jnp.matmul(directions, entries.T, precision=EXACT)
        return jnp.take_along_axis(products, candidates, axis=1) / temperature

    return against(student, memory.teacher), against(teacher, memory.student)


def _normaliser(rows: Rows, scores: chex.Array, memory: CRDMemory, side: str) -> chex.Array:
    """The memory's normaliser; if it has none yet, n times the mean score of this batch."""
    known = getattr(memory, f"{side}_normaliser")
    mean = rows.total(rows.keep(jnp.mean(jnp.exp(scores), axis=1))) / rows.count()
    return jax.lax.stop_gradient(jnp.where(known > 0, known, mean * memory.student.shape[0]))


def _contrast(scores: chex.Array, examples: int) -> chex.Array:
    """The loss ``[batch]`` of one network, from logarithms of its scores ``[batch, 1 + K]``."""
    noise = (scores.shape[1] - 1) / examples
    mixed = jnp.logaddexp(scores, jnp.log(noise + _EPSILON))
    return mixed[:, 0] - scores[:, 0] + jnp.sum(mixed[:, 1:] - jnp.log(noise), axis=1)
