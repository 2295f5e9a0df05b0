"""The commands, their flags and their help."""

import argparse
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import kdjax
from kdjax import config as configuration
from kdjax.cli import commands, deployed, imported, options
from kdjax.cli.descriptions import DESCRIPTIONS

_INDENT = " " * 6
_ENVIRONMENT = """\
environment variables:
  KDJAX_CACHE
      where decoded images, compiled programs and measured speeds are kept; default:
      $XDG_CACHE_HOME/kdjax, else ~/.cache/kdjax
  KDJAX_TUNE
      0: leave the environment as it is; otherwise kdjax sets JAX_COMPILATION_CACHE_DIR,
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS and, on a CPU, XLA_FLAGS and GLIBC_TUNABLES, if
      they are not set yet
  KDJAX_TRACEBACK
      any value: print errors with their full traceback
  TFDS_DATA_DIR
      directory of prepared TFDS sets, if data.data_dir names none; default: ~/tensorflow_datasets
  JAX_PLATFORMS
      cpu, cuda or tpu: the kind of devices to use; default: the fastest there is
  SLURM_*, OMPI_*, TPU_WORKER_HOSTNAMES, MEGASCALE_COORDINATOR_ADDRESS, JAX_COORDINATOR_ADDRESS
      how several processes find each other, as clusters set them"""
_INSTALLING = """\
installing, in a checkout:
  pip install .              on a CPU
  pip install ".[cuda]"      on NVIDIA GPUs
  pip install ".[tpu]"       on TPUs
  pip install ".[prepare]"   for `kdjax prepare`
  pip install ".[export]"    for .onnx, .jaxexport and .safetensors files of `kdjax export`
  pip install ".[torch-import]"   for .safetensors files in `kdjax import-torch`"""


class Command(NamedTuple):
    """A command: the function that runs it, and the one that adds its options to its parser."""

    run: Callable[[argparse.Namespace, Sequence[str]], int]
    add_options: Callable[[argparse.ArgumentParser], None]


def _task(task: configuration.Task, workdir: str) -> Command:
    """The command of a task; ``workdir`` describes the name of its default workdir."""
    return Command(
        partial(commands.run_task, task),
        lambda parser: options.add_task_options(parser, f"kdjax-runs/{workdir}"),
    )


COMMANDS = {
    "train": _task("train", "<dataset>-<network>"),
    "search": _task("search", "search-<dataset>-<network>"),
    "distill": _task("distill", "distill-<dataset>-<network>"),
    "evaluate": Command(deployed.evaluate, deployed.add_evaluate_options),
    "predict": Command(deployed.predict, deployed.add_predict_options),
    "export": Command(deployed.export, deployed.add_export_options),
    "import-torch": Command(imported.import_torch, imported.add_import_options),
    "bench": Command(commands.run_bench, options.add_bench_options),
    "plan": Command(commands.run_plan, options.add_plan_options),
    "prepare": Command(commands.run_prepare, options.add_prepare_options),
}
_TASKS: tuple[configuration.Task, ...] = ("train", "search", "distill")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``run`` in its result is the function of the command."""
    parser = argparse.ArgumentParser(
        prog="kdjax",
        description="Compress convolutional networks by knowledge distillation.",
        epilog="Start with `kdjax train`: five students on real digits in minutes, on a CPU.",
    )
    parser.add_argument("--version", action="version", version=f"kdjax {kdjax.__version__}")
    added = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fields: dict[str, str] = {task: _describe_fields(task) for task in _TASKS}
    for name, (run, add_options) in COMMANDS.items():
        command = added.add_parser(
            name,
            help=DESCRIPTIONS[name].summary,
            description=DESCRIPTIONS[name].text,
            epilog=fields.get(name, ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.set_defaults(run=run)
        add_options(command)
    return parser


def _describe_fields(task: configuration.Task) -> str:
    lines = [
        "fields (--config.NAME=VALUE), with default, meaning and allowed values; [in brackets] the",
        "value of the recipe for the embedded digits, used without --config and data.name:",
    ]
    first_run = dict(configuration.flatten(configuration.first_run(task)))
    for name, field in configuration.fields_of(task).items():
        differs = first_run[name] != field.default
        bracket = f"  [{first_run[name]!r}]" if differs else ""
        lines += [f"  {name} = {field.default!r}{bracket}"]
        for text in (field.meaning, field.expected):
            lines += textwrap.wrap(text, 94, initial_indent=_INDENT, subsequent_indent=_INDENT)
    return "\n".join([*lines, "", _ENVIRONMENT, "", _INSTALLING])
