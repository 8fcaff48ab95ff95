"""Time the engine with the backbone in float32 and in bfloat16: `python -m benchmarks.precisions`.

An image is encoded and one concept decoded on it, for emoji-tiny and for DINOv2's sizes, with
random weights. The two precisions run in turn. `python -m studies.precision` measures what bfloat16 changes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

from benchmarks import stages
from benchmarks.conditions import conditions
from benchmarks.engines import random_engine
from benchmarks.measure import alternating, clocked
from benchmarks.tables import markdown, milliseconds
from segic_jax.config import ModelConfig
from segic_jax.data.preprocess import CanvasImage
from segic_jax.inference.engine import Engine
from segic_jax.weights.bundle import load_bundle
from segic_jax.weights.fetch import find

PRECISIONS = ("float32", "bfloat16")


@dataclass
class Args:
    """Print a table, and write it to a folder."""

    vits: tuple[str, ...] = ("s", "b", "l")
    """DINOv2 backbones."""
    canvas: tuple[int, ...] = (448, 896)
    """Sides of the canvas in pixels, multiples of 14."""
    seconds: float = 5.0
    """Seconds to time a model, after one run that does not count; at least three rounds run."""
    out: Path = Path("outputs/precisions")
    """Folder for precisions.json and precisions.md."""


def main(args: Args) -> None:
    """Measure, print and write."""
    args.out.mkdir(parents=True, exist_ok=True)
    about = conditions(None)
    print("".join(f"{name}: {value}\n" for name, value in about.items()), flush=True)
    models = {"emoji-tiny": load_bundle(find("emoji-tiny")).config} | {
        f"DINOv2-{vit.upper()}, {canvas} px": stages.model(vit, canvas)
        for vit in args.vits
        for canvas in args.canvas
    }
    rows = []
    for name, model in models.items():
        rows.append(measure(name, model, args.seconds))
        print(table(rows[-1:]), flush=True)
    text = table(rows)
    print("\n" + text)
    (args.out / "precisions.md").write_text(text)
    (args.out / "precisions.json").write_text(
        json.dumps({"conditions": about, "rows": rows}, indent=1) + "\n"
    )


def measure(name: str, model: ModelConfig, seconds: float) -> dict:
    """Return a row: the times of both precisions, and bfloat16's over float32's."""
    sides = {precision: clocked(_image(random_engine(model, precision))) for precision in PRECISIONS}
    for run in sides.values():
        run()  # compiles, and does not count
    times = alternating(sides, seconds)
    return {
        "model": name,
        "patches": model.grid**2,
        **{precision: times[precision]._asdict() for precision in PRECISIONS},
        "ratio": times["bfloat16"].median / times["float32"].median,
    }


def table(rows: list[dict]) -> str:
    """Format rows in Markdown."""

    def spread(times: dict) -> str:
        return f"{milliseconds(times['least'])} - {milliseconds(times['most'])}"

    columns = ["model", "patches", "float32, ms", "spread", "bfloat16, ms", "spread", "ratio"]
    lines = []
    for row in rows:
        cells = [(milliseconds(row[name]["median"]), spread(row[name])) for name in PRECISIONS]
        lines.append([row["model"], str(row["patches"]), *cells[0], *cells[1], f"{row['ratio']:.2f}"])
    return markdown(columns, lines)


def _image(engine: Engine) -> Callable[[], object]:
    """Return a function that encodes an image and decodes one concept on it."""
    config = engine.config
    pixels = np.random.default_rng(0).integers(0, 256, (config.canvas, config.canvas, 3), np.uint8)
    image = CanvasImage(pixels, np.zeros((0, config.canvas, config.canvas), bool), (config.canvas,) * 2)
    shots = np.ones((1, 1, 1, config.backbone.width), np.float32)
    prototypes = engine.prototypes(shots, engine.bundle.text_feature()[None, None])
    return lambda: jax.block_until_ready(engine.decode(engine.features([image], 1), prototypes).logits)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
