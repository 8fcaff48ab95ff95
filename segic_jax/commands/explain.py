"""Define `segic explain`: show why a mask is where it is."""

from dataclasses import dataclass

from segic_jax.commands.arguments import (
    SkippedInputs,
    TargetArguments,
    bar,
    name_targets,
    require_distinct,
    require_folder_path,
)
from segic_jax.errors import InputError


@dataclass(kw_only=True)
class Explain(TargetArguments):
    """Draw which part of a reference each part of a mask matches, and the similarity map of the target.

      segic explain --ref cat.jpg cat.png street.jpg --out why/
      segic explain --context pets.segic photos/ --out why/

    Writes NAME.png for each target, with one row for each class: the references, the target with its mask and
    numbered matches, and the cosine similarity of every place to the prototype of the references. The exit
    code is 2 if a target cannot be read, 1 if none can.
    """

    matches: int = 12
    """The number of matches to draw for a class, spread over its mask."""

    def run(self) -> int:
        """Draw every target; return 2 if one cannot be read, 1 if none can."""
        from segic_jax.data.images import as_image
        from segic_jax.errors import DataError
        from segic_jax.inference.explain_figure import draw_explanation
        from segic_jax.runtime import progress
        from segic_jax.runtime.atomic_write import atomic_write, make_folder

        cut = self.cut
        if self.matches < 1:
            raise InputError(f"--matches {self.matches} must be at least 1.")
        targets = name_targets(self.targets, recursive=self.recursive, exclude=self.out)
        require_folder_path(self.out)
        figures = (self.out / f"{name}.png" for name in targets)
        require_distinct(figures, [*targets.values(), *self.example_files])
        segmenter, context = self.load()
        skipped = SkippedInputs()
        for name, path in bar(targets.items(), total=len(targets), unit="image"):
            try:
                image = as_image(path)
            except DataError as error:
                skipped(path, error)
                continue
            result, explanations = segmenter.predict_and_explain(
                image,
                context,
                cut=cut,
                keep_absent=self.keep_absent,
                matches=segmenter.config.grid**2,
            )
            make_folder(self.out)
            atomic_write(
                self.out / f"{name}.png", draw_explanation(context, result, explanations, self.matches)
            )
            progress.write_line(self.out / f"{name}.png")
        return skipped.exit_code(len(targets) - len(skipped.messages))
