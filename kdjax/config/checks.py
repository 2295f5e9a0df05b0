"""The checks: every field by itself, then the fields against each other."""

from collections.abc import Callable

import ml_collections

from kdjax.config.fields import ConfigError, wrong_type
from kdjax.config.rules import RULES
from kdjax.config.tasks import Task, fields_of, flatten, task_of, unknown_field
from kdjax.config.terms import NO_MAPS, TERMS


def validate(
    config: ml_collections.ConfigDict, task: Task | None = None, *, learns: bool = True
) -> None:
    """Checks every field of a configuration by itself, then the fields against each other.

    Args:
      config: a configuration of any task.
      task: the task that the configuration has to be of; None: any.
      learns: whether a loss term must be switched on; False if trained networks are only used.

    Raises:
      ConfigError: for the first wrong field; the message names the field, its value and what is
        allowed.
    """
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(
            f"the configuration is a {type(config).__name__}: expected an ml_collections."
            "ConfigDict, as kdjax.config.default() returns"
        )
    found = task_of(config)
    if task not in (None, found):
        raise ConfigError(f"this is a configuration of `kdjax {found}`, not of `kdjax {task}`")
    fields = fields_of(found)
    values = dict(flatten(config))
    for name in values:
        if name not in fields:
            raise unknown_field(name, fields)
    for name, field in fields.items():
        if name not in values:
            raise ConfigError(f"config.{name} is missing: {field.meaning}")
        value = values[name]
        expected = type(field.default)
        right_type = isinstance(value, expected) or (expected is float and isinstance(value, int))
        if not right_type or (isinstance(value, bool) and expected is not bool):
            raise wrong_type(name, value, field)
        if not field.valid(value):
            raise ConfigError(f"config.{name} is {value!r}: expected {field.allowed}")
    for check in _ACROSS_FIELDS[found]:
        if learns or check is not _weights:
            check(config)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_different(name: str, values: tuple[object, ...], what: str) -> None:
    _require(len(set(values)) == len(values), f"config.{name} is {values}: {what} must differ")


def _seeds(config: ml_collections.ConfigDict) -> None:
    _require_different("seeds", config.seeds, "the seeds")


def _weights(config: ml_collections.ConfigDict) -> None:
    alone = config.get("method") == "independent"  # Baselines learn from labels, at full weight.
    _require(
        alone or sum(config.weights.values()) > 0,
        "config.weights are all 0: nothing would be learnt",
    )


def _boundaries(config: ml_collections.ConfigDict) -> None:
    boundaries = config.schedule.boundaries
    _require(
        list(boundaries) == sorted(set(boundaries)),
        f"config.schedule.boundaries is {boundaries}: they must increase",
    )


def _image_size(config: ml_collections.ConfigDict) -> None:
    size = config.data.image_size
    _require(
        size == (0, 0) or min(size) >= 8,
        f"config.data.image_size is {size}: both must be at least 8, or both 0 to keep sizes",
    )


def _students(config: ml_collections.ConfigDict) -> None:
    students = len(config.student_widths) or len(config.student_scales)
    field = "student_widths" if config.student_widths else "student_scales"
    _require(
        students >= 2 or (config.method == "independent" and students == 1),
        f"config.{field} is {config[field]}, {students} entries: an ensemble needs at least 2 "
        "students (config.method=independent takes 1)",
    )
    scales = config.student_scales
    _require(
        bool(config.student_widths) or scales[0] == 1.0,
        f"config.student_scales is {scales}: the first student is the pivot and must be 1.0",
    )
    weights = config.student_weights
    _require(
        len(weights) in (0, students),
        f"config.student_weights is {weights}: expected {students} numbers, or none",
    )
    rule, shares = RULES[config.ensemble.rule], config.teacher_weights
    _require(
        not shares or rule.takes_shares,
        f"config.teacher_weights is {shares}: only the rule "
        f"{' or '.join(repr(name) for name, known in RULES.items() if known.takes_shares)} has "
        f"shares, config.ensemble.rule is {config.ensemble.rule!r}",
    )
    _require(
        not rule.follows_losses or config.weights.hard > 0 or config.method == "independent",
        f"config.ensemble.rule is {config.ensemble.rule!r}, which follows the losses against the "
        "labels, but config.weights.hard is 0: it must be above 0",
    )
    _require(
        not shares or (len(shares) == students and abs(sum(shares) - 1.0) < 1e-6),
        f"config.teacher_weights is {shares}: expected {students} numbers that sum to 1",
    )


def _teacher(config: ml_collections.ConfigDict) -> None:
    teacher = config.teacher
    _require(
        bool(teacher.workdir) or not teacher.run,
        f"config.teacher.run is {teacher.run!r}: it needs config.teacher.workdir",
    )


def _teachers(config: ml_collections.ConfigDict) -> None:
    teacher = config.teacher
    for field in ("student", "seed"):
        _require(
            len(teacher[field]) in (0, len(teacher.workdir)),
            f"config.teacher.{field} is {teacher[field]}: expected no entries or "
            f"{len(teacher.workdir)}, one for each of config.teacher.workdir",
        )
    readers = terms_of_maps(config)
    _require(
        not readers or len(teacher.workdir) <= 1,
        f"config.weights.{readers[0] if readers else ''} reads the maps of one teacher, but "
        f"config.teacher.workdir is {teacher.workdir}: several teachers can teach by logits only",
    )
    if not teacher.cache_logits:
        return
    _require(
        not readers,
        "config.teacher.cache_logits is True, but "
        f"config.weights.{readers[0] if readers else ''} reads the teacher's maps, which are not "
        "kept",
    )
    augmented = {
        "data.memory": config.data.memory == "stream",
        "data.crop_padding": config.data.crop_padding > 0,
        "data.flip": config.data.flip,
        "data.mixup": config.data.mixup > 0,
        "data.cutmix": config.data.cutmix > 0,
    }
    values = dict(flatten(config))
    changing = [f"config.{name} is {values[name]!r}" for name, on in augmented.items() if on]
    _require(
        not changing,
        "config.teacher.cache_logits is True: training images must be the same in every epoch, "
        f"but {' and '.join(changing)}",
    )


def terms_of_maps(config: ml_collections.ConfigDict) -> list[str]:
    """The terms that are switched on and read more than labels and logits: maps or embeddings."""
    weights = config.weights.items()
    return [name for name, weight in weights if weight > 0 and TERMS[name].reads not in NO_MAPS]


def _targets(config: ml_collections.ConfigDict) -> None:
    blocks = config.search.blocks.targets
    _require(
        any([*config.search.target.values(), *blocks]),
        "config.search.target has no target: flops, params and latency are 0 and "
        f"config.search.blocks.targets is {blocks}, one of them must be above 0",
    )
    latency = config.search.target.latency
    _require(
        not latency or bool(config.search.latency_table),
        f"config.search.target.latency is {latency:g}: it needs config.search.latency_table, a "
        "file of `kdjax bench --layers`",
    )


def _blocks(config: ml_collections.ConfigDict) -> None:
    blocks = config.search.blocks
    names = blocks.names
    _require_different("search.blocks.names", names, "the names")
    _require(
        bool(names) or not blocks.groups,
        f"config.search.blocks.groups is {blocks.groups}, but config.search.blocks.names is (): "
        "groups need the names of their blocks",
    )
    _require(
        len(blocks.groups) == len(names),
        f"config.search.blocks.groups is {blocks.groups}: expected {len(names)} entries, one for "
        "each of config.search.blocks.names",
    )
    for field in ("strengths", "resources", "targets"):
        # Without names, the network's own blocks are used; their number is not known here.
        _require(
            not names or len(blocks[field]) in (0, len(names)),
            f"config.search.blocks.{field} is {blocks[field]}: expected no entries or "
            f"{len(names)}, one for each of config.search.blocks.names",
        )
    _require_different("search.blocks.frozen", blocks.frozen, "the names")
    _require(
        not names or set(blocks.frozen) <= set(names),
        f"config.search.blocks.frozen is {blocks.frozen}: allowed are config.search.blocks.names, "
        f"{names}",
    )


def _order(config: ml_collections.ConfigDict) -> None:
    order, blocks = config.search.order, config.search.blocks
    _require(
        not order or config.search.schedule == "sequential",
        f"config.search.order is {order}, but config.search.schedule is "
        f"{config.search.schedule!r}: only sequential has an order",
    )
    _require_different("search.order", order, "the blocks")
    free = tuple(name for name in blocks.names if name not in blocks.frozen)
    _require(
        not blocks.names or set(order) <= set(free),
        f"config.search.order is {order}: allowed are names of blocks that are not frozen, {free}",
    )
    _require(
        not set(order) & set(blocks.frozen),
        f"config.search.order is {order}: allowed are names of blocks that are not frozen, but "
        f"config.search.blocks.frozen is {blocks.frozen}",
    )


_ACROSS_FIELDS: dict[Task, tuple[Callable[[ml_collections.ConfigDict], None], ...]] = {
    "train": (
        _seeds,
        _students,
        _weights,
        _boundaries,
        _image_size,
    ),
    "search": (
        _seeds,
        _teacher,
        _targets,
        _blocks,
        _order,
        _weights,
        _boundaries,
        _image_size,
    ),
    "distill": (
        _seeds,
        _teachers,
        _weights,
        _boundaries,
        _image_size,
    ),
}
