"""`segic runs`: what trainings did, from their work directories."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Plot:
    """Draw the curves of one or several trainings into one PNG."""

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """Work directories, each with its metrics.jsonl."""
    out: Path
    """The image to write."""
    what: tuple[str, ...] = ()
    """Names of metrics; by default losses, validation scores, gradient norm, learning rate and speed."""

    def run(self) -> int:
        """Write the image."""
        from segic_jax.errors import InputError
        from segic_jax.train.curves import plot

        if not self.workdirs:
            raise InputError("Give at least one work directory: segic runs plot WORKDIR --out curves.png")
        plot(self.workdirs, self.out, self.what)
        print(self.out)
        return 0


@dataclass
class List:
    """The trainings in a folder and below it: last step, loss, best validation, when."""

    folder: tyro.conf.Positional[Path] = Path()
    """Where to look."""

    def run(self) -> int:
        """Print one table."""
        from segic_jax.train.curves import listing

        print(listing(self.folder))
        return 0


@dataclass
class Runs:
    """Trainings on disk: draw their curves, or list them."""

    action: Annotated[Plot, tyro.conf.subcommand("plot")] | Annotated[List, tyro.conf.subcommand("list")]

    def run(self) -> int:
        """The chosen action."""
        return self.action.run()
