"""Define `segic runs`: list trainings and plot their curves, from their work directories."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro


@dataclass
class Plot:
    """Plot the curves of one or several trainings into one PNG."""

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """Work directories, each with its metrics.jsonl."""
    out: Path
    """The PNG file to write."""
    what: tuple[str, ...] = ()
    """Names of metrics; by default losses, validation scores, gradient norm, learning rate and speed."""

    def run(self) -> int:
        """Write the plot."""
        from segic_jax.errors import InputError
        from segic_jax.train.curves import plot

        if not self.workdirs:
            raise InputError("Give at least one work directory: segic runs plot WORKDIR --out curves.png")
        plot(self.workdirs, self.out, self.what)
        print(self.out)
        return 0


@dataclass
class List:
    """List the trainings in and below a folder: last step, loss, best validation, time."""

    folder: tyro.conf.Positional[Path] = Path()
    """The folder to search."""

    def run(self) -> int:
        """Print the table."""
        from segic_jax.train.curves import listing

        print(listing(self.folder))
        return 0


class Runs:
    """List trainings, or plot their curves."""

    ACTIONS: ClassVar = {"plot": Plot, "list": List}
