"""Read a folder of classes in FSS-1000's layout as episodes, and write such a folder.

<root>/<class>/<n>.jpg    an image, of any format
<root>/<class>/<n>.png    its mask, read as that of a reference; or <n>_mask.<any format>
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.episodes import ClassId, EpisodeSource, LabelledImage, Manifest, View
from segic_jax.data.images import ENDINGS, read_image, require_size
from segic_jax.data.mask_reader import read_mask
from segic_jax.data.sampler import classes_with_images, next_images_episodes
from segic_jax.data.sources.coco_folder import CocoFolderSource, find_json, require_original
from segic_jax.errors import DataError
from segic_jax.runtime.atomic_write import atomic_write

JPEG = (".jpg", ".jpeg", ".jfif")
MASK = "_mask"  # at the end of a mask's stem


class FolderSource:
    """Take every image as a target once; its references are the next numbers of its class, wrapping.

    Classes are sorted by name, images by number.
    """

    name = "folder"

    def __init__(self, root: str | Path, classes: Sequence[str] | None = None):
        """Open a folder; `classes` restricts the source to these subfolders.

        Raises:
            DataError: a folder is missing, an image has no mask, or there is no image at all.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"{self.root} is not a folder: give the one that holds a folder for each class.")
        if classes is None:
            classes = [
                path.name for path in self.root.iterdir() if path.is_dir() and not path.name.startswith(".")
            ]
        if not classes:
            raise DataError(f"{self.root} holds no class: put images and masks in {self.root}/<class>/.")
        pairs = {name: _pairs(self.root / name) for name in sorted(classes)}
        self.image_names = {name: list(masks) for name, masks in pairs.items()}
        self._masks = pairs  # class -> image -> mask

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return the episodes; a class of too few images has none.

        Raises:
            DataError: unknown settings, or no class has enough images.
        """
        require_original(protocol, fold, shots)
        image_names, notes = classes_with_images(
            self.image_names, shots + 1, lambda name: str(self.root / name)
        )
        episodes = next_images_episodes(image_names, shots)
        return Manifest(self.name, protocol, fold, shots, tuple(image_names), episodes, notes)

    def class_name(self, class_id: ClassId) -> str:
        """Return the folder's name with spaces for underscores."""
        return str(class_id).replace("_", " ")

    def views(self) -> Iterator[View]:
        """Yield all images, class by class."""
        for class_name, image_names in self.image_names.items():
            for image_name in image_names:
                yield View(image_name, class_name)

    def paths(self, view: View) -> tuple[Path, ...]:
        """Return the paths of the image and its mask."""
        path = self.root / str(view.class_id) / view.image_name
        mask = self._masks.get(str(view.class_id), {}).get(view.image_name)
        return path, path.with_suffix(".png") if mask is None else path.with_name(mask)

    def load(self, view: View) -> LabelledImage:
        """Read an image and its mask."""
        image_path, mask_path = self.paths(view)
        image, mask = read_image(image_path), read_mask(mask_path)
        require_size(image, mask, image_path, mask_path)
        return LabelledImage(image, mask)


def export(source: EpisodeSource, protocol: str, out_dir: str | Path) -> int:
    """Write all images of a source's episodes in this layout, numbered in the order of its targets.

    Images are JPEG (quality 95), masks PNG.

    Returns:
        The number of images.

    Raises:
        DataError: `out_dir` is not empty, or cannot be written to.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and any(out_dir.iterdir()):
        raise DataError(f"{out_dir} is not empty: choose another folder or empty it.")
    episodes = source.manifest(protocol, 0, 1).episodes
    views: dict[ClassId, dict[View, None]] = {}  # class -> its views, in order
    for episode in episodes:
        views.setdefault(episode.class_id, {})[episode.target_view] = None
    for episode in episodes:
        views[episode.class_id].update(dict.fromkeys(episode.reference_views))
    for class_id, members in views.items():
        folder = out_dir / str(class_id)
        folder.mkdir(parents=True)
        for number, view in enumerate(members, start=1):
            loaded = source.load(view)
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
            _write(folder / f"{number}.jpg", cv2.cvtColor(loaded.image, cv2.COLOR_RGB2BGR), quality)
            _write(folder / f"{number}.png", loaded.mask.astype(np.uint8) * 255, [])
    return sum(map(len, views.values()))


def _pairs(folder: Path) -> dict[str, str]:
    """Return the mask of each image by file name; images are sorted by number, followed by other names."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: every class needs a folder of its name.")
    files: dict[str, list[Path]] = {}  # by stem, without MASK
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and path.suffix.lower() in ENDINGS:
            files.setdefault(path.stem.removesuffix(MASK), []).append(path)
    stems = sorted(files, key=lambda stem: (not stem.isdecimal(), int(stem) if stem.isdecimal() else 0, stem))
    pairs = (_image_and_mask(files[stem]) for stem in stems)
    return {image.name: mask.name for image, mask in pairs}


def _image_and_mask(files: list[Path]) -> tuple[Path, Path]:
    """Tell an image from its mask: the mask is named so, or is the PNG, or the one that is no JPEG."""
    path = files[0]
    stem = path.stem.removesuffix(MASK)
    rules = (
        lambda file: file.stem.endswith(MASK),
        lambda file: file.suffix.lower() == ".png",
        lambda file: file.suffix.lower() not in JPEG,
    )
    for is_mask in rules:
        masks = [file for file in files if is_mask(file)]
        if len(files) == 2 and len(masks) == 1:
            return next(file for file in files if file not in masks), masks[0]
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(f"{path.parent} holds {names}: keep one image, and name its mask {stem}{MASK}.png.")
    if path.suffix.lower() == ".png" or path.stem.endswith(MASK):
        raise DataError(
            f"{path} is a mask without an image, or an image without a mask: save the image as {stem}.jpg "
            f"and its mask as {stem}.png beside it."
        )
    raise DataError(f"{path} has no mask: save it as {stem}.png beside it.")


def _write(path: Path, array: np.ndarray, options: list[int]) -> None:
    atomic_write(path, cv2.imencode(path.suffix, array, options)[1].tobytes())


def open_folder(root: Path | str) -> FolderSource | CocoFolderSource:
    """Open a folder of classes, or a COCO JSON or the folder that holds it."""
    path = find_json(Path(root))
    return FolderSource(root) if path is None else CocoFolderSource(path)


def check(root: Path) -> list[CheckLine]:
    """Count classes and images."""
    image_names = open_folder(root).image_names
    return [CheckLine("classes", len(image_names)), CheckLine("images", sum(map(len, image_names.values())))]


BENCHMARK = BenchmarkSpec(
    name="folder",
    title="your own images and masks",
    kind="episodes",
    protocols=("original",),
    layout=(
        "<class>/<n>.jpg   any image format\n<class>/<n>.png   the mask; or <n>_mask.<any format>\n"
        "or one COCO .json with its images beside it or in images/"
    ),
    download="your own images",
    domain="folder",
    open=open_folder,
    check=check,
)
