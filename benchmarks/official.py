"""Time the official repository's whole inference beside ours, for `benchmarks.run --official`.

One reference with one or twenty masks, one target, random weights of the same shapes. The official code runs
its forward pass, which encodes both images, in a process of its own; ours runs through the engine in three
ways. All four run in turn.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.engines import random_engine
from benchmarks.measure import Times, alternating, clocked
from benchmarks.tables import digits, markdown
from benchmarks.targets import Target
from benchmarks.torch_side import TorchError, TorchSide
from segic_jax.config import ModelConfig, Precision
from segic_jax.data.preprocess import CanvasImage
from segic_jax.inference.engine import Engine

CONCEPTS = (1, 20)
OFFICIAL = "official"


class Way(NamedTuple):
    """Describe one way to run our inference."""

    cached: bool  # the references are encoded beforehand
    precision: Precision  # of the backbone
    aim: float  # our time over theirs, at most


WAYS = {
    "with the reference": Way(False, "float32", 0.9),
    "cached Context": Way(True, "float32", 0.45),
    "cached Context, bfloat16": Way(True, "bfloat16", 0.25),
}


class Comparison(NamedTuple):
    """Hold the times of all sides for one canvas and number of concepts."""

    canvas: int
    concepts: int
    times: dict[str, Times]  # OFFICIAL and the names of WAYS

    def ratio(self, way: str) -> float:
        """Return our time divided by theirs."""
        return self.times[way].median / self.times[OFFICIAL].median


def compare(
    official: TorchSide, request: dict, models: list[ModelConfig], seconds: float
) -> list[Comparison]:
    """Time the official code and our WAYS for every model and number of concepts, and print each comparison.

    Args:
        request: `TorchSide.build`'s settings for the official code, without canvas and concepts.
        seconds: see `benchmarks.measure.alternating`.

    Raises:
        TorchError: the official code cannot be built, or has another canvas.
    """
    comparisons = []
    for model in models:
        engines = {precision: random_engine(model, precision) for precision in ("float32", "bfloat16")}
        for concepts in CONCEPTS:
            built = official.build("official", **request, canvas=model.canvas, concepts=concepts)
            if built["canvas"] != model.canvas:
                raise TorchError(f"The official code has the canvas {built['canvas']}, not {model.canvas}.")
            sides = {OFFICIAL: official.run}
            for name, way in WAYS.items():
                sides[name] = clocked(_inference(engines[way.precision], concepts, way.cached))
            for run in sides.values():
                run()  # compiles, and does not count
            comparisons.append(Comparison(model.canvas, concepts, alternating(sides, seconds)))
            print(table(comparisons[-1:]), flush=True)
    return comparisons


def table(comparisons: list[Comparison]) -> str:
    """Format the seconds and ratios in Markdown."""
    columns = ["canvas", "concepts", "official, s", "spread"]
    columns += [text for name in WAYS for text in (f"ours {name}, s", "spread", "ratio")]
    rows = []
    for comparison in comparisons:
        row = [str(comparison.canvas), str(comparison.concepts), *_cells(comparison.times[OFFICIAL])]
        for name in WAYS:
            row += [*_cells(comparison.times[name]), f"{comparison.ratio(name):.2f}"]
        rows.append(row)
    return markdown(columns, rows)


def targets(comparisons: list[Comparison]) -> list[Target]:
    """Compare the ratios with the aims."""
    return [
        Target(
            f"concepts: {comparison.concepts}, {comparison.canvas} px, {name}: "
            "our time over the official code's",
            f"at most {way.aim}",
            f"{comparison.ratio(name):.2f}",
            comparison.ratio(name) <= way.aim,
        )
        for comparison in comparisons
        for name, way in WAYS.items()
    ]


def as_dict(comparison: Comparison) -> dict:
    """Return a comparison for JSON, with the ratios."""
    return {
        "canvas": comparison.canvas,
        "concepts": comparison.concepts,
        "times": {name: times._asdict() for name, times in comparison.times.items()},
        "ratios": {name: comparison.ratio(name) for name in WAYS},
    }


def _inference(engine: Engine, concepts: int, cached: bool) -> Callable[[], object]:
    """Return a function that gives the logits of concepts that read each other's tokens, on the canvas."""
    canvas, rng = engine.config.canvas, np.random.default_rng(0)
    masks = np.zeros((concepts, canvas, canvas), bool)
    for i in range(concepts):  # strips of the image
        masks[i, i * canvas // concepts : (i + 1) * canvas // concepts] = True
    reference, target = (
        CanvasImage(rng.integers(0, 256, (canvas, canvas, 3), np.uint8), masks, (canvas, canvas))
        for _ in range(2)
    )
    text = np.tile(engine.bundle.text_feature(), (1, concepts, 1))

    def encode():
        pooled = engine.pool(engine.features([reference], 1), masks[None])
        return engine.prototypes(np.asarray(pooled)[:, :, None], text)

    context = encode() if cached else None

    def segment():
        prototypes = context or encode()
        return jax.block_until_ready(engine.decode(engine.features([target], 1), prototypes).logits)

    return segment


def _cells(times: Times) -> tuple[str, str]:
    return digits(times.median), f"{digits(times.least)} - {digits(times.most)}"
