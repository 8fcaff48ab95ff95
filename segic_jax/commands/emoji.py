"""Define `segic emoji`: export the embedded benchmark as files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class Emoji:
    """Export the benchmark in the package as a folder of images and masks: CLASS/N.jpg and CLASS/N.png."""

    action: tyro.conf.Positional[Literal["export"]]
    """The action."""
    out: Path
    """A new or empty folder for the images."""
    split: Literal["novel", "validation", "base"] = "novel"
    """The classes to export; the benchmark scores the novel ones."""

    def run(self) -> int:
        """Write the images of the split and print their number."""
        from segic_jax.data.emoji.source import EmojiSource
        from segic_jax.data.sources import folder

        count = folder.export(EmojiSource(self.split), "original", self.out)
        print(f"{count} images with masks in {self.out}")
        return 0
