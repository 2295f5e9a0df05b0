"""What reads feature maps needs a network that has them: students and teachers."""

import pytest
from bare import BARE, bare, without_blocks
from small import small_fields

from kdjax import config as configuration
from kdjax import models
from kdjax.config import ConfigError
from kdjax.train import distill
from kdjax.train.tasks.distill_teachers import Teacher
from kdjax.train.tasks.experiment import resolve


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        (
            ("(x,))", "())"),
            {},
            r"weights.feature is 0.15: it reads feature maps, and .*bare.py:create has no",
        ),
        (
            ("(x,))", "())"),
            {"weights.feature": 0.0, "ensemble.rule": "gate"},
            "config.ensemble.rule is 'gate': it reads feature maps, and .*bare.py:create has no",
        ),
        (
            ("(x,))", "(jnp.mean(x, axis=(1, 2)),))"),
            {},
            r"a feature map of shape \(1, 8\): expected \[batch, height, width, channels\]",
        ),
        (
            ("", ""),
            {"weights.fsp": 50.0},
            "weights.fsp is 50.0: it reads the maps of neighbouring blocks, and .* has one block",
        ),
    ],
)
def test_what_reads_maps_needs_maps(change, fields, message, small_config, tmp_path):
    text = BARE.replace(*change)
    blocks = change[1] != "())"
    small_config.network = bare(tmp_path, text) if blocks else without_blocks(tmp_path)
    small_config.network_width = 1.0
    small_config.update_from_flattened_dict(fields)
    with pytest.raises(ConfigError, match=message):
        resolve(small_config)
    small_config.method = "independent"  # Baselines read labels alone.
    if "shape" not in message:
        resolve(small_config)


def test_a_teacher_without_blocks_teaches_by_logits_alone(small_npz, tmp_path):
    config = configuration.distill_default()
    config.update_from_flattened_dict(small_fields(small_npz))
    config.teacher.update(network=without_blocks(tmp_path), network_width=1.0)
    config.weights.attention_transfer = 1000.0
    message = "attention_transfer is 1000.0: it reads feature maps, and the teacher"
    with pytest.raises(ConfigError, match=rf"{message} .*bare.py:create has no blocks"):
        distill(config, tmp_path / "run")
    architecture = models.create(config.teacher.network, 4)
    variables = models.initialize(architecture.build(), 0, (8, 8, 1))
    with pytest.raises(ConfigError, match=f"{message} mine has no blocks"):
        distill(config, tmp_path / "run", (Teacher("mine", architecture, variables),))
    assert not (tmp_path / "run").exists()
