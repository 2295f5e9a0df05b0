"""Finds the field that a user probably meant by an unknown name."""

import difflib
from collections.abc import Iterable

# Names that other libraries use for these fields.
_OTHER_NAMES = {
    "lr": "schedule.learning_rate",
    "base_lr": "schedule.learning_rate",
    "wd": "optimizer.weight_decay",
    "bs": "batch_size",
    "batch": "batch_size",
    "batchsize": "batch_size",
    "seed": "seeds",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "model": "network",
    "arch": "network",
    "net": "network",
    "dataset": "data.name",
    "data_name": "data.name",
    "optim": "optimizer.name",
    "opt": "optimizer.name",
    "scheduler": "schedule.name",
    "warmup": "schedule.warmup_epochs",
    "students": "student_scales",
    "flops": "search.target.flops",
    "params": "search.target.params",
    "latency": "search.target.latency",
    "workers": "data.workers",
    "num_workers": "data.workers",
    "gpus": "compute.devices",
    "precision": "compute.dtype",
    "t": "temperature",
}


def nearest(name: str, fields: Iterable[str]) -> str:
    """The field that was probably meant by ``name``; an empty string if none is similar."""
    fields = list(fields)
    leaf = name.split(".")[-1]
    other = _OTHER_NAMES.get(leaf.lower().replace("-", "_"), "")
    if other in fields and leaf not in fields:
        return other
    # The last part of the name is right but its section is wrong, or the name is misspelt.
    leaves = [known for known in fields if known.split(".")[-1] == leaf]
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.6)
    if near and (not leaves or near[0] in leaves):
        return near[0]
    return leaves[0] if leaves else ""
