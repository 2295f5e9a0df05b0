"""Fields that have no effect are named, with the field that decides it."""

import pytest

from kdjax import config as configuration
from kdjax.cli.configs import overridden, read_config


@pytest.mark.parametrize(
    ("task", "overrides", "field", "decided"),
    [
        ("train", ["weights.soft=0", "weights.dkd=1", "temperature=3"], "temperature", "soft is 0"),
        ("train", ["dkd.temperature=3"], "dkd.temperature", "config.weights.dkd is 0"),
        ("train", ["weight_ramp.soft=linear", "weights.soft=0"], "weight_ramp.soft", "soft is 0"),
        ("train", ["weight_ramp.epochs=3"], "weight_ramp.epochs", "terms that are on (hard, soft)"),
        ("train", ["ensemble.ema_decay=0.9"], "ensemble.ema_decay", "ensemble.rule is 'average'"),
        ("train", ["schedule.boundaries=(0.5,)"], "schedule.boundaries", "name is 'cosine'"),
        ("train", ["optimizer.b1=0.8"], "optimizer.b1", "config.optimizer.name is 'sgd'"),
        ("train", ["data.workers=2"], "data.workers", "config.data.memory is 'device'"),
        ("train", ["data.threads=2"], "data.threads", "config.data.memory is 'device'"),
        (
            "train",
            ["data.memory=stream", "data.workers=2", "data.threads=2"],
            "data.threads",
            "config.data.workers is 2",
        ),
        ("train", ["data.data_dir=sets", "data.name=npz:a.npz"], "data.data_dir", "'npz:a.npz'"),
        ("train", ["data.crop_padding=2", "data.memory=stream"], "data.crop_padding", "resized"),
        ("train", ["faults.limit=2"], "faults.limit", "non_finite is 'stop'"),
        ("train", ["method=independent", "weights.soft=2"], "weights.soft", "'independent'"),
        (
            "train",
            ["teacher_weights=()", "student_scales=(1.0, .5)", "student_widths=('a', 'b')"],
            "student_scales",
            "config.student_widths names",
        ),
        ("train", ["weights.soft=0", "student_weights=()"], "student_weights", "no term but hard"),
        ("train", ["weights.soft=0", "ensemble.rule=best"], "ensemble.rule", "only hard"),
        (
            "train",
            ["weights.soft=0", "standardize_logits=True"],
            "standardize_logits",
            "no term that compares logits is on, only hard",
        ),
        ("search", ["weights.soft=0", "standardize_logits=True"], "standardize_logits", "hard"),
        (
            "train",
            ["feature_gradient_to_stem=False"],
            "feature_gradient_to_stem",
            "no term that reads maps or embeddings is on, only hard, soft",
        ),
        (
            "distill",
            ["compute.batch_losses=global", "weights.vid=1"],
            "compute.batch_losses",
            "no term that compares the examples of a batch is on",
        ),
        (
            "train",
            ["compute.batch_losses=global", "method=independent"],
            "compute.batch_losses",
            "'independent'",
        ),
        (
            "train",
            ["label_smoothing=0.1", "method=ensemble", "weights.hard=0"],
            "label_smoothing",
            "config.weights.hard is 0",
        ),
        ("train", ["data.skip_corrupt=True"], "data.skip_corrupt", "config.data.name is 'digits'"),
        ("search", ["nkd.temperature=2"], "nkd.temperature", "config.weights.nkd is 0"),
        ("train", ["method=independent", "temperature=2"], "temperature", "'independent'"),
        ("search", ["teacher.checkpoint=best"], "teacher.checkpoint", "teacher.workdir is empty"),
        (
            "distill",
            ["teacher.workdir=('runs/a',)", "teacher.network=resnet20"],
            "teacher.network",
            "taken from config.teacher.workdir, none is trained",
        ),
    ],
)
def test_what_has_no_effect_is_named(task, overrides, field, decided):
    arguments = [f"--config.{text}" for text in overrides]
    config = read_config("", arguments, task)
    configuration.validate(config)
    (line,) = configuration.unread(config, overridden(arguments))
    assert line.startswith(f"config.{field} has no effect: ") and decided in line


@pytest.mark.parametrize(
    "overrides",
    [
        ["temperature=3", "weights.soft=0.3", "label_smoothing=0.1"],
        ["weights.dkd=1", "dkd.temperature=3", "weight_ramp.dkd=linear", "weight_ramp.epochs=3"],
        ["ensemble.rule=ema", "ensemble.ema_decay=0.9"],
        ["schedule.name=step", "schedule.boundaries=(0.5,)", "schedule.factor=0.2"],
        ["optimizer.name=adam", "optimizer.b1=0.8", "schedule.final=0.1", "epochs=2"],
        ["data.memory=stream", "data.workers=2"],
        ["data.memory=stream", "data.threads=32"],
        ["data.name=cifar10", "data.data_dir=sets", "compute.lanes=8"],
        ["standardize_logits=True", "ensemble.rule=gate", "student_weights=(0,0,0,0,1)"],
        ["weights.rkd=1", "compute.batch_losses=global", "feature_gradient_to_stem=False"],
        ["weights.hard=0", "label_smoothing=0.1", "data.name=folder:x", "data.skip_corrupt=True"],
        ["faults.non_finite=skip", "faults.limit=2", "method=independent", "label_smoothing=0.1"],
    ],
)
def test_what_is_read_is_not_named(overrides):
    arguments = [f"--config.{text}" for text in overrides]
    config = read_config("", arguments)
    configuration.validate(config)
    assert configuration.unread(config, overridden(arguments)) == []


def test_overrides_are_told_from_their_values():
    arguments = ["--config.data.flip", "--noconfig.baseline", "--config.epochs", "3"]
    assert overridden([*arguments, "--config.epochs=4"]) == ["data.flip", "baseline", "epochs"]
