"""The configuration: every field with its default, its meaning and its allowed values.

Each of the tasks `kdjax train`, `search` and `distill` has one table. The default
:class:`ConfigDict`, the checks, the help texts and the list of what a resumed run may change are
all read from that table. Fields are numbers, strings, booleans and tuples only, since nothing else
can be overridden on a command line.
"""

from kdjax.config.checks import terms_of_maps, validate
from kdjax.config.fields import ConfigError, Field
from kdjax.config.first_run import first_run
from kdjax.config.lengths import growing, ramp_epochs, shortened, warmup_epochs
from kdjax.config.names import nearest
from kdjax.config.rules import RULES, Rule
from kdjax.config.search import BLOCK_RESOURCES
from kdjax.config.shared import OPTIMIZERS, SCHEDULES
from kdjax.config.stored import forbidden_changes, from_json, to_json
from kdjax.config.tasks import (
    DISTILL_FIELDS,
    FIELDS,
    SEARCH_FIELDS,
    Task,
    default,
    default_of,
    distill_default,
    fields_of,
    flatten,
    register_term,
    search_default,
    task_of,
    unknown_field,
)
from kdjax.config.terms import RAMPS, TERMS, Parts, Term
from kdjax.config.unread import unread

__all__ = [
    "BLOCK_RESOURCES",
    "DISTILL_FIELDS",
    "FIELDS",
    "OPTIMIZERS",
    "RAMPS",
    "RULES",
    "SCHEDULES",
    "SEARCH_FIELDS",
    "TERMS",
    "ConfigError",
    "Field",
    "Parts",
    "Rule",
    "Task",
    "Term",
    "default",
    "default_of",
    "distill_default",
    "fields_of",
    "first_run",
    "flatten",
    "forbidden_changes",
    "from_json",
    "growing",
    "nearest",
    "ramp_epochs",
    "register_term",
    "search_default",
    "shortened",
    "task_of",
    "terms_of_maps",
    "to_json",
    "unknown_field",
    "unread",
    "validate",
    "warmup_epochs",
]
