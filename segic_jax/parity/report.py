"""Write the parity report: an HTML page and a JSON file that compare this project with a dump of torch."""

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
from segic_jax.inference.overlay import AnyImage, RGBImage, draw_mask
from segic_jax.parity.cases import compare_case
from segic_jax.parity.dump import Arrays, Dump, read_dump, read_pair, sha256
from segic_jax.parity.report_html import render_page
from segic_jax.parity.stages import DTYPES, Stage, replay
from segic_jax.runtime import progress
from segic_jax.runtime.atomic_write import atomic_write, make_folder


@dataclass(frozen=True)
class PairComparison:
    """Hold the comparison of one pair."""

    names: dict[str, str]  # file, reference, mask, target, class_name
    stages: dict[str, list[Stage]]  # by precision
    mask_iou: dict[str, float]  # of torch's mask and ours, by precision; NaN if both are empty
    images: list[tuple[AnyImage, str]]  # with captions


def write_report(dump: Path, html: Path) -> bool:
    """Replay the dump in float32 and bfloat16, and write the page and a .json file with its values.

    Returns:
        Whether every float32 stage of every pair is within its tolerance.

    Raises:
        InputError: the dump cannot be read, `html` has another suffix than .html, or it cannot be written.
    """
    if html.suffix.lower() != ".html":
        raise DumpError(f"{html}: the name of the page must end in .html.")
    make_folder(html.parent, DumpError)  # before minutes are spent
    loaded = read_dump(dump)
    count = len(loaded.manifest["pairs"])
    pairs = [_compare_pair(loaded, index) for index in progress.bar(range(count), desc="pairs", unit="pair")]
    cases = loaded.manifest.get("cases") or []
    found = [
        row for case in progress.bar(cases, desc="cases", unit="case") for row in compare_case(loaded, case)
    ]
    content = summarise(loaded, pairs, found)
    atomic_write(html.with_suffix(".json"), json.dumps(content, indent=2) + "\n", DumpError)
    atomic_write(html, render_page(content, [pair.images for pair in pairs]), DumpError)
    return content["passed"]


def summarise(dump: Dump, pairs: Sequence[PairComparison], cases: Sequence[dict]) -> dict:
    """Return everything on the page but the images, ready for JSON.

    Args:
        cases: the rows of `cases.compare_case`.
    """
    rows = [_row(pair, stage, dtype) for pair in pairs for dtype in DTYPES for stage in pair.stages[dtype]]
    failed = [row for row in (*rows, *cases) if row["passed"] is False]
    return {
        "passed": not failed,
        "first_failure": failed[0] if failed else None,
        "rows": rows,
        "cases": cases,
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
            {"file": name, "sha256": (digest := sha256(dump.folder / name)), "as_dumped": digest == dumped}
            for name, dumped in dump.manifest["files"].items()
        ],
    }


def _row(pair: PairComparison, stage: Stage, dtype: str) -> dict:
    """Return one array in one precision; bfloat16 is a measurement, without tolerance and verdict."""
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
        "torch_rounding": stage.rounding,
        "passed": stage.passed if judged else None,
        "tied": stage.tied,
    }


def _compare_pair(dump: Dump, index: int) -> PairComparison:
    arrays = read_pair(dump, index)
    replays = {dtype: replay(dump, arrays, DTYPES[dtype]) for dtype in DTYPES}
    theirs = (arrays["out.masks"] > 0).any(axis=(0, 1))  # of all concepts together
    ours = {dtype: (result.logits > 0).any(axis=0) for dtype, result in replays.items()}
    reference, target = _crop_canvas(arrays, "_dual"), _crop_canvas(arrays, "")
    mask = arrays["in.label_dual"].max(axis=0)[: reference.shape[0], : reference.shape[1]] > 127.5
    different = theirs != ours["float32"]
    grey = np.repeat(target.mean(axis=-1, keepdims=True) / 2 + 127, 3, axis=-1).astype(np.uint8)
    grey[different] = RED
    return PairComparison(
        names={key: str(value) for key, value in dump.manifest["pairs"][index].items()},
        stages={dtype: result.stages for dtype, result in replays.items()},
        mask_iou={dtype: mask_iou(theirs, predicted) for dtype, predicted in ours.items()},
        images=[
            (draw_mask(reference, mask, GREEN), "reference and its mask"),
            (draw_mask(target, theirs, RED), "PyTorch"),
            (draw_mask(target, ours["float32"], RED), "JAX, float32"),
            (grey, f"difference: {int(different.sum())} of {different.size} pixels"),
        ],
    )


def _crop_canvas(arrays: Arrays, suffix: str) -> RGBImage:
    """Return an image on the canvas without the padding."""
    height, width = arrays[f"in.ori_size{suffix}"][0]
    canvas = np.moveaxis(arrays[f"in.image{suffix}"][0], 0, -1)
    return np.rint(canvas[:height, :width]).clip(0, 255).astype(np.uint8)


def _number(value: float) -> float | None:
    """Replace NaN and infinity, which JSON lacks, by None."""
    return float(value) if np.isfinite(value) else None
