"""Measures what a teacher is worth with each loss term by itself, on the embedded digits.

The teacher and the student are those of `kdjax distill` without a configuration file. The student
is distilled with one term after another, each beside the labels, always over the same seeds. It is
also trained alone, once.

Run ``--choose`` first. On a validation split, with other seeds, it tries each term at its published
weight and at a tenth and a hundredth of it, and writes the best weight to ``weights.json``. A
weight with which training diverges gets no accuracy in that file. The main run takes the weights
from the file, and reads the test split once, after all training.

Command:  python experiments/distill/terms.py --choose --out=experiments/distill
          python experiments/distill/terms.py --out=experiments/distill
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from kdjax import config as configuration
from kdjax.statistics import half_width, mean
from kdjax.train import distill
from kdjax.train.program.non_finite import NonFiniteError

# Weights as in RepDistiller, or for later losses as in their own code. A term not listed has 1.
PUBLISHED = {
    "soft": 0.9,
    "feature": 100.0,
    "dist": 2.0,
    "attention_transfer": 1000.0,
    "similarity_preserving": 3000.0,
    "nst": 50.0,
    "pkt": 30000.0,
    "fsp": 50.0,
    "review_kd": 5.0,
    "crd": 0.8,
}
FACTORS = (1.0, 0.1, 0.01)
# The split seed differs from the main run's. Most of these validation images are therefore test
# images of the main run.
CHOOSING = {
    "data.split_seed": 2,
    "data.test": 0.5,
    "data.validation": 0.6,
    "seeds": (100, 101, 102),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--choose", action="store_true", help="choose the weights, on validation")
    parser.add_argument("--out", default="experiments/distill", help="where tables are written")
    parser.add_argument("--runs", default="kdjax-runs/terms", help="where workdirs are")
    parser.add_argument("--seeds", type=int, default=5, help="of the run")
    parser.add_argument("--terms", default="", help="some of them, separated by commas")
    options = parser.parse_args()
    known = [name for name in configuration.TERMS if name != "hard"]
    names = options.terms.split(",") if options.terms else known
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"--terms has {', '.join(unknown)}: known are {', '.join(known)}")
    out = Path(options.out)
    if options.choose:
        chosen = {name: choose(name, Path(options.runs) / "choose") for name in names}
        (out / "weights.json").write_text(json.dumps(chosen, indent=2) + "\n")
        return
    weights = json.loads((out / "weights.json").read_text())
    started = time.perf_counter()
    seeds = {"seeds": tuple(range(options.seeds))}
    runs = Path(options.runs) / "run"
    alone = distilled(runs, "teacher_and_alone", {}, {**seeds, "baseline": True})
    found = {}
    for name in names:
        terms = {"hard": 0.1 if name == "soft" else 1.0, name: weights[name]["weight"]}
        found[name] = distilled(runs, name, terms, seeds)
    result = summarize(alone, found, weights) | {"seconds": round(time.perf_counter() - started)}
    (out / "terms.json").write_text(json.dumps(result, indent=2) + "\n")
    (out / "terms.md").write_text(table(result))
    print(table(result))


def distilled(
    runs: Path, name: str, terms: dict[str, float], changes: dict[str, Any]
) -> dict[str, Any]:
    """Returns the results of the first run's student with these terms, and alone if asked for.

    Args:
      runs: the folder of the workdirs. The run without terms trains the teacher of all other runs.
      name: name of the workdir.
      terms: weights by term; all other terms have weight 0.
      changes: values of other fields; with ``baseline`` the student is also trained alone.
    """
    config = configuration.first_run("distill")
    config.weights.update({term: float(terms.get(term, term == "hard")) for term in config.weights})
    if terms:
        config.baseline = False
        config.teacher.workdir = (str(runs / "teacher_and_alone"),)
        config.teacher.student = ("teacher",)
    config.evaluation.every_epochs = config.epochs
    config.log.update(tensorboard=False, progress=False)
    config.update_from_flattened_dict(changes)
    return distill(config, runs / name)


def choose(name: str, runs: Path) -> dict[str, Any]:
    """Returns the weight of a term with the best mean validation accuracy, and all tried ones."""
    distilled(runs, "teacher_and_alone", {}, {**CHOOSING, "epochs": 1, "seeds": (100,)})
    tried: dict[float, float | None] = {}
    for factor in FACTORS:
        weight = factor * PUBLISHED.get(name, 1.0)
        terms = {"hard": 0.1 if name == "soft" else 1.0, name: weight}
        try:
            summary = distilled(runs, f"{name}-{factor:g}", terms, CHOOSING)
        except NonFiniteError:  # Training diverged: this weight is too large.
            tried[weight] = None
            continue
        tried[weight] = summary["students"][0]["distilled"]["val"]
    return {"weight": max(tried, key=lambda weight: tried[weight] or 0.0), "validation": tried}


def summarize(
    alone: dict[str, Any], found: dict[str, dict[str, Any]], weights: dict[str, Any]
) -> dict[str, Any]:
    """Returns test accuracies, and differences to the student alone, paired by seed, in points."""
    baseline = alone["students"][0]["baseline"]
    rows = {}
    for name, summary in found.items():
        entry = summary["students"][0]["distilled"]
        pairs = zip(entry["per_seed"], baseline["per_seed"], strict=True)
        points = [100 * (taught - own) for taught, own in pairs]
        gain = {"points": mean(points), "half_width": half_width(points)}
        rows[name] = {"weight": weights[name]["weight"], "gain": gain, **entry}
    return {
        "teacher": alone["teachers"][0],
        "alone": baseline,
        "terms": rows,
        "seeds": alone["seeds"],
        "made_with": alone["made_with"],
    }


def table(result: dict[str, Any]) -> str:
    """Returns the summary as a Markdown table, the most useful term first."""
    seeds = len(result["seeds"])
    lines = [
        f"Test accuracy in %, means over {seeds} seeds with 95 % intervals; teacher "
        f"{100 * result['teacher']['test']:.2f} (one run)",
        "",
        "| term | weight | accuracy | gain over alone, points |",
        "| --- | ---: | ---: | ---: |",
        f"| none: the student alone | | {_accuracy(result['alone'])} | |",
    ]
    rows = sorted(result["terms"].items(), key=lambda item: -item[1]["gain"]["points"])
    for name, row in rows:
        gain = f"{row['gain']['points']:+.2f} ± {row['gain']['half_width'] or 0:.2f}"
        lines.append(f"| {name} | {row['weight']:g} | {_accuracy(row)} | {gain} |")
    return "\n".join(lines) + "\n"


def _accuracy(entry: dict[str, Any]) -> str:
    return f"{100 * entry['test']:.2f} ± {100 * (entry['test_half_width'] or 0):.2f}"


if __name__ == "__main__":
    main()
