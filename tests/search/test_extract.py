"""Width vectors from living channels: counting, choosing, widening, reviving, rounding."""

import functools
import math
import types

import numpy as np
import pytest
import tables
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tables import Layer

from kdjax import models
from kdjax.search import (
    TOLERANCE,
    Channels,
    alive_widths,
    check_multiple,
    expand,
    kept_channels,
    make_budget,
    minimum_width,
    partition,
    revive,
    round_widths,
    worth,
)
from kdjax.search.extract import REVIVED

# Group a has 4 channels; b and c are tied and have 6 channels in units of 2; d is not thinned.
LAYERS = (
    Layer(("a",), None, "a", 3, 4, (3, 3), (8, 8), norm=True),
    Layer(("b",), "a", "b", 4, 6, (1, 1), (8, 8), norm=True),
    Layer(("c",), "b", "c", 6, 6, (3, 3), (8, 8), groups=3, norm=True),
    Layer(("d",), "c", "d", 6, 5, bias=True),
    Layer(("classifier",), "d", None, 5, 2, bias=True),
)
SMALL = tables.channels(LAYERS, (("b", "c"),))
FULL = {"a": 4, "b": 6, "c": 6, "d": 5}
#                     a                         b, c
DEAD = np.array([False, True, False, True, True, False, False])
MAGNITUDES = np.array([0.5, 0.9, 0.7, 0.0, 0.8, 0.1, 0.2])


def test_alive_channels_are_counted_group_by_group():
    found = alive_widths(SMALL, FULL, DEAD)
    assert dict(found) == {"a": 2, "b": 4, "c": 4, "d": 5}
    assert list(found) == ["a", "b", "c", "d"]
    assert dict(alive_widths(SMALL, FULL, np.zeros(7, bool))) == FULL


def kept(**widths):
    found = kept_channels(SMALL, MAGNITUDES, DEAD, FULL | widths)
    return {name: indices.tolist() for name, indices in found.items()}


def test_the_living_stay_in_order():
    assert kept(a=2, b=4, c=4) == {"a": [0, 2], "b": [2, 3, 4, 5], "c": [2, 3, 4, 5]}


def test_the_strongest_of_the_living_stay_first():
    assert kept(a=1, b=2, c=2) == {"a": [2], "b": [4, 5], "c": [4, 5]}


def test_the_dead_come_back_last_whatever_their_strength():
    # Channel 1 of a is dead and the strongest of all; channel 3 is dead and weaker.
    assert kept(a=3)["a"] == [0, 1, 2]
    assert kept()["a"] == [0, 1, 2, 3]
    assert kept()["b"] == [0, 1, 2, 3, 4, 5]


def test_equal_strengths_keep_the_first():
    found = kept_channels(SMALL, np.ones(7), np.zeros(7, bool), {**FULL, "a": 2, "b": 2, "c": 2})
    assert (found["a"].tolist(), found["b"].tolist()) == ([0, 1], [0, 1])


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"a": 5}, r"widths\['a'\] is 5: at most 4$"),
        ({"b": 3, "c": 3}, r"widths\['b'\] is 3: at most 6, in multiples of 2"),
        ({"b": 2}, "widths differ in groups that an addition ties: b 2, c 6"),
    ],
)
def test_widths_that_do_not_fit_are_refused(widths, message):
    with pytest.raises(ValueError, match=message):
        kept(**widths)


def test_a_missing_group_is_refused():
    with pytest.raises(ValueError, match="widths misses the group 'd'"):
        kept_channels(SMALL, MAGNITUDES, DEAD, {"a": 4, "b": 6, "c": 6})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), min_size=7, max_size=7), st.integers(0, 2**32 - 1))
def test_keeping_what_lives_keeps_exactly_that(dead, seed):
    dead = np.array(dead)
    assume(not dead[:4].all() and not dead[4:].all())
    magnitudes = np.random.default_rng(seed).random(7)
    found = kept_channels(SMALL, magnitudes, dead, alive_widths(SMALL, FULL, dead))
    assert found["a"].tolist() == np.flatnonzero(~dead[:4]).tolist()
    assert found["b"].tolist() == np.flatnonzero(np.repeat(~dead[4:], 2)).tolist()
    assert found["c"].tolist() == found["b"].tolist()


# Expanding: a real network, on the host alone.
SHAPE = (8, 8, 3)
NETWORK = models.create("resnet8", 4, width=0.5)
CHANNELS = Channels.of(NETWORK, NETWORK.widths, SHAPE)
NAMES = [group.name for group in CHANNELS.groups]
MOST = [group.channels for group in CHANNELS.groups]


def vector(chosen):
    by_name = dict(zip(NAMES, chosen, strict=True))
    return {g: by_name.get(g, by_name["stem"]) for g in NETWORK.widths}


@functools.cache
def flops(chosen):
    """Counts FLOPs by hand, for speed: 8, 4 and 2 pixels per side, four classes."""
    w = vector(chosen)
    stem, two, three = w["stem"], w["stage2"], w["stage3"]
    macs = 64 * 9 * stem * (3 + 2 * w["stage1.block1.conv1"])
    macs += 16 * (9 * w["stage2.block1.conv1"] * (stem + two) + stem * two)
    macs += 4 * (9 * w["stage3.block1.conv1"] * (two + three) + two * three)
    return 2 * (macs + 4 * three)


def chosen_of(widths):
    return tuple(widths[name] for name in NAMES)


def within(limit):
    return lambda widths: flops(chosen_of(widths)) <= limit


def floored(widths, factor, multiple):
    steps = [math.floor(factor * w / multiple + 1e-9) * multiple for w in widths]
    return tuple(min(m, max(multiple, s)) for m, s in zip(MOST, steps, strict=True))


vectors = st.tuples(*(st.integers(1, most) for most in MOST))


@settings(max_examples=60, deadline=None)
@given(vectors, st.floats(0.01, 1.1), st.sampled_from([1, 2, 4]))
def test_expanding(widths, share, multiple):
    limit = share * flops(tuple(MOST))
    allows = within(limit)
    if flops(floored(widths, 0, multiple)) > limit:
        with pytest.raises(ValueError, match=rf"smallest widths, in multiples of {multiple}:"):
            expand(vector(widths), CHANNELS, allows, limit=NETWORK.widths, multiple=multiple)
        return
    found = expand(vector(widths), CHANNELS, allows, limit=NETWORK.widths, multiple=multiple)
    chosen = chosen_of(found)
    assert allows(found)
    assert found["stage1"] == found["stem"]
    assert all(1 <= width <= most for width, most in zip(chosen, MOST, strict=True))
    assert all(width % multiple == 0 for width in chosen)
    # No uniform multiplier on a fine grid would have been larger, group by group.
    grid = [
        factor
        for factor in np.linspace(0.02, 40, 500)
        if flops(floored(widths, factor, multiple)) <= limit
    ]
    if grid:
        largest = floored(widths, max(grid), multiple)
        assert all(a >= b for a, b in zip(chosen, largest, strict=True))


def test_expanding_to_the_limit():
    found = expand(vector((1,) * 6), CHANNELS, lambda _: True, limit=NETWORK.widths)
    # One uniform multiplier grows until all groups are at their limit.
    assert found == NETWORK.widths


def test_expanding_by_hand():
    """Widths 3 and 5 under a budget on their sum."""
    layers = (
        Layer(("a",), None, "a", 3, 20, norm=True),
        Layer(("b",), "a", "b", 20, 20, norm=True),
    )
    channels = tables.channels(layers)

    def allows(widths):
        return widths["a"] + widths["b"] <= 14

    found = expand({"a": 3, "b": 5}, channels, allows, limit={"a": 20, "b": 20})
    # The multiplier 1.8 gives 5 + 9 = 14, the whole budget.
    assert dict(found) == {"a": 5, "b": 9}
    found = expand({"a": 3, "b": 5}, channels, allows, limit={"a": 20, "b": 20}, multiple=4)
    # The multiplier 1.6 gives 4 and 8; 4 more in either group would be too many.
    assert dict(found) == {"a": 4, "b": 8}
    found = expand({"a": 3, "b": 5}, channels, allows, limit={"a": 20, "b": 6}, multiple=4)
    # The limit of b is not a multiple of 4, but b stops there; a gets the rest.
    assert dict(found) == {"a": 8, "b": 6}
    found = expand({"a": 3, "b": 3}, channels, allows, limit={"a": 20, "b": 20}, multiple=3)
    # The multiplier 2 gives 6 and 6; the 2 left over are less than a multiple of 3.
    assert dict(found) == {"a": 6, "b": 6}
    with pytest.raises(ValueError, match="the smallest widths, in multiples of 8: choose"):
        expand({"a": 3, "b": 5}, channels, allows, limit={"a": 20, "b": 20}, multiple=8)
    least = {"a": 6, "b": 4}
    found = expand({"a": 3, "b": 5}, channels, allows, limit={"a": 20, "b": 20}, least=least)
    # a keeps its 6; the multiplier 1.6 gives b its 8.
    assert dict(found) == {"a": 6, "b": 8}


def test_leftovers_go_to_the_group_that_lost_most():
    layers = (
        Layer(("a",), None, "a", 3, 20, norm=True),
        Layer(("b",), "a", "b", 20, 20, norm=True),
    )
    channels = tables.channels(layers)
    full = {"a": 20, "b": 20}
    # The multiplier 4/3 would give 4 and 4, one too many. Below it there are 3 and 3, and one is
    # left over.
    found = expand({"a": 3, "b": 3}, channels, lambda w: w["a"] + w["b"] <= 7, limit=full)
    assert sorted(found.values()) == [3, 4]
    # Just below 1.3 the widths are 12 and 3. a has lost more, but only b may get another channel.
    found = expand({"a": 10, "b": 3}, channels, lambda w: w["a"] <= 12, limit=full)
    assert dict(found) == {"a": 12, "b": 4}


def test_units_are_kept_together():
    found = expand(FULL, SMALL, lambda w: w["b"] < 5, limit=FULL, multiple=1)
    assert (found["b"], found["c"], found["d"]) == (4, 4, 5)
    # A multiple of 3 in units of 2 is a multiple of 6.
    found = expand(FULL, SMALL, lambda w: w["a"] < 4, limit=FULL, multiple=3)
    assert (found["a"], found["b"]) == (3, 6)


def budget_of(**targets):
    blocks = partition(NETWORK, CHANNELS, frozen=targets.pop("frozen", ()))
    return make_budget(CHANNELS, blocks, **targets)


def dead_of(chosen):
    """Returns flags ``[units]``: in each group all units after the ``chosen`` first are dead."""
    units = [np.arange(most) >= width for most, width in zip(MOST, chosen, strict=True)]
    return np.concatenate(units)


@settings(max_examples=40, deadline=None)
@given(vectors, st.floats(0.2, 1.0), st.floats(0.2, 1.0), st.booleans(), st.integers(0, 9))
def test_reviving_stays_within_the_budget(widths, flops_target, params, freeze, seed):
    frozen = ("stage2",) if freeze else ()
    try:
        budget = budget_of(flops=flops_target, params=params, frozen=frozen)
    except ValueError:
        assume(False)
    before = vector(widths)
    assume(budget.allows(before))
    dead = dead_of(widths)
    worths = np.random.default_rng(seed).random(len(dead))
    still = revive(budget, dead, worths)
    after = alive_widths(CHANNELS, NETWORK.widths, still)
    assert budget.allows(after)
    assert not (still & ~dead).any()  # No living unit dies.
    assert (dead & ~still).sum() <= max(1, int(REVIVED * len(dead)))
    earlier = budget.shares(before)
    if all(earlier[c.name] >= (1 - TOLERANCE) * c.target for c in budget.constraints):
        np.testing.assert_array_equal(still, dead)
    if freeze:
        assert (after["stage2"], after["stage2.block1.conv1"]) == widths[3:1:-1]


def test_the_last_to_die_comes_back_first_and_only_where_something_is_undercut():
    widths = (6,) * 6
    dead = dead_of(widths)
    died = np.where(dead, np.arange(len(dead)) + 1, 0)
    worths = worth(CHANNELS, np.ones(len(dead)), died)
    assert (worths[dead] < worths[~dead].min()).all()
    # At most three of 112 units come back: the last ones of stage 3, which died after all others.
    still = revive(budget_of(flops=flops(widths) * 1.2), dead, worths)
    assert len(dead) == 112
    assert np.flatnonzero(dead & ~still).tolist() == [109, 110, 111]
    for limit, changes in ((1.015, False), (1.1, True)):
        still = revive(budget_of(flops=flops(widths) * limit), dead, worths)
        assert (still != dead).any() == changes


def test_worths_by_hand():
    """Shares of the group's living importance; dead units are below, in order of their death."""
    importance = np.array([3.0, 9.0, 1.0, 0.5, 2.0, 2.0, 1.0])
    died = np.array([0, 4, 0, 8, 0, 0, 6])
    found = worth(SMALL, importance, died)
    np.testing.assert_allclose(found, [0.75, 0, 0.25, 0, 0.5, 0.5, 0], atol=1e-8)
    assert found[3] > found[1] > 0 and found[6] > 0


def test_rounding_by_hand():
    """Two groups of 16 channels; the channels that cost least for their worth stay."""
    layers = (
        Layer(("a",), None, "a", 3, 16, norm=True),
        Layer(("b",), "a", "b", 16, 16, norm=True),
    )
    channels = tables.channels(layers)
    architecture = types.SimpleNamespace(blocks=("a",))
    blocks = partition(architecture, channels)
    # The full network has 3 a + a b = 304 MACs, so 608 FLOPs.
    budget = make_budget(channels, blocks, flops=0.4)
    even = np.full(32, 1 / 16)
    # 9 and 10 become 8 and 8, which cost 88 of 121.6 MACs. One more multiple of a costs 132
    # (12, 8); one more of b costs 120 (8, 12).
    assert dict(round_widths({"a": 9, "b": 10}, budget, 4, even)) == {"a": 8, "b": 12}
    # 15 and 7 become 16 and 8, which cost 176. Four channels of b cost most for their worth;
    # without them the cost is 112. That is 8 % too low, and only (8, 12) is closer to the target.
    assert dict(round_widths({"a": 15, "b": 7}, budget, 4, even)) == {"a": 8, "b": 12}
    # With multiples of 8 nothing is closer to the target.
    assert dict(round_widths({"a": 15, "b": 3}, budget, 8, even)) == {"a": 8, "b": 8}
    with pytest.raises(ValueError, match="the smallest widths, in multiples of 16: choose"):
        round_widths({"a": 9, "b": 10}, budget, 16, even)


@settings(max_examples=40, deadline=None)
@given(vectors, st.floats(0.3, 1.0), st.sampled_from([2, 4]), st.integers(0, 9))
def test_rounding_keeps_to_multiples_and_comes_near(widths, target, multiple, seed):
    budget = budget_of(flops=target)
    worths = np.random.default_rng(seed).random(sum(MOST))
    found = round_widths(vector(widths), budget, multiple, worths)
    assert budget.allows(found)
    chosen = chosen_of(found)
    for width, most in zip(chosen, MOST, strict=True):
        assert width % multiple == 0 or width == most
    assert found["stem"] == found["stage1"]
    (share,) = budget.shares(found).values()
    if share >= (1 - TOLERANCE) * target:
        return
    # No group can have one more multiple within the budget.
    for number, (width, most) in enumerate(zip(chosen, MOST, strict=True)):
        more = (*chosen[:number], min(most, width + multiple), *chosen[number + 1 :])
        assert more == chosen or not budget.allows(vector(more))


@settings(max_examples=60, deadline=None)
@given(
    vectors,
    st.floats(0.05, 1.0),
    st.sampled_from([0.05, 0.3, 0.6, 1, 3]),
    st.sampled_from([1, 2, 4, 8]),
    st.booleans(),
    st.sampled_from([(), ("stage2",)]),
    st.sampled_from([0.0, 0.5, 0.9]),
)
def test_a_checked_budget_is_kept_after_the_search(
    widths, target, min_width, multiple, expands, frozen, params
):
    """What passes the checks before training never fails after it, or goes below min_width."""
    try:
        budget = budget_of(flops=target, params=params, min_width=min_width, frozen=frozen)
        check_multiple(budget, multiple)
    except ValueError:
        return
    least, floor = budget.least(multiple), budget.least()
    groups = budget.channels.groups
    found = vector(widths)
    start = {
        member: group.channels if group.name in budget.held else max(width, floor[group.name])
        for group, width in ((group, found[group.name]) for group in groups)
        for member in group.members
    }
    assume(budget.allows(start))  # A search ends within its budget.
    if expands:
        found = expand(
            start,
            CHANNELS,
            budget.allows,
            limit=NETWORK.widths,
            least=least,
            multiple=multiple,
            held=budget.held,
        )
    else:
        found = round_widths(start, budget, multiple, np.ones(sum(MOST)))
    assert budget.allows(found)
    for group in groups:
        width = found[group.name]
        assert width % multiple == 0 or width == group.channels
        assert width >= min(group.channels, minimum_width(group, min_width))


def test_frozen_groups_are_not_rounded():
    budget = budget_of(flops=0.7, frozen=("stage2",))
    widths = vector((8, 8, 15, 16, 20, 20))
    found = round_widths(widths, budget, 4, np.ones(sum(MOST)))
    assert found["stage2.block1.conv1"] == 15
