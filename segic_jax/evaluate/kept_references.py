"""Keep what a method reads of the references of episodes, until their targets come."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Float

from segic_jax.data.episodes import View
from segic_jax.data.preprocess import CanvasImage
from segic_jax.inference.context import Concept, merge_concepts
from segic_jax.inference.engine import Decoding, Engine, ImageFeatures
from segic_jax.inference.training_free.engine import ReferenceSlots, TrainingFreeEngine
from segic_jax.models.encoding import Prototypes


class PooledReferences:
    """Keep the pooled feature of each reference that an engine has encoded."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._pooled: dict[View, tuple[jax.Array, int]] = {}

    def add(self, views: Sequence[View], images: Sequence[CanvasImage]) -> None:
        """Encode references, one mask each."""
        engine = self.engine
        masks = np.zeros((engine.rows, 1, engine.config.canvas, engine.config.canvas), bool)
        for row, image in enumerate(images):
            masks[row] = image.masks
        pooled = engine.pool(engine.features(images), masks)[:, 0]
        self._pooled |= {view: (pooled, row) for row, view in enumerate(views)}

    def decode(
        self,
        features: ImageFeatures,
        references: Sequence[Sequence[View]],
        text: Float[np.ndarray, "tasks text_width"],
    ) -> Decoding:
        """Decode one concept a row."""
        return self.engine.decode(features, self.prototypes(references, text))

    def prototypes(
        self, references: Sequence[Sequence[View]], text: Float[np.ndarray, "tasks text_width"]
    ) -> Prototypes:
        """Return prototypes of one concept a row, padded to the engine's rows."""
        rows, width = self.engine.rows, self.engine.config.backbone.width
        shots = np.zeros((rows, 1, len(references[0]), width), np.float32)
        for row, views in enumerate(references):
            for shot, view in enumerate(views):
                pooled, place = self._pooled[view]
                shots[row, 0, shot] = np.asarray(pooled)[place]
        padded = np.zeros((rows, 1, text.shape[1]), np.float32)
        padded[: len(text), 0] = text
        return self.engine.prototypes(shots, padded)


class GridReferences:
    """Keep of each reference of a block what the training-free method reads."""

    def __init__(self, engine: TrainingFreeEngine):
        self.engine = engine
        self._concepts: dict[View, tuple[Concept, np.ndarray]] = {}
        self._decoded = False  # whether targets came after the last reference

    def add(self, views: Sequence[View], images: Sequence[CanvasImage]) -> None:
        """Encode references, one mask each; those of the block before, which were decoded, are forgotten."""
        if self._decoded:
            self._concepts, self._decoded = {}, False
        for view, image in zip(views, images, strict=True):
            self._concepts[view] = self.engine.encode_mask(image)

    def decode(
        self,
        features: ImageFeatures,
        references: Sequence[Sequence[View]],
        text: Float[np.ndarray, "tasks text_width"],
    ) -> Decoding:
        """Segment one concept on one image; the text is not read."""
        self._decoded = True
        (views,) = references
        shots = [self._concepts[view] for view in views]
        parts = [replace(concept, image=np.array([i], np.int32)) for i, (concept, _) in enumerate(shots)]
        slots = ReferenceSlots([merge_concepts(parts)], [grid for _, grid in shots])
        return self.engine.segment(features, slots)


KeptReferences = PooledReferences | GridReferences


def keep_references(engine: Engine) -> KeptReferences:
    """Return an empty store for the references of an engine."""
    return GridReferences(engine) if isinstance(engine, TrainingFreeEngine) else PooledReferences(engine)


def blank(prototypes: Prototypes) -> Prototypes:
    """Return zeros in place of references: the similarity map is flat and its peak is (0, 0)."""
    zeros = {name: np.zeros_like(getattr(prototypes, name)) for name in ("pooled", "visual")}
    return prototypes._replace(**zeros)
