"""Define `segic fit`: save references as a context."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from segic_jax.commands.arguments import ReferenceArguments, require_distinct
from segic_jax.errors import InputError


@dataclass(kw_only=True)
class Fit(ReferenceArguments):
    """Save references in one file, for --context of the other commands.

      segic fit --ref cat.jpg cat.png --name cat --out pets.segic
      segic fit --context pets.segic --ref dog.jpg dog.png --name dog --out pets.segic
      segic fit --context pets.segic --drop cat --out dogs.segic

    The file contains features and a small preview of each reference. It works only with the weights that made
    it.
    """

    out: Path
    """The file to write."""
    drop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A class to leave out."""

    def run(self) -> int:
        """Write the file and print its classes."""
        from segic_jax.runtime.atomic_write import make_folder
        from segic_jax.weights.fetch import find

        require_distinct([self.out], [*self.example_files, find(self.weights)])
        _, context = self.load()
        context = context.drop(*self.drop)
        if not context.names:
            raise InputError("No class is left after --drop.")
        make_folder(self.out.parent)
        context.save(self.out)
        shots = ", ".join(
            f"{name} ({count} example{'' if count == 1 else 's'})" for name, count in context.shots.items()
        )
        print(f"{self.out}: {shots}, {self.out.stat().st_size / 1e3:.0f} KB")
        return 0
