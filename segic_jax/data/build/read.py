"""Read a built data set in place of the original files: the same sources, images and masks."""

import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from segic_jax.data.build.info import DataSetInfo, damaged, find_built, read_info
from segic_jax.data.build.records import decode_image, decode_labels
from segic_jax.data.build.write import manifest_name
from segic_jax.data.episodes import ClassId, LabelledImage, Manifest, View, read_manifest
from segic_jax.data.images import decode_rgb
from segic_jax.data.semantic import SemanticImage, Split
from segic_jax.data.video import Clip, VideoSource
from segic_jax.errors import DataError

_OPENING = threading.Lock()


def open_built(root: Path | str) -> "BuiltSource | BuiltSemanticSource | BuiltVideoSource":
    """Open a data set that `segic data build` wrote.

    Raises:
        DataError: there is none, or it is damaged.
    """
    folder = find_built(root)
    if folder is None:
        raise DataError(f"{root} holds no built data set: make one with `segic data build`.")
    info = read_info(folder)
    kinds = {"episodes": BuiltSource, "semseg": BuiltSemanticSource, "video": BuiltVideoSource}
    try:
        return kinds[info.kind](folder, info)
    except DataError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise damaged(folder) from error


class _Records:
    """Give the records of one split by number; each process opens the files for itself."""

    def __init__(self, folder: Path, split: str):
        self.__setstate__({"_folder": folder, "_split": split})

    def __getstate__(self) -> dict:
        return {"_folder": self._folder, "_split": self._split}

    def __setstate__(self, state: dict) -> None:
        self._folder, self._split = state["_folder"], state["_split"]
        self._data: Any = None
        # While TFDS is imported, etils replaces builtins.__import__ for all threads: import it before they
        # start.
        importlib.import_module("tensorflow_datasets")

    def name(self, number: int) -> str:
        """Return the name of a record for error messages."""
        return f"{self._folder}, {self._split} record {number}"

    def __getitem__(self, number: int) -> dict:
        """Return the fields of a record, images still encoded.

        Raises:
            DataError: a file is missing or damaged.
        """
        try:
            if self._data is None:
                with _OPENING:  # the first read imports modules of TFDS, as above
                    if self._data is None:
                        data = self._open()
                        data[number]
                        self._data = data
            return self._data[number]
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


class BuiltSource:
    """Give the episodes, images and masks of a built benchmark of episodes."""

    def __init__(self, folder: Path, info: DataSetInfo):
        self.name = info.benchmark
        self._folder = folder
        self._records = _Records(folder, "val")
        self._names = None if info.class_names is None else {c: name for c, name in info.class_names}
        self._notes = {(record, number): note for record, number, note in info.notes.get("val", ())}
        self._places = {
            View(image_name, class_id, instance): (record, number)
            for record, (image_name, concepts) in enumerate(info.records["val"])
            for number, (class_id, instance) in enumerate(concepts)
        }

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return the episodes that were drawn from the original data.

        Raises:
            DataError: the data set holds no such episodes.
        """
        path = self._folder / "manifests" / manifest_name(protocol, fold, shots)
        if not path.is_file():
            stored = sorted(file.name.removesuffix(".jsonl.gz") for file in path.parent.glob("*.gz"))
            raise DataError(
                f"{self._folder} has no episodes {path.name.removesuffix('.jsonl.gz')}, only "
                f"{', '.join(stored) or 'none'}: build it with --shots, or give a list with --episodes."
            )
        return read_manifest(path)

    def class_name(self, class_id: ClassId) -> str:
        """Return the name that the original source gives."""
        if self._names is None:
            raise DataError(f"{self.name} names no classes: leave the class names out.")
        if class_id not in self._names:
            raise DataError(f"{self.name} has no class {class_id!r}.")
        return self._names[class_id]

    def views(self) -> Iterator[View]:
        """Yield the views in the order of the original source."""
        yield from self._places

    def load(self, view: View) -> LabelledImage:
        """Return the same pixels as the original source."""
        if view not in self._places:
            raise DataError(f"{self._folder} has no image {view.image_name} of class {view.class_id!r}.")
        place, number = self._places[view]
        record = decode_image(self._records[place], self._records.name(place), [number])
        note = self._notes.get((place, number), "")
        return LabelledImage(record.image, record.concepts[number].mask, record.ignored, note)


class BuiltSemanticSource:
    """Give the images and masks of a built benchmark of semantic segmentation."""

    def __init__(self, folder: Path, info: DataSetInfo):
        self.name = info.benchmark
        self._folder = folder
        self.classes = tuple(name for _, name in info.class_names or ())
        self._records = {split: _Records(folder, split) for split in info.records}
        self._notes = {
            (split, record): note for split, notes in info.notes.items() for record, _, note in notes
        }
        self._places = {
            split: {
                image_name: (place, tuple(class_id for class_id, _ in concepts))
                for place, (image_name, concepts) in enumerate(records)
            }
            for split, records in info.records.items()
        }

    def image_names(self, split: Split) -> list[str]:
        """Return the names of a split's images, sorted.

        Raises:
            DataError: the split was missing when the data set was built.
        """
        if split not in self._places:
            raise DataError(f"{self._folder} has no {split} split: build it from data that have it.")
        return sorted(self._places[split])

    def present(self, split: Split, image_name: str) -> tuple[int, ...]:
        """Return the classes on an image."""
        return self._places[split][image_name][1]

    def load(self, split: Split, image_name: str) -> SemanticImage:
        """Return the same pixels as the original source."""
        if image_name not in self._places[split]:
            raise DataError(f"{self._folder} has no image {image_name} in {split}.")
        place, classes = self._places[split][image_name]
        record = decode_image(self._records[split][place], self._records[split].name(place))
        empty = np.zeros(record.image.shape[:2], bool)
        masks = np.array([concept.mask for concept in record.concepts], bool).reshape(-1, *empty.shape)
        return SemanticImage(
            record.image,
            classes,
            masks,
            empty if record.ignored is None else record.ignored,
            self._notes.get((split, place), ""),
        )

    def load_class(self, split: Split, image_name: str, number: int) -> LabelledImage:
        """Return an image and the mask of one of its classes."""
        place, classes = self._places[split][image_name]
        concept = classes.index(number)
        record = decode_image(self._records[split][place], self._records[split].name(place), [concept])
        note = self._notes.get((split, place), "")
        return LabelledImage(record.image, record.concepts[concept].mask, note=note)


class BuiltVideoSource(VideoSource):
    """Give the frames and label maps of built videos; the paths of a clip only name its frames."""

    def __init__(self, folder: Path, info: DataSetInfo):
        self._records = _Records(folder, "val")
        self._places = {(video, frame): place for place, (video, frame) in enumerate(info.records["val"])}
        self._palettes = {video.name: video.palette for video in info.videos}
        super().__init__(
            info.benchmark,
            [
                Clip(
                    name=video.name,
                    frames=tuple(folder / video.name / f"{frame}.jpg" for frame in video.frames),
                    annotations={
                        i: folder / video.name / f"{video.frames[i]}.png" for i in video.annotations
                    },
                    required=frozenset(video.required),
                    scored=video.scored,
                    notes=tuple(video.notes),
                )
                for video in info.videos
            ],
            info.left_out,
        )

    def frame(self, clip: Clip, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return a frame as RGB."""
        place = self._place(clip, number)
        return decode_rgb(bytes(self._records[place]["image"]), self._records.name(place))

    def annotation(self, clip: Clip, number: int) -> Integer[np.ndarray, "height width"]:
        """Return the object ids of a frame."""
        place = self._place(clip, number)
        return decode_labels(bytes(self._records[place]["labels"]), self._records.name(place))

    def palette(self, clip: Clip) -> list[int] | None:
        """Return the palette of the first label map, RGB of each id, flat; None if it has none."""
        return self._palettes[clip.name]

    def _place(self, clip: Clip, number: int) -> int:
        return self._places[clip.name, clip.frames[number].stem]
