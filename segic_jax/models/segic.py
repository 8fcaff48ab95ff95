"""Run SegIC: features of a target and Prototypes of the references -> mask logits.

Pure functions over flat parameter dictionaries, to be called inside `jax.jit` (model/segic.py of the
official code).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.models.correspondence import (
    best_point,
    similarity_map,
    upsample_maps,
)
from segic_jax.models.encoding import Prototypes, extract
from segic_jax.models.features import Features
from segic_jax.models.head import head_template
from segic_jax.models.layers import (
    bilinear,
)
from segic_jax.models.params import AnyArray, Params
from segic_jax.models.prompt_encoder import Prompts


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
