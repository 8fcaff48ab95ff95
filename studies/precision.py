"""Measure what a backbone in bfloat16 changes: `python -m studies.precision`.

The same episodes are predicted with the backbone in float32 and in bfloat16; the head is in float32 in both.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from segic_jax.commands.command_line import run_command
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.episodes import EpisodeSource
from segic_jax.data.sources.folder import FolderSource
from segic_jax.evaluate.episode_stream import Prediction, predict_episodes
from segic_jax.evaluate.episode_tasks import make_tasks
from segic_jax.evaluate.metrics import mask_iou
from segic_jax.evaluate.protocols import find_protocol, predicted_mask, prediction_row, summarise_rows
from segic_jax.inference.engine import Engine
from segic_jax.weights.bundle import Bundle, load_bundle
from segic_jax.weights.fetch import find


def compare(bundle: Bundle, source: EpisodeSource, limit: int | None = None) -> dict[str, float]:
    """Compare the precisions on all episodes, or on the first `limit`.

    Returns:
        `float32` and `bfloat16`, mIoU in per cent; `between`, the mean IoU in per cent of the two masks of an
        episode, where either is not empty.
    """
    manifest = source.manifest("original", 0, 1)
    protocol = find_protocol("original")
    engines = {"segic": Engine(bundle, precision="float32"), "bfloat16": Engine(bundle, precision="bfloat16")}

    def score(prediction: Prediction) -> tuple[dict, float]:
        image_size = prediction.target.mask.shape
        masks = [predicted_mask(prediction, name, image_size) for name in engines]
        return prediction_row(prediction, protocol), mask_iou(*masks)

    tasks = make_tasks(bundle, source, [manifest])[:limit]
    rows, between = zip(*predict_episodes(engines, source, tasks, score), strict=True)
    result = summarise_rows(rows, [manifest], protocol)
    return {
        "float32": result["scores"]["miou"],
        "bfloat16": result["baselines"]["bfloat16"]["miou"],
        "between": 100 * float(np.nanmean(between)),
    }


@dataclass
class Args:
    """Print mIoU in both precisions on emoji or a folder of images, and how much their masks agree."""

    weights: str = "emoji-tiny"
    """A name from `segic weights list`, or a model file."""
    split: Literal["validation", "novel"] = "novel"
    """Classes of the emoji benchmark."""
    data_root: Path | None = None
    """A folder in the layout of `segic eval --benchmark folder`, in place of emoji."""


def main(args: Args) -> None:
    """Print three lines."""
    source = FolderSource(args.data_root) if args.data_root else EmojiSource(args.split)
    scores = compare(load_bundle(find(args.weights)), source)
    for name in ("float32", "bfloat16"):
        print(f"{name:10} mIoU {scores[name]:.2f}")
    print(f"IoU of the masks of the two precisions {scores['between']:.2f}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
