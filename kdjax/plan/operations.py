"""Counts what one instruction of a compiled program reads, writes and computes."""

import math
import re

from kdjax.plan.hlo import Array, Computation, Instruction, Module

_SLICES = ("slice", "dynamic-slice", "gather")
_SAME_BYTES = ("bitcast", "reshape")


def moved(module: Module, inside: Computation, instruction: Instruction, on_chip: bool) -> float:
    """Returns the bytes that an instruction reads from and writes to the device's memory.

    If only slices of an array are read, only the slices count. If an array is updated in place,
    only the update counts.

    Args:
      module: the program.
      inside: the computation that the instruction is in.
      instruction: the instruction.
      on_chip: whether arrays in other memory spaces are on the chip, and cost nothing.
    """

    def cost(array: Array) -> float:
        return 0.0 if on_chip and array.space else array.bytes

    operands = inside.operands(instruction)
    if instruction.opcode == "fusion":
        called = module.computations[instruction.called()[0]]
        total = 0.0
        for number, operand in enumerate(operands):
            full = sum(cost(array) for array in operand.result)
            if full:
                total += min(full, _read(module, called, called.parameters[number]))
        if any(cost(array) for array in instruction.result):
            written = sum(cost(array) for array in instruction.result)
            total += min(written, _written(module, called, called.root))
        return total
    if instruction.opcode == "dynamic-update-slice":
        return 2 * sum(cost(array) for array in operands[1].result)
    written = sum(cost(array) for array in instruction.result)
    if instruction.opcode in _SLICES:
        return 2 * written
    if instruction.opcode.endswith("-start"):  # Its operands follow the array that it writes.
        written = sum(cost(array) for array in instruction.result[:1])
    return written + sum(cost(array) for operand in operands for array in operand.result)


def _read(module: Module, inside: Computation, value: Instruction) -> float:
    """Returns the bytes of a value that its users need."""
    full = sum(array.bytes for array in value.result)
    total = 0.0
    for user in inside.users[value.name]:
        if user.opcode in _SLICES and user.operands[0] == value.name:
            total += sum(array.bytes for array in user.result)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
            continue  # The array is updated in place.
        elif user.opcode in _SAME_BYTES:
            total += _read(module, inside, user)
        elif user.opcode == "fusion":
            called = module.computations[user.called()[0]]
            for number, name in enumerate(user.operands):
                if name == value.name:
                    total += _read(module, called, called.parameters[number])
        else:
            return full
    return min(full, total)


def _written(module: Module, inside: Computation, name: str) -> float:
    value = inside.instructions[name]
    if value.opcode == "tuple":
        return sum(_written(module, inside, part) for part in value.operands)
    if value.opcode in _SAME_BYTES:
        return _written(module, inside, value.operands[0])
    if value.opcode == "dynamic-update-slice":
        return sum(array.bytes for array in inside.instructions[value.operands[1]].result)
    if value.opcode == "fusion":
        called = module.computations[value.called()[0]]
        return _written(module, called, called.root)
    return sum(array.bytes for array in value.result)


def products(
    module: Module, inside: Computation, instruction: Instruction
) -> list[tuple[float, int, int]]:
    """Finds the matrix products and convolutions of an instruction and of what is fused into it.

    Args:
      module: the program.
      inside: the computation that the instruction is in.
      instruction: the instruction.

    Returns:
      (operations, input channels, output channels) of each. A multiply-accumulate is two
      operations; those on padding are included.
    """
    if instruction.opcode == "fusion":
        called = module.computations[instruction.called()[0]]
        return [
            product
            for inner in called.instructions.values()
            for product in products(module, called, inner)
        ]
    operands = [operand.result[0] for operand in inside.operands(instruction) if operand.result]
    target = instruction.attribute("custom_call_target")
    if instruction.opcode == "convolution":
        return [_convolution(instruction, operands)]
    if target.startswith("__cudnn$conv"):
        return [_cudnn(target, instruction, operands)]
    if instruction.opcode == "dot":
        places = instruction.attribute("lhs_contracting_dims")
        return [_dot(instruction, operands, places)]
    if target.startswith("__cublas"):
        found = re.search(r'"lhs_contracting_dimensions":\[([^]]*)', instruction.text)
        return [_dot(instruction, operands, found[1].replace('"', "") if found else "")]
    return []


def _labels(instruction: Instruction) -> tuple[str, str, str]:
    given, kernel, result = re.split("_|->", instruction.attribute("dim_labels"))
    return given, kernel, result


def _convolution(instruction: Instruction, operands: list[Array]) -> tuple[float, int, int]:
    _, labels, _ = _labels(instruction)
    window = instruction.attribute("window")
    kernel = operands[1].dims
    channels, features = kernel[labels.index("i")], kernel[labels.index("o")]
    taps = _window(window, "size") / _window(window, "lhs_dilate")
    return 2.0 * instruction.result[0].size * taps * channels, channels, features


def _window(window: str, part: str) -> int:
    found = re.search(rf"\b{part}=([\dx]+)", window)
    return math.prod(map(int, found[1].split("x"))) if found else 1


def _cudnn(target: str, instruction: Instruction, operands: list[Array]) -> tuple[float, int, int]:
    """The labels are those of the forward convolution, even if this is one of its gradients."""
    _, labels, _ = _labels(instruction)
    output, kernel = instruction.result[0], operands[1]
    if target.endswith("BackwardInput"):
        output = operands[0]
    elif target.endswith("BackwardFilter"):
        output, kernel = operands[1], instruction.result[0]
    features = kernel.dims[labels.index("o")]
    operations = 2.0 * output.size * kernel.size / features
    return operations, kernel.dims[labels.index("i")], features


def _dot(instruction: Instruction, operands: list[Array], places: str) -> tuple[float, int, int]:
    left = operands[0].dims
    inner = math.prod(left[int(place)] for place in places.split(",") if place)
    outer = instruction.result[0].dims[-1] if instruction.result[0].dims else 1
    return 2.0 * instruction.result[0].size * inner, inner, outer
