"""Lists the kernels that a compiled program launches, and how often loops run them."""

import dataclasses
import re
from collections.abc import Iterator

from kdjax.plan.hlo import Computation, Instruction, Module, parse
from kdjax.plan.operations import moved, products

# These launch nothing: they name or group values, or wait for what was started before.
_NOT_LAUNCHED = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("opt-barrier", "optimization-barrier", "domain", "partition-id", "replica-id"),
    *("add-dependency", "get-dimension-size"),
}
_FREE_TARGETS = {"AllocateBuffer", "Sharding", "SPMDFullToShardShape", "AssumeGatherIndicesInBound"}
_CALLS = {"call", "async-start"}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
# A kernel that has only these opcodes just changes the order of numbers in memory.
_MOVES = {
    *("parameter", "bitcast", "reshape", "copy", "transpose", "tuple", "get-tuple-element"),
    *("slice", "concatenate"),
}
_PACKAGE = "/kdjax/"
_PLANNING = "/kdjax/plan/"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One operation that the program launches on the device.

    Attributes:
      name: its name in the program.
      kind: ``convolution``, ``product``, ``collective``, ``copy`` or ``transpose`` (these two
        compute nothing), ``prefetch`` (onto the chip), ``reduction`` or ``other``.
      times: how often it runs.
      bytes: the bytes that each run moves to and from memory; for a collective, those of the arrays
        that a device gives to it.
      products: (operations, input channels, output channels) of the matrix products of each run.
      cycles: the compiler's estimate of its cycles; 0 if there is none.
      source: ``file:line`` of the package's code, or the compiler's name for it.
      collective: which collective it is, such as ``all-reduce``; empty for other kinds.
    """

    name: str
    kind: str
    times: int
    bytes: float
    products: tuple[tuple[float, int, int], ...]
    cycles: float
    source: str
    collective: str = ""

    @property
    def operations(self) -> float:
        """The operations of its matrix products in each run."""
        return sum(product[0] for product in self.products)


@dataclasses.dataclass(frozen=True)
class Program:
    """All kernels of a program.

    Attributes:
      kernels: the kernels, in no particular order.
      uncounted_loops: how many loops have an unknown number of runs; they are counted as one run.
    """

    kernels: tuple[Kernel, ...]
    uncounted_loops: int = 0


def read(text: str, platform: str) -> Program:
    """Reads a program from its text, as ``compiled.as_text()`` returns it.

    Args:
      text: optimised HLO.
      platform: the name of the platform. On ``tpu``, arrays in other memory spaces are on the chip.

    Raises:
      ValueError: if the text is not a program.
    """
    module = parse(text)
    walk = _Walk(module, on_chip=platform == "tpu")
    kernels = tuple(walk.kernels(module.computations[module.entry], 1))
    return Program(kernels, walk.uncounted)


class _Walk:
    def __init__(self, module: Module, *, on_chip: bool):
        self.module, self.on_chip = module, on_chip
        self.uncounted = 0

    def kernels(self, inside: Computation, times: int) -> Iterator[Kernel]:
        for instruction in inside.instructions.values():
            opcode = instruction.opcode
            if opcode == "while":
                count = trip_count(self.module, instruction)
                self.uncounted += count is None
                body = self.module.computations[instruction.attribute("body").lstrip("%")]
                yield from self.kernels(body, times * (1 if count is None else count))
            elif opcode == "conditional":
                branches = [
                    list(self.kernels(self.module.computations[name], times))
                    for name in instruction.called()
                ]
                yield from max(branches, key=len, default=[])
            elif opcode in _CALLS:
                for name in instruction.called():
                    yield from self.kernels(self.module.computations[name], times)
            elif _is_launched(instruction) and not self._is_scalar(instruction):
                yield self._kernel(inside, instruction, times)

    def _is_scalar(self, instruction: Instruction) -> bool:
        """Whether a TPU's core computes it by itself, without launching a kernel."""
        plain = instruction.opcode not in ("fusion", "custom-call")
        return self.on_chip and plain and all(not array.dims for array in instruction.result)

    def _kernel(self, inside: Computation, instruction: Instruction, times: int) -> Kernel:
        found = tuple(products(self.module, inside, instruction))
        kind = self._kind(inside, instruction, bool(found))
        collective = _collective(instruction)
        if collective:
            operands = inside.operands(instruction)
            size = sum(array.bytes for operand in operands for array in operand.result)
        else:
            size = moved(self.module, inside, instruction, self.on_chip)
        cycles = re.search(r'"estimated_cycles":"?(\d+)', instruction.text)
        return Kernel(
            instruction.name,
            kind,
            times,
            size,
            found,
            float(cycles[1]) if cycles else 0.0,
            self._source(instruction),
            collective,
        )

    def _kind(self, inside: Computation, instruction: Instruction, multiplies: bool) -> str:
        opcodes = self._opcodes(instruction)
        if _collective(instruction):
            return "collective"
        if multiplies:
            dots = "dot" in opcodes or "__cublas" in instruction.text
            return "product" if dots else "convolution"
        if instruction.opcode == "copy-start" and self._between_memories(instruction):
            return "prefetch"
        if opcodes <= _MOVES | {"copy-start"}:
            return "transpose" if "transpose" in opcodes else "copy"
        return "reduction" if opcodes & {"reduce", "reduce-window"} else "other"

    def _between_memories(self, instruction: Instruction) -> bool:
        return len({array.space for array in instruction.result[:2]}) > 1

    def _opcodes(self, instruction: Instruction) -> set[str]:
        if instruction.opcode != "fusion":
            return {instruction.opcode}
        called = self.module.computations[instruction.called()[0]]
        return set().union(*(self._opcodes(inner) for inner in called.instructions.values()))

    def _source(self, instruction: Instruction) -> str:
        lines = self.module.source(instruction)
        for file, line in lines:
            if _PACKAGE in file and _PLANNING not in file:
                return f"kdjax/{file.rpartition(_PACKAGE)[2]}:{line}"
        if lines:
            return f"{lines[0][0].rpartition('site-packages/')[2]}:{lines[0][1]}"
        return instruction.attribute("op_name") or "the compiler's own"


def _collective(instruction: Instruction) -> str:
    return next((name for name in COLLECTIVES if instruction.opcode.startswith(name)), "")


def _is_launched(instruction: Instruction) -> bool:
    if instruction.opcode in _NOT_LAUNCHED or instruction.opcode.endswith(("-done", "-update")):
        return False
    return instruction.attribute("custom_call_target") not in _FREE_TARGETS


def trip_count(module: Module, loop: Instruction) -> int | None:
    """Returns how often a loop runs; None if that is not known.

    This is the number that the compiler noted, or else the limit that the loop's condition compares
    a counter with. The counter is taken to start from 0.
    """
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text):
        return int(noted[1])
    condition = module.computations.get(loop.attribute("condition").lstrip("%"))
    if condition is None:
        return None
    root = condition.instructions[condition.root]
    if root.opcode == "fusion":
        condition = module.computations[root.called()[0]]
        root = condition.instructions[condition.root]
    if root.opcode != "compare" or root.attribute("direction") != "LT":
        return None
    limit = condition.instructions[root.operands[1]]
    number = re.match(r"(\d+)\)", limit.text) if limit.opcode == "constant" else None
    return int(number[1]) if number else None
