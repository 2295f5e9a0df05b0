"""Checkpoints: a damaged one is named and moved aside, and the one before it is used."""

import contextlib
import json
import logging
import os
import resource
import shutil
import sys
import time
import types

import numpy as np
import pytest

from kdjax import atomic, models
from kdjax import config as configuration
from kdjax.train.program.state import TrainState
from kdjax.train.run import checkpoint, checksums
from kdjax.train.run.checkpoint import CheckpointError, Checkpoints, DamagedError
from kdjax.train.run.history import History
from kdjax.train.tasks import stored

RECORD = {"network": "net", "num_classes": 3, "student_widths": [{"stem": 4}], "pair": (1, 2.5)}


def state(step):
    rng = np.random.default_rng(step)
    return TrainState(
        step=np.int32(step),
        key=np.zeros(2, np.uint32),
        params={"net": {"kernel": rng.normal(size=(30, 10)).astype(np.float32)}},
        batch_stats={"net": {"mean": np.ones(3, np.float32)}},
        optimizer_state={"trace": rng.normal(size=(30, 10)).astype(np.float32)},
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "run"
    with contextlib.closing(Checkpoints(folder, 2)) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save("last", state(step), RECORD)
        checkpoints.save("best", state(1), RECORD)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def recover(folder):
    with contextlib.closing(Checkpoints(folder, 2)) as checkpoints:
        return checkpoints.recover(state(0), RECORD)


def assert_is(found, step):
    restored, record = found
    assert int(restored.step) == step
    np.testing.assert_array_equal(
        restored.params["net"]["kernel"], state(step).params["net"]["kernel"]
    )
    np.testing.assert_array_equal(
        restored.optimizer_state["trace"], state(step).optimizer_state["trace"]
    )
    assert record["pair"] == [1, 2.5]


def test_the_newest_whole_checkpoint_is_found(folder):
    assert_is(recover(folder), 3)
    assert not (folder / "damaged").exists()


def test_leaves_keep_their_order_beyond_four_digits():
    template = state(0).replace(optimizer_state=list(range(10_001)))
    plain = checkpoint._plain(template)
    plain["optimizer_state"] = dict(sorted(plain["optimizer_state"].items()))
    assert checkpoint._rebuilt(plain, template).optimizer_state == template.optimizer_state


def files(written):
    return sorted(
        str(path.relative_to(written))
        for path in (written / "last" / "3").glob("*/**/*")
        if path.is_file()
    )


@pytest.mark.parametrize("harm", ["delete", "truncate", "empty", "flip"])
def test_every_harmed_file_is_named_and_the_checkpoint_before_it_used(
    written, tmp_path, harm, caplog
):
    assert len(files(written)) >= 6
    for number, name in enumerate(files(written)):
        folder = shutil.copytree(written, tmp_path / str(number))
        path = folder / name
        content = bytearray(path.read_bytes())
        if harm == "delete":
            path.unlink()
        elif harm == "flip":
            content[len(content) // 2] ^= 4
            path.write_bytes(content)
        else:
            os.truncate(path, len(content) // 2 if harm == "truncate" else 0)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert_is(recover(folder), 2)
        assert str(path) in caplog.text and "it was moved to" in caplog.text
        # The damaged checkpoint is kept elsewhere, so that its step can be saved again.
        assert (folder / "damaged" / "last-3").is_dir()
        with contextlib.closing(Checkpoints(folder, 2)) as checkpoints:
            checkpoints.save("last", state(3), RECORD)
        assert_is(recover(folder), 3)


@pytest.mark.parametrize("part", ["params", "record"])
def test_without_the_list_of_files_the_sums_in_the_record_tell(folder, part, caplog):
    step = folder / "last" / "3"
    (step / "sha256.json").unlink()
    if part == "record":
        path = step / "record" / "metadata"
        path.write_text(path.read_text().replace('"num_classes":3', '"num_classes":4').replace(
            '"num_classes": 3', '"num_classes": 4'))  # fmt: skip
    else:
        chunk = max(step.rglob("d/*"), key=lambda path: path.stat().st_size)
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 1
        chunk.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert_is(recover(folder), 2)
    assert "damaged" in caplog.text


def test_an_empty_step_is_put_aside(folder):
    shutil.rmtree(folder / "last" / "3")
    (folder / "last" / "3").mkdir()
    assert_is(recover(folder), 2)


def test_the_best_one_serves_where_all_others_are_damaged(folder):
    for step in ("2", "3"):
        (folder / "last" / step / "record" / "metadata").write_text("{}")
    assert_is(recover(folder), 1)


@pytest.mark.parametrize("select", ["last", "best"])
def test_a_damaged_best_one_ends_a_run_only_where_its_results_are_wanted(folder, select, caplog):
    config = configuration.default()
    config.evaluation.select = select
    (folder / "best" / "1" / "record" / "metadata").write_text("{}")
    with contextlib.closing(Checkpoints(folder, 2)) as checkpoints:
        history = History("run", config, RECORD, checkpoints, types.SimpleNamespace())
        if select == "last":
            assert history.best_state(state(3)) is None
            assert "run: the best checkpoint, of step 1, is damaged" in caplog.text
        else:
            with pytest.raises(CheckpointError, match=r"of step 1, is damaged, and config\.eval"):
                history.best_state(state(3))
    assert (folder / "damaged" / "best-1").is_dir()


def test_a_best_checkpoint_that_is_written_again_keeps_the_remarks(tmp_path):
    config, silent = configuration.default(), types.SimpleNamespace(say=print)
    with contextlib.closing(Checkpoints(tmp_path, 2)) as checkpoints:
        record = {**RECORD, "devices": 1}
        history = History("run", config, record, checkpoints, silent)
        history.lengthened, history.skipped, history.rollbacks = ["longer"], 4, 2
        history.best = history.best._replace(validation=0.5, step=3)
        history.save(state(3))
        history.wait()
        again = History("run", config, record, checkpoints, silent)
        again.restore(state(0))
        again.wait()
        _, stored = checkpoints.restore("best", state(0), record)
    assert (stored["raised"], stored["skipped"], stored["rollbacks"]) == (["longer"], 4, 2)


def test_each_file_is_read_once_for_its_sum(folder, monkeypatch):
    read, counted = checksums.find_damage, []
    monkeypatch.setattr(checksums, "find_damage", lambda path: counted.append(path) or read(path))
    assert_is(recover(folder), 3)
    assert counted == [folder / "last" / "3"]


def test_if_all_are_damaged_nothing_is_made_up(folder):
    for path in [*(folder / "last").iterdir(), folder / "best" / "1"]:
        (path / "record" / "metadata").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no other: delete that directory"):
        recover(folder)
    assert len(list((folder / "damaged").iterdir())) == 3


def test_reading_alone_changes_nothing(folder):
    (folder / "last" / "3" / "record" / "metadata").write_text("{}")
    with (
        contextlib.closing(Checkpoints(folder, read_only=True)) as checkpoints,
        pytest.raises(DamagedError, match="differs from its checksum"),
    ):
        checkpoints.read("last")
    assert (folder / "last" / "3").is_dir() and not (folder / "damaged").exists()


def test_another_networks_checkpoint_is_refused_not_put_aside(folder):
    with (
        contextlib.closing(Checkpoints(folder, 2)) as checkpoints,
        pytest.raises(CheckpointError, match="of another network: its network is net, expected x"),
    ):
        checkpoints.recover(state(0), RECORD | {"network": "x"})
    assert not (folder / "damaged").exists()


def test_lists_name_every_file_of_state_and_record(written):
    sums = json.loads((written / "last" / "3" / "sha256.json").read_text())
    assert sorted(f"last/3/{name}" for name in sums) == files(written)


def test_another_process_keeps_them(tmp_path):
    with contextlib.closing(Checkpoints(tmp_path / "run", writes=False)) as checkpoints:
        checkpoints.save("last", state(1), RECORD)
        assert checkpoints.latest_step("last") is None
    assert not (tmp_path / "run").exists()


class FullDisk:
    """Makes saving checkpoints of one kind fail inside a ``with`` block."""

    def __init__(self, checkpoints, kind):
        self._manager = checkpoints._managers[kind]
        self._plain = self._manager.save

    def __enter__(self):
        def save(*args, **more):
            raise ValueError("OUT_OF_RANGE: no space left on device")

        self._manager.save = save

    def __exit__(self, *_):
        self._manager.save = self._plain


def test_what_could_not_be_written_is_written_with_the_next_one(tmp_path, caplog):
    with contextlib.closing(Checkpoints(tmp_path / "run", 2)) as checkpoints:
        checkpoints.save("best", state(1), RECORD)
        checkpoints.wait()
        with FullDisk(checkpoints, "best"):
            checkpoints.save("best", state(2), RECORD)
        assert "no space left" in caplog.text and "the last good one is of step 1" in caplog.text
        assert int(checkpoints.unwritten("best").step) == 2
        assert checkpoints.latest_step("best") == 1
        checkpoints.save("last", state(3), RECORD)
        checkpoints.wait()
        assert checkpoints.unwritten("best") is None
        assert checkpoints.latest_step("best") == 2


def test_what_was_not_written_gives_way_to_what_is_newer(tmp_path):
    with contextlib.closing(Checkpoints(tmp_path / "run", 2)) as checkpoints:
        with FullDisk(checkpoints, "last"):
            checkpoints.save("last", state(1), RECORD)
        checkpoints.save("last", state(2), RECORD)
        checkpoints.wait()
        assert [path.name for path in (tmp_path / "run" / "last").iterdir()] == ["2"]


@contextlib.contextmanager
def files_end_at(size):
    """Limits every file of this process to ``size`` bytes, as on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))


def test_the_loggers_of_other_libraries_stay_as_they_are(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "absl")
    with contextlib.closing(Checkpoints(tmp_path / "run", 2)) as checkpoints:
        checkpoints.save("last", state(1), RECORD)
        checkpoints.wait()
    assert logging.getLogger("absl").level == logging.WARNING


def test_a_full_disk_is_one_warning_without_tracebacks(tmp_path, monkeypatch, caplog):
    """Many arrays are written at once; the first that fails ends the save."""
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    many = {f"layer{number}": np.ones((30, 10), np.float32) for number in range(40)}
    with contextlib.closing(Checkpoints(tmp_path / "run", 2)) as checkpoints:
        checkpoints.save("last", state(1), RECORD)
        checkpoints.wait()
        with files_end_at(600):
            checkpoints.save("last", state(2).replace(params=many), RECORD)
            checkpoints._finish("last")
            time.sleep(0.1)  # Wait for further messages, which must not come.
        assert "last could not be written (" in caplog.text
        assert "the last good one is of step 1, and training goes on" in caplog.text
        ours = [record for record in caplog.records if record.name != "absl"]
        assert [record.name for record in ours] == ["kdjax.train.run.checkpoint"]
        checkpoints.wait()
        assert checkpoints.latest_step("last") == 2
    assert unraisable == []


def test_a_file_that_cannot_be_written_is_named_and_stays_as_it_was(tmp_path):
    path = tmp_path / "results.json"
    atomic.write_json(path, {"seeds": [0]})
    with (
        files_end_at(100),
        pytest.raises(OSError, match=f"^{path} cannot be written: File too large$"),
    ):
        atomic.write_json(path, {"long": "x" * 1000})
    assert atomic.read_json(path) == {"seeds": [0]}
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_is_replaced_during_reading_is_read_again(tmp_path, monkeypatch):
    """Only one best checkpoint is kept, and a running training may replace it at any time."""
    record = {**RECORD, "config": {"network_width": 0.25}, "image_shape": [8, 8, 1]}
    record |= {"network": "resnet8", "student_widths": [dict(models.create("resnet8", 3).widths)]}
    folder, read = tmp_path / "checkpoints" / "run", Checkpoints.read
    with contextlib.closing(Checkpoints(folder, 2)) as writer:
        writer.save("best", state(1), record)
        writer.wait()

        def replaced(self, kind):
            if writer.latest_step(kind) == 1:
                writer.save(kind, state(2), record)
                writer.wait()
            return read(self, kind)

        monkeypatch.setattr(Checkpoints, "read", replaced)
        found = stored.restore(tmp_path, "run", "best")
    assert found.step == 2
    np.testing.assert_array_equal(
        found.variables["params"]["net"]["kernel"], state(2).params["net"]["kernel"]
    )
