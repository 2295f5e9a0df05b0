"""Training on a stream: the same images on one device, on several, and after a restart."""

import json

import jax
import numpy as np
import PIL.Image
import pytest

from kdjax.config import ConfigError
from kdjax.train import train
from kdjax.train.program.feed import Resident, Streaming
from kdjax.train.tasks.experiment import resolve


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of grey images of several sizes: 36 to train, 12 to test."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, count in (("train", 36), ("test", 12)):
        for number in range(count):
            pixels = rng.integers(0, 120, (20 + number % 5, 24)) + 120 * (number % 2)
            path = root / part / f"class{number % 2}" / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture
def config(small_config, folder):
    small_config.update_from_flattened_dict(
        {
            "data.name": f"folder:{folder}",
            "data.memory": "stream",
            "data.image_size": (12, 12),
            "data.flip": True,
            "batch_size": 8,
            "evaluation.batch_size": 8,
            "compute.batch_norm": "global",
            "log.every_steps": 1,
        }
    )
    return small_config


def numbers(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    return lines, json.loads((path / "results.json").read_text())["students"]


def test_padding_counts_only_where_images_are_not_cut_at_random(config):
    config.data.crop_padding = 12
    resolve(config)
    config.data.resized_crop = False
    with pytest.raises(ConfigError, match="crop_padding is 12: it must be below the image size"):
        resolve(config)


def test_a_stream_is_trained_on_the_same_every_time(config, tmp_path, monkeypatch):
    config.data.cutmix, config.epochs = 1.0, 2
    closed, close = [], Streaming.close
    monkeypatch.setattr(Streaming, "close", lambda self: closed.append(self) or close(self))
    straight = train(config, tmp_path / "straight")
    assert len(straight["students"]) == 2
    assert closed and all(feed._open is None for feed in closed)
    for path in ("again", "dispatched"):
        config.compute.steps_per_dispatch = 2 if path == "dispatched" else 0
        train(config, tmp_path / path)
    assert numbers(tmp_path / "again") == numbers(tmp_path / "straight")
    # Two steps per dispatch use another compiled program, but the same batches.
    scores = [
        [line["hard"] for line in numbers(tmp_path / path)[0] if line["kind"] == "validation"]
        for path in ("dispatched", "straight")
    ]
    assert len(scores[0]) == 2
    np.testing.assert_allclose(*scores, rtol=1e-3)


def feed_of(config, devices):
    config.compute.devices = devices
    experiment = resolve(config)
    feed = experiment.feed()
    return experiment.runner("ensemble", feed), feed


def test_devices_share_a_streamed_batch(config):
    losses = []
    for devices in (1, 4):
        runner, feed = feed_of(config, devices)
        state = runner.place(runner.initial_state(0))
        inputs, seen = runner.epoch(state, 0), []
        for step in range(4):
            state, metrics, _ = runner.steps(state, inputs, step, 4)
            seen.append(runner.to_host(metrics)["loss"])
        losses.append(np.array(seen))
        accuracy = runner.evaluate(state.variables, "test")["accuracy"]
        assert accuracy.shape == (2,) and np.all(accuracy * 12 % 1 < 1e-6)
        feed.close()
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_rollback_reads_other_batches(config):
    runner, feed = feed_of(config, 1)
    state = runner.initial_state(0)
    key = np.asarray(jax.random.key_data(jax.random.key(99)))
    batches = [
        jax.device_get(next(runner.epoch(runner.place(chosen), 3))[0].images)
        for chosen in (state, state, state.replace(key=key))
    ]
    assert np.array_equal(batches[0], batches[1]) and not np.array_equal(batches[0], batches[2])
    feed.close()


def test_epochs_end_with_a_short_batch(config):
    runner, feed = feed_of(config, 1)
    state = runner.place(runner.initial_state(0))
    sizes = [int(np.sum(chunk.mask)) for chunk, _ in feed.epoch(state, 0, 3)]
    assert feed.sizes["train"] == 32 and sizes == [24, 8]
    config.batch_size = 10
    runner, other = feed_of(config, 1)
    sizes = [int(np.sum(chunk.mask)) for chunk, _ in other.epoch(state, 0, 3)]
    assert sizes == [30, 2]
    feed.close()
    other.close()


def test_the_memory_decides(config):
    assert isinstance(feed_of(config, 1)[1], Streaming)
    config.data.memory, config.data.name = "device", "digits"
    config.data.image_size = (0, 0)
    assert isinstance(feed_of(config, 1)[1], Resident)
