"""What a backbone in bfloat16 changes: `python -m studies.precision`.

The same episodes with the backbone in float32 and in bfloat16, the head in float32 in both.
"""

import dataclasses
import sys
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
import tyro

from segic_jax.data.emoji.source import EmojiSource
from segic_jax.evaluate.episodes import make_tasks
from segic_jax.evaluate.infer import Prediction, judge_all
from segic_jax.evaluate.protocols import find_protocol
from segic_jax.evaluate.rows import mask_of, row_of, summary
from segic_jax.inference.engine import Engine
from segic_jax.runtime.command_line import run_command
from segic_jax.weights.bundle import Bundle, load_bundle
from segic_jax.weights.fetch import find


def in_bfloat16(bundle: Bundle) -> Bundle:
    """The same model with its backbone in bfloat16."""
    backbone = {name: np.asarray(value).astype(jnp.bfloat16) for name, value in bundle.backbone.items()}
    return dataclasses.replace(bundle, backbone=backbone)


def compare(bundle: Bundle, source: EmojiSource, limit: int | None = None) -> dict[str, float]:
    """Of all episodes, or of the first `limit`, in per cent.

    Returns:
        `float32` and `bfloat16`, mIoU; `between`, the mean IoU of one mask with the other where either is
        not empty.
    """
    manifest = source.manifest("original", 0, 1)
    protocol = find_protocol("original")
    engines = {"segic": Engine(bundle), "bfloat16": Engine(in_bfloat16(bundle))}

    def judge(answer: Prediction) -> tuple[dict, float | None]:
        own = answer.shown.mask.shape
        one, other = (mask_of(answer, answer.logits[name], own) for name in engines)
        union = (one | other).sum()
        return row_of(answer, protocol), float((one & other).sum() / union) if union else None

    tasks = make_tasks(bundle, source, [manifest])[:limit]
    rows, between = zip(*judge_all(engines, source, tasks, judge), strict=True)
    result = summary(list(rows), [manifest], protocol, {})
    return {
        "float32": result["scores"]["miou"],
        "bfloat16": result["baselines"]["bfloat16"]["miou"],
        "between": 100 * float(np.mean([one for one in between if one is not None])),
    }


@dataclass
class Args:
    """Print mIoU in both precisions on the emoji benchmark, and how alike the masks are."""

    weights: str = ""
    """Model file, or a name of `segic weights list`."""
    split: Literal["validation", "novel"] = "novel"
    """Classes."""


def main(args: Args) -> None:
    """Three lines."""
    scores = compare(load_bundle(find(args.weights)), EmojiSource(args.split))
    for name in ("float32", "bfloat16"):
        print(f"{name:10} mIoU {scores[name]:.2f}")
    print(f"IoU of the masks of one with those of the other {scores['between']:.2f}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
