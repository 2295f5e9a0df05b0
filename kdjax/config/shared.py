"""The fields that all tasks share, in groups; the table of each command is built from them."""

from kdjax.config.fields import Field, is_count, is_number, number, one_of, tuple_of

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("constant", "step", "cosine", "exponential")
EXECUTIONS = (
    "auto",
    "sequential",
    "scanned",
    "packed",
    "packed_scanned",
    "merged",
    "merged_scanned",
)
# Shown by --help. The models are not imported here; a test compares this list with theirs.
NETWORKS = (
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "mobilenet_v2",
    "mobilenet_v2_imagenet",
    *("vgg8_bn", "vgg13_bn", "vgg16_bn", "vgg16_bn_imagenet"),
    *("wrn_16_2", "wrn_40_1", "wrn_40_2", "wrn_28_10"),
    *("densenet_bc_100_12", "densenet_bc_190_40", "densenet_bc_250_24", "densenet121"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
    *(f"efficientnet_b{number}" for number in range(8)),
)

SEEDS: dict[str, Field] = {
    "seeds": tuple_of(
        (0, 1, 2),
        "one run per seed and method; results are means over the seeds",
        "different whole numbers from 0 to 4294967295",
        lambda value: is_count(value) and value < 1 << 32,
        lambda n: n > 0,
        resumable=True,
    ),
}

NETWORK: dict[str, Field] = {
    "network": Field(
        "resnet8",
        "family and depth of the network",
        f"one of {', '.join(NETWORKS)}, or your own, file.py:function",
    ),
    "network_width": number(
        1.0, "factor for every full width, including the stem's", 0, 16, above=True
    ),
}

DATA: dict[str, Field] = {
    "data.name": Field(
        "digits",
        "digits, a TFDS name, tfds:<prepared dir>, npz:<file> or folder:<dir>",
        "a name",
        lambda value: value != "",
    ),
    "data.data_dir": Field(
        "", "directory of prepared TFDS sets; empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets"
    ),
    "data.validation": number(
        0.1,
        "share of train held out for validation where the source has no validation split",
        0,
        1,
        below=True,
    ),
    "data.test": number(
        0.2,
        "share held out for test where the source has no test split",
        0,
        1,
        above=True,
        below=True,
    ),
    "data.split_seed": number(0, "decides which examples are held out", 0),
    "data.labels_per_class": number(
        0, "how many labelled images of each class to train on; 0: all", 0
    ),
    "data.memory": one_of(
        "device",
        "where images are kept: all on every device, or on disk, read for every batch (stream)",
        "device",
        "stream",
    ),
    "data.resized_crop": Field(
        True, "with data.memory=stream: train on random crops of 8 to 100 % of the image, resized"
    ),
    "data.workers": number(
        0,
        "with data.memory=stream: how many processes decode images; 0: threads of this process. "
        "Each process imports a script that trains, which then needs `if __name__ == '__main__':`",
        0,
        256,
        resumable=True,
    ),
    "data.threads": number(
        0,
        "with data.memory=stream and no data.workers: how many threads read and decode images; 0: "
        "two for each core, at most 16. More are faster where reading is slow",
        0,
        256,
        resumable=True,
    ),
    "data.skip_corrupt": Field(
        False, "leave out images that do not decode, with a warning, instead of stopping"
    ),
    "data.image_size": tuple_of(
        (0, 0),
        "(height, width) to which images of folders and TFDS sets are resized; with "
        "data.memory=stream, the size of the crops; (0, 0): keep sizes, which must be equal",
        "two whole numbers, both 0 or both from 8 to 4096",
        lambda value: is_count(value) and value <= 4096,
        lambda n: n == 2,
    ),
    "data.crop_padding": number(
        1,
        "pixels of zeros around the image before a random crop; with data.memory=stream, used "
        "only without data.resized_crop",
        0,
    ),
    "data.flip": Field(False, "flip half of the training images left to right"),
    "data.mixup": number(
        0.0,
        "mix each training image and label with a random one on the same device, in shares drawn "
        "from Beta(a, a), where a is this value; 0: no mixup; terms and rules that need one class "
        "take the likeliest",
        0,
    ),
    "data.cutmix": number(
        0.0,
        "like data.mixup, but a box of the image is replaced by the same box of the other one; "
        "0: no cutmix; with both, each step does one of them",
        0,
    ),
}

LABELS_AND_LOGITS: dict[str, Field] = {
    "label_smoothing": number(
        0.0, "label smoothing, for distilled networks and those trained alone", 0, 1, below=True
    ),
    "standardize_logits": Field(
        False, "use z-scores in place of logits in all terms that compare logits (LSKD, CVPR 2024)"
    ),
}

OPTIMIZATION: dict[str, Field] = {
    "batch_size": number(64, "images per step, over all devices", 1),
    "optimizer.name": one_of("sgd", "optimiser", *OPTIMIZERS),
    "optimizer.momentum": number(0.9, "momentum, in sgd and rmsprop", 0, 1, below=True),
    "optimizer.nesterov": Field(True, "Nesterov momentum, in sgd"),
    "optimizer.b1": number(0.9, "decay of the first moment, in adam and adamw", 0, 1, below=True),
    "optimizer.b2": number(
        0.999, "decay of the second moment, in adam, adamw and rmsprop", 0, 1, below=True
    ),
    "optimizer.eps": number(
        1e-8, "added to the root of the second moment; in rmsprop, under the root", 0, above=True
    ),
    "optimizer.weight_decay": number(
        1e-4, "weight decay of kernels, not of scales and biases; decoupled in adamw only", 0
    ),
    "optimizer.clip_norm": number(
        0.0, "largest gradient norm (for each baseline separately); 0: no clipping", 0
    ),
    "schedule.name": one_of("cosine", "learning rate schedule", *SCHEDULES),
    "schedule.learning_rate": number(0.1, "peak learning rate", 0, above=True),
    "schedule.warmup_epochs": number(
        1.0, "epochs of linear rise to the peak; half the run if the run is not longer than that", 0
    ),
    "schedule.boundaries": tuple_of(
        (0.5, 0.75),
        "step: where the rate drops, as shares of all epochs",
        "increasing numbers above 0 and below 1",
        lambda value: is_number(value) and 0 < value < 1,
    ),
    "schedule.factor": number(
        0.1, "step, exponential: factor of the rate at each drop", 0, 1, above=True
    ),
    "schedule.every_epochs": number(1.0, "exponential: epochs between two drops", 0, above=True),
    "schedule.final": number(0.0, "cosine: last rate relative to the peak", 0, 1),
}

RUNNING: dict[str, Field] = {
    "compute.dtype": one_of(
        "float32",
        "dtype in which networks compute; parameters, statistics and losses stay float32",
        "float32",
        "bfloat16",
    ),
    "compute.batch_norm": one_of(
        "device",
        "batch statistics are over the examples of each device, or of all devices (global)",
        "device",
        "global",
    ),
    "compute.batch_losses": one_of(
        "device",
        "losses that compare examples of a batch use those of one device, or of all (global)",
        "device",
        "global",
    ),
    "compute.devices": number(0, "how many devices to use; 0: all", 0, resumable=True),
    "compute.execution": one_of(
        "auto",
        "how the students run, with the same results up to rounding. sequential: one after "
        "another; packed: in pairs, each as one wider network; merged: all as one network; "
        "scanned: equal blocks in a loop; auto: the fastest known",
        *EXECUTIONS,
        resumable=True,
    ),
    "compute.lanes": number(
        1,
        "pad the channels of every map to a multiple of this",
        1,
        1024,
        resumable=True,
    ),
    "compute.remat": Field(
        False, "recompute blocks in the backward pass instead of storing them", resumable=True
    ),
    "compute.steps_per_dispatch": number(
        0, "training steps in one compiled call; 0: chosen for the backend", 0, resumable=True
    ),
    "faults.non_finite": one_of(
        "stop",
        "when a loss, a gradient or a statistic is NaN or infinite: stop; skip the step; or roll "
        "back to the last checkpoint and go on with other batches",
        "stop",
        "skip",
        "rollback",
        resumable=True,
    ),
    "faults.limit": number(
        10,
        "largest number of skipped steps in a row, or of rollbacks; beyond it the run stops",
        1,
        resumable=True,
    ),
    "evaluation.every_epochs": number(3, "epochs between evaluations on validation", 1),
    "evaluation.batch_size": number(180, "images per step in evaluation", 1, resumable=True),
    "evaluation.select": one_of(
        "last",
        "which checkpoint the results are from: the last, or the one with the best mean validation "
        "accuracy of all networks that train together",
        "last",
        "best",
    ),
    "checkpoint.every_epochs": number(5, "epochs between checkpoints", 1, resumable=True),
    "checkpoint.keep": number(2, "how many of the latest checkpoints to keep", 1, resumable=True),
    "log.every_steps": number(
        50,
        "steps averaged in a line of metrics.jsonl; the last line of an epoch may have fewer",
        1,
        resumable=True,
    ),
    "log.tensorboard": Field(True, "write TensorBoard events", resumable=True),
    "log.progress": Field(True, "show a progress bar on a terminal", resumable=True),
}
