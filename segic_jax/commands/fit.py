"""Define `segic fit`: save references as a context."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from segic_jax.commands.arguments import ReferenceArguments, SkippedInputs, require_distinct
from segic_jax.errors import InputError
from segic_jax.runtime import progress

if TYPE_CHECKING:
    from segic_jax.inference.example import Example

MANY_IMAGES = 100  # of a project, from which on it is said how to take fewer
ProjectFormat = Literal["auto", "labelme", "coco", "cvat", "label-studio", "yolo", "via", "voc"]


@dataclass(kw_only=True)
class Fit(ReferenceArguments):
    """Save references in one file, for --context of the other commands.

      segic fit --ref cat.jpg cat.png --name cat --out pets.segic
      segic fit --context pets.segic --ref dog.jpg dog.png --name dog --out pets.segic
      segic fit --context pets.segic --drop cat --out dogs.segic
      segic fit project/ --max-images 20 --out pets.segic

    The file contains features and a small preview of each reference. It works only with the weights that made
    it. A project is that of a labelling tool: each label on each image is a reference. The exit code is 2 if
    an annotation of it cannot be used; the others still are.
    """

    projects: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders or files of labelme, COCO, CVAT, Label Studio, YOLO, VIA or PASCAL VOC."""
    format: ProjectFormat = "auto"
    """The format of the projects; it is recognised by default."""
    images: Path | None = None
    """The folder of the projects' images, if they are elsewhere."""
    max_images: int | None = None
    """Take at most this number of images of each class of a project, drawn by their names: always the same
    ones, and as far as possible one image for several classes."""
    out: Path
    """The file to write."""
    drop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A class to leave out."""

    @cached_property
    def skipped(self) -> SkippedInputs:
        """Return the report of annotations that cannot be used."""
        return SkippedInputs()

    @cached_property
    def examples(self) -> "list[Example]":
        """Return the examples of --ref and --negative, and those of the projects."""
        from segic_jax.inference.annotations import read_examples

        examples = super().examples
        for project in self.projects:
            found = read_examples(
                project,
                self.format,
                images=self.images,
                max_images=self.max_images,
                on_error=self.skipped,
            )
            count = len({id(example.image) for example in found})
            if count > MANY_IMAGES:
                line = f"{project}: {count} images, of which --max-images takes fewer of each class."
                progress.write_line(line, to_stderr=True)
            examples += found
        return examples

    @property
    def on_error(self) -> SkippedInputs | None:
        """Leave out the images of a project that cannot be read."""
        return self.skipped if self.projects else None

    def run(self) -> int:
        """Write the file and print its classes; return 2 if an annotation of a project cannot be used."""
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
        return self.skipped.exit_code(1)
