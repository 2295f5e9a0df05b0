"""Targets and schedules, resolved for a network, and the errors in them."""

import re

import numpy as np
import pytest
from scipy.optimize import brentq

from kdjax import models, tracing
from kdjax.search import Channels, make_budget, minimum_width, near_collapse, partition

SHAPE = (8, 8, 3)
# Groups in order: stem (= stage1), stage1.block1.conv1, stage2.block1.conv1, stage2,
# stage3.block1.conv1, stage3; widths 8, 8, 16, 16, 32, 32.
NETWORK = models.create("resnet8", 4, width=0.5)
CHANNELS = Channels.of(NETWORK, NETWORK.widths, SHAPE)
# Multiply-accumulates and parameters by block at 8 x 8 pixels, stage 1 with the stem, stage 3 with
# the classifier; two parameters of normalisation for each channel that a layer writes.
MACS = {
    "stage1": 64 * 9 * (3 * 8 + 8 * 8 + 8 * 8),
    "stage2": 16 * (9 * (8 * 16 + 16 * 16) + 8 * 16),
    "stage3": 4 * (9 * (16 * 32 + 32 * 32) + 16 * 32) + 32 * 4,
}
PARAMS = {
    "stage1": 9 * (3 * 8 + 8 * 8 + 8 * 8) + 2 * 3 * 8,
    "stage2": 9 * (8 * 16 + 16 * 16) + 8 * 16 + 2 * 3 * 16,
    "stage3": 9 * (16 * 32 + 32 * 32) + 16 * 32 + 2 * 3 * 32 + 32 * 4 + 4,
}
FLOPS = {name: 2 * macs for name, macs in MACS.items()}


def blocks_of(**arguments):
    return partition(NETWORK, CHANNELS, **arguments)


def budget_of(blocks=None, **arguments):
    blocks = blocks_of() if blocks is None else blocks
    return make_budget(CHANNELS, blocks, **arguments)


@pytest.mark.parametrize(
    ("resource", "table"), [("flops", FLOPS), ("params", PARAMS)], ids=["flops", "params"]
)
def test_targets_are_shares_or_absolute(resource, table):
    full = sum(table.values())
    for value, share in ((0.5, 0.5), (1.0, 1.0), (full, 1.0), (full // 2, (full // 2) / full)):
        (constraint,) = budget_of(**{resource: value}).constraints
        assert constraint.name == resource
        assert constraint.model.resource == resource
        assert constraint.model.full == full
        assert constraint.target == pytest.approx(share, rel=1e-12)


def test_every_group_feels_its_target_and_no_other():
    budget = budget_of(flops=0.5, params=0.4)
    assert [c.name for c in budget.constraints] == ["flops", "params"]
    # [resources, groups]; the resources are flops and params.
    np.testing.assert_array_equal(budget.constraints[0].pressure, [[1] * 6, [0] * 6])
    np.testing.assert_array_equal(budget.constraints[1].pressure, [[0] * 6, [1] * 6])
    blocks = blocks_of(
        strengths=(2.0, 3.0, 5.0),
        resources=("params", "both", "targets"),
        targets=(0.0, 0.0, 0.25),
    )
    overall, own = budget_of(blocks, flops=0.5).constraints
    np.testing.assert_array_equal(
        overall.pressure, [[0, 0, 1.5, 1.5, 5, 5], [2, 2, 1.5, 1.5, 0, 0]]
    )
    assert own.name == "stage3.flops"
    np.testing.assert_array_equal(own.pressure, [[0, 0, 0, 0, 5, 5], [0] * 6])


def test_a_frozen_block_feels_nothing():
    budget = budget_of(blocks_of(frozen=("stage2",)), flops=0.5)
    np.testing.assert_array_equal(budget.constraints[0].pressure[0], [1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(budget.slots, [[True, True, False, False, True, True]])
    assert budget.slot_blocks == ("stage1+stage3",)


def test_a_block_target_is_a_share_of_what_the_block_writes():
    budget = budget_of(blocks_of(resources=("both",) * 3, targets=(0, 0.5, 0)))
    assert [c.name for c in budget.constraints] == ["stage2.flops", "stage2.params"]
    assert [c.model.full for c in budget.constraints] == [FLOPS["stage2"], PARAMS["stage2"]]
    assert [c.target for c in budget.constraints] == [0.5, 0.5]


def test_shares_and_what_is_allowed():
    budget = budget_of(blocks_of(targets=(0, 0.5, 0)), params=0.9)
    assert budget.allows(dict(NETWORK.widths)) is False
    thin = dict(NETWORK.widths) | {"stage2.block1.conv1": 6}
    before, after = sum(PARAMS.values()), sum(PARAMS.values()) - 9 * 10 * (8 + 16) - 2 * 10
    own = PARAMS["stage2"] - 9 * 10 * (8 + 16) - 2 * 10
    assert budget.shares(thin) == {
        "params": pytest.approx(after / before, rel=1e-12),
        "stage2.params": pytest.approx(own / PARAMS["stage2"], rel=1e-12),
    }
    assert after / before < 0.9 and own / PARAMS["stage2"] < 0.5
    assert budget.allows(thin)
    # A cost that equals the target is allowed.
    assert budget_of(params=float(after)).allows(thin)
    assert not budget_of(params=float(after - 1)).allows(thin)


FULL = sum(FLOPS.values())


@pytest.mark.parametrize(
    ("blocks", "arguments", "message"),
    [
        (
            {},
            {},
            "search.target has no target: give flops, params, latency, or a target to a block",
        ),
        (
            {},
            {"flops": -1.0},
            "search.target.flops is -1: expected a share in (0, 1] or an absolute number of flops "
            f"up to the full network's {FULL:,}",
        ),
        ({}, {"params": float("nan")}, "search.target.params is nan: expected a share"),
        ({}, {"params": float("inf")}, "search.target.params is inf: expected a share"),
        (
            {},
            {"flops": FULL + 1.0},
            f"search.target.flops is {float(FULL + 1):g}: above the full network's {FULL:,} flops",
        ),
        (
            {},
            {"flops": 1e-6},
            f"the target 1e-06 for flops (a share of {FULL:,}; numbers above 1 are absolute) "
            "cannot be reached: ",
        ),
        (
            {},
            {"flops": 0.05, "min_width": 6},
            ", since every group keeps at least 6 channel(s); maps that are added or "
            "multiplied are equal (stem = stage1)",
        ),
        (
            {"frozen": ("stage1", "stage2")},
            {"flops": 0.3},
            "stem, stage1.block1.conv1, stage2.block1.conv1, stage2 may not change",
        ),
        (
            {"frozen": ("stage1", "stage2", "stage3")},
            {"flops": 0.3},
            "search.blocks.frozen names every block: nothing could be thinned",
        ),
        (
            {"targets": (0, 1.5, 0)},
            {},
            "search.blocks.targets is 1.5 for 'stage2': expected a share in (0, 1], or 0 for none",
        ),
        ({"targets": (0, 0, -0.5)}, {}, "search.blocks.targets is -0.5 for 'stage3'"),
        (
            {"names": ("stage1", "stage2", "later"), "targets": (0, 0, 0.5)},
            {},
            "search.blocks.targets is 0.5 for 'later', which has no groups to thin",
        ),
        (
            {"targets": (0, 0.5, 0), "frozen": ("stage2",)},
            {},
            "search.blocks.targets is 0.5 for 'stage2', which is frozen",
        ),
        (
            {"targets": (0, 1e-5, 0)},
            {},
            f"the target 1e-05 for stage2.flops (a share of {FLOPS['stage2']:,}; numbers above 1 "
            "are absolute) cannot be reached",
        ),
        (
            {},
            {"flops": 0.5, "schedule": "in turns"},
            "search.schedule is 'in turns': one of joint, sequential",
        ),
        (
            {},
            {"flops": 0.5, "schedule": "sequential", "order": ("stage1", "stage22")},
            "search.order names 'stage22' (did you mean 'stage2'?): the blocks are stage1",
        ),
        (
            {"frozen": ("stage2",)},
            {"flops": 0.5, "schedule": "sequential", "order": ("stage1", "stage2")},
            "search.order names 'stage2', which is frozen",
        ),
        (
            {"targets": (0, 0, 0.5)},
            {"schedule": "sequential", "order": ("stage1", "stage2")},
            "search.order leaves out 'stage3', which has a target of its own",
        ),
        (
            {},
            {"flops": 0.3, "schedule": "sequential", "order": ("stage3",)},
            "stem, stage1.block1.conv1, stage2.block1.conv1, stage2 may not change",
        ),
    ],
)
def test_bad_targets_are_refused(blocks, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        budget_of(blocks_of(**blocks), **arguments)


def test_the_least_cost_is_named_and_reachable():
    with pytest.raises(ValueError, match="cannot be reached") as refused:
        budget_of(params=1e-6)
    # One channel in every group: the 3x3 convolutions, the first from 3 to 1, the others from 1 to
    # 1; the projections; the normalisations; the classifier with four biases.
    least = 9 * (3 + 6) + 2 + 2 * (1 + 6 + 2) + 4 + 4
    assert f"the lowest possible is {least / sum(PARAMS.values()):.4g}, since" in str(refused.value)
    budget = budget_of(params=float(least))
    assert budget.allows(dict.fromkeys(NETWORK.widths, 1))
    with pytest.raises(ValueError, match="cannot be reached"):
        budget_of(params=float(least - 1))


def test_groups_that_cannot_be_thinned_are_named():
    architecture = models.create("vgg16_bn_imagenet", 4, width=0.02)
    channels = Channels.of(architecture, architecture.widths, (16, 16, 3))
    with pytest.raises(ValueError, match="no normalisation scales the channels of dense1, dense2"):
        make_budget(
            channels,
            partition(architecture, channels),
            params=0.01,
        )


def thinned_in_turn(budget, target):
    """The costs after each slot, if one multiplier for all slots' groups meets the target."""
    (constraint,) = budget.constraints
    full = np.array([group.channels for group in budget.channels.groups], float)

    def cost(factor, slots):
        return constraint.model.cost(np.where(slots.any(axis=0), factor * full, full))

    factor = brentq(lambda factor: cost(factor, budget.slots) - target, 1e-3, 1)
    return [cost(factor, budget.slots[: number + 1]) for number in range(len(budget.slots))]


def test_sequential_waypoints_add_up():
    budget = budget_of(flops=0.4, schedule="sequential")
    assert budget.slot_blocks == ("stage1", "stage2", "stage3")
    np.testing.assert_array_equal(budget.slots, np.repeat(np.eye(3, dtype=bool), 2, axis=1))
    np.testing.assert_allclose(budget.waypoints[:, 0], thinned_in_turn(budget, 0.4), rtol=1e-9)
    assert budget.waypoints[-1, 0] == pytest.approx(0.4, rel=1e-12)


def test_the_order_is_the_users():
    budget = budget_of(params=0.4, schedule="sequential", order=("stage3", "stage1"))
    assert budget.slot_blocks == ("stage3", "stage1")
    np.testing.assert_array_equal(
        budget.slots, [[False] * 4 + [True] * 2, [True] * 2 + [False] * 4]
    )
    # The blocks in the order share the whole reduction.
    np.testing.assert_allclose(budget.waypoints[:, 0], thinned_in_turn(budget, 0.4), rtol=1e-9)


def test_a_block_goes_all_its_own_way_in_its_slot():
    blocks = blocks_of(targets=(0.5, 0, 0.25), resources=("flops", "targets", "params"))
    budget = budget_of(
        blocks, flops=0.6, schedule="sequential", order=("stage2", "stage3", "stage1")
    )
    by_name = dict(zip([c.name for c in budget.constraints], budget.waypoints.T, strict=True))
    assert list(by_name) == ["flops", "stage1.flops", "stage3.params"]
    np.testing.assert_allclose(by_name["stage1.flops"], [1, 1, 0.5])
    np.testing.assert_allclose(by_name["stage3.params"], [1, 0.25, 0.25])
    assert by_name["flops"][-1] == pytest.approx(0.6)


def test_frozen_blocks_have_no_slot():
    budget = budget_of(blocks_of(frozen=("stage1",)), flops=0.8, schedule="sequential")
    assert budget.slot_blocks == ("stage2", "stage3")
    np.testing.assert_allclose(budget.waypoints[:, 0], thinned_in_turn(budget, 0.8), rtol=1e-9)


def test_joint_has_one_slot():
    budget = budget_of(flops=0.4, params=0.3)
    assert budget.slots.tolist() == [[True] * 6]
    np.testing.assert_allclose(budget.waypoints, [[0.4, 0.3]])
    assert (budget.schedule, budget.min_width) == ("joint", 1)


@pytest.mark.parametrize(
    ("channels", "unit", "least", "expected"),
    [(160, 1, 0.05, 8), (16, 1, 0.05, 1), (24, 1, 0.05, 2), (3, 1, 0.05, 1), (40, 4, 0.05, 4),
     (160, 1, 1, 1), (160, 1, 12, 12), (8, 1, 12, 8)],
)  # fmt: skip
def test_least_widths(channels, unit, least, expected):
    group = tracing.Group("a", ("a",), 1, 1 + channels // unit, unit, ())
    assert minimum_width(group, least) == expected


def test_groups_near_collapse_are_named():
    budget = budget_of(flops=0.5)
    widths = dict(NETWORK.widths)
    assert near_collapse(budget, widths) == ""
    widths["stage3"] = widths["stage3"] // 8
    text = f"near collapse: stage3 ({widths['stage3']} of {NETWORK.widths['stage3']})"
    assert near_collapse(budget, widths) == text
    frozen = budget_of(blocks_of(frozen=("stage3",)), flops=0.9)
    assert near_collapse(frozen, widths) == ""
