"""Workdirs as after training, but with random weights, so that nothing is trained or compiled."""

import dataclasses
import shutil

import numpy as np
import PIL.Image
import pytest

from kdjax import config as configuration
from kdjax import models
from kdjax.models.ensemble import student_vectors
from kdjax.models.initialize import initialize
from kdjax.train.program.state import TrainState
from kdjax.train.run import workdir
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.tasks.experiment import resolve
from kdjax.train.tasks.trained_on import TrainedOn

CLASSES = ("apple", "birch", "cloud", "daisy")
SHAPE = (8, 8, 1)


@pytest.fixture(scope="session")
def photos(tmp_path_factory, small_npz):
    """The small set as PNG files: ``train/<class>/<number>.png`` and ``test/...``."""
    root = tmp_path_factory.mktemp("photos") / "set"
    arrays = np.load(small_npz)
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / part / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(image).save(folder / f"{number:03d}.png")
    return root


def settings(photos, method):
    return {
        "seeds": (0, 1),
        "network_width": 0.25,
        "data.name": f"folder:{photos}",
        "batch_size": 16,
        "evaluation.batch_size": 16,  # 30 test images: the last batch is padded.
        "compute.devices": 1,
    } | method


def drawn(network, seed):
    """Returns variables of a network whose predictions differ between images."""
    rng = np.random.default_rng(seed)
    variables = initialize(network, seed, SHAPE)
    stats = variables["batch_stats"]

    def moved(tree):
        return {
            name: moved(leaf)
            if isinstance(leaf, dict)
            else (leaf + rng.uniform(0.0, 0.3, leaf.shape)).astype(np.float32)
            for name, leaf in tree.items()
        }

    classifier = variables["params"]["branch"]["classifier"]
    classifier["kernel"] = rng.normal(0, 8, classifier["kernel"].shape).astype(np.float32)
    return {"params": variables["params"], "batch_stats": moved(stats)}


def save(path, run, experiment, variables, step=12):
    state = TrainState(
        step=np.int32(step), key=np.zeros(2, np.uint32), optimizer_state=(), **variables
    )
    checkpoints = Checkpoints(path / "checkpoints" / run)
    checkpoints.save("last", state, {**experiment.record, "step": step})
    checkpoints.close()


def networks_of(experiment, seed):
    """Returns the variables of each student as a network of its own, in order."""
    return [
        drawn(experiment.architecture.build(vector), 10 * seed + number)
        for number, vector in enumerate(experiment.student_widths, start=1)
    ]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, photos):
    """(workdir, experiment) of `kdjax train`: both methods, seeds 0 and 1, two students.

    Student 2 of ``ensemble-seed1`` only predicts cloud.
    """
    config = configuration.default()
    config.update_from_flattened_dict(settings(photos, {"student_scales": (1.0, 0.5)}))
    experiment = resolve(config)
    path = tmp_path_factory.mktemp("trained") / "run"
    workdir.create(path, config, experiment.student_widths)
    workdir.record_data(path, TrainedOn.of(experiment.dataset).to_json())
    for seed in (0, 1):
        students = networks_of(experiment, seed)
        alone = {
            kind: {f"student_{n}": tree[kind] for n, tree in enumerate(students, start=1)}
            for kind in ("params", "batch_stats")
        }
        save(path, f"independent-seed{seed}", experiment, alone)
        together = {
            kind: {"stem": students[0][kind]["stem"]}
            | {name: tree["branch"] for name, tree in alone[kind].items()}
            for kind in alone
        }
        ensemble = models.StudentEnsemble(experiment.architecture, experiment.student_widths)
        adapters = initialize(ensemble, seed, SHAPE)["params"]["adapters"]
        together["params"]["adapters"] = adapters
        if seed == 1:
            branch = dict(together["params"]["student_2"])
            bias = np.array([0, 0, 1e6, 0], np.float32)
            branch["classifier"] = {**branch["classifier"], "bias": bias}
            together["params"]["student_2"] = branch
        save(path, f"ensemble-seed{seed}", experiment, together)
    return path, experiment


@pytest.fixture(scope="session")
def searched(tmp_path_factory, photos):
    """(workdir, experiment of its candidates) of `kdjax search`, seeds 0 and 1."""
    config = configuration.search_default()
    config.update_from_flattened_dict(settings(photos, {}))
    experiment = resolve(config)
    path = tmp_path_factory.mktemp("searched") / "run"
    workdir.create(path, config)
    workdir.record_data(path, TrainedOn.of(experiment.dataset).to_json())
    teacher = models.create("resnet8", 4, width=0.25)
    compact, uniform = student_vectors(teacher, (0.6, 0.5))
    runs = {"teacher-seed0": (teacher.widths,)}
    runs |= {f"distil-seed{seed}": (compact, compact, uniform) for seed in (0, 1)}
    for number, (run, vectors) in enumerate(runs.items()):
        stage = dataclasses.replace(experiment, student_widths=vectors)
        students = networks_of(stage, number)
        variables = {
            kind: {f"student_{n}": tree[kind] for n, tree in enumerate(students, start=1)}
            for kind in ("params", "batch_stats")
        }
        save(path, run, stage, variables)
    return path, dataclasses.replace(experiment, student_widths=(compact, compact, uniform))


@pytest.fixture
def moved(trained, photos, tmp_path):
    """(workdir, data): copies in another place; the configuration names a path without data."""
    path, data = tmp_path / "elsewhere" / "run", tmp_path / "elsewhere" / "set"
    shutil.copytree(trained[0], path)
    shutil.copytree(photos, data)
    config = (path / "config.json").read_text()
    (path / "config.json").write_text(config.replace(str(photos), str(tmp_path / "gone")))
    return path, data
