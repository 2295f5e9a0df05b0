"""Several processes that train one experiment together, each with its own devices.

All processes run the same program on the same configuration. Only the first process reads and
writes the workdir. With the functions here it sends the others what it has read, and each process
tells the others about its errors. With a single process, the functions do not communicate.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np

T = TypeVar("T")

# Seconds without a heartbeat after which a process counts as dead.
_HEARTBEAT = 30


class ProcessError(ValueError):
    """An error of another process, or different values; the message names the process."""


def start(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Joins the processes of an experiment, before any other use of JAX.

    Args:
      coordinator: ``host:port`` of the first process, which all processes can reach; ``auto``: the
        address comes from the cluster (TPU pods, SLURM, Open MPI); empty: as ``auto`` if the
        environment names a cluster with several processes, otherwise no processes are joined.
      num_processes: the number of processes, if ``coordinator`` is an address.
      process_id: the index of this process, from 0, if ``coordinator`` is an address.

    Raises:
      ProcessError: if the arguments are incomplete, or the other processes cannot be reached.
    """
    explicit = coordinator not in ("", "auto")
    given = num_processes > 0 or process_id >= 0
    if given and not explicit:
        raise ProcessError("--num_processes and --process_id need --coordinator=host:port")
    if explicit and not (num_processes > 0 and 0 <= process_id < num_processes):
        raise ProcessError(
            f"--coordinator is {coordinator!r}, --num_processes {num_processes}, --process_id "
            f"{process_id}: the id must be at least 0 and below the number of processes"
        )
    host, _, port = coordinator.rpartition(":")
    if explicit and not (host and port.isdecimal()):
        raise ProcessError(f"--coordinator is {coordinator!r}: expected host:port, or auto")
    if not explicit and coordinator != "auto" and not is_multi_process(os.environ):
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


def is_multi_process(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that this is one of several processes."""
    sizes = (environment.get(name, "") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    return (
        any(size.isdecimal() and int(size) > 1 for size in sizes)
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or bool(environment.get("MEGASCALE_COORDINATOR_ADDRESS"))
        or bool(environment.get("JAX_COORDINATOR_ADDRESS"))
    )


def count() -> int:
    """The number of processes."""
    return jax.process_count()


def index() -> int:
    """The index of this process, from 0."""
    return jax.process_index()


def is_first() -> bool:
    """Whether this is the first process, which reads and writes the workdir."""
    return index() == 0


def gather(value: Any) -> list[Any]:
    """Collects a JSON value from every process, in order; every process gets the whole list."""
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
    """Runs ``action()`` in every process; if it raises in one process, all processes raise.

    Raises:
      ProcessError: if another process failed; an error of this process is raised unchanged.
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
    """Runs ``action()`` in the first process only; every process gets its JSON result or error."""
    result = in_all(lambda: action() if is_first() else None)
    return result if count() == 1 else gather(result)[0]  # type: ignore[return-value]


def on_first_unshared(action: Callable[[], object]) -> None:
    """Runs ``action()`` in the first process only. All get its error; the result is dropped."""
    in_all(lambda: action() if is_first() else None)


def broadcast(tree: Any) -> Any:
    """Sends the first process's host arrays to all processes.

    The other processes pass arrays of the same shapes.
    """
    if count() == 1:
        return tree
    from jax.experimental import multihost_utils

    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    # Send one array instead of thousands, each of which would need its own program.
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


def check_equal(values: Mapping[str, Any]) -> None:
    """Checks that all processes have the same values.

    Args:
      values: JSON values, by the names that an error message uses.

    Raises:
      ProcessError: in all processes, for the first value that differs from the one in process 0;
        the message names the value and the process.
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


def exit_now(status: int) -> NoReturn:
    """Ends this process at once; a normal exit would wait for processes that no longer run."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
