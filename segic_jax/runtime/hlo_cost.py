"""Estimate the memory traffic and the collectives of a compiled program from its HLO text.

XLA's cost analysis counts the body of a loop once. Here a loop counts as often as it runs, wherever the text
says how often. Like XLA's analysis, an instruction outside of fusions reads its operands from memory and
writes its result to it, and slices touch only what they take. Arrays in a chip's own memory (`S(1)` in the
layout of a TPU) cost nothing.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import NamedTuple

from segic_jax.runtime.hlo_text import (
    Instruction,
    dimensions,
    group_size,
    parse_frames,
    parse_program,
    result_shape,
    shape_bytes,
)

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Instructions that only name, group or reinterpret arrays.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "add-dependency",
    "opt-barrier", "partition-id", "replica-id", "domain",
}  # fmt: skip
_SLICES = {"slice", "dynamic-slice", "gather"}  # read as much as they return
_SAME_ELEMENTS = {"bitcast", "reshape", "copy", "convert", "transpose"}
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"?known_trip_count"?\s*[:=]\s*\{\s*"?n"?\s*[:=]\s*"?(\d+)')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")


class Source(NamedTuple):
    """Say where in the Python program an instruction comes from."""

    files: tuple[str, ...]  # of the call, the innermost first; empty where the compiler does not say
    is_backward: bool  # part of a gradient


NOWHERE = Source((), False)


@dataclass
class Cost:
    """Hold the costs of a program on one device."""

    bytes: float = 0.0  # read from memory and written to it
    collectives: Counter = field(default_factory=Counter)  # kind -> how often
    collective_bytes: Counter = field(default_factory=Counter)  # kind -> bytes of the larger side
    sent_bytes: float = 0.0  # that leave the device, at least
    unknown_loops: int = 0  # that the text does not say the length of
    by_source: Counter = field(default_factory=Counter)  # Source -> bytes

    def add(self, other: "Cost", times: int = 1, source: Source = NOWHERE) -> None:
        """Add the cost of a computation that runs `times` times.

        Args:
            source: of what the compiler does not say the source of.
        """
        self.bytes += times * other.bytes
        self.sent_bytes += times * other.sent_bytes
        self.unknown_loops += other.unknown_loops
        for mine, theirs in (
            (self.collectives, other.collectives),
            (self.collective_bytes, other.collective_bytes),
        ):
            for key, value in theirs.items():
                mine[key] += times * value
        for key, value in other.by_source.items():
            self.by_source[source if key == NOWHERE else key] += times * value


def program_cost(
    text: str,
    *,
    devices: int = 1,
    kernels: Mapping[tuple[tuple[int, ...], ...], Sequence[int]] | None = None,
    loops: bool = True,
    on_chip: bool = True,
    unknown_trips: int = 1,
) -> Cost:
    """Return the cost of a compiled program.

    Args:
        text: `compiled.as_text()`.
        devices: of the program, for collectives that name no groups.
        kernels: what Pallas kernels read of each operand beyond reading it once, in bytes, by the shapes of
            the operands; reads of operands on the chip cost nothing.
        loops: False counts the body of a loop once, as XLA does.
        on_chip: whether memory spaces other than 0 are inside of the chip; False counts them as well.
        unknown_trips: how often a loop counts that the text does not say the length of.
    """
    return _Program(text, devices, kernels or {}, loops, on_chip, unknown_trips).cost


class _Program:
    """Walk the computations of a program; each is counted once and used as often as it runs."""

    def __init__(
        self, text: str, devices: int, kernels: Mapping, loops: bool, on_chip: bool, unknown_trips: int
    ):
        self._computations, self._entry = parse_program(text)
        self._by_name = {
            name: {instruction.name: instruction for instruction in instructions}
            for name, instructions in self._computations.items()
        }
        self._devices, self._kernels, self._loops, self._on_chip = devices, kernels, loops, on_chip
        self._unknown_trips = unknown_trips
        self._costs: dict[str, Cost] = {}
        self._frames = parse_frames(text)

    @cached_property
    def cost(self) -> Cost:
        return self._computation(self._entry)

    def _computation(self, name: str) -> Cost:
        if name not in self._costs:
            total, channels = Cost(), set()
            for instruction in self._computations.get(name, ()):
                self._add(total, name, instruction)
                if instruction.opcode == "fusion":
                    self._add_fused_collectives(total, instruction, channels)
            self._costs[name] = total
        return self._costs[name]

    def _add(self, total: Cost, computation: str, instruction: Instruction) -> None:
        """Add what one instruction costs outside of a fusion."""
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            return
        if opcode == "while":
            body, condition = instruction.called("body"), instruction.called("condition")
            trips = self._trips(computation, instruction) if self._loops else 1
            if trips is None:
                total.unknown_loops += 1
                trips = self._unknown_trips
            source = self._source(computation, instruction)
            for name in (body, condition):
                total.add(self._computation(name or ""), trips, source)
            return
        if opcode == "conditional":
            branches = _BRANCHES.search(instruction.attributes)
            names = re.findall(r"[\w.\-]+", branches[1]) if branches else []
            names += [instruction.called(f"{side}_computation") or "" for side in ("true", "false")]
            costs = [self._computation(name) for name in names if name]
            total.add(max(costs, key=lambda cost: cost.bytes, default=Cost()))
            return
        if opcode == "call" or opcode == "async-start":
            total.add(self._computation(instruction.called("calls") or instruction.called("to_apply") or ""))
            return
        base = opcode.removesuffix("-start")
        if base in COLLECTIVES:
            self._add_collective(total, computation, instruction, base)
        moved = self._moved(computation, instruction, base)
        total.bytes += moved
        total.by_source[self._source(computation, instruction)] += moved

    def _add_fused_collectives(self, total: Cost, fusion: Instruction, channels: set[str]) -> None:
        """Add the collectives in a fusion: on a TPU several fusions, which also compute, take part in one.

        Args:
            channels: of the collectives that are counted already.
        """
        for computation, instruction in self._inside(fusion.called("calls")):
            kind = instruction.opcode.removesuffix("-start")
            channel = re.search(r"channel_id=(\d+)", instruction.attributes)
            if kind in COLLECTIVES and (channel is None or channel[0] not in channels):
                self._add_collective(total, computation, instruction, kind)
                channels.update([channel[0]] if channel else [])

    def _source(self, computation: str, instruction: Instruction) -> Source:
        """Return where an instruction comes from.

        A copy that the compiler adds comes from where it is first used, or else from what it copies.
        """
        by_name, users = self._by_name[computation], self._first_users(computation)
        chains = (
            lambda step: users.get(step.name),
            lambda step: by_name.get(step.operands[0]) if step.operands else None,
        )
        for following in chains:
            step: Instruction | None = instruction
            for _ in range(8):
                if step is None or step.opcode == "tuple":
                    break
                if frame := _FRAME.search(step.attributes):
                    name = _OP_NAME.search(step.attributes)
                    is_backward = name is not None and "transpose(" in name[1]
                    return Source(self._frames.get(int(frame[1]), ()), is_backward)
                step = following(step)
        return NOWHERE

    @cache  # noqa: B019 - a program lives as long as its walk
    def _first_users(self, computation: str) -> dict[str, Instruction]:
        users: dict[str, Instruction] = {}
        for instruction in self._computations[computation]:
            for operand in instruction.operands:
                users.setdefault(operand, instruction)
        return users

    def _inside(self, name: str | None) -> Iterator[tuple[str, Instruction]]:
        for instruction in self._computations.get(name or "", ()):
            yield name or "", instruction
            if instruction.opcode in ("fusion", "call", "async-start"):
                yield from self._inside(instruction.called("calls") or instruction.called("to_apply"))

    def _bytes(self, shape: str) -> int:
        return shape_bytes(shape, on_chip=self._on_chip)

    def _operand(self, computation: str, name: str) -> str:
        operand = self._by_name[computation].get(name)
        return operand.shape if operand else ""

    def _moved(self, computation: str, instruction: Instruction, base: str) -> int:
        """Return the bytes that an instruction reads and writes; those of arrays on the chip are 0."""
        shape = result_shape(instruction.shape, instruction.opcode)
        result = self._bytes(shape)
        operands = [self._bytes(self._operand(computation, name)) for name in instruction.operands]
        if base == "fusion":
            return self._fusion(instruction, result, operands)
        if base in _SLICES:
            return result + min(operands[0], shape_bytes(shape)) + sum(operands[1:])
        if base == "dynamic-update-slice":
            update = shape_bytes(self._operand(computation, instruction.operands[1]))
            return operands[1] + min(result, update)
        if base == "scatter":  # operands, indices, updates
            updates = sum(operands[len(operands) // 2 + 1 :])
            return 3 * updates + operands[len(operands) // 2]
        if base == "custom-call":
            if 'custom_call_target="AllocateBuffer"' in instruction.attributes:
                return 0
            shapes = (self._operand(computation, name) for name in instruction.operands)
            repeated = self._kernels.get(tuple(map(dimensions, shapes)), ())
            once = result + sum(operands)
            return once + sum(extra for extra, size in zip(repeated, operands, strict=False) if size)
        return result + sum(operands)

    def _fusion(self, instruction: Instruction, result: int, operands: list[int]) -> int:
        name = instruction.called("calls") or ""
        parameters = {
            int(inner.value or 0): inner
            for inner in self._computations.get(name, ())
            if inner.opcode == "parameter"
        }
        read = 0
        for index, size in enumerate(operands):
            parameter = parameters.get(index)
            read += size if parameter is None or not size else min(size, self._read(name, parameter.name))
        return read + (self._written(name, result) if result else 0)

    def _read(self, computation: str, name: str) -> int:
        """Return the bytes that a fused computation reads of one of its values."""
        value, total = self._by_name[computation][name], 0
        size = shape_bytes(value.shape)
        for user in self._computations[computation]:
            for position, operand in enumerate(user.operands):
                if operand != name:
                    continue
                if user.opcode in _SLICES and position == 0:
                    total += shape_bytes(user.shape)
                elif user.opcode == "dynamic-update-slice" and position == 0:
                    pass  # in place
                elif user.opcode in _SAME_ELEMENTS and not user.is_root:
                    share = size / max(shape_bytes(user.shape), 1)
                    total += round(share * self._read(computation, user.name))
                elif user.opcode == "fusion":
                    inner = user.called("calls") or ""
                    parameters = (i for i in self._computations[inner] if i.opcode == "parameter")
                    total += next(
                        (self._read(inner, i.name) for i in parameters if int(i.value or 0) == position), size
                    )
                else:
                    total += size
        return min(size, total)

    def _written(self, computation: str, result: int) -> int:
        """Return the bytes that a fused computation writes; an update in place writes only the update."""
        by_name = self._by_name.get(computation, {})
        root = next((value for value in by_name.values() if value.is_root), None)
        if root is None:
            return result
        outputs = [by_name[name] for name in root.operands] if root.opcode == "tuple" else [root]
        written = 0
        for output in outputs:
            shape = output.shape
            while output.opcode in ("bitcast", "copy", "convert", "reshape") and output.operands:
                output = by_name[output.operands[0]]
            if output.opcode == "dynamic-update-slice":
                shape = by_name[output.operands[1]].shape
            elif output.opcode == "fusion" and output is not root:
                inner = output.called("calls") or ""
                written += self._written(inner, self._bytes(shape))
                continue
            written += shape_bytes(shape)
        return min(result, written)

    def _trips(self, computation: str, loop: Instruction) -> int | None:
        """Return how often a loop runs: as its attributes say, else from a comparison with a constant."""
        if match := _TRIPS.search(loop.attributes):
            return int(match[1])
        values = [value for _, value in self._inside(loop.called("condition"))]
        constants = [value.value for value in values if value.opcode == "constant"]
        comparisons = [value.attributes for value in values if value.opcode == "compare"]
        if len(constants) == 1 and len(comparisons) == 1 and "direction=LT" in comparisons[0]:
            return int(constants[0]) if constants[0].isdecimal() else None
        return None

    def _add_collective(self, total: Cost, computation: str, instruction: Instruction, kind: str) -> None:
        result = shape_bytes(result_shape(instruction.shape, instruction.opcode))
        operands = sum(shape_bytes(self._operand(computation, name)) for name in instruction.operands)
        payload = max(result, operands)
        group = group_size(instruction.attributes) or self._devices
        total.collectives[kind] += 1
        total.collective_bytes[kind] += payload
        # A ring sends each part once around, a sum twice.
        rounds = {"all-reduce": 2 * (group - 1) / group, "collective-permute": 1.0}
        total.sent_bytes += payload * rounds.get(kind, (group - 1) / group)
