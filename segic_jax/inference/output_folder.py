"""Write the results of many targets into a folder with a contact sheet; a stopped run can be continued."""

import base64
import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import cv2
import jinja2
import numpy as np
from jaxtyping import UInt8

from segic_jax.data.annotations.types import LabelledImage
from segic_jax.data.images import read_image
from segic_jax.errors import DataError
from segic_jax.inference.annotations import labelled_file, save_annotations
from segic_jax.inference.coco_output import merge_coco_files
from segic_jax.inference.context import Context
from segic_jax.inference.overlay import Colour, class_colours, shrink
from segic_jax.inference.reference import Reference, decode_preview, draw_marks, share_text
from segic_jax.inference.result import Result
from segic_jax.inference.segmenter import Segmenter
from segic_jax.runtime import progress
from segic_jax.runtime.atomic_write import atomic_write

THUMBNAIL = 480  # longer side in pixels on the contact sheet: sharp at twice the size of its card
MAX_REFERENCES = 24  # on the contact sheet
MAX_CARDS = 1000  # images on the contact sheet: a few dozen megabytes
WRITERS = 2  # threads that write results while the next targets are segmented


def run_id(segmenter: Segmenter, context: Context, **settings) -> str:
    """Return a hash of everything results depend on besides the targets: weights, references and settings."""
    digest = hashlib.sha256(segmenter.fingerprint.encode())
    settings |= {"precision": segmenter.engine.precision, "backend": segmenter.engine.backend}
    digest.update(json.dumps([segmenter.bundle.notes, settings], sort_keys=True).encode())
    for name in sorted(segmenter.bundle.head):
        digest.update(segmenter.bundle.head[name].tobytes())
    for concept in (*context.concepts, *context.negatives):
        digest.update(json.dumps([concept.name, concept.against]).encode())
        for array in (concept.visual, concept.text, concept.patches, concept.kind):
            digest.update(array.tobytes())
    for grid in context.grids:  # of the training-free method
        digest.update(grid.tobytes())
    return digest.hexdigest()[:16]


def file_run_id(run: str, *files: Path) -> str:
    """Return the hash of a run on these files as they are now: their names, sizes and times."""
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([run, stamps]).encode()).hexdigest()[:16]


class CardClass(NamedTuple):
    """Hold the line of a card about one class."""

    name: str
    colour: str  # CSS
    status: str  # as `Result.status`
    presence: float  # 0..1


class Card(NamedTuple):
    """Hold what the page shows of one target."""

    name: str  # of its results
    source: str
    thumbnail: str  # data URI
    width: int
    height: int
    classes: list[CardClass]


class OutputFolder:
    """Hold the folder of `segic predict`, as a context manager that writes the summaries at its end.

    Every file is complete, also after a stop, and the summaries contain what was done until then.
    """

    def __init__(
        self,
        path: Path,
        context: Context,
        targets: Mapping[str, Path],
        skipped: Mapping[str, str],
        notes: Mapping[str, str],
        run: str,
        formats: Sequence[str] = (),
    ):
        """Describe a run.

        Args:
            targets: all target files, by the names of their results.
            skipped: messages about targets that cannot be read; they may be added later.
            notes: lines of the contact sheet's footer.
            run: the run's `run_id`.
            formats: of labelling tools, whose files are written as well.
        """
        self._formats = formats
        self._path, self._context, self._targets = path, context, targets
        self._skipped, self._notes, self._run = skipped, notes, run
        self._coco: dict[str, dict] = {}  # by name of the result
        self._cards: dict[str, Card] = {}  # of results that this run made
        self._with_card = frozenset(islice(targets, MAX_CARDS))  # thumbnails of more would fill the memory
        self._pool = ThreadPoolExecutor(WRITERS)
        self._writing: deque[Future[str]] = deque()

    def __enter__(self) -> "OutputFolder":
        return self

    def __exit__(self, exception: type[BaseException] | None, *_) -> None:
        try:
            with self._pool:  # which waits for what is being written
                while self._writing:
                    written = self._writing.popleft()
                    if exception is None or written.exception() is None:
                        progress.write_line(written.result())
        finally:
            if self._coco:
                self._write_summaries()

    def _write_summaries(self) -> None:
        names = [name for name in self._targets if name in self._coco]
        coco = merge_coco_files([self._coco[name] for name in names])
        cards = [self._cards.get(name) or self._read_card(name) for name in names[:MAX_CARDS]]
        html = render_page(
            self._context, cards, list(self._coco.values()), [*self._skipped.values()], self._notes
        )
        atomic_write(self._path / "annotations.json", json.dumps(coco) + "\n")
        # A file name may hold bytes that are no text.
        atomic_write(self._path / "index.html", html.encode(errors="replace"))
        for format in self._formats:
            images = [self._labelled(name) for name in names]
            written = save_annotations(images, list(self._context.names), self._path / format, format)
            progress.write_line(f"{format}: {written}")
        count = len(names)
        progress.write_line(f"{count} image{'' if count == 1 else 's'}: {self._path / 'index.html'}")

    @property
    def done(self) -> int:
        """Return how many targets have results."""
        return len(self._coco)

    def remaining(self) -> dict[str, Path]:
        """Return the targets that an equal run has not finished yet, and say how many it has."""
        for name in self._targets:
            if (coco := self._finished_coco(name)) is not None:
                self._coco[name] = coco
        if self._coco:
            progress.write_line(f"{len(self._coco)} of {len(self._targets)} were done before.")
        return {name: path for name, path in self._targets.items() if name not in self._coco}

    def add(self, name: str, result: Result) -> None:
        """Start to write one target's files, and print what was found in those that are written.

        Raises:
            DataError: the files of this or an earlier target cannot be written.
        """
        self._writing.append(self._pool.submit(self._write, name, result))
        while len(self._writing) > WRITERS or (self._writing and self._writing[0].done()):
            progress.write_line(self._writing.popleft().result())

    def _write(self, name: str, result: Result) -> str:
        result.save(self._path, name, {"run": file_run_id(self._run, self._targets[name])})
        coco = result.coco_file()
        if name in self._with_card:
            self._cards[name] = make_card(name, coco, result.overlay(THUMBNAIL))
        self._coco[name] = coco
        return f"{result.source}: {_describe(result)}"

    def _finished_coco(self, name: str) -> dict | None:
        """Return the annotations of a target if an equal run has written all of its files."""
        images = (self._path / kind / f"{name}.png" for kind in ("overlays", "labels"))
        try:
            coco = json.loads((self._path / "annotations" / f"{name}.json").read_text("utf-8"))
            same = coco["info"]["run"] == file_run_id(self._run, self._targets[name])
        except (OSError, ValueError, KeyError, TypeError):  # missing, or written by something else
            return None
        return coco if same and all(image.is_file() for image in images) else None

    def _labelled(self, name: str) -> LabelledImage:
        labels = self._path / "labels" / f"{name}.png"
        return labelled_file(name, self._targets[name], self._coco[name], labels)

    def _read_card(self, name: str) -> Card:
        return make_card(name, self._coco[name], read_image(self._path / "overlays" / f"{name}.png"))


def _describe(result: Result) -> str:
    pixels = result.image[..., 0].size
    parts = []
    for i, (name, presence, area) in enumerate(zip(result.names, result.presence, result.areas, strict=True)):
        status = result.status(i).removeprefix("present").removeprefix(", ")
        share = share_text(area / pixels) if area else ""
        parts.append(f"{name} {presence:.2f} ({', '.join(filter(None, (status, share)))})")
    return ", ".join(parts)


def make_card(name: str, coco: dict, overlay: UInt8[np.ndarray, "height width 3"]) -> Card:
    """Make the card of a target from its `Result.coco_file` and its overlay."""
    small = shrink(overlay, THUMBNAIL)
    image = coco["images"][0]
    colours = _css_colours(len(image["presence"]))
    classes = [
        CardClass(category, colour, image["status"][category], presence)
        for (category, presence), colour in zip(image["presence"].items(), colours, strict=True)
    ]
    return Card(name, image["file_name"], _jpeg_uri(small), small.shape[1], small.shape[0], classes)


def render_page(
    context: Context,
    cards: Sequence[Card],
    coco_files: Sequence[dict],
    skipped: Sequence[str],
    notes: Mapping[str, str],
) -> str:
    """Return the contact sheet: one HTML page with thumbnails that needs no other file.

    Args:
        cards: of the first targets, in order.
        coco_files: of all targets.
        skipped: a message for each target that cannot be read.
        notes: lines of the footer.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segic_jax.inference"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["urlencode"] = lambda name: quote(os.fsencode(name))  # names may hold any bytes
    shown = ({annotation["category_name"] for annotation in coco["annotations"]} for coco in coco_files)
    count = Counter(name for names in shown for name in names)
    totals = [
        {"name": name, "colour": colour, "count": count[name]}
        for name, colour in zip(context.names, _css_colours(len(context.names)), strict=True)
    ]
    colours = dict(zip(context.names, class_colours(len(context.names)), strict=True))
    references = [
        {
            "source": reference.source,
            "marks": [str(mark) for mark in reference.marks],
            "questions": [mark.question for mark in reference.marks if mark.question],
            "preview": _reference_uri(reference, colours),
        }
        for reference in context.references[:MAX_REFERENCES]
    ]
    return environment.get_template("contact_sheet.html.j2").render(
        totals=totals,
        references=references,
        more_references=len(context.references) - len(references),
        cards=cards,
        hidden=len(coco_files) - len(cards),
        total=len(coco_files),
        skipped=skipped,
        notes=notes,
    )


def _css_colours(count: int) -> list[str]:
    return ["#{:02x}{:02x}{:02x}".format(*colour) for colour in class_colours(count)]


def _reference_uri(reference: Reference, colours: Mapping[str, Colour]) -> str:
    try:
        return _jpeg_uri(draw_marks(decode_preview(reference), reference.marks, colours))
    except DataError:  # the results are worth more than a damaged preview
        return _data_uri(reference.preview)


def _jpeg_uri(image: np.ndarray) -> str:
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])[1]
    return _data_uri(jpeg.tobytes())


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
