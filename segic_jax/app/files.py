"""What a visitor takes home: label map, overlay, COCO annotations and the Context."""

import json
import re
import secrets
import zipfile
from pathlib import Path

from segic_jax.app.session import Session
from segic_jax.errors import DataError
from segic_jax.inference.result import merge_coco_files


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
    pictures = {
        name: {f"{name}_labels.png": result.label_png(), f"{name}_overlay.png": result.overlay_png()}
        for name, result in results.items()
    }
    coco = out / "coco.json"
    content = merge_coco_files([result.coco_file(name) for name, result in results.items()])
    coco.write_text(json.dumps(content, indent=1) + "\n")
    context = out / "context.segic"
    session.context.save(context)
    everything = out / "all_pictures.zip"
    with zipfile.ZipFile(everything, "w") as archive:
        for files in pictures.values():
            for name, content in files.items():
                archive.writestr(name, content)
        archive.write(coco, coco.name)
    chosen = pictures[file_names(session)[session.chosen_target]]
    for name, content in chosen.items():
        (out / name).write_bytes(content)
    return [str(path) for path in (*(out / name for name in chosen), coco, context, everything)]


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
