"""Finds fields that were set but have no effect, because of the values of other fields."""

from collections.abc import Callable, Iterable, Mapping

import ml_collections

from kdjax.config.lengths import growing
from kdjax.config.rules import RULES
from kdjax.config.terms import NO_MAPS, TEACHER_LOGITS, TERMS

_SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "boundaries": ("step",),
    "factor": ("step", "exponential"),
    "every_epochs": ("exponential",),
    "final": ("cosine",),
}
_OPTIMIZERS: Mapping[str, tuple[str, ...]] = {
    "momentum": ("sgd", "rmsprop"),
    "nesterov": ("sgd",),
    "b1": ("adam", "adamw"),
    "b2": ("adam", "adamw", "rmsprop"),
    "eps": ("adam", "adamw", "rmsprop"),
}
# Fields and groups of them that the method independent does not read, because it has no teacher.
_TEACHING = (
    "compute.batch_losses",
    "ensemble",
    "feature_gradient_to_stem",
    "standardize_logits",
    "student_weights",
    "temperature",
    "weight_ramp",
    "weights",
)
_TRAINED_TEACHER = ("teacher.epochs", "teacher.network", "teacher.network_width")


def unread(config: ml_collections.ConfigDict, names: Iterable[str]) -> list[str]:
    """One line for each field that has no effect, with the other field that is the reason.

    Args:
      config: a validated configuration of any task.
      names: the fields that were set, such as those of the command line.
    """
    lines = []
    for name in names:
        if decided := _decided(config, name):
            lines.append(f"config.{name} has no effect: {decided}")
    return lines


def _decided(config: ml_collections.ConfigDict, name: str) -> str:
    """Why a field is not read; empty if it is read."""
    group, _, field = name.rpartition(".")
    if config.get("method") == "independent" and _teaches(name):
        return "config.method is 'independent'"
    rules: Mapping[str, Callable[[], str]] = {
        "weight_ramp": lambda: _ramp(config, field),
        "schedule": lambda: _chosen(config, "schedule.name", _SCHEDULES.get(field)),
        "optimizer": lambda: _chosen(config, "optimizer.name", _OPTIMIZERS.get(field)),
        "data": lambda: _data(config, field),
        "compute": lambda: _compute(config, field),
        "ensemble": lambda: _ensemble(config, field),
        "faults": lambda: _stops(config) if field == "limit" else "",
        "teacher": lambda: _teacher(config, name),
        "": lambda: _unread_without_group(config, field),
    }
    if group in TERMS:
        return _off(config, group)
    return rules.get(group, lambda: "")()


def _teaches(name: str) -> bool:
    return name in _TEACHING or name.partition(".")[0] in (*_TEACHING, *TERMS)


def _off(config: ml_collections.ConfigDict, term: str) -> str:
    return "" if config.weights[term] else f"config.weights.{term} is 0"


def _ramp(config: ml_collections.ConfigDict, field: str) -> str:
    if field != "epochs":
        return _off(config, field)
    if growing(config):
        return ""
    on = [term for term, weight in config.weights.items() if weight]
    return f"config.weight_ramp is 'constant' for all terms that are on ({', '.join(on)})"


def _chosen(config: ml_collections.ConfigDict, name: str, readers: tuple[str, ...] | None) -> str:
    group, _, field = name.partition(".")
    value = config[group][field]
    return f"config.{name} is {value!r}" if readers and value not in readers else ""


def _without(config: ml_collections.ConfigDict, read: Callable[[str], bool], what: str) -> str:
    """Says that no term is on that fits; ``read`` says which terms do. Empty if one is on."""
    on = [term for term, weight in config.weights.items() if weight]
    if any(read(term) for term in on):
        return ""
    return f"no term {what} is on, only {', '.join(on)}"


def _compares_logits(term: str) -> bool:
    return TERMS[term].reads in TEACHER_LOGITS


def _data(config: ml_collections.ConfigDict, field: str) -> str:
    stream, source = config.data.memory == "stream", config.data.name
    if field == "data_dir" and (source == "digits" or ":" in source):
        return f"config.data.name is {source!r}"
    if field == "skip_corrupt" and (source == "digits" or source.startswith("npz:")):
        return f"config.data.name is {source!r}"
    if field in ("workers", "threads", "resized_crop") and not stream:
        return f"config.data.memory is {config.data.memory!r}"
    if field == "threads" and config.data.workers:
        return f"config.data.workers is {config.data.workers}"
    if field == "crop_padding" and stream and config.data.resized_crop:
        return "config.data.resized_crop is True"
    return ""


def _compute(config: ml_collections.ConfigDict, field: str) -> str:
    if field == "batch_losses":
        compared = "that compares the examples of a batch"
        return _without(config, lambda term: TERMS[term].coupled, compared)
    return ""


def _ensemble(config: ml_collections.ConfigDict, field: str) -> str:
    with_copies = tuple(name for name, rule in RULES.items() if rule.has_copies)
    other = _chosen(config, "ensemble.rule", with_copies if field == "ema_decay" else None)
    return other or _without(config, _compares_logits, "that compares logits")


def _stops(config: ml_collections.ConfigDict) -> str:
    return "config.faults.non_finite is 'stop'" if config.faults.non_finite == "stop" else ""


def _teacher(config: ml_collections.ConfigDict, name: str) -> str:
    given = bool(config.teacher.workdir)
    if given and name in _TRAINED_TEACHER:
        return "the teacher is taken from config.teacher.workdir, none is trained"
    if not given and name == "teacher.checkpoint":
        return "config.teacher.workdir is empty, a teacher is trained"
    return ""


def _unread_without_group(config: ml_collections.ConfigDict, field: str) -> str:
    """Why a field whose name has no dot is not read; empty if it is read."""
    if field == "student_scales":
        named = bool(config.student_widths)
        return "config.student_widths names the students' widths" if named else ""
    if field == "student_weights":
        return _without(config, lambda term: term != "hard", "but hard")
    if field == "standardize_logits":
        return _without(config, _compares_logits, "that compares logits")
    if field == "feature_gradient_to_stem":
        maps = "that reads maps or embeddings"
        return _without(config, lambda term: TERMS[term].reads not in NO_MAPS, maps)
    if field == "label_smoothing" and config.get("method") == "ensemble":
        return _off(config, "hard")
    return _shared(config, field)


def _shared(config: ml_collections.ConfigDict, field: str) -> str:
    readers = [name for name, term in TERMS.items() if field in term.shared_fields]
    # label_smoothing, the shared field of the term hard, is also read by baselines and teachers.
    if not readers or "hard" in readers or any(config.weights[name] for name in readers):
        return ""
    return " and ".join(f"config.weights.{name} is 0" for name in readers)
