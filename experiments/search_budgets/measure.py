"""Compares the sliced network with the searched one, on real images."""

from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from kdjax import data, tracing
from kdjax.train.program.compiled import Runner
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.tasks.experiment import resolve, stage_config
from kdjax.train.tasks.search_stage import resolve_budget, search_method, search_optimizer
from kdjax.train.tasks.structure import find_structure


def sliced_against_searched(
    config: ml_collections.ConfigDict, workdir: Path, summary: dict[str, Any], images: int = 256
) -> float:
    """Returns the largest difference of the logits on training images, over the largest logit.

    Args:
      config: configuration of the search.
      workdir: workdir of the search.
      summary: results of the search.
      images: how many training images.
    """
    experiment = resolve(config)
    budget = resolve_budget(experiment)
    stage = stage_config(config, config.search.epochs, constant_rate=config.search.learning_rate)
    runner = Runner(
        search_method(experiment, budget),
        stage,
        experiment.feed(),
        experiment.parallel,
        wrap=search_optimizer(experiment, budget),
    )
    seed = config.seeds[0]
    checkpoints = Checkpoints(workdir / "checkpoints" / f"search-seed{seed}", read_only=True)
    record = {**experiment.record, "student_widths": [dict(experiment.architecture.widths)]}
    state, _ = checkpoints.restore("last", runner.initial_state(seed), record)
    checkpoints.close()
    structure = find_structure(experiment, budget, state)
    assert structure.to_json() == summary["structure"]
    searched = {kind: tree["student_1"] for kind, tree in state.variables.items()}
    traced = budget.channels.traced
    alive = tracing.alive_from_kept(traced, structure.kept)
    sliced = tracing.take(searched, traced, alive)
    real = data.load(config.data.name).train.images[:images]
    x = ((real / 255.0 - experiment.dataset.mean) / experiment.dataset.std).astype(np.float32)
    full = jax.jit(experiment.architecture.build().apply)(searched, x).logits
    small = jax.jit(experiment.architecture.build(structure.compact).apply)(sliced, x).logits
    return float(np.abs(np.subtract(small, full)).max() / np.abs(full).max())
