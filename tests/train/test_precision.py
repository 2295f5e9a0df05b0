"""bfloat16 without loss scaling follows float32; experiments/faults shows 200 steps."""

import json

import numpy as np

from kdjax.train import train


def losses(config, path, dtype):
    config.compute.dtype = dtype
    train(config, path / dtype)
    lines = (path / dtype / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return np.array([record["loss"] for record in records if record["kind"] == "train"])


def test_bfloat16_follows_float32(small_config, tmp_path):
    small_config.epochs = 10  # An epoch has six steps.
    small_config.checkpoint.every_epochs = small_config.evaluation.every_epochs = 10
    small_config.log.every_steps = 1
    # The rate is small, so that training is stable and any difference comes from the precision.
    small_config.schedule.learning_rate = 0.01
    small_config.network_width = 0.5
    small_config.weights.feature = 0.0
    full, half = (losses(small_config, tmp_path, dtype) for dtype in ("float32", "bfloat16"))
    assert len(full) == len(half) == 60 and np.isfinite(half).all()
    assert abs(half[0] / full[0] - 1) < 0.01
    ends = [values[-20:].mean() for values in (full, half)]
    assert ends[0] < 0.75 * full[0]  # Training has reduced the loss.
    assert abs(ends[1] / ends[0] - 1) < 0.15
