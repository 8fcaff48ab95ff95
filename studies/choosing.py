"""Compare the methods on the models of the package: `python -m studies.choosing`.

Methods are the trained head, the training-free method, the sum of their logits, and the similarity map at its
best threshold, which is chosen on the images that it is measured on and therefore flattered. Sets are folders
of photographs with masks and composed photographs with small objects, for the model of photographs, and the
novel classes of the emoji benchmark for that of emoji. Scores are kept in --out, so that a run that was
stopped goes on; the times need a machine without other work. How well presence is told is measured by
`segic calibrate`.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro

from segic_jax.commands.command_line import run_command
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.episodes import EpisodeSource
from segic_jax.data.sources.folder import FolderSource
from segic_jax.evaluate.calibration import count_at_thresholds
from segic_jax.evaluate.episode_stream import Prediction, predict_episodes
from segic_jax.evaluate.episode_tasks import make_tasks
from segic_jax.evaluate.protocols import find_protocol, prediction_row, summarise_rows
from segic_jax.evaluate.runner import spread
from segic_jax.inference.engine import Engine
from segic_jax.inference.methods import make_engine
from segic_jax.runtime.atomic_write import atomic_write, make_folder
from segic_jax.weights.bundle import load_bundle
from segic_jax.weights.fetch import find
from studies.choosing_cost import FREE, HEAD, MAP, measure_cost
from studies.cutouts import FolderMaterial
from studies.extensions import score_rows
from studies.small_objects import SmallObjects

BOTH = "both"  # logits of head and training-free method, added
METHODS = {"trained head": HEAD, "training-free": FREE, "both added": BOTH, "similarity map": MAP}
MODELS = PHOTOGRAPHS, EMOJI = "photo", "emoji-tiny"


def evaluate(model: str, source: EpisodeSource, limit: int | None) -> dict[str, list]:
    """Return the rows of episodes of one shot, scored by the head; those of other methods are baselines."""
    bundle = load_bundle(find(model))
    manifest, protocol = source.manifest("original", 0, 1), find_protocol("original")
    tasks = spread(make_tasks(bundle, source, [manifest]), limit)
    engines = {HEAD: Engine(bundle), FREE: make_engine(bundle, "training_free")}

    def row(prediction: Prediction) -> dict:
        logits = prediction.logits
        added = prediction._replace(logits=logits | {BOTH: logits[HEAD] + logits[FREE]})
        return prediction_row(added, protocol) | {MAP: count_at_thresholds(prediction)}

    rows = list(predict_episodes(engines, source, tasks, row, similarity=True))
    return {"rows": _at_best_threshold(rows)}


def _at_best_threshold(rows: Sequence[dict]) -> list[dict]:
    """Return rows with the similarity map as a baseline, at the threshold of the largest mean IoU."""
    counts = [np.array(row.pop(MAP)) for row in rows]
    sums: dict[object, np.ndarray] = {}
    for row, count in zip(rows, counts, strict=True):
        sums[row["class"]] = sums.get(row["class"], 0) + count
    ious = [intersection / np.maximum(union, 1) for intersection, union in sums.values()]
    best = int(np.mean(ious, axis=0).argmax())
    for row, count in zip(rows, counts, strict=True):
        row["baselines"][MAP] = count[:, best].tolist()
    return list(rows)


def summarise(source: EpisodeSource, rows: Sequence[dict]) -> dict[str, dict]:
    """Return the scores of each method, in per cent."""
    result = summarise_rows(rows, [source.manifest("original", 0, 1)], find_protocol("original"))
    return {HEAD: result["scores"], **result["baselines"]}


@dataclass
class Args:
    """Print a table of scores, and one of time and memory."""

    data_root: tuple[Path, ...]
    """Folders of photographs in the layout of `segic eval --benchmark folder`."""
    backgrounds: Path
    """A folder of photographs: on them, objects of the first folder are composed as small ones."""
    scenes: int = 48
    """Composed scenes with small objects."""
    limit: int = 128
    """Episodes of the emoji benchmark."""
    rounds: int = 0
    """How often a call is timed; 0 leaves time and memory out."""
    out: Path = Path("outputs/choosing")
    """Keeps the scores."""


def main(args: Args) -> None:
    """Measure what is not kept yet, and print the tables."""
    make_folder(args.out)
    folders = {root.name: FolderSource(root) for root in args.data_root}
    small = SmallObjects(FolderMaterial(args.data_root[0], args.backgrounds), args.scenes)
    sources: dict[str, EpisodeSource] = {**folders, small.name: small, "emoji": EmojiSource("novel")}
    scores: dict[str, dict[str, dict]] = {model: {} for model in MODELS}
    gains = []
    for name, source in sources.items():
        model, limit = (EMOJI, args.limit) if name == "emoji" else (PHOTOGRAPHS, None)
        file = args.out / f"{model}_{name.replace(' ', '_')}.json"
        rows = _kept(file, partial(evaluate, model, source, limit))["rows"]
        scores[model][name] = summarise(source, rows)
        gains += [f"{model}, {name}, {line}" for line in _gains(rows)]
    print_table(sources, {model: partial(_score, found) for model, found in scores.items()})
    print("\n" + "\n".join(gains))
    if args.rounds:
        print("\n| model | method | seconds an image | peak memory, MB |\n| --- | --- | --- | --- |")
        for model in MODELS:
            for label, method in METHODS.items():
                if method == BOTH:
                    continue
                cost = measure_cost(model, method, folders[args.data_root[0].name], args.rounds)
                print(f"| `{model}` | {label} | {cost.seconds:.2f} | {cost.peak / 1e6:.0f} |", flush=True)


def print_table(sets: Iterable[str], cells: Mapping[str, Callable[[str, str], str]]) -> None:
    """Print a row for each model and method; a cell is a function of method and set."""
    print(f"| model | method | {' | '.join(sets)} |")
    print("| --- | --- |" + " --- |" * len(list(sets)))
    for model, cell in cells.items():
        for label, method in METHODS.items():
            print(f"| `{model}` | {label} | {' | '.join(cell(method, name) for name in sets)} |")


def _gains(rows: Sequence[dict]) -> Iterator[str]:
    """Yield what each method is above the head and above the map, with intervals over classes."""
    keys = {label: None if key == HEAD else key for label, key in METHODS.items()}
    for plain in (label for label, key in METHODS.items() if key in (HEAD, MAP)):
        scores = score_rows(rows, keys, plain)
        others = "; ".join(f"{label} {score}" for label, score in scores.items() if label != plain)
        yield f"beside the {plain} ({scores[plain].miou:.1f}): {others}"


def _score(found: Mapping[str, Mapping], method: str, name: str) -> str:
    if name not in found:
        return ""
    scores = found[name][method]
    low, high = scores["interval_95"]
    return f"{scores['miou']:.1f} ({low:.1f} - {high:.1f})"


def _kept(file: Path, measure: Callable[[], dict]) -> dict:
    """Return what the file holds, or measure it and write it."""
    if not file.exists():
        atomic_write(file, json.dumps(measure(), indent=1).encode())
    return json.loads(file.read_bytes())


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
