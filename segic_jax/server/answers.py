"""Write results in the forms that a request can ask for."""

import io
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from starlette.responses import JSONResponse, Response

from segic_jax.inference.annotations import labelled_image, save_annotations
from segic_jax.inference.context import Context
from segic_jax.inference.result import Result, merge_coco_files

AnswerFormat = Literal["json", "png", "labelme", "coco", "cvat", "label-studio", "yolo", "voc", "masks"]
JSON, PNG = "json", "png"


def describe_context(id: str, context: Context) -> dict[str, Any]:
    """Return what a request is told about a context."""
    against = [name for negative in context.negatives for name in negative.against]
    return {
        "id": id,
        "classes": [
            {"name": name, "examples": count, "negatives": against.count(name)}
            for name, count in context.shots.items()
        ],
        "references": [
            {
                "source": reference.source,
                "height": reference.size[0],
                "width": reference.size[1],
                "marks": list(map(str, reference.marks)),
            }
            for reference in context.references
        ],
    }


def answer(
    results: Sequence[Result], names: Sequence[str], format: AnswerFormat, warnings: Sequence[str]
) -> Response:
    """Return the response to a request for predictions.

    Args:
        names: of the images, as their sender knows them.
        warnings: about the images.
    """
    if format == JSON:
        coco = merge_coco_files([result.coco_file(name) for result, name in zip(results, names, strict=True)])
        doubts = [*dict.fromkeys([*results[0].warnings, *warnings])]
        return JSONResponse(coco | {"warnings": doubts})
    if format == PNG and len(results) == 1:
        return Response(results[0].label_png(), media_type="image/png")
    stems = unique_stems(names)
    with tempfile.TemporaryDirectory(prefix="segic_serve_") as folder:
        out = Path(folder, "out")
        if format == PNG:
            out.mkdir()
            for result, stem in zip(results, stems, strict=True):
                (out / f"{stem}.png").write_bytes(result.label_png())
        else:
            images = [
                replace(labelled_image(result, stem), path=Path(folder, name))
                for result, stem, name in zip(results, stems, names, strict=True)
            ]
            save_annotations(images, list(results[0].names), out, format)
        return Response(_archive(out), media_type="application/zip")


def unique_stems(names: Sequence[str]) -> list[str]:
    """Return a different stem for each file name."""
    stems: list[str] = []
    for name in names:
        stem, number = Path(name).stem, 1
        while (stem if number == 1 else f"{stem}_{number}") in stems:
            number += 1
        stems.append(stem if number == 1 else f"{stem}_{number}")
    return stems


def _archive(folder: Path) -> bytes:
    """Return the files of a folder as a ZIP archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(folder))
    return content.getvalue()
