"""Time the stages of inference, and compare them with PyTorch where it is installed.

    python -m benchmarks.run                    every stage, 448 and 896 pixels
    python -m benchmarks.run --quick            takes minutes
    python -m benchmarks.run --official DIR     the official repository's whole inference

PyTorch runs the same work in a child process, in turn with ours: Hugging Face's Dinov2Model with
scaled-dot-product attention for the backbone (torch.compile on a GPU), transformers' SAM mask decoder for the
decoder. Random weights; nothing is downloaded. A ratio below 1 means that ours takes less time.
"""

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from benchmarks import matrix, official, stages
from benchmarks.conditions import choose_device, conditions
from benchmarks.measure import Bench, Row, as_dict
from benchmarks.tables import row_line, row_table, target_table
from benchmarks.targets import cpu_targets, gpu_targets
from benchmarks.torch_side import TorchSide, has_torch, request_for
from segic_jax.config import ModelConfig
from segic_jax.errors import ConfigError, InputError


@dataclass
class Args:
    device: Literal["", "cpu", "gpu"] = ""
    """Device; the default device of JAX if empty."""
    quick: bool = False
    """Canvas 448, batches 1 and 8, 1 and 20 concepts, one shot."""
    vit: Literal["b", "l", "g"] = "b"
    """DINOv2 backbone."""
    canvas: tuple[int, ...] = (448, 896)
    """Sides of the canvas in pixels, multiples of 14."""
    stages: tuple[str, ...] = ()
    """Stages to measure."""
    seconds: float = 0.4
    """Seconds to time a cell, after one warm-up; at least three rounds run."""
    longest: float = 40.0
    """Cells whose runs are expected to take more seconds are left out, and listed."""
    official: Path | None = None
    """Checkout of the official repository: time its whole inference, and no stages but --stages."""
    official_python: Path | None = None
    """Python interpreter of its environment; this one by default."""
    official_dinov2: Path | None = None
    """Checkout of DINOv2: random weights instead of downloads, stand-ins for packages that are missing."""
    out: Path = Path("outputs/benchmark")
    """Folder for run.json and run.md."""


def main(args: Args) -> None:
    """Measure, print and write.

    Raises:
        ConfigError: there is no such device or stage.
        TorchError: `official` is not a checkout, or cannot be built.
    """
    unknown = [name for name in args.stages if name not in matrix.ALL]
    if unknown:
        raise ConfigError(
            f"--stages {unknown[0]}: there is no such stage; there are {', '.join(matrix.ALL)}."
        )
    choose_device(args.device)
    canvases = args.canvas[:1] if args.quick else args.canvas
    models = [stages.model(args.vit, canvas) for canvas in canvases]
    args.out.mkdir(parents=True, exist_ok=True)  # an unwritable folder is known before the measurement
    measure(args, models)


def measure(args: Args, models: list[ModelConfig]) -> None:
    """Measure the cells of every model, then the targets."""
    import jax

    device = jax.default_backend()
    with ExitStack() as ends:
        torch = ends.enter_context(TorchSide(device)) if has_torch() else None
        about = conditions(torch.about if torch else None)
        print("".join(f"{name}: {value}\n" for name, value in about.items()), flush=True)
        bench = Bench(args.seconds, args.longest, torch)
        rows: list[Row] = []
        comparisons = _official(args, models, device) if args.official else []
        if args.stages or not args.official:
            for model in models:
                for stage, size in matrix.cells(model, args.stages, args.quick):
                    rows.append(bench.row(stage, size, request_for(stage, size)))
                    print(row_line(rows[-1]), flush=True)
        targets, target_rows = gpu_targets(bench)
        rows += target_rows
    if device == "cpu" and args.vit == "b":
        targets = cpu_targets(rows) + official.targets(comparisons) + targets
    text = row_table(rows) + "\n" + target_table(targets)
    if comparisons:
        text = official.table(comparisons) + "\n" + text
    print("\n" + text)
    (args.out / "run.md").write_text(text)
    content = {
        "conditions": about,
        "vit": args.vit,
        "rows": [as_dict(row) for row in rows],
        "official": [official.as_dict(comparison) for comparison in comparisons],
        "targets": [target._asdict() for target in targets],
    }
    (args.out / "run.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"{args.out}: run.json, run.md")


def _official(args: Args, models: list[ModelConfig], device: str) -> list[official.Comparison]:
    assert args.official
    with TorchSide(device, args.official_python) as side:
        request = {
            "checkout": str(args.official.resolve()),
            "vit": args.vit,
            "dinov2": args.official_dinov2 and str(args.official_dinov2.resolve()),
        }
        return official.compare(side, request, models, args.seconds)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (InputError, OSError) as error:
        sys.exit(print(error, file=sys.stderr) or 2)
