"""Define `segic convert` and `segic weights`: import official weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro


@dataclass
class Convert:
    """Convert official weights to one file of this project.

    Sources are recognised by the names and shapes of their tensors: DINOv2 or DINOv3 as Meta, Hugging Face or
    timm ship it, CLIP's text tower with its tokenizer.json, a SegIC checkpoint, or a file of this project.
    Backbone, text tower and head together make a complete model; fewer parts make a file that a later
    conversion can join. Nothing in a .pth file is executed."""

    source: tyro.conf.Positional[tuple[Path, ...]]
    """.pth, .bin or .safetensors files, or folders in the layout of the Hugging Face hub."""
    out: Path
    """The .safetensors file to write."""
    canvas: int | None = None
    """Side of the square input in pixels, which official checkpoints do not store; by default the side stored
    with a head of this project, else 896, that of the published models."""
    logit_offset: float | None = None
    """What is added to the logits of every mask: above 0 if the masks of your images are too small. By
    default the offset stored with a head of this project, else 0."""
    num_heads: int | None = None
    """Attention heads of a backbone of unpublished size, whose file does not store their number."""
    float16: bool = False
    """Store float16, which halves the file and rounds the weights."""
    take: str | None = None
    """The model to take from a training checkpoint with several: teacher, student or ema."""

    def run(self) -> int:
        """Convert and print what was read."""
        from segic_jax.weights.convert import convert

        print(
            convert(
                self.source,
                self.out,
                canvas=self.canvas,
                logit_offset=self.logit_offset,
                num_heads=self.num_heads,
                float16=self.float16,
                take=self.take,
            )
        )
        return 0


@dataclass
class List:
    """List the models of the package and the weights that can be fetched: content, size, licence, log-in,
    source."""

    def run(self) -> int:
        """Print the table."""
        from segic_jax.weights.fetch import catalog_table

        print(catalog_table())
        return 0


@dataclass
class Fetch:
    """Download, verify and convert weights into the cache folder (SEGIC_CACHE)."""

    name: tyro.conf.Positional[str]
    """A name of `segic weights list`."""

    def run(self) -> int:
        """Fetch and print the path of the file."""
        from segic_jax.weights.fetch import fetch

        print(fetch(self.name))
        return 0


class Weights:
    """List the models of the package and the weights that can be fetched, or fetch one of them."""

    ACTIONS: ClassVar = {"list": List, "fetch": Fetch}
