"""Processes: several of them train one experiment, each with its own devices.

All run the same program on the same configuration. The first one alone reads and writes the
workdir; whatever only it knows, and whatever one of them alone has met with, it tells the others
here. A process by itself passes through without a word.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np

T = TypeVar("T")

# Seconds after which a process that says nothing is taken for dead.
_HEARTBEAT = 30


class ProcessError(ValueError):
    """What another process has met with, or a disagreement; the message names the process."""


def start(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Joins the processes of an experiment, before any other use of JAX.

    Args:
      coordinator: ``host:port`` of the first process, reachable from all; ``auto``: as the cluster
        says (TPU pods, SLURM, Open MPI); empty: ``auto`` where the environment names a cluster
        with several processes, else nothing to join.
      num_processes: how many there are, if ``coordinator`` is an address.
      process_id: which one this is, from 0, if ``coordinator`` is an address.

    Raises:
      ProcessError: if the arguments are not enough, or the others cannot be reached.
    """
    explicit = coordinator not in ("", "auto")
    given = num_processes > 0 or process_id >= 0
    if given and not explicit:
        raise ProcessError("--num_processes and --process_id need --coordinator=host:port")
    if explicit and not (num_processes > 0 and 0 <= process_id < num_processes):
        raise ProcessError(
            f"--coordinator is {coordinator!r}, --num_processes {num_processes}, --process_id "
            f"{process_id}: allowed is an id from 0 to below the number of processes"
        )
    host, _, port = coordinator.rpartition(":")
    if explicit and not (host and port.isdecimal()):
        raise ProcessError(f"--coordinator is {coordinator!r}: allowed is host:port, or auto")
    if not explicit and coordinator != "auto" and not announced(os.environ):
        return
    settings: dict[str, Any] = {"heartbeat_timeout_seconds": _HEARTBEAT}
    if explicit:
        settings |= {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
        }
    try:
        jax.distributed.initialize(**settings)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ProcessError(f"the processes cannot be joined: {reason}") from None


def announced(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that this is one of several processes."""
    sizes = (environment.get(name, "") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    return (
        any(size.isdecimal() and int(size) > 1 for size in sizes)
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or bool(environment.get("MEGASCALE_COORDINATOR_ADDRESS"))
        or bool(environment.get("JAX_COORDINATOR_ADDRESS"))
    )


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def index() -> int:
    """Which one this is, from 0."""
    return jax.process_index()


def is_first() -> bool:
    """Whether this one reads and writes the workdir."""
    return index() == 0


def gather(value: Any) -> list[Any]:
    """A JSON value of every process, in their order, in every process."""
    if count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(len(content))))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(content)] = content
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(count(), -1)
    return [
        json.loads(row[:size].tobytes().decode()) for row, size in zip(rows, sizes, strict=True)
    ]


def in_all(action: Callable[[], T]) -> T:
    """``action()`` in every process; what one of them raises, none goes on from.

    Raises:
      ProcessError: if another process failed; this one's own error is raised as it is.
    """
    if count() == 1:
        return action()
    result, own = None, None
    try:
        result = action()
    except Exception as error:
        own = error
    failures = gather("" if own is None else str(own) or type(own).__name__)
    if own is not None:
        raise own
    for number, message in enumerate(failures):
        if message:
            raise ProcessError(f"process {number}: {message}")
    return result  # type: ignore[return-value]


def on_first(action: Callable[[], T]) -> T:
    """``action()`` in the first process alone; its JSON result, or its error, in all."""
    result = in_all(lambda: action() if is_first() else None)
    return result if count() == 1 else gather(result)[0]  # type: ignore[return-value]


def on_first_unshared(action: Callable[[], object]) -> None:
    """``action()`` in the first process alone; its error in all, its result nowhere."""
    in_all(lambda: action() if is_first() else None)


def broadcast(tree: Any) -> Any:
    """The first process's host arrays in every process; the others give arrays of equal shapes."""
    if count() == 1:
        return tree
    from jax.experimental import multihost_utils

    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    # One array instead of thousands, each of which would be a program of its own.
    content = np.frombuffer(b"".join(leaf.tobytes() for leaf in leaves), np.uint8)
    content = np.asarray(multihost_utils.broadcast_one_to_all(content))
    parts = np.split(content, np.cumsum([leaf.nbytes for leaf in leaves])[:-1])
    return jax.tree.unflatten(
        structure,
        [
            np.frombuffer(part.tobytes(), leaf.dtype).reshape(leaf.shape)
            for part, leaf in zip(parts, leaves, strict=True)
        ],
    )


def agree(values: Mapping[str, Any]) -> None:
    """Makes sure that all processes have the same values.

    Args:
      values: JSON values by the name an error gives them.

    Raises:
      ProcessError: in all of them, for the first that differs from process 0's; names the value
        and the process.
    """
    everyone = gather(dict(values))
    for number, others in enumerate(everyone[1:], start=1):
        for name in {**everyone[0], **others}:
            expected, found = everyone[0].get(name), others.get(name)
            if found != expected:
                raise ProcessError(
                    f"the processes differ: {name} is {found!r} in process {number}, "
                    f"{expected!r} in process 0"
                )


def leave(status: int) -> NoReturn:
    """Ends this process at once; an orderly end would wait for the ones that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
