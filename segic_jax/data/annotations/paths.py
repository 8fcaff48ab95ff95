"""Find the images that annotations belong to, and name images relative to their folder."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from segic_jax.data.annotations.types import AnnotatedImage, LabelledImage, list_names
from segic_jax.data.images import ENDINGS
from segic_jax.errors import DataError

FOLDERS = ("images", "JPEGImages")  # of the images, beside or in the folder of the annotations
_UPLOADED = re.compile(r"[0-9a-f]{8}-")  # which Label Studio puts before a file's name


class ImageFinder:
    """Find images by the names that annotation files give them."""

    def __init__(self, root: Path, images: Path | None = None, within: Path | None = None):
        """Describe where to look.

        Args:
            root: the project's folder.
            images: the folder of the images, if it is another one.
            within: the folder that images must lie in, wherever annotations say that they are; None for any.
        """
        self._root, self._images = root, images
        self._within = None if within is None else within.resolve()
        self._index: dict[str, list[Path]] | None = None

    def find(self, annotated: AnnotatedImage) -> Path | None:
        """Return the image's file, or None if there is none.

        It is looked for at its path beside the annotations, in FOLDERS, and then anywhere below the project's
        folder; a name without an ending stands for any ending.

        Raises:
            DataError: several files have the image's name.
        """
        if annotated.image is not None and self._is_usable(annotated.image):
            return annotated.image
        name = local_name(annotated.name)
        beside = annotated.file if annotated.file.is_dir() else annotated.file.parent
        near = (folder / name for folder in (beside, beside.parent) for name in FOLDERS)
        folders = [self._images] if self._images else [beside, *near, self._root]
        for folder in folders:
            if (path := folder / name).suffix.lower() in ENDINGS and self._is_usable(path):
                return path
        found = self._matches(name)
        if not found and (short := without_upload(PurePosixPath(name).name)) != PurePosixPath(name).name:
            found = self._matches(short)
        if len(found) > 1:
            raise DataError(
                f"{annotated.file}: its image {annotated.name} could be {list_names(map(str, found), 4)}: "
                "give the folder of the images with --images."
            )
        return found[0] if found else None

    def _is_usable(self, path: Path) -> bool:
        return path.is_file() and (self._within is None or path.resolve().is_relative_to(self._within))

    def _matches(self, name: str) -> list[Path]:
        """Return the files of that name, those with the most folders of it in common."""
        with_ending = name.lower().endswith(ENDINGS)
        parts = PurePosixPath(name.lower()).parts
        best, found = 0, []
        for path in self._names().get(parts[-1], []) if parts else []:
            if not with_ending and path.parent.name.startswith("Segmentation"):
                continue  # VOC's label maps have the names of their images
            there = [part.lower() for part in (path if with_ending else path.with_suffix("")).parts]
            common = next((n for n in range(len(parts), 0, -1) if there[-n:] == list(parts[-n:])), 0)
            if common > best:
                best, found = common, []
            if common == best:
                found.append(path)
        return found

    def _names(self) -> dict[str, list[Path]]:
        if self._index is None:
            self._index = {}
            for path in list_images_below(self._images or self._root):
                self._index.setdefault(path.name.lower(), []).append(path)
                if path.suffix:
                    self._index.setdefault(path.stem.lower(), []).append(path)
        return self._index


def list_images_below(folder: Path) -> list[Path]:
    """Return all images below a folder, sorted; hidden files and folders are left alone."""
    return list_files_below(folder, ENDINGS)


def list_files_below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files below a folder with one of these endings, sorted, without hidden ones."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        found += [
            Path(parent, name)
            for name in sorted(files)
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        ]
    return found


def local_name(name: str) -> str:
    """Return an image's relative path of what may be a URL, a path of another machine or a plain name."""
    if "://" in name or name.startswith("/data/"):
        url = urlsplit(name)
        local = re.search(r"(?:^|&)d=([^&]+)", url.query)
        name = unquote(local[1] if local else url.path)
    return re.sub(r"^([A-Za-z]:)?/+", "", name.replace("\\", "/"))


def without_upload(name: str) -> str:
    """Return a file's name without what Label Studio puts before it when it is uploaded."""
    return name[9:] if _UPLOADED.match(name) else name


def common_folder(images: Sequence[LabelledImage]) -> Path:
    """Return the folder that all images are in or below."""
    folders = {os.path.dirname(os.path.abspath(image.path)) for image in images}
    return Path(os.path.commonpath(folders)) if folders else Path.cwd()


def relative_name(path: Path, root: Path) -> str:
    """Return an image's path relative to a folder, with forward slashes."""
    return os.path.relpath(path, root).replace(os.sep, "/")
