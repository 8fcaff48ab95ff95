"""Parse the HLO text of a compiled program: computations, instructions, shapes and stack frames."""

import math
import re
from dataclasses import dataclass

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"(\w+)\[([^\]]*)\](?:\{([^}]*)\})?")
_LINE = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_TABLE_ENTRY = re.compile(r'(\d+) (?:"(.*)"|\{(.*)\})$')


@dataclass(frozen=True)
class Instruction:
    """Represent a line of the text."""

    name: str
    shape: str  # of the result, with layouts
    opcode: str
    operands: tuple[str, ...]  # names
    attributes: str  # what follows the operands
    is_root: bool
    value: str = ""  # of a constant

    def called(self, attribute: str) -> str | None:
        """Return the computation that an attribute such as `calls` or `body` names."""
        return next((name for key, name in _CALLED.findall(self.attributes) if key == attribute), None)


def shape_bytes(shape: str, *, on_chip: bool = False) -> int:
    """Return the bytes of an array or a tuple, with the padding of its tiles.

    Args:
        shape: such as `bf16[4,100]{1,0:T(8,128)(2,1)}`.
        on_chip: leave out arrays whose layout names a memory space.
    """
    total = 0
    for dtype, sizes, layout in _ARRAY.findall(shape):
        if on_chip and re.search(r"S\([1-9]\d*\)", layout):
            continue
        extents = [int(size.lstrip("<=")) for size in sizes.split(",") if size.strip()]
        order, _, tiling = layout.partition(":")
        tile = re.search(r"T\(([\d,]+)\)", tiling)
        if tile and extents and order:
            physical = [extents[int(axis)] for axis in reversed(order.split(","))]
            tiles = [int(size) for size in tile[1].split(",")]
            physical = [1] * (len(tiles) - len(physical)) + physical
            for axis, size in enumerate(reversed(tiles), 1):
                physical[-axis] = -(-physical[-axis] // size) * size
            extents = physical
        total += math.prod(extents) * _bits(dtype) // 8
    return total


def dimensions(shape: str) -> tuple[int, ...]:
    """Return the sizes of an array's axes."""
    match = _ARRAY.match(shape)
    return tuple(int(size.lstrip("<=")) for size in match[2].split(",") if size.strip()) if match else ()


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    match = re.match(r"[a-z]+(\d+)", dtype)
    return int(match[1]) if match else 0


def parse_program(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Return the instructions of every computation by its name, and the name of the entry."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            if line.endswith("{") and "->" in line:
                name = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0].split("(")[0]
                entry = name if line.startswith("ENTRY ") else entry
                current = computations.setdefault(name, [])
        elif line.startswith("}"):
            current = None
        elif match := _LINE.match(line):
            current.append(_parse_instruction(match, line[match.end() :]))
    return computations, entry


def _parse_instruction(match: re.Match, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    if opcode == "constant":
        return Instruction(match[2], shape, opcode, (), "", bool(match[1]), rest.partition(")")[0])
    end = _closing("(" + rest, 0)
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[: end - 1]))
    value = rest[: end - 1] if opcode == "parameter" else ""
    return Instruction(match[2], shape, opcode, operands, rest[end:], bool(match[1]), value)


def _closing(text: str, start: int) -> int:
    """Return the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return len(text)


def parse_frames(text: str) -> dict[int, tuple[str, ...]]:
    """Return the files of every stack frame, the innermost first, from the tables before the computations."""
    tables: dict[str, dict[int, str]] = {}
    current: dict[int, str] = {}
    for line in text.splitlines()[1:]:
        if line.endswith("{") and "->" in line:
            break
        if match := _TABLE_ENTRY.match(line):
            current[int(match[1])] = match[2] or match[3]
        elif line:
            current = tables.setdefault(line, {})

    def field_of(table: str, key: int, name: str) -> int:
        match = re.search(rf"\b{name}=(\d+)", tables.get(table, {}).get(key, ""))
        return int(match[1]) if match else 0

    # The first frame has no parent; where it names itself, all parents are counted from 1.
    offset = field_of("StackFrames", 1, "parent_frame_id")
    frames: dict[int, tuple[str, ...]] = {}
    for key in sorted(tables.get("StackFrames", {})):
        location = field_of("StackFrames", key, "file_location_id")
        file = tables.get("FileNames", {}).get(field_of("FileLocations", location, "file_name_id"), "")
        parent = field_of("StackFrames", key, "parent_frame_id") - offset
        frames[key] = (file, *frames.get(parent, ()))
    return frames


def result_shape(shape: str, opcode: str) -> str:
    """Return the part of a shape that an instruction writes: the start of an asynchronous one holds more."""
    if not opcode.endswith("-start") or not shape.startswith("(") or opcode == "all-reduce-start":
        return shape
    parts = _elements(shape)
    return parts[0] if opcode == "copy-start" or len(parts) < 2 else parts[1]


def _elements(shape: str) -> list[str]:
    """Split a tuple's shape into its elements."""
    parts, depth, start = [], 0, 1
    for index, character in enumerate(shape):
        depth += (character in "([{") - (character in ")]}")
        if (character == "," and depth == 1) or depth == 0:
            parts.append(shape[start:index].strip())
            start = index + 1
    return parts


def group_size(attributes: str) -> int | None:
    """Return how many devices exchange data in a collective."""
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
        return int(match[2])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        return math.prod(sizes.get(name, 1) for name in re.findall(r"'([^']+)'", match[2]))
    return None
