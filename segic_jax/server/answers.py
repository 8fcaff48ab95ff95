"""Write results in the forms that a request can ask for."""

import base64
import io
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from starlette.responses import JSONResponse, Response

from segic_jax.inference.annotations import labelled_image, save_annotations
from segic_jax.inference.coco_output import merge_coco_files
from segic_jax.inference.context import Context
from segic_jax.inference.explain import Explanation
from segic_jax.inference.explain_figure import draw_explanation
from segic_jax.inference.result import Result

AnswerFormat = Literal["json", "png", "labelme", "coco", "cvat", "label-studio", "yolo", "voc", "masks"]
JSON, PNG = "json", "png"
ExplanationFormat = Literal["json", "png"]


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


def answer_explanation(
    context: Context,
    result: Result,
    explanations: Sequence[Explanation],
    name: str,
    format: ExplanationFormat,
    matches: int,
) -> Response:
    """Return the response to a request for an explanation.

    Args:
        name: of the image, as its sender knows it.
        matches: how many to draw of each class.
    """
    if format == PNG:
        return Response(draw_explanation(context, result, explanations, matches), media_type="image/png")
    classes = [
        {
            "name": explanation.name,
            "presence": round(float(presence), 4),
            "present": bool(present),
            "similarity_map": _similarity_png(explanation),
            "matches": [asdict(match) for match in explanation.matches],
        }
        for explanation, presence, present in zip(explanations, result.presence, result.present, strict=True)
    ]
    height, width = result.image.shape[:2]
    image = {"file_name": name, "height": height, "width": width}
    references = [reference.source for reference in context.references]
    return JSONResponse({"image": image, "references": references, "classes": classes})


def _similarity_png(explanation: Explanation) -> str:
    """Return the similarity map as a PNG file in base64: 0 for a cosine of -1, 255 for 1."""
    levels = np.rint(255 * (explanation.heat.clip(-1, 1) + 1) / 2).astype(np.uint8)
    return base64.b64encode(cv2.imencode(".png", levels)[1].tobytes()).decode()


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
