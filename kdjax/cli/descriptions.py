"""What the commands are for: their summaries and descriptions, as --help shows them."""

from typing import NamedTuple


class Description(NamedTuple):
    """The help texts of a command: one line, and one page."""

    summary: str
    text: str


DESCRIPTIONS: dict[str, Description] = {
    "train": Description(
        "train a student ensemble and its baselines, and compare them",
        """\
Trains students of several widths at once, distilled from their own average, and the
same students each by itself; prints how much each gained by distillation.

  kdjax train
  kdjax train --config=configs/cifar10_resnet20.py --workdir=runs/c10
  kdjax train --config.weights.soft=0.3 --config.seeds='(0,)' --workdir=runs/soft3

Running the same command again continues an unfinished run, or shows the results of a
finished one.""",
    ),
    "search": Description(
        "find a compact structure under a budget, distil it, and compare",
        """\
Trains a teacher, learns which of its channels are worth their cost until the network
meets a budget, builds the smaller network, distils it from the teacher, and compares it
with the same structure trained alone and with uniform thinning at equal budget.

  kdjax search
  kdjax search --config.search.target.params=0.3 --workdir=runs/third
  kdjax search --config=configs/search_cifar10_resnet56.py --workdir=runs/r56 \\
    --config.search.target.flops=0.5 --config.search.target.params=0.4

Running the same command again continues at the stage where it stopped. The structure
that a search finds can be a student of an online ensemble:

  kdjax train --config.student_widths='("W/full.json", "W/widths.json")'

with W the workdir of the search.""",
    ),
    "distill": Description(
        "distil students from any teacher, and compare them with the same ones alone",
        """\
Trains students of any network and widths from labels and from a fixed teacher of any
network, and the same students alone; prints how much they gain from the teacher. The
teacher is trained first, or taken from a workdir of any command.

  kdjax distill
  kdjax distill --config.teacher.workdir=runs/c10 --config.teacher.student=1 \\
    --config.data.name=cifar10 --config.network=mobilenet_v2 --workdir=runs/m2
  kdjax distill --config=configs/distill_cifar100.py:resnet56_resnet20 \\
    --workdir=runs/r56r20

With several teachers, the students learn from the average of their logits:

  --config.teacher.workdir='("runs/a", "runs/b")'

Terms that read feature maps pair the blocks of student and teacher by depth. All blocks
of the network with fewer blocks are paired with evenly spaced blocks of the other; the
last block is paired with the last. 1x1 convolutions bring a student's maps to the
teacher's channels, and the larger map is averaged to the size of the smaller. Running
the same command again continues at the stage where it stopped.""",
    ),
    "prepare": Description(
        "download and prepare a TFDS set as array_record",
        """\
Downloads a TensorFlow Datasets set and writes it in the format that kdjax reads
without TensorFlow. Preparing itself needs TensorFlow and an internet connection:

  pip install ".[prepare]"
  kdjax prepare cifar100""",
    ),
    "evaluate": Description(
        "evaluate the networks of a finished or running experiment",
        """\
Restores the checkpoints of an experiment and evaluates its networks, each as it
would be deployed, on a whole split. Prints accuracy over seeds and of each class, and
draws confusion matrices into report/confusion in the workdir.

  kdjax evaluate --workdir=kdjax-runs/digits-resnet8 --student=3
  kdjax evaluate --workdir=runs/mine --data=/new/place/images --out=mine.json
  kdjax evaluate --workdir=runs/mine --other_data=photos/of/this/year""",
    ),
    "predict": Description(
        "classify images with a trained student",
        """\
Classifies image files with one network of a workdir. Images are preprocessed as in its
evaluation. The data that the network was trained on is not needed.

  kdjax predict --workdir=kdjax-runs/digits-resnet8 --student=3 seven.png scans/
  kdjax predict --workdir=runs/found --student=compact --out=classes.csv 'in/*.jpg'""",
    ),
    "export": Description(
        "write a trained student to a file for programs without kdjax",
        """\
Writes one network of a workdir to a file, and a description of its input and output to
the same name with .json added. FILE.onnx and FILE.jaxexport are programs with parameters
and normalisation inside, for any batch of uint8 images. FILE.onnx computes in float32 and
runs in ONNX Runtime (`pip install onnxruntime`). FILE.jaxexport runs in JAX (`pip install
jax flatbuffers`), on CPUs, NVIDIA GPUs and TPUs; JAX releases of the next six months can
load it. FILE.npz and FILE.safetensors hold the arrays only, for longer storage.

  kdjax export --workdir=kdjax-runs/digits-resnet8 --student=3 --out=three.onnx
  kdjax export --workdir=runs/found --student=compact --out=found.npz""",
    ),
    "import-torch": Description(
        "import trained parameters of torchvision's network of the same name",
        """\
Reads parameters with torchvision's names and writes a workdir with that network, as
if `kdjax train` had started there. You can then evaluate it, predict with it, continue
to train it (the same --config fields with method=independent and
student_scales='(1.0,)'), or use it as the teacher of a search. The classes are in the
order of the data, and images are normalised with the mean and deviation of the data.

  kdjax import-torch --config.network=resnet50 --weights=resnet50.npz \\
    --config.data.name=imagenet2012 --config.data.memory=stream \\
    --config.data.image_size='(224, 224)' --workdir=runs/resnet50
  kdjax import-torch --config=configs/custom_folder.py:flowers \\
    --config.network=mobilenet_v2_imagenet --config.network_width=1.0 \\
    --weights=mobilenet_v2.safetensors --new_classifier --workdir=runs/start

PyTorch writes such a file with

  numpy.savez('resnet50.npz', **{k: v.numpy() for k, v in net.state_dict().items()})""",
    ),
    "bench": Description(
        "measure training speed, start-up and memory on this machine",
        """\
Measures the full training step of a student ensemble on generated images, for every
combination of the values given (separated by commas), in turns; prints images/s
beside the limit that the device's measured bandwidth and arithmetic allow.

  kdjax bench
  kdjax bench --network=resnet20,resnet110 --batch=128,512 --dtype=float32,bfloat16
  kdjax bench --choose --network=resnet20
  kdjax bench --layers --network=resnet20 --batch=1

--choose measures all executions, or those of --execution, and records the fastest,
which --config.compute.execution=auto then takes on this machine. --layers times each
layer of one network at several widths, for `kdjax search` with
--config.search.target.flops=0 --config.search.target.latency=0.5
--config.search.latency_table=FILE.""",
    ),
    "plan": Description(
        "compile the training step for accelerators that are not here, and analyse it",
        """\
Compiles the very step that `kdjax train` would run, for GPUs and TPUs that need not
be there. Prints whether it compiles and fits into memory, how many kernels it launches,
how many bytes it moves, what it computes, and an estimate of its speed. Nothing is
measured.

  kdjax plan --config=configs/cifar10_resnet20.py --target=h200,v5e \\
    --executions=sequential,merged --batches=128,512 --config.compute.dtype=bfloat16
  kdjax plan --target=a100:4 --images=50000 --image_size=32 --classes=10

Needs the compiler of each target, best in a virtual environment of its own:
  pip install ".[cuda]"   for GPUs (5 GB)
  pip install ".[tpu]"    for TPUs (0.7 GB; compiling takes minutes)

Targets: h200, h100, a100, a100-40, each with :N for N GPUs; v4, v5e, v5p, v6e for
one chip, v5e:2x2 and the like for several of one host.""",
    ),
}
