"""Writes a workdir for a network trained elsewhere, as if `kdjax train` had begun there."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import ml_collections

from kdjax import config as configuration
from kdjax import costs, models
from kdjax.config import ConfigError
from kdjax.train.devices.parallel import choose
from kdjax.train.run import workdir
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.run.workdir import WorkdirError
from kdjax.train.tasks.data_checks import check_image_size
from kdjax.train.tasks.experiment import Experiment, read_dataset, resolve
from kdjax.train.tasks.stages import run_name
from kdjax.train.tasks.trained_on import TrainedOn

_METHOD = "independent"


def import_network(
    config: ml_collections.ConfigDict,
    path: str | Path,
    weights: str | Path,
    *,
    new_classifier: bool = False,
) -> dict[str, Any]:
    """Writes a workdir with the parameters of torchvision's network of the same name.

    The workdir holds a run of one network alone, before its first step. :func:`kdjax.load_student`
    and `kdjax evaluate` accept it, a search can use it as its teacher (``config.teacher.workdir``),
    and `kdjax train` with the configuration in ``config.json`` goes on training it.

    Args:
      config: a configuration of `kdjax train`. The workdir gets what :func:`for_one_network`
        returns for it, with a batch size of at most the number of training images.
      path: the workdir, missing or empty.
      weights: a file that :func:`kdjax.models.read_tensors` reads.
      new_classifier: whether to draw a new random classifier, with the first of ``config.seeds``.

    Returns:
      ``network``, ``params``, ``dataset``, ``classes``, ``image_shape``, ``mean``, ``std`` and
      ``run``: what was written.

    Raises:
      kdjax.config.ConfigError, kdjax.data.DataError, kdjax.train.run.workdir.WorkdirError,
        ValueError: for bad input, before anything is written.
    """
    path, config = Path(os.path.expanduser(path)), for_one_network(config)
    configuration.validate(config)
    _check_new(path, config)
    try:
        tensors = models.read_tensors(weights)
    except OSError as error:
        raise ConfigError(f"--weights is {str(weights)!r}: {error.strerror}") from None
    dataset = read_dataset(config)
    check_image_size(config, dataset.image_shape)
    # Nothing is trained here, so a batch size that is too large is reduced instead of refused.
    devices = len(choose(config.compute.devices).devices)
    fitting = max(1, dataset.sizes["train"] // devices) * devices
    config.batch_size = min(config.batch_size, fitting)
    experiment = resolve(config, dataset=dataset)
    seed = config.seeds[0]
    variables = models.import_torch(
        experiment.architecture,
        tensors,
        image_shape=experiment.dataset.image_shape,
        new_classifier=new_classifier,
        seed=seed,
    )
    trained_on = TrainedOn.of(experiment.dataset)
    with workdir.claimed(path, config):
        _check_new(path, config)
        workdir.record_data(path, trained_on.to_json())
        # If this is interrupted, the same command can be repeated: its checkpoints are hidden until
        # they are complete. config.json is written last: if it exists, the directory is complete.
        unfinished = path / ".checkpoints.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        _save(experiment, unfinished, variables)
        unfinished.rename(path / "checkpoints")
        workdir.create(path, config, experiment.student_widths)
    architecture, shape = experiment.architecture, experiment.dataset.image_shape
    return {
        "network": architecture.name,
        "params": costs.count(architecture, architecture.widths, shape).params,
        "dataset": trained_on.name,
        "classes": len(trained_on.class_names),
        "image_shape": shape,
        "mean": trained_on.mean,
        "std": trained_on.std,
        "run": run_name(_METHOD, seed),
    }


def for_one_network(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a configuration of `kdjax train` for the full network alone, with its first seed."""
    changed = ml_collections.ConfigDict(config.to_dict())
    changed.update(
        method=_METHOD,
        seeds=tuple(config.seeds)[:1],
        student_scales=(1.0,),
        student_widths=(),
        teacher_weights=(),
    )
    return changed


def _check_new(path: Path, config: ml_collections.ConfigDict) -> None:
    if (path / "config.json").exists():
        raise WorkdirError(f"workdir {path} holds a run already: choose another --workdir")
    workdir.check(path, config)


def _save(experiment: Experiment, folder: Path, variables: dict[str, Any]) -> None:
    """Writes the checkpoint of a run that has not made its first step."""
    seed = experiment.config.seeds[0]
    name = run_name(_METHOD, seed)
    state = experiment.runner(_METHOD, experiment.feed()).initial_state(seed)
    state = state.replace(
        **{collection: {models.student_name(1): tree} for collection, tree in variables.items()}
    )
    # What a run stores before its first validation.
    history = {"best_validation": -1.0, "best_step": -1, "epochs": experiment.config.epochs}
    record = experiment.record | history | {"raised": [], "method": _METHOD}
    record |= {"seed": seed, "step": 0}
    with contextlib.closing(Checkpoints(folder / name)) as checkpoints:
        checkpoints.save("last", state, record)
        checkpoints.wait()
        if checkpoints.unwritten("last") is not None:
            raise OSError(f"{checkpoints.directory} cannot be written: see the warning above")
