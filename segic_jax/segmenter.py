"""The practitioner's API: pictures of any size in, masks of the same size out.

    result = load().fit("cat.jpg", "cat_mask.png").predict("other.jpg")

`fit` reads the references once and gives a Context; `Context.predict` segments any number of targets.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8, UInt16

from segic_jax import programs
from segic_jax.config import to_dict
from segic_jax.data.canvas import Placed, resize, resize_and_pad
from segic_jax.data.episodes import DataError
from segic_jax.data.files import read_mask, read_picture
from segic_jax.models import segic
from segic_jax.weights.bundle import SHIPPED, Bundle, load_bundle

Picture = str | Path | UInt8[np.ndarray, "height width 3"]
Mask = str | Path | Bool[np.ndarray, "height width"] | UInt8[np.ndarray, "height width"]


def load(weights: Path | str = SHIPPED) -> "Segmenter":
    """A Segmenter with the weights of a model file; the default is the small one inside the package.

    Raises:
        BundleError: the file is missing, damaged or of another kind.
    """
    return Segmenter(load_bundle(weights))


@dataclass(frozen=True)
class Result:
    """What was found in one target, at its own size."""

    names: tuple[str, ...]  # of the concepts, in the order of the arrays below
    masks: Bool[np.ndarray, "concepts height width"]  # logit above 0; masks may overlap
    label_map: UInt16[np.ndarray, "height width"]  # 0, or 1 + the concept with the largest logit above 0
    logits: Float[np.ndarray, "concepts height width"]
    scores: Float[np.ndarray, " concepts"]  # mean probability inside each mask, 0.5..1; 0 if it is empty


class Segmenter:
    """A model, ready to take references."""

    def __init__(self, bundle: Bundle):
        self.bundle = bundle

    def fit(
        self, reference: Picture | Sequence[tuple[str, Picture, Mask]], mask: Mask | None = None
    ) -> "Context":
        """Learn what to look for.

        Args:
            reference: a picture (a path, or an RGB array), shown together with its `mask`; or a list of
                (name, picture, mask) for several classes. The same name again is another shot of that class.
            mask: a path (`data.files.read_mask` tells what counts as the object), or an array of the
                picture's size: bool, or uint8 with the object above 127.

        Raises:
            DataError: a file that cannot be read, an empty mask, or one of another size than its picture.
        """
        if isinstance(reference, (str, Path, np.ndarray)):
            if mask is None:
                raise DataError("fit needs the picture's mask as well: fit(picture, mask).")
            reference = [("object", reference, mask)]
        if not reference:
            raise DataError("fit needs at least one reference.")
        shots: dict[str, list[int]] = {}
        for i, (name, _, _) in enumerate(reference):
            shots.setdefault(name, []).append(i)
        shown = [self._reference(picture, mask) for _, picture, mask in reference]
        config = self.bundle.config
        slots = (1, len(shots), max(map(len, shots.values())))  # [batch, concepts, shots]
        references = segic.References(
            images=None,  # their features are there already
            sizes=None,
            masks=np.zeros((*slots, config.canvas, config.canvas), bool),
            picture=np.zeros(slots, np.int32),
            valid=np.zeros(slots, bool),
            text=np.tile(self.bundle.text_feature(), (*slots[:2], 1)),
        )
        for concept, indices in enumerate(shots.values()):
            for shot, i in enumerate(indices):
                references.masks[0, concept, shot] = shown[i][1]
                references.picture[0, concept, shot] = i
                references.valid[0, concept, shot] = True
        features = jnp.stack([features for features, _ in shown], axis=1)
        return Context(self, tuple(shots), jax.tree.map(np.asarray, programs.encode(features, references)))

    def load_context(self, path: Path | str) -> "Context":
        """A Context that `Context.save` wrote.

        Raises:
            DataError: not such a file, or made with another backbone.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in ("pooled", "visual", "visual_valid", "text")}
                names, backbone = json.loads(str(stored["names"])), str(stored["backbone"])
        except FileNotFoundError as error:
            raise DataError(f"{path}: there is no such file.") from error
        except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, BadZipFile) as error:
            raise DataError(f"{path} is no saved context; make it with Context.save.") from error
        if backbone != self.backbone_hash():
            raise DataError(
                f"{path} belongs to another model than {self.bundle.name}; fit its references again."
            )
        return Context(self, tuple(names), segic.Context(**arrays))

    def backbone_hash(self) -> str:
        """Of what a Context depends on besides its references; the head is no part of it."""
        config = to_dict(self.bundle.config)
        digest = hashlib.sha256(json.dumps([config["vit"], config["canvas"]]).encode())
        for name in sorted(self.bundle.backbone):
            digest.update(np.asarray(self.bundle.backbone[name]).tobytes())
        return digest.hexdigest()

    def features(self, placed: Placed) -> Float[Array, "1 g g channels"]:
        """Backbone features of a picture on the canvas."""
        sizes = np.array([placed.size], np.int32)
        return programs.extract(self.bundle.config, self.bundle.backbone, placed.image[None], sizes)

    def _reference(self, picture: Picture, mask: Mask) -> tuple[Array, np.ndarray]:
        """Features, and the mask on the canvas."""
        image = _as_picture(picture)
        mask_name = str(mask) if isinstance(mask, (str, Path)) else "The mask"
        mask = read_mask(mask) if isinstance(mask, (str, Path)) else _as_mask(mask)
        (height, width), (rows, columns) = image.shape[:2], mask.shape
        if (rows, columns) != (height, width):
            raise DataError(
                f"{mask_name} is {columns} x {rows} pixels, its picture {width} x {height}; "
                "make them the same size."
            )
        if not mask.any():
            raise DataError(f"{mask_name} is empty; mark the object with values above 127.")
        placed = resize_and_pad(image, mask[None], self.bundle.config.canvas)
        return self.features(placed), placed.masks[0]


@dataclass(frozen=True)
class Context:
    """What the references taught, ready for any number of targets."""

    segmenter: Segmenter
    names: tuple[str, ...]
    arrays: segic.Context  # batch of 1

    def predict(self, target: Picture) -> Result:
        """Segment one picture (a path, or an RGB array).

        Raises:
            DataError: a file that cannot be read.
        """
        image = _as_picture(target)
        bundle = self.segmenter.bundle
        height, width = image.shape[:2]
        placed = resize_and_pad(image, np.zeros((0, height, width), bool), bundle.config.canvas)
        features = self.segmenter.features(placed)
        canvas_logits = np.asarray(programs.decode(bundle.config, bundle.head, features, self.arrays))[0]
        h, w = placed.size
        logits = resize(canvas_logits[:, :h, :w], (height, width))
        masks = logits > 0
        inside = np.where(masks, logits, 0).astype(np.float64)
        probability = np.where(masks, 1 / (1 + np.exp(-inside)), 0)
        label_map = np.where(masks.any(0), 1 + logits.argmax(0), 0).astype(np.uint16)
        scores = probability.sum((1, 2)) / np.maximum(masks.sum((1, 2)), 1)
        return Result(self.names, masks, label_map, logits, scores.astype(np.float32))

    def save(self, path: Path | str) -> None:
        """Write an .npz of a few kilobytes; `Segmenter.load_context` reads it."""
        arrays = {name: getattr(self.arrays, name) for name in ("pooled", "visual", "visual_valid", "text")}
        with Path(path).open("wb") as file:
            np.savez(file, names=json.dumps(self.names), backbone=self.segmenter.backbone_hash(), **arrays)


def _as_picture(picture: Picture) -> UInt8[np.ndarray, "height width 3"]:
    if isinstance(picture, (str, Path)):
        return read_picture(picture)
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.shape[2:] != (3,) or not picture.size:
        raise DataError(f"A picture must be uint8 [height, width, 3], not {picture.dtype} {picture.shape}.")
    return picture


def _as_mask(mask: np.ndarray) -> Bool[np.ndarray, "height width"]:
    mask = np.asarray(mask)
    if mask.dtype not in (bool, np.uint8) or mask.ndim != 2:
        raise DataError(f"A mask must be bool or uint8 [height, width], not {mask.dtype} {mask.shape}.")
    return mask if mask.dtype == bool else mask > 127
