"""FSS-1000 (Li et al., CVPR 2020): 1000 classes of 10 pictures, with the field's fixed test episodes.

Folder layout: `<root>/<class>/<1..10>.jpg + .png`, or the same under `<root>/data/`.
"""

from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np

from segic_jax.data.episodes import DataError, Episode
from segic_jax.data.sources.folder import FolderSource

Split = Literal["trn", "val", "test"]


class Fss1000Source(FolderSource):
    """One split; its episodes are those of `matcher_episodes`."""

    def __init__(self, root: str | Path, *, split: Split = "test", shots: int = 1):
        """Raises DataError when a class of the split or one of its ten pictures is missing."""
        root = Path(root)
        if (root / "data").is_dir():
            root = root / "data"
        super().__init__(root, name=f"fss1000-{split}", classes=class_names(split), shots=shots)
        for class_name, files in self.pictures.items():
            missing = [n for n in range(1, 11) if f"{class_name}/{n}" not in files]
            if missing:
                raise DataError(f"{self.root / class_name} has no {missing[0]}.jpg: unpack FSS-1000 again.")
        self.episodes = matcher_episodes(class_names(split), shots)


def class_names(split: Split) -> list[str]:
    """The 520 training, 240 validation or 240 test classes, sorted."""
    text = resources.files("segic_jax.data").joinpath(f"splits/fss_{split}.txt").read_text("utf-8")
    return sorted(text.split())


def matcher_episodes(classes: list[str], shots: int) -> list[Episode]:
    """Every picture a target once; references drawn as Matcher (data/fss.py:81-96) draws them with seed 0.

    The stream of numpy's legacy generator is part of the protocol: do not modernise it. With several
    shots a reference may come twice, as it does there.
    """
    rng = np.random.RandomState(0)
    episodes = []
    for class_name in sorted(classes):
        for target in sorted(range(1, 11), key=str):  # string order: 1, 10, 2, ..., 9
            references = []
            while len(references) < shots:
                number = rng.choice(range(1, 11), 1, replace=False)[0]
                if number != target:
                    references.append(f"{class_name}/{number}")
            episodes.append(Episode(class_name, f"{class_name}/{target}", tuple(references)))
    return episodes
