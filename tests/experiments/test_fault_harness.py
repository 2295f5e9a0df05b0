"""A short run of the fault harness: some faults of each kind, all detected, nothing wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent.parent / "experiments" / "faults"
# Other tests cover kills, signals, full disks, damage on resume, files, workdirs, divergence,
# several processes and devices.
KINDS = "checkpoints,data"


@pytest.mark.skipif(
    not os.environ.get("KDJAX_TEST_ALL"), reason="takes half a minute: KDJAX_TEST_ALL=1 runs it"
)
def test_every_kind_of_fault_is_survived(tmp_path):
    command = [
        sys.executable,
        str(FOLDER / "harness.py"),
        f"--kinds={KINDS}",
        "--scale=0.02",
        f"--folder={tmp_path / 'runs'}",
        f"--out={tmp_path / 'results.json'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = json.loads((tmp_path / "results.json").read_text())["trials"]
    assert len(trials) >= 2
    for trial in trials:
        assert trial["detected"] and trial["recovered"], trial
        assert trial["lost_steps"] == 0 and trial["wrong_numbers"] == 0, trial


def test_random_configurations_train_or_are_refused():
    command = [sys.executable, str(FOLDER / "configs.py"), "--examples=4"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("4 inputs")
