"""Compare three ways to use several references: `python -m studies.kshot`.

mean: one token and one similarity map, of the mean feature. tokens: a token for each shot, and the map of the
mean. max: a token for each shot, and the largest of the shots' similarity maps. The API and `segic eval` use
`mean`.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro
from jaxtyping import Float

from segic_jax.commands.command_line import run_command
from segic_jax.config import ModelConfig
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.sources.folder import FolderSource
from segic_jax.evaluate.episode_stream import predict_episodes
from segic_jax.evaluate.episode_tasks import make_tasks
from segic_jax.evaluate.protocols import find_protocol, prediction_row, summarise_rows
from segic_jax.inference.engine import Decoding, Engine, ImageFeatures
from segic_jax.models import segic
from segic_jax.models.correspondence import similarity_map
from segic_jax.models.encoding import Prototypes
from segic_jax.models.features import Features
from segic_jax.models.params import Params
from segic_jax.weights.bundle import Bundle, load_bundle
from segic_jax.weights.fetch import find

Way = Literal["tokens", "max"]
METHODS: tuple[Way, ...] = ("tokens", "max")


class ShotEngine(Engine):
    """Run a model with prototypes that keep the shots apart."""

    def __init__(self, bundle: Bundle, way: Way):
        super().__init__(bundle)
        self.way = way

    def prototypes(
        self,
        shots: Float[np.ndarray, "rows concepts shots channels"],
        text: Float[np.ndarray, "rows concepts text_width"],
    ) -> Prototypes:
        """Return what `Engine.prototypes` returns, with a token for each shot."""
        return Prototypes(shots.mean(2), shots, np.ones(shots.shape[:3], bool), text)

    def decode(self, images: ImageFeatures, prototypes: Prototypes, concepts=None) -> Decoding:
        """Decode one concept, with the map of the mean or the largest of the shots' maps."""
        if self.way == "tokens":
            return super().decode(images, prototypes, concepts)
        return _decode_max(self.config, self.bundle.head, images.features, prototypes)


@partial(jax.jit, static_argnums=0)
def _decode_max(config: ModelConfig, head: Params, features: Features, prototypes: Prototypes) -> Decoding:
    shots = prototypes.visual[:, 0]
    similarity = similarity_map(features.patches, shots, config.canvas).max(1, keepdims=True)
    geometric = segic.geometric_prompt(similarity, config.canvas)
    levels = segic.level_similarity(config, features.patches, shots)
    if levels is not None:
        geometric = geometric._replace(level_maps=levels.max(1, keepdims=True))
    stages = segic.decode_with_prompts(config, head, features, prototypes, geometric)
    return Decoding(segic.upsample(stages.logits, config.canvas), stages.map, stages.logits)


def compare(bundle: Bundle, source: EmojiSource | FolderSource, shots: int) -> dict[str, dict]:
    """Return the scores of each method, in per cent."""
    manifest = source.manifest("original", 0, shots)
    engines = {"segic": Engine(bundle)} | {method: ShotEngine(bundle, method) for method in METHODS}
    protocol = find_protocol("original")
    tasks = make_tasks(bundle, source, [manifest])
    rows = list(predict_episodes(engines, source, tasks, lambda p: prediction_row(p, protocol)))
    result = summarise_rows(rows, [manifest], protocol)
    return {"mean": result["scores"]} | {method: result["baselines"][method] for method in METHODS}


@dataclass
class Args:
    """Print a table of mIoU, by method and number of shots, on the emoji benchmark or a folder of images."""

    weights: str = "emoji-tiny"
    """A name from `segic weights list`, or a model file."""
    split: Literal["validation", "novel"] = "novel"
    """Classes of emoji: validation to choose by, novel to report."""
    data_root: Path | None = None
    """A folder in the layout of `segic eval --benchmark folder`, in place of emoji."""
    shots: tuple[int, ...] = (1, 2, 5)
    """References for each episode."""


def main(args: Args) -> None:
    """Print a line for each number of shots."""
    bundle = load_bundle(find(args.weights))
    source = FolderSource(args.data_root) if args.data_root else EmojiSource(args.split)
    print("| shots | " + " | ".join(("mean", *METHODS)) + " |\n| --- | --- | --- | --- |")
    for shots in args.shots:
        scores = compare(bundle, source, shots)
        values = " | ".join(f"{method['miou']:.1f}" for method in scores.values())
        print(f"| {shots} | {values} |", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
