"""Parses the text of programs that XLA has compiled."""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_START = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_LOCATION = re.compile(r"^(\d+) \{file_name_id=(\d+) function_name_id=(\d+) line=(\d+)")
_FRAME = re.compile(r"^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)")
_NAME = re.compile(r'^(\d+) "(.*)"$')


class Array(NamedTuple):
    """One array of a program.

    Attributes:
      dtype: the dtype as XLA writes it.
      dims: the shape.
      bytes: the bytes it takes, including the padding of its layout's tiles.
      space: the memory space: 0 is the device's memory, other numbers are the compiler's. On a TPU,
        1 is on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    bytes: float
    space: int

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.dims)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in its program.
      opcode: such as ``fusion``.
      result: the arrays of its result; several if it is a tuple.
      operands: the operands' names.
      text: the text after the operands.
    """

    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    text: str

    def attribute(self, name: str) -> str:
        """Returns the text of the attribute ``name=...``; empty if there is no such attribute.

        The text ends at the next comma outside brackets.
        """
        found = re.search(rf"(?:^|[ ,]){name}=(\{{[^}}]*\}}|\"[^\"]*\"|[^,\s]+)", self.text)
        return found[1].strip('{}"') if found else ""

    def called(self) -> tuple[str, ...]:
        """Returns the names of the computations that it calls, without comparators and the like."""
        named = ["calls", "body", "to_apply", "called_computations", "branch_computations"]
        named += ["true_computation", "false_computation"]
        texts = [self.attribute(name) for name in named]
        return tuple(part.strip(" %") for text in texts for part in text.split(",") if part)


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in the order in which they run; the result's need not be the last one.

    Attributes:
      instructions: the instructions by name.
      root: the name of the instruction that computes the result.
    """

    instructions: dict[str, Instruction]
    root: str

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """Returns the instructions whose results an instruction takes."""
        return [self.instructions[name] for name in instruction.operands]

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """For each instruction, those that take its result."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for name in dict.fromkeys(instruction.operands):
                found[name].append(instruction)
        return found

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """The parameters by number."""
        return {
            int(instruction.text.split(")")[0]): instruction
            for instruction in self.instructions.values()
            if instruction.opcode == "parameter"
        }


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
      computations: the computations by name.
      entry: the name of the computation that the program starts with.
      frames: for the number of each stack frame, its lines of code, (file, line), innermost first.
    """

    computations: dict[str, Computation]
    entry: str
    frames: dict[int, tuple[tuple[str, int], ...]]

    def source(self, instruction: Instruction) -> tuple[tuple[str, int], ...]:
        """The lines of code that an instruction comes from, innermost first; may be empty."""
        if number := re.search(r"stack_frame_id=(\d+)", instruction.text):
            return self.frames.get(int(number[1]), ())
        file, line = instruction.attribute("source_file"), instruction.attribute("source_line")
        return ((file, int(line)),) if file and line else ()


def parse(text: str) -> Module:
    """Parses the text of a program, as ``compiled.as_text()`` returns it.

    Raises:
      ValueError: if the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    lines: dict[str, list[str]] = {}
    section, entry = "", ""
    inside: dict[str, Instruction] | None = None
    root = name = ""
    for line in text.splitlines():
        if inside is not None:
            if line.startswith("}"):
                computations[name] = Computation(inside, root)
                inside = None
            elif start := _START.match(line):
                instruction = _instruction(start[2], line[start.end() :])
                inside[instruction.name] = instruction
                root = instruction.name if start[1] or not root else root
        elif header := _HEADER.match(line):
            name, inside, root = header[2], {}, ""
            entry = name if header[1] else entry
        elif line[:1].isdigit():
            lines.setdefault(section, []).append(line)
        else:
            section = line.strip()
    if not entry:
        raise ValueError("this text is not an XLA program: it has no ENTRY computation")
    return Module(computations, entry, _frames(lines))


def _instruction(name: str, text: str) -> Instruction:
    """Parses the part after ``name = ``: type, opcode(operands), attributes."""
    type_end = _closing(text) if text.startswith("(") else text.index(" ")
    result, rest = arrays(text[:type_end]), text[type_end:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest) - 1
    inner, after = rest[: end - 1], rest[end:].lstrip(", ")
    if opcode in ("constant", "parameter"):
        return Instruction(name, opcode, result, (), f"{inner}) {after}")
    operands = tuple(re.findall(r"%([\w.\-]+)", inner)) or tuple(
        part.strip() for part in inner.split(",") if re.fullmatch(r"\s*[A-Za-z_][\w.\-]*\s*", part)
    )
    return Instruction(name, opcode, result, operands, after)


def _closing(text: str) -> int:
    """Returns the position after the bracket that closes the one at the start."""
    depth = 0
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.end()
    return len(text)


@functools.cache
def arrays(text: str) -> tuple[Array, ...]:
    """Parses the arrays of a type, such as ``(f32[8]{0:T(128)S(1)}, s32[])``."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        shape = tuple(int(size.strip("<=")) for size in dims.split(",") if size)
        space = re.search(r"S\((\d+)\)", layout)
        size = math.prod(_padded(shape, layout)) * _bits(dtype) / 8
        found.append(Array(dtype, shape, size, int(space[1]) if space else 0))
    return tuple(found)


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    number = re.search(r"[a-z](\d+)", dtype)
    return int(number[1]) if number else 0


def _padded(shape: Sequence[int], layout: str) -> list[int]:
    """Returns the sizes, the slowest-varying axis first, rounded up to whole tiles."""
    order, _, tiles = layout.partition(":")
    places = [int(place) for place in order.split(",") if place]
    sizes = [shape[place] for place in reversed(places)] if places else list(shape)
    tile = re.search(r"T\(([\d,]+)\)", tiles)
    if not tile:
        return sizes
    parts = [int(part) for part in tile[1].split(",")]
    sizes = [1] * (len(parts) - len(sizes)) + sizes
    first = len(sizes) - len(parts)
    for place, part in enumerate(parts, start=first):
        sizes[place] = -(-sizes[place] // part) * part
    return sizes


def _frames(lines: dict[str, list[str]]) -> dict[int, tuple[tuple[str, int], ...]]:
    names = {int(m[1]): m[2] for line in lines.get("FileNames", ()) if (m := _NAME.match(line))}
    locations = {
        int(m[1]): (names.get(int(m[2]), ""), int(m[4]))
        for line in lines.get("FileLocations", ())
        if (m := _LOCATION.match(line))
    }
    frames: dict[int, tuple[tuple[str, int], ...]] = {}
    for line in lines.get("StackFrames", ()):
        if m := _FRAME.match(line):
            # A parent's number is written one too high, so that 1 means no parent.
            place = locations.get(int(m[2]), ("", 0))
            frames[int(m[1])] = (place, *frames.get(int(m[3]) - 1, ()))
    return frames
