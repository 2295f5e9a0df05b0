"""The structure search from end to end: its results, resuming, teachers, students made of it."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest

from kdjax import atomic, costs, load_student, models, widths
from kdjax import config as configuration
from kdjax.config import ConfigError
from kdjax.config.tasks import METRICS
from kdjax.models.initialize import variable_shapes
from kdjax.search import Channels
from kdjax.train import search, train
from kdjax.train.program import methods
from kdjax.train.program.compiled import Runner
from kdjax.train.run import workdir
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.run.interrupt import Interrupted
from kdjax.train.run.run import Run
from kdjax.train.tasks.distill_teachers import load_teachers
from kdjax.train.tasks.evaluate import evaluate
from kdjax.train.tasks.experiment import resolve, stage_config
from kdjax.train.tasks.search_stage import resolve_budget, search_method, search_optimizer
from kdjax.train.tasks.search_teacher import load_teacher
from kdjax.train.tasks.structure import CANDIDATES, candidate_start, find_structure

SHAPE = (8, 8, 1)


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, search_of):
    """A finished search: (config, workdir, results)."""
    config = search_of()
    path = tmp_path_factory.mktemp("search") / "run"
    return config, path, search(config, path)


def test_results_agree_with_the_files_and_the_counts(finished):
    _, path, summary = finished
    assert read(path / "results.json") == summary
    assert summary["structure"] == read(path / "structure.json")
    architecture = models.create("resnet8", 4, width=0.25)
    files = {name: widths.load(path / f"{name}.json", architecture.widths) for name in (
        "full", "widths", "uniform",
    )}  # fmt: skip
    assert files["full"] == architecture.widths
    assert summary["structure"]["widths"] == files["widths"]
    assert summary["structure"]["widths_uniform"] == files["uniform"]
    assert summary["structure"]["widths_before"] == files["full"]
    counted = {name: costs.count(architecture, vector, SHAPE) for name, vector in files.items()}
    entries = [(summary["teacher"], "full")]
    entries += [
        (entry, {"compact": "widths", "uniform": "uniform"}[entry["structure"]])
        for entry in summary["candidates"]
    ]
    assert len(entries) == 4
    for entry, name in entries:
        cost = counted[name]
        assert entry["widths"] == files[name]
        assert [entry[key] for key in ("params", "macs", "flops")] == [
            cost.params, cost.macs, cost.flops,
        ]  # fmt: skip
    for when, name in (("before", "full"), ("after", "widths")):
        cost = counted[name]
        assert summary["structure"]["cost"][when] == {
            "flops": cost.flops, "macs": cost.macs, "params": cost.params,
        }  # fmt: skip
    assert [(c["name"], c["distilled"]) for c in summary["candidates"]] == [
        ("compact, distilled", True),
        ("compact, alone", False),
        ("uniform, distilled", True),
    ]
    assert (summary["seeds"], summary["teacher"]["seed"], summary["start"]) == ([0], 0, "fresh")


def test_the_budget_is_met_by_both_structures(finished):
    _, path, summary = finished
    full, after = (summary["structure"]["cost"][when]["flops"] for when in ("before", "after"))
    assert summary["structure"]["targets"] == {"flops": 0.5}
    assert summary["structure"]["shares"]["flops"] == pytest.approx(after / full)
    assert after <= 0.5 * full
    assert summary["candidates"][2]["flops"] <= 0.5 * full
    # The uniform rival uses its whole budget: one more channel in every group would exceed it.
    architecture = models.create("resnet8", 4, width=0.25)
    wider = {group: width + 1 for group, width in read(path / "uniform.json").items()}
    assert costs.count(architecture, wider, SHAPE).flops > 0.5 * full


def test_accuracies_are_fractions_and_differences_are_points(finished):
    _, _, summary = finished
    compact, alone, uniform = (entry["test"] for entry in summary["candidates"])
    for entry in (summary["teacher"], *summary["candidates"]):
        assert entry["test"] * 30 == pytest.approx(round(entry["test"] * 30))
        assert entry["val"] * 9 == pytest.approx(round(entry["val"] * 9))
        assert entry["per_seed"] == [entry["test"]]
    for name, other in (("compact_minus_uniform", uniform), ("distilled_minus_alone", alone)):
        found = summary[f"{name}_points"]
        assert found["mean"] == pytest.approx(100 * (compact - other))
        assert found["std"] is None and found["half_width"] is None  # There is only one seed.
    teacher = summary["compact_minus_teacher_points"]["mean"]
    assert teacher == pytest.approx(100 * (compact - summary["teacher"]["test"]))


def test_evaluate_agrees_with_results(finished):
    _, path, summary = finished
    found = {network["name"]: network["accuracy"] for network in evaluate(path)["networks"]}
    expected = {entry["name"]: entry["test"] for entry in summary["candidates"]}
    assert found == {**expected, "teacher": summary["teacher"]["test"]}


@pytest.mark.parametrize("student", ["compact", "teacher"])
def test_any_network_of_a_search_can_teach(finished, small_npz, student):
    _, path, _ = finished
    wanted = configuration.distill_default()
    wanted.update_from_flattened_dict(
        {
            "data.name": f"npz:{small_npz}",
            "batch_size": 16,
            "teacher.workdir": (str(path),),
            "teacher.student": (student,),
        }
    )
    (teacher,) = load_teachers(resolve(wanted))
    expected = load_student(path, student)
    chex.assert_trees_all_equal(teacher.variables, expected.variables)
    assert (teacher.vector, teacher.mean) == (expected.widths, expected.preprocess.mean)
    assert teacher.name.startswith(student)


def test_the_search_is_written_step_by_step(finished):
    config, path, summary = finished
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    steps = {
        run: [line["step"] for line in lines if line["run"] == run and line["kind"] == "train"]
        for run in ("teacher-seed0", "search-seed0", "distil-seed0")
    }
    assert steps == {
        "teacher-seed0": list(range(2, 13, 2)),
        "search-seed0": list(range(2, 19, 2)),
        "distil-seed0": list(range(2, 13, 2)),
    }
    found = [line for line in lines if line["run"] == "search-seed0" and line["kind"] == "train"]
    assert found[0]["cost/flops"] == pytest.approx(1.0)
    rate = config.search.learning_rate
    assert all(line["learning_rate"] == pytest.approx(rate) for line in found)
    last = found[-1]
    alive = summary["structure"]["widths_alive"]
    groups = [name for name in last if name.startswith("alive/")]
    assert len(groups) == 6
    for name in groups:
        assert last[name] == alive[name.removeprefix("alive/")]
    cost = costs.count(models.create("resnet8", 4, width=0.25), alive, SHAPE)
    full = summary["structure"]["cost"]["before"]["flops"]
    assert last["cost/flops"] == pytest.approx(cost.flops / full)


def test_a_finished_search_is_read_not_trained(finished, monkeypatch):
    config, path, summary = finished
    monkeypatch.setattr(Run, "_train_epoch", None)  # Any training fails.
    assert search(config, path) == summary


def outcome(path):
    """Returns everything that must not depend on how a search was run."""
    summary = read(path / "results.json")
    del summary["throughput"]
    return summary, {
        name: (path / f"{name}.json").read_bytes()
        for name in ("structure", "widths", "uniform", "full")
    }


def host_state(path, run):
    """Returns step and variables of a run's last checkpoint, as stored on disk."""
    checkpoints = Checkpoints(path / "checkpoints" / run, read_only=True)
    try:
        return checkpoints.latest_step("last"), checkpoints.read("last")[1]
    finally:
        checkpoints.close()


def assert_same_search(path, other):
    assert outcome(path) == outcome(other)
    for run in ("teacher-seed0", "search-seed0", "distil-seed0"):
        (step, variables), (other_step, other_variables) = (
            host_state(where, run) for where in (path, other)
        )
        assert step == other_step
        chex.assert_trees_all_equal(variables, other_variables)


def test_an_interrupted_search_ends_as_an_uninterrupted_one(finished, tmp_path, interrupt_at):
    config, whole, _ = finished
    # One stop is within an epoch, one at its last step. tests/train/test_loop.py kills a run.
    stops = [("search-seed0", 11), ("distil-seed0", 8)]
    interrupt_at(stops)
    for run, _ in list(stops):
        with pytest.raises(Interrupted, match=f"SIGTERM: {run} is saved at step"):
            search(config, tmp_path / "parts")
        assert not (tmp_path / "parts" / "results.json").exists()
    search(config, tmp_path / "parts")
    assert not stops
    assert_same_search(tmp_path / "parts", whole)


def searched_state(config, path):
    """Returns (experiment, budget, teacher, state at the end of the search) from checkpoints."""
    experiment = resolve(config)
    budget = resolve_budget(experiment)
    feed = experiment.feed()
    stage = stage_config(config, config.search.epochs, constant_rate=config.search.learning_rate)
    runner = Runner(
        search_method(experiment, budget),
        stage,
        feed,
        experiment.parallel,
        wrap=search_optimizer(experiment, budget),
    )
    checkpoints = Checkpoints(path / "checkpoints" / "search-seed0", read_only=True)
    record = {**experiment.record, "student_widths": [dict(experiment.architecture.widths)]}
    state, _ = checkpoints.restore("last", runner.initial_state(0), record)
    checkpoints.close()
    source = configuration.search_default().teacher
    source.workdir = str(path)
    return experiment, budget, load_teacher(source, experiment).variables, state


def test_a_slim_start_is_the_searched_network(finished):
    """Before the first step the compact candidates give the outputs of the searched network."""
    config, path, summary = finished
    experiment, budget, teacher, state = searched_state(config, path)
    structure = find_structure(experiment, budget, state)
    assert structure.to_json() == summary["structure"]
    alone = {kind: tree["student_1"] for kind, tree in state.variables.items()}
    students = tuple(structure.widths_of(candidate) for candidate in CANDIDATES)
    feed, stage = experiment.feed(), stage_config(config, 1)
    distilled = tuple(candidate.distilled for candidate in CANDIDATES)
    fields = {"image_shape": SHAPE, "steps_per_epoch": 1}
    method = methods.from_teacher(
        stage, experiment.architecture, students, distilled, None, **fields
    )
    runner = Runner(method, stage, feed, experiment.parallel)
    begin = candidate_start(budget, structure, teacher, alone)
    started = begin(runner.initial_state(0))
    chex.assert_trees_all_equal_shapes(started.params, runner.initial_state(0).params)
    images = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)
    found = jax.jit(method.model.apply)(started.variables, images).logits
    # The searched network itself at its full widths: the outputs of dead channels are zero.
    net = experiment.architecture.build()
    expected = jax.jit(net.apply)(alone, images).logits
    assert np.std(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(found[0], expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    # The uniform rival starts with the teacher's strongest channels.
    channels = Channels.of(experiment.architecture, experiment.architecture.widths, SHAPE)
    strength = channels.by_group(channels.magnitudes(teacher["params"]))["stage3"]
    chosen = np.sort(np.argsort(-strength, kind="stable")[: structure.uniform["stage3"]])
    scale = teacher["params"]["branch"]["stage3_block1"]["conv2"]["norm"]["scale"]
    rival = started.params["student_3"]["branch"]["stage3_block1"]["conv2"]["norm"]["scale"]
    np.testing.assert_array_equal(rival, np.asarray(scale)[chosen])


def test_a_finished_search_distils_more_seeds(finished, tmp_path):
    config, path, summary = finished
    copy = shutil.copytree(path, tmp_path / "run")
    more = config.copy_and_resolve_references()
    more.seeds = (0, 1)
    found = search(more, copy)
    assert found["seeds"] == [0, 1] and found["structure"] == summary["structure"]
    for now, before in zip(found["candidates"], summary["candidates"], strict=True):
        assert now["per_seed"][:1] == before["per_seed"] and len(now["per_seed"]) == 2
    assert found["teacher"] == summary["teacher"]


def test_a_teacher_from_another_search(finished, search_of, tmp_path, monkeypatch, capsys):
    """Searches one block after another, also with map terms, from an already trained teacher."""
    _, given, summary = finished
    (shutil.copytree(given, tmp_path / "going_on") / "results.json").unlink()
    monkeypatch.setenv("HOME", str(tmp_path))
    config = search_of(
        teacher__workdir="~/going_on",
        search__schedule="sequential",
        search__target__flops=0.6,
        distil__start="slim",
        distil__epochs=1,
        schedule__warmup_epochs=0.0,
        weights__feature=0.1,
        weights__vid=0.1,  # This term has modules beside the searched network.
    )
    found = search(config, tmp_path / "run")
    assert "is from a workdir whose training has not ended; it has had" in capsys.readouterr().out
    names = {entry.name for entry in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {"search-seed0", "distil-seed0"}
    teacher = dict(summary["teacher"])
    assert found["teacher"] == {**teacher, "seed": found["teacher"]["seed"]}
    assert found["structure"]["shares"]["flops"] <= 0.6
    assert found["start"] == "slim"
    # If the teacher's weights change, the search does not continue.
    atomic.write_json(tmp_path / "run" / "teacher.json", {"digest": "another"})
    with pytest.raises(workdir.WorkdirError, match="holds a search with another teacher"):
        search(config, tmp_path / "run")


@pytest.fixture(scope="module")
def trained(finished, tmp_path_factory, small_npz):
    """A trained ensemble of the full network and the found structure: (config, path, results)."""
    _, given, _ = finished
    config = configuration.default()
    config.update_from_flattened_dict(
        {
            "seeds": (0,),
            "method": "ensemble",
            "network_width": 0.25,
            "student_widths": (str(given / "full.json"), str(given / "widths.json")),
            "data.name": f"npz:{small_npz}",
            "epochs": 1,
            "schedule.warmup_epochs": 0.0,
            "batch_size": 16,
            "evaluation.batch_size": 16,
            "log.tensorboard": False,
            "compute.devices": 1,
        }
    )
    path = tmp_path_factory.mktemp("trained") / "run"
    return config, path, train(config, path)


def test_a_found_structure_is_a_student(finished, trained):
    _, given, _ = finished
    _, path, summary = trained
    full, found = widths.load(given / "full.json"), widths.load(given / "widths.json")
    first, second = (student["widths"] for student in summary["students"])
    assert first == full
    # All students share the pivot's stem; all other widths are as found.
    assert second == {**found, "stem": full["stem"]}
    assert workdir.read_student_widths(path) == [first, second]


def test_a_teacher_from_an_ensemble(trained, search_of):
    """The teacher is the pivot, with the stem that all students share."""
    _, path, _ = trained
    experiment = resolve(search_of())
    source = configuration.search_default().teacher
    source.workdir = str(path)
    variables, remark = load_teacher(source, experiment)
    assert remark == ""
    expected = variable_shapes(experiment.architecture.build(), SHAPE)
    chex.assert_trees_all_equal_shapes(variables, dict(expected))
    _, stored = host_state(path, "ensemble-seed0")
    for kind in ("params", "batch_stats"):
        chex.assert_trees_all_equal(variables[kind]["stem"], stored[kind]["stem"])
        chex.assert_trees_all_equal(variables[kind]["branch"], stored[kind]["student_1"])


def test_no_term_can_have_the_name_of_a_metric(finished, trained):
    for path in (finished[1], trained[1]):
        lines = (path / "metrics.jsonl").read_text().splitlines()
        found = {name for line in lines for name in json.loads(line) if "/" not in name}
        assert found <= METRICS | set(configuration.TERMS)


def test_a_teacher_of_an_unfinished_run_is_named(trained, search_of, tmp_path):
    _, path, _ = trained
    going_on = shutil.copytree(path, tmp_path / "going_on")
    (going_on / "results.json").unlink()
    source = configuration.search_default().teacher
    source.workdir = str(going_on)
    _, remark = load_teacher(source, resolve(search_of()))
    assert f"the teacher ensemble-seed0 in {going_on} is from a workdir whose" in remark


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "resnet20"}, "does not fit: its network is resnet8, expected resnet20"),
        ({"network_width": 0.5}, "does not fit: its widths is {'stem': 4"),
        ({"teacher__run": "teacher-seed7"}, "config.teacher.run is 'teacher-seed7': the runs in"),
        (
            {"teacher__run": "search-seed0"},
            "config.teacher.run is 'search-seed0': a teacher is a run of",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(finished, search_of, tmp_path, changes, message):
    _, given, _ = finished
    config = search_of(teacher__workdir=str(given), **changes)
    with pytest.raises(ConfigError, match=message):
        search(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_is_refused(finished, search_of, tmp_path):
    generator = np.random.default_rng(0)
    splits = {
        f"{split}_{kind}": values
        for split, size in (("train", 60), ("test", 20))
        for kind, values in (
            ("images", generator.integers(0, 255, (size, 8, 8), np.uint8)),
            ("labels", np.arange(size) % 5),
        )
    }
    np.savez(tmp_path / "five.npz", **splits)
    _, given, _ = finished
    config = search_of(data__name=f"npz:{tmp_path / 'five.npz'}", teacher__workdir=str(given))
    with pytest.raises(ConfigError, match="its number of classes is 4, expected 5"):
        search(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
