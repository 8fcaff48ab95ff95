"""`segic predict`: masks for one's own pictures."""

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from segic_jax.commands.references import WithReferences, logit_of
from segic_jax.commands.targets import (
    Refused,
    make_folder,
    named_targets,
    progress,
    require_apart,
    require_no_file,
    say,
)

if TYPE_CHECKING:
    from segic_jax.commands.sheet import Card
    from segic_jax.context import Context
    from segic_jax.result import Result


@dataclass(kw_only=True)
class Predict(WithReferences):
    """Find in other pictures what one picture with a mask shows.

      segic predict --ref cat.jpg cat.png photos/ --out found/
      segic predict --ref cat.jpg cat.png --name cat --ref dog.jpg dog.png --name dog photos/ --out found/
      segic predict --ref cat.jpg 40,30,310,250 --negative fox.jpg fox.png photos/ --out found/
      segic predict --context pets.segic street.jpg park.jpg --out found/

    Writes into the folder, at the size of each target:

      index.html           a contact sheet of everything
      overlays/NAME.png    the target with its masks
      labels/NAME.png      palette picture: 0, or 1, 2, ... for the classes in their order
      annotations.json     COCO: a mask, a box and scores of every class on every target

    A second run into the same folder replaces results of the same name; annotations.json and index.html
    are of the last run. The exit code is 2 if a target could not be read; the others are done.
    """

    targets: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures; a folder stands for all pictures in it."""
    out: Path
    """Folder for the results; made if need be."""
    threshold: float = 0.5
    """How probable a pixel must be to belong to a mask."""
    keep_absent: bool = False
    """Give masks to classes that seem to be absent, too."""

    def run(self) -> int:
        """Segment every target that can be read; 0, or 2 if one could not."""
        cut = logit_of(self.threshold)
        targets = named_targets(self.targets)
        require_no_file(self.out)
        written = (self.out / kind / f"{name}.png" for kind in ("overlays", "labels") for name in targets)
        require_apart(written, [*targets.values(), *self.pictures()])
        segmenter, context = self.ready()
        names = {str(path): name for name, path in targets.items()}
        refused = Refused()
        results = segmenter.predict_many(
            list(targets.values()), context, keep_absent=self.keep_absent, on_error=refused
        )
        made = {
            "weights": segmenter.name,
            "pixels": f"at least {self.threshold:g} probable",
            "command": shlex.join(["segic", *sys.argv[1:]]),
        }
        with Folder(self.out, context, refused, made) as folder:
            for result in progress(results, total=len(targets), unit="picture"):
                folder.add(names[result.source], result.threshold(cut))
        return 2 if refused.said else 0


class Folder:
    """The results on disk. What was done before a stop is whole, and in the summaries too."""

    def __init__(self, out: Path, context: "Context", refused: Refused, made: dict[str, str]):
        self._out, self._context, self._refused, self._made = out, context, refused, made
        self._cards: list[Card] = []
        self._images: list[dict] = []
        self._annotations: list[dict] = []

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_) -> None:
        if not self._cards:
            return
        from segic_jax.commands.sheet import page
        from segic_jax.data.files import whole_write

        coco = {
            "images": self._images,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(self._context.names)],
            "annotations": self._annotations,
        }
        html = page(self._context, self._cards, list(self._refused.said.values()), self._made)
        whole_write(self._out / "annotations.json", (json.dumps(coco) + "\n").encode())
        whole_write(self._out / "index.html", html.encode(errors="replace"))  # names of any bytes
        count = len(self._cards)
        say(f"{count} picture{'' if count == 1 else 's'}: {self._out / 'index.html'}")

    def add(self, name: str, result: "Result") -> None:
        """Write one target's files and say what was found."""
        import cv2

        from segic_jax.commands.sheet import card
        from segic_jax.data.files import whole_write

        if not self._cards:
            for inside in ("overlays", "labels"):
                make_folder(self._out / inside)
        drawn = result.overlay()
        png = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1].tobytes()
        whole_write(self._out / "overlays" / f"{name}.png", png)
        result.save(self._out / "labels" / f"{name}.png")
        height, width = result.image.shape[:2]
        image = {"id": len(self._images) + 1, "file_name": result.source, "height": height, "width": width}
        self._images.append(image)
        self._annotations += result.to_coco(image["id"], len(self._annotations) + 1)
        self._cards.append(card(name, result, drawn))
        say(f"{result.source}: {_sentence(result)}")


def _sentence(result: "Result") -> str:
    pixels = result.label_map.size
    return ", ".join(
        f"{name} {presence:.2f} ({100 * area / pixels:.1f} % of the picture)"
        if area
        else f"{name} absent ({presence:.2f})"
        for name, presence, area in zip(result.names, result.presence, result.areas, strict=True)
    )
