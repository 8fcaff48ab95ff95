"""Run `segic eval`, which `eval.py` is, on the pairs of a dump, as a process of its own.

The pairs are written as a COCO JSON with PNG images and a list of episodes, and the process gets the
converted model file. Each pair is three episodes, whose ground truths are torch's logits above 0, above TIE
and above -TIE: a mask that is torch's but for ties covers the second and lies within the third, so that the
counts of `episodes.jsonl` tell exactly how many other pixels differ.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

import segic_jax
from segic_jax.config import Precision
from segic_jax.data.episodes import Episode, Manifest
from segic_jax.data.masks import encode
from segic_jax.errors import DumpError
from segic_jax.parity.pairs import TIE, Pair
from segic_jax.runtime.atomic_write import atomic_write

CUTS = (0.0, TIE, -TIE)  # of torch's logits
LIST, COCO = "episodes.jsonl.gz", "pairs.json"


class Counts(NamedTuple):
    """Count the pixels of a pair whose mask of `segic eval` is not torch's."""

    apart: int
    untied: int  # of those, the ones where torch's logit is not within TIE of 0
    iou: float | None  # None if both masks are empty


def write_pairs(pairs: Sequence[Pair], folder: Path) -> None:
    """Write the images, masks and episodes of pairs of one mask each to an existing folder."""
    images, annotations, categories, episodes = [], [], [], []
    for number, pair in enumerate(pairs):
        names = [f"{number}_target.png", f"{number}_reference.png"]
        for offset, (name, image) in enumerate(zip(names, (pair.image, pair.reference), strict=True)):
            _write_png(folder / name, image)
            height, width = image.shape[:2]
            entry = {"id": 2 * number + offset, "file_name": name, "height": height, "width": width}
            images.append(entry)
        for place, cut in enumerate(CUTS):
            class_id = len(CUTS) * number + place
            categories.append({"id": class_id, "name": pair.name})
            for offset, mask in enumerate((pair.torch_logits[0] > cut, pair.masks[0])):
                if mask.any():
                    annotations.append(_annotation(len(annotations), 2 * number + offset, class_id, mask))
            episodes.append(Episode(class_id, names[0], (names[1],)))
    content = {"images": images, "annotations": annotations, "categories": categories}
    atomic_write(folder / COCO, json.dumps(content), DumpError)
    classes = tuple(range(len(categories)))
    Manifest("folder", "segic", 0, 1, classes, tuple(episodes)).write(folder / LIST)


def run_eval(
    pairs: Sequence[Pair], folder: Path, model: Path, precision: Precision, *, rounded_canvas: bool
) -> list[Counts]:
    """Run the command on what `write_pairs` wrote for `pairs`, and return the counts of each.

    Raises:
        DumpError: the command fails; it has said why on standard error.
    """
    out = folder / f"{precision}_{rounded_canvas}"
    # With class names, these protocols differ in the rounding of the canvas alone.
    protocol = "original" if rounded_canvas else "segic"
    command = ["-m", "segic_jax", "eval", "--benchmark", "folder", "--data-root", folder / COCO]
    command += ["--episodes", folder / LIST, "--protocol", protocol, "--class-names", "True"]
    command += ["--baselines", "False", "--weights", model, "--precision", precision, "--out", out]
    paths = [str(Path(segic_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.run(
        [sys.executable, *map(str, command)],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        check=False,
    )
    if process.returncode:
        raise DumpError(f"segic eval ended with exit code {process.returncode} on the pairs of the dump.")
    rows = [json.loads(line) for line in (out / "episodes.jsonl").read_text("utf-8").splitlines()]
    starts = range(0, len(rows), len(CUTS))
    return [_counts(pair, *rows[i : i + len(CUTS)]) for pair, i in zip(pairs, starts, strict=True)]


def _counts(pair: Pair, plain: dict, sure: dict, possible: dict) -> Counts:
    """Count the pixels that the mask lacks of the sure ones, and those it has beyond the possible ones."""
    logits = pair.torch_logits[0]
    missing = int((logits > TIE).sum()) - sure["intersection"]
    beyond = possible["union"] - int((logits > -TIE).sum())
    return Counts(plain["union"] - plain["intersection"], missing + beyond, plain["iou"])


def _write_png(path: Path, image: UInt8[np.ndarray, "height width 3"]) -> None:
    atomic_write(path, cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes(), DumpError)


def _annotation(number: int, image_id: int, class_id: int, mask: Bool[np.ndarray, "height width"]) -> dict:
    return {"id": number, "image_id": image_id, "category_id": class_id, "segmentation": encode(mask)}
