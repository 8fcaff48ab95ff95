"""Compute the stages of a dump, one after the other as in real use, and compare them with torch's.

The canvas is computed from the images. Everything after it starts from torch's canvas and reads our own
stages, so that an error of one stage shows in all stages after it. Only the point is torch's where it cannot
be told which of two places is the peak: their similarities are closer than the two frameworks are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from segic_jax.config import ModelConfig, TextConfig, ViTConfig
from segic_jax.data.preprocess import PADDING, fitted_taps, resample
from segic_jax.inference.engine import extract
from segic_jax.models.backbones import backbone_template
from segic_jax.models.clip_text import text_template
from segic_jax.models.correspondence import similarity_map
from segic_jax.models.encoding import Prototypes, ReferenceBatch, encode_features, normalise_pixels
from segic_jax.models.features import Features
from segic_jax.models.head import head_template
from segic_jax.models.params import Params
from segic_jax.models.segic import GeometricPrompt, decode_with_prompts, geometric_prompt, upsample
from segic_jax.parity.checker import channels_first, channels_last, max_abs_error
from segic_jax.parity.dump import ROUNDING, ROUNDINGS, Arrays, Dump, list_stages

POINT = "mid.point_coords"
LARGEST_TIE = 1e-5  # cosines that are further apart never tie

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}  # of the frozen encoders


@dataclass(frozen=True)
class Stage:
    """Compare one array of one pair with torch's."""

    name: str  # on the page, e.g. "block 3"
    array: str  # in the pair's file
    max_abs_error: float  # NaN if the shapes differ, or one side alone has a NaN
    largest: float  # absolute value in torch
    tolerance: float
    rounding: float | None = None  # of torch's float32 to its float64, where the dump has that
    tied: bool = False  # another place of the same similarity: the stages after it start from torch's

    @property
    def relative(self) -> float:
        """Return the error as a fraction of the stage's largest value."""
        return self.max_abs_error / self.largest if self.largest else self.max_abs_error

    @property
    def passed(self) -> bool:
        """Return whether the error is within the tolerance, which is meant for float32, or is a tie."""
        return self.tied or self.max_abs_error <= self.tolerance


class Replay(NamedTuple):
    """Hold the stages of one pair in one precision."""

    stages: list[Stage]
    logits: Float[np.ndarray, "concepts height width"]  # on the canvas without its padding


def replay(dump: Dump, pair: Arrays, dtype: jax.typing.DTypeLike) -> Replay:
    """Compute and compare every stage of one pair.

    Args:
        pair: the result of `read_pair`.
        dtype: the precision of the frozen encoders; the head runs in float32.
    """
    with jax.default_matmul_precision("highest"):
        computed = dict(_compute(dump, pair, dtype))
    tied = bool(np.any(computed.pop("tied")))
    stages = []
    for name, array, tolerance, scaled in list_stages(dump.config, dump.torch_version):
        expected = pair[array]
        largest = float(np.abs(expected, dtype=np.float64).max(initial=0))
        error = max_abs_error(np.asarray(computed[array]), expected)
        tolerance = tolerance * max(1.0, largest) if scaled else tolerance
        rounding = float(pair[ROUNDING + array]) if ROUNDING + array in pair else None
        if rounding is not None and array != POINT:
            tolerance = max(tolerance, ROUNDINGS * rounding)
        stages.append(Stage(name, array, error, largest, tolerance, rounding, tied and array == POINT))
    return Replay(stages, np.asarray(computed["out.masks"])[:, 0])


def _compute(dump: Dump, pair: Arrays, dtype) -> Iterator[tuple[str, Array | np.ndarray]]:
    """Yield (name in the pair's file, our array in its layout)."""
    config, side = dump.config, dump.config.canvas
    for end in ("", "_dual"):
        yield f"in.image{end}", _on_canvas(pair[f"in.orig_image{end}"], side, PADDING)[None]
    yield "in.label_dual", _on_canvas(pair["in.orig_label_dual"], side, 0)

    backbone = {name: value.astype(dtype) for name, value in dump.backbone.items()}
    images = np.concatenate([channels_last(pair["in.image"]), channels_last(pair["in.image_dual"])])
    sizes = np.concatenate([pair["in.ori_size"], pair["in.ori_size_dual"]]).astype(np.int32)
    steps, features = [], []
    for image, size in zip(images, sizes, strict=True):  # one by one, since large canvases need the memory
        steps.append(
            _backbone_steps(config.backbone, backbone, image[None], size[None], pair["mid.block_tokens"])
        )
        features.append(extract(config, backbone, image[None], size[None]).patches)
    for name in steps[0]:
        both = jnp.concatenate([step[name] for step in steps])
        yield name, both[:1] if name == "mid.pos_embed" else both
    features = jnp.concatenate(features)
    yield "mid.image_embeddings", channels_first(features)

    text_params = {name: value.astype(dtype) for name, value in dump.text.items()}
    ids, attention = pair["mid.input_ids"].astype(np.int32), pair["mid.attention_mask"].astype(bool)
    text = _text(dump.text_config, text_params, ids, attention)
    yield "mid.text_features", text

    masks = jnp.asarray(pair["in.label_dual"] / 255 > 0.5)
    references = ReferenceBatch(
        images=jnp.asarray(images[None, 1:]),
        sizes=jnp.asarray(sizes[None, 1:]),
        masks=masks[None, :, None],
        image_index=jnp.zeros((1, len(masks), 1), jnp.int32),
        valid=jnp.ones((1, len(masks), 1), bool),
        text=jnp.broadcast_to(text[0], (1, len(masks), text.shape[1])),
    )
    prototypes, geometric = _match(config, features[:1], features[None, 1:], references)
    yield POINT, geometric.points[0]
    tied = ties(np.asarray(geometric.map[0]), np.asarray(geometric.points[0]), pair)
    yield "tied", tied
    points = np.where(tied[:, None, None], pair[POINT], geometric.points[0])[None]
    outputs = _decode(config, dump.head, features[:1], text, prototypes, geometric._replace(points=points))
    height, width = sizes[0]
    for name, array in outputs.items():
        yield name, array[..., :height, :width] if name == "out.masks" else array


def ties(
    ours: Float[np.ndarray, "concepts S S"], points: Float[np.ndarray, "concepts 1 2"], pair: Arrays
) -> Bool[np.ndarray, " concepts"]:
    """Return the concepts whose points differ and have similarities that rounding alone tells apart."""
    theirs, their_points = pair["mid.mask_input"][:, 0], pair[POINT]
    if theirs.shape != ours.shape or their_points.shape != points.shape:
        return np.zeros(len(points), bool)
    tied = []
    for our_map, their_map, point, their_point in zip(ours, theirs, points, their_points, strict=True):
        (x, y), (u, v) = point[0].astype(int), their_point[0].astype(int)
        apart = float(np.abs(our_map - their_map).max())
        gap = max(abs(float(each[y, x]) - float(each[v, u])) for each in (our_map, their_map))
        tied.append((x, y) != (u, v) and gap <= min(2 * apart, LARGEST_TIE))
    return np.array(tied, bool)


def _on_canvas(planes: np.ndarray, side: int, padding: int) -> np.ndarray:
    """Place planes [n, height, width] on the canvas as floats, without the rounding of data/preprocess.py."""
    count, height, width = planes.shape
    resized = resample(planes, *fitted_taps(height, width, side))
    canvas = np.full((count, side, side), padding, np.float32)
    canvas[:, : resized.shape[1], : resized.shape[2]] = resized
    return canvas


@partial(jax.jit, static_argnums=0)
def _backbone_steps(config: ViTConfig, backbone: Params, images: Array, sizes: Array, tokens: Array) -> dict:
    """Return the stages of `DinoVisionTransformer`; of each block, only the `tokens` that the dump holds."""
    module = backbone_template(config).bind(backbone)
    pixels = normalise_pixels(config, images, sizes)
    patches = module.patch_embed(pixels.astype(backbone["norm/scale"].dtype))
    _, rows, columns, width = patches.shape
    patches = patches.reshape(1, rows * columns, width)
    position = module.interpolated_pos_embed(rows, columns)
    steps = {
        "mid.encoder_in": jnp.moveaxis(pixels, -1, 1),
        "mid.patch_embed": patches,
        "mid.pos_embed": position,
    }
    x = jnp.concatenate([module.cls_token[...], patches], axis=1) + position
    if config.num_registers:
        x = jnp.concatenate([x[:, :1], module.register_tokens[...], x[:, 1:]], axis=1)
    for index, block in enumerate(module.blocks):
        x = block(x)
        steps[f"mid.block.{index}"] = x[:, tokens]
    steps["mid.patch_tokens"] = module.norm(x)[:, 1 + config.num_registers :]
    return {name: array.astype(jnp.float32) for name, array in steps.items()}


@partial(jax.jit, static_argnums=0)
def _text(config: TextConfig, params: Params, ids: Array, attention: Array) -> Array:
    return text_template(config).bind(params)(ids, attention).pooled.astype(jnp.float32)


@partial(jax.jit, static_argnums=0)
def _match(
    config: ModelConfig, target: Array, reference: Array, references: ReferenceBatch
) -> tuple[Prototypes, GeometricPrompt]:
    """Return the prototypes, and the similarity map with its peak."""
    prototypes = encode_features(reference, references)
    similarity = similarity_map(target, prototypes.pooled, config.canvas)
    return prototypes, geometric_prompt(similarity, config.canvas)


@partial(jax.jit, static_argnums=0)
def _decode(
    config: ModelConfig,
    head: Params,
    target: Array,
    text: Array,
    prototypes: Prototypes,
    geometric: GeometricPrompt,
) -> dict[str, Array]:
    """Return every stage after the frozen encoders but the point, in torch's layout."""
    decoded = decode_with_prompts(config, head, Features(target), prototypes, geometric)
    module = head_template(config).bind(head)
    return {
        "mid.prompt_proj_out": module.prompt_proj(text),
        "mid.inst_feat": prototypes.pooled[0],
        "mid.inst_proj_out": module.inst_proj(prototypes.pooled[0]),
        "mid.neck_out": jnp.moveaxis(decoded.image, -1, 1),
        "mid.sim": decoded.similarity[0, :, None],
        "mid.mask_input": decoded.map[0, :, None],
        "mid.point_labels": decoded.point_labels[0],
        "mid.text_tokens": decoded.tokens[0],
        "mid.sparse": decoded.prompts.sparse[0],
        "mid.dense": jnp.moveaxis(decoded.prompts.dense[0], -1, 1),
        "mid.image_pe": jnp.moveaxis(module.prompt_encoder.dense_position(), -1, 0)[None],
        "mid.low_res_masks": decoded.logits[0, :, None],
        "mid.iou_pred": decoded.iou[0, :, None],
        "out.masks": upsample(decoded.logits, config.canvas)[0, :, None],
    }
