"""`segic parity`: this project against the official PyTorch code."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class Parity:
    """One page about a dump of the official code (tools/dump_torch.py), stage by stage.

    `python -m segic_jax.parity DIR` replays a folder of goldens.
    """

    action: tyro.conf.Positional[Literal["report"]]
    """What to do."""
    dump: tyro.conf.Positional[Path]
    """The folder that tools/dump_torch.py wrote."""
    out: Path
    """The page to write, .html; the same figures go to a .json beside it."""

    def run(self) -> int:
        """0 if every float32 stage is within its tolerance, else 1."""
        from segic_jax.parity.report import write_report

        passed = write_report(self.dump, self.out)
        print(f"{self.out}: {'every stage is within' if passed else 'some stage is beyond'} its tolerance")
        return 0 if passed else 1
