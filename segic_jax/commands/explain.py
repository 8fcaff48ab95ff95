"""`segic explain`: why a mask is where it is."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from segic_jax.commands.references import WithMasks
from segic_jax.commands.targets import (
    Refused,
    make_folder,
    named_targets,
    require_apart,
    require_no_file,
)
from segic_jax.runtime import progress


@dataclass(kw_only=True)
class Explain(WithMasks):
    """Draw which part of a reference each part of a mask looks like, and where the target looks alike at all.

      segic explain --ref cat.jpg cat.png street.jpg --out why/
      segic explain --context pets.segic photos/ --out why/

    Writes NAME.png for each target, a row a class: the references, the target with its mask and numbered
    matches, and the cosine similarity of every place to the references' mean feature. The exit code is 2
    if a target could not be read.
    """

    targets: tyro.conf.Positional[tuple[Path, ...]]
    """Images; a folder stands for all images in it."""
    out: Path
    """Folder for the images; made if need be."""
    matches: int = 12
    """How many to draw for a class, spread over its mask."""

    def run(self) -> int:
        """Draw every target that can be read; 0, or 2 if one could not."""
        from segic_jax.commands.explanation import draw
        from segic_jax.errors import DataError
        from segic_jax.inference.example import as_image
        from segic_jax.runtime.atomic_write import atomic_write

        cut = self.cut
        if self.matches < 1:
            raise DataError(f"--matches {self.matches} must be at least 1.")
        targets = named_targets(self.targets)
        require_no_file(self.out)
        require_apart((self.out / f"{name}.png" for name in targets), [*targets.values(), *self.pictures()])
        segmenter, context = self.ready()
        refused = Refused()
        for name, path in progress.bar(targets.items(), total=len(targets), unit="image", leave=False):
            try:
                image = as_image(path)
            except DataError as error:
                refused(path, error)
                continue
            result = segmenter.predict(image, context, keep_absent=self.keep_absent).threshold(cut)
            explained = segmenter.explain(image, context, matches=segmenter.config.grid**2)
            make_folder(self.out)
            atomic_write(self.out / f"{name}.png", draw(context, result, explained, self.matches))
            progress.write_line(self.out / f"{name}.png")
        return 2 if refused.said else 0
