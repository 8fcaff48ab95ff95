"""List the formats of labelling tools; a new one is a module with a FORMAT, and its line here."""

from segic_jax.data.annotations import coco, cvat, label_studio, labelme, masks, via, voc, yolo
from segic_jax.data.annotations.types import Format
from segic_jax.errors import DataError

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT for module in (labelme, coco, cvat, label_studio, yolo, via, voc, masks)
}
READ = tuple(name for name, item in FORMATS.items() if item.read or item.read_folder)
WRITTEN = tuple(name for name, item in FORMATS.items() if item.write)


def find_format(name: str, names: tuple[str, ...]) -> Format:
    """Return a format by its name; raise DataError if it is none of `names`."""
    if name not in names:
        raise DataError(f"There is no format '{name}': choose one of {', '.join(names)}.")
    return FORMATS[name]
