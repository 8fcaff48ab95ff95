"""Split a source of any kind into work items, an image or a frame each, and make records of them."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np

from segic_jax.data.benchmark_spec import Kind
from segic_jax.data.build.records import Concept, FrameRecord, ImageRecord
from segic_jax.data.episodes import EpisodeSource, View
from segic_jax.data.semantic import SemanticSource
from segic_jax.data.video import Clip, VideoSource
from segic_jax.errors import DataError


class Item(NamedTuple):
    """Name what one call of `records` reads."""

    split: str  # of the TFDS data set
    content: tuple  # views of one image; or (image name,); or (clip, frame number)


def items(kind: Kind, source) -> Iterator[Item]:
    """Yield everything in the source, in a fixed order."""
    if kind == "episodes":
        for _, views in groupby(source.views(), key=lambda view: view.image_name):
            yield Item("val", tuple(views))
    elif kind == "semseg":
        for split in ("train", "val"):
            try:
                image_names = source.image_names(split)
            except DataError:
                if split == "val":
                    raise
                continue  # some benchmarks have no training split, and it is not always downloaded
            yield from (Item(split, (image_name,)) for image_name in image_names)
    else:
        for clip in source.videos():
            yield from (Item("val", (clip, number)) for number in range(len(clip.frames)))


def records(kind: Kind, source, item: Item) -> list[ImageRecord] | list[FrameRecord]:
    """Return the records of one item, in order.

    Views of one image share a record, unless the source gives each of them other pixels, as benchmarks of
    parts do: they crop each object.

    Raises:
        DataError: a file is missing or damaged.
    """
    if kind == "episodes":
        return _view_records(source, item.content)
    if kind == "semseg":
        return [_semantic_record(source, item)]
    return [_frame_record(source, *item.content)]


def _view_records(source: EpisodeSource, views: tuple[View, ...]) -> list[ImageRecord]:
    records: list[ImageRecord] = []
    for view in views:
        loaded = source.load(view)
        concept = Concept(view.class_id, view.instance, loaded.mask, loaded.note)
        last = records[-1] if records else None
        if last and np.array_equal(last.image, loaded.image) and _equal(last.ignored, loaded.ignored):
            records[-1] = ImageRecord(last.image_name, last.image, (*last.concepts, concept), last.ignored)
        else:
            records.append(ImageRecord(view.image_name, loaded.image, (concept,), loaded.ignored))
    return records


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b)


def _semantic_record(source: SemanticSource, item: Item) -> ImageRecord:
    image_name = item.content[0]
    loaded = source.load(item.split, image_name)
    concepts = (Concept(c, None, mask) for c, mask in zip(loaded.classes, loaded.masks, strict=True))
    return ImageRecord(image_name, loaded.image, tuple(concepts), loaded.ignored, loaded.note)


def _frame_record(source: VideoSource, clip: Clip, number: int) -> FrameRecord:
    labels = source.annotation(clip, number) if number in clip.annotations else None
    return FrameRecord(clip.name, clip.frames[number].stem, source.frame(clip, number), labels)
