"""Numbers that are not finite: they are named, and skipped or rolled back if asked for."""

import contextlib
import dataclasses
import json
import logging
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import config as configuration
from kdjax import report
from kdjax.train import train
from kdjax.train.program import compiled, non_finite
from kdjax.train.program.non_finite import NonFiniteError
from kdjax.train.program.state import TrainState
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.run.faults import Faults
from kdjax.train.run.history import History
from kdjax.train.tasks import stored

FAULTY_STEP = 7  # of 15


@pytest.fixture
def faulty(monkeypatch):
    """Makes a term NaN at one step; with ``keys`` only while the run has that random key."""
    plain = compiled.train_step

    def make(keys=None, term="soft"):
        def step(state, batch, *, weights, **more):
            wrong = state.step == FAULTY_STEP
            if keys is not None:
                wrong &= jnp.all(state.key == keys)
            weights = dict(weights)
            weights[term] = jnp.where(wrong, jnp.nan, weights[term])
            return plain(state, batch, weights=weights, **more)

        monkeypatch.setattr(compiled, "train_step", step)

    return make


def test_the_first_faulty_step_stops_and_is_named(small_config, tmp_path, faulty):
    faulty()
    with pytest.raises(NonFiniteError) as caught:
        train(small_config, tmp_path)
    message = str(caught.value)
    assert f"not finite at step {FAULTY_STEP}: " in message
    assert "gradient of student 2" in message and "batch statistics" not in message
    assert "Last good checkpoint: step 6" in message


def test_a_skipped_step_leaves_everything_as_it_was(small_config, tmp_path, faulty, caplog):
    faulty()
    small_config.faults.non_finite = "skip"
    small_config.log.every_steps = 1
    with caplog.at_level(logging.WARNING):
        summary = train(small_config, tmp_path)
    said = "ensemble-seed0: steps left out because of numbers that were not finite: 1"
    assert summary["remarks"] == [said]
    assert train(small_config, tmp_path) == summary  # Read from the stored results.
    assert f"- {said}" in report.write(summary, tmp_path)[0].read_text()
    warnings = [r.getMessage() for r in caplog.records if "not finite" in r.getMessage()]
    assert len(warnings) == 1 and f"step {FAULTY_STEP}:" in warnings[0]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = {line["step"]: line for line in lines if line["kind"] == "train"}
    assert "loss" not in steps[FAULTY_STEP + 1]
    others = [line for step, line in steps.items() if step != FAULTY_STEP + 1]
    assert len(others) == 17
    assert all(np.isfinite(line["loss"]) and np.all(np.isfinite(line["soft"])) for line in others)


def test_a_fault_in_one_baseline_leaves_the_others_and_the_schedule_alone(
    small_config, tmp_path, monkeypatch
):
    """Adam and the schedule count steps for all baselines together."""
    small_config.update(method="independent", optimizer={"name": "adamw"})
    small_config.faults.non_finite = "skip"
    train(small_config, tmp_path / "clean")
    plain = compiled.train_step

    def step(state, batch, *, method, **more):
        def forward(*given):
            inputs, batch_stats = method.forward(*given)
            wrong = (state.step == FAULTY_STEP) & (jnp.arange(2) == 0)
            logits = jnp.where(wrong[:, None, None], jnp.nan, inputs.logits)
            return inputs._replace(logits=logits), batch_stats

        return plain(state, batch, method=dataclasses.replace(method, forward=forward), **more)

    monkeypatch.setattr(compiled, "train_step", step)
    summary = train(small_config, tmp_path / "faulty")
    assert len(summary["remarks"]) == 1
    clean, faulty = (
        stored.restore(tmp_path / name, "independent-seed0", "last").variables["params"]
        for name in ("clean", "faulty")
    )
    chex.assert_trees_all_equal(clean["student_2"], faulty["student_2"])
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(clean["student_1"], faulty["student_1"])


def test_too_many_skipped_steps_stop(small_config, tmp_path, monkeypatch):
    plain = compiled.train_step

    def step(state, batch, *, weights, **more):
        return plain(state, batch, weights=dict(weights, hard=jnp.float32(jnp.nan)), **more)

    monkeypatch.setattr(compiled, "train_step", step)
    small_config.faults.update(non_finite="skip", limit=3)
    with pytest.raises(NonFiniteError, match=r"step 3: .* after 3 skipped steps in a row"):
        train(small_config, tmp_path)


def dispatch(*faulty, steps=4, rows=4):
    """Returns the metrics of a dispatch: some faulty steps, then rows without examples."""
    values = np.zeros(rows, np.float32)
    values[list(faulty)] = np.nan
    return {"loss": (values, (np.arange(rows) < steps).astype(np.float32))}


@pytest.mark.parametrize(
    ("dispatches", "stops"),
    [
        # Good steps at the start of a dispatch end a sequence of faulty steps.
        ([dispatch(3), dispatch(3), dispatch(3)], None),
        ([dispatch(3), dispatch(), dispatch(0, 1)], None),
        ([dispatch(2, 3), dispatch(0)], 4),
        # The empty rows after a short dispatch do not end it.
        ([dispatch(0, 1, steps=2), dispatch(0, steps=2)], 4),
        ([dispatch(1, steps=2), dispatch(1, steps=2), dispatch(1, steps=2)], None),
    ],
)
def test_skipped_steps_in_a_row_are_counted_over_dispatches(dispatches, stops):
    section = configuration.default().faults
    section.update(non_finite="skip", limit=2)
    faults, nothing = Faults("run", section), {non_finite.GRADIENT: [], non_finite.STATISTICS: []}
    outcome = contextlib.nullcontext()
    if stops is not None:
        outcome = pytest.raises(NonFiniteError, match=f"step {stops}: .* after 2 skipped steps")
    with outcome:
        for number, metrics in enumerate(dispatches):
            faults.leave_out(metrics, 4 * number, nothing)


def test_a_rollback_goes_on_with_other_batches(small_config, tmp_path, faulty, caplog):
    faulty(keys=jax.random.key_data(jax.random.key(0)))
    small_config.faults.non_finite = "rollback"
    with caplog.at_level(logging.WARNING):
        summary = train(small_config, tmp_path)
    assert summary["remarks"] == [
        "ensemble-seed0: rollbacks because of numbers that were not finite: 1"
    ]
    assert train(small_config, tmp_path) == summary
    messages = [record.getMessage() for record in caplog.records]
    assert sum("Back to step 6, and on with other batches" in message for message in messages) == 1
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == 18


def test_a_rollback_keeps_the_best_checkpoint(tmp_path):
    """The best checkpoint may be newer than the last one, and has replaced the best one before."""

    def state(step):
        params = {"a": np.full(3, step, np.float32)}
        return TrainState(np.int32(step), np.zeros(2, np.uint32), params, {}, (), {})

    record = {"network": "n", "num_classes": 2, "student_widths": [], "devices": 1}
    config, silent = configuration.default(), types.SimpleNamespace(say=print)
    with contextlib.closing(Checkpoints(tmp_path, 2)) as checkpoints:
        history = History("run", config, record, checkpoints, silent)
        history.save_best(state(3), 0.9)
        history.save(state(5))
        history.save_best(state(6), 0.95)
        history.wait()
        assert history.restore(state(0), keep_best=True).step == 5
        assert history.best == (0.95, 6)
        assert history.best_state(state(9)).params["a"][0] == 6
        other = state(6).replace(params={"a": np.full(3, 7, np.float32)})
        history.save_best(other, 0.97)  # The same step, reached with other weights.
        history.wait()
        assert history.best_state(state(9)).params["a"][0] == 7
        # If the run is interrupted before it has passed that step, it still has its best state.
        history.save(state(5))
        history.wait()
        again = History("run", config, record, checkpoints, silent)
        assert again.restore(state(0)).step == 5
        assert again.best == (0.97, 6)
        assert again.best_state(state(9)).params["a"][0] == 7


def test_rollbacks_have_an_end(small_config, tmp_path, faulty):
    faulty()
    small_config.faults.update(non_finite="rollback", limit=2)
    with pytest.raises(NonFiniteError, match="Gave up after 2 rollbacks"):
        train(small_config, tmp_path)


def tree(value):
    return {"stem": {"kernel": np.ones(3)}, "student_1": {"scale": np.full(2, value)}}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_flags_name_the_network(value):
    good, bad = jax.tree.map(jnp.asarray, (tree(1.0), tree(value)))
    names = non_finite.networks(good, good)
    clean = non_finite.flags(good, good)
    assert clean["gradient_norm"][0] == pytest.approx(np.sqrt(5))
    for gradients, stats, expected in (
        (bad, good, ["gradient of student 1"]),
        (good, bad, ["batch statistics of student 1"]),
    ):
        metrics = jax.tree.map(lambda leaf: leaf[None], non_finite.flags(gradients, stats))
        found = non_finite.find(metrics, names)
        assert set(found) == {0}
        assert [place for place in found[0] if place != "gradient_norm"] == expected
    assert not non_finite.find(jax.tree.map(lambda leaf: leaf[None], clean), names)


@pytest.mark.parametrize("separate", [True, False])
def test_networks_that_have_nothing_to_do_with_each_other_are_kept_apart(separate):
    names = {non_finite.GRADIENT: ["student_1", "student_2"], non_finite.STATISTICS: ["student_2"]}
    metrics = {
        "hard": (jnp.array([1.0, jnp.nan]), 1.0),
        non_finite.GRADIENT: (jnp.zeros(2), 1.0),
        non_finite.STATISTICS: (jnp.zeros(1), 1.0),
    }
    good = non_finite.finite(metrics, names, separate)
    new, old = (
        {"m": {"student_1": jnp.full(2, x), "student_2": jnp.full(2, x)}, "count": x}
        for x in (1.0, 0.0)
    )
    kept = non_finite.keep_finite(new, old, good)
    assert kept["m"]["student_1"][0] == (1.0 if separate else 0.0)
    assert kept["m"]["student_2"][0] == 0.0
    assert kept["count"] == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 3])
def test_statistics_are_flagged_in_the_network_that_they_are_of(bad, place):
    """Networks have different numbers of statistics, and the flags are in the order of names."""
    statistics = {"stem": np.ones(1), "student_1": np.ones((2, 2)), "student_2": np.ones(3)}
    statistics["student_1"].flat[place] = bad
    trees = {name: {"mean": jnp.asarray(value)} for name, value in statistics.items()}
    found = non_finite.flags({name: {"kernel": jnp.ones(2)} for name in trees}, trees)
    np.testing.assert_array_equal(found[non_finite.STATISTICS][0], [0, 1, 0])
    np.testing.assert_array_equal(found[non_finite.GRADIENT][0], [0, 0, 0])


@pytest.mark.parametrize("stop", [None, 2])
def test_repeated_steps_give_each_metric_in_its_own_shape(stop):
    def step(state):
        values = {"loss": (state.step * 0.5, jnp.float32(1)), "each": (jnp.arange(2.0), state.step)}
        return state.replace(step=state.step + 1), values

    nothing = dict.fromkeys(("key", "params", "batch_stats", "optimizer_state"))
    state = TrainState(step=jnp.int32(0), **nothing)
    last, metrics = compiled.repeat(step, state, 3, stop=stop)
    taken = 3 if stop is None else stop
    assert last.step == taken
    done = np.arange(3) < taken
    np.testing.assert_array_equal(metrics["loss"][0], [0, 0.5, 1.0] * done)
    np.testing.assert_array_equal(metrics["loss"][1], done)
    np.testing.assert_array_equal(metrics["each"][0], [[0, 1]] * 3 * done[:, None])
    np.testing.assert_array_equal(metrics["each"][1], [0, 1, 2] * done)
    assert metrics["each"][1].dtype == jnp.int32
