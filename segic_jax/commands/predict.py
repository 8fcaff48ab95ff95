"""`segic predict`: masks for one's own images."""

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from segic_jax.commands.references import WithMasks
from segic_jax.commands.targets import (
    Refused,
    named_targets,
    require_apart,
    require_no_file,
)
from segic_jax.runtime import progress

if TYPE_CHECKING:
    from segic_jax.commands.sheet import Card
    from segic_jax.inference.context import Context
    from segic_jax.inference.result import Result


@dataclass(kw_only=True)
class Predict(WithMasks):
    """Find in other images what one image with a mask shows.

      segic predict --ref cat.jpg cat.png photos/ --out found/
      segic predict --ref cat.jpg cat.png --name cat --ref dog.jpg dog.png --name dog photos/ --out found/
      segic predict --ref cat.jpg 40,30,310,250 --negative fox.jpg fox.png photos/ --out found/
      segic predict --context pets.segic street.jpg park.jpg --out found/

    Writes into the folder, at the size of each target:

      index.html              a contact sheet of everything
      overlays/NAME.png       the target with its masks
      labels/NAME.png         palette image: 0, or 1, 2, ... for the classes in their order
      annotations/NAME.json   COCO: a mask, a box and scores of every class found on the target
      annotations.json        the same of all targets

    A stopped run goes on when the command is repeated: a target is done again only where its file, the
    references, the weights or --threshold and --keep-absent have changed. annotations.json and index.html
    are of the last command. The exit code is 2 if a target could not be read; the others are done.
    """

    targets: tyro.conf.Positional[tuple[Path, ...]]
    """Images; a folder stands for all images in it."""
    out: Path
    """Folder for the results; made if need be."""

    def run(self) -> int:
        """Segment every target that can be read and is not done; 0, or 2 if one could not be read."""
        from segic_jax.commands.resume import run_of

        cut = self.cut
        targets = named_targets(self.targets)
        require_no_file(self.out)
        written = (self.out / kind / f"{name}.png" for kind in ("overlays", "labels") for name in targets)
        require_apart(written, [*targets.values(), *self.pictures()])
        segmenter, context = self.ready()
        refused = Refused()
        made = {
            "weights": segmenter.name,
            "pixels": f"at least {self.threshold:g} probable",
            "command": shlex.join(["segic", *sys.argv[1:]]),
        }
        run = run_of(segmenter, context, threshold=self.threshold, keep_absent=self.keep_absent)
        with Folder(self.out, context, targets, refused, made, run) as folder:
            left = folder.left()
            names = {str(path): name for name, path in left.items()}
            results = segmenter.predict_many(
                list(left.values()), context, keep_absent=self.keep_absent, on_error=refused
            )
            for result in progress.bar(results, total=len(left), unit="image", leave=False):
                folder.add(names[result.source], result.threshold(cut))
        return 2 if refused.said else 0


class Folder:
    """The results on disk. What was done before a stop is whole, and in the summaries too."""

    def __init__(
        self,
        out: Path,
        context: "Context",
        targets: Mapping[str, Path],
        refused: Refused,
        made: dict[str, str],
        run: str,
    ):
        self._out, self._context, self._targets = out, context, targets
        self._refused, self._made, self._run = refused, made, run
        self._done: dict[str, dict] = {}  # COCO files by name
        self._cards: dict[str, Card] = {}  # of those that this run did

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_) -> None:
        if not self._done:
            return
        from segic_jax.commands.sheet import MOST, page
        from segic_jax.inference.result import merge_coco_files
        from segic_jax.runtime.atomic_write import atomic_write

        names = [name for name in self._targets if name in self._done]
        coco = merge_coco_files([self._done[name] for name in names])
        cards = [self._cards.get(name) or self._card(name) for name in names[:MOST]]
        html = page(
            self._context, cards, list(self._done.values()), [*self._refused.said.values()], self._made
        )
        atomic_write(self._out / "annotations.json", (json.dumps(coco) + "\n").encode())
        atomic_write(self._out / "index.html", html.encode(errors="replace"))  # names of any bytes
        count = len(names)
        progress.write_line(f"{count} image{'' if count == 1 else 's'}: {self._out / 'index.html'}")

    def left(self) -> dict[str, Path]:
        """The targets that an equal run has not done yet."""
        for name in self._targets:
            if (coco := self._done_before(name)) is not None:
                self._done[name] = coco
        if self._done:
            progress.write_line(f"{len(self._done)} of {len(self._targets)} were done before.")
        return {name: path for name, path in self._targets.items() if name not in self._done}

    def add(self, name: str, result: "Result") -> None:
        """Write one target's files and say what was found."""
        from segic_jax.commands.sheet import SIDE, card

        result.save(self._out, name, {"run": self._run_on(name)})
        self._done[name] = result.coco_file()
        self._cards[name] = card(name, self._done[name], result.overlay(SIDE))
        progress.write_line(f"{result.source}: {_sentence(result)}")

    def _run_on(self, name: str) -> str:
        from segic_jax.commands.resume import with_files

        return with_files(self._run, self._targets[name])

    def _done_before(self, name: str) -> dict | None:
        pictures = (self._out / kind / f"{name}.png" for kind in ("overlays", "labels"))
        try:
            coco = json.loads((self._out / "annotations" / f"{name}.json").read_text("utf-8"))
            same = coco["info"]["run"] == self._run_on(name)
        except (OSError, ValueError, KeyError, TypeError):  # none, or not ours
            return None
        return coco if same and all(picture.is_file() for picture in pictures) else None

    def _card(self, name: str) -> "Card":
        from segic_jax.commands.sheet import card
        from segic_jax.data.image_files import read_image

        return card(name, self._done[name], read_image(self._out / "overlays" / f"{name}.png"))


def _sentence(result: "Result") -> str:
    height, width = result.image.shape[:2]
    return ", ".join(
        f"{name} {presence:.2f} ({100 * area / (height * width):.1f} % of the image)"
        if area
        else f"{name} absent ({presence:.2f})"
        for name, presence, area in zip(result.names, result.presence, result.areas, strict=True)
    )
