"""What the references taught: a few numbers a class, in one file that loads, merges and drops classes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import safetensors.numpy
from jaxtyping import Float, Float16, Int32, UInt8
from safetensors import SafetensorError

from segic_jax.errors import DataError
from segic_jax.inference.engine import chunk_sizes
from segic_jax.inference.matching import INSIDE, KINDS, PATCHES, ConceptSlots
from segic_jax.models import segic
from segic_jax.runtime.atomic_write import atomic_write, require_path

FORMAT = "segic_jax context 1"


@dataclass(frozen=True, eq=False)
class Concept:
    """One class, or one negative example: what it looks like."""

    name: str  # empty for a negative
    visual: Float[np.ndarray, "shots channels"]  # mean feature inside each positive example
    text: Float[np.ndarray, " text_width"]
    patches: Float16[np.ndarray, "patches channels"]  # cells of the references, of unit length
    kind: UInt8[np.ndarray, " patches"]  # finding.INSIDE or OUTSIDE
    place: Int32[np.ndarray, "patches 3"]  # index of the reference, x and y in its pixels
    against: tuple[str, ...] = ()  # the classes that a negative speaks against


@dataclass(frozen=True)
class Reference:
    """An image that examples lie on, as far as a Context remembers it."""

    source: str  # its path; empty for arrays
    size: tuple[int, int]  # height, width
    preview: bytes  # a JPEG of at most 160 pixels a side, for explanations


@dataclass(frozen=True, eq=False)
class Context:
    """Ready for any number of targets; made by `Segmenter.fit` or `Segmenter.load_context`.

    `one + other` merges, `drop` leaves classes out, `save` writes a file; none of them changes a Context.
    About 4 * PATCHES * channels bytes a class (80 KB with the shipped model, half a MB with DINOv2-L),
    whatever the number of its examples, as much for a negative, and a preview of each reference image.
    """

    model: str  # fingerprint of the backbone and the canvas
    concepts: tuple[Concept, ...]
    negatives: tuple[Concept, ...]
    references: tuple[Reference, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, in order."""
        return tuple(concept.name for concept in self.concepts)

    @property
    def shots(self) -> dict[str, int]:
        """How many positive examples each class has."""
        return {concept.name: len(concept.visual) for concept in self.concepts}

    def __add__(self, other: "Context") -> "Context":
        """The classes of both; those of one name become one class with the examples of both.

        Raises:
            DataError: they belong to different models.
        """
        if not isinstance(other, Context):
            return NotImplemented
        if self.model != other.model:
            raise DataError("The two contexts belong to different models: fit the examples of one again.")
        offset = np.array([len(self.references), 0, 0], np.int32)
        merged = {concept.name: concept for concept in self.concepts}
        for concept in other.concepts:
            moved = replace(concept, place=concept.place + offset)
            merged[concept.name] = joined([merged[concept.name], moved]) if concept.name in merged else moved
        moved = tuple(replace(one, place=one.place + offset) for one in other.negatives)
        references = self.references + other.references
        return Context(self.model, tuple(merged.values()), self.negatives + moved, references)

    def drop(self, *names: str) -> "Context":
        """Without these classes, and without the references that only they used.

        Raises:
            DataError: there is no such class.
        """
        unknown = [name for name in names if not isinstance(name, str) or name not in self.names]
        if unknown:
            raise DataError(
                f"There is no class '{unknown[0]}' in the context; it has {', '.join(self.names)}."
            )
        concepts = [concept for concept in self.concepts if concept.name not in names]
        negatives = [
            replace(one, against=left)
            for one in self.negatives
            if (left := tuple(name for name in one.against if name not in names))
        ]
        used = sorted({int(i) for one in (*concepts, *negatives) for i in one.place[:, 0]})
        number = np.zeros(len(self.references), np.int32)
        number[used] = np.arange(len(used))

        def moved(one: Concept) -> Concept:
            return replace(one, place=np.column_stack([number[one.place[:, 0]], one.place[:, 1:]]))

        return Context(
            self.model,
            tuple(map(moved, concepts)),
            tuple(map(moved, negatives)),
            tuple(self.references[i] for i in used),
        )

    def save(self, path: Path | str) -> None:
        """Write one file; it appears under its name when it is whole.

        Raises:
            DataError: the folder is missing, or the disk refuses.
        """
        arrays: dict[str, np.ndarray] = {}
        for i, concept in enumerate((*self.concepts, *self.negatives)):
            arrays |= {f"{i}/{key}": getattr(concept, key) for key in _ARRAYS}
        for i, reference in enumerate(self.references):
            arrays[f"preview/{i}"] = np.frombuffer(reference.preview, np.uint8)
        head = {
            "format": FORMAT,
            "model": self.model,
            "names": self.names,
            "negatives": [one.against for one in self.negatives],
            "references": [[one.source, *one.size] for one in self.references],
        }
        atomic_write(path, safetensors.numpy.save(arrays, {"context": json.dumps(head)}))


def decode_preview(reference: Reference) -> UInt8[np.ndarray, "height width 3"]:
    """Return a reference's preview as an RGB image.

    Raises:
        DataError: its bytes are damaged.
    """
    data = np.frombuffer(reference.preview, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    if image is None:
        raise DataError(f"The preview of {reference.source} is damaged: fit the context again (segic fit).")
    return np.asarray(image)


_ARRAYS = ("visual", "text", "patches", "kind", "place")
_DAMAGED = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def read_context(path: Path | str) -> Context:
    """A file of `Context.save`.

    Raises:
        DataError: missing, damaged, without a class, or another kind of file.
    """
    if not require_path(path, DataError).is_file():
        raise DataError(f"{path}: there is no such file.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            head = json.loads(file.metadata()["context"])
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if head["format"] != FORMAT:
                raise DataError(f"{path} is of another version ({head['format']}): fit its examples again.")
            named = [(str(name), ()) for name in head["names"]]
            named += [("", tuple(map(str, against))) for against in head["negatives"]]
            concepts = tuple(
                Concept(name, *(stored[f"{i}/{key}"] for key in _ARRAYS), against=against)
                for i, (name, against) in enumerate(named)
            )
            classes = len(head["names"])
            references = tuple(
                Reference(str(source), (int(height), int(width)), stored[f"preview/{i}"].tobytes())
                for i, (source, height, width) in enumerate(head["references"])
            )
            context = Context(str(head["model"]), concepts[:classes], concepts[classes:], references)
            _check(context)
            if not context.names:
                raise DataError(f"{path} has no class: fit an example.")
            return context
    except DataError:
        raise
    except _DAMAGED as error:
        raise DataError(f"{path} is damaged or no saved context: make it again (segic fit).") from error


def _check(context: Context) -> None:
    """Raise ValueError where arrays do not fit each other."""
    if len(set(context.names)) < len(context.names):
        raise ValueError("names")
    if len({(one.visual.shape[1:], one.text.shape) for one in (*context.concepts, *context.negatives)}) > 1:
        raise ValueError("widths")
    for one in (*context.concepts, *context.negatives):
        count, channels = one.patches.shape
        fits = (
            one.visual.dtype == np.float32
            and one.visual.shape == (len(one.visual), channels)
            and len(one.visual) > 0
            and set(one.against) <= set(context.names)
            and one.text.dtype == np.float32
            and one.text.ndim == 1
            and one.patches.dtype == np.float16
            and one.kind.dtype == np.uint8
            and one.kind.shape == (count,)
            and one.place.dtype == np.int32
            and one.place.shape == (count, 3)
            and (one.kind < KINDS).all()
            and (one.kind == INSIDE).any()
            and (np.bincount(one.kind, minlength=KINDS) <= PATCHES).all()
            and (one.place >= 0).all()
            and (one.place[:, 0] < len(context.references)).all()
            and np.isfinite(one.visual).all()
            and np.isfinite(one.text).all()
            and np.isfinite(one.patches).all()
        )
        if not fits:
            raise ValueError("arrays")


def joined(parts: Sequence[Concept]) -> Concept:
    """One class from several, with the name and text of the first; cells are thinned to PATCHES a kind."""
    visual, patches, kind, place = (
        np.concatenate([getattr(part, key) for part in parts])
        for key in ("visual", "patches", "kind", "place")
    )
    keep = np.sort(np.concatenate([thinned(np.flatnonzero(kind == one), PATCHES) for one in range(KINDS)]))
    return Concept(parts[0].name, visual, parts[0].text, patches[keep], kind[keep], place[keep])


def thinned(indices: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of them, spread evenly."""
    if len(indices) <= most:
        return indices
    return indices[np.arange(most) * len(indices) // most]


def in_slots(concepts: Sequence[Concept]) -> list[ConceptSlots]:
    """For the programs: chunks of `chunk_sizes`, the last one padded."""
    chunks, start = [], 0
    for size in chunk_sizes(len(concepts)):
        chunks.append(_slots(concepts[start : start + size], size))
        start += size
    return chunks


def _slots(concepts: Sequence[Concept], count: int) -> ConceptSlots:
    channels = concepts[0].visual.shape[1]
    pooled = np.zeros((1, count, channels), np.float32)
    text = np.zeros((1, count, len(concepts[0].text)), np.float32)
    patches = np.zeros((count, KINDS, PATCHES, channels), np.float32)
    valid = np.zeros((count, KINDS, PATCHES), bool)
    for row, concept in enumerate(concepts):
        pooled[0, row], text[0, row] = concept.visual.mean(0), concept.text
        for kind in range(KINDS):
            own = concept.patches[concept.kind == kind]
            patches[row, kind, : len(own)] = own
            valid[row, kind, : len(own)] = True
    context = segic.Prototypes(
        pooled=pooled,
        visual=pooled[:, :, None],
        visual_valid=np.arange(count)[None, :, None] < len(concepts),
        text=text,
    )
    return ConceptSlots(context, patches, valid)
