"""Write the files that a visitor downloads: label map, overlay, COCO annotations and context."""

import json
import re
import secrets
import zipfile
from pathlib import Path

from segic_jax.app.session import Session
from segic_jax.errors import DataError
from segic_jax.inference.coco_output import merge_coco_files


def export(session: Session, folder: Path) -> list[str]:
    """Write the results of all targets and the context.

    Args:
        folder: gets a subfolder with a random name, which nobody can guess.

    Returns:
        The files to offer: the selected target's label map and overlay, COCO annotations of all targets, the
        context, and an archive of the annotations and all label maps and overlays.

    Raises:
        DataError: the selected target has no result yet, or the disk is full.
    """
    if session.searched_target is None or session.context is None:
        raise DataError("Search first; there are no results to download yet.")
    out = folder / secrets.token_hex(16)
    out.mkdir()
    names = file_names(session)
    results = {
        name: session.styled(target.result)
        for name, target in zip(names, session.targets, strict=True)
        if target.result is not None
    }
    images = {
        name: {f"{name}_labels.png": result.label_png(), f"{name}_overlay.png": result.overlay_png()}
        for name, result in results.items()
    }
    coco = out / "coco.json"
    content = merge_coco_files([result.coco_file(name) for name, result in results.items()])
    coco.write_text(json.dumps(content, indent=1) + "\n")
    context = out / "context.segic"
    session.context.save(context)
    everything = out / "all_images.zip"
    with zipfile.ZipFile(everything, "w") as archive:
        for files in images.values():
            for name, data in files.items():
                archive.writestr(name, data)
        archive.write(coco, coco.name)
    selected = images[names[session.selected_target]]
    for name, data in selected.items():
        (out / name).write_bytes(data)
    return [str(path) for path in (*(out / name for name in selected), coco, context, everything)]


def file_names(session: Session) -> list[str]:
    """Return a unique file stem for each target, in characters that every file system accepts."""
    names: list[str] = []
    for target in session.targets:
        stem = re.sub(r"[^\w-]+", "_", Path(target.image.name).stem, flags=re.ASCII)[:60].strip("_")
        stem = stem or "image"
        name, number = stem, 2
        while name.lower() in [other.lower() for other in names]:
            name, number = f"{stem}_{number}", number + 1
        names.append(name)
    return names
