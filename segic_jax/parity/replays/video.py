"""Replay a video: every stage of `forward_vos` (model/segic.py:804-990), frame by frame."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, UInt8

from segic_jax.config import INSTANCE_PROMPT
from segic_jax.data.preprocess import PADDING, fitted_taps, resample, resample_image
from segic_jax.inference import engine, tracker
from segic_jax.inference.memory import EPS, decode_frame, first_memory
from segic_jax.models import segic
from segic_jax.models.correspondence import similarity_map
from segic_jax.models.features import Features
from segic_jax.models.layers import bilinear
from segic_jax.parity.checker import FEATURES, IMAGES, Checker, Row, channels_first
from segic_jax.parity.golden_files import SegicWeights
from segic_jax.parity.replays.modules import cast_params, text_features, valid_sparse_prompts

_ROUNDING = 1e-5  # float32 rounding of an interpolated 0/1 mask


def replay_vos(goldens: SegicWeights, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Check segic_vos.npz. The frames lie on the canvas as floats, as in the official code, not as uint8."""
    frames = np.moveaxis(check.input("in.frames"), 1, -1)
    given_masks = check.input("in.inst_masks")
    ids = check.input("in.inst_ids")
    # The first frame's annotation holds the same masks as object ids.
    check.equal("in.inst_masks", (check.input("in.first_frame_index") == ids[:, None, None]) * np.uint8(255))

    canvas = check.input("mid.images").shape[-1]
    config, text_config, backbone, text_params, head = goldens.segic(canvas)
    images, soft_masks, size = _on_canvas(frames, given_masks, canvas)
    check.close("mid.images", np.moveaxis(images, -1, 1), IMAGES)
    check.close("mid.inst_masks", soft_masks, IMAGES)
    check.equal("mid.ori_size", size)
    masks = soft_masks / 255 > 0.5

    check.equal("mid.prompts", np.full(len(frames), INSTANCE_PROMPT))
    ids, mask = check.input("mid.input_ids"), check.input("mid.attention_mask")
    text = text_features(text_config, cast_params(text_params, dtype), ids, mask).pooled
    check.close("mid.text_features", text)

    sizes = np.tile(np.int32(size), (len(frames), 1))
    features = engine.extract(config, cast_params(backbone, dtype), images, sizes).patches
    check.close("mid.image_embeddings", channels_first(features))

    memory = first_memory(features[:1], masks)
    decode = jax.jit(decode_frame, static_argnums=0)
    latest_map = jax.jit(partial(similarity_map, canvas=canvas, eps=EPS))
    pooled, neck, low_res, iou, logits = [memory.first], [], [], [], []
    for t in range(len(frames)):
        before = memory
        frame, memory = decode(config, head, Features(features[t : t + 1]), before, text[t])
        neck.append(frame.stages.image)
        latest = latest_map(features[t : t + 1], before.latest[None]) if before.predicted.all() else None
        _check_prompts(check, t, frame.stages, latest)
        if t == 0:  # the official code does not decode it: its masks are given
            memory = before
            continue
        pooled.append(memory.latest)
        low_res.append(frame.stages.logits[0, :, None])
        iou.append(frame.stages.iou[0, :, None])
        logits.append(frame.logits)
    check.close("mid.neck_out", channels_first(jnp.concatenate(neck)))
    check.close("mid.inst_feat", np.stack(pooled))
    check.close("mid.low_res_masks", np.stack(low_res))
    check.close("mid.iou_pred", np.stack(iou))
    _check_index_masks(check, masks, logits, size, frames.shape[1:3])


def _check_prompts(
    check: Checker,
    t: int,
    decoded: segic.DecoderStages,
    latest: Float[Array, "1 objects quarter quarter"] | None,
) -> None:
    """Check the prompts of each object of frame `t`.

    Args:
        latest: the similarity map of the latest masks, or None if there are none yet.
    """
    similarity = decoded.similarity if latest is None else jnp.concatenate([decoded.similarity, latest])
    check.close(f"mid.sim.{t}", jnp.swapaxes(similarity, 0, 1))
    check.equal(f"mid.point_coords.{t}", decoded.points[0])
    check.equal(f"mid.point_labels.{t}", decoded.point_labels[0])
    tokens_valid = np.asarray(decoded.tokens_valid[0, 0])  # all objects read the same tokens
    check.close(f"mid.text_tokens.{t}", decoded.tokens[0][:, tokens_valid])
    check.close(f"mid.sparse.{t}", valid_sparse_prompts(decoded.prompts)[0])
    check.close(f"mid.dense.{t}", channels_first(decoded.prompts.dense[0]))


def _check_index_masks(
    check: Checker,
    masks: Bool[np.ndarray, "objects S S"],
    logits: list[Float[Array, "objects S S"]],
    size: tuple[int, int],
    frame_size: tuple[int, int],
) -> None:
    """Check the index masks; a pixel that the tolerance of the logits leaves open follows the stored logits.

    Frame 0, whose given masks are treated as logits, has pixels on the threshold, and therefore its own row.
    The row counts the pixels that differ. It passes if, up to rounding, all of them are interpolated to 0
    beside a mask, or to the same value in two masks; `tolerance` counts such pixels.
    """
    name = "out.index_masks"
    expected = check.input(name)
    first_masks = jnp.asarray(masks, jnp.float32)
    first = tracker.index_map(first_masks, size, frame_size)
    stored = segic.upsample(check.input("mid.low_res_masks")[:, :, 0], masks.shape[-1])
    rest = [_index_mask(*pair, size, frame_size) for pair in zip(logits, stored, strict=True)]
    actual = np.stack([first, *rest])
    if actual.shape != expected.shape:
        check.equal(name, actual)
        return
    check.equal(name, np.concatenate([expected[:1], actual[1:]]))
    values = np.asarray(bilinear(first_masks[:, : size[0], : size[1], None], frame_size)[..., 0])
    inside = values >= _ROUNDING
    beside = np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) > 0 for mask in inside])
    on_threshold = (beside & ~inside).any(0)
    best, second = np.sort(np.concatenate([values, np.zeros_like(values[:1])]), axis=0)[[-1, -2]]
    on_threshold |= (second >= _ROUNDING) & (best - second < _ROUNDING)
    differs = first != expected[0]
    check.rows.append(
        Row(
            file=check.file,
            array=f"{name}[0]",
            max_abs_error=float(differs.sum()),
            tolerance=float(on_threshold.sum()),
            passed=not (differs & ~on_threshold).any(),
        )
    )


def _index_mask(
    logits: Float[Array, "objects S S"],
    stored: Float[Array, "objects S S"],
    size: tuple[int, int],
    frame_size: tuple[int, int],
) -> Integer[np.ndarray, "height width"]:
    """Return the index mask of the logits, or of the stored ones where the tolerance leaves it open."""
    values = np.asarray(bilinear(stored[:, : size[0], : size[1], None], frame_size)[..., 0])
    best, second = np.sort(np.concatenate([np.maximum(values, 0), np.zeros_like(values[:1])]), axis=0)[
        [-1, -2]
    ]
    undecided = (np.abs(values) < FEATURES).any(0) | (second > 0) & (best - second < FEATURES)
    ours, theirs = (tracker.index_map(maps, size, frame_size) for maps in (logits, stored))
    return np.where(undecided, theirs, ours)


def _on_canvas(
    frames: UInt8[np.ndarray, "frames height width 3"],
    masks: UInt8[np.ndarray, "objects height width"],
    canvas: int,
) -> tuple[Float[np.ndarray, "frames S S 3"], Float[np.ndarray, "objects S S"], tuple[int, int]]:
    """Apply the official `ResizeVOS`, without the rounding of `data.preprocess.resize_and_pad`."""
    _, rows, columns, _ = frames.shape
    taps = fitted_taps(rows, columns, canvas)
    images = np.stack([resample_image(frame, *taps) for frame in frames])
    height, width = images.shape[1:3]
    padding = [(0, canvas - height), (0, canvas - width)]
    images = np.pad(images, [(0, 0), *padding, (0, 0)], constant_values=PADDING)
    return images, np.pad(resample(masks, *taps), [(0, 0), *padding]), (height, width)
