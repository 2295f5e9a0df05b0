"""The examples and results in the README, and in the pages to which it links, are correct."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kdjax import cli
from kdjax import config as configuration

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXPERIMENTS = [str(page.relative_to(ROOT)) for page in (ROOT / "experiments").rglob("*.md")]
PAGES = {
    page: (ROOT / page).read_text()
    for page in ("README.md", "configs/README.md", "kdjax/losses/README.md", "kdjax/README.md")
}


def blocks(language):
    text = "\n".join(PAGES.values())
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands():
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]


def examples():
    """Returns the Python examples, except those of a trained student, which tests/deploy tests."""
    trained = ("load_student", "onnxruntime")
    return [block for block in blocks("python") if not any(word in block for word in trained)]


@pytest.mark.parametrize("number", range(len(examples())))
def test_python_examples_run(number):
    result = subprocess.run(
        [sys.executable, "-c", examples()[number]], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    if "10773" in examples()[number]:
        assert result.stdout.strip() == "10773"


def test_commands_exist_and_their_overrides_are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    for task, count in (("train", 9), ("search", 5), ("distill", 2)):
        found = [line[1:] for line in commands() if line[:2] == ["kdjax", task]]
        assert len(found) == count
        for arguments in found:
            known, overrides = cli.make_parser().parse_known_args(arguments)
            configuration.validate(cli.read_config(known.config, overrides, task))
    for name in ("evaluate", "predict", "export"):
        found = [line[1:] for line in commands() if line[:2] == ["kdjax", name]]
        assert [cli.make_parser().parse_known_args(line)[1] for line in found] == [[]]


def test_the_two_commands_are_the_promised_ones():
    assert "pip install . && kdjax train" in README
    assert 'pip install -e ".[test]" && pytest' in README
    assert "\npytest\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("page", sorted({*PAGES, *EXPERIMENTS}))
def test_what_a_page_points_to_exists(page):
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            name, _, heading = target.partition("#")
            file = ((ROOT / page).parent / name) if name else ROOT / page
            assert file.exists(), target
            if heading and file.suffix == ".md":
                titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
                anchors = [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles]
                assert heading in anchors, target


def test_the_pages_name_every_loss_and_rule():
    for name in configuration.TERMS:
        known = {"hard": "hard_label_cross_entropy", "soft": "soft_target_kl"}
        function = known.get(name, "feature_mse" if name == "feature" else name)
        assert f"`{function}`" in PAGES["kdjax/losses/README.md"], name
    for rule in configuration.RULES:
        assert f"| `{rule}` |" in PAGES["configs/README.md"]


def test_the_recorded_result_is_that_of_the_default_command():
    recorded = ROOT / "experiments" / "digits"
    config = configuration.from_json((recorded / "config.json").read_text())
    assert config.to_dict() == configuration.first_run("train").to_dict()
    results = json.loads((recorded / "results.json").read_text())
    assert results["seeds"] == list(config.seeds)
    # The pages quote exactly these results.
    page = (recorded / "README.md").read_text()
    for student in results["students"]:
        assert f"{100 * student['distilled']['test']:.2f}" in page
        assert f"{100 * student['baseline']['test']:.2f}" in page
    for text in (page, README):
        for gain in (results["mean_gain"]["points"], results["students"][-1]["gain_points"]):
            assert f"{gain:.2f}" in text


def test_the_recorded_search_is_that_of_the_default_command():
    recorded = ROOT / "experiments" / "search_digits"
    config = configuration.from_json((recorded / "config.json").read_text())
    assert config.to_dict() == configuration.first_run("search").to_dict()
    results = json.loads((recorded / "results.json").read_text())
    assert results["structure"]["shares"]["params"] <= config.search.target.params
    page = (recorded / "README.md").read_text()
    for candidate in results["candidates"]:
        assert f"{100 * candidate['test']:.2f}" in page
        assert f"{candidate['params']:,}" in page
    for text in (page, README):
        assert f"{results['compact_minus_uniform_points']['mean']:.2f}" in text


def test_the_recorded_distillation_is_that_of_the_default_command():
    recorded = ROOT / "experiments" / "distill"
    config = configuration.from_json((recorded / "config.json").read_text())
    assert config.to_dict() == configuration.first_run("distill").to_dict()
    results = json.loads((recorded / "results.json").read_text())
    assert results["seeds"] == list(config.seeds)
    page = (recorded / "README.md").read_text()
    (student,), (teacher,) = results["students"], results["teachers"]
    for accuracy in (student["baseline"], student["distilled"], teacher):
        assert f"{100 * accuracy['test']:.2f}" in page
    assert f"{student['gain_points']:+.2f} ± {student['gain_half_width']:.2f}" in page
