"""`segic fit`: learn once, segment often."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from segic_jax.commands.references import WithReferences
from segic_jax.commands.targets import make_folder, require_apart
from segic_jax.errors import InputError


@dataclass(kw_only=True)
class Fit(WithReferences):
    """Learn from references and keep it in one file, for --context of the other commands.

      segic fit --ref cat.jpg cat.png --name cat --out pets.segic
      segic fit --context pets.segic --ref dog.jpg dog.png --name dog --out pets.segic
      segic fit --context pets.segic --drop cat --out dogs.segic

    The file holds features and a small preview of each reference; it fits the weights that made it only.
    """

    out: Path
    """The file to write."""
    drop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A class to leave out; again for others."""

    def run(self) -> int:
        """Write the file and say what it knows."""
        require_apart([self.out], self.pictures())
        _, context = self.ready()
        context = context.drop(*self.drop)
        if not context.names:
            raise InputError("Nothing is left after --drop.")
        make_folder(self.out.parent)
        context.save(self.out)
        shots = ", ".join(
            f"{name} ({count} example{'' if count == 1 else 's'})" for name, count in context.shots.items()
        )
        print(f"{self.out}: {shots}, {self.out.stat().st_size / 1e3:.0f} KB")
        return 0
