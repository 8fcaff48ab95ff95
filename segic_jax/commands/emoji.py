"""`segic emoji`: the embedded benchmark as files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class Emoji:
    """The benchmark inside the package, as a folder of images and masks: CLASS/N.jpg and CLASS/N.png."""

    action: tyro.conf.Positional[Literal["export"]]
    """What to do."""
    out: Path
    """Folder for the images; new or empty."""
    split: Literal["novel", "validation", "base"] = "novel"
    """Which classes; the benchmark is scored on the novel ones."""

    def run(self) -> int:
        """Write the split's images."""
        from segic_jax.data.emoji.source import EmojiSource
        from segic_jax.data.sources import folder

        count = folder.export(EmojiSource(self.split), "original", self.out)
        print(f"{count} images with masks in {self.out}")
        return 0
