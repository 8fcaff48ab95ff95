"""Compare a built data set with the files it was made from, and measure how fast each of them loads."""

import time
from collections.abc import Sequence

import numpy as np

from segic_jax.data.benchmark_spec import Kind
from segic_jax.data.build.items import Item, items, records
from segic_jax.data.build.records import FrameRecord, ImageRecord
from segic_jax.errors import DataError

COMPARED = 200  # images or frames, at most


def compare(kind: Kind, original, built) -> str:
    """Read up to COMPARED items, drawn with seed 0, from both sources and return a line about their speed.

    Args:
        original: the source over the original files.
        built: the source over the built data set.

    Raises:
        DataError: an image, a mask or a label map differs.
    """
    work = list(items(kind, original))
    order = np.random.default_rng(0).permutation(len(work))[:COMPARED]
    chosen: list[Item] = [work[i] for i in order]
    sources = {"the original files": original, "array_record": built}
    seconds = dict.fromkeys(sources, float("inf"))
    loaded = {}
    for _ in range(2):  # the first round warms the file cache
        for name, source in sources.items():
            begin = time.perf_counter()
            loaded[name] = [records(kind, source, item) for item in chosen]
            seconds[name] = time.perf_counter() - begin
    if not all(map(_equal, *loaded.values())):
        raise DataError(
            f"The data set differs from the files of {original.name}: delete it and build it again."
        )
    rates = ", ".join(f"{name} {len(chosen) / value:.0f}" for name, value in seconds.items())
    return f"Loaded images per second and thread: {rates}. {len(chosen)} compared, all equal."


def _equal(a: Sequence, b: Sequence) -> bool:
    return len(a) == len(b) and all(
        len(_fields(left)) == len(_fields(right)) and all(map(np.array_equal, _fields(left), _fields(right)))
        for left, right in zip(a, b, strict=True)
    )


def _fields(record: ImageRecord | FrameRecord) -> list:
    if isinstance(record, FrameRecord):
        return [record.video, record.frame, record.image, record.labels]
    concepts = [
        part
        for concept in record.concepts
        for part in (concept.class_id, concept.instance, concept.mask, concept.note)
    ]
    return [record.image_name, record.image, record.ignored, record.note, *concepts]
