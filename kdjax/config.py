"""The configuration: every field, its default, its meaning and what it may be.

One table says all of it. The default :class:`ConfigDict`, the checks, the help texts and the list
of what a resumed run may change are read from it. Fields are numbers, strings, booleans and
tuples only, since nothing else can be overridden on a command line.
"""

import dataclasses
import difflib
import json
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections


class ConfigError(ValueError):
    """A field with a value that is not allowed; the message names field, value and allowed ones."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One configuration field.

    Attributes:
      default: also decides the type.
      meaning: one line for people.
      allowed: what a valid value is, in words.
      valid: value -> bool.
      resumable: whether a run may be continued with another value.
    """

    default: Any
    meaning: str
    allowed: str = "anything"
    valid: Callable[[Any], bool] = lambda value: True
    resumable: bool = False


def _one_of(default: str, meaning: str, *known: str) -> Field:
    return Field(default, meaning, f"one of {', '.join(known)}", lambda value: value in known)


def _number(
    default: float,
    meaning: str,
    low: float,
    high: float = float("inf"),
    *,
    above: bool = False,
    below: bool = False,
    resumable: bool = False,
) -> Field:
    text = f"{'above' if above else 'at least'} {low:g}"
    if high != float("inf"):
        text += f" and {'below' if below else 'at most'} {high:g}"
    elif isinstance(default, float):
        text += ", finite"

    def valid(value: float) -> bool:
        # NaN fails every comparison; infinity is never meant.
        return (value > low or (value == low and not above)) and (
            value < high or (value == high and not below and high != float("inf"))
        )

    return Field(default, meaning, text, valid, resumable)


def _tuple_of(
    default: tuple[Any, ...],
    meaning: str,
    allowed: str,
    valid: Callable[[Any], bool],
    length: Callable[[int], bool] = lambda n: True,
    *,
    resumable: bool = False,
) -> Field:
    return Field(
        default,
        meaning,
        allowed,
        lambda values: length(len(values)) and all(valid(value) for value in values),
        resumable,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("constant", "step", "cosine", "exponential")
RAMPS = ("constant", "linear", "cosine")
TERMS = ("hard", "feature", "soft")

FIELDS: dict[str, Field] = {
    "method": _one_of(
        "both",
        "what to train: the ensemble, its baselines, or both to compare them",
        "both",
        "ensemble",
        "independent",
    ),
    "seeds": _tuple_of(
        (0, 1, 2),
        "one run per seed and method; results are means over them",
        "different whole numbers, none negative",
        _is_count,
        lambda n: n > 0,
    ),
    "network": Field("resnet8", "name of the network family and depth"),
    "network_width": _number(
        0.625, "multiplies every full width, the stem's included", 0, above=True
    ),
    "student_scales": _tuple_of(
        (1.0, 0.8, 0.6, 0.4, 0.2),
        "width of each student relative to the first",
        "numbers above 0 and at most 1, the first 1",
        lambda value: _is_number(value) and 0 < value <= 1,
    ),
    "student_widths": _tuple_of(
        (),
        "JSON files with width vectors, the pivot's first; replaces student_scales",
        "paths",
        lambda value: isinstance(value, str) and value != "",
    ),
    "data.name": Field(
        "digits",
        "digits, a TFDS name, tfds:<prepared dir>, npz:<file> or folder:<dir>",
        "a name",
        lambda value: value != "",
    ),
    "data.data_dir": Field(
        "", "where prepared TFDS sets lie; empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets"
    ),
    "data.validation": _number(0.1, "share of train held out for validation", 0, 1, below=True),
    "data.test": _number(
        0.2,
        "share held out for test where the source has no test split",
        0,
        1,
        above=True,
        below=True,
    ),
    "data.split_seed": _number(0, "decides which examples are held out", 0),
    "data.image_size": _tuple_of(
        (0, 0),
        "resize to (height, width) while decoding; (0, 0): keep sizes",
        "two whole numbers, both 0 or both at least 8",
        _is_count,
        lambda n: n == 2,
    ),
    "data.crop_padding": _number(1, "pixels of zeros around the image before a random crop", 0),
    "data.flip": Field(False, "flip half of the training images left to right"),
    "weights.hard": _number(0.7, "weight of the cross entropy against the labels", 0),
    "weights.feature": _number(0.15, "weight of the feature distance to the pivot", 0),
    "weights.soft": _number(0.15, "weight of the divergence from the ensemble teacher", 0),
    **{
        f"weight_ramp.{term}": _one_of(
            shape, f"how weights.{term} grows from 0 over weight_ramp.epochs", *RAMPS
        )
        for term, shape in (("hard", "constant"), ("feature", "cosine"), ("soft", "constant"))
    },
    "weight_ramp.epochs": _number(15.0, "length of the ramps, in epochs", 0, above=True),
    "temperature": _number(2.0, "softens the logits of the soft term", 0, above=True),
    "teacher_weights": _tuple_of(
        (),
        "share of each student in the ensemble teacher; empty: equal",
        "numbers, none negative, summing to 1",
        lambda value: _is_number(value) and value >= 0,
    ),
    "feature_gradient_to_stem": Field(True, "whether the feature term also trains the shared stem"),
    "label_smoothing": _number(0.0, "of the labels, in both methods", 0, 1, below=True),
    "epochs": _number(15, "passes over the training split", 1, resumable=True),
    "batch_size": _number(64, "images a step, over all devices", 1),
    "optimizer.name": _one_of("sgd", "optimiser", *OPTIMIZERS),
    "optimizer.momentum": _number(0.9, "of sgd and rmsprop", 0, 1, below=True),
    "optimizer.nesterov": Field(True, "Nesterov momentum, in sgd"),
    "optimizer.b1": _number(0.9, "decay of the first moment, in adam and adamw", 0, 1, below=True),
    "optimizer.b2": _number(
        0.999, "decay of the second moment, in adam, adamw and rmsprop", 0, 1, below=True
    ),
    "optimizer.eps": _number(1e-8, "added to the second moment's root", 0, above=True),
    "optimizer.weight_decay": _number(
        1e-4, "on kernels only, never on scales and biases; decoupled in adamw alone", 0
    ),
    "optimizer.clip_norm": _number(
        0.0, "largest gradient norm (of each baseline by itself); 0: no clipping", 0
    ),
    "schedule.name": _one_of("cosine", "learning rate schedule", *SCHEDULES),
    "schedule.learning_rate": _number(0.1, "peak learning rate", 0, above=True),
    "schedule.warmup_epochs": _number(1.0, "linear rise from 0", 0),
    "schedule.boundaries": _tuple_of(
        (0.5, 0.75),
        "step: where the rate drops, as shares of all epochs",
        "increasing numbers above 0 and below 1",
        lambda value: _is_number(value) and 0 < value < 1,
    ),
    "schedule.factor": _number(
        0.1, "step, exponential: what a drop multiplies by", 0, 1, above=True
    ),
    "schedule.every_epochs": _number(
        1.0, "exponential: a drop every so many epochs", 0, above=True
    ),
    "schedule.final": _number(0.0, "cosine: last rate relative to the peak", 0, 1),
    "compute.dtype": _one_of(
        "float32",
        "of the networks; parameters, statistics and losses stay float32",
        "float32",
        "bfloat16",
    ),
    "compute.batch_norm": _one_of(
        "device",
        "whose examples a batch statistic is taken over: one device's or all",
        "device",
        "global",
    ),
    "compute.devices": _number(0, "how many devices to use; 0: all", 0, resumable=True),
    "compute.steps_per_dispatch": _number(
        0, "training steps in one compiled call; 0: the backend's choice", 0, resumable=True
    ),
    "evaluation.every_epochs": _number(3, "epochs between evaluations on validation", 1),
    "evaluation.batch_size": _number(180, "images a step in evaluation", 1, resumable=True),
    "evaluation.select": _one_of(
        "last", "which checkpoint the results quote: last, or best on validation", "last", "best"
    ),
    "checkpoint.every_epochs": _number(5, "epochs between checkpoints", 1, resumable=True),
    "checkpoint.keep": _number(2, "how many of the latest checkpoints to keep", 1, resumable=True),
    "log.every_steps": _number(
        50, "steps a line of metrics.jsonl averages over", 1, resumable=True
    ),
    "log.tensorboard": Field(True, "write TensorBoard events", resumable=True),
    "log.progress": Field(True, "show a progress bar on a terminal", resumable=True),
}


def default() -> ml_collections.ConfigDict:
    """The default configuration: both methods on the embedded digits, minutes on a CPU."""
    config = ml_collections.ConfigDict()
    for name, field in FIELDS.items():
        *parents, leaf = name.split(".")
        node = config
        for parent in parents:
            if parent not in node:
                node[parent] = ml_collections.ConfigDict()
            node = node[parent]
        node[leaf] = field.default
    return config.lock()


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``(dotted name, value)`` of every leaf; works on dicts and ConfigDicts."""
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list) else value


def unknown_field(name: str) -> ConfigError:
    """The error for a field that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.5)
    if not near:  # Perhaps the right leaf in the wrong place.
        near = [known for known in FIELDS if known.split(".")[-1] == name.split(".")[-1]][:1]
    hint = f": did you mean config.{near[0]}?" if near else ""
    return ConfigError(f"unknown field config.{name}{hint}")


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every field by itself and against the others.

    Raises:
      ConfigError: for the first wrong field; names it, its value and what is allowed.
    """
    values = dict(flatten(config))
    for name in values:
        if name not in FIELDS:
            raise unknown_field(name)
    for name, field in FIELDS.items():
        if name not in values:
            raise ConfigError(f"config.{name} is missing: {field.meaning}")
        value = values[name]
        expected = type(field.default)
        right_type = isinstance(value, expected) or (expected is float and isinstance(value, int))
        if not right_type or (isinstance(value, bool) and expected is not bool):
            raise ConfigError(
                f"config.{name} is {value!r}, a {type(value).__name__}: expected "
                f"{expected.__name__} ({field.meaning})"
            )
        if not field.valid(value):
            raise ConfigError(f"config.{name} is {value!r}: allowed is {field.allowed}")
    _validate_together(config)


def _validate_together(config: ml_collections.ConfigDict) -> None:
    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ConfigError(message)

    seeds = config.seeds
    require(len(set(seeds)) == len(seeds), f"config.seeds is {seeds}: the seeds must differ")
    students = len(config.student_widths) or len(config.student_scales)
    field = "student_widths" if config.student_widths else "student_scales"
    require(
        students >= 2 or (config.method == "independent" and students == 1),
        f"config.{field} has {students} entries: an ensemble needs at least 2 students",
    )
    scales = config.student_scales
    require(
        bool(config.student_widths) or scales[0] == 1.0,
        f"config.student_scales is {scales}: the first student is the pivot and must be 1.0",
    )
    shares = config.teacher_weights
    require(
        not shares or (len(shares) == students and abs(sum(shares) - 1.0) < 1e-6),
        f"config.teacher_weights is {shares}: expected {students} numbers that sum to 1",
    )
    require(sum(config.weights.values()) > 0, "config.weights are all 0: nothing would be learnt")
    boundaries = config.schedule.boundaries
    require(
        list(boundaries) == sorted(set(boundaries)),
        f"config.schedule.boundaries is {boundaries}: they must increase",
    )
    require(
        config.schedule.warmup_epochs < config.epochs,
        f"config.schedule.warmup_epochs is {config.schedule.warmup_epochs}: it must be below "
        f"config.epochs, {config.epochs}",
    )
    size = config.data.image_size
    require(
        size == (0, 0) or min(size) >= 8,
        f"config.data.image_size is {size}: both must be at least 8, or both 0 to keep sizes",
    )
    require(
        config.evaluation.select == "last" or config.data.validation > 0,
        "config.evaluation.select is 'best', but config.data.validation is 0: there is no "
        "validation split to choose on",
    )


def to_json(config: ml_collections.ConfigDict) -> str:
    """Indented JSON, fields sorted by name."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str) -> ml_collections.ConfigDict:
    """The configuration written by :func:`to_json`, validated.

    Raises:
      ConfigError: if the text is not a configuration.
    """
    try:
        stored = dict(flatten(json.loads(text)))
    except (json.JSONDecodeError, AttributeError) as error:
        raise ConfigError(f"not a configuration in JSON: {error}") from None
    config = default()
    for name, value in stored.items():
        if name not in FIELDS:
            raise unknown_field(name)
        try:
            config.update_from_flattened_dict({name: value})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config.{name} is {value!r}: {error}") from None
    validate(config)
    return config


def forbidden_changes(
    stored: ml_collections.ConfigDict, wanted: ml_collections.ConfigDict
) -> list[str]:
    """What keeps a run started with ``stored`` from being continued with ``wanted``.

    Returns:
      One line per field that differs and may not; empty if the run may go on.
    """
    before, after = dict(flatten(stored)), dict(flatten(wanted))
    lines = [
        f"config.{name} was {before.get(name)!r}, is {after[name]!r}"
        for name in after
        if before.get(name) != after[name] and not FIELDS[name].resumable
    ]
    if after["epochs"] < before["epochs"]:
        lines.append(
            f"config.epochs was {before['epochs']!r}, is {after['epochs']!r}: it may only grow"
        )
    return lines
