"""Score a model on a benchmark: `python eval.py --benchmark emoji`.

Writes result.json and a sheet of pictures, and prints a table.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from segic_jax.config import InputError
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.episodes import DataError, EpisodeSource
from segic_jax.data.sources.folder import FolderSource
from segic_jax.data.sources.fss1000 import Fss1000Source
from segic_jax.evaluate.report import table, write
from segic_jax.evaluate.run import evaluate
from segic_jax.weights.bundle import load_bundle
from segic_jax.weights.fetch import find


@dataclass
class Args:
    benchmark: Literal["emoji", "folder", "fss1000"] = "emoji"
    """emoji is inside the package; the others read <data-root>/<class>/<n>.jpg and .png."""
    data_root: Path | None = None
    weights: str = ""
    """Model file, or a name of `segic weights list`; the small model inside the package by default."""
    out: Path | None = None  # outputs/eval_BENCHMARK by default
    limit: int | None = None  # score only so many episodes, spread over the list
    batch_size: int = 16
    shots: int = 1
    class_names: bool = False
    """Give the model the class names as text, as the official evaluation does."""
    baselines: bool = True


def make_source(args: Args) -> EpisodeSource:
    if args.benchmark == "emoji":
        return EmojiSource(split="novel", shots=args.shots)
    if args.data_root is None:
        raise DataError(f"--benchmark {args.benchmark} needs --data-root, the folder of its classes.")
    return (FolderSource if args.benchmark == "folder" else Fss1000Source)(args.data_root, shots=args.shots)


def main(args: Args) -> None:
    weights = find(args.weights)
    random = weights.with_name(weights.stem + "_random_backbone.safetensors")
    options = {"batch_size": args.batch_size, "limit": args.limit, "baselines": args.baselines}
    options["class_names"] = args.class_names
    if random.is_file():
        options["random_backbone"] = load_bundle(random)
    report, rows = evaluate(load_bundle(weights), make_source(args), **options)
    out = args.out or Path("outputs") / f"eval_{args.benchmark}"
    write(out, report, rows)
    print(f"{table(report)}\n{out}: result.json, sheet.png")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (InputError, OSError) as error:
        sys.exit(print(error, file=sys.stderr) or 2)
