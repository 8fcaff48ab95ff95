"""Read and write label maps in colours: PASCAL VOC's, and others with a labelmap.txt.

A line of labelmap.txt is label:red,green,blue:parts:actions, as CVAT and datumaro write it. A folder without
label maps may have VOC's boxes.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from segic_jax.data import masks
from segic_jax.data.annotations import voc_boxes
from segic_jax.data.annotations.paths import list_files_below
from segic_jax.data.annotations.types import (
    IGNORED,
    AnnotatedImage,
    Annotation,
    Format,
    LabelledImage,
    list_names,
)
from segic_jax.data.image_files import read_bytes
from segic_jax.data.images import ENDINGS, open_image, palette_png
from segic_jax.data.mask_reader import VOID_COLOUR, colour_codes
from segic_jax.errors import DataError
from segic_jax.runtime.atomic_write import atomic_write, make_folder

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
FOLDERS = ("SegmentationClass", "SegmentationClassPNG")  # of label maps; the second is labelme's
NAME_LISTS = ("class_names.txt", "label_names.txt")  # of labelme's exports, a class a line
VOID = 255  # of grey label maps
MAX_LABELS = 254


def voc_colour(number: int) -> tuple[int, int, int]:
    """Return the colour of a class in VOC's table: the bits of its number, spread over the channels."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


def read_table(path: Path) -> dict[str, int]:
    """Read labelmap.txt: the colours of the labels as numbers 0xrrggbb, in their order.

    Raises:
        DataError: a line is damaged, or two labels have one colour.
    """
    table: dict[str, int] = {}
    for number, line in enumerate(read_bytes(path).decode(errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            label, colour = line.split(":")[:2]
            red, green, blue = (int(value) for value in colour.split(","))
            code = int.from_bytes([red, green, blue], "big")
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not label:red,green,blue: correct it.") from error
        if code in table.values():
            raise DataError(f"{path}, line {number} gives '{label}' the colour of another label: correct it.")
        table[label.strip()] = code
    return table


def find_table(mask: Path) -> tuple[dict[str, int], str]:
    """Return the colours of a label map and where they come from.

    They are in labelmap.txt in a folder above, or VOC's for the names that labelme lists, or VOC's own.
    """
    for folder in list(mask.absolute().parents)[:3]:
        if (path := folder / "labelmap.txt").is_file():
            return read_table(path), str(path)
        for path in (folder / name for name in NAME_LISTS):
            if path.is_file():
                lines = read_bytes(path).decode(errors="replace").split("\n")
                return {line.strip(): _code(i) for i, line in enumerate(lines) if line.strip()}, str(path)
    return {label: _code(number) for number, label in enumerate(CLASSES)}, "PASCAL VOC's table"


def find_label(mask: Path, label: str) -> str | int:
    """Return the colour "#rrggbb" or the number that a label has in a label map.

    Raises:
        DataError: the label map cannot be read, or has no such label.
    """
    values = _read_values(mask)
    present = _labels(mask, *values)
    if label not in present:
        listed = list_names(present) or "none but background"
        raise DataError(f"{mask} has no label '{label}'; its labels are {listed}.")
    return present[label] if values[1] else f"#{present[label]:06x}"


def read_folder(root: Path) -> list[AnnotatedImage]:
    """Read the label maps of a folder SegmentationClass; return nothing without one."""
    folders = [path for path in (root, *sorted(root.rglob("SegmentationClass*"))) if path.name in FOLDERS]
    for folder in folders:
        if maps := list_files_below(folder, [".png"]):
            return [_read(path, folder) for path in maps]
    return []


def _read(path: Path, folder: Path) -> AnnotatedImage:
    values, is_grey = _read_values(path)
    annotations = tuple(
        Annotation(label, f"{path} ('{label}')", partial(masks.decode, masks.encode(values == value)))
        for label, value in _labels(path, values, is_grey).items()
    )
    name = path.relative_to(folder).with_suffix("").as_posix()
    images = [folder.parent / "JPEGImages" / f"{name}{ending}" for ending in ENDINGS]
    image = next((image for image in images if image.is_file()), None)
    return AnnotatedImage(path, name, annotations, values.shape, image=image)


def _read_values(path: Path) -> tuple[Integer[np.ndarray, "height width"], bool]:
    """Return the colours as numbers, or the values of a grey image and True."""
    image = open_image(path)
    if image.mode in ("1", "L", "I", "I;16"):
        return np.asarray(image).astype(np.int64), True
    return colour_codes(np.asarray(image.convert("RGB"))), False


def _labels(path: Path, values: np.ndarray, is_grey: bool) -> dict[str, int]:
    """Return the labels that a label map has, with their colour or number."""
    table, where = find_table(path)
    by_value: Mapping[int, str] = (
        dict(enumerate(table)) if is_grey else {code: label for label, code in table.items()}
    )
    labels, unknown = {}, []
    for value in np.unique(values).tolist():
        label = by_value.get(value)
        if label is None and value not in ({VOID} if is_grey else {VOID_COLOUR, 0}):
            unknown.append(str(value) if is_grey else f"#{value:06x}")
        elif label is not None and label.lower() not in IGNORED:
            labels[label] = value
    if unknown:
        kind = "values" if is_grey else "colours"
        raise DataError(
            f"{path} has {kind} that {where} does not have ({list_names(unknown, 6)}): put a labelmap.txt "
            "with lines label:red,green,blue beside it."
        )
    return labels


def _code(number: int) -> int:
    return int.from_bytes(voc_colour(number), "big")


def write(folder: Path, labels: Sequence[str], images: Sequence[LabelledImage]) -> Path:
    """Write SegmentationClass/NAME.png in VOC's colours, labelmap.txt and the list of the images.

    Raises:
        DataError: there are more labels than a palette has colours, or one cannot be in labelmap.txt.
    """
    if len(labels) > MAX_LABELS:
        raise DataError(
            f"VOC's label maps hold at most {MAX_LABELS} classes, not {len(labels)}: choose coco."
        )
    for label in labels:
        if ":" in label or "\n" in label or label.startswith("#"):
            raise DataError(f"labelmap.txt cannot hold the class name '{label}': rename it, or choose coco.")
    make_folder(folder / "SegmentationClass")
    make_folder(folder / "ImageSets" / "Segmentation")
    colours = [voc_colour(number) for number in range(1, len(labels) + 1)]
    for image in images:
        png = palette_png(image.label_map(), colours)
        atomic_write(folder / "SegmentationClass" / f"{image.stem}.png", png)
    rows = zip(("background", *labels), [(0, 0, 0), *colours], strict=True)
    table = "".join(f"{label}:{red},{green},{blue}::\n" for label, (red, green, blue) in rows)
    atomic_write(folder / "labelmap.txt", f"# label:color_rgb:parts:actions\n{table}")
    names = "".join(f"{image.stem}\n" for image in images)
    atomic_write(folder / "ImageSets" / "Segmentation" / "default.txt", names)
    return folder


FORMAT = Format(
    "voc", "PASCAL VOC", ".xml", voc_boxes.matches, voc_boxes.read, read_folder=read_folder, write=write
)
