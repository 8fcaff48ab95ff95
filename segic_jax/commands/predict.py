"""Define `segic predict`: segment images with the references of the command line."""

import shlex
import sys
from dataclasses import dataclass
from typing import Literal

import tyro

from segic_jax.commands.arguments import (
    SkippedInputs,
    TargetArguments,
    TilesOption,
    bar,
    name_targets,
    require_distinct,
    require_folder_path,
)

ResultFormat = Literal["labelme", "coco", "cvat", "label-studio", "yolo", "via", "voc", "masks"]


@dataclass(kw_only=True)
class Predict(TargetArguments):
    """Segment in other images what a reference image with a mask shows.

      segic predict --ref cat.jpg cat.png photos/ --out found/
      segic predict --ref cat.jpg cat.png --name cat --ref dog.jpg dog.png --name dog photos/ --out found/
      segic predict --ref cat.jpg 40,30,310,250 --negative fox.jpg fox.png photos/ --out found/
      segic predict --context pets.segic street.jpg park.jpg --out found/
      segic predict --ref cat.jpg cat.json:cat photos/ --out found/ --format labelme

    The output folder contains, at the size of each target:

      index.html              a contact sheet of all targets
      overlays/NAME.png       the target with its masks
      labels/NAME.png         a palette image: 0, or 1, 2, ... for the classes in their order
      annotations/NAME.json   COCO: a mask, a box and scores of every class found on the target, or of every
                              object (--instances)
      annotations.json        the same for all targets
      FORMAT/                 with --format: the files of that labelling tool for all targets

    Repeat the command to continue a stopped run. A target is segmented again only if its file, the
    references, the weights, or an option that changes results have changed. annotations.json and index.html
    always describe the last command. The exit code is 2 if a target cannot be read; the other targets are
    still segmented. It is 1 if none can be read."""

    together: bool = False
    """Decode the classes together, as the official code does: each also reads the features of the others.
    Otherwise adding a class changes no mask of another."""
    format: tyro.conf.UseAppendAction[tuple[ResultFormat, ...]] = ()
    """Also write the results for a labelling tool; may be repeated."""

    tiles: TilesOption = None
    """For small objects in large images: segment overlapping windows, N along the longer side, or as many as
    show the image at its own size (auto), and merge them."""
    instances: Literal["regions", "peaks"] | None = None
    """Write an annotation and an outline for each object of a class, not for each class: connected regions,
    or regions that are also split where they are narrow (peaks)."""

    def run(self) -> int:
        """Segment every target that is not done; return 2 if one cannot be read, 1 if none can."""
        from segic_jax.inference.output_folder import OutputFolder, run_id
        from segic_jax.inference.tiles import require_tiles

        cut = self.cut
        require_tiles(self.tiles)
        targets = name_targets(self.targets, recursive=self.recursive, exclude=self.out)
        require_folder_path(self.out)
        images = (self.out / kind / f"{name}.png" for kind in ("overlays", "labels") for name in targets)
        require_distinct(images, [*targets.values(), *self.example_files])
        segmenter, context = self.load()
        skipped = SkippedInputs()
        notes = {
            "weights": segmenter.name,
            "threshold": f"probability {self.threshold:g}",
            "command": shlex.join(["segic", *sys.argv[1:]]),
        }
        if segmenter.warnings:
            notes["warning"] = " ".join(segmenter.warnings)
        ways = {"together": self.together, "tiles": self.tiles, "instances": self.instances}
        run = run_id(segmenter, context, threshold=self.threshold, keep_absent=self.keep_absent, **ways)
        formats = tuple(dict.fromkeys(self.format))
        with OutputFolder(self.out, context, targets, skipped.messages, notes, run, formats) as folder:
            remaining = folder.remaining()
            names = {str(path): name for name, path in remaining.items()}
            results = segmenter.predict_many(
                list(remaining.values()),
                context,
                cut=cut,
                keep_absent=self.keep_absent,
                **ways,
                on_error=skipped,
            )
            for result in bar(results, total=len(remaining), unit="image"):
                folder.add(names[result.source], result)
        return skipped.exit_code(folder.done)
