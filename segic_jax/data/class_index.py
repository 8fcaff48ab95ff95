"""Which classes every image of a split has: read from all its label maps once, then from the cache."""

import hashlib
import json
import os
from pathlib import Path

from segic_jax.data.disk_cache import cached
from segic_jax.data.semantic import LabelMaps, Split
from segic_jax.runtime import progress
from segic_jax.runtime.prefetch import prefetch_results

FILE = "present.json"
THREADS = 8


def present_classes(source: LabelMaps, split: Split) -> dict[str, tuple[int, ...]]:
    """Image -> its classes, rising. The cache is used while the label maps have the same names and sizes.

    Raises:
        DataError: there are no label maps, or one is damaged.
    """
    image_names = source.image_names(split)
    folder = source.folders[split].labels
    with os.scandir(folder) as entries:
        listing = sorted((entry.name, entry.stat().st_size) for entry in entries)
    digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    version = [source.name, split, source.first, source.ignored, str(folder.resolve()), digest]

    def make(into: Path) -> None:
        classes = prefetch_results(
            lambda image_name: source.present(split, image_name),
            image_names,
            threads=THREADS,
            limit=16 * THREADS,
        )
        bar = progress.bar(
            classes, total=len(image_names), desc=f"classes of {source.name}", unit="label map"
        )
        (into / FILE).write_text(json.dumps(list(bar)), "utf-8")

    stored = json.loads((cached("classes", version, make) / FILE).read_text("utf-8"))
    return {image_name: tuple(classes) for image_name, classes in zip(image_names, stored, strict=True)}
