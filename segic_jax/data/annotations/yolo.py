"""Read and write YOLO's text files: a line for each polygon or box, and data.yaml with the names."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Bool

from segic_jax.data.annotations.outlines import outlines
from segic_jax.data.annotations.paths import common_folder, list_files_below, list_images_below
from segic_jax.data.annotations.shapes import INDICES, draw_box, draw_polygon
from segic_jax.data.annotations.types import AnnotatedImage, Annotation, Format, LabelledImage
from segic_jax.data.image_files import read_bytes
from segic_jax.errors import DataError
from segic_jax.runtime.atomic_write import atomic_write, make_folder

NAME_LISTS = ("classes.txt", "obj.names")
MAX_YAML = 1 << 20  # bytes
MAX_TEXTS = 20  # text files that are looked at to recognise the format
ROUNDING = 1e-3  # by which a coordinate may exceed 0 to 1


def read_folder(root: Path) -> list[AnnotatedImage]:
    """Read a folder with data.yaml, classes.txt or obj.names; return nothing without one.

    An image's labels are in the folder labels beside images, at the same path, or beside the image.
    """
    found = _names_file(root)
    if found is None:
        return []
    names = read_names(found)
    images = [*list_images_below(root), *_listed_images(found, root)]
    annotated, used = [], set()
    for image in dict.fromkeys(images):
        labels = next((path for path in _label_paths(image, root) if path.is_file()), None)
        if labels is not None and labels not in used:
            used.add(labels)
            annotated.append(_read(labels, names, found, image))
    for labels in list_files_below(root, [".txt"]):
        if "labels" in labels.relative_to(root).parts and labels not in used:
            annotated.append(_read(labels, names, found, None))
    return annotated


def has_labels(root: Path) -> bool:
    """Return whether a folder has text files such as YOLO's, whose classes may have no names."""
    for path in list_files_below(root, [".txt"])[:MAX_TEXTS]:
        values = read_bytes(path).decode(errors="replace").partition("\n")[0].split()
        try:
            if len(values) >= 5 and values[0].isdecimal() and all(0 <= float(v) <= 1 for v in values[1:]):
                return True
        except ValueError:
            continue
    return False


def read_file(path: Path, image: Path) -> list[AnnotatedImage]:
    """Read the labels of one image; names come from data.yaml, classes.txt or obj.names in a folder above."""
    folders = [path.absolute().parent, *list(path.absolute().parents)[1:4]]
    found = next((file for folder in folders if (file := _names_file(folder, below=False))), None)
    return [_read(path, read_names(found) if found else {}, found, image)]


def read_names(path: Path) -> dict[int, str]:
    """Read the names of the classes, from a YAML file or a list with one a line.

    Raises:
        DataError: the file is damaged or has no names.
    """
    text = read_bytes(path)
    try:
        if path.suffix in (".yaml", ".yml"):
            names = yaml.safe_load(text)["names"]
            names = names if isinstance(names, dict) else dict(enumerate(names))
        else:
            names = dict(enumerate(line for line in text.decode().splitlines() if line.strip()))
        return {int(number): str(name).strip() for number, name in names.items()}
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} has no list of names: export the data set again.") from error


def _names_file(folder: Path, *, below: bool = True) -> Path | None:
    """Return the file of the names in a folder, or directly in one below it."""
    for pattern in ("*", "*/*") if below else ("*",):
        for path in sorted(folder.glob(pattern)):
            if path.name in NAME_LISTS or (path.suffix in (".yaml", ".yml") and _has_names(path)):
                return path
    return None


def _has_names(path: Path) -> bool:
    """Return whether a YAML file, of which a folder may have others, lists names; data.yaml must."""
    if path.name == "data.yaml":
        return True
    try:
        content = yaml.safe_load(path.read_bytes()[:MAX_YAML])
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and isinstance(content.get("names"), list | dict)


def _listed_images(names_file: Path, root: Path) -> Iterable[Path]:
    """Return the images of the folders that data.yaml names, which may lie elsewhere."""
    if names_file.suffix not in (".yaml", ".yml"):
        return []
    content, images = yaml.safe_load(read_bytes(names_file)), []
    base = names_file.parent / str(content.get("path") or "")
    for part in ("train", "val", "valid", "test"):
        entries = content.get(part) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            # Roboflow's paths begin one folder too high.
            options = [base / str(entry), names_file.parent / str(entry).removeprefix("../")]
            folder = next((option for option in options if option.is_dir()), None)
            if folder is not None and not folder.resolve().is_relative_to(root.resolve()):
                images += list_images_below(folder)
    return images


def _label_paths(image: Path, root: Path) -> Iterable[Path]:
    parts = image.parts
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            yield Path(*parts[:i], "labels", *parts[i + 1 :]).with_suffix(".txt")
            break
    yield image.with_suffix(".txt")
    yield root / "labels" / f"{image.stem}.txt"


def _read(
    path: Path, names: Mapping[int, str], names_file: Path | None, image: Path | None
) -> AnnotatedImage:
    annotations = []
    for number, line in enumerate(read_bytes(path).decode(errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        what = f"{path}, line {number}"
        try:
            first, *values = (float(word) for word in line.split())
            index = int(first)
        except ValueError as error:
            raise DataError(f"{what} is not a class and coordinates: export the data set again.") from error
        if names and index not in names:
            raise DataError(
                f"{what} has class {index}, but {names_file} names {len(names)} classes, from {min(names)} "
                f"to {max(names)}: complete it."
            )
        label = names.get(index, str(index))
        what += f" ('{label}')"
        if len(values) < 4:
            raise DataError(f"{what} has {len(values)} coordinates: a box has four, a polygon at least six.")
        # A confidence may follow, which makes their number odd.
        coordinates = np.array(values[: len(values) // 2 * 2])
        if not (coordinates.min() >= -ROUNDING and coordinates.max() <= 1 + ROUNDING):
            raise DataError(
                f"{what} has coordinates from {coordinates.min():g} to {coordinates.max():g}: YOLO's are "
                "relative to the image's size, from 0 to 1."
            )
        annotations.append(Annotation(label, what, partial(_draw, coordinates.clip(0, 1), what)))
    return AnnotatedImage(path, image.name if image else path.stem, tuple(annotations), image=image)


def _draw(values: np.ndarray, what: str, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    if len(values) == 4:
        x, y, w, h = (values * (width, height, width, height)).tolist()
        x0, x1 = max(0.0, x - w / 2), min(float(width), x + w / 2)
        y0, y1 = max(0.0, y - h / 2), min(float(height), y + h / 2)
        return draw_box(x0, y0, x1, y1, height, width, what)
    points = values.reshape(-1, 2) * (width, height)
    return draw_polygon(points.clip(0, (width - 0.5, height - 0.5)), height, width, what, INDICES)


def write(folder: Path, labels: Sequence[str], images: Sequence[LabelledImage]) -> Path:
    """Write labels/NAME.txt for each image, and data.yaml, which names the folder of the images.

    A hole is connected to the outline by a cut of no width.
    """
    make_folder(folder / "labels")
    for image in images:
        height, width = image.size
        lines = []
        for region in image.regions():
            for outline in outlines(region.mask, INDICES, cut_holes=True):
                if outline.points is not None:
                    # Readers round, or cut the fraction off.
                    points = (outline.points + 0.25) / (width, height)
                    numbers = " ".join(f"{value:.6f}" for value in points.ravel())
                    lines.append(f"{labels.index(region.label)} {numbers}\n")
        atomic_write(folder / "labels" / f"{image.stem}.txt", "".join(lines))
    where = os.path.relpath(common_folder(images), folder).replace(os.sep, "/")
    content = {"path": ".", "train": where, "val": where, "nc": len(labels), "names": list(labels)}
    atomic_write(folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return folder / "data.yaml"


FORMAT = Format("yolo", "YOLO", read_folder=read_folder, read_file=read_file, write=write)
