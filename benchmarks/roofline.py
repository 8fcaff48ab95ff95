"""Count operations and bytes of every stage, and derive a lower bound of its time on three devices.

    python -m benchmarks.roofline                                     DINOv2-B, L and g at 448 and 896 pixels
    python -m benchmarks.roofline --measured outputs/benchmark/run.json    with the times of `benchmarks.run`

Operations are those of matrix products and convolutions, counted in the traced program. Bytes are those
that any program has to move: the weights and inputs that a stage reads, and its results, once. Nothing is
allocated.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import tyro
from jax.extend.core import Jaxpr, Var

from benchmarks.stages import HOST, IMAGE, STAGES, VITS, Size, model
from benchmarks.tables import digits, markdown
from segic_jax.config import ModelConfig
from segic_jax.runtime.topology import peak_flops
from segic_jax.train.flops import flops_of


@dataclass
class Args:
    canvas: tuple[int, ...] = (448, 896)
    """Sides of the canvas in pixels."""
    vits: tuple[str, ...] = VITS
    """DINOv2 backbones."""
    measured: tuple[Path, ...] = ()
    """run.json files of `benchmarks.run` on one device."""
    out: Path | None = None
    """Markdown file for the tables."""


class Device(NamedTuple):
    """Hold the peak rates of a data sheet."""

    name: str
    backbone_flops: float
    head_flops: float  # the head runs in float32
    bytes: float
    backbone_precision: str


# CPU core: two units for 512-bit fused multiply-adds (16 float32 numbers, two operations) at 2.6 GHz;
# memory of a whole socket, 8 channels of DDR5-4800 (Intel, 4th generation Xeon).
# H100 SXM: bfloat16 and TF32 without sparsity, HBM3 (NVIDIA H100 data sheet).
# TPU v5e: bfloat16, in which its float32 products run by default, HBM2 (cloud.google.com/tpu/docs/v5e).
DEVICES = (
    Device("CPU core", 2 * 16 * 2 * 2.6e9, 2 * 16 * 2 * 2.6e9, 307.2e9, "float32"),
    Device("H100", peak_flops("H100"), 494.7e12, 3.35e12, "bfloat16"),
    Device("TPU v5e", peak_flops("TPU v5e"), peak_flops("TPU v5e"), 819e9, "bfloat16"),
)


class Cost(NamedTuple):
    """Hold the operations and bytes of one call."""

    flops: int
    bytes: dict[str, int]  # by precision of the backbone


class Line(NamedTuple):
    """Hold a stage in one size with its work."""

    stage: str
    vit: str  # empty where the stage does not depend on it
    size: Size
    cost: Cost

    def floor(self, device: Device) -> tuple[float, bool]:
        """Return the lower bound in seconds, and whether memory traffic determines it."""
        peak = device.backbone_flops if self.stage == "backbone" else device.head_flops
        compute = self.cost.flops / peak
        memory = self.cost.bytes[device.backbone_precision] / device.bytes
        return max(compute, memory), memory > compute


def main(args: Args) -> None:
    """Count, print and write."""
    measured = [json.loads(path.read_text()) for path in args.measured]
    text = ""
    for canvas in args.canvas:
        lines = list(counted({vit: model(vit, canvas) for vit in args.vits}))
        text += (
            f"{canvas} pixels, {lines[0].size.tokens} tokens, one image:\n\n" + table(lines, measured) + "\n"
        )
    print(text)
    if args.out:
        args.out.write_text(text)


def counted(models: dict[str, ModelConfig]) -> Iterator[Line]:
    """Return the lines of one canvas."""
    any_model = next(iter(models.values()))
    for stage in ("backbone", "neck", "correspondence"):
        for vit, config in models.items():
            yield Line(stage, vit, Size(config), cost(stage, Size(config)))
    for stage in ("prompts", "decoder", "up-sampling", HOST):
        for concepts in (1, 20):
            size = Size(any_model, concepts=concepts)
            yield Line(stage, "", size, host_cost(size) if stage == HOST else cost(stage, size))


def cost(stage: str, size: Size) -> Cost:
    """Count the work of a traced program."""
    function, arguments = STAGES[stage](size)
    traced, results = jax.make_jaxpr(function, return_shape=True)(*arguments)
    is_input_used = used_inputs(traced.jaxpr)
    by_precision = {}
    for precision in ("float32", "bfloat16"):
        shapes = jax.tree.leaves(_in_precision(arguments, precision) if stage == "backbone" else arguments)
        input_bytes = sum(
            _bytes(shape) for shape, is_used in zip(shapes, is_input_used, strict=True) if is_used
        )
        by_precision[precision] = input_bytes + sum(map(_bytes, jax.tree.leaves(results)))
    return Cost(flops_of(traced.jaxpr), by_precision)


def host_cost(size: Size) -> Cost:
    """Return the work on the host: small logits to masks (1 byte a pixel) and a label map (2 bytes)."""
    small, pixels = (4 * size.model.grid) ** 2 * size.concepts, math.prod(IMAGE)
    moved = 4 * small + pixels * size.concepts + 2 * pixels
    return Cost(0, {"float32": moved, "bfloat16": moved})


def used_inputs(program: Jaxpr) -> list[bool]:
    """Return the inputs on which the results depend; an inner program counts as using all of its inputs."""
    needed = {variable for variable in program.outvars if isinstance(variable, Var)}
    for equation in reversed(program.eqns):
        if needed.intersection(equation.outvars):
            needed.update(variable for variable in equation.invars if isinstance(variable, Var))
    return [variable in needed for variable in program.invars]


def table(lines: Sequence[Line], measured: Sequence[dict]) -> str:
    """Format as Markdown; a star marks a bound that memory traffic determines."""
    columns = ["stage", "GFLOP", "MB float32", "MB bfloat16", *(f"{device.name}, ms" for device in DEVICES)]
    rows = []
    for line in lines:
        seconds = _measured_seconds(line, measured)
        bfloat16 = digits(line.cost.bytes["bfloat16"] / 1e6) if line.stage == "backbone" else ""
        rows.append(
            [
                _name(line),
                digits(line.cost.flops / 1e9) if line.cost.flops else "",
                digits(line.cost.bytes["float32"] / 1e6),
                bfloat16,
                *(_milliseconds(*line.floor(device)) for device in DEVICES),
                *([digits(1000 * seconds) if seconds else ""] if measured else []),
            ]
        )
    if measured:
        columns.append("measured, ms")
    return markdown(columns, rows)


def _measured_seconds(line: Line, measured: Sequence[dict]) -> float | None:
    fields = {
        "stage": line.stage,
        "canvas": line.size.model.canvas,
        "batch": 1,
        "concepts": line.size.concepts,
        "shots": 1,
        "precision": "float32",
    }
    for run in measured:
        if line.vit and run["vit"] != line.vit:
            continue
        for row in run["rows"]:
            if row["ours"] and all(row[name] == value for name, value in fields.items()):
                return row["ours"]["median"]
    return None


def _name(line: Line) -> str:
    if line.vit:
        return f"{line.stage}, {line.vit if line.vit == 'g' else line.vit.upper()}"
    return f"{line.stage}, {line.size.concepts} concept{'s' if line.size.concepts > 1 else ''}"


def _milliseconds(seconds: float, memory: bool) -> str:
    return digits(1000 * seconds) + ("*" if memory else "")


def _in_precision(arguments: tuple, precision: str) -> list:
    """Cast the weights, which come first, to another precision."""
    weights, *inputs = arguments
    return [{name: jax.ShapeDtypeStruct(spec.shape, precision) for name, spec in weights.items()}, *inputs]


def _bytes(shape) -> int:
    return math.prod(shape.shape) * shape.dtype.itemsize


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
