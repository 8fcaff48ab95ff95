"""The whole flow: reference images with masks -> Prototypes; target features + Prototypes -> mask logits.

Pure functions over flat parameter dictionaries, to be called inside `jax.jit` (model/segic.py of the
official code). A concept is a class or an instance, a shot one reference mask of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig, ViTConfig
from segic_jax.models.correspondence import (
    best_point,
    grid_cells,
    mask_boxes,
    pool,
    similarity_map,
    upsample_maps,
)
from segic_jax.models.layers import Conv3x3, Embedding, LayerNorm2d, Linear, PatchConv
from segic_jax.models.mask_decoder import MaskDecoder
from segic_jax.models.params import Params, Template
from segic_jax.models.prompt_encoder import PromptEncoder, Prompts
from segic_jax.models.resize import bilinear
from segic_jax.models.vit import DinoVisionTransformer

# ImageNet statistics of pixels in 0..1 (segic.py:362-366).
PIXEL_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
PIXEL_STD = np.array([0.229, 0.224, 0.225], np.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ReferenceBatch:
    """Reference images and masks of several concepts, in fixed slots; unused slots are not `valid`."""

    images: Array  # uint8 or float [batch, images, S, S, 3], 0..255; the padding may hold anything
    sizes: Int[Array, "batch images 2"]  # (h, w) of the image on the canvas
    masks: Array  # bool or float [batch, concepts, shots, S, S], 0..1
    picture: Int[Array, "batch concepts shots"]  # index of the image that each mask lies on
    valid: Bool[Array, "batch concepts shots"]
    text: Float[Array, "batch concepts text_width"]  # text feature of each concept's prompt


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prototypes:
    """All that decoding needs to know about the references; independent of target and head."""

    pooled: Float[Array, "batch concepts channels"]  # mean over the valid shots
    visual: Float[Array, "batch concepts shots channels"]  # one feature a shot
    visual_valid: Bool[Array, "batch concepts shots"]
    text: Float[Array, "batch concepts text_width"]

    @property
    def valid(self) -> Bool[Array, "batch concepts"]:
        """Concepts with at least one shot."""
        return self.visual_valid.any(axis=-1)


class DecoderStages(NamedTuple):
    """Every stage of one decoding in order; under jit, what a caller drops is not computed."""

    similarity: Float[Array, "batch concepts quarter quarter"]  # cosine map at canvas // 4
    map: Float[Array, "batch concepts S S"]  # the same at the canvas: the mask prompt
    points: Float[Array, "batch concepts points 2"]  # (x, y) on the canvas
    point_labels: Int[Array, "batch concepts points"]  # 1 inside, 0 outside
    tokens: Float[Array, "batch concepts tokens width"]  # text token, then visual tokens
    tokens_valid: Bool[Array, "batch concepts tokens"]
    image: Float[Array, "batch g g width"]  # after the neck
    prompts: Prompts
    logits: Float[Array, "batch concepts side side"]  # at 4 x grid; inside where positive
    iou: Float[Array, "batch concepts"]  # predicted


class GeometricPrompt(NamedTuple):
    """The geometric instruction: where to look on the target."""

    similarity: Float[Array, "batch concepts quarter quarter"]
    map: Float[Array, "batch concepts S S"]
    points: Float[Array, "batch concepts points 2"]
    point_labels: Int[Array, "batch concepts points"]
    points_valid: Bool[Array, "batch concepts points"] | None = None  # all of them if None


class TrainPass(NamedTuple):
    """One of the two passes of a training step: what it was shown, and its decoding."""

    context: Prototypes
    context_masks: Bool[Array, "batch concepts S S"]  # the predicted ones in the reversed pass
    boxes: Float[Array, "batch concepts 4"]  # of the true masks; read where `use_box`
    decoded: DecoderStages


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ShotBatch:
    """The references of a batch; a shot shows all concepts on one image."""

    features: Float[Array, "batch shots g g channels"]
    masks: Bool[Array, "batch concepts shots S S"]
    text: Float[Array, "batch concepts text_width"]
    valid: Bool[Array, "batch concepts"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NegativeBatch:
    """Concepts that are in neither image, in slots of a training batch; one choice for each pass."""

    valid: Bool[Array, "batch passes concepts"]
    features: Float[Array, "batch passes concepts channels"]  # of a reference elsewhere
    prompts: Int[Array, "batch passes concepts"]  # rows of the text table


class SegicHead(nnx.Module):
    """The trained part; attribute names are the official ones."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.head.width
        self.neck = nnx.List(
            [
                PatchConv(1, config.vit.width, width, bias=False, rngs=rngs),
                LayerNorm2d(width, rngs=rngs),
                Conv3x3(width, width, rngs=rngs),
                LayerNorm2d(width, rngs=rngs),
            ]
        )
        self.prompt_encoder = PromptEncoder(config, rngs=rngs)
        self.mask_decoder = MaskDecoder(config, rngs=rngs)
        self.inst_type_embed = Embedding(2, width, rngs=rngs)  # 0: another concept's token, 1: an own one
        self.prompt_proj = Linear(config.text_width, width, rngs=rngs)
        self.inst_proj = Linear(config.vit.width, width, rngs=rngs)

    def embed_image(self, features: Float[Array, "batch g g channels"]) -> Float[Array, "batch g g width"]:
        """The neck."""
        for layer in self.neck:
            features = layer(features)
        return features

    def tokens(
        self,
        context: Prototypes,
        use_cross: Bool[Array, " batch"] | bool,
        rows: Int[Array, " rows"] | None = None,
    ) -> tuple[Float[Array, "batch rows tokens width"], Bool[Array, "batch rows tokens"]]:
        """Each concept's text token, then the visual tokens of all concepts in order, and their validity.

        Where `use_cross` is False a concept reads only its own visual tokens, without the type
        embedding (segic.py:683-697, 1029-1039); if it is no array but False, the others' are left out.
        `rows` are the concepts that read; all if None.
        """
        batch, concepts, shots, _ = context.visual.shape
        rows = jnp.arange(concepts) if rows is None else rows
        text = self.prompt_proj(context.text[:, rows])[:, :, None]
        if use_cross is False:
            visual, valid = self.inst_proj(context.visual[:, rows]), context.visual_valid[:, rows]
        else:
            visual = self.inst_proj(context.visual).reshape(batch, 1, concepts * shots, -1)
            own = jnp.repeat(rows[:, None] == jnp.arange(concepts), shots, axis=1)  # [rows, concepts * shots]
            kind = self.inst_type_embed.embedding
            cross = jnp.broadcast_to(use_cross, batch)[:, None, None]
            visual = visual + jnp.where(cross[..., None], jnp.where(own[..., None], kind[1], kind[0]), 0)
            valid = context.visual_valid.reshape(batch, 1, -1) & (own | cross)
        return (
            jnp.concatenate([text, visual], axis=2),
            jnp.concatenate([jnp.ones((batch, len(rows), 1), bool), valid], axis=2),
        )


@cache
def backbone_template(config: ViTConfig) -> Template:
    """The backbone without its arrays."""
    return Template(lambda rngs: DinoVisionTransformer(config, rngs=rngs))


@cache
def head_template(config: ModelConfig) -> Template:
    """The head without its arrays."""
    return Template(lambda rngs: SegicHead(config, rngs=rngs))


def extract(
    config: ModelConfig, backbone: Params, images: Array, sizes: Int[Array, "n 2"]
) -> Float[Array, "n g g channels"]:
    """Patch features of images on the canvas; no gradient.

    Args:
        backbone: in float32, or in the half precision that the backbone is to run in.
        images: uint8 or float [n, S, S, 3], 0..255.
        sizes: (h, w); what lies at or beyond them is padding.
    """
    pixels = normalise_pixels(images, sizes).astype(backbone["norm/scale"].dtype)
    features = backbone_template(config.vit).bind(backbone)(pixels).patches
    return jax.lax.stop_gradient(features.astype(jnp.float32))


def normalise_pixels(images: Array, sizes: Int[Array, "n 2"]) -> Float[Array, "n S S 3"]:
    """Zero mean and unit variance; padding is 0 after that (segic.py:361-368)."""
    pixels = (images.astype(jnp.float32) / 255 - PIXEL_MEAN) / PIXEL_STD
    place = jnp.arange(images.shape[1])
    inside = (place[:, None] < sizes[:, 0, None, None]) & (place < sizes[:, 1, None, None])
    return jnp.where(inside[..., None], pixels, 0)


def encode(config: ModelConfig, backbone: Params, references: ReferenceBatch) -> Prototypes:
    """Everything about the references, once for any number of targets."""
    batch, pictures = references.images.shape[:2]
    images = references.images.reshape(batch * pictures, *references.images.shape[2:])
    features = extract(config, backbone, images, references.sizes.reshape(batch * pictures, 2))
    return encode_features(features.reshape(batch, pictures, *features.shape[1:]), references)


def encode_features(
    features: Float[Array, "batch images g g channels"], references: ReferenceBatch
) -> Prototypes:
    """`encode` from features that are there already; `references.images` and `sizes` are not read."""
    valid = references.valid[..., None]
    cells = grid_cells(references.masks, features.shape[2])  # [batch, concepts, shots, g, g]
    on_image = jax.nn.one_hot(references.picture, features.shape[1])  # [batch, concepts, shots, images]
    # One product over all images; gathering an image for each mask would copy its features.
    placed = cells[:, :, :, None] * on_image[..., None, None]
    sums = jnp.einsum("bkspij,bpijc->bksc", placed, features)
    visual = jnp.where(valid, sums / jnp.maximum(cells.sum((-2, -1)), 1)[..., None], 0)
    return Prototypes(
        pooled=visual.sum(2) / jnp.maximum(valid.sum(2), 1),
        visual=visual,
        visual_valid=references.valid,
        text=references.text,
    )


def decode(
    config: ModelConfig,
    head: Params,
    features: Float[Array, "batch g g channels"],
    context: Prototypes,
) -> tuple[Float[Array, "batch concepts side side"], Float[Array, "batch concepts"]]:
    """Mask logits at 4 x grid (inside where positive) and predicted IoU of every concept on the target."""
    decoded = decode_stages(config, head, features, context)
    return decoded.logits, decoded.iou


def decode_stages(
    config: ModelConfig,
    head: Params,
    features: Float[Array, "batch g g channels"],
    context: Prototypes,
    *,
    boxes: Float[Array, "batch concepts 4"] | None = None,
    use_box: Bool[Array, " batch"] | None = None,
    use_cross: Bool[Array, " batch"] | bool = True,
    cross_points: bool = False,
    eps: float = 1e-8,
    rows: Int[Array, " rows"] | None = None,
    concepts_at_once: int | None = None,
) -> DecoderStages:
    """Decode, and keep every stage.

    Args:
        boxes, use_box: box prompts (x0, y0, x1, y1), and the images where they are read; give both
            or neither.
        use_cross: images where a concept also reads the other concepts' tokens; or everywhere, or
            nowhere, which costs less.
        cross_points: a concept also reads the other concepts' points, as points outside. The official
            code does this in videos and not in images (segic.py:912, 680).
        eps: least norm of a feature in the cosine; 1e-4 in videos (segic.py:648, 889).
        rows: decode only these concepts; they still read the tokens of all, so that many concepts can be
            decoded part by part. `boxes` and the results then have a row for each of them.
        concepts_at_once: how many concepts the mask decoder takes at a time; all if None.

    Raises:
        ValueError: `rows` with `cross_points`.
    """
    if cross_points and rows is not None:
        raise ValueError("crossed points need all concepts at once")
    pooled = context.pooled if rows is None else context.pooled[:, rows]
    geometric = geometric_prompt(similarity_map(features, pooled, config.canvas, eps), config.canvas)
    if cross_points:
        batch, concepts = pooled.shape[:2]
        labels = jnp.broadcast_to(jnp.eye(concepts, dtype=jnp.int32), (batch, concepts, concepts))
        geometric = geometric._replace(
            points=jnp.broadcast_to(geometric.points[:, :, 0][:, None], (*labels.shape, 2)),
            point_labels=labels,
            points_valid=jnp.broadcast_to(context.valid[:, None], labels.shape),
        )
    return decode_with_prompts(
        config,
        head,
        features,
        context,
        geometric,
        boxes=boxes,
        use_box=use_box,
        use_cross=use_cross,
        rows=rows,
        concepts_at_once=concepts_at_once,
    )


def geometric_prompt(
    similarity: Float[Array, "batch concepts quarter quarter"], canvas: int
) -> GeometricPrompt:
    """A map at a quarter of the canvas as instruction: itself, and its best point."""
    at_canvas = upsample_maps(similarity, canvas)
    points = best_point(at_canvas)[:, :, None]
    return GeometricPrompt(similarity, at_canvas, points, jnp.ones(points.shape[:3], jnp.int32))


def decode_with_prompts(
    config: ModelConfig,
    head: Params,
    features: Float[Array, "batch g g channels"],
    context: Prototypes,
    geometric: GeometricPrompt,
    *,
    boxes: Float[Array, "batch concepts 4"] | None = None,
    use_box: Bool[Array, " batch"] | None = None,
    use_cross: Bool[Array, " batch"] | bool = True,
    rows: Int[Array, " rows"] | None = None,
    concepts_at_once: int | None = None,
) -> DecoderStages:
    """`decode_stages` with a geometric instruction that is there already; `context.pooled` is not read."""
    module = head_template(config).bind(head)
    tokens, tokens_valid = module.tokens(context, use_cross, rows)
    prompts = module.prompt_encoder(
        points=geometric.points,
        point_labels=geometric.point_labels,
        points_valid=geometric.points_valid,
        boxes=boxes,
        use_box=use_box,
        masks=geometric.map,
        tokens=tokens,
        tokens_valid=tokens_valid,
    )
    image = module.embed_image(features)
    decode_masks = partial(module.mask_decoder, image, module.prompt_encoder.dense_position())
    logits, iou = _in_parts(decode_masks, prompts, concepts_at_once)
    return DecoderStages(
        geometric.similarity,
        geometric.map,
        geometric.points,
        geometric.point_labels,
        tokens,
        tokens_valid,
        image,
        prompts,
        logits=logits[:, :, 0],  # the other three are SAM's multimask outputs
        iou=iou[:, :, 0],
    )


def _in_parts(decode_masks: Callable, prompts: Prompts, concepts_at_once: int | None):
    """Decode the masks of a few concepts after the other, in equal parts."""
    concepts = prompts.sparse.shape[1]
    if concepts_at_once is None or concepts <= concepts_at_once:
        return decode_masks(prompts)
    parts = -(-concepts // concepts_at_once)
    size = -(-concepts // parts)
    dense = prompts.dense

    def split(x):
        padding = [(0, parts * size - concepts if axis == 1 else 0) for axis in range(x.ndim)]
        return jnp.moveaxis(jnp.pad(x, padding).reshape(len(x), parts, size, *x.shape[2:]), 1, 0)

    def join(x):
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(len(x), parts * size, *x.shape[3:])[:, :concepts]

    def decode_part(part):
        sparse, valid, features = part
        return decode_masks(Prompts(sparse, valid, dense._replace(features=features)))

    arrays = (prompts.sparse, prompts.sparse_valid, dense.features)
    return jax.tree.map(join, jax.lax.map(decode_part, jax.tree.map(split, arrays)))


def upsample(
    logits: Float[Array, "batch concepts side side"], canvas: int
) -> Float[Array, "batch concepts S S"]:
    """Logits at the canvas."""
    return bilinear(logits[..., None], (canvas, canvas))[..., 0]


def segment(
    config: ModelConfig,
    backbone: Params,
    head: Params,
    images: Array,
    sizes: Int[Array, "batch 2"],
    context: Prototypes,
) -> tuple[Float[Array, "batch concepts S S"], Float[Array, "batch concepts"]]:
    """Mask logits on the canvas and predicted IoU; crop to `sizes` before use (segic.py:750-756)."""
    logits, iou = decode(config, head, extract(config, backbone, images, sizes), context)
    return upsample(logits, config.canvas), iou


def decode_shots(
    config: ModelConfig,
    head: Params,
    target: Float[Array, "batch g g channels"],
    shots: ShotBatch,
    each: Float[Array, "batch concepts shots channels"],
    **boxes: Array | None,
) -> tuple[Prototypes, DecoderStages]:
    """Decode with the mean feature of the shots, as map and as token.

    Args:
        each: the pooled feature of every shot, with those of negative prompts in their places.
        boxes: `boxes`, `use_box` and `use_cross` of `decode_stages`.
    """
    mean = each.mean(2)
    context = Prototypes(
        pooled=mean, visual=mean[:, :, None], visual_valid=shots.valid[..., None], text=shots.text
    )
    return context, decode_stages(config, head, target, context, **boxes)


def train_forward(
    config: ModelConfig,
    head: Params,
    target_features: Float[Array, "batch g g channels"],
    reference_features: Float[Array, "batch g g channels"],
    batch: dict[str, Array],
    text_table: Float[Array, "prompts text_width"],
    negatives: NegativeBatch | None = None,
    *,
    decode: Callable[..., tuple[Prototypes, DecoderStages]] = decode_shots,
    reversal: bool = True,
    remat: bool = False,
) -> tuple[TrainPass, ...]:
    """Decoding of the targets, and of the references by context reversal (segic.py:458-476).

    The reversed pass takes the predicted target masks as the context. Both have the same concepts.

    Args:
        batch: `target_masks`, `reference_masks` bool [batch, concepts, S, S]; `valid` [batch, concepts];
            `target_prompt`, `reference_prompt` [batch], rows of text_table; `use_box`, `use_cross`
            bool [batch, 2], for the forward and the reversed pass.
        negatives: negative prompts in slots that are not `valid`; an image with some gets no box prompt
            (segic.py:577-614, 700).
        decode: SegIC's, or another with the same arguments (`ablate.told.decode_told`).
        reversal: with the second pass.
        remat: compute the activations of the decoding again for the gradient.
    """
    decode_pass = partial(decode, config)
    if remat:
        decode_pass = jax.checkpoint(decode_pass)

    def one_pass(index: int, features, other_features, other_masks, masks, prompt) -> TrainPass:
        each = pool(other_features[:, None], other_masks)[:, :, None]
        prompts = jnp.repeat(prompt[:, None], masks.shape[1], axis=1)
        valid, use_box = batch["valid"], batch["use_box"][:, index]
        if negatives is not None:
            extra = negatives.valid[:, index]
            each = jnp.where(extra[..., None, None], negatives.features[:, index][:, :, None], each)
            prompts = jnp.where(extra, negatives.prompts[:, index], prompts)
            valid, use_box = valid | extra, use_box & ~extra.any(-1)
        shots = ShotBatch(other_features[:, None], other_masks[:, :, None], text_table[prompts], valid)
        boxes = mask_boxes(masks)
        given = {"boxes": boxes, "use_box": use_box, "use_cross": batch["use_cross"][:, index]}
        context, decoded = decode_pass(head, features, shots, each, **given)
        return TrainPass(context, other_masks, boxes, decoded)

    forward = one_pass(
        0,
        target_features,
        reference_features,
        batch["reference_masks"],
        batch["target_masks"],
        batch["target_prompt"],
    )
    if not reversal:
        return (forward,)
    predicted = upsample(jax.lax.stop_gradient(forward.decoded.logits), config.canvas) > 0
    reversed_ = one_pass(
        1,
        reference_features,
        target_features,
        predicted,
        batch["reference_masks"],
        batch["reference_prompt"],
    )
    return forward, reversed_
