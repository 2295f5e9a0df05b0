"""Launch recipes: kdjax accepts their commands, and their files are well formed."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from kdjax import cli

FOLDER = Path(__file__).parent.parent.parent / "experiments" / "launch"
RECIPES = ("local.sh", "slurm.sbatch", "tpu_pod.sh", "jobset.yaml")


@pytest.mark.parametrize("name", RECIPES)
def test_commands_are_understood(name):
    text = re.sub(r"(?m)^\s*#.*$", "", (FOLDER / name).read_text())
    text = text.replace("\\\n", " ").replace("${KDJAX:-kdjax}", "kdjax")
    found = re.findall(r"kdjax (train .*)", text)
    assert found
    for line in found:
        line = re.sub(
            r'\$JOB_COMPLETION_INDEX|"?\$id"?|"?\$processes"?', "1", line.split(" > >")[0]
        )
        known, overrides = cli.make_parser().parse_known_args(shlex.split(line))
        assert all(text.startswith(("--config.", "$")) for text in overrides), overrides
        if known.config:
            assert (FOLDER.parent.parent / known.config).is_file()


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.endswith("yaml")])
def test_scripts_are_well_formed(name):
    subprocess.run(["bash", "-n", FOLDER / name], check=True)


def test_every_pod_knows_the_first():
    yaml = pytest.importorskip("yaml")
    spec = yaml.safe_load((FOLDER / "jobset.yaml").read_text())
    job = spec["spec"]["replicatedJobs"][0]
    pods = job["template"]["spec"]
    assert pods["parallelism"] == pods["completions"] == 2
    (script,) = pods["template"]["spec"]["containers"][0]["args"]
    name, subdomain = spec["metadata"]["name"], spec["spec"]["network"]["subdomain"]
    assert f"--coordinator={name}-{job['name']}-0-0.{subdomain}:" in script
    assert "--num_processes=2" in script
