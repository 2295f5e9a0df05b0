"""`kdjax bench`: measures all combinations of workloads in turns, and chooses a strategy."""

import dataclasses
import itertools
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from kdjax import atomic, machine, models
from kdjax.bench.measure import Trial
from kdjax.bench.rates import measure_rates, together
from kdjax.bench.workload import Workload
from kdjax.models.execution import EXECUTIONS
from kdjax.records import check_output, made_with
from kdjax.train.program import execution_choice

KIND = "kdjax bench"  # Marks the files that this command writes.


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure: every combination of the values in the sequences.

    Attributes:
      networks, batch_sizes, dtypes, executions, devices, students, remat: as in
        :class:`kdjax.bench.Workload`. ``students`` is how many of the factors 1, .8, .6, .4, .2 are
        used (a single student is trained alone); ``remat`` is 0 or 1.
      rounds: the number of turns of each workload.
      classes, image_size: number of classes and size of the generated images.
      choose: whether to record the fastest strategy for `auto`; without ``executions`` all are
        measured.
      cached: whether to take compiled programs from the cache, as a second start does.
    """

    networks: Sequence[str] = ("resnet8",)
    batch_sizes: Sequence[int] = (64,)
    dtypes: Sequence[str] = ("float32",)
    executions: Sequence[str] = ()
    devices: Sequence[int] = (1,)
    students: Sequence[int] = (5,)
    remat: Sequence[int] = (0,)
    rounds: int = 5
    classes: int = 10
    image_size: int = 32
    choose: bool = False
    cached: bool = False

    def workloads(self) -> list[Workload]:
        """Returns the combinations, after checking them.

        Raises:
          ValueError: if a value is not allowed.
        """
        self._check()
        executions = self.executions or (
            EXECUTIONS if self.choose else ("auto", "sequential", "scanned")
        )
        found = []
        for network, batch, dtype, devices, count, remat in itertools.product(
            self.networks,
            self.batch_sizes,
            self.dtypes,
            self.devices,
            self.students,
            self.remat,
        ):
            known = ("auto", *models.create(network, 2).executions)
            for execution in executions:
                if execution not in known and not self.executions:
                    continue  # A family skips default executions that it does not have.
                workload = Workload(
                    network,
                    batch,
                    dtype,
                    execution,
                    devices,
                    (1.0, 0.8, 0.6, 0.4, 0.2)[:count],
                    self.classes,
                    self.image_size,
                    method="ensemble" if count > 1 else "independent",
                    remat=bool(remat),
                )
                if execution not in known:
                    raise ValueError(
                        f"--execution is {execution}: {network} has {', '.join(known)}"
                    )
                workload.experiment(images=batch)  # This checks everything else.
                if batch % devices:
                    raise ValueError(f"--batch is {batch}: a multiple of the {devices} devices")
                found.append(workload)
        return found

    def _check(self) -> None:
        """Raises ValueError, with the name of the option, for values that fit no workload."""
        for name, value in (("rounds", self.rounds), ("classes", self.classes)):
            if value < 1 + (name == "classes"):
                raise ValueError(f"--{name} is {value}: at least {1 + (name == 'classes')}")
        if self.image_size < 8:
            raise ValueError(f"--image_size is {self.image_size}: at least 8")
        for count in self.students:
            if not 1 <= count <= 5:
                raise ValueError(f"--students is {count}: expected 1 to 5")
        for remat in self.remat:
            if remat not in (0, 1):
                raise ValueError(f"--remat is {remat}: 0 or 1")
        for name, values in (
            ("network", self.networks),
            ("batch", self.batch_sizes),
            ("dtype", self.dtypes),
            ("devices", self.devices),
            ("students", self.students),
            ("remat", self.remat),
        ):
            if not values:
                raise ValueError(f"--{name} is {values!r}: at least one value is needed")
        for count in self.devices:
            if count < 1:
                raise ValueError(f"--devices is {count}: at least 1")
        if self.choose and self.executions and len({*self.executions} - {"auto"}) < 2:
            raise ValueError(
                f"--execution is {','.join(self.executions)}: --choose compares at least two"
            )
        if self.choose and (*self.devices, *self.students, *self.remat) != (1, 5, 0):
            raise ValueError("--choose measures 1 device and 5 students, without --remat")


def bench(
    settings: Settings, path: Path, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Measures all workloads, writes the results as JSON, and returns them.

    Args:
      settings: what to measure.
      path: the file to write; a file that this command wrote before is replaced.
      say: called with progress messages.

    Raises:
      ValueError: for bad settings, or if something else wrote the file.
    """
    check_output(path, KIND)
    workloads = settings.workloads()
    jax.config.update("jax_enable_compilation_cache", settings.cached)
    rates = {dtype: measure_rates(jax.devices()[0], dtype) for dtype in settings.dtypes}
    trials = []
    for number, workload in enumerate(workloads, start=1):
        say(f"[{number}/{len(workloads)}] compiling {label(workload)}")
        trials.append(Trial(workload))
    for number in range(1, settings.rounds + 1):
        say(f"round {number}/{settings.rounds}")
        for trial in trials:
            trial.turn()
    say("evaluation and input")
    results = [
        trial.finish(
            together(rates[workload.dtype], workload.devices, jax.devices()[0].platform), trials[0]
        )
        for workload, trial in zip(workloads, trials, strict=True)
    ]
    record: dict[str, Any] = {
        "kind": KIND,
        "cached": settings.cached,
        "environment": environment(),
        "rates": {dtype: dataclasses.asdict(rate) for dtype, rate in rates.items()},
        "results": results,
    }
    if settings.choose:
        record["chosen"] = fastest(results)
        record["chosen_in"] = str(execution_choice.record(record["chosen"]))
    atomic.write_json(path, record)
    return record


def fastest(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the fastest strategy for each network, size and dtype; `auto` reads them."""
    device = jax.devices()[0]
    entries: dict[tuple[Any, ...], dict[str, Any]] = {}
    for result in results:
        what = result["workload"]
        if what["execution"] == "auto":
            continue
        fields = {name: what[name] for name in execution_choice.WORKLOAD_KEYS}
        entry = entries.setdefault(
            tuple(fields.values()),
            {"platform": device.platform, "device_kind": device.device_kind, **fields}
            | {"execution": "", "images_per_second": {}},
        )
        entry["images_per_second"][what["execution"]] = result["images_per_second"]["median"]
    for entry in entries.values():
        rates = entry["images_per_second"]
        entry["execution"] = max(rates, key=rates.get)
    return list(entries.values())


def label(workload: Workload) -> str:
    """Returns a short description of a workload."""
    return (
        f"{workload.network} x {len(workload.student_scales)}, batch {workload.batch_size}, "
        f"{workload.dtype}, {workload.execution}, {workload.devices} device(s)"
        + ", blocks recomputed"
        * workload.remat
    )


def environment() -> dict[str, Any]:
    """Returns the hardware, versions and command."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "cpu": machine.processor(),
        "cores": machine.usable_cores(),
        "python": platform.python_version(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
        **made_with(("jax", "jaxlib", "flax", "optax", "numpy")),
    }
