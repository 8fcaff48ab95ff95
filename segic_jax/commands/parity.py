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


class Parity:
    """Compare this project with the official PyTorch code."""

    ACTIONS: ClassVar = {"report": Report, "goldens": Goldens}
