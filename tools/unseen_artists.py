"""Does a model find things that are drawn by artists whom no stage of its training saw?

    python tools/unseen_artists.py --workdir outputs/unseen

Trains `configs/emoji_short.py` with all artists and without some of them. Both models are then scored twice
on novel classes: as the left-out artists alone drew them, in the target, in the reference and beside; and as
the others did. Stopped, it goes on.
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
    """For both trainings and the scores."""
    artists: tuple[str, ...] = ("twemoji", "fxemoji")
    """The ones that are left out; names as in segic_jax/data/emoji/LICENSES.md."""
    config: Path = ROOT / "configs" / "emoji_short.py"
    """Of the trainings."""


def main(args: Args) -> int:
    """Returns the exit code."""
    config, protocol = load_config(args.config), find_protocol("original")
    everybody = {artist for one in SpriteBank.load("base").classes for artist in one.artists}
    trainings = {
        "with all artists": everybody,
        "without " + ", ".join(args.artists): everybody - {*args.artists},
    }
    for name, artists in trainings.items():
        workdir = args.workdir.resolve() / name.replace(", ", "_").replace(" ", "_")
        with drawn_by(artists, at_least=1):
            code = run(config, workdir)
        if not (workdir / MODEL).is_file():  # it failed, or was stopped
            return code
        bundle = load_bundle(workdir / MODEL)
        for shown, drawing in (
            ("the left out", {*args.artists}),
            ("the others", everybody - {*args.artists}),
        ):
            with drawn_by(drawing, at_least=2):
                source = EmojiSource()
            manifests = [source.manifest("original", 0, 1)]
            evaluation = EpisodeEvaluation(bundle, BENCHMARK, source, manifests, protocol=protocol)
            result = run_evaluation(evaluation, workdir / f"scores_{shown.replace(' ', '_')}")
            print(f"Trained {name}, scored on drawings of {shown}:\n{evaluation.table(result)}", flush=True)
    return 0


@contextmanager
def drawn_by(artists: set[str], at_least: int) -> Iterator[None]:
    """Banks hold the drawings of `artists` alone, and the classes that have so many of them."""
    load = SpriteBank.load

    def some(split: Split) -> SpriteBank:
        bank = load(split)
        classes = [
            dataclasses.replace(one, artists=tuple(artist for artist in one.artists if artist in artists))
            for one in bank.classes
        ]
        return dataclasses.replace(bank, classes=[one for one in classes if len(one.artists) >= at_least])

    SpriteBank.load = some
    try:
        yield
    finally:
        SpriteBank.load = load


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
