"""The planned program is the one that runs; CPU devices are used as if they were absent."""

import re

import jax
import pytest

from kdjax import data
from kdjax.plan import DataShape, targets
from kdjax.plan.absent import AbsentParallel
from kdjax.plan.lower import lowered
from kdjax.plan.program import read
from kdjax.train.devices.parallel import Parallel
from kdjax.train.tasks.experiment import resolve


def text_of(experiment, feed):
    """Returns the program that the compiler gets, without source locations."""
    runner = experiment.runner("ensemble", feed)
    state = runner.place(runner.initial_state(0))
    lower = runner._full_dispatch.lower
    given = (state, feed.data, None, next(runner.epoch(state, 0)), runner._scalar(0))
    return re.sub(r"loc\(.*", "", lower(*given).as_text())


@pytest.mark.parametrize("devices", [1, 2])
def test_the_planned_program_is_the_run_s(small_config, devices):
    small_config.compute.devices = devices
    small_config.compute.steps_per_dispatch = 2
    here = resolve(small_config)
    shape = DataShape.of(here.dataset)
    parallel = AbsentParallel(here.parallel.devices)
    there = resolve(small_config, parallel=parallel, dataset=shape.dataset())
    planned = text_of(there, there.resident(*shape.on_devices()))
    run = text_of(here, here.feed())
    # Only the images' mean and deviation differ, which are constants in the program.
    differing = [
        (ours, theirs)
        for ours, theirs in zip(planned.splitlines(), run.splitlines(), strict=True)
        if ours != theirs
    ]
    assert all("dense<" in ours and "xf32>" in ours for ours, _ in differing)
    assert len(differing) <= 2


def test_a_whole_program_is_counted(small_config):
    chip = targets.Chip("cpu", "CPU", "gpu", 4e9, 1e9, {"float32": 1e9}, 1e9, 0.5, "for this test")
    shape = DataShape({"train": 90, "validation": 0, "test": 30}, (8, 8, 1), 4)
    small_config.data.name = "digits"
    target = targets.Target("cpu:2", chip, 2)
    small_config.compute.update(devices=0, execution="merged")
    found = lowered(small_config, "ensemble", target, jax.devices()[:2], shape)
    assert (found["compiles"], found["devices"], found["execution"]) == (True, 2, "merged")
    memory = found["memory_bytes"]
    # The data are all images and labels, and the order of 6 steps of 16 images.
    assert memory["data"] == 120 * (8 * 8 + 4) + 6 * 16 * 4
    assert memory["planned"] > memory["state"] + memory["activations"] > memory["activations"] > 0
    assert (memory["device"], memory["usable"]) == (4e9, 2e9)
    counts = found["counts"]
    assert counts["collectives"]["launches"] > 0 == counts["uncounted_loops"]
    assert counts["operations"] > 0 < counts["bytes"]
    speed = found["estimate"]["images_per_second"]
    assert 0 < speed["low"] < speed["high"]


def test_a_stream_is_planned_without_images(small_config):
    small_config.data.memory = "stream"
    small_config.compute.steps_per_dispatch = 3
    shape = DataShape({"train": 90, "validation": 0, "test": 30}, (8, 8, 3), 4, streamed=True)
    parallel = AbsentParallel(tuple(jax.devices()[:2]))
    experiment = resolve(small_config, parallel=parallel, dataset=shape.dataset())
    assert isinstance(experiment.dataset, data.Streamed)
    feed = experiment.feed()
    runner = experiment.runner("ensemble", feed)
    state = runner.place(runner.initial_state(0))
    batch, first = next(runner.epoch(state, 0))
    # Two devices and three steps; each device has eight of the sixteen images.
    assert batch.images.shape == (2, 3, 8, 8, 8, 3)
    assert batch.mask.shape == (2, 3, 8)
    assert first.shape == (2,)


def test_absent_devices_hold_shapes():
    parallel = AbsentParallel(tuple(jax.devices()[:4]))
    tree = parallel.replicate({"a": jax.ShapeDtypeStruct((3, 5), "float32")})
    assert tree["a"].shape == (4, 3, 5)
    assert parallel.device_bytes(tree) == 60
    double = parallel.compile(lambda x: {"a": x["a"] * 2})
    assert double(tree)["a"].shape == (4, 3, 5)
    one = AbsentParallel(tuple(jax.devices()[:1]))
    assert isinstance(one, Parallel)
    assert one.unreplicate(one.replicate(tree))["a"].shape == (4, 3, 5)
    program = one.compile(lambda x: x + 1).lower(one.replicate(tree["a"])).compile()
    assert read(program.as_text(), "cpu").kernels
