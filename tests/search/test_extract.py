"""From living channels to width vectors: counting, choosing, widening, giving back."""

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kdjax import costs, models
from kdjax.costs import Layer
from kdjax.search import (
    TOLERANCE,
    Channels,
    alive_widths,
    expand,
    find_groups,
    kept_channels,
    make_budget,
    partition,
    top_up,
)

# a: 4 channels; b and c: tied, 6 channels in units of 2; d: not thinned.
LAYERS = (
    Layer(("a",), None, "a", 3, 4, (3, 3), (8, 8), norm=True),
    Layer(("b",), "a", "b", 4, 6, (1, 1), (8, 8), norm=True),
    Layer(("c",), "b", "c", 6, 6, (3, 3), (8, 8), groups=3, norm=True),
    Layer(("d",), "c", "d", 6, 5, bias=True),
    Layer(("classifier",), "d", None, 5, 2, bias=True),
)
SMALL = Channels(*find_groups(LAYERS, (("b", "c"),)))
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
    return costs.count(NETWORK, vector(chosen), SHAPE).flops


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
        with pytest.raises(ValueError, match=rf"does not allow {multiple} channel\(s\) in every"):
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
    # One uniform multiplier until all are at their limit.
    assert found == NETWORK.widths


def test_expanding_by_hand():
    """Widths 3 and 5 under a budget on their sum."""
    layers = (
        Layer(("a",), None, "a", 3, 20, norm=True),
        Layer(("b",), "a", "b", 20, 20, norm=True),
    )
    channels = Channels(*find_groups(layers))

    def allows(widths):
        return widths["a"] + widths["b"] <= 14

    found = expand({"a": 3, "b": 5}, channels, allows, limit={"a": 20, "b": 20})
    # At 1.8 b is 9: 5 + 9 = 14, all of it.
    assert dict(found) == {"a": 5, "b": 9}
    found = expand({"a": 3, "b": 5}, channels, allows, limit={"a": 20, "b": 20}, multiple=4)
    # 4 and 8 at 1.6; another 4 would be too many for either.
    assert dict(found) == {"a": 4, "b": 8}
    found = expand({"a": 3, "b": 5}, channels, allows, limit={"a": 20, "b": 6}, multiple=4)
    # The limit of b is no multiple, and is kept to; a has the rest.
    assert dict(found) == {"a": 8, "b": 6}
    found = expand({"a": 3, "b": 3}, channels, allows, limit={"a": 20, "b": 20}, multiple=3)
    # 6 and 6 at 2; the 2 left over are not one more multiple.
    assert dict(found) == {"a": 6, "b": 6}
    with pytest.raises(ValueError, match=r"does not allow 8 channel\(s\) in every group: choose"):
        expand({"a": 3, "b": 5}, channels, allows, limit={"a": 20, "b": 20}, multiple=8)


def test_leftovers_go_to_the_group_that_lost_most():
    layers = (
        Layer(("a",), None, "a", 3, 20, norm=True),
        Layer(("b",), "a", "b", 20, 20, norm=True),
    )
    channels = Channels(*find_groups(layers))
    full = {"a": 20, "b": 20}
    # At 4/3 it would be 4 and 4, one too many: 3 and 3, and one is left over.
    found = expand({"a": 3, "b": 3}, channels, lambda w: w["a"] + w["b"] <= 7, limit=full)
    assert sorted(found.values()) == [3, 4]
    # Just below 1.3 it is 12 and 3; a has lost more, but only b may have another one.
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
    return make_budget(NETWORK, NETWORK.widths, CHANNELS, blocks, SHAPE, **targets)


@settings(max_examples=40, deadline=None)
@given(vectors, st.floats(0.2, 1.0), st.floats(0.2, 1.0), st.booleans())
def test_giving_back_stays_within_the_budget(widths, flops_target, params, freeze):
    frozen = ("stage2",) if freeze else ()
    try:
        budget = budget_of(flops=flops_target, params=params, frozen=frozen)
    except ValueError:
        assume(False)
    before = vector(widths)
    assume(budget.allows(before))
    after = top_up(before, budget)
    assert budget.allows(after)
    earlier = budget.shares(before)
    undercut = {c.name: c.target for c in budget.constraints}
    undercut = {n: t for n, t in undercut.items() if earlier[n] < (1 - TOLERANCE) * t}
    if len(undercut) == 1:
        (name,) = undercut
        assert budget.shares(after)[name] >= earlier[name]
    if not undercut:
        assert after == before
    assert all(after[group] <= full for group, full in NETWORK.widths.items())
    assert after["stem"] == after["stage1"]
    if freeze:
        assert (after["stage2"], after["stage2.block1.conv1"]) == widths[3:1:-1]
    shares = budget.shares(after)
    low = [c.name for c in budget.constraints if shares[c.name] < (1 - TOLERANCE) * c.target]
    if not low:
        return
    # What is still undercut stays so because no free group has room for one more channel.
    free = [n for n, name in enumerate(NAMES) if not (freeze and name.startswith("stage2"))]
    chosen = chosen_of(after)
    for number in free:
        more = (*chosen[:number], chosen[number] + 1, *chosen[number + 1 :])
        assert chosen[number] == MOST[number] or not budget.allows(vector(more))


def test_what_is_close_to_its_target_stays_as_it_is():
    cost = flops((6,) * 6)
    for share, changes in ((cost * 1.015, False), (cost * 1.03, True)):
        found = top_up(vector((6,) * 6), budget_of(flops=share))
        assert (found != vector((6,) * 6)) == changes


def test_the_target_left_behind_is_brought_up():
    """Few channels late, where parameters are; many FLOPs still to spend."""
    widths = (8, 8, 6, 6, 2, 2)
    params = costs.count(NETWORK, vector(widths), SHAPE).params
    budget = budget_of(flops=flops(widths) * 1.01, params=params * 1.5)
    before, after = budget.shares(vector(widths)), budget.shares(top_up(vector(widths), budget))
    target = {c.name: c.target for c in budget.constraints}
    assert before["params"] < 0.7 * target["params"]
    assert 0.98 * target["params"] <= after["params"] <= target["params"]
    assert after["flops"] <= target["flops"]


def test_with_one_target_all_that_fits_is_given_back():
    for widths in itertools.product((1, 4), (2, 5), (3,), (4,), (5,), (6, 20)):
        limit = 1.3 * flops(widths)
        found = top_up(vector(widths), budget_of(flops=limit))
        assert flops(widths) < flops(chosen_of(found)) <= limit
        assert all(after >= before for after, before in zip(chosen_of(found), widths, strict=True))
