"""A built data set in place of the original files: the same sources, the same images and masks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from segic_jax.data.build.info import Info, damaged, find_built, read_info
from segic_jax.data.build.records import decode_image, decode_labels
from segic_jax.data.build.write import manifest_name
from segic_jax.data.episodes import ClassId, LabelledImage, View
from segic_jax.data.image_files import decode_rgb
from segic_jax.data.manifest import Manifest, read_manifest
from segic_jax.data.semantic import SemanticImage, Split
from segic_jax.data.video import Clip, VideoSource
from segic_jax.errors import DataError


def open_built(root: Path | str) -> "BuiltSource | BuiltSemanticSource | BuiltVideoSource":
    """The source of a data set that `python -m segic_jax.data.build` wrote.

    Raises:
        DataError: there is none, or it is damaged.
    """
    folder = find_built(root)
    if folder is None:
        raise DataError(f"{root} holds no built data set: make one with python -m segic_jax.data.build.")
    info = read_info(folder)
    kinds = {"episodes": BuiltSource, "semseg": BuiltSemanticSource, "video": BuiltVideoSource}
    try:
        return kinds[info.kind](folder, info)
    except DataError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise damaged(folder) from error


class _Records:
    """The records of one split, by number; the files are opened by the process that reads them."""

    def __init__(self, folder: Path, split: str):
        self._folder, self._split = folder, split
        self._data: Any = None

    def name(self, number: int) -> str:
        """For error messages."""
        return f"{self._folder}, {self._split} record {number}"

    def __getitem__(self, number: int) -> dict:
        """Its fields, images still encoded. Raises DataError where a file is missing or damaged."""
        try:
            if self._data is None:
                self._data = self._open()
            records: Any = self._data
            return records[number]
        except Exception as error:  # TFDS, array_record and protobuf have no common error
            raise DataError(
                f"{self.name(number)} cannot be read: build the data set again ({type(error).__name__})."
            ) from error

    def _open(self) -> Any:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(self._folder)
        skip = {
            name: tfds.decode.SkipDecoding() for name in ("image", "labels") if name in builder.info.features
        }
        return builder.as_data_source(self._split, decoders=skip)

    def __getstate__(self):
        return {"_folder": self._folder, "_split": self._split, "_data": None}


class BuiltSource:
    """Episodes."""

    def __init__(self, folder: Path, info: Info):
        self.name = info.benchmark
        self._folder = folder
        self._records = _Records(folder, "val")
        self._names = (
            None if info.class_names is None else {class_id: name for class_id, name in info.class_names}
        )
        self._places = {
            View(image_name, class_id, instance): (record, number)
            for record, (image_name, concepts) in enumerate(info.records["val"])
            for number, (class_id, instance) in enumerate(concepts)
        }

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """As it was drawn from the original data. Raises DataError where it was not."""
        path = self._folder / "manifests" / manifest_name(protocol, fold, shots)
        if not path.is_file():
            there = sorted(one.name.removesuffix(".jsonl.gz") for one in path.parent.glob("*.gz"))
            raise DataError(
                f"{self._folder} has no episodes {path.name.removesuffix('.jsonl.gz')}, only "
                f"{', '.join(there) or 'none'}: build it with --shots, or give a list with --episodes."
            )
        return read_manifest(path)

    def class_name(self, class_id: ClassId) -> str:
        """As the original source has it."""
        if self._names is None:
            raise DataError(f"{self.name} names no classes: leave the class names out.")
        if class_id not in self._names:
            raise DataError(f"{self.name} has no class {class_id!r}.")
        return self._names[class_id]

    def views(self) -> Iterator[View]:
        """In the order of the original source."""
        yield from self._places

    def load(self, view: View) -> LabelledImage:
        """The same pixels as the original source."""
        if view not in self._places:
            raise DataError(f"{self._folder} has no image {view.image_name} of class {view.class_id!r}.")
        place, number = self._places[view]
        record = decode_image(self._records[place], self._records.name(place), [number])
        return LabelledImage(record.image, record.concepts[number].mask, record.ignored)


class BuiltSemanticSource:
    """Semantic segmentation."""

    def __init__(self, folder: Path, info: Info):
        self.name = info.benchmark
        self._folder = folder
        self.classes = tuple(name for _, name in info.class_names or ())
        self._records = {split: _Records(folder, split) for split in info.records}
        self._places = {
            split: {
                image_name: (place, tuple(class_id for class_id, _ in concepts))
                for place, (image_name, concepts) in enumerate(of)
            }
            for split, of in info.records.items()
        }

    def image_names(self, split: Split) -> list[str]:
        """Names, sorted. Raises DataError where the split was not there when this was built."""
        if split not in self._places:
            raise DataError(f"{self._folder} has no {split} split: build it from data that have it.")
        return sorted(self._places[split])

    def present(self, split: Split, image_name: str) -> tuple[int, ...]:
        """The classes on an image."""
        return self._places[split][image_name][1]

    def load(self, split: Split, image_name: str) -> SemanticImage:
        """The same pixels as the original source."""
        if image_name not in self._places[split]:
            raise DataError(f"{self._folder} has no image {image_name} in {split}.")
        place, classes = self._places[split][image_name]
        record = decode_image(self._records[split][place], self._records[split].name(place))
        nothing = np.zeros(record.image.shape[:2], bool)
        masks = np.array([one.mask for one in record.concepts], bool).reshape(-1, *nothing.shape)
        return SemanticImage(
            record.image, classes, masks, nothing if record.ignored is None else record.ignored
        )

    def load_class(self, split: Split, image_name: str, number: int) -> LabelledImage:
        """The image and the mask of one class of it."""
        place, classes = self._places[split][image_name]
        concept = classes.index(number)
        record = decode_image(self._records[split][place], self._records[split].name(place), [concept])
        return LabelledImage(record.image, record.concepts[concept].mask)


class BuiltVideoSource(VideoSource):
    """Videos; the paths of a clip only name its frames."""

    def __init__(self, folder: Path, info: Info):
        self._records = _Records(folder, "val")
        self._places = {(video, frame): place for place, (video, frame) in enumerate(info.records["val"])}
        self._palettes = {one.name: one.palette for one in info.videos}
        super().__init__(
            info.benchmark,
            [
                Clip(
                    name=one.name,
                    frames=tuple(folder / one.name / f"{frame}.jpg" for frame in one.frames),
                    annotations={i: folder / one.name / f"{one.frames[i]}.png" for i in one.annotations},
                    required=frozenset(one.required),
                    scored=one.scored,
                )
                for one in info.videos
            ],
        )

    def frame(self, clip: Clip, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """RGB."""
        place = self._place(clip, number)
        return decode_rgb(bytes(self._records[place]["image"]), self._records.name(place))

    def annotation(self, clip: Clip, number: int) -> Integer[np.ndarray, "height width"]:
        """Object ids."""
        place = self._place(clip, number)
        return decode_labels(bytes(self._records[place]["labels"]), self._records.name(place))

    def palette(self, clip: Clip) -> list[int] | None:
        """That of the first label map."""
        return self._palettes[clip.name]

    def _place(self, clip: Clip, number: int) -> int:
        return self._places[clip.name, clip.frames[number].stem]
