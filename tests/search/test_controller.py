"""The controller around plain gradient descent on a made-up loss: no network is run here.

The loss pulls every scale to its own random positive number, the same in every step.
"""

import functools

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tables

from kdjax import models
from kdjax.search import (
    Channels,
    Timetable,
    alive_widths,
    controlled,
    make_budget,
    partition,
)

SHAPE = (16, 16, 3)
THRESHOLD = 1e-3
STEPS, DESCENT, RATE = 60, 42, 0.05
NETWORKS = {"resnet8": 0.5, "mobilenet_v2": 0.1, "vgg16_bn": 0.05}


@functools.cache
def budget_of(name, targets, blocks=()):
    """Returns (architecture, budget).

    ``targets`` and ``blocks`` are tuples of items, so that budgets and programs can be cached.
    """
    architecture = models.create(name, 4, width=NETWORKS[name])
    channels = Channels.of(architecture, architecture.widths, SHAPE, root=("student_1",))
    parts = partition(architecture, channels, **dict(blocks))
    return architecture, make_budget(channels, parts, **dict(targets))


def scales(channels, draw):
    """Returns parameters with only scales, ``draw(size)`` for each writer, and biases of .3."""
    return flax.traverse_util.unflatten_dict(
        {
            (*channels.root, *path, "norm", name): jnp.asarray(values, jnp.float32)
            for group in channels.groups
            for path in tables.writers(group)
            for name, values in (
                ("scale", draw(group.channels)),
                ("bias", np.full(group.channels, 0.3)),
            )
        }
    )


def fading(step):
    """A learning rate whose first value sets the strengths; later almost nothing moves."""
    return jnp.where(step == 0, 1.0, 1e-7)


@functools.cache
def program(name, targets, blocks=(), schedule=None, steps=STEPS, descent=DESCENT):
    _, budget = budget_of(name, targets, blocks)
    rate = schedule or optax.constant_schedule(RATE)
    optimizer = controlled(
        optax.sgd(rate),
        budget,
        timetable=Timetable(steps, descent),
        learning_rate=rate,
        threshold=THRESHOLD,
    )

    @jax.jit
    def step(params, goal, state):
        gradients = jax.tree.map(lambda ours, theirs: ours - theirs, params, goal)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return optimizer, step


class Searched:
    """The record of a search: parameters, state and widths, after every step and at the end."""

    def __init__(self, name, targets, blocks=(), *, seed=0, **plan):
        self.architecture, self.budget = budget_of(name, targets, blocks)
        channels, generator = self.budget.channels, np.random.default_rng(seed)
        self.goal = scales(channels, lambda size: generator.uniform(0.2, 1.5, size))
        params = scales(channels, lambda size: 1 + 1e-3 * generator.normal(size=size))
        optimizer, step = program(name, targets, blocks, **plan)
        state = optimizer.init(params)
        self.params, self.dead, self.settled = [], [], []
        for _ in range(plan.get("steps", STEPS)):
            params, state = step(params, self.goal, state)
            self.params.append(params)
            self.dead.append(np.asarray(state.controller.dead))
            self.settled.append(int(state.controller.settled))
        self.controller = state.controller

    def widths(self, step=-1):
        return alive_widths(self.budget.channels, self.architecture.widths, self.dead[step])

    def counts(self, step=-1):
        widths = self.widths(step)
        return np.array([widths[group.name] for group in self.budget.channels.groups])

    def one_channel(self, number):
        """Returns the most that one more unit of a group adds to the share of a constraint."""
        model, counts = self.budget.constraints[number].model, self.counts().astype(float)
        units = np.diag(self.budget.channels.unit_sizes)
        return max(model.cost(counts + unit) - model.cost(counts) for unit in units)


def items(**values):
    return tuple(sorted(values.items()))


ONE, TWO = {"flops": 0.5}, {"flops": 0.5, "params": 0.4}
CASES = {
    "resnet8 joint": ("resnet8", items(**ONE)),
    "resnet8 joint, two": ("resnet8", items(**TWO)),
    "resnet8 sequential": ("resnet8", items(**ONE, schedule="sequential")),
    "resnet8 sequential, two": ("resnet8", items(**TWO, schedule="sequential")),
    "mobilenet joint": ("mobilenet_v2", items(flops=0.3)),
    "mobilenet sequential": ("mobilenet_v2", items(params=0.4, schedule="sequential")),
    "vgg joint": ("vgg16_bn", items(params=0.15)),
    "vgg sequential": ("vgg16_bn", items(flops=0.3, schedule="sequential")),
}


@functools.cache
def searched(case, seed=0):
    return Searched(*CASES[case], seed=seed)


each_case = pytest.mark.parametrize("case", CASES)
each_seed = pytest.mark.parametrize("seed", range(4))


@each_seed
@each_case
def test_every_target_is_met(case, seed):
    search = searched(case, seed)
    shares = search.budget.shares(search.widths())
    assert search.budget.allows(search.widths()), shares
    assert search.settled[-1] == len(search.budget.slots)
    for number, constraint in enumerate(search.budget.constraints):
        assert float(search.controller.share[number]) == pytest.approx(shares[constraint.name])
    if len(search.budget.constraints) == 1:
        (constraint,) = search.budget.constraints
        undercut = constraint.target - shares[constraint.name]
        assert undercut <= max(0.02 * constraint.target, search.one_channel(0))


@each_seed
@each_case
def test_the_dead_are_silent_and_stay_dead(case, seed):
    search = searched(case, seed)
    channels = search.budget.channels
    for params, dead in zip(search.params, search.dead, strict=True):
        matrix = np.asarray(channels.scales(params))
        np.testing.assert_array_equal(matrix[:, dead], 0)
        np.testing.assert_array_equal(np.asarray(channels.biases(params))[:, dead], 0)
        assert (np.abs(matrix[:, ~dead]).max(axis=0) > THRESHOLD).all()
    settled = search.settled.index(len(search.budget.slots))
    assert settled < STEPS - 1
    for dead in search.dead[settled:]:
        np.testing.assert_array_equal(dead, search.dead[-1])


@each_seed
@each_case
def test_every_group_keeps_a_channel(case, seed):
    search = searched(case, seed)
    for step in range(STEPS):
        assert search.counts(step).min() >= 1


def test_other_numbers_give_other_structures():
    assert searched("vgg joint", 0).widths() != searched("vgg joint", 1).widths()


@pytest.mark.parametrize("case", [case for case in CASES if "sequential" in case])
def test_one_block_after_another(case):
    search = searched(case)
    slots = search.budget.slots
    length = DESCENT / len(slots)
    before = np.array([group.channels for group in search.budget.channels.groups])
    changed = set()
    for step in range(STEPS):
        slot = min(int(step / length), len(slots) - 1)
        after = search.counts(step)
        np.testing.assert_array_equal(after[~slots[slot]], before[~slots[slot]])
        changed |= {slot} if (after != before).any() else set()
        before = after
    assert changed == set(range(len(slots)))
    if len(search.budget.constraints) > 1:
        return
    # Each waypoint is met by the end of its slot.
    for slot, waypoint in enumerate(search.budget.waypoints[:-1]):
        shares = search.budget.shares(search.widths(int(np.ceil((slot + 1) * length)) - 1))
        assert (np.array(list(shares.values())) <= waypoint).all()


def test_the_strongest_survive():
    """The weakest channels of a group die first: channels pulled to large numbers survive."""
    search = searched("vgg joint")
    channels = search.budget.channels
    goals = channels.by_group(channels.magnitudes(search.goal))
    for name, dead in channels.by_group(search.dead[-1]).items():
        if dead.any():
            assert goals[name][dead].max() < goals[name][~dead].min() + 0.05, name


def test_once_settled_the_living_follow_the_optimiser_alone():
    search = searched("resnet8 joint")
    channels, dead = search.budget.channels, search.dead[-1]
    before, after = (np.asarray(channels.scales(params)) for params in search.params[-2:])
    goal = np.asarray(channels.scales(search.goal))
    expected = np.where(dead, 0, before - RATE * (before - goal))
    np.testing.assert_allclose(after, expected, atol=1e-6)
    assert float(search.controller.penalty) == 0
    np.testing.assert_array_equal(search.controller.strength, 0)


@pytest.mark.parametrize("schedule", ["joint", "sequential"])
def test_frozen_blocks_keep_their_widths(schedule):
    blocks = items(frozen=("stage2",))
    search = Searched("resnet8", items(flops=0.6, schedule=schedule), blocks)
    assert search.budget.allows(search.widths())
    full = search.architecture.widths
    for step in range(STEPS):
        for group in ("stage2", "stage2.block1.conv1"):
            assert search.widths(step)[group] == full[group]


def test_least_widths_are_kept():
    search = Searched("resnet8", items(flops=0.5, min_width=5))
    assert search.budget.allows(search.widths())
    assert search.counts().min() == 5
    assert searched("resnet8 joint").counts().min() < 5


@pytest.mark.parametrize(
    "targets", [items(**TWO), items(flops=0.4, schedule="sequential")], ids=["joint", "sequential"]
)
def test_the_goal_is_forced_where_the_penalty_kills_nothing(targets):
    search = Searched("resnet8", targets, schedule=fading)
    slots = len(search.budget.slots)
    first = int(np.ceil(DESCENT / slots)) - 1 if slots > 1 else DESCENT + (STEPS - DESCENT) // 2 - 1
    assert not search.dead[first - 1].any()
    assert search.dead[first].any()
    assert search.budget.allows(search.widths())
    if len(search.budget.constraints) == 1:
        (share,) = search.budget.shares(search.widths()).values()
        assert share > 0.4 - max(0.008, search.one_channel(0))


def test_a_block_meets_a_target_of_its_own():
    search = Searched("resnet8", items(), items(targets=(0.0, 0.3, 0.0)))
    (share,) = search.budget.shares(search.widths()).values()
    assert 0.3 - max(0.006, search.one_channel(0)) <= share <= 0.3
    # No target acts on the other blocks.
    full = search.architecture.widths
    for group in ("stem", "stage1.block1.conv1", "stage3", "stage3.block1.conv1"):
        assert search.widths()[group] == full[group]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("targets", "blocks"),
    [
        (items(flops=0.6), (0.0, 0.3, 0.0)),
        (items(), (0.4, 0.0, 0.4)),
        (items(schedule="sequential"), (0.5, 0.5, 0.0)),
        # Stage 3 is thinned first, which does not change the cost of stage 2.
        (items(schedule="sequential", order=("stage3", "stage2")), (0.0, 0.5, 0.5)),
        (items(flops=0.5, schedule="sequential"), (0.0, 0.9, 0.0)),
    ],
    ids=["and the whole", "two blocks", "in order", "against the order", "and the whole, in order"],
)
def test_targets_that_push_different_channels_are_met_together(targets, blocks, seed):
    search = Searched("resnet8", targets, items(targets=blocks), seed=seed)
    assert search.budget.allows(search.widths()), search.budget.shares(search.widths())


def test_a_target_of_an_earlier_block_is_forced():
    """Stage 3 is thinned first, which does not change the cost of stage 2."""
    targets = items(schedule="sequential", order=("stage3", "stage2"))
    search = Searched("resnet8", targets, items(targets=(0.0, 0.5, 0.5)), schedule=fading)
    assert search.budget.allows(search.widths()), search.budget.shares(search.widths())


def test_two_targets_are_met_even_where_one_comes_far_ahead():
    for seed in range(4):
        search = Searched("mobilenet_v2", items(flops=0.3, params=0.2), seed=seed)
        assert search.budget.allows(search.widths()), search.budget.shares(search.widths())


def test_what_is_said_to_be_reachable_is_reached_in_turn():
    """Either the target is refused before the search, or the search meets it."""
    targets = items(params=0.08, schedule="sequential")
    try:
        budget_of("resnet8", targets)
    except ValueError:
        return
    search = Searched("resnet8", targets)
    assert search.budget.allows(search.widths()), search.budget.shares(search.widths())


def test_the_step_is_traced_once():
    chex.clear_trace_counter()
    _, budget = budget_of("resnet8", items(**ONE))
    rate = optax.constant_schedule(RATE)
    optimizer = controlled(
        optax.sgd(rate), budget, timetable=Timetable(8, 4), learning_rate=rate, threshold=THRESHOLD
    )

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state):
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    params = scales(budget.channels, np.ones)
    state = optimizer.init(params)
    for _ in range(8):
        params, state = step(params, state)
    assert int(state.controller.step) == 8


def test_the_wrapped_optimiser_keeps_its_state():
    _, budget = budget_of("resnet8", items(**ONE))
    rate = optax.constant_schedule(RATE)
    inner = optax.sgd(rate, momentum=0.9)
    optimizer = controlled(
        inner, budget, timetable=Timetable(10, 5), learning_rate=rate, threshold=THRESHOLD
    )
    params = scales(budget.channels, np.ones)
    gradients = scales(budget.channels, lambda size: np.linspace(-1, 1, size))
    state = optimizer.init(params)
    alone = inner.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(2):
        _, state = update(gradients, state, params)
        _, alone = inner.update(gradients, alone, params)
    chex.assert_trees_all_close(state.optimizer, alone, rtol=1e-6)
    zeros = optimizer.init(params).controller
    assert all(not np.any(leaf) for leaf in zeros)


@pytest.mark.parametrize(
    ("steps", "descent", "slots", "deadlines"),
    [
        # The last slot includes half of the steps after the descent; the rest is further training.
        (100, 70, 1, [84]),
        (100, 70, 2, [34, 84]),
        (100, 70, 3, [23, 46, 84]),
        (10, 10, 1, [9]),
        (1, 1, 1, [0]),
    ],
)
def test_deadlines(steps, descent, slots, deadlines):
    assert Timetable(steps, descent).deadlines(slots).tolist() == deadlines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Timetable(10, 5), 0.0), "search.threshold is 0.0: it must be above 0"),
        ((Timetable(10, 5), -1.0), "search.threshold is -1.0"),
        ((Timetable(10, 0), 0.1), "a search of 10 steps cannot descend over 0"),
        ((Timetable(10, 11), 0.1), "a search of 10 steps cannot descend over 11"),
    ],
)
def test_bad_timetables_are_refused(arguments, message):
    _, budget = budget_of("resnet8", items(**ONE))
    timetable, threshold = arguments
    rate = optax.constant_schedule(RATE)
    with pytest.raises(ValueError, match=message):
        controlled(
            optax.sgd(rate), budget, timetable=timetable, learning_rate=rate, threshold=threshold
        )
