"""Read a dump of `tools/dump_torch.py`, and compute the same stages, one after the other as in real use.

The canvas is computed from the images. Everything after it starts from torch's canvas and reads our own
stages, so that an error of one stage shows in all stages after it.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from segic_jax.config import ModelConfig, TextConfig, ViTConfig
from segic_jax.data.preprocess import PADDING, fitted_taps, resample
from segic_jax.errors import DumpError
from segic_jax.inference.engine import extract
from segic_jax.models.clip_text import text_template
from segic_jax.models.params import Params, as_float32
from segic_jax.models.segic import (
    Prototypes,
    ReferenceBatch,
    backbone_template,
    decode_stages,
    encode_features,
    head_template,
    normalise_pixels,
    upsample,
)
from segic_jax.parity.checker import FEATURES, IMAGES, channels_first, channels_last, max_abs_error
from segic_jax.weights.shapes import model_config, text_config, vit_config
from segic_jax.weights.sources import read_safetensors
from segic_jax.weights.torch_names import from_torch, split_segic

FORMAT = 1  # of tools/dump_torch.py
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}  # of the frozen encoders

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Dump:
    """Hold what all pairs of a dump share."""

    folder: Path
    manifest: dict
    config: ModelConfig
    text_config: TextConfig
    backbone: Params  # float32
    text: Params
    head: Params


@dataclass(frozen=True)
class Stage:
    """Compare one array of one pair with torch's."""

    name: str  # on the page, e.g. "block 3"
    array: str  # in the pair's file
    max_abs_error: float  # NaN if the shapes differ, or one side alone has a NaN
    largest: float  # absolute value in torch
    tolerance: float

    @property
    def relative(self) -> float:
        """The error as a fraction of the stage's largest value."""
        return self.max_abs_error / self.largest if self.largest else self.max_abs_error

    @property
    def passed(self) -> bool:
        """Return whether the error is within the tolerance, which is meant for float32."""
        return self.max_abs_error <= self.tolerance


class Replay(NamedTuple):
    """Hold the stages of one pair in one precision."""

    stages: list[Stage]
    logits: Float[np.ndarray, "concepts height width"]  # on the canvas without its padding


class _ModelFacts(NamedTuple):
    """Hold what the weights do not tell about the model."""

    canvas: int
    backbone_heads: int
    text_heads: int
    decoder_heads: int
    eos_id: int
    pos_offset: float
    pos_antialias: bool


def read_dump(folder: Path) -> Dump:
    """Read the manifest and the weights.

    Raises:
        DumpError, ParamsError: a file is missing, damaged or does not fit the others.
    """
    manifest, facts = _read_manifest(folder)
    path = folder / "weights.safetensors"
    parts = split_segic(read_safetensors(path))
    vit = vit_config(parts.backbone, num_heads=facts.backbone_heads)
    vit = replace(vit, pos_offset=facts.pos_offset, pos_antialias=facts.pos_antialias)
    text = text_config(parts.text, num_heads=facts.text_heads, eos_id=facts.eos_id)
    config = model_config(parts.head, vit, facts.canvas)
    config = replace(config, head=replace(config.head, num_heads=facts.decoder_heads))
    return Dump(
        folder,
        manifest,
        config,
        text,
        as_float32(from_torch(parts.backbone, backbone_template(vit).shapes, what=f"backbone in {path}")),
        as_float32(from_torch(parts.text, text_template(text).shapes, what=f"text tower in {path}")),
        as_float32(from_torch(parts.head, head_template(config).shapes, what=f"trained part in {path}")),
    )


def _read_manifest(folder: Path) -> tuple[dict, _ModelFacts]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise DumpError(
            f"{folder} is not a complete dump: it has no manifest.json; run tools/dump_torch.py first."
        )
    try:
        manifest = json.loads(path.read_text("utf-8"))
        if manifest["format"] != FORMAT:
            raise DumpError(f"{path} has format {manifest['format']}; this version reads format {FORMAT}.")
        model = manifest["model"]
        facts = _ModelFacts(
            *(int(model[name]) for name in _ModelFacts._fields[:5]),
            pos_offset=float(model["pos_offset"]),
            pos_antialias=bool(model["pos_antialias"]),
        )
        files = {"weights.safetensors", *manifest["files"], *(pair["file"] for pair in manifest["pairs"])}
        if not manifest["pairs"] or any(Path(name).name != name for name in files):
            raise ValueError("no pairs, or a file outside the folder")
    except DumpError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DumpError(f"{path} is damaged ({what}); run tools/dump_torch.py again.") from error
    for name in sorted(files):
        if not (folder / name).is_file():
            raise DumpError(f"{folder / name} is missing; run tools/dump_torch.py again.")
    return manifest, facts


def read_pair(dump: Dump, index: int) -> dict[str, np.ndarray]:
    """Read all arrays of one pair.

    Raises:
        DumpError: the file is missing or damaged, or lacks an array.
    """
    path = dump.folder / dump.manifest["pairs"][index]["file"]
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DumpError(f"{path} is damaged ({error}); run tools/dump_torch.py again.") from error
    required = [*_INPUTS, *(stage.array for stage in _stages(dump.config))]
    missing = [name for name in required if name not in arrays]
    if missing:
        raise DumpError(f"{path} lacks {', '.join(missing)}; run tools/dump_torch.py again.")
    side = dump.config.canvas
    if any(arrays[f"in.{name}"].shape != (1, 3, side, side) for name in ("image", "image_dual")):
        raise DumpError(
            f"{path}: in.image and in.image_dual must be (1, 3, {side}, {side}), as the manifest says."
        )
    return arrays


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replay(dump: Dump, pair: Arrays, dtype) -> Replay:
    """Compute and compare every stage of one pair.

    Args:
        pair: the result of `read_pair`.
        dtype: the precision of the frozen encoders; the head runs in float32.
    """
    with jax.default_matmul_precision("highest"):
        computed = dict(_compute(dump, pair, dtype))
    stages = []
    for name, array, tolerance, scaled in _stages(dump.config):
        expected = pair[array]
        largest = float(np.abs(expected, dtype=np.float64).max(initial=0))
        error = max_abs_error(np.asarray(computed[array]), expected)
        stages.append(
            Stage(name, array, error, largest, tolerance * max(1.0, largest) if scaled else tolerance)
        )
    return Replay(stages, np.asarray(computed["out.masks"])[:, 0])


_INPUTS = (
    *("in.orig_image", "in.orig_image_dual", "in.orig_label_dual"),
    *("in.ori_size", "in.ori_size_dual", "mid.input_ids", "mid.attention_mask", "mid.block_tokens"),
)


class _StageSpec(NamedTuple):
    name: str
    array: str
    tolerance: float = FEATURES
    # Trained weights give values of several hundred in the blocks, where float32 itself is coarser than 1e-4:
    # above 1, the tolerance is relative to the stage's largest value.
    scaled: bool = True


def _stages(config: ModelConfig) -> list[_StageSpec]:
    """Return the stages in the order of computation."""
    return [
        _StageSpec("canvas, target", "in.image", IMAGES, False),
        _StageSpec("canvas, reference", "in.image_dual", IMAGES, False),
        _StageSpec("canvas, mask", "in.label_dual", IMAGES, False),
        _StageSpec("encoder input", "mid.encoder_in"),
        _StageSpec("patch embedding", "mid.patch_embed"),
        _StageSpec("position embedding", "mid.pos_embed"),
        *(_StageSpec(f"block {i}", f"mid.block.{i}") for i in range(config.vit.depth)),
        _StageSpec("patch tokens", "mid.patch_tokens"),
        _StageSpec("features", "mid.image_embeddings"),
        _StageSpec("text feature", "mid.text_features"),
        _StageSpec("text token", "mid.prompt_proj_out"),
        _StageSpec("pooled reference feature", "mid.inst_feat"),
        _StageSpec("visual token", "mid.inst_proj_out"),
        _StageSpec("neck", "mid.neck_out"),
        _StageSpec("similarity", "mid.sim"),
        _StageSpec("mask prompt", "mid.mask_input"),
        _StageSpec("point", "mid.point_coords", 0.0, False),
        _StageSpec("point label", "mid.point_labels", 0.0, False),
        _StageSpec("tokens", "mid.text_tokens"),
        _StageSpec("sparse prompts", "mid.sparse"),
        _StageSpec("dense prompt", "mid.dense"),
        _StageSpec("position code", "mid.image_pe"),
        _StageSpec("low-resolution logits", "mid.low_res_masks"),
        _StageSpec("predicted IoU", "mid.iou_pred"),
        _StageSpec("mask logits", "out.masks"),
    ]


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
        steps.append(_backbone_steps(config.vit, backbone, image[None], size[None], pair["mid.block_tokens"]))
        features.append(extract(config, backbone, image[None], size[None]))
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
    outputs = _decode(config, dump.head, features[:1], features[None, 1:], text, references)
    height, width = sizes[0]
    for name, array in outputs.items():
        yield name, array[..., :height, :width] if name == "out.masks" else array


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
    pixels = normalise_pixels(images, sizes)
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
def _decode(
    config: ModelConfig,
    head: Params,
    target: Array,
    reference: Array,
    text: Array,
    references: ReferenceBatch,
) -> dict[str, Array]:
    """Return every stage after the frozen encoders, in torch's layout."""
    context: Prototypes = encode_features(reference, references)
    decoded = decode_stages(config, head, target, context)
    module = head_template(config).bind(head)
    return {
        "mid.prompt_proj_out": module.prompt_proj(text),
        "mid.inst_feat": context.pooled[0],
        "mid.inst_proj_out": module.inst_proj(context.pooled[0]),
        "mid.neck_out": jnp.moveaxis(decoded.image, -1, 1),
        "mid.sim": decoded.similarity[0, :, None],
        "mid.mask_input": decoded.map[0, :, None],
        "mid.point_coords": decoded.points[0],
        "mid.point_labels": decoded.point_labels[0],
        "mid.text_tokens": decoded.tokens[0],
        "mid.sparse": decoded.prompts.sparse[0],
        "mid.dense": jnp.moveaxis(decoded.prompts.dense[0], -1, 1),
        "mid.image_pe": jnp.moveaxis(module.prompt_encoder.dense_position(), -1, 0)[None],
        "mid.low_res_masks": decoded.logits[0, :, None],
        "mid.iou_pred": decoded.iou[0, :, None],
        "out.masks": upsample(decoded.logits, config.canvas)[0, :, None],
    }
