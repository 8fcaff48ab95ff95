"""What a visitor takes home: label map, overlay, COCO annotations and the Context."""

import json
import re
import secrets
import zipfile
from pathlib import Path

from segic_jax.app.session import Session
from segic_jax.data.episodes import DataError
from segic_jax.result import Result


def export(session: Session, folder: Path) -> list[str]:
    """Write the chosen target's label map and overlay, everything of all targets, and the Context.

    Args:
        folder: gets a folder of a name that nobody can guess.

    Raises:
        DataError: nothing was searched yet, or the disk is full.
    """
    if session.chosen is None or session.context is None:
        raise DataError("Search first; then there is something to download.")
    out = folder / secrets.token_hex(16)
    out.mkdir()
    results = {
        name: session.shown(target.result)
        for name, target in zip(file_names(session), session.targets, strict=True)
        if target.result is not None
    }
    chosen = file_names(session)[session.chosen_target]
    labels, overlay = out / f"{chosen}_labels.png", out / f"{chosen}_overlay.jpg"
    results[chosen].save(labels)
    results[chosen].save(overlay)
    coco = out / "coco.json"
    coco.write_text(json.dumps(coco_of(results), indent=1) + "\n")
    context = out / "context.segic"
    session.context.save(context)
    everything = out / "all_pictures.zip"
    with zipfile.ZipFile(everything, "w") as archive:
        for name, result in results.items():
            for ending in ("_labels.png", "_overlay.jpg"):
                (path,) = result.save(out / f"zip{ending}")
                archive.write(path, name + ending)
                path.unlink()
        archive.write(coco, coco.name)
    return [str(path) for path in (labels, overlay, coco, context, everything)]


def file_names(session: Session) -> list[str]:
    """A name for the files of every target: letters that every disk takes, and no name twice."""
    names: list[str] = []
    for target in session.targets:
        stem = (
            re.sub(r"[^\w-]+", "_", Path(target.picture.name).stem, flags=re.ASCII)[:60].strip("_")
            or "picture"
        )
        name, number = stem, 2
        while name.lower() in [other.lower() for other in names]:
            name, number = f"{stem}_{number}", number + 1
        names.append(name)
    return names


def coco_of(results: dict[str, Result]) -> dict:
    """One COCO file of all results, by name."""
    images, annotations = [], []
    for i, (name, result) in enumerate(results.items(), 1):
        height, width = result.image.shape[:2]
        images.append({"id": i, "file_name": name, "height": height, "width": width})
        annotations += result.to_coco(image_id=i, first_id=len(annotations) + 1)
    names = next(iter(results.values())).names
    return {
        "images": images,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
        "annotations": annotations,
    }
