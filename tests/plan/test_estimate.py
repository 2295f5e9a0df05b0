"""The speed model and its targets, compared with arithmetic by hand."""

import dataclasses

import pytest

from kdjax.plan import estimate, program, targets
from kdjax.plan.estimate import Constants, totals
from kdjax.plan.program import Kernel, Program

# One microsecond per launch, one byte per nanosecond, one operation per nanosecond.
CHIP = targets.Chip(
    "toy", "Toy", "gpu", 1e9, 2e9, {"float32": 2e9}, 1e9, 1.0, "invented for this test"
)
FAST = Constants(1e-6, 10e-6, 0.5, 0.5, (1, 1), False)
SLOW = Constants(2e-6, 20e-6, 0.25, 0.25, (4, 8), False)


def kernel(kind="other", times=1, moved=0.0, products=(), cycles=0.0, source="a.py:1"):
    return Kernel("name", kind, times, moved, products, cycles, source)


def estimated(*kernels, chip=CHIP, devices=1, steps=1):
    target = targets.Target("toy", chip, devices)
    return estimate.estimate(Program(kernels), target, dtype="float32", steps=steps, batch_size=64)


@pytest.fixture(autouse=True)
def _model(monkeypatch):
    monkeypatch.setattr(estimate, "MODEL", {"gpu": {"fast": FAST, "slow": SLOW}})


def test_each_kernel_takes_what_is_slowest():
    found = estimated(
        kernel(times=3),  # launches: 3 us, 6 us
        kernel(moved=5000.0),  # memory: 5 us, 10 us
        kernel(products=((7000.0, 4, 8),)),  # arithmetic: 7 us, 14 us
    )
    assert found["step_seconds"] == pytest.approx({"low": 15e-6, "high": 30e-6})
    assert found["images_per_second"] == pytest.approx({"low": 64 / 30e-6, "high": 64 / 15e-6})
    assert found["bound_by"] == "arithmetic"
    shares = {"launches": 3 / 15, "memory": 5 / 15, "arithmetic": 7 / 15, "collectives": 0}
    assert found["shares"] == pytest.approx(shares)


def test_thin_channels_leave_lanes_idle():
    # 3 of 4 input lanes and 10 of 16 output lanes: 12,000 operations take as long as 25,600.
    found = estimated(kernel(products=((12_000.0, 3, 10),)))
    assert found["step_seconds"] == pytest.approx({"low": 12e-6, "high": 25_600 / 0.5e9})


def test_a_dispatch_is_shared_by_its_steps():
    found = estimated(kernel(times=8), steps=8)
    assert found["step_seconds"]["low"] == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("collective", "sent"),
    [
        ("all-reduce", 2 * 3 / 4 * 8000),  # Every byte twice, but for the own share.
        ("reduce-scatter", 3 / 4 * 8000),
        ("all-to-all", (1 + 2 + 3) / 4 * 8000),  # A quarter to each of the others.
        ("all-gather", 3 * 8000),
        ("collective-permute", 8000),
    ],
)
def test_a_ring_of_four_sends(collective, sent):
    """Each device sends so many bytes at 1 GB/s."""
    summed = dataclasses.replace(kernel("collective", moved=8000.0), collective=collective)
    found = estimated(summed, devices=4)
    expected = {"low": 10e-6 + sent / 1e9, "high": 20e-6 + sent / 1e9}
    assert found["step_seconds"] == pytest.approx(expected)
    assert found["bound_by"] == "collectives"


def test_every_collective_of_a_program_has_its_cost():
    for collective in program.COLLECTIVES:
        one = dataclasses.replace(kernel("collective"), collective=collective)
        assert estimated(one, devices=2)["step_seconds"]["low"] == pytest.approx(10e-6)


def test_the_compiler_s_cycles_are_the_least_where_it_gives_some(monkeypatch):
    slow = dataclasses.replace(SLOW, compiler_cycles=True)
    monkeypatch.setattr(estimate, "MODEL", {"gpu": {"fast": FAST, "slow": slow}})
    chip = dataclasses.replace(CHIP, clock=1e9)
    assert estimated(kernel(cycles=50_000.0), chip=chip)["step_seconds"] == pytest.approx(
        {"low": 1e-6, "high": 50e-6}
    )
    # So few cycles only pay for starting the kernel, so they count as a launch.
    found = estimated(kernel(cycles=2_400.0), chip=chip)
    assert found["step_seconds"]["high"] == pytest.approx(2.4e-6)
    assert found["bound_by"] == "launches"


def test_totals_of_a_step():
    program = Program(
        (
            kernel("copy", times=4, moved=100.0, cycles=7.0, source="a.py:1"),
            kernel("transpose", times=2, moved=900.0, cycles=3.0, source="b.py:2"),
            kernel("copy", times=2, moved=50.0, source="a.py:1"),
            kernel("collective", times=2, moved=10.0),
            kernel("convolution", times=2, moved=30.0, products=((5.0, 1, 1), (6.0, 1, 1))),
        )
    )
    found = totals(program, steps=2)
    assert (found["launches"], found["bytes"], found["operations"]) == (6, 1190, 11)
    assert found["cycles"] == 4 / 2 * 7 + 3
    assert found["launches_by_kind"] == {
        "copy": 3, "transpose": 1, "collective": 1, "convolution": 1,
    }  # fmt: skip
    assert found["collectives"] == {"launches": 1, "bytes": 10}
    assert found["copies"] == {
        "launches": 4,
        "bytes": 1150,
        "by_line": [
            {"source": "b.py:2", "launches": 1, "bytes": 900},
            {"source": "a.py:1", "launches": 3, "bytes": 250},
        ],
    }


@pytest.mark.parametrize(
    ("name", "devices", "topology"),
    [
        ("h200", 1, ""),
        ("A100:4", 4, ""),
        ("v5e", 1, "2x2"),
        ("v5e:2x2", 4, "2x2"),
        ("v6e:2x4", 8, "2x4"),
        ("v5p:2x2x1", 4, "2x2x1"),
    ],
)
def test_targets(name, devices, topology):
    target = targets.parse(name)
    assert (target.devices, target.topology) == (devices, topology)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h20", r"'h20' \(did you mean h200\?\): allowed are h200, h100, a100"),
        ("cray", "'cray': allowed are"),
        ("h200:9", "comes the number of GPUs, 1 to 8"),
        ("a100:two", "comes the number of GPUs, 1 to 8"),
        ("v5e:3x3", "v5e:2x2, v5e:2x4"),
        ("v5p:16", "allowed are v5p .one chip. and, of one host, v5p:2x2x1"),
    ],
)
def test_other_targets_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        targets.parse(name)


def test_peaks_are_what_the_matrix_units_do_in_a_cycle():
    # By Google's pages a v5e core has 4 units of 128 x 128, two operations each; a v5p has 8.
    units = {"v5e": 4 * 128 * 128, "v5p": 8 * 128 * 128}
    for name, count in units.items():
        chip = targets.CHIPS[name]
        assert 2 * count * chip.clock == pytest.approx(chip.flops["bfloat16"], rel=0.005)
