"""Measure one cell of a table: a stage in one size, timed in turn with the same work in PyTorch."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.memory import resident_rise
from benchmarks.stages import HOST, STAGES, Size, filled, post_processing
from benchmarks.torch_side import TorchError, TorchSide
from segic_jax.train.flops import flops_of

ROUNDS = 3  # at least; after one run that does not count
MOST_ROUNDS = 50


class Times(NamedTuple):
    """Summarise the times of one side in seconds."""

    median: float
    least: float
    most: float
    rounds: int


@dataclass(frozen=True)
class Row:
    """Hold the measurements of one cell; None for what was not measured."""

    stage: str
    canvas: int
    tokens: int
    batch: int
    concepts: int
    shots: int
    precision: str
    flops: int | None = None  # of a call, counted; None on the host
    ours: Times | None = None
    compile_seconds: float | None = None
    temporary: int | None = None  # bytes of the compiled program beside arguments and results
    resident: int | None = None  # bytes that a call takes from the system
    theirs: Times | None = None
    their_memory: int | None = None
    note: str = ""  # why something is missing

    @property
    def ratio(self) -> float | None:
        """Our time divided by theirs."""
        return self.ours.median / self.theirs.median if self.ours and self.theirs else None

    @property
    def images_per_second(self) -> float | None:
        """Images a second of our side."""
        return self.batch / self.ours.median if self.ours else None


class Program(NamedTuple):
    """Hold a stage that is ready to run."""

    run: Callable[[], object]  # ends when the result is there
    compile_seconds: float | None
    temporary: int | None


class Bench:
    """Measure cells one after another, and leave out those that would take too long."""

    def __init__(self, seconds: float, longest: float, torch: TorchSide | None):
        """Time a cell for `seconds`, ROUNDS at least; leave it out if ours would take over `longest`."""
        self._seconds, self._longest, self._torch = seconds, longest, torch
        self._rates: dict[tuple[str, str], float] = {}  # work a second in the last cell of a kind

    def row(self, stage: str, size: Size, request: dict | None = None) -> Row:
        """Measure one cell.

        Args:
            request: the same work for PyTorch, if it can do it.
        """
        cell = dict(
            stage=stage,
            canvas=size.model.canvas,
            tokens=size.tokens,
            batch=size.batch,
            concepts=size.concepts,
            shots=size.shots,
            precision=size.precision,
        )
        if stage == HOST:
            traced, arguments, flops = None, (), None
        else:
            function, arguments = STAGES[stage](size)
            traced = jax.jit(function).trace(*arguments)
            flops = flops_of(traced.jaxpr.jaxpr)
        work = flops or size.batch * size.concepts
        if rate := self._rates.get((stage, size.precision)):
            expected = (ROUNDS + 1) * work / rate
            if expected > self._longest:
                return Row(**cell, flops=flops, note=f"left out: about {expected:.0f} s")
        try:
            program = _host_program(size) if traced is None else compiled(traced, arguments)
            resident = resident_rise(program.run)  # the run that does not count
        except Exception as error:
            if not _out_of_memory(error):
                raise
            return Row(**cell, flops=flops, note="out of memory")
        sides, their_memory, note = {"ours": clocked(program.run)}, None, ""
        if request and self._torch:
            try:
                self._torch.build(**request)
                their_memory = self._torch.memory()
                sides["theirs"] = self._torch.run
            except TorchError as error:
                note = "PyTorch: out of memory" if error.out_of_memory else f"PyTorch: {error}"
        times = alternating(sides, self._seconds)
        self._rates[stage, size.precision] = work / times["ours"].median
        return Row(
            **cell,
            flops=flops,
            ours=times["ours"],
            compile_seconds=program.compile_seconds,
            temporary=program.temporary,
            resident=resident,
            theirs=times.get("theirs"),
            their_memory=their_memory,
            note=note,
        )


def alternating(sides: Mapping[str, Callable[[], float]], seconds: float) -> dict[str, Times]:
    """Time the sides in turn for `seconds`, ROUNDS times at least; each side returns its own time."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    begin = time.perf_counter()
    for round_ in range(MOST_ROUNDS):
        if round_ >= ROUNDS and time.perf_counter() - begin > seconds:
            break
        for name, run in sides.items():
            times[name].append(run())
    return {
        name: Times(float(np.median(values)), min(values), max(values), len(values))
        for name, values in times.items()
    }


def clocked(run: Callable[[], object]) -> Callable[[], float]:
    """Wrap `run` to return the seconds that it took."""

    def seconds() -> float:
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    return seconds


def compiled(traced: jax.stages.Traced, arguments: tuple) -> Program:
    """Compile a traced stage and make its arrays."""
    begin = time.perf_counter()
    program = traced.lower().compile()
    compile_seconds = time.perf_counter() - begin
    arrays = jax.block_until_ready(jax.device_put(filled(arguments)))
    analysis = program.memory_analysis()
    return Program(
        lambda: jax.block_until_ready(program(*arrays)),
        compile_seconds,
        analysis.temp_size_in_bytes if analysis else None,
    )


def as_dict(row: Row) -> dict:
    """Return the row for JSON, with the ratio."""
    values = asdict(row)
    for side in ("ours", "theirs"):
        times = getattr(row, side)
        values[side] = times._asdict() if times else None
    return values | {"ratio": row.ratio, "images_per_second": row.images_per_second}


def _host_program(size: Size) -> Program:
    return Program(post_processing(size), None, None)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
