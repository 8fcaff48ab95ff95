"""A folder of classes in FSS-1000's layout -> episodes and training pairs; and the way back.

<root>/<class>/<n>.jpg    a picture (.jpg or .jpeg)
<root>/<class>/<n>.png    its mask: 128 and above is the object
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from segic_jax.data.episodes import DataError, Episode, EpisodeSource, Pair, Picture

PICTURE_ENDINGS = (".jpg", ".jpeg")


class FolderSource:
    """Every picture is a target once; its references are the next numbers of its class, wrapping.

    Classes are sorted by name, pictures by number. A key is "<class>/<n>".
    """

    def __init__(
        self, root: str | Path, *, name: str = "folder", classes: Sequence[str] | None = None, shots: int = 1
    ):
        """`classes` restricts the source to these folders; by default it takes all.

        Raises:
            DataError: a folder is missing, a picture has no mask, or a class has too few pictures.
        """
        self.root = Path(root)
        self.name = name
        if not self.root.is_dir():
            raise DataError(f"{self.root} is not a folder: give the one that holds a folder for each class.")
        if classes is None:
            classes = [
                path.name for path in self.root.iterdir() if path.is_dir() and not path.name.startswith(".")
            ]
        if not classes:
            raise DataError(f"{self.root} holds no class: put pictures and masks in {self.root}/<class>/.")
        self.pictures = {name: _pictures(self.root / name, shots) for name in sorted(classes)}
        self.episodes = [
            Episode(
                class_name,
                keys[i],
                tuple(keys[(i + step) % len(keys)] for step in range(1, shots + 1)),
            )
            for class_name, files in self.pictures.items()
            for keys in [list(files)]
            for i in range(len(keys))
        ]

    def load(self, key: str) -> tuple[UInt8[np.ndarray, "height width 3"], Bool[np.ndarray, "height width"]]:
        """The RGB image and the mask of one key.

        Raises:
            DataError: a file cannot be read, or image and mask do not fit each other.
        """
        image_path = self.pictures[key.rpartition("/")[0]][key]
        mask_path = image_path.with_suffix(".png")
        # Pixels as stored: an orientation tag would turn the image but not its mask.
        image = _read(image_path, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        mask = _read(mask_path, cv2.IMREAD_GRAYSCALE)
        if mask.shape != image.shape[:2]:
            raise DataError(
                f"{mask_path} is {mask.shape[1]} x {mask.shape[0]} pixels, {image_path.name} "
                f"{image.shape[1]} x {image.shape[0]}: save the mask at the picture's size."
            )
        if 0 < mask.max() < 128:
            raise DataError(f"{mask_path} has no value above {mask.max()}: save the object as 255.")
        return image, mask >= 128

    def __len__(self) -> int:
        """Pictures, which is also how many pairs make an epoch."""
        return len(self.episodes)

    def pair(self, rng: np.random.Generator) -> Pair:
        """A random class and two different pictures of it."""
        class_name, files = list(self.pictures.items())[rng.integers(len(self.pictures))]
        target, reference = (self.load(list(files)[i]) for i in rng.choice(len(files), size=2, replace=False))
        return Pair(
            target=Picture(target[0], target[1][None]),
            reference=Picture(reference[0], reference[1][None]),
            name=class_name,
        )


def export(source: EpisodeSource, out_dir: str | Path) -> int:
    """Write all pictures of a source in this layout, numbered in the order of its targets.

    Images are JPEG (quality 95), masks are PNG. Returns the number of pictures.

    Raises:
        DataError: `out_dir` already holds something.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and any(out_dir.iterdir()):
        raise DataError(f"{out_dir} is not empty: choose another folder or empty it.")
    keys: dict[str, dict[str, None]] = {}  # class -> its keys, in order
    for episode in source.episodes:
        keys.setdefault(episode.class_name, {})[episode.target] = None
    for episode in source.episodes:
        keys[episode.class_name].update(dict.fromkeys(episode.references))
    for class_name, members in keys.items():
        folder = out_dir / class_name
        folder.mkdir(parents=True)
        for number, key in enumerate(members, start=1):
            image, mask = source.load(key)
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
            _write(folder / f"{number}.jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
            _write(folder / f"{number}.png", mask.astype(np.uint8) * 255, [])
    return sum(map(len, keys.values()))


def _pictures(folder: Path, shots: int) -> dict[str, Path]:
    """Key -> image file, sorted by number (names that are no numbers follow, by name)."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: every class needs a folder of its name.")
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    images = {path.stem: path for path in files if path.suffix.lower() in PICTURE_ENDINGS}
    masks = {path.stem: path for path in files if path.suffix == ".png"}
    for stem, path in images.items():
        if stem not in masks:
            raise DataError(f"{path} has no mask: save it as {path.with_suffix('.png').name} beside it.")
    for stem, path in masks.items():
        if stem not in images:
            raise DataError(f"{path} is a mask without a picture: save the picture as {stem}.jpg beside it.")
    if len(images) <= shots:
        raise DataError(
            f"{folder} holds too few pictures ({len(images)}): a target and {shots} reference(s) take "
            f"{shots + 1}."
        )
    stems = sorted(
        images, key=lambda stem: (not stem.isdecimal(), int(stem) if stem.isdecimal() else 0, stem)
    )
    return {f"{folder.name}/{stem}": images[stem] for stem in stems}


def _read(path: Path, flags: int) -> np.ndarray:
    """Decode a file; a truncated one is an error, where cv2 would fill the rest with grey."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): restore the file.") from error
    complete = (
        b"IEND" in content
        if path.suffix == ".png"
        else content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda")  # end of image after the last scan
    )
    array = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if complete else None
    if array is None:
        raise DataError(f"{path} is damaged or not an image: copy or save it again.")
    return array


def _write(path: Path, array: np.ndarray, options: list[int]) -> None:
    path.write_bytes(cv2.imencode(path.suffix, array, options)[1].tobytes())
