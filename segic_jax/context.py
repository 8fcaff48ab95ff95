"""What the references taught: a few numbers a class, in one file that loads, merges and drops classes."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Float16, Int32, UInt8

from segic_jax.data.episodes import DataError
from segic_jax.data.files import whole_write
from segic_jax.finding import KINDS, PATCHES, Slots
from segic_jax.models import segic

FORMAT = "segic_jax context 1"


@dataclass(frozen=True, eq=False)
class Concept:
    """One class: what its examples look like."""

    name: str
    visual: Float[np.ndarray, "shots channels"]  # mean feature inside each positive example
    text: Float[np.ndarray, " text_width"]
    patches: Float16[np.ndarray, "patches channels"]  # cells of the references, of unit length
    kind: UInt8[np.ndarray, " patches"]  # finding.INSIDE, OUTSIDE or NEGATIVE
    place: Int32[np.ndarray, "patches 3"]  # index of the reference, x and y in its pixels


@dataclass(frozen=True)
class Reference:
    """A picture that examples lie on, as far as a Context remembers it."""

    source: str  # its path; empty for arrays
    size: tuple[int, int]  # height, width
    preview: bytes  # a JPEG of at most 160 pixels a side, for explanations


@dataclass(frozen=True, eq=False)
class Context:
    """Ready for any number of targets; made by `Segmenter.fit` or `Segmenter.load_context`.

    At most 3 * PATCHES * channels * 2 bytes a class (120 KB with the shipped model, 790 KB with DINOv2-L),
    whatever the number of examples, and a preview of 160 pixels of each reference picture.
    """

    model: str  # fingerprint of the backbone and the canvas
    concepts: tuple[Concept, ...]
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
        return Context(self.model, tuple(merged.values()), self.references + other.references)

    def drop(self, *names: str) -> "Context":
        """Without these classes, and without the references that only they used.

        Raises:
            DataError: there is no such class.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise DataError(
                f"There is no class '{unknown[0]}' in the context; it has {', '.join(self.names)}."
            )
        concepts = [concept for concept in self.concepts if concept.name not in names]
        used = sorted({int(i) for concept in concepts for i in concept.place[:, 0]})
        number = np.zeros(len(self.references) + 1, np.int32)
        number[used] = np.arange(len(used))
        moved = []
        for concept in concepts:
            place = concept.place.copy()
            place[:, 0] = number[place[:, 0]]
            moved.append(replace(concept, place=place))
        return Context(self.model, tuple(moved), tuple(self.references[i] for i in used))

    def save(self, path: Path | str) -> None:
        """Write one file; it appears under its name when it is whole.

        Raises:
            DataError: the folder is missing, or the disk refuses.
        """
        arrays: dict[str, np.ndarray] = {}
        for i, concept in enumerate(self.concepts):
            arrays |= {f"{i}/{key}": getattr(concept, key) for key in _ARRAYS}
        for i, reference in enumerate(self.references):
            arrays[f"preview/{i}"] = np.frombuffer(reference.preview, np.uint8)
        head = {
            "format": FORMAT,
            "model": self.model,
            "names": self.names,
            "references": [[one.source, *one.size] for one in self.references],
        }
        file = io.BytesIO()
        np.savez(file, head=np.array(json.dumps(head)), **arrays)
        whole_write(path, file.getvalue())


_ARRAYS = ("visual", "text", "patches", "kind", "place")


def read_context(path: Path | str) -> Context:
    """A file of `Context.save`.

    Raises:
        DataError: missing, damaged or another kind of file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            head = json.loads(str(stored["head"]))
            if head["format"] != FORMAT:
                raise DataError(
                    f"{path} was saved by another version ({head['format']}): fit its examples again."
                )
            concepts = tuple(
                Concept(str(name), *(stored[f"{i}/{key}"] for key in _ARRAYS))
                for i, name in enumerate(head["names"])
            )
            references = tuple(
                Reference(str(source), (int(height), int(width)), stored[f"preview/{i}"].tobytes())
                for i, (source, height, width) in enumerate(head["references"])
            )
            context = Context(str(head["model"]), concepts, references)
            _check(context)
            return context
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except DataError:
        raise
    except _DAMAGED as error:
        raise DataError(f"{path} is damaged or no saved context; make it with Context.save.") from error


_DAMAGED = (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, BadZipFile, MemoryError)


def _check(context: Context) -> None:
    """Raise ValueError where arrays do not fit each other."""
    if len(set(context.names)) < len(context.names):
        raise ValueError("names")
    for one in context.concepts:
        count, channels = one.patches.shape
        fits = (
            one.visual.dtype == np.float32
            and one.visual.shape == (len(one.visual), channels)
            and len(one.visual) > 0
            and one.text.dtype == np.float32
            and one.text.ndim == 1
            and one.patches.dtype == np.float16
            and one.kind.dtype == np.uint8
            and one.kind.shape == (count,)
            and one.place.dtype == np.int32
            and one.place.shape == (count, 3)
            and (one.kind < KINDS).all()
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


def slot_count(concepts: int) -> int:
    """1, 4, 8, 16, 32, ...: the numbers of slots that programs are compiled for."""
    return next(size for size in (1, 4, *(8 << i for i in range(20))) if concepts <= size)


def in_slots(concepts: Sequence[Concept]) -> Slots:
    """Padded to `slot_count`."""
    count, channels = slot_count(len(concepts)), concepts[0].visual.shape[1]
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
    context = segic.Context(
        pooled=pooled,
        visual=pooled[:, :, None],
        visual_valid=np.arange(count)[None, :, None] < len(concepts),
        text=text,
    )
    return Slots(context, patches, valid)
