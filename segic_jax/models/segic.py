"""Run SegIC: reference images with masks -> Prototypes; target features + Prototypes -> mask logits.

Pure functions over flat parameter dictionaries, to be called inside `jax.jit` (model/segic.py of the
official code). A concept is a class or an instance; a shot is one reference mask of it.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import Backbone, ModelConfig
from segic_jax.models.backbones import backbone_template
from segic_jax.models.correspondence import (
    best_point,
    grid_masks,
    patches_on_image,
    similarity_map,
    upsample_maps,
)
from segic_jax.models.features import Features
from segic_jax.models.layers import (
    Conv3x3,
    Embedding,
    LayerNorm2d,
    Linear,
    PatchConv,
    bilinear,
    pixel_unshuffle,
)
from segic_jax.models.mask_decoder import MaskDecoder
from segic_jax.models.params import AnyArray, Params, Template
from segic_jax.models.prompt_encoder import PromptEncoder, Prompts


class ReferenceBatch(NamedTuple):
    """Hold reference images and masks of several concepts in fixed slots; unused slots are not `valid`."""

    images: AnyArray | None  # uint8 or float [batch, images, S, S, 3], 0..255; padding may hold anything
    sizes: Int[AnyArray, "batch images 2"] | None  # (h, w) of the image on the canvas
    masks: AnyArray  # bool or float [batch, concepts, shots, S, S], 0..1
    image_index: Int[AnyArray, "batch concepts shots"]  # the image that each mask lies on
    valid: Bool[AnyArray, "batch concepts shots"]
    text: Float[AnyArray, "batch concepts text_width"]  # text feature of each concept's prompt


class Prototypes(NamedTuple):
    """Hold all that decoding needs to know about the references; independent of target and head."""

    pooled: Float[AnyArray, "batch concepts channels"]  # mean over the valid shots
    visual: Float[AnyArray, "batch concepts shots channels"]  # one feature per shot
    visual_valid: Bool[AnyArray, "batch concepts shots"]
    text: Float[AnyArray, "batch concepts text_width"]

    @property
    def valid(self) -> Bool[Array, "batch concepts"]:
        """Tell which concepts have at least one shot."""
        return jnp.any(self.visual_valid, axis=-1)


class GeometricPrompt(NamedTuple):
    """Hold the geometric prompt: where to look on the target."""

    similarity: Float[Array, "batch concepts quarter quarter"]  # cosine map at canvas // 4, the mask prompt
    map: Float[Array, "batch concepts S S"]  # the same enlarged to the canvas
    points: Float[Array, "batch concepts points 2"]  # (x, y) on the canvas
    point_labels: Int[Array, "batch concepts points"]  # 1 foreground, 0 background
    points_valid: Bool[Array, "batch concepts points"] | None = None  # all of them if None
    level_maps: Float[Array, "batch concepts levels quarter quarter"] | None = None  # see `level_similarity`


class DecoderStages(NamedTuple):
    """Hold every stage of one decoding in order; under jit, what a caller drops is not computed."""

    similarity: Float[Array, "batch concepts quarter quarter"]  # cosine map at canvas // 4, the mask prompt
    map: Float[Array, "batch concepts S S"]  # the same enlarged to the canvas
    points: Float[Array, "batch concepts points 2"]  # (x, y) on the canvas
    point_labels: Int[Array, "batch concepts points"]  # 1 foreground, 0 background
    tokens: Float[Array, "batch concepts tokens width"]  # text token, then visual tokens
    tokens_valid: Bool[Array, "batch concepts tokens"]
    image: Float[Array, "batch g g width"]  # after the neck
    prompts: Prompts
    logits: Float[Array, "batch concepts side side"]  # at 4 x grid; foreground above 0
    iou: Float[Array, "batch concepts"]  # predicted


class SegicHead(nnx.Module):
    """Hold the trained part of SegIC; attribute names are the official ones."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.head.width
        self.neck = nnx.List(
            [
                PatchConv(1, config.backbone.width, width, bias=False, rngs=rngs),
                LayerNorm2d(width, rngs=rngs),
                Conv3x3(width, width, rngs=rngs),
                LayerNorm2d(width, rngs=rngs),
            ]
        )
        # Finer levels of the backbone become as wide as the decoder's embedding is while it is upscaled.
        self.fine_projections = nnx.List(
            Linear(channels, width // 4 // 2**i, rngs=rngs)
            for i, channels in enumerate(config.backbone.fine_widths)
        )
        self.prompt_encoder = PromptEncoder(config, rngs=rngs)
        self.mask_decoder = MaskDecoder(config, rngs=rngs)
        self.inst_type_embed = Embedding(2, width, rngs=rngs)  # 0: token of another concept, 1: of this one
        self.prompt_proj = Linear(config.text_width, width, rngs=rngs)
        self.inst_proj = Linear(config.backbone.width, width, rngs=rngs)

    def embed_image(self, features: Features) -> Features:
        """Return what the mask decoder reads of images: patches after the neck, and finer levels."""
        patches = jnp.asarray(features.patches)
        for layer in self.neck:
            patches = layer(patches)
        fine = [
            pixel_unshuffle(project(level), patches.shape[1])
            for project, level in zip(self.fine_projections, features.fine, strict=True)
        ]
        return Features(patches, tuple(fine))

    def tokens(
        self,
        prototypes: Prototypes,
        use_cross: Bool[AnyArray, " batch"] | bool,
        rows: Int[AnyArray, "*images rows"] | None = None,
        alone: bool = False,
    ) -> tuple[Float[Array, "batch rows tokens width"], Bool[Array, "batch rows tokens"]]:
        """Return each concept's text token followed by the visual tokens of all concepts, and which to read.

        Args:
            use_cross: images whose concepts also read the visual tokens of the other concepts. Elsewhere they
                read only their own, without the type embedding (segic.py:683-697, 1029-1039).
            rows: the concepts that read, the same ones of all images or some of each; all if None.
            alone: give each concept the tokens that it would have as the only concept of its image: its own,
                with the type embedding. `use_cross` is not read.
        """
        batch, concepts, shots, _ = prototypes.visual.shape
        own = prototypes
        if rows is not None:
            chosen = jnp.arange(batch)[:, None], jnp.broadcast_to(rows, (batch, rows.shape[-1]))
            own = jax.tree.map(lambda x: x[chosen], prototypes)
        rows = jnp.arange(concepts) if rows is None else rows
        text = self.prompt_proj(own.text)[:, :, None]
        type_embedding = self.inst_type_embed.embedding
        if alone:
            visual, valid = self.inst_proj(own.visual) + type_embedding[1], own.visual_valid
        else:
            visual = self.inst_proj(prototypes.visual).reshape(batch, 1, concepts * shots, -1)
            # [(batch,) rows, visual tokens]
            is_own = jnp.repeat(rows[..., None] == jnp.arange(concepts), shots, axis=-1)
            cross = jnp.broadcast_to(use_cross, batch)[:, None, None]
            embedded = jnp.where(is_own[..., None], type_embedding[1], type_embedding[0])
            visual = visual + jnp.where(cross[..., None], embedded, 0)
            valid = prototypes.visual_valid.reshape(batch, 1, -1) & (is_own | cross)
        return (
            jnp.concatenate([text, visual], axis=2),
            jnp.concatenate([jnp.ones((*text.shape[:2], 1), bool), valid], axis=2),
        )


@cache
def head_template(config: ModelConfig) -> Template:
    """Return the structure of the head without its arrays."""
    return Template(lambda rngs: SegicHead(config, rngs=rngs))


def extract(config: ModelConfig, backbone: Params, images: AnyArray, sizes: Int[AnyArray, "n 2"]) -> Features:
    """Return the features of images on the canvas, in float32 and without gradient.

    Args:
        backbone: parameters, all of the precision that the backbone is to run in.
        images: uint8 or float [n, S, S, 3], 0..255.
        sizes: (h, w) of each image; what lies at or beyond them is padding.
    """
    precision = next(iter(backbone.values())).dtype
    pixels = normalise_pixels(config.backbone, images, sizes).astype(precision)
    output = backbone_template(config.backbone).bind(backbone)(pixels)
    patches = output.patches.astype(jnp.float32)
    if config.backbone.centred:
        on_image = patches_on_image(sizes, images.shape[1], patches.shape[1])[..., None]
        patches = patches - (patches * on_image).sum((1, 2), keepdims=True) / on_image.sum(
            (1, 2), keepdims=True
        )
    features = Features(patches, output.fine)
    return jax.tree.map(lambda level: jax.lax.stop_gradient(level.astype(jnp.float32)), features)


def normalise_pixels(
    config: Backbone, images: AnyArray, sizes: Int[AnyArray, "n 2"]
) -> Float[Array, "n S S 3"]:
    """Scale pixels by the backbone's mean and deviation; padding is 0 after that (segic.py:361-368)."""
    mean, deviation = np.array(config.pixel_mean, np.float32), np.array(config.pixel_std, np.float32)
    pixels = (images.astype(jnp.float32) / 255 - mean) / deviation
    index = jnp.arange(images.shape[1])
    inside = (index[:, None] < sizes[:, 0, None, None]) & (index < sizes[:, 1, None, None])
    return jnp.where(inside[..., None], pixels, 0)


def encode(config: ModelConfig, backbone: Params, references: ReferenceBatch) -> Prototypes:
    """Encode the references, once for any number of targets."""
    assert references.images is not None
    assert references.sizes is not None
    batch, images = references.images.shape[:2]
    pixels = references.images.reshape(batch * images, *references.images.shape[2:])
    patches = extract(config, backbone, pixels, references.sizes.reshape(batch * images, 2)).patches
    return encode_features(patches.reshape(batch, images, *patches.shape[1:]), references)


def encode_features(
    patches: Float[AnyArray, "batch images g g channels"], references: ReferenceBatch
) -> Prototypes:
    """Encode references from the features of their patches; `references.images` and `sizes` are not read."""
    valid = references.valid[..., None]
    masks = grid_masks(references.masks, patches.shape[2])  # [batch, concepts, shots, g, g]
    on_image = jax.nn.one_hot(references.image_index, patches.shape[1])  # [batch, concepts, shots, images]
    # One product over all images; gathering an image for each mask would copy its features.
    masks_on_images = masks[:, :, :, None] * on_image[..., None, None]
    sums = jnp.einsum("bkspij,bpijc->bksc", masks_on_images, patches)
    visual = jnp.where(valid, sums / jnp.maximum(masks.sum((-2, -1)), 1)[..., None], 0)
    return Prototypes(
        pooled=visual.sum(2) / jnp.maximum(valid.sum(2), 1),
        visual=visual,
        visual_valid=references.valid,
        text=references.text,
    )


def decode(
    config: ModelConfig,
    head: Params,
    features: Features,
    prototypes: Prototypes,
) -> tuple[Float[Array, "batch concepts side side"], Float[Array, "batch concepts"]]:
    """Return mask logits at 4 x grid (foreground above 0) and predicted IoU of every concept."""
    stages = decode_stages(config, head, features, prototypes)
    return stages.logits, stages.iou


def decode_stages(
    config: ModelConfig,
    head: Params,
    features: Features,
    prototypes: Prototypes,
    *,
    boxes: Float[AnyArray, "batch concepts 4"] | None = None,
    use_box: Bool[AnyArray, " batch"] | None = None,
    use_cross: Bool[AnyArray, " batch"] | bool = True,
    alone: bool = False,
    cross_points: bool = False,
    eps: float = 1e-8,
    rows: Int[AnyArray, " rows"] | None = None,
    concepts_at_once: int | None = None,
) -> DecoderStages:
    """Decode the concepts on the target and return every stage.

    Args:
        boxes, use_box: box prompts (x0, y0, x1, y1), and the images where they are read; give both
            or neither.
        use_cross: images where a concept also reads the tokens of the others.
        alone: decode each concept as if it were the only one; see `SegicHead.tokens`.
        cross_points: let a concept also read the points of the others, as background points. The official
            code does this in videos and not in images (segic.py:912, 680).
        eps: least norm of a feature in the cosine; 1e-4 in videos (segic.py:648, 889).
        rows: decode only these concepts. They still read the tokens of all, so that many concepts can be
            decoded part by part; `boxes` and the result have a row for each of them.
        concepts_at_once: how many concepts the mask decoder takes at a time; all if None.

    Raises:
        ValueError: `rows` with `cross_points`.
    """
    if cross_points and rows is not None:
        raise ValueError("cross_points needs all concepts at once.")
    pooled = prototypes.pooled if rows is None else prototypes.pooled[:, rows]
    geometric = geometric_prompt(
        similarity_map(features.patches, pooled, config.canvas, eps), config.canvas
    )._replace(level_maps=level_similarity(config, features.patches, pooled))
    if cross_points:
        batch, concepts = pooled.shape[:2]
        labels = jnp.broadcast_to(jnp.eye(concepts, dtype=jnp.int32), (batch, concepts, concepts))
        geometric = geometric._replace(
            points=jnp.broadcast_to(geometric.points[:, :, 0][:, None], (*labels.shape, 2)),
            point_labels=labels,
            points_valid=jnp.broadcast_to(prototypes.valid[:, None], labels.shape),
        )
    return decode_with_prompts(
        config,
        head,
        features,
        prototypes,
        geometric,
        boxes=boxes,
        use_box=use_box,
        use_cross=use_cross,
        alone=alone,
        rows=rows,
        concepts_at_once=concepts_at_once,
    )


def level_similarity(
    config: ModelConfig,
    patches: Float[AnyArray, "batch g g channels"],
    pooled: Float[AnyArray, "batch concepts channels"],
) -> Float[Array, "batch concepts levels quarter quarter"] | None:
    """Return a similarity map of each level that the patches join, or None unless `head.level_maps` is set.

    An extension of SegIC.
    """
    if not config.head.level_maps:
        return None
    edges = np.cumsum(config.backbone.level_widths)[:-1].tolist()
    levels = zip(jnp.split(patches, edges, axis=-1), jnp.split(pooled, edges, axis=-1), strict=True)
    return jnp.stack([similarity_map(x, prototype, config.canvas) for x, prototype in levels], axis=2)


def geometric_prompt(
    similarity: Float[Array, "batch concepts quarter quarter"], canvas: int
) -> GeometricPrompt:
    """Make a geometric prompt of a similarity map at a quarter of the canvas: the map and its peak."""
    at_canvas = upsample_maps(similarity, canvas)
    points = best_point(at_canvas)[:, :, None]
    return GeometricPrompt(similarity, at_canvas, points, jnp.ones(points.shape[:3], jnp.int32))


def decode_with_prompts(
    config: ModelConfig,
    head: Params,
    features: Features,
    prototypes: Prototypes,
    geometric: GeometricPrompt,
    *,
    boxes: Float[AnyArray, "batch concepts 4"] | None = None,
    use_box: Bool[AnyArray, " batch"] | None = None,
    use_cross: Bool[AnyArray, " batch"] | bool = True,
    alone: bool = False,
    rows: Int[AnyArray, " rows"] | None = None,
    concepts_at_once: int | None = None,
) -> DecoderStages:
    """Do as `decode_stages` with a given geometric prompt; `prototypes.pooled` is not read."""
    return decode_embedded(
        config,
        head,
        head_template(config).bind(head).embed_image(features),
        prototypes,
        geometric,
        boxes=boxes,
        use_box=use_box,
        use_cross=use_cross,
        alone=alone,
        rows=rows,
        concepts_at_once=concepts_at_once,
    )


def decode_embedded(
    config: ModelConfig,
    head: Params,
    image: Features,
    prototypes: Prototypes,
    geometric: GeometricPrompt,
    *,
    boxes: Float[AnyArray, "batch concepts 4"] | None = None,
    use_box: Bool[AnyArray, " batch"] | None = None,
    use_cross: Bool[AnyArray, " batch"] | bool = True,
    alone: bool = False,
    rows: Int[AnyArray, "*images rows"] | None = None,
    concepts_at_once: int | None = None,
) -> DecoderStages:
    """Do as `decode_with_prompts` with an image from `SegicHead.embed_image`."""
    module = head_template(config).bind(head)
    tokens, tokens_valid = module.tokens(prototypes, use_cross, rows, alone)
    prompts = module.prompt_encoder(
        points=geometric.points,
        point_labels=geometric.point_labels,
        points_valid=geometric.points_valid,
        boxes=boxes,
        use_box=use_box,
        masks=mask_prompts(geometric),
        tokens=tokens,
        tokens_valid=tokens_valid,
    )
    # SAM's other mask tokens are not used.
    decode_masks = partial(
        module.mask_decoder,
        image.patches,
        module.prompt_encoder.dense_position(),
        masks=1,
        fine=image.fine,
    )
    logits, iou = _decode_in_parts(decode_masks, prompts, concepts_at_once)
    if config.head.logit_offset:
        logits = logits + config.head.logit_offset
    return DecoderStages(
        geometric.similarity,
        geometric.map,
        geometric.points,
        geometric.point_labels,
        tokens,
        tokens_valid,
        image.patches,
        prompts,
        logits=logits[:, :, 0],
        iou=iou[:, :, 0],
    )


def mask_prompts(geometric: GeometricPrompt) -> Float[Array, "batch concepts maps quarter quarter"]:
    """Return the maps that the prompt encoder reads: the similarity map, then those of the levels."""
    similarity = geometric.similarity[:, :, None]
    if geometric.level_maps is None:
        return similarity
    return jnp.concatenate([similarity, geometric.level_maps], axis=2)


def _decode_in_parts(
    decode_masks: Callable[[Prompts], tuple[Array, Array]], prompts: Prompts, concepts_at_once: int | None
) -> tuple[Array, Array]:
    """Decode a few concepts after the other, in parts of equal size."""
    concepts = prompts.sparse.shape[1]
    if concepts_at_once is None or concepts <= concepts_at_once:
        return decode_masks(prompts)
    parts = -(-concepts // concepts_at_once)
    size = -(-concepts // parts)

    def split(x):
        padding = [(0, parts * size - concepts if axis == 1 else 0) for axis in range(x.ndim)]
        return jnp.moveaxis(jnp.pad(x, padding).reshape(len(x), parts, size, *x.shape[2:]), 1, 0)

    def join(x):
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(len(x), parts * size, *x.shape[3:])[:, :concepts]

    return jax.tree.map(join, jax.lax.map(decode_masks, jax.tree.map(split, prompts)))


def upsample(
    logits: Float[Array | np.ndarray, "batch concepts side side"], canvas: int
) -> Float[Array, "batch concepts S S"]:
    """Resize logits to the canvas."""
    return bilinear(logits[..., None], (canvas, canvas))[..., 0]


def segment(
    config: ModelConfig,
    backbone: Params,
    head: Params,
    images: AnyArray,
    sizes: Int[AnyArray, "batch 2"],
    prototypes: Prototypes,
) -> tuple[Float[Array, "batch concepts S S"], Float[Array, "batch concepts"]]:
    """Return mask logits on the canvas and predicted IoU; crop to `sizes` before use (segic.py:750-756)."""
    logits, iou = decode(config, head, extract(config, backbone, images, sizes), prototypes)
    return upsample(logits, config.canvas), iou
