"""Score a model on drawings by artists that were left out of all its training.

    python tools/unseen_artists.py --workdir outputs/unseen

Trains `configs/emoji_short.py` with all artists and without some of them. Scores both models on novel
classes, once with drawings by the left-out artists only, and once with drawings by the others. Run it again
to resume.
"""

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro

from segic_jax.data.emoji.source import BENCHMARK, EmojiSource
from segic_jax.data.emoji.sprites import Split, SpriteBank
from segic_jax.evaluate.episodes import EpisodeEvaluation
from segic_jax.evaluate.protocols import find_protocol
from segic_jax.evaluate.runner import run_evaluation
from segic_jax.train.experiment import load_config
from segic_jax.train.run import MODEL, run
from segic_jax.weights.bundle import load_bundle

ROOT = Path(__file__).parents[1]


@dataclass
class Args:
    workdir: Path
    """Folder for both trainings and the scores."""
    artists: tuple[str, ...] = ("twemoji", "fxemoji")
    """Artists to leave out, named as in segic_jax/data/emoji/LICENSES.md."""
    config: Path = ROOT / "configs" / "emoji_short.py"
    """Training configuration."""


def main(args: Args) -> int:
    """Train and score; return the exit code."""
    config, protocol = load_config(args.config), find_protocol("original")
    all_artists = {
        artist for sprite_class in SpriteBank.load("base").classes for artist in sprite_class.artists
    }
    trainings = {
        "with all artists": all_artists,
        "without " + ", ".join(args.artists): all_artists - {*args.artists},
    }
    for name, artists in trainings.items():
        workdir = args.workdir.resolve() / name.replace(", ", "_").replace(" ", "_")
        with drawn_by(artists, at_least=1):
            code = run(config, workdir)
        if not (workdir / MODEL).is_file():  # it failed, or was stopped
            return code
        bundle = load_bundle(workdir / MODEL)
        for group, drawing in (
            ("left_out", {*args.artists}),
            ("others", all_artists - {*args.artists}),
        ):
            with drawn_by(drawing, at_least=2):
                source = EmojiSource()
            manifests = [source.manifest("original", 0, 1)]
            evaluation = EpisodeEvaluation(bundle, BENCHMARK, source, manifests, protocol=protocol)
            result = run_evaluation(evaluation, workdir / f"scores_{group}")
            print(
                f"Trained {name}, scored on drawings by artists {group}:\n{evaluation.table(result)}",
                flush=True,
            )
    return 0


@contextmanager
def drawn_by(artists: set[str], at_least: int) -> Iterator[None]:
    """Restrict sprite banks to the drawings of `artists`, and to classes with at least that many of them."""
    load = SpriteBank.load

    def restricted(split: Split) -> SpriteBank:
        bank = load(split)
        classes = [
            dataclasses.replace(entry, artists=tuple(artist for artist in entry.artists if artist in artists))
            for entry in bank.classes
        ]
        return dataclasses.replace(
            bank, classes=[entry for entry in classes if len(entry.artists) >= at_least]
        )

    SpriteBank.load = restricted
    try:
        yield
    finally:
        SpriteBank.load = load


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
