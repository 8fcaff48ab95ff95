"""Run the rows of the table one after the other, and store the finished ones.

OUT holds `settings.json`; scenes and features in `bank/`; a file for each finished row in `heads/` and
`rows/`; and `table.md`, `table.json` and `plot.png`, which are written again after every row. A run that was
killed continues with the first unfinished row.
"""

import dataclasses
import json
import shutil
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from segic_jax.config import Config, to_dict
from segic_jax.data.emoji.source import SCENE_SIDE, SCENES
from segic_jax.errors import ConfigError
from segic_jax.models.params import Params, as_float32
from segic_jax.runtime.atomic_write import atomic_write
from segic_jax.train.checkpoint import fingerprint
from segic_jax.weights.convert import read_frozen
from segic_jax.weights.fetch import find
from segic_jax.weights.safetensors_file import write_safetensors
from studies.ablation import report
from studies.ablation.backbones import random_backbone, short_backbone
from studies.ablation.evaluation import PixelCounts, evaluate
from studies.ablation.features import BackboneInput, FeatureStore
from studies.ablation.scenes import NOVEL, Size
from studies.ablation.training import train_head
from studies.ablation.variants import DEFAULT, Variant, choose_variants, make_variants


@dataclass(frozen=True)
class Budget:
    """Set the sizes that are the same for every row."""

    steps: int | None = None  # of a head; None: the configuration's
    backbone_steps: int = 400  # of the two short backbones
    size: Size = field(default_factory=Size)


FULL = Budget()
QUICK = Budget(steps=4, backbone_steps=2, size=Size(training=64, views=16, classes=3))


def run_ablation(config: Config, out: Path, *, only: str = "", budget: Budget = FULL) -> list[dict]:
    """Run the unfinished rows, and return the table (`report.make_table`).

    Args:
        only: a group or a row; the default, which all rows are compared with, is run as well.

    Raises:
        ConfigError: an unknown `only`, no backbone, or `out` holds an ablation with other settings.
        InputError: the backbone cannot be read, the disk is full.
        TrainingError: a loss is not finite.
    """
    if not config.backbone:
        raise ConfigError("The configuration names no backbone: give its weights with --backbone.")
    if config.model.backbone.fine_widths:
        raise ConfigError("The ablation stores the features of patches only: leave fine_blocks empty.")
    variants = make_variants(config.model.canvas, config.model.backbone.stride)
    rows = choose_variants(variants, only)
    if budget.steps:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=budget.steps))
    supervised = as_float32(read_frozen(find(config.backbone), config.model.backbone).backbone)
    settings = _settings(config, budget, supervised)
    _claim(out, settings)
    _require_room(out, config, budget.size)
    store = _feature_store(config, out, budget, supervised)

    def results() -> dict[str, dict[str, PixelCounts]]:
        return {row.name: counts for row in variants if (counts := _read(out, row.name))}

    def write_report(missing: list[Variant]) -> list[dict]:
        table = report.make_table(variants, results())
        report.write(out, table, missing, settings)
        return table

    begin, ran = time.monotonic(), 0
    todo = [row for row in rows if row.name not in results()]
    for number, row in enumerate(todo):
        counts, loss = _run(row, config, store, out)
        _keep(out, row.name, counts, loss)
        ran += not row.head_of
        left = sum(not later.head_of for later in todo[number + 1 :])
        minutes = (time.monotonic() - begin) / 60
        score = report.make_table([row], results())[0]["scores"][report.VALIDATION]["miou"]
        print(
            f"{row.group}, {row.title}: {score.value:.1f} [{score.low:.1f}, {score.high:.1f}]   "
            f"{minutes:.0f} min, {left} heads left: about {minutes / max(ran, 1) * left:.0f} min",
            flush=True,
        )
        done = results()
        write_report([variant for variant in variants if variant.name not in done])
        if row.input != BackboneInput() and not any(later.input == row.input for later in todo[number + 1 :]):
            store.delete(row.input)
    done = results()
    missing = [row for row in variants if row.name not in done]
    table = write_report(missing)
    if not missing:
        # The novel classes are evaluated at the very end, and only for what was chosen without them.
        for row in variants:
            if row.name in (DEFAULT, report.winner(table)) and NOVEL not in done[row.name]:
                novel = evaluate(NOVEL, row, _head(out, row.name), store)
                _keep(out, row.name, done[row.name] | {NOVEL: novel}, None)
        table = write_report([])
    return table


def _run(
    row: Variant, config: Config, store: FeatureStore, out: Path
) -> tuple[dict[str, PixelCounts], float | None]:
    """Train the row's head, or use that of the row it names, and evaluate it on the lists of episodes."""
    loss = None
    if row.head_of:
        head = _head(out, row.head_of)
    else:
        head, loss = train_head(row, config, store)
        file = _head_file(out, row.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(file, head, {})
    return {part: evaluate(part, row, head, store) for part in report.COLUMNS}, loss


def _feature_store(config: Config, out: Path, budget: Budget, supervised: Params) -> FeatureStore:
    model, seed = config.model, config.train.seed
    short = {
        positives: partial(
            short_backbone,
            positives,
            model,
            budget.backbone_steps,
            seed,
            out / f"backbones/{positives}.safetensors",
        )
        for positives in ("drawings", "classes")
    }
    others = {"supervised": lambda: supervised, "random": partial(random_backbone, model, seed)}
    return FeatureStore(out / "bank", model, others | short, budget.size, seed)


def _settings(config: Config, budget: Budget, backbone: Params) -> dict:
    """Return everything that the table depends on."""
    parts = {name: to_dict(getattr(config, name)) for name in ("model", "data", "optim", "train")}
    return parts | {"budget": to_dict(budget), "backbone": fingerprint(backbone)}


def _claim(out: Path, settings: dict) -> None:
    file = out / "settings.json"
    settings = json.loads(json.dumps(settings))  # tuples become lists
    if file.exists():
        stored = json.loads(file.read_text("utf-8"))
        if different := [name for name in settings if settings[name] != stored.get(name)]:
            raise ConfigError(
                f"{out} holds an ablation with other settings ({', '.join(different)}): give another folder, "
                "or the same settings to continue."
            )
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(file, json.dumps(settings, indent=1).encode())


def _require_room(out: Path, config: Config, size: Size) -> None:
    """Check the free space: a full disk would kill the process, whose files are mapped into memory."""
    grid, width = config.model.grid, config.model.backbone.width
    scenes = size.training + size.views + 3 * SCENES * size.classes
    # Images and labels, and features of two kinds at a time, of which one may be of a larger canvas.
    needed = scenes * (4 * SCENE_SIDE**2 + 6 * grid**2 * width)
    if not (out / "bank").exists() and shutil.disk_usage(out).free < needed:
        raise ConfigError(
            f"{out} needs {needed / 1e9:.1f} GB for scenes and features, more than is free there."
        )


def _head_file(out: Path, name: str) -> Path:
    return out / f"heads/{name}.safetensors"


def _head(out: Path, name: str) -> dict[str, np.ndarray]:
    return load_file(_head_file(out, name))


def _keep(out: Path, name: str, counts: dict[str, PixelCounts], loss: float | None) -> None:
    lists = {
        part: {name: array.tolist() for name, array in pixels._asdict().items()}
        for part, pixels in counts.items()
    }
    file = out / f"rows/{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, json.dumps({"name": name, "loss": loss, "counts": lists}).encode())


def _read(out: Path, name: str) -> dict[str, PixelCounts] | None:
    file = out / f"rows/{name}.json"
    if not file.exists():
        return None
    counts = json.loads(file.read_text("utf-8"))["counts"]
    return {
        part: PixelCounts(*(np.array(pixels[name]) for name in PixelCounts._fields))
        for part, pixels in counts.items()
    }
