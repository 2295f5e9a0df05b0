"""A worker that trains the peer in PyTorch; the protocol is in ``worker.py``.

Command:  python experiments/throughput/torch_worker.py --network=resnet8 --compile=default
"""

import argparse
import platform
from typing import Any

import options
import worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_job(parser)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--compile",
        default="none",
        choices=("none", "default", "reduce-overhead", "max-autotune"),
        help="mode of torch.compile; reduce-overhead records CUDA graphs",
    )
    parser.add_argument("--threads", type=int, default=0, help="cores to run on; 0: all")
    parser.add_argument("--channels_last", type=int, default=1, choices=(0, 1))
    parser.add_argument("--tf32", type=int, default=1, choices=(0, 1), help="on CUDA, in float32")
    chosen = parser.parse_args()
    worker.limit_cores(chosen.threads)
    worker.serve(lambda: prepare(chosen))


def prepare(chosen: argparse.Namespace) -> tuple[worker.Run, dict[str, Any]]:
    """Returns the job, and the record that describes it."""
    import numpy as np
    import peer
    import records
    import torch

    torch.set_num_threads(records.usable_cores())
    # XLA flushes denormals too. When training has converged, they would slow down PyTorch only.
    torch.set_flush_denormal(True)
    torch.backends.cuda.matmul.allow_tf32 = bool(chosen.tf32)
    torch.backends.cudnn.allow_tf32 = bool(chosen.tf32)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    count = 8 * chosen.batch  # As many as the kdjax worker holds.
    shape = (count, chosen.image_size, chosen.image_size, 3)
    labels = torch.as_tensor(rng.integers(0, chosen.classes, count)).to(chosen.device)
    images = torch.as_tensor(rng.integers(0, 256, shape, dtype=np.uint8)).to(chosen.device)
    widths = peer.student_widths(chosen.network, options.student_scales(chosen))
    trainer = peer.Trainer(
        peer.Ensemble(widths, chosen.classes).to(chosen.device),
        images,
        labels,
        chosen.batch,
        dtype=getattr(torch, chosen.dtype),
        compile_mode="" if chosen.compile == "none" else chosen.compile,
        channels_last=bool(chosen.channels_last),
    )

    def run(steps: int) -> int:
        for _ in range(steps):
            trainer.step()
        if chosen.device == "cuda":
            torch.cuda.synchronize()
        return steps

    on_cuda = chosen.device == "cuda"
    return run, {
        "versions": {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "python": platform.python_version(),
        },
        "hardware": {
            "platform": chosen.device,
            "device": torch.cuda.get_device_name() if on_cuda else platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "steps_per_dispatch": 1,
        "tf32": bool(chosen.tf32) if on_cuda else None,
        "channels_last": bool(chosen.channels_last),
    }


if __name__ == "__main__":
    main()
