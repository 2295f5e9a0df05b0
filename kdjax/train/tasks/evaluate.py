"""Evaluating the checkpoints of an experiment: every network as it would be deployed."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import config as configuration
from kdjax import losses, models
from kdjax.models import IndependentNetworks
from kdjax.train.devices.parallel import choose
from kdjax.train.program.feed import Feed
from kdjax.train.run import network_files, workdir
from kdjax.train.run.checkpoint import CheckpointError
from kdjax.train.tasks import measures, stored
from kdjax.train.tasks.evaluation_data import EvaluationData, open_data
from kdjax.train.tasks.experiment import Experiment
from kdjax.train.tasks.stages import run_name
from kdjax.train.tasks.stored import Trained

_TOP = 5
_ALLOWED = {"split": ("train", "validation", "test"), "checkpoint": ("last", "best")}


def evaluate(
    path: str | Path,
    *,
    student: int | str = 0,
    split: str = "test",
    checkpoint: str = "last",
    data: str = "",
    other_data: str = "",
) -> dict[str, Any]:
    """Evaluates what was trained in a workdir, each network as it would be deployed.

    Args:
      path: the workdir; it may have been moved since training.
      student: a number from 1 or a name of :func:`kdjax.train.tasks.stored.select`; 0: all
        networks, and the average of an ensemble's students.
      split: ``train``, ``validation`` or ``test``.
      checkpoint: ``last`` or ``best``.
      data: where the data is now: a directory, a file, or a name as in ``config.data.name``;
        empty: where it was in training.
      other_data: other data of the same classes, named in the same way; all of it is evaluated.

    Returns:
      ``workdir``, ``data`` (``name``, ``other``), ``split``, ``checkpoint``, ``examples``,
      ``classes`` (``name`` and ``examples`` of each), ``networks`` and ``remarks`` (lines for
      the user). Each of ``networks`` has ``name``, ``accuracy`` and ``top5`` (fractions, means
      over seeds; ``top5`` with more than 10 classes), ``accuracy_std`` and ``top5_std``
      (sample deviations), ``accuracy_half_width`` and ``top5_half_width`` (of 95 % intervals),
      ``class_accuracy``, ``confusion`` (``[true][predicted]``, the sum over seeds) and
      ``runs`` with the values of each run. A value that cannot be computed is None.

    Raises:
      ValueError: if an argument is not one of the allowed words, there is nothing to evaluate (no
        run, checkpoint, split or student), or the data is not what the networks were trained on.
    """
    for name, value in (("split", split), ("checkpoint", checkpoint)):
        if value not in _ALLOWED[name]:
            known = ", ".join(map(repr, _ALLOWED[name]))
            raise ValueError(f"{name} is {value!r}: allowed are {known}")
    path = Path(os.path.expanduser(path))
    config = workdir.read_config(path)
    # Networks trained on many devices can be evaluated on one, without their width files.
    config.compute.devices = 1
    if configuration.task_of(config) == "distill":  # A teacher may support no other execution.
        config.compute.update(execution="auto", lanes=1, remat=False)
    chosen = stored.select(path, config, student)
    opened = open_data(path, config, data=data, other_data=other_data)
    parts = list(opened.dataset.sizes) if other_data else [split]
    if not sum(opened.dataset.sizes[part] for part in parts):
        raise ValueError(f"--split is {split}: it is empty in this experiment")
    architecture = models.create(
        network_files.loadable(path, config.network),
        len(opened.class_names),
        width=config.network_width,
    )
    experiment = Experiment(config, opened.dataset, architecture, (), choose(1))
    feed = experiment.feed()
    predicted: dict[str, list[_Predicted]] = {}
    for stage in dict.fromkeys(network.stage for network in chosen):
        members = tuple(network for network in chosen if network.stage == stage)
        for found in _evaluate_stage(path, experiment, feed, members, parts, checkpoint):
            predicted.setdefault(found.network, []).append(found)
    if not predicted:
        raise CheckpointError(stored.missing_checkpoint(path, config, chosen[0], checkpoint))
    summary = {
        "workdir": str(path),
        "data": {"name": opened.dataset.name, "other": bool(other_data)},
        "split": "all" if other_data else split,
        "checkpoint": checkpoint,
    }
    remarks = (*_unfinished(path, predicted), *_missing(chosen, predicted, checkpoint))
    return summary | _summarize(predicted, opened, remarks)


class _Predicted(NamedTuple):
    """What one network of one run predicts.

    Attributes:
      network: the name of the network.
      run, seed, step: the checkpoint that the network comes from.
      ranks: ``[n, top]`` the likeliest classes, the likeliest first.
      labels: ``[n]`` class numbers, in the class order of the dataset that is evaluated.
    """

    network: str
    run: str
    seed: int
    step: int
    ranks: np.ndarray
    labels: np.ndarray


def _evaluate_stage(
    path: Path,
    experiment: Experiment,
    feed: Feed,
    members: Sequence[Trained],
    parts: Sequence[str],
    checkpoint: str,
) -> Iterator[_Predicted]:
    """Yields the predictions of networks that were trained side by side, seed by seed."""
    places = [network.place for network in members]
    titles = [network.name for network in members]
    # Students that teach each other, and the same students alone, are also evaluated as an average.
    stage = members[0].stage
    averaged = len(members) > 1 and stage in ("ensemble", "independent")
    shares = tuple(experiment.config.teacher_weights) or None if averaged else None
    if averaged:
        titles.append("average of all," + members[0].name.partition(",")[2])
    run = None
    for seed in members[0].seeds:
        classes = experiment.architecture.num_classes
        found = stored.restore(path, run_name(stage, seed), checkpoint, classes=classes)
        if found is None:
            continue
        if run is None:  # All seeds train the same networks.
            vectors = tuple(found.widths[place - 1] for place in places)
            # A teacher of another family has another architecture than the configuration names.
            experiment = dataclasses.replace(
                experiment, architecture=found.architecture, student_widths=vectors
            )
            run = _compiled(experiment, feed, averaged, shares)
        trees = [found.variables_of(place) for place in places]
        variables = {
            collection: {
                models.student_name(number): tree[collection]
                for number, tree in enumerate(trees, start=1)
            }
            for collection in trees[0]
        }
        placed = experiment.parallel.replicate(variables)
        rows = list(_rows(run, placed, feed, experiment, parts))
        ranks, labels = (np.concatenate(part, axis=-1) for part in zip(*rows, strict=True))
        for title, own in zip(titles, ranks, strict=True):
            if (own < 0).any():
                raise ArithmeticError(f"{title} of {found.run}: its output is not finite")
            yield _Predicted(title, found.run, seed, found.step, own.T, labels)


def _compiled(
    experiment: Experiment, feed: Feed, averaged: bool, shares: tuple[float, ...] | None
) -> Any:
    """Returns the compiled evaluation of one batch.

    It is a function: (variables, data, inputs) -> likeliest classes ``[networks, top, batch]``,
    labels, mask.
    """
    config, architecture = experiment.config, experiment.architecture
    model = IndependentNetworks(
        architecture,
        experiment.student_widths,
        dtype=jnp.dtype(config.compute.dtype),
        execution=experiment.execution,
    )
    top = min(_TOP, architecture.num_classes)

    def run(variables: Any, data: Any, given: Any) -> Any:
        batch = feed.evaluation_batch(data, given, experiment.parallel.device_index())
        outputs: Any = model.apply(variables, batch.images, train=False)
        logits = outputs.logits
        if averaged:
            together = losses.ensemble_logits(logits, shares)
            logits = jnp.concatenate([logits, together[None]])
        ranks = jnp.swapaxes(jax.lax.top_k(logits, top)[1], 1, 2)
        # NaN is ranked too, so outputs that are not finite get -1, which is no class.
        finite = jnp.all(jnp.isfinite(logits), axis=-1)
        return jnp.where(finite[:, None], ranks, -1), batch.labels, batch.mask

    return experiment.parallel.compile(run)


def _rows(
    run: Any, variables: Any, feed: Feed, experiment: Experiment, parts: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the likeliest classes and the labels of the real examples, batch by batch."""
    results = (
        run(variables, feed.data, given)
        for part in parts
        if feed.sizes[part]
        for given in feed.evaluation_inputs(part, feed.sizes[part])
    )
    for ranks, labels, mask in experiment.parallel.fetched(results):
        yield ranks[..., mask], labels[mask]


def _unfinished(path: Path, predicted: Mapping[str, list[_Predicted]]) -> list[str]:
    """Returns a line that says how far runs have come that have not ended; empty if all have."""
    steps = {
        one.run: one.step
        for group in predicted.values()
        for one in group
        if not stored.ended(path, one.seed, one.step)
    }
    runs = ", ".join(f"{run} at step {step}" for run, step in steps.items())
    return [f"this experiment has not finished: {runs}"] if runs else []


def _missing(
    chosen: Sequence[Trained], predicted: Mapping[str, list[_Predicted]], checkpoint: str
) -> list[str]:
    """Returns a line that names the networks without a checkpoint; empty if there are none."""
    found = {(name, one.seed) for name, group in predicted.items() for one in group}
    missing = [
        f"{network.name}, seed {seed}"
        for network in chosen
        for seed in network.seeds
        if (network.name, seed) not in found
    ]
    none = f"no {checkpoint!r} checkpoint was found of these, which are left out"
    return [f"{none}: {'; '.join(missing)}"] if missing else []


def _summarize(
    predicted: Mapping[str, list[_Predicted]], opened: EvaluationData, more: Sequence[str]
) -> dict[str, Any]:
    names = opened.class_names
    entries, remarks = [], [*opened.remarks, *more]
    for name, group in predicted.items():
        runs = [
            {
                "run": one.run,
                "seed": one.seed,
                "step": one.step,
                **measures.of_run(opened.numbers[one.labels], one.ranks, len(names)),
            }
            for one in group
        ]
        entries.append({"name": name, **measures.mean_of_runs(runs)})
        for run, one in zip(runs, group, strict=True):
            only = np.unique(one.ranks[:, 0])
            if len(only) == 1:
                which = f", seed {run['seed']}," if len(group) > 1 else ""
                remarks.append(f"{name}{which} only predicts class {names[only[0]]!r}")
    labels = opened.numbers[next(iter(predicted.values()))[0].labels]
    counts = np.bincount(labels, minlength=len(names)).tolist()
    return {
        "examples": len(labels),
        "classes": [
            {"name": name, "examples": count} for name, count in zip(names, counts, strict=True)
        ],
        "networks": entries,
        "remarks": remarks,
    }
