"""Define `segic parity`: compare this project with the official PyTorch code."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import tyro


@dataclass
class Report:
    """Write a page that compares both frameworks stage by stage, on your weights and images.

    The official code writes its side first: see tools/dump_torch.py.
    """

    dump: tyro.conf.Positional[Path]
    """Folder that tools/dump_torch.py wrote."""
    out: Path
    """The .html page to write; a .json file beside it gets the same values."""

    def run(self) -> int:
        """Return 0 if every float32 stage is within its tolerance, else 1."""
        from segic_jax.parity.report import write_report

        passed = write_report(self.dump, self.out)
        print(f"{self.out}: {'every stage is within' if passed else 'a stage exceeds'} its tolerance")
        return 0 if passed else 1


@dataclass
class Goldens:
    """Replay goldens, arrays that the official code computed, and print a table of the differences.

    Exit code 0: every array of the format is present and within its tolerance; 1: some are not; 2: a file
    cannot be read, or an argument is wrong.
    """

    folder: tyro.conf.Positional[Path]
    """Folder of .npz and .safetensors files; the README in it describes the format."""
    only: tuple[str, ...] = ()
    """Files to replay, without suffix; all files of the format by default."""
    json: Path | None = None
    """JSON file to write the table to."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the frozen encoders. The tolerances are those of float32; bfloat16 is a measurement."""

    def run(self) -> int:
        """Replay and return the exit code."""
        from segic_jax.parity.goldens import replay_goldens

        return replay_goldens(self.folder, self.only, self.json, self.dtype)


@dataclass
class EndToEnd:
    """Convert a dump's weights and segment its images as a user does; compare the masks with PyTorch's.

    The weights go through `segic convert`, names through the tokenizer, images through `Segmenter.predict`
    and through `segic eval` as a process of its own. It also measures what a rounded canvas, bfloat16 and
    TF32 change. Exit code 0: with float32 inputs every mask is PyTorch's, but for pixels whose logits tie
    within 1e-3; 1: one is not.
    """

    dump: tyro.conf.Positional[Path]
    """Folder that tools/dump_torch.py wrote."""
    out: Path | None = None
    """A .json file to write the table to."""
    tokenizer: Path | None = None
    """CLIP's tokenizer.json, for a dump that does not hold it."""

    def run(self) -> int:
        """Compare and return the exit code."""
        from segic_jax.parity.end_to_end import compare_end_to_end

        return 0 if compare_end_to_end(self.dump, self.out, self.tokenizer) else 1


class Parity:
    """Compare this project with the official PyTorch code."""

    ACTIONS: ClassVar = {"report": Report, "end-to-end": EndToEnd, "goldens": Goldens}
