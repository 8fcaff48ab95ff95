"""List the images of a folder, and say what is left out."""

import warnings
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from segic_jax.data.images import ENDINGS, ImageLike, require_iterable
from segic_jax.errors import DataError, InputWarning

Targets = ImageLike | Iterable[ImageLike]  # an image, a folder, or images in a list or iterator
# Files of labelling tools: by their endings, like a .txt with the name of an image, and by their names.
ANNOTATIONS = (".csv", ".json", ".xml", ".yaml", ".yml")
NAME_LISTS = ("classes.txt", "labels.txt", "flags.txt", "obj.names", "labelmap.txt", "class_names.txt")
SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # of Windows, left alone like names that begin with a dot


def list_images(
    targets: Targets, *, recursive: bool = False, exclude: Path | None = None
) -> Iterable[ImageLike]:
    """Return a single image in a list, the images of a folder by name, or the iterable itself.

    An InputWarning counts and names the files and folders of a folder that are left out, but for hidden ones
    and those of labelling tools.

    Args:
        recursive: also take the images in all folders below.
        exclude: a folder to leave alone.

    Raises:
        DataError: the folder has no images, or `targets` is none of these.
    """
    if isinstance(targets, (str, Path)):
        folder = Path(targets)
        if not folder.is_dir():
            return [targets]
        images, skipped = _list_folder(folder, recursive, exclude and exclude.absolute())
        folders = [f"{path.name}/" for path in skipped if path.is_dir()]
        files = [path.name for path in skipped if not path.is_dir()]
        if not images:
            fix = "; it has folders: give --recursive" if folders else f" ({', '.join(ENDINGS)})"
            raise DataError(f"{folder} has no images{fix}.")
        if files:
            _warn_skipped(f"{folder}: {len(files)} other file{'s' * (len(files) != 1)} left out", files)
        if folders:
            count = f"{len(folders)} folder{'s' * (len(folders) != 1)}"
            _warn_skipped(f"{folder}: {count} left out, which --recursive includes", folders)
        return images
    if isinstance(targets, Image.Image) or (isinstance(targets, np.ndarray) and targets.ndim == 3):
        return [targets]
    return require_iterable(targets, "Targets are an image, a folder or a list of images")


def _list_folder(folder: Path, recursive: bool, exclude: Path | None) -> tuple[list[Path], list[Path]]:
    """Return the images of a folder, and the files and folders that are left out, both sorted."""
    images, skipped = [], []
    paths = sorted(folder.iterdir())
    stems = {path.stem for path in paths if path.suffix.lower() in ENDINGS}
    for path in paths:
        if path.name.startswith(".") or path.name.lower() in SYSTEM_FILES or path.absolute() == exclude:
            continue
        if recursive and path.is_dir():
            below = _list_folder(path, recursive, exclude)
            images += below[0]
            skipped += below[1]
        elif path.suffix.lower() in ENDINGS and not path.is_dir():
            images.append(path)
        elif path.is_dir() or not _is_annotation(path, stems):
            skipped.append(path)
    return images, skipped


def _is_annotation(path: Path, stems: Collection[str]) -> bool:
    """Return whether a file is what labelling tools put beside images of these names."""
    suffix = path.suffix.lower()
    return suffix in ANNOTATIONS or path.name in NAME_LISTS or (suffix == ".txt" and path.stem in stems)


def _warn_skipped(what: str, names: list[str], limit: int = 8) -> None:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    warnings.warn(f"{what}: {', '.join(names[:limit])}{more}.", InputWarning, stacklevel=3)
