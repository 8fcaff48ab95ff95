"""Measure how time and memory grow with tokens, concepts, shots, batch and devices; write a table and a plot.

    python -m benchmarks.growth --plot docs/growth.svg

DINOv2-B in float32 with random weights. XLA simulates several devices on one processor, so the memory of each
falls, and the time shows the cost of sharding.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import tyro

from benchmarks.conditions import choose_device, conditions
from benchmarks.measure import Bench
from benchmarks.stages import Size, model
from benchmarks.tables import digits, markdown, mebibytes, milliseconds
from segic_jax.config import ModelConfig, to_dict

ROOT = Path(__file__).parents[1]
COLUMNS = 3  # of the plot


@dataclass
class Args:
    device: Literal["", "cpu", "gpu"] = ""
    """Device; the default device of JAX if empty. Simulated devices are always on the CPU."""
    vit: Literal["b", "l", "g"] = "b"
    """DINOv2 backbone."""
    canvases: tuple[int, ...] = (224, 448, 672, 896)
    """Canvas sides of the backbone's curve, over tokens."""
    canvas: int = 448
    """Canvas sides of the head's curve."""
    small: int = 224
    """Canvas side of the curves over shots, batch and devices."""
    concepts: tuple[int, ...] = (1, 2, 5, 10, 20, 40)
    shots: tuple[int, ...] = (1, 2, 5)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    devices: tuple[int, ...] = (1, 2, 4, 8)
    seconds: float = 0.5
    """Seconds to time a point; at least three rounds run."""
    plot: Path = Path("outputs/benchmark/growth.svg")
    """SVG or PNG file; a table (.md) and the values (.json) are written beside it."""


class Point(NamedTuple):
    """Hold the median seconds of a call, and the temporary bytes of the program on one device."""

    at: int
    seconds: float
    temporary: int


class Curve(NamedTuple):
    """Hold the points of one growing quantity, with all others constant."""

    what: str
    setting: str  # the stage, and the constant quantities
    points: list[Point]


def main(args: Args) -> None:
    """Measure, print and write."""
    choose_device(args.device)
    args.plot.parent.mkdir(parents=True, exist_ok=True)
    about = conditions(None)
    print("".join(f"{name}: {value}\n" for name, value in about.items()), flush=True)
    curves = measured(args)
    text = table(curves)
    print(text)
    args.plot.with_suffix(".md").write_text(text)
    content = {
        "conditions": about,
        "curves": [c._replace(points=[p._asdict() for p in c.points])._asdict() for c in curves],
    }
    args.plot.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    draw(curves, args.plot)


def measured(args: Args) -> list[Curve]:
    """Yield one curve after another."""
    bench = Bench(args.seconds, float("inf"), None)

    def curve(what: str, stage: str, setting: str, sizes: dict[int, Size]) -> Curve:
        points = []
        for at, size in sizes.items():
            row = bench.row(stage, size)
            if row.ours:
                points.append(Point(at, row.ours.median, row.temporary or 0))
                print(f"{what} {at}: {milliseconds(points[-1].seconds)} ms", flush=True)
        return Curve(what, setting, points)

    backbones = [Size(model(args.vit, canvas)) for canvas in args.canvases]
    head, small = model(args.vit, args.canvas), model(args.vit, args.small)
    at, small_canvas = f"{args.canvas} px", f"{args.small} px"
    return [
        curve("tokens", "backbone", "backbone, one image", {size.tokens: size for size in backbones}),
        curve("concepts", "head", f"head, {at}", {n: Size(head, concepts=n) for n in args.concepts}),
        curve(
            "shots",
            "whole with references",
            f"image and references, {small_canvas}",
            {n: Size(small, shots=n) for n in args.shots},
        ),
        curve("batch", "whole", f"images, {small_canvas}", {n: Size(small, batch=n) for n in args.batches}),
        Curve(
            "devices",
            f"{max(args.devices)} images, {small_canvas}",
            [simulated(n, small, max(args.devices), args.seconds) for n in args.devices],
        ),
    ]


def simulated(devices: int, config: ModelConfig, batch: int, seconds: float) -> Point:
    """Measure a batch on that many simulated devices, in a separate process.

    Raises:
        CalledProcessError: the process failed; its messages are on stderr.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    arguments = (json.dumps(to_dict(config)), str(batch), str(seconds))
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.simulated", *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    point = Point(**json.loads(process.stdout.splitlines()[-1]))
    print(f"devices {devices}: {milliseconds(point.seconds)} ms", flush=True)
    return point


def table(curves: Sequence[Curve]) -> str:
    """Format curves as Markdown, with a line for each point and its growth over the first point."""
    lines = []
    for curve in curves:
        first = curve.points[0]
        for point in curve.points:
            lines.append(
                [
                    curve.what if point is first else "",
                    curve.setting if point is first else "",
                    str(point.at),
                    milliseconds(point.seconds),
                    f"{digits(point.seconds / first.seconds)}",
                    mebibytes(point.temporary),
                    f"{digits(point.temporary / first.temporary)}" if first.temporary else "",
                ]
            )
    return markdown(("what grows", "of", "to", "ms", "times", "temp, MiB", "times"), lines)


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Plot a panel for each curve: time on the left axis and memory on the right axis, both from 0."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "growth", "font.size": 8}):
        # As wide as a page of text, where its letters keep their size.
        rows = -(-len(curves) // COLUMNS)
        figure = Figure(figsize=(3 * COLUMNS, 2.6 * rows), layout="constrained")
        for index, curve in enumerate(curves, 1):
            axes = figure.add_subplot(rows, COLUMNS, index)
            at = [point.at for point in curve.points]
            axes.plot(at, [1000 * point.seconds for point in curve.points], "o-", color="C0", markersize=3)
            right = axes.twinx()
            memory = [point.temporary / 2**20 for point in curve.points]
            right.plot(at, memory, "s--", color="C1", markersize=3)
            axes.set(title=curve.setting, xlabel=curve.what, ylim=(0, None), xlim=(0, None))
            right.set(ylim=(0, None))
            axes.set_ylabel("ms", color="C0")
            right.set_ylabel("MiB beside weights and inputs", color="C1")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
