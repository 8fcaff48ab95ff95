"""Write an exported model: a folder with two programs and a manifest, which is written last.

Whoever reads the folder finds the files that the manifest lists, with their SHA-256; after a stop there is
no manifest.
"""

import hashlib
import json
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import segic_jax
from segic_jax.config import to_dict
from segic_jax.data.preprocess import PADDING
from segic_jax.errors import ConfigError, WriteError
from segic_jax.export.onnx_file import describe_onnx, require_onnx, write_onnx
from segic_jax.export.programs import ExportPrecision, Port, Program, make_programs, with_batch
from segic_jax.export.stablehlo_file import describe_stablehlo, write_stablehlo
from segic_jax.inference.matching import PATCHES
from segic_jax.inference.presence import read_calibration
from segic_jax.models.params import count
from segic_jax.runtime.atomic_write import atomic_write, make_folder
from segic_jax.weights.bundle import Bundle

Target = Literal["stablehlo", "onnx"]
FORMAT = "segic_jax export 1"
MANIFEST = "manifest.json"
MAX_BYTES = 2_000_000_000  # of the weights of one program
_POSTPROCESSING = {
    "mask": "crop the logits to `sizes`, resize them to the image (bilinear, half-pixel centres), and take "
    "what is above 0",
    "label_map": "the class with the largest logit where one is above 0, of those that are in the image",
}


def export_model(
    bundle: Bundle,
    folder: Path,
    target: Target,
    *,
    canvas: int | None = None,
    batch: int | None = None,
    precision: ExportPrecision = "float32",
) -> dict[str, Any]:
    """Write the programs of a model and their manifest, and return the manifest.

    Args:
        canvas: side of the square input in pixels; the model's own if None.
        batch: images of one call; None for any number.
        precision: of the backbone; in ONNX of its weights alone, which are computed with in float32.

    Raises:
        ConfigError: canvas, batch or precision cannot be used, the model is too large, or a package is
            missing.
        WriteError: the folder cannot be written.
    """
    if batch is not None and batch < 1:
        raise ConfigError(f"A batch of {batch} images holds none: give 1 or more, or dynamic for any number.")
    if target == "onnx":
        require_onnx()
    width = 4 if precision == "float32" else 2
    size = width * count(bundle.backbone) + 4 * count(bundle.head)
    if size > MAX_BYTES:
        raise ConfigError(
            f"{bundle.name} has {size / 1e9:.1f} GB of weights, and the file of a program holds at most "
            f"{MAX_BYTES / 1e9:.0f} GB: export it with --precision bfloat16, or a smaller model."
        )
    compute: ExportPrecision = "float32" if target == "onnx" else precision
    config = bundle.config if canvas is None else replace(bundle.config, canvas=canvas)
    make_folder(folder, WriteError)
    (folder / MANIFEST).unlink(missing_ok=True)
    programs = [
        _write(program, folder, target, batch, precision)
        for program in make_programs(replace(bundle, config=config), precision, compute)
    ]
    manifest = {
        "format": FORMAT,
        "segic_jax": segic_jax.__version__,
        "model": bundle.name,
        "domain": bundle.notes.get("domain", "photographs"),
        "target": describe_onnx() if target == "onnx" else describe_stablehlo(),
        "precision": {"backbone": precision, "backbone_computes_in": compute, "head": "float32"},
        "canvas": config.canvas,
        "images": "any number" if batch is None else batch,
        "classes": "any number; each is decoded as if it were the only one",
        "config": to_dict(config),
        "preprocessing": _preprocessing(config.canvas),
        "postprocessing": _POSTPROCESSING,
        "presence": _presence(bundle),
        "programs": programs,
    }
    atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n", WriteError)
    return manifest


def _write(
    program: Program, folder: Path, target: Target, batch: int | None, precision: ExportPrecision
) -> dict[str, Any]:
    """Write a program and return what the manifest says about it."""
    write = partial(write_onnx, stored=precision) if target == "onnx" else write_stablehlo
    inputs = with_batch(program.inputs, batch)
    try:
        with tempfile.TemporaryDirectory(prefix=".part", dir=folder) as part:
            files = write(program, inputs, Path(part))
            for file in files:
                shutil.move(file, folder / file.name)
    except OSError as error:
        raise WriteError(f"{folder} cannot be written to: {error.strerror or error}.") from error
    return {
        "name": program.name,
        "files": [
            {
                "name": file.name,
                "bytes": (folder / file.name).stat().st_size,
                "sha256": _sha256(folder / file.name),
            }
            for file in files
        ],
        "inputs": list(map(_describe, inputs)),
        "outputs": list(map(_describe, with_batch(program.outputs, batch))),
    }


def _describe(port: Port) -> dict[str, Any]:
    return {"name": port.name, "shape": list(port.shape), "type": port.dtype, "meaning": port.meaning}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _presence(bundle: Bundle) -> dict[str, Any]:
    calibration = read_calibration(bundle.notes)
    if calibration is None:
        return {
            "least": None,
            "meaning": "unknown, for the model is not calibrated (segic calibrate --weights FILE --save): a "
            "class that is not in the image may get a mask; compare `scores` and `similarity` with those of "
            "images of yours",
        }
    return {
        "least": calibration.least,
        "meaning": "a class is in the image where `presence` is `least` or more, else its mask is empty",
        "several_references": "of one class: `prototypes` is their mean; `patches` has, of each kind, their "
        f"rows that are not zeros one after another, and of n > {PATCHES} rows those at i * n // {PATCHES}; "
        "`shots` is their number",
    }


def _preprocessing(canvas: int) -> dict[str, Any]:
    return {
        "image": "RGB, uint8, 0 to 255; normalised inside the programs",
        "resize": f"scale = {canvas} / the longer side; each side becomes floor(side * scale), at least 1; "
        "bilinear without antialiasing, half-pixel centres, a step of 1 / scale in the image, rounded to "
        "uint8; "
        f"an image whose longer side is {canvas} stays as it is",
        "pad": f"right and below with {PADDING}, to {canvas} x {canvas}",
        "mask": "resized in the same way, True above 0.5, padded with False",
        "sizes": "height and width after the resize",
    }
