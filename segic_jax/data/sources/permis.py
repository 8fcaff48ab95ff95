"""Read PerMIS, one object on three frames of a video (Samuel et al., 2024), as INSID3 scores it.

<root>/<video>/{0,1,2}.jpg
<root>/<video>/masks.npz.npy    an object array of three {track: mask}; the first track of each frame counts

Frame 0 is the reference of frames 1 and 2. The official loader (datasets/permis.py) takes videos as the file
system lists them; here they are sorted.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.episodes import ClassId, Episode, LabelledImage, Manifest, View
from segic_jax.data.images import read_rgb
from segic_jax.data.masks import fit_to_image
from segic_jax.data.numpy_pickle import read_npy
from segic_jax.errors import DataError

DOWNLOAD = "https://github.com/dvirsamuel/PDM (built from BURST and TAO)"


class PermisSource:
    """Give the episodes of one class; an image is <video>/<frame>.jpg."""

    name = "permis"

    def __init__(self, root: Path | str):
        """Open PerMIRS/ or its parent. Raises DataError if there is no video."""
        root = Path(root)
        self.root = root / "PerMIRS" if (root / "PerMIRS").is_dir() else root
        self.videos = sorted(path.parent.name for path in self.root.glob("*/masks.npz.npy"))
        frames = {path.parent for path in self.root.glob("*/0.jpg")}
        self._without_masks = sorted(path for path in frames if path.name not in self.videos)
        if not self.videos:
            raise DataError(f"{self.root} holds no <video>/masks.npz.npy: get it from {DOWNLOAD}.")

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return two episodes for each video. Raises DataError for several shots: there is one reference."""
        if protocol not in BENCHMARK.protocols or fold != 0 or shots != 1:
            raise DataError(
                f"{self.name} supports the protocols {', '.join(BENCHMARK.protocols)} with fold 0 and 1 shot."
            )
        episodes = tuple(
            Episode(0, f"{video}/{frame}.jpg", (f"{video}/0.jpg",))
            for video in self.videos
            for frame in (1, 2)
        )
        notes = tuple(f"{path} has no masks.npz.npy: no episode has it." for path in self._without_masks)
        return Manifest(self.name, protocol, fold, shots, (0,), episodes, notes)

    def class_name(self, class_id: ClassId) -> str:
        """Raise DataError: the objects have no names."""
        raise DataError(f"{self.name} names no classes: leave the class names out.")

    def views(self) -> Iterator[View]:
        """Yield all frames."""
        for video in self.videos:
            for frame in range(3):
                yield View(f"{video}/{frame}.jpg", 0)

    def paths(self, view: View) -> tuple[Path, ...]:
        """Return the paths of the frame and of its video's masks."""
        path = self.root / view.image_name
        return path, path.parent / "masks.npz.npy"

    def load(self, view: View) -> LabelledImage:
        """Read a frame and the mask of its object."""
        if view.class_id != 0:
            raise DataError(f"{self.name} has the class 0, not {view.class_id!r}.")
        image_path, mask_path = self.paths(view)
        image = read_rgb(image_path)
        try:
            mask = np.asarray(next(iter(read_npy(mask_path)[int(image_path.stem)].values())))
            if mask.ndim != 2:
                raise ValueError(f"a mask of {mask.ndim} axes")
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, StopIteration) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{mask_path} does not hold three frames with a mask each: get it again."
            ) from error
        mask, note = fit_to_image(mask, image, mask_path, image_path)
        return LabelledImage(image, mask > 0, note=note)


def check(root: Path) -> list[CheckLine]:
    """Count videos, and those with three frames."""
    try:
        source = PermisSource(root)
    except DataError as error:
        return [CheckLine("PerMIS", "missing", problem=str(error))]
    complete = [
        video
        for video in source.videos
        if all((source.root / video / f"{i}.jpg").is_file() for i in range(3))
    ]
    return [
        CheckLine("videos", len(source.videos), 216),
        CheckLine("with three frames", len(complete), len(source.videos)),
    ]


BENCHMARK = BenchmarkSpec(
    name="permis",
    title="PerMIS, 216 videos: find the object of the first frame in two others (INSID3)",
    kind="episodes",
    protocols=("insid3", "original"),
    layout="PerMIRS/<video>/{0,1,2}.jpg\nPerMIRS/<video>/masks.npz.npy",
    download=DOWNLOAD,
    domain="permis",
    open=PermisSource,
    check=check,
    shots=(1,),
)
