"""`segic convert`, `segic export`, `segic weights`: official weights in and out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Convert:
    """Read official weights into one file of this project.

    What a source is shows in its names and shapes: DINOv2 as Meta, Hugging Face or timm ship it, CLIP's text
    tower with its tokenizer.json, a SegIC checkpoint, a file of this project. All three parts together make
    a whole model; fewer make a file that a later conversion can join. Nothing in a .pth is executed.
    """

    source: tyro.conf.Positional[tuple[Path, ...]]
    """.pth, .bin or .safetensors files, or folders as the Hugging Face hub lays them out."""
    out: Path
    """The .safetensors file to write."""
    canvas: int | None = None
    """Side of the square input in pixels, which no official checkpoint tells; the published models' 896 by
    default, or what a head of this project was trained at."""
    num_heads: int | None = None
    """Attention heads of a backbone of unpublished size, whose file does not tell it."""
    half: bool = False
    """Store float16: half the size, and rounded."""

    def run(self) -> int:
        """Convert and say what was found."""
        from segic_jax.weights.convert import convert

        print(convert(self.source, self.out, canvas=self.canvas, num_heads=self.num_heads, half=self.half))
        return 0


@dataclass
class Export:
    """Write a model's trained head under the official SegIC names, for `load_state_dict` in PyTorch."""

    model: tyro.conf.Positional[str]
    """Model file, or a name of `segic weights list`."""
    out: Path
    """The .safetensors file to write."""

    def run(self) -> int:
        """Export and say how to load it."""
        from segic_jax.weights.convert import export_head
        from segic_jax.weights.fetch import find

        count = export_head(find(self.model), self.out)
        print(
            f"{self.out}: {count} tensors under their official names. In PyTorch:\n"
            f"  model.load_state_dict(safetensors.torch.load_file({str(self.out)!r}), strict=False)"
        )
        return 0


@dataclass
class List:
    """Every known file: what it is, size, licence, where it comes from, whether it is here."""

    def run(self) -> int:
        """Print the table."""
        from segic_jax.weights.fetch import table

        print(table())
        return 0


@dataclass
class Fetch:
    """Download, verify and convert; the result lies in the cache folder (SEGIC_CACHE)."""

    name: tyro.conf.Positional[str]
    """A name of `segic weights list`."""

    def run(self) -> int:
        """Fetch and say where it is."""
        from segic_jax.weights.fetch import fetch

        print(fetch(self.name))
        return 0


@dataclass
class Weights:
    """Known weights: list them, or fetch one."""

    action: Annotated[List, tyro.conf.subcommand("list")] | Annotated[Fetch, tyro.conf.subcommand("fetch")]

    def run(self) -> int:
        """The chosen action."""
        return self.action.run()
