"""A worker that trains with kdjax's compiled functions; the protocol is in ``worker.py``.

Command:  python experiments/throughput/kdjax_worker.py --network=resnet8 --batch=32
"""

import argparse
import dataclasses
import platform
from typing import Any

import options
import worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_job(parser)
    parser.add_argument("--execution", default="auto", help="a value of compute.execution")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--method", default="ensemble", choices=("ensemble", "independent"))
    parser.add_argument("--threads", type=int, default=0, help="cores to run on; 0: all")
    chosen = parser.parse_args()
    worker.limit_cores(chosen.threads)  # Before jax counts the cores.
    worker.serve(lambda: prepare(chosen))


def prepare(chosen: argparse.Namespace) -> tuple[worker.Run, dict[str, Any]]:
    """Returns the job, and the record that describes it."""
    import jax
    import jaxlib

    import kdjax
    from kdjax.bench.workload import Job, Workload

    scales = options.student_scales(chosen)
    workload = Workload(
        network=chosen.network,
        batch_size=chosen.batch,
        dtype=chosen.dtype,
        execution=chosen.execution,
        devices=chosen.devices,
        student_scales=scales,
        classes=chosen.classes,
        image_size=chosen.image_size,
        method=chosen.method,
        # The configuration demands scale 1.0 for the first student, the pivot. Only this program
        # trains a narrow student alone, so the configuration gets scales of 1.0 here.
        overrides=() if scales[0] == 1.0 else (("student_scales", (1.0,) * len(scales)),),
    )
    job = Job(workload)

    def run(steps: int) -> int:
        return job.dispatch(-(-steps // job.runner.steps_per_dispatch))

    device = jax.devices()[0]
    return run, {
        "versions": {
            "kdjax": kdjax.__version__,
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "platform": device.client.platform_version.split("\n")[0],
            "python": platform.python_version(),
        },
        "hardware": {
            "platform": device.platform,
            "device": device.device_kind,
            "devices": chosen.devices,
        },
        "steps_per_dispatch": job.runner.steps_per_dispatch,
        # The resolved execution, also if the option was `auto`.
        "execution": dataclasses.asdict(workload.experiment().execution),
        "matmul_precision": str(jax.config.jax_default_matmul_precision),
    }


if __name__ == "__main__":
    main()
