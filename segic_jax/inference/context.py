"""Keep what segmentation needs of the references: a few numbers per class, in one file."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import safetensors.numpy
from jaxtyping import Bool, Float, Float16, Float32, Int32, Integer, UInt8
from safetensors import SafetensorError

from segic_jax.data import masks
from segic_jax.errors import DataError
from segic_jax.inference.engine import chunk_sizes
from segic_jax.inference.matching import INSIDE, KINDS, PATCHES, ConceptSlots
from segic_jax.inference.reference import MASK, Mark, Reference
from segic_jax.models import encoding
from segic_jax.runtime.atomic_write import atomic_write, require_path

FORMAT = "segic_jax context 2"


@dataclass(frozen=True, eq=False)
class Concept:
    """Describe the look of one class, or of one negative example."""

    name: str  # empty for a negative
    visual: Float[np.ndarray, "shots channels"]  # mean feature inside each positive example
    text: Float[np.ndarray, " text_width"]
    patches: Float16[np.ndarray, "patches channels"]  # of the references, of unit length
    kind: UInt8[np.ndarray, " patches"]  # matching.INSIDE or OUTSIDE
    place: Int32[np.ndarray, "patches 3"]  # index of the reference, x and y in its pixels
    against: tuple[str, ...] = ()  # the classes that a negative belongs to
    # Only for the training-free method: the patches of each example on the grid of its reference.
    inside: Bool[np.ndarray, "marked grid_patches"] = field(default_factory=lambda: np.zeros((0, 0), bool))
    image: Int32[np.ndarray, " marked"] = field(default_factory=lambda: np.zeros(0, np.int32))

    def renumber(self, index: Int32[np.ndarray, " references"]) -> "Concept":
        """Return the concept with reference i under the number index[i]."""
        place = np.column_stack([index[self.place[:, 0]], self.place[:, 1:]])
        return replace(self, place=place, image=index[self.image])


@dataclass(frozen=True, eq=False)
class Context:
    """Hold everything about the references that segmenting any number of targets needs.

    `Segmenter.fit` and `Segmenter.load_context` make it. `a + b` merges two, `drop` leaves classes out, and
    `save` writes a file; none of them changes a Context. It takes about 4 * PATCHES * channels bytes for each
    class (80 KB with the shipped model, half a MB with DINOv2-L), however many examples the class has, as
    many for each negative, and a preview of each reference image. For the training-free method it also has
    the features of all patches of each reference: 4 * patches * channels bytes (16 MB with DINOv3-L).
    """

    model: str  # fingerprint of the backbone, the canvas and the method
    concepts: tuple[Concept, ...]
    negatives: tuple[Concept, ...]
    references: tuple[Reference, ...]
    grids: tuple[Float32[np.ndarray, "patches channels"], ...] = ()  # of unit length, one a reference

    def __repr__(self) -> str:
        """Describe the classes, with their numbers of examples and negatives, in a few lines."""
        lines = []
        for name, count in list(self.shots.items())[:10]:
            negatives = sum(name in negative.against for negative in self.negatives)
            line = f"  {name}: {count} example{'s' * (count != 1)}"
            lines.append(line + (f", {negatives} negative{'s' * (negatives != 1)}" if negatives else ""))
        if len(self.names) > 10:
            lines.append(f"  and {len(self.names) - 10} more")
        count, images = len(self.names), len(self.references)
        classes = f"{count} class{'es' * (count != 1)}"
        title = f"Context of {classes}, {images} reference image{'s' * (images != 1)}:"
        return "\n".join([title, *lines])

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the classes, in order."""
        return tuple(concept.name for concept in self.concepts)

    @property
    def shots(self) -> dict[str, int]:
        """Return how many positive examples each class has."""
        return {concept.name: len(concept.visual) for concept in self.concepts}

    def __add__(self, other: "Context") -> "Context":
        """Return the classes of both; two of the same name become one class with the examples of both.

        Raises:
            DataError: they belong to different models.
        """
        if not isinstance(other, Context):
            return NotImplemented
        if self.model != other.model:
            raise DataError("The two contexts belong to different models: fit the examples of one again.")
        moved = np.arange(len(other.references), dtype=np.int32) + np.int32(len(self.references))
        merged = {concept.name: concept for concept in self.concepts}
        for concept in other.concepts:
            added = concept.renumber(moved)
            before = merged.get(concept.name)
            merged[concept.name] = added if before is None else merge_concepts([before, added])
        negatives = self.negatives + tuple(negative.renumber(moved) for negative in other.negatives)
        references, grids = self.references + other.references, self.grids + other.grids
        return Context(self.model, tuple(merged.values()), negatives, references, grids)

    def drop(self, *names: str) -> "Context":
        """Return the Context without these classes and without the references that only they used.

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
            replace(negative, against=others)
            for negative in self.negatives
            if (others := tuple(name for name in negative.against if name not in names))
        ]
        left = (*concepts, *negatives)
        used = sorted({int(i) for concept in left for i in (*concept.place[:, 0], *concept.image)})
        index = np.zeros(len(self.references), np.int32)
        index[used] = np.arange(len(used))
        return Context(
            self.model,
            tuple(concept.renumber(index) for concept in concepts),
            tuple(negative.renumber(index) for negative in negatives),
            tuple(
                replace(reference, marks=tuple(mark for mark in reference.marks if mark.name not in names))
                for reference in (self.references[i] for i in used)
            ),
            tuple(self.grids[i] for i in used) if self.grids else (),
        )

    def save(self, path: Path | str) -> None:
        """Write one file; it appears under its name when it is complete.

        Raises:
            DataError: the folder is missing, or the disk refuses.
        """
        arrays: dict[str, np.ndarray] = {}
        for i, concept in enumerate((*self.concepts, *self.negatives)):
            arrays |= {f"{i}/{key}": getattr(concept, key) for key in _ARRAYS + _SHOTS * bool(self.grids)}
        for i, reference in enumerate(self.references):
            arrays[f"preview/{i}"] = np.frombuffer(reference.preview, np.uint8)
        arrays |= {f"grid/{i}": grid for i, grid in enumerate(self.grids)}
        head = {
            "format": FORMAT,
            "model": self.model,
            "names": self.names,
            "negatives": [negative.against for negative in self.negatives],
            "references": [
                [reference.source, *reference.size, [asdict(mark) for mark in reference.marks]]
                for reference in self.references
            ],
        }
        atomic_write(path, safetensors.numpy.save(arrays, {"context": json.dumps(head)}))


_ARRAYS = ("visual", "text", "patches", "kind", "place")
_SHOTS = ("inside", "image")  # in addition for the training-free method
_DAMAGED = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def read_context(path: Path | str) -> Context:
    """Read a file of `Context.save`.

    Raises:
        DataError: the file is missing, damaged, without a class, or of another kind.
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
            grids = tuple(stored[f"grid/{i}"] for i in range(len(head["references"])) if "grid/0" in stored)
            keys = _ARRAYS + _SHOTS * bool(grids)
            concepts = tuple(
                Concept(name, against=against, **{key: stored[f"{i}/{key}"] for key in keys})
                for i, (name, against) in enumerate(named)
            )
            classes = len(head["names"])
            references = tuple(
                Reference(
                    str(source),
                    (int(height), int(width)),
                    stored[f"preview/{i}"].tobytes(),
                    tuple(Mark(**mark) for mark in marks),
                )
                for i, (source, height, width, marks) in enumerate(head["references"])
            )
            context = Context(str(head["model"]), concepts[:classes], concepts[classes:], references, grids)
            _check(context)
            if not context.names:
                raise DataError(f"{path} has no class: fit an example.")
            return context
    except DataError:
        raise
    except _DAMAGED as error:
        raise DataError(f"{path} is damaged or not a saved context: make it again (segic fit).") from error


def _check(context: Context) -> None:
    """Raise ValueError where arrays do not fit each other."""
    concepts = (*context.concepts, *context.negatives)
    if len(set(context.names)) < len(context.names):
        raise ValueError("names")
    if len({(concept.visual.shape[1:], concept.text.shape) for concept in concepts}) > 1:
        raise ValueError("widths")
    for mark in (mark for reference in context.references for mark in reference.marks):
        if max(mark.mask["size"]) > MASK:  # decoding it might fill the memory
            raise ValueError("mask")
        masks.decode(mark.mask, *mark.mask["size"])
        str(mark)
    for concept in concepts:
        count, channels = concept.patches.shape
        fits = (
            concept.visual.dtype == np.float32
            and concept.visual.shape == (len(concept.visual), channels)
            and len(concept.visual) > 0
            and set(concept.against) <= set(context.names)
            and concept.text.dtype == np.float32
            and concept.text.ndim == 1
            and concept.patches.dtype == np.float16
            and concept.kind.dtype == np.uint8
            and concept.kind.shape == (count,)
            and concept.place.dtype == np.int32
            and concept.place.shape == (count, 3)
            and (concept.kind < KINDS).all()
            and (concept.kind == INSIDE).any()
            and (np.bincount(concept.kind, minlength=KINDS) <= PATCHES).all()
            and (concept.place >= 0).all()
            and (concept.place[:, 0] < len(context.references)).all()
            and np.isfinite(concept.visual).all()
            and np.isfinite(concept.text).all()
            and np.isfinite(concept.patches).all()
        )
        if not fits or (context.grids and not _fits_grids(concept, context.grids)):
            raise ValueError("arrays")


def _fits_grids(concept: Concept, grids: Sequence[np.ndarray]) -> bool:
    inside, image = concept.inside, concept.image
    shape = (inside.shape[1:] or (0,))[0], concept.visual.shape[1]
    return (
        all(grid.dtype == np.float32 and grid.shape == shape and np.isfinite(grid).all() for grid in grids)
        and inside.dtype == bool
        and image.dtype == np.int32
        and image.shape == inside.shape[:1] == concept.visual.shape[:1]
        and bool(((image >= 0) & (image < len(grids))).all() and inside.any(1).all())
    )


def merge_concepts(parts: Sequence[Concept]) -> Concept:
    """Merge concepts into one, with the name and text of the first and at most PATCHES of each kind."""
    visual, patches, kind, place, inside, image = (
        np.concatenate([getattr(part, key) for part in parts])
        for key in ("visual", "patches", "kind", "place", "inside", "image")
    )
    keep = np.sort(np.concatenate([subsample(np.flatnonzero(kind == k), PATCHES) for k in range(KINDS)]))
    return Concept(
        parts[0].name,
        visual,
        parts[0].text,
        patches[keep],
        kind[keep],
        place[keep],
        inside=inside,
        image=image,
    )


def subsample(indices: Integer[np.ndarray, " indices"], limit: int) -> Integer[np.ndarray, " kept"]:
    """Return at most `limit` of the indices, spread evenly."""
    if len(indices) <= limit:
        return indices
    return indices[np.arange(limit) * len(indices) // limit]


def concept_slots(concepts: Sequence[Concept]) -> list[ConceptSlots]:
    """Arrange concepts for `Engine.match_concepts`: in chunks of fixed sizes, the last one padded."""
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
            selected = concept.patches[concept.kind == kind]
            patches[row, kind, : len(selected)] = selected
            valid[row, kind, : len(selected)] = True
    context = encoding.Prototypes(
        pooled=pooled,
        visual=pooled[:, :, None],
        visual_valid=np.arange(count)[None, :, None] < len(concepts),
        text=text,
    )
    return ConceptSlots(context, patches, valid)
