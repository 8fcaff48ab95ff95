"""Three ways to use several references, compared: `python -m studies.kshot`.

mean: one token and one cosine map, of the mean feature. tokens: a token for each shot, the map of the mean.
max: a token for each shot, the largest of the shots' cosine maps. `mean` is what the API and eval.py use.
"""

import sys
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import numpy as np
import tyro

from segic_jax.config import ModelConfig
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.evaluate.episodes import make_tasks
from segic_jax.evaluate.infer import judge_all
from segic_jax.evaluate.protocols import find_protocol
from segic_jax.evaluate.rows import row_of, summary
from segic_jax.inference.engine import Decoding, Engine
from segic_jax.models import segic
from segic_jax.models.correspondence import similarity_map
from segic_jax.models.params import Params
from segic_jax.models.segic import Prototypes
from segic_jax.runtime.command_line import run_command
from segic_jax.weights.bundle import Bundle, load_bundle
from segic_jax.weights.fetch import find

OTHERS = ("tokens", "max")


class EachShot(Engine):
    """Run a model with prototypes that keep the shots apart."""

    def __init__(self, bundle: Bundle, way: Literal["tokens", "max"]):
        super().__init__(bundle)
        self.way = way

    def prototypes(self, shots, text) -> Prototypes:
        """Return what `Engine.prototypes` does, with a token a shot."""
        return Prototypes(shots.mean(2), shots, np.ones(shots.shape[:3], bool), text)

    def decode(self, images, prototypes, concepts=None) -> Decoding:
        """Decode one concept, with the map of the mean or the largest of the shots' maps."""
        if self.way == "tokens":
            return super().decode(images, prototypes, concepts)
        return _decode_max(self.config, self.bundle.head, images.features, prototypes)


@partial(jax.jit, static_argnums=0)
def _decode_max(config: ModelConfig, head: Params, features: jax.Array, prototypes: Prototypes) -> Decoding:
    similarity = similarity_map(features, prototypes.visual[:, 0], config.canvas).max(1, keepdims=True)
    geometric = segic.geometric_prompt(similarity, config.canvas)
    stages = segic.decode_with_prompts(config, head, features, prototypes, geometric)
    return Decoding(segic.upsample(stages.logits, config.canvas), stages.map)


def compare(bundle: Bundle, source: EmojiSource, shots: int) -> dict[str, dict]:
    """The scores of each way, in per cent."""
    manifest = source.manifest("original", 0, shots)
    engines = {"segic": Engine(bundle)} | {way: EachShot(bundle, way) for way in OTHERS}
    protocol = find_protocol("original")
    tasks = make_tasks(bundle, source, [manifest])
    rows = list(judge_all(engines, source, tasks, lambda answer: row_of(answer, protocol)))
    result = summary(rows, [manifest], protocol, {})
    return {"mean": result["scores"]} | {way: result["baselines"][way] for way in OTHERS}


@dataclass
class Args:
    """Print a table of mIoU, by way and number of shots, on the emoji benchmark."""

    weights: str = ""
    """Model file, or a name of `segic weights list`."""
    split: Literal["validation", "novel"] = "novel"
    """Classes: validation to choose by, novel to report."""
    shots: tuple[int, ...] = (1, 2, 5)
    """References an episode."""


def main(args: Args) -> None:
    """One line a number of shots."""
    bundle, source = load_bundle(find(args.weights)), EmojiSource(args.split)
    print("| shots | " + " | ".join(("mean", *OTHERS)) + " |\n| --- | --- | --- | --- |")
    for shots in args.shots:
        scores = compare(bundle, source, shots)
        print(
            f"| {shots} | " + " | ".join(f"{one['miou']:.1f}" for one in scores.values()) + " |", flush=True
        )


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
