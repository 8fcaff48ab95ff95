"""A dump of the official code -> one HTML page and one JSON file that say how far this project is from it."""

import json
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import flax
import jax
import jaxlib
import numpy as np

import segic_jax
from segic_jax.errors import DumpError
from segic_jax.evaluate.metrics import mask_iou
from segic_jax.evaluate.report import GREEN, RED
from segic_jax.inference.overlay import draw_mask
from segic_jax.parity.dump import DTYPES, Arrays, Dump, Stage, read_dump, read_pair, replay, sha256
from segic_jax.parity.page import Picture, page


@dataclass(frozen=True)
class Pair:
    """What the page shows of one pair."""

    names: dict[str, str]  # file, reference, mask, target, class_name
    stages: dict[str, list[Stage]]  # by precision
    mask_iou: dict[str, float]  # of torch's mask and ours, by precision; NaN where both are empty
    pictures: list[tuple[Picture, str]]  # with their captions


def write_report(dump: Path, html: Path) -> bool:
    """Replay the dump in float32 and bfloat16 and write the page, and its figures as .json beside it.

    Returns:
        Whether every float32 stage of every pair is within its tolerance.

    Raises:
        InputError: the dump cannot be read, or the page has another ending than .html.
    """
    if html.suffix.lower() != ".html":
        raise DumpError(f"{html}: the page's name must end in .html.")
    read = read_dump(dump)
    pairs = [_pair(read, index) for index in range(len(read.manifest["pairs"]))]
    content = summary(read, pairs)
    html.parent.mkdir(parents=True, exist_ok=True)
    html.write_text(page(content, [pair.pictures for pair in pairs]), "utf-8")
    html.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return content["passed"]


def summary(dump: Dump, pairs: Sequence[Pair]) -> dict:
    """Everything on the page but the images, ready for JSON."""
    rows = [row(pair, stage, dtype) for pair in pairs for dtype in DTYPES for stage in pair.stages[dtype]]
    failed = [entry for entry in rows if entry["passed"] is False]
    return {
        "passed": not failed,
        "first_failure": failed[0] if failed else None,
        "rows": rows,
        "pairs": [
            pair.names | {"mask_iou": {dtype: _number(iou) for dtype, iou in pair.mask_iou.items()}}
            for pair in pairs
        ],
        "jax": {
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "device": f"{jax.devices()[0].device_kind} ({platform.machine()})",
            "versions": {
                "segic_jax": segic_jax.__version__,
                "jax": jax.__version__,
                "jaxlib": jaxlib.__version__,
                "flax": flax.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "system": platform.platform(),
            "settings": "matrix products at the highest precision, the head in float32 throughout",
        },
        "torch": {
            key: value for key, value in dump.manifest.items() if key not in ("format", "files", "pairs")
        },
        "files": [
            {"file": name, "sha256": (found := sha256(dump.folder / name)), "as_dumped": found == written}
            for name, written in dump.manifest["files"].items()
        ],
    }


def row(pair: Pair, stage: Stage, dtype: str) -> dict:
    """One array in one precision; bfloat16 is a measurement, without tolerance and verdict."""
    judged = dtype == "float32"
    return {
        "file": pair.names["file"],
        "array": stage.array,
        "stage": stage.name,
        "dtype": dtype,
        "max_abs_error": _number(stage.max_abs_error),
        "relative_error": _number(stage.relative),
        "largest": _number(stage.largest),
        "tolerance": stage.tolerance if judged else None,
        "passed": stage.passed if judged else None,
    }


def _pair(dump: Dump, index: int) -> Pair:
    arrays = read_pair(dump, index)
    replays = {dtype: replay(dump, arrays, DTYPES[dtype]) for dtype in DTYPES}
    theirs = (arrays["out.masks"] > 0).any(axis=(0, 1))  # all concepts together
    ours = {dtype: (one.logits > 0).any(axis=0) for dtype, one in replays.items()}
    reference, target = _image(arrays, "_dual"), _image(arrays, "")
    shown = arrays["in.label_dual"].max(axis=0)[: reference.shape[0], : reference.shape[1]] > 127.5
    different = theirs != ours["float32"]
    grey = np.repeat(target.mean(axis=-1, keepdims=True) / 2 + 127, 3, axis=-1).astype(np.uint8)
    grey[different] = RED
    return Pair(
        names={key: str(value) for key, value in dump.manifest["pairs"][index].items()},
        stages={dtype: one.stages for dtype, one in replays.items()},
        mask_iou={dtype: mask_iou(theirs, mask) for dtype, mask in ours.items()},
        pictures=[
            (draw_mask(reference, shown, GREEN), "reference and its mask"),
            (draw_mask(target, theirs, RED), "PyTorch"),
            (draw_mask(target, ours["float32"], RED), "JAX, float32"),
            (grey, f"difference: {int(different.sum())} of {different.size} pixels"),
        ],
    )


def _image(arrays: Arrays, end: str) -> Picture:
    """The canvas without its padding."""
    height, width = arrays[f"in.ori_size{end}"][0]
    canvas = np.moveaxis(arrays[f"in.image{end}"][0], 0, -1)
    return np.rint(canvas[:height, :width]).clip(0, 255).astype(np.uint8)


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if np.isfinite(value) else None
