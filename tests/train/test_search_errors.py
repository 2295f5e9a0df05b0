"""Wrong input of `kdjax search` gives one line, before anything is trained or written."""

import pytest

from kdjax import atomic, cli, tracing
from kdjax import config as configuration
from kdjax.config import ConfigError
from kdjax.train.run import workdir
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.tasks.experiment import resolve
from kdjax.train.tasks.search import search, stage_config
from kdjax.train.tasks.search_stage import resolve_budget
from kdjax.train.tasks.search_teacher import _find_run

SMALL = (
    "--config.network_width=0.25",
    "--config.batch_size=16",
    "--config.compute.devices=1",
)
# FLOPs of the narrow ResNet8 at 8 x 8: twice its multiply-accumulates.
FULL = 2 * (64 * 9 * (4 + 16 + 16) + 16 * (9 * (32 + 64) + 32) + 4 * (9 * (128 + 256) + 128) + 64)


def arguments(small_npz, tmp_path, *overrides):
    settings = [f"--config.{override}" for override in overrides]
    run = f"--workdir={tmp_path / 'run'}"
    return ["search", run, f"--config.data.name=npz:{small_npz}", *SMALL, *settings]


def refused(small_npz, tmp_path, capsys, *overrides):
    """Returns the one error line of a search that does not start."""
    assert cli.main(arguments(small_npz, tmp_path, *overrides)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert not (tmp_path / "run").exists()
    lines = shown.err.splitlines()
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("kdjax search: ")
    return lines[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.target.flops=-1.0"], "config.search.target.flops is -1.0: expected 0, a share"),
        (["search.target.params=-0.5"], "config.search.target.params is -0.5: expected"),
        (["search.target.flops=inf"], "config.search.target.flops is inf: expected"),
        (["search.target.flops=nan"], "config.search.target.flops is nan: expected"),
        (["search.target.flops=0.0"], "config.search.target has no target"),
        (
            ["search.target.flops=1e9"],
            f"config.search.target.flops is 1e+09: above the full network's {FULL:,} flops",
        ),
        (
            ["search.target.params=1000000"],
            "config.search.target.params is 1e+06: above the full network's 5,040 params",
        ),
        (
            ["search.target.flops=1e-6"],
            "config.search.target.flops is 1e-06: the target 1e-06 for flops "
            f"(a share of {FULL:,}; ",
        ),
        (
            ["search.target.flops=0.5", "search.target.params=1e-3"],
            "config.search.target.params is 0.001: the target 0.001 for params (a share of 5,040; "
            "numbers above 1 are absolute) cannot be reached: ",
        ),
        (
            ["search.target.flops=0.5", "search.min_width=16"],
            "cannot be reached: the lowest possible is 1, since every group keeps at least 16 "
            "channel(s)",
        ),
        (
            ["search.target.flops=0.6", "search.min_width=0.6", "search.multiple=8"],
            "config.search.multiple is 8: with search.min_width 0.6 the smallest widths that are "
            "multiples of it cost too much: flops 100.0% (target 60.0%); stem, "
            "stage1.block1.conv1, stage2.block1.conv1, stage2, stage3.block1.conv1, stage3 cannot "
            "be thinned then; ",
        ),
        (
            ["search.blocks.names=('a',)", "search.blocks.groups=('stage9*',)"],
            "search.blocks.groups for 'a' has 'stage9*', which matches no group: the groups are",
        ),
        (
            ["search.blocks.names=('a',)", "search.blocks.groups=('stem *conv1',)"],
            "search.blocks.groups leaves out stage2, stage3: add them to a block",
        ),
        (
            ["search.blocks.frozen=('stage4',)"],
            "search.blocks.frozen names 'stage4' (did you mean 'stage3'?)",
        ),
        (
            ["search.schedule=sequential", "search.order=('stage1', 'trunk')"],
            "search.order names 'trunk': the blocks are stage1, stage2, stage3",
        ),
        (
            ["search.blocks.targets=(0.5,)"],
            "search.blocks.targets has 1 entries: expected one for each of the 3 blocks",
        ),
        (
            ["search.target.latency=0.5", "search.latency_table=nothing.json"],
            "config.search.latency_table: nothing.json cannot be read: ",
        ),
        (["search.blocks.resources=('macs',)"], "config.search.blocks.resources is ('macs',)"),
        (["search.threshold=0.0"], "config.search.threshold is 0.0: expected"),
        (["search.descent=1.5"], "config.search.descent is 1.5: expected"),
        (["search.schedule=serial"], "config.search.schedule is 'serial': expected"),
        (["search.taget.flops=0.5"], "did you mean config.search.target.flops?"),
        (["student_scales=(1.0, 0.5)"], "unknown field config.student_scales"),
        (["batch_size=100"], "config.batch_size is 100: at most the 81 training images"),
        (
            ["teacher.workdir=nothing"],
            "config.teacher.workdir is 'nothing': workdir nothing holds no kdjax run",
        ),
    ],
)
def test_bad_input_is_one_line(overrides, message, small_npz, tmp_path, capsys):
    line = refused(small_npz, tmp_path, capsys, *overrides)
    assert message in line


def test_all_of_a_network_is_a_target(small_npz):
    """1.0 means the share 1; the full cost as an absolute number means the same."""
    config = configuration.search_default()
    config.update_from_flattened_dict(
        {"network_width": 0.25, "data.name": f"npz:{small_npz}", "batch_size": 16}
    )
    for value in (1.0, float(FULL)):
        config.search.target.flops = value
        configuration.validate(config)
        (constraint,) = resolve_budget(resolve(config)).constraints
        assert constraint.target == 1.0
        assert constraint.model.full == FULL


def test_a_search_goes_on_with_the_latency_table_it_began_with(small_npz, tmp_path):
    config = configuration.search_default()
    config.update_from_flattened_dict(
        {"network_width": 0.25, "data.name": f"npz:{small_npz}", "batch_size": 16}
    )
    experiment = resolve(config)
    layers = tracing.trace_architecture(experiment.architecture, (8, 8, 1)).layers
    table = {
        "kind": "kdjax bench --layers",
        "environment": {"device": "cpu"},
        "widths": dict(experiment.architecture.widths),
        "classes": experiment.architecture.num_classes,
        "image_shape": [8, 8, 1],
        "batch_size": 1,
        "dtype": "float32",
        "microseconds": 100.0,
        "layers": [
            {"path": "/".join(layer.path), "coefficients": [0, 0, 1, 0]} for layer in layers
        ],
    }
    atomic.write_json(tmp_path / "times.json", table)
    config.search.latency_table = str(tmp_path / "times.json")
    workdir.create(tmp_path / "run", config)
    atomic.write_json(tmp_path / "run" / "latency.json", table | {"microseconds": 99.0})
    with pytest.raises(workdir.WorkdirError, match="holds a search with another latency table"):
        search(config, tmp_path / "run")


@pytest.fixture
def teacher(small_npz, tmp_path):
    """A workdir with a teacher, a narrow ResNet8 that was initialised and saved but not trained."""
    config = configuration.search_default()
    config.update_from_flattened_dict(
        {
            "network_width": 0.25,
            "data.name": f"npz:{small_npz}",
            "batch_size": 16,
            "compute.devices": 1,
        }
    )
    experiment = resolve(config)
    feed = experiment.feed()
    runner = experiment.runner("independent", feed, stage_config(config, 1))
    path = tmp_path / "teacher"
    workdir.create(path, config)
    checkpoints = Checkpoints(path / "checkpoints" / "teacher-seed0", 1)
    checkpoints.save("last", runner.initial_state(0), {**experiment.record, "step": 0})
    checkpoints.wait()
    checkpoints.close()
    return path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("network=resnet20", "does not fit: its network is resnet8, expected resnet20"),
        ("network_width=0.5", "does not fit: its widths is "),
        ("teacher.run=teacher-seed3", "config.teacher.run is 'teacher-seed3': the runs in "),
        ("teacher.checkpoint=best", "config.teacher.checkpoint is 'best': teacher-seed0 in "),
    ],
)
def test_a_teacher_that_does_not_fit_is_one_line(
    override, message, teacher, small_npz, tmp_path, capsys
):
    line = refused(small_npz, tmp_path, capsys, f"teacher.workdir={teacher}", override)
    assert message in line


def test_a_configuration_of_training_is_refused(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from kdjax import config as configuration\nget_config = configuration.default\n"
    )
    assert cli.main(["search", f"--config={file}", f"--workdir={tmp_path / 'run'}"]) == 2
    shown = capsys.readouterr().err
    assert shown.endswith("is a configuration of `kdjax train`, not of `kdjax search`\n")
    assert not (tmp_path / "run").exists()


def test_a_workdir_of_training_is_refused(small_npz, tmp_path, capsys):
    workdir.create(tmp_path / "run", configuration.default())
    before = sorted(entry.name for entry in (tmp_path / "run").iterdir())
    assert cli.main(arguments(small_npz, tmp_path)) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert shown.startswith("kdjax search: workdir ")
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == before


def test_a_missing_teacher_is_refused(search_of, tmp_path):
    config = search_of(teacher__workdir=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"config.teacher.workdir is .*nothing.*holds no kdjax"):
        search(config, tmp_path / "run")
    assert [entry.name for entry in tmp_path.iterdir()] == []


def test_the_first_seed_teaches(tmp_path):
    for run in ("search-seed10", "independent-seed10", "independent-seed2", "ensemble-seed2"):
        (tmp_path / "checkpoints" / run).mkdir(parents=True)
    assert _find_run(tmp_path, "", (2, 10)) == ("independent-seed2", 2)
    assert _find_run(tmp_path, "", (10, 2)) == ("independent-seed10", 10)
    assert _find_run(tmp_path, "ensemble-seed2", (10, 2)) == ("ensemble-seed2", 2)
