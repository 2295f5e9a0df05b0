"""Programs written by the compilers (programs/make.py): three steps of one convolution."""

from pathlib import Path

import pytest

from kdjax.plan.program import read

STEPS = 3
# 8 images of 16 x 16, 16 channels to 32, 3 x 3; a multiply-accumulate has two operations.
CONVOLUTION = 2 * 8 * 16 * 16 * 9 * 16 * 32
IMAGES, MAPS, KERNEL = 8 * 16 * 16 * 16 * 2, 8 * 16 * 16 * 32 * 2, 9 * 16 * 32 * 2


def program(name):
    text = (Path(__file__).parent / "programs" / f"{name}.hlo").read_text()
    found = read(text, "tpu" if name == "v5e" else "gpu")
    assert found.uncounted_loops == 0
    return found.kernels


@pytest.mark.parametrize("name", ["h200", "h200_2", "v5e"])
def test_each_step_convolves_forward_and_for_the_kernel(name):
    kernels = [kernel for kernel in program(name) if kernel.kind == "convolution"]
    assert [(kernel.times, kernel.operations) for kernel in kernels] == [(STEPS, CONVOLUTION)] * 2
    assert {kernel.source for kernel in kernels} == {"kdjax/make.py:29"}


def test_a_gpu_s_program_by_hand():
    kernels = {kernel.name: kernel for kernel in program("h200")}
    # Outside the loop: a counter, zeros for the losses, two transpositions of the kernel.
    assert sum(kernel.times == 1 for kernel in kernels.values()) == 4
    # In a step: take the images, convolve, square and sum, second stage of the sum, the kernel's
    # gradient, update the kernel, store the loss, count.
    assert sum(kernel.times == STEPS for kernel in kernels.values()) == 8 == len(kernels) - 4
    for name in ("cudnn-conv.1", "cudnn-conv-bw-filter.1"):
        assert kernels[name].bytes == IMAGES + MAPS + KERNEL
    # Eight of the hundred images are read and written; two numbers select them.
    assert kernels["loop_dynamic_slice_fusion"].bytes == 2 * IMAGES + 8
    assert kernels["loop_subtract_fusion"].bytes == 3 * KERNEL
    turned = [kernel for kernel in kernels.values() if kernel.kind == "transpose"]
    assert [kernel.bytes for kernel in turned] == [2 * KERNEL] * 2


def test_two_gpus_sum_their_gradients():
    (summed,) = (kernel for kernel in program("h200_2") if kernel.kind == "collective")
    assert (summed.times, summed.bytes) == (STEPS, KERNEL)
    assert summed.source == "kdjax/make.py:41"


def test_a_tpu_s_program_by_hand():
    kernels = {kernel.name: kernel for kernel in program("v5e")}
    moved = {name: kernel.bytes for name, kernel in kernels.items() if kernel.kind == "prefetch"}
    # The kernel has 3 x 3 positions, each 16 x 32 and padded to tiles of 8 x 128; three numbers are
    # padded to 128. Both are read at the start; kernel and losses are written at the end.
    kernel, numbers = 9 * 16 * 128 * 2, 128 * 4
    assert sorted(moved.values()) == sorted([kernel, numbers, kernel, numbers])
    assert all(kernel.cycles > 0 for kernel in kernels.values() if kernel.kind == "convolution")
    # The core itself counts the steps, so no kernel does.
    assert not any(name.startswith(("add", "lt", "select")) for name in kernels)
