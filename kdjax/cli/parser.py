"""The commands, their flags and their help."""

import argparse
import textwrap
from collections.abc import Callable, Sequence

import kdjax
from kdjax import config as configuration
from kdjax.cli import commands, deployed
from kdjax.cli.deployed import add_evaluate_options, add_predict_options
from kdjax.cli.imported import add_import_options, import_torch

_INDENT = " " * 6
_ENVIRONMENT = """\
environment variables:
  KDJAX_CACHE
      where decoded images, compiled programs and measured speeds are kept; default:
      $XDG_CACHE_HOME/kdjax, else ~/.cache/kdjax
  KDJAX_TUNE
      0: leave the environment as it is; else what is not set yet of JAX_COMPILATION_CACHE_DIR,
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS and, on a CPU, XLA_FLAGS and GLIBC_TUNABLES is set
  KDJAX_TRACEBACK
      anything: where an error stands in the code
  TFDS_DATA_DIR
      where prepared TFDS sets lie, unless data.data_dir says so; default: ~/tensorflow_datasets
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
  pip install ".[torch-import]"   for .safetensors files in `kdjax import-torch`"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdjax",
        description="Compress convolutional networks by knowledge distillation.",
        epilog="Start with `kdjax train`: five students on real digits in minutes, on a CPU.",
    )
    parser.add_argument("--version", action="version", version=f"kdjax {kdjax.__version__}")
    added_commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str,
        run: Callable[[argparse.Namespace, Sequence[str]], int],
        summary: str,
        description: str,
        epilog: str = "",
    ) -> argparse.ArgumentParser:
        added = added_commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(run=run)
        return added

    train = command(
        "train",
        commands.train,
        "train a student ensemble and its baselines, and compare them",
        "Trains students of several widths at once, distilled from their own average, and the\n"
        "same students each by itself; prints what distillation gained each of them.\n\n"
        "  kdjax train\n"
        "  kdjax train --config=configs/cifar10_resnet20.py --workdir=runs/c10\n"
        "  kdjax train --config.weights.soft=0.3 --config.seeds='(0,)' --workdir=runs/soft3\n\n"
        "The same command again continues an unfinished run, and shows a finished one.",
        _describe_fields("train"),
    )
    _add_config_and_workdir(train, "kdjax-runs/<dataset>-<network>")
    _add_processes(train)

    search = command(
        "search",
        commands.search,
        "find a compact structure under a budget, distil it, and compare",
        "Trains a teacher, learns which of its channels are worth their cost until the network\n"
        "meets a budget, builds the smaller network, distils it from the teacher, and compares it\n"
        "with the same structure trained alone and with uniform thinning at equal budget.\n\n"
        "  kdjax search\n"
        "  kdjax search --config.search.target.params=0.3 --workdir=runs/third\n"
        "  kdjax search --config=configs/search_cifar10_resnet56.py --workdir=runs/r56 \\\n"
        "    --config.search.target.flops=0.5 --config.search.target.params=0.4\n\n"
        "The same command again continues at whatever stage it was in. The structure it finds can\n"
        "be a student of an online ensemble:\n\n"
        '  kdjax train --config.student_widths=\'("W/full.json", "W/widths.json")\'\n\n'
        "with W the workdir of the search.",
        _describe_fields("search"),
    )
    _add_config_and_workdir(search, "kdjax-runs/search-<dataset>-<network>")
    _add_processes(search)

    distill = command(
        "distill",
        commands.distill,
        "distil students from any teacher, and compare them with the same ones alone",
        "Trains students of any network and widths from labels and from a fixed teacher of any\n"
        "other, and the same students alone; prints what the teacher was worth to them. The\n"
        "teacher is trained first, or taken from a workdir of any command.\n\n"
        "  kdjax distill\n"
        "  kdjax distill --config.teacher.workdir=runs/c10 --config.teacher.student=1 \\\n"
        "    --config.data.name=cifar10 --config.network=mobilenet_v2 --workdir=runs/m2\n"
        "  kdjax distill --config=configs/distill_cifar100.py:resnet56_resnet20 \\\n"
        "    --workdir=runs/r56r20\n\n"
        "Several teachers teach by their averaged logits:\n\n"
        '  --config.teacher.workdir=\'("runs/a", "runs/b")\'\n\n'
        "Terms that read feature maps pair blocks by depth: all of the network that has fewer,\n"
        "evenly spaced ones of the other, the last with the last. 1x1 convolutions bring a\n"
        "student's maps to the teacher's channels, and the larger map is averaged to the size of\n"
        "the smaller. The same command again continues at whatever stage it was in.",
        _describe_fields("distill"),
    )
    _add_config_and_workdir(distill, "kdjax-runs/distill-<dataset>-<network>")
    _add_processes(distill)

    add_evaluate_options(
        command(
            "evaluate",
            deployed.evaluate,
            "evaluate the networks of a finished or running experiment",
            "Restores the checkpoints of an experiment and evaluates its networks, each as it\n"
            "would be deployed, on a whole split: accuracy over seeds and of each class; figures\n"
            "of what is taken for what go to the workdir's report/confusion.\n\n"
            "  kdjax evaluate --workdir=kdjax-runs/digits-resnet8 --student=3\n"
            "  kdjax evaluate --workdir=runs/mine --data=/new/place/images --out=mine.json\n"
            "  kdjax evaluate --workdir=runs/mine --other_data=photos/of/this/year",
        )
    )
    add_predict_options(
        command(
            "predict",
            deployed.predict,
            "classify images with a trained student",
            "Classifies image files with one network of a workdir, treated as in its evaluation.\n"
            "The data it was trained on is not needed.\n\n"
            "  kdjax predict --workdir=kdjax-runs/digits-resnet8 --student=3 seven.png scans/\n"
            "  kdjax predict --workdir=runs/found --student=compact --out=classes.csv 'in/*.jpg'",
        )
    )

    add_import_options(
        command(
            "import-torch",
            import_torch,
            "take parameters that torchvision's network of the same name was trained to",
            "Reads parameters with torchvision's names and writes a workdir with that network, as\n"
            "if `kdjax train` had begun there: to evaluate it, to predict with it, to train it on\n"
            "(the same --config fields with method=independent and student_scales='(1.0,)'), or\n"
            "to have it as the teacher of a search. Classes are in the order of the data, and\n"
            "images are normalised as the data is here.\n\n"
            "  kdjax import-torch --config.network=resnet50 --weights=resnet50.npz \\\n"
            "    --config.data.name=imagenet2012 --config.data.memory=stream \\\n"
            "    --config.data.image_size='(224, 224)' --workdir=runs/resnet50\n"
            "  kdjax import-torch --config=configs/custom_folder.py:flowers \\\n"
            "    --config.network=mobilenet_v2_imagenet --config.network_width=1.0 \\\n"
            "    --weights=mobilenet_v2.safetensors --new_classifier --workdir=runs/start\n\n"
            "PyTorch writes such a file with\n\n"
            "  numpy.savez('resnet50.npz', **{k: v.numpy() for k, v in net.state_dict().items()})",
        )
    )

    _add_bench_options(
        command(
            "bench",
            commands.bench,
            "measure training speed, start-up and memory on this machine",
            "Measures the full training step of a student ensemble on generated images, for every\n"
            "combination of the values given (separated by commas), in turns; prints images/s\n"
            "beside the limit that the device's measured bandwidth and arithmetic allow.\n\n"
            "  kdjax bench\n"
            "  kdjax bench --network=resnet20,resnet110 --batch=128,512 --dtype=float32,bfloat16\n"
            "  kdjax bench --choose --network=resnet20\n"
            "  kdjax bench --layers --network=resnet20 --batch=1\n\n"
            "--choose measures all executions and records the fastest, which\n"
            "--config.compute.execution=auto then takes on this machine. --layers times each\n"
            "layer of one network at several widths, for `kdjax search` with\n"
            "--config.search.target.flops=0 --config.search.target.latency=0.5\n"
            "--config.search.latency_table=FILE.",
        )
    )

    _add_plan_options(
        command(
            "plan",
            commands.plan,
            "compile the training step for accelerators that are not here, and count it",
            "Compiles the very step that `kdjax train` would run, for GPUs and TPUs that need not\n"
            "be there: does it compile, does it fit, how many kernels it launches, how many bytes\n"
            "it moves, what it computes, and an estimate of its speed. Nothing is measured.\n\n"
            "  kdjax plan --config=configs/cifar10_resnet20.py --target=h200,v5e \\\n"
            "    --executions=sequential,merged --batches=128,512 --config.compute.dtype=bfloat16\n"
            "  kdjax plan --target=a100:4 --images=50000 --image_size=32 --classes=10\n\n"
            "Needs the compiler of each target, best in a virtual environment of its own:\n"
            '  pip install ".[cuda]"   for GPUs (5 GB)\n'
            '  pip install ".[tpu]"    for TPUs (.7 GB; compiles slowly: minutes)\n\n'
            "Targets: h200, h100, a100, a100-40, each with :N for N GPUs; v4, v5e, v5p, v6e for\n"
            "one chip, v5e:2x2 and the like for several of one host.",
        )
    )

    prepare = command(
        "prepare",
        commands.prepare,
        "download and prepare a TFDS set as array_record",
        "Downloads a TensorFlow Datasets set and writes it in the format that kdjax reads\n"
        "without TensorFlow. Preparing itself needs TensorFlow and the network:\n\n"
        '  pip install ".[prepare]"\n'
        "  kdjax prepare cifar100",
    )
    prepare.add_argument("name", help="as in the TFDS catalogue: cifar10, svhn_cropped, ...")
    prepare.add_argument(
        "--data_dir",
        default="",
        metavar="DIR",
        help="default: $TFDS_DATA_DIR, else ~/tensorflow_datasets",
    )
    return parser


def _add_config_and_workdir(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--config",
        default="",
        metavar="FILE.py[:ARG]",
        help="a Python file with get_config(); default: the embedded digits",
    )
    command.add_argument(
        "--workdir",
        default="",
        metavar="DIR",
        help=f"where everything is written; default: {default}",
    )


def _add_processes(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group(
        "several processes", "found by themselves on TPU pods, under SLURM and Open MPI"
    )
    group.add_argument(
        "--coordinator",
        default="",
        metavar="HOST:PORT",
        help="of the first process, the same for all; auto: ask the cluster",
    )
    group.add_argument("--num_processes", type=int, default=0, metavar="N", help="how many")
    group.add_argument(
        "--process_id", type=int, default=-1, metavar="I", help="which one this is, from 0"
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


def _size(text: str) -> tuple[int, int]:
    """``32`` or ``24x32``, height and width."""
    sides = tuple(int(side) for side in text.split("x"))
    if len(sides) not in (1, 2):
        raise ValueError
    return sides[0], sides[-1]


def _add_plan_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        default="",
        metavar="FILE.py[:ARG]",
        help="a Python file with get_config(), as for train; default: the embedded digits",
    )
    for name, kind, metavar, meaning in (
        ("target", _words, "A,B", "what to compile for, such as h200,a100:4,v5e:2x2"),
        ("executions", _words, "A,B", "in place of config.compute.execution, to compare"),
        ("batches", _numbers, "A,B", "in place of config.batch_size, to compare"),
    ):
        command.add_argument(
            f"--{name}",
            type=kind,
            default=(),
            required=name == "target",
            metavar=metavar,
            help=meaning,
        )
    for name, meaning in (
        ("images", "training images, where the data is not on this machine; with:"),
        ("image_size", "their height and width in pixels"),
        ("classes", "how many there are"),
    ):
        command.add_argument(f"--{name}", type=int, default=0, metavar="N", help=meaning)
    command.add_argument(
        "--out", default="", metavar="FILE.json", help="writes all numbers there too"
    )


def _add_bench_options(command: argparse.ArgumentParser) -> None:
    words, numbers = _words, _numbers
    for name, kind, default, meaning in (
        ("network", words, "resnet8", "names of networks"),
        ("batch", numbers, "64", "images a step, over all devices"),
        ("dtype", words, "float32", "float32, bfloat16"),
        ("execution", words, "", "strategies; default: auto,sequential,scanned"),
        ("devices", numbers, "1", "numbers of devices"),
        ("students", numbers, "5", "numbers of students"),
        ("remat", numbers, "0", "1: compute blocks again in the backward pass"),
    ):
        text = f"{meaning}; default: {default}" if default else meaning
        command.add_argument(
            f"--{name}", type=kind, default=kind(default), help=text, metavar="A,B"
        )
    for name, number, meaning in (
        ("rounds", 5, "turns of each"),
        ("classes", 10, "of the generated images"),
        ("image_channels", 3, "with --layers: 1 or 3"),
    ):
        command.add_argument(f"--{name}", type=int, default=number, help=f"{meaning}; {number}")
    command.add_argument(
        "--image_size",
        type=_size,
        default=(32, 32),
        metavar="N",
        help="in pixels; 32. With --layers also height x width: 24x32",
    )
    for name, meaning in (
        ("choose", "record the fastest execution"),
        ("cached", "use programs compiled earlier, as a second start"),
        ("layers", "time each layer, for a search by latency; one network, batch and dtype"),
    ):
        command.add_argument(f"--{name}", action="store_true", help=meaning)
    command.add_argument(
        "--network_width", type=float, default=1.0, help="with --layers: factor of widths; 1"
    )
    out = "default: kdjax-runs/bench.json, with --layers kdjax-runs/latency.json"
    command.add_argument("--out", default="", metavar="FILE.json", help=out)


def _describe_fields(task: configuration.Task) -> str:
    lines = [
        "fields (--config.NAME=VALUE), with default, meaning and what they may be; [in brackets]",
        "what the recipe for the embedded digits has, which is run where no --config is given:",
    ]
    first_run = dict(configuration.flatten(configuration.first_run(task)))
    for name, field in configuration.fields_of(task).items():
        differs = first_run[name] != field.default
        bracket = f"  [{first_run[name]!r}]" if differs else ""
        lines += [f"  {name} = {field.default!r}{bracket}", f"      {field.meaning}"]
        lines += textwrap.wrap(
            field.expected, 94, initial_indent=_INDENT, subsequent_indent=_INDENT
        )
    return "\n".join([*lines, "", _ENVIRONMENT, "", _INSTALLING])
