"""Run the training-free method: a backbone and nothing else, with the verbs of `inference.engine.Engine`.

The device computes features, distances and what follows the clusters; the host computes the clusters, once an
image, whatever the number of concepts.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

from segic_jax.config import Backend, Method, Precision
from segic_jax.data.preprocess import CanvasImage
from segic_jax.inference import matching
from segic_jax.inference.context import Concept, Context, concept_slots
from segic_jax.inference.engine import Decoding, Engine, ImageFeatures, compiled, device_of
from segic_jax.inference.matching import ConceptMatches, ConceptSlots, PatchMatches, PooledReference
from segic_jax.inference.training_free.candidates import backward_gate, forward_gate, nearest_patches
from segic_jax.inference.training_free.clusters import cluster_labels, distances
from segic_jax.inference.training_free.crf import EdgeField
from segic_jax.inference.training_free.debias import EPSILON, debias, positional_basis, unit_patches
from segic_jax.inference.training_free.edges import refine_edges
from segic_jax.inference.training_free.merging import describe_clusters, merge_clusters
from segic_jax.inference.training_free.reference import mask_on_grid
from segic_jax.inference.training_free.settings import TrainingFree
from segic_jax.models.correspondence import patches_on_image, upsample_maps
from segic_jax.models.encoding import Prototypes
from segic_jax.models.layers import l2_normalise
from segic_jax.models.params import Params
from segic_jax.weights.bundle import Bundle

# Takes a mask at the size of its image, and returns one with other edges.
Refine = Callable[[Bool[np.ndarray, "height width"]], Bool[np.ndarray, "height width"]]


class Shots(NamedTuple):
    """Hold the examples of one concept."""

    inside: Bool[np.ndarray, "shots patches"]
    image: Int32[np.ndarray, " shots"]  # place in the order of references


class ReferenceSlots(list[ConceptSlots]):
    """Hold the concepts in chunks, and beside them what only this method reads of the references."""

    def __init__(self, concepts: Sequence[Concept], grids: Sequence[Float[np.ndarray, "patches channels"]]):
        """Arrange concepts.

        Args:
            grids: of all references, in their order.
        """
        super().__init__(concept_slots(concepts))
        self.shots = [Shots(concept.inside, concept.image) for concept in concepts]
        self.grids = tuple(grids)

    @classmethod
    def of(cls, context: Context) -> "ReferenceSlots":
        """Arrange the concepts and negatives of a Context."""
        return cls((*context.concepts, *context.negatives), context.grids)


class TrainingFreeEngine(Engine):
    """Segment with INSID3's steps on features of any backbone; the head of the model is not read."""

    method: Method = "training_free"
    keeps_grids = True

    def __init__(
        self,
        bundle: Bundle,
        settings: TrainingFree,
        devices: Sequence[jax.Device] | None = None,
        precision: Precision = "auto",
        *,
        backend: Backend = "jax",
        beside: Engine | None = None,
    ):
        """Place the backbone, and measure on a blank image what its features say about positions.

        Args:
            backend, beside: see `Engine`.
        """
        super().__init__(bundle, devices, precision, backend=backend, beside=beside)
        self.rows = 1  # the clusters of an image are computed on the host, one image after the other
        self.settings = settings
        canvas = self.config.canvas
        blank = CanvasImage(
            np.zeros((canvas, canvas, 3), np.uint8), np.zeros((0, canvas, canvas), bool), (canvas,) * 2
        )
        basis = np.zeros((self.config.backbone.width, 0), np.float32)
        if self.settings.components:
            features = self.features([blank]).features.patches
            basis = positional_basis(np.asarray(features)[0], self.settings.components)
        self._bases = {device: jax.device_put(basis, device) for device in self.devices}

    def method_settings(self) -> dict:
        """Return the settings; see `Engine.method_settings`."""
        return asdict(self.settings)

    def features(self, images: Sequence[CanvasImage], rows: int | None = None) -> ImageFeatures:
        """Encode images with the backbone; see `Engine.features`."""
        return super().features(images, rows)._replace(images=tuple(images))

    def compared_patches(self, images: ImageFeatures) -> Float[np.ndarray, "g g channels"]:
        """Return debiased features of unit length."""
        grid = self.config.grid
        return np.asarray(self._debiased(images))[0].reshape(grid, grid, -1)

    def pool_reference(self, images: ImageFeatures, mask: Bool[np.ndarray, "S S"]) -> PooledReference:
        """Return the mean of the debiased features inside a mask, and its patches."""
        inside = mask_on_grid(mask, self.config.grid)
        on_image = patches_on_image(np.asarray(images.sizes)[0], self.config.canvas, self.config.grid)
        summed = self.compared_patches(images)[inside].sum(0)
        return PooledReference(summed / np.float32(max(inside.sum(), 1)), inside, np.asarray(on_image))

    def encode_mask(self, image: CanvasImage) -> tuple[Concept, Float[np.ndarray, "patches channels"]]:
        """Return a concept of one mask, without a name and kept patches, and the features of its image."""
        features = self.features([image])
        pooled, vectors = self.pool_reference(features, image.masks[0]), self.compared_patches(features)
        channels = vectors.shape[-1]
        concept = Concept(
            name="",
            visual=np.asarray(pooled.visual)[None],
            text=np.zeros(self.config.text_width, np.float32),
            patches=np.zeros((0, channels), np.float16),
            kind=np.zeros(0, np.uint8),
            place=np.zeros((0, 3), np.int32),
            inside=np.asarray(pooled.inside).reshape(1, -1),
            image=np.zeros(1, np.int32),
        )
        return concept, vectors.reshape(-1, channels)

    def match_concepts(
        self, images: ImageFeatures, slots: Sequence[ConceptSlots], everyone: Prototypes | None = None
    ) -> list[ConceptMatches]:
        """Segment the concepts on the one image of `images`, each by itself, and match their patches.

        Args:
            slots: ReferenceSlots.
        """
        assert isinstance(slots, ReferenceSlots)
        assert everyone is None
        config, device = self.config, device_of(images)
        prepared = _prepare(images.features.patches, self._bases[device])
        on_image = patches_on_image(np.asarray(images.sizes)[0], config.canvas, config.grid).reshape(-1)
        labels = cluster_labels(np.asarray(prepared.distance), on_image, self.settings.similarity)
        nearest = [
            np.asarray(_nearest(jax.device_put(grid, device), prepared.debiased)) for grid in slots.grids
        ]
        backward = np.stack([backward_gate(nearest, *shots) for shots in slots.shots])
        refine = self._refinement(images.images[0])
        matches, start = [], 0
        for chunk in slots:
            count = len(chunk.patches)
            voted = np.zeros((count, len(on_image)), bool)
            voted[: len(backward) - start] = backward[start : start + count]
            inputs = prepared.unit, prepared.debiased, labels, on_image, chunk, voted
            found = _segment(config.canvas, self.settings.least, images.sizes, *inputs)
            if refine is not None:
                refined = _refined(np.asarray(found.logits), images.images[0].size, refine)
                found = found._replace(logits=refined)
            matches.append(found)
            start += count
        return matches

    def match_patches(self, images: ImageFeatures, slots: Sequence[ConceptSlots]) -> list[PatchMatches]:
        """Match debiased patches for explanations."""
        debiased = self._debiased(images).reshape(images.features.patches.shape)
        return [_match_patches(self.config, debiased, chunk) for chunk in slots]

    def segment(self, images: ImageFeatures, slots: ReferenceSlots) -> Decoding:
        """Return the masks and similarity maps of all concepts on the canvas."""
        matches = self.match_concepts(images, slots)
        logits, similarity = (
            jnp.concatenate(parts, axis=1)[:, : len(slots.shots)]
            for parts in zip(*((chunk.logits, chunk.similarity) for chunk in matches), strict=True)
        )
        return Decoding(logits, upsample_maps(similarity, self.config.canvas), logits)

    def _refinement(self, image: CanvasImage) -> Refine | None:
        """Return what moves the edges of masks to those of an image, if the settings say so."""
        h, w = image.size
        pixels = image.image[:h, :w].astype(np.uint8)
        if self.settings.crf:
            return EdgeField(pixels, self.config.canvas).refine
        if not self.settings.edges:
            return None
        return partial(refine_edges, pixels, reach=round(self.settings.edges * self.config.backbone.stride))

    def _place_head(self, head: Params) -> dict[jax.Device, Params]:
        return {}

    def _debiased(self, images: ImageFeatures) -> Float[Array, "rows patches channels"]:
        return _debias(images.features.patches, self._bases[device_of(images)])


def _refined(
    logits: Float[np.ndarray, "1 concepts S S"], size: tuple[int, int], refine: Refine
) -> Float[np.ndarray, "1 concepts S S"]:
    """Return logits of the same magnitude for refined masks; beyond the image they are negative."""
    h, w = size
    refined = -np.abs(logits)
    for values, before in zip(refined[0], logits[0], strict=True):
        values[:h, :w] *= np.where(refine(np.ascontiguousarray(before[:h, :w] > 0)), -1, 1)
    return refined


class _Prepared(NamedTuple):
    """Hold the features of one target in reading order."""

    unit: Float[Array, "patches channels"]
    debiased: Float[Array, "patches channels"]
    distance: Float[Array, "patches patches"]


@compiled()
def _prepare(patches, basis) -> _Prepared:
    unit = unit_patches(patches[0])
    return _Prepared(unit, debias(unit, basis), distances(unit))


@compiled()
def _debias(patches, basis):
    return debias(unit_patches(patches), basis)


@compiled()
def _nearest(reference, target):
    return nearest_patches(reference, target)


@compiled(0)
def _match_patches(config, patches, slots):
    return matching.match_patches(config, patches, slots)


@compiled(0, 1)
def _segment(
    canvas: int,
    least: float,
    sizes: Int[Array, "1 2"],
    unit: Float[Array, "patches channels"],
    debiased: Float[Array, "patches channels"],
    labels: Int[Array, " patches"],
    on_image: Bool[Array, " patches"],
    slots: ConceptSlots,
    backward: Bool[Array, "slots patches"],
) -> ConceptMatches:
    """Do everything that follows the clusters."""
    grid = int(len(unit) ** 0.5)
    prototypes = l2_normalise(slots.context.pooled[0], EPSILON)
    similarity = prototypes @ debiased.T
    candidates = forward_gate(similarity, on_image) & backward & on_image
    clusters = describe_clusters(unit, debiased, labels, on_image)
    merged = merge_clusters(clusters, prototypes, similarity, candidates, least)
    logits = mask_logits(merged.inside.reshape(-1, grid, grid), merged.confidence, canvas)
    debiased = debiased.reshape(1, grid, grid, -1)
    matched, mutual = matching.match_kept_patches(debiased, sizes, canvas, slots.patches, slots.patches_valid)
    return ConceptMatches(logits[None], similarity.reshape(1, -1, grid, grid), matched, mutual)


def mask_logits(
    inside: Bool[Array, "concepts g g"], confidence: Float[Array, " concepts"], canvas: int
) -> Float[Array, "concepts S S"]:
    """Return logits on the canvas: positive inside the enlarged mask, of one size for each concept.

    Args:
        confidence: 0..1; the probability inside is from 0.5 to 1 with it.
    """
    enlarged = upsample_maps(inside.astype(jnp.float32), canvas) > 0.5
    probability = 0.505 + 0.49 * confidence
    size = jnp.log(probability / (1 - probability))[:, None, None]
    return jnp.where(enlarged, size, -size)
