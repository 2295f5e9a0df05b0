"""One training step and one evaluation step: pure functions of state and batch.

Both run unchanged on one device and on many; on many devices,
:mod:`kdjax.train.devices.parallel` binds ``axis_name``. Metrics are (sum, count) pairs over the
real examples of the global batch.
"""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from kdjax import losses
from kdjax.data.batches import Batch
from kdjax.train.program import non_finite, term_modules
from kdjax.train.program.layout import Layouts
from kdjax.train.program.methods import Method, Weights
from kdjax.train.program.objective import Examples
from kdjax.train.program.online_teacher import COPIES, averaged, remember
from kdjax.train.program.state import TrainState

Metrics = dict[str, tuple[chex.Array, chex.Array]]

# Names of the step counters in the states of optax and of the search's controller.
_COUNTERS = ("count", "step")


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    method: Method,
    optimizer: optax.GradientTransformation,
    weights: Weights,
    teacher: Any = None,
    axis_name: str | None = None,
    joined_losses: bool = False,
    guarded: bool = False,
    layouts: Layouts | None = None,
) -> tuple[TrainState, Metrics]:
    """Trains every student for one step.

    Args:
      state: the state before the step, equal on all devices.
      batch: this device's share of the batch.
      method: the networks and their losses.
      optimizer: acts on all parameters at once.
      weights: the weights of the loss terms at this step.
      teacher: variables of the fixed teacher, or its stored logits of this batch, if the method has
        a fixed teacher. Averaged copies that teach are in the state.
      axis_name: the mapped axis of devices, if any.
      joined_losses: whether a loss that compares the examples of a batch sees all devices'
        examples; if not, it sees only those of its own device.
      guarded: whether a network with a number that is not finite keeps its values from before the
        step; the step still counts as done.
      layouts: the layouts of the variables if these are vectors; None: they are trees with a key
        for each network.

    Returns:
      ``(state, metrics)``, equal on all devices. Metrics: ``loss`` (scalar sum), each loss term and
      ``accuracy`` (``[students]`` sums), ``ensemble_accuracy``, ``gradient_norm``, and flags for
      each network (:mod:`kdjax.train.program.non_finite`).
    """
    count = _sum_over(jnp.sum(batch.mask, dtype=jnp.float32), axis_name)
    key = dropout_key(state, axis_name)
    if method.copies_decay:
        teacher = state.memory[COPIES]

    def objective(params: Any):
        variables = {"params": params, "batch_stats": state.batch_stats}
        outputs, batch_stats = method.forward(variables, teacher, batch.images, batch.mask, key)
        examples = Examples(
            batch.labels,
            batch.mask,
            axis_name=axis_name if joined_losses else None,
            devices=axis_name,
            indices=batch.indices,
            key=term_key(state),
        )
        judged = method.loss(outputs, examples, weights, state.memory)
        # This is the only average over the batch. It is over the real examples of all devices.
        mean = jnp.sum(jnp.where(batch.mask, judged.total, 0.0)) / count
        return mean, (outputs.logits, batch_stats, judged)

    gradients, (logits, batch_stats, judged) = jax.grad(objective, has_aux=True)(state.params)
    gradients = _sum_over(gradients, axis_name)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
    after = state.replace(
        params=optax.apply_updates(state.params, updates),
        batch_stats=_merge_statistics(batch_stats, batch.mask, axis_name),
        optimizer_state=optimizer_state,
    )
    sums = {
        "loss": _masked_sum(judged.total, batch.mask),
        **{name: _masked_sum(values, batch.mask) for name, values in judged.terms.items()},
        **_correct(logits, batch, method),
    }
    metrics = {name: (value, count) for name, value in _sum_over(sums, axis_name).items()}
    metrics |= non_finite.flags(gradients, after.batch_stats, layouts)
    memories = judged.memory
    if guarded:
        good = non_finite.finite(metrics, _flagged(after, layouts), method.separate)
        after = _keep_finite(after, state, good, layouts if method.separate else None)
        memories = non_finite.keep_finite(
            memories, state.memory.get(term_modules.NETWORK, {}), good
        )
    after = after.replace(
        step=state.step + 1, memory=_memory(state, after.params, memories, metrics, method)
    )
    return after, metrics | method.observe(after, metrics)


def _flagged(state: TrainState, layouts: Layouts | None) -> dict[str, list[str]]:
    """The networks that the flags of a step refer to."""
    if layouts is None:
        return non_finite.networks(state.params, state.batch_stats)
    return non_finite.networks(layouts.params.names, layouts.batch_stats.names)


def _keep_finite(
    after: TrainState, before: TrainState, good: Mapping[str, Any], layouts: Layouts | None
) -> TrainState:
    """The state after a step, except that networks that are not good keep their old values.

    With ``layouts``, the vectors are first split by network.
    """
    if layouts is None:
        kept = non_finite.keep_finite(after, before, good)
    else:
        networks = layouts.networks(after), layouts.networks(before)
        kept = layouts.whole(non_finite.keep_finite(*networks, good))

    def count(path: Any, kept: chex.Array, after: chex.Array) -> chex.Array:
        return after if getattr(path[-1], "name", "") in _COUNTERS else kept

    # A step that is left out counts as done, in schedules too.
    states = kept.optimizer_state, after.optimizer_state
    return kept.replace(optimizer_state=jax.tree_util.tree_map_with_path(count, *states))


def _memory(
    before: TrainState, params: Any, memories: Any, metrics: Metrics, method: Method
) -> dict[str, Any]:
    """The memory of the teacher rule and of the terms after a step.

    Args:
      before: the state before the step.
      params: the parameters after the step.
      memories: the terms' memories after the step.
      metrics: the metrics of the step.
      method: says whether there are averaged copies of the parameters to update.
    """
    memory = remember(before.memory, metrics)
    if memories:
        memory = {**memory, term_modules.NETWORK: memories}
    if method.copies_decay:
        copies = averaged(before.memory[COPIES], params, before.step, method.copies_decay)
        memory = {**memory, COPIES: copies}
    return memory


def evaluation_step(
    variables: Any, batch: Batch, *, method: Method, axis_name: str | None = None
) -> Metrics:
    """Evaluates every student and the ensemble with running statistics.

    Args:
      variables: ``params`` and ``batch_stats`` of the method's module.
      batch: this device's share of a batch.
      method: the method; its module and its ensemble weights are used.
      axis_name: the mapped axis of the devices to sum over; None: there is one device.

    Returns:
      ``hard`` and ``accuracy`` (``[students]`` sums) and ``ensemble_accuracy``, with the count of
      real examples, equal on all devices.
    """
    outputs: Any = method.model.apply(variables, batch.images, train=False)
    logits = outputs.logits
    sums = {
        "hard": _masked_sum(losses.hard_label_cross_entropy(logits, batch.labels), batch.mask),
        **_correct(logits, batch, method),
    }
    count = _sum_over(jnp.sum(batch.mask, dtype=jnp.float32), axis_name)
    return {name: (value, count) for name, value in _sum_over(sums, axis_name).items()}


def dropout_key(state: TrainState, axis_name: str | None) -> chex.PRNGKey:
    """The random key for dropout, different for each step and each device.

    Batches use the first two parts of the run's key, dropout the third.
    """
    key = _step_key(state, 2)
    return key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))


def term_key(state: TrainState) -> chex.PRNGKey:
    """This step's key for terms that draw random numbers; equal on all devices."""
    return _step_key(state, 3)


def mixing_key(state: TrainState) -> chex.PRNGKey:
    """This step's key for mixing images; equal on all devices."""
    return _step_key(state, 4)


def _step_key(state: TrainState, part: int) -> chex.PRNGKey:
    # Splitting a key into more parts does not change the first parts.
    key = jax.random.split(jax.random.wrap_key_data(state.key), part + 1)[part]
    return jax.random.fold_in(key, state.step)


def _correct(logits: chex.Array, batch: Batch, method: Method) -> dict[str, chex.Array]:
    ensemble = losses.ensemble_logits(logits, method.teacher_weights)
    labels = losses.likeliest_class(batch.labels)
    return {
        "accuracy": _masked_sum(jnp.argmax(logits, -1) == labels, batch.mask),
        "ensemble_accuracy": _masked_sum(jnp.argmax(ensemble, -1) == labels, batch.mask),
    }


def _masked_sum(values: chex.Array, mask: chex.Array) -> chex.Array:
    """Sums over the last axis, the batch; padded examples are left out."""
    return jnp.sum(jnp.where(mask, values.astype(jnp.float32), 0.0), axis=-1)


def _sum_over(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _merge_statistics(batch_stats: Any, mask: chex.Array, axis_name: str | None) -> Any:
    """Averages running statistics over all devices, weighted by each device's real examples.

    The result is equal on all devices.
    """
    if axis_name is None:
        return batch_stats
    share = jnp.sum(mask, dtype=jnp.float32)
    share = share / jax.lax.psum(share, axis_name)
    return jax.lax.psum(jax.tree.map(lambda leaf: leaf * share, batch_stats), axis_name)
