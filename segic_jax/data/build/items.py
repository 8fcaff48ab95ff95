"""A source of any kind -> work items, each an image or a frame, and the records made of them."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np

from segic_jax.data.benchmark_spec import Kind
from segic_jax.data.build.records import Concept, FrameRecord, ImageRecord
from segic_jax.data.episodes import View
from segic_jax.data.manifest import EpisodeSource
from segic_jax.data.semantic import SemanticSource
from segic_jax.data.video import Clip, VideoSource
from segic_jax.errors import DataError


class Item(NamedTuple):
    """What one call of `records` reads."""

    split: str  # of the TFDS data set
    what: tuple  # views of one image; or (an image,); or (a clip, the number of a frame)


def items(kind: Kind, source) -> Iterator[Item]:
    """Everything in the source, in a fixed order."""
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
                continue  # not every benchmark has one, and it is not always downloaded
            yield from (Item(split, (image_name,)) for image_name in image_names)
    else:
        for clip in source.videos():
            yield from (Item("val", (clip, number)) for number in range(len(clip.frames)))


def records(kind: Kind, source, item: Item) -> list[ImageRecord] | list[FrameRecord]:
    """Those of one item, in order.

    Views of one image share a record unless the source shows each of them another way, as
    benchmarks of parts do, which cut each object out.

    Raises:
        DataError: a file is missing or damaged.
    """
    if kind == "episodes":
        return _views(source, item.what)
    if kind == "semseg":
        return [_semantic(source, item)]
    return [_frame(source, *item.what)]


def _views(source: EpisodeSource, views: tuple[View, ...]) -> list[ImageRecord]:
    found: list[ImageRecord] = []
    for view in views:
        shown = source.load(view)
        concept = Concept(view.class_id, view.instance, shown.mask)
        last = found[-1] if found else None
        if last and np.array_equal(last.image, shown.image) and _same(last.ignored, shown.ignored):
            found[-1] = ImageRecord(last.image_name, last.image, (*last.concepts, concept), last.ignored)
        else:
            found.append(ImageRecord(view.image_name, shown.image, (concept,), shown.ignored))
    return found


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def _semantic(source: SemanticSource, item: Item) -> ImageRecord:
    image_name = item.what[0]
    shown = source.load(item.split, image_name)
    concepts = (Concept(c, None, mask) for c, mask in zip(shown.classes, shown.masks, strict=True))
    return ImageRecord(image_name, shown.image, tuple(concepts), shown.ignored)


def _frame(source: VideoSource, clip: Clip, number: int) -> FrameRecord:
    labels = source.annotation(clip, number) if number in clip.annotations else None
    return FrameRecord(clip.name, clip.frames[number].stem, source.frame(clip, number), labels)
