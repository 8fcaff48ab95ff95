"""Measure INSID3's candidates as a prompt of a trained head: `python -m studies.hybrid`.

The candidates of the training-free method, patches that match the reference in both directions, stand beside
SegIC's similarity map in the mask prompt, or in its place. The parents are the head with finer levels of
`studies.extensions`, trained alike without candidates, and the training-free method on the same backbone and
canvas. All are evaluated on the same episodes. A training that was stopped goes on when the study runs again.
"""

import dataclasses
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from segic_jax.commands.command_line import run_command
from segic_jax.config import Config, ModelConfig
from segic_jax.data.episodes import EpisodeSource
from segic_jax.data.sources.folder import FolderSource
from segic_jax.errors import TrainingError
from segic_jax.evaluate.episode_stream import predict_episodes
from segic_jax.evaluate.episode_tasks import make_tasks
from segic_jax.evaluate.protocols import find_protocol, prediction_row
from segic_jax.inference.engine import Decoding, Engine, ImageFeatures
from segic_jax.inference.methods import make_engine
from segic_jax.inference.training_free.engine import ReferenceSlots, TrainingFreeEngine
from segic_jax.inference.training_free.settings import TrainingFree
from segic_jax.models.features import Features
from segic_jax.models.params import Params
from segic_jax.models.segic import upsample
from segic_jax.runtime.compile_cache import use_compile_cache
from segic_jax.train.forward import ShotBatch
from segic_jax.train.loop import train
from segic_jax.train.run import MODEL, build, finished_bundle
from segic_jax.weights.bundle import Bundle, load_bundle, save_bundle
from studies.ablation.prompting import Prompting, decode_prompted, training_prompts
from studies.extensions import HeadStudy, Score, score_rows, variant

PARENT, FREE = "finer levels", "training-free"
HYBRIDS = {
    "candidates beside the map": Prompting(extension="mutual_beside"),
    "candidates in place of the map": Prompting(extension="mutual"),
}


class HybridEngine(TrainingFreeEngine):
    """Decode with a head whose prompt has candidates; references are kept as for the training-free method."""

    pool_reference = Engine.pool_reference
    compared_patches = Engine.compared_patches

    def __init__(self, bundle: Bundle, prompting: Prompting):
        super().__init__(bundle, TrainingFree(components=0, stretched=False))
        self.prompting = prompting

    def segment(self, images: ImageFeatures, slots: ReferenceSlots) -> Decoding:
        """Return mask and map of one concept."""
        ((inside, image),) = slots.shots
        grid = self.config.grid
        shots = ShotBatch(
            patches=np.stack([slots.grids[i] for i in image]).reshape(1, len(image), grid, grid, -1),
            inside=inside.reshape(1, 1, -1, grid, grid).astype(np.float32),
            text=np.zeros((1, 1, self.config.text_width), np.float32),
            valid=np.ones((1, 1), bool),
        )
        return _decode(self.prompting, self.config, self.bundle.head, images.features, shots)


@partial(jax.jit, static_argnums=(0, 1))
def _decode(
    prompting: Prompting, config: ModelConfig, head: Params, features: Features, shots: ShotBatch
) -> Decoding:
    stages = decode_prompted(prompting, config, head, features, shots)
    return Decoding(upsample(stages.logits, config.canvas), jnp.asarray(stages.map), stages.logits)


def trained(config: Config, prompting: Prompting, workdir: Path, canvas: int) -> Bundle:
    """Train a head with the prompts, or read the one that was trained, at the canvas of the evaluation."""
    file = workdir / MODEL
    if not file.exists():
        use_compile_cache()
        parts = build(config)
        outcome = train(config, workdir, dataclasses.replace(parts, prompting=training_prompts(prompting)))
        if not outcome.finished:
            raise TrainingError(f"{workdir}: stopped; run the study again to go on.")
        save_bundle(file, finished_bundle(config, parts, outcome.head))
    bundle = load_bundle(file)
    return dataclasses.replace(bundle, config=dataclasses.replace(bundle.config, canvas=canvas))


def compare(parent: Bundle, hybrids: dict[str, Bundle], source: EpisodeSource) -> dict[str, dict[str, Score]]:
    """Return the scores of all heads and the training-free method, for each parent beside it."""
    engines: dict[str, Engine] = {"segic": Engine(parent), FREE: make_engine(parent, "training_free")}
    engines |= {name: HybridEngine(bundle, HYBRIDS[name]) for name, bundle in hybrids.items()}
    protocol = find_protocol("original")
    tasks = make_tasks(parent, source, [source.manifest("original", 0, 1)])
    rows = list(predict_episodes(engines, source, tasks, lambda p: prediction_row(p, protocol)))
    keys = {PARENT: None, **{name: name for name in engines if name != "segic"}}
    return {plain: score_rows(rows, keys, plain) for plain in (PARENT, FREE)}


@dataclass
class Args(HeadStudy):
    """Train the heads one after another and print mIoU in per cent, with what it is above each parent's."""

    steps: int = 300
    """Steps of each training."""
    out: Path = Path("outputs/hybrid")
    """A folder for each training."""


def main(args: Args) -> None:
    """Print a line for each head and set."""
    config = variant(args.training(), PARENT)
    bundles = {
        name: trained(config, prompting, args.out.resolve() / name.replace(" ", "_"), args.canvas)
        for name, prompting in {PARENT: Prompting(), **HYBRIDS}.items()
    }
    parent = bundles.pop(PARENT)
    print(f"| set | method | mIoU and gain over {PARENT} | over {FREE} |\n| --- | --- | --- | --- |")
    for root in args.data_root:
        scores = compare(parent, bundles, FolderSource(root))
        for name in scores[PARENT]:
            print(f"| {root.name} | {name} | {scores[PARENT][name]} | {scores[FREE][name]} |", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
