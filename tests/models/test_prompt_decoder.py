"""Compare the prompt encoder and mask decoder with the official ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segic_jax.config import ModelConfig, ViTConfig
from segic_jax.models.mask_decoder import MaskDecoder
from segic_jax.models.params import Template
from segic_jax.models.prompt_encoder import PromptEncoder, Prompts
from segic_jax.weights.torch_names import from_torch

CONFIG = ModelConfig(backbone=ViTConfig(width=48, depth=3, num_heads=4), text_width=32, canvas=112)
ENCODER = Template(lambda rngs: PromptEncoder(CONFIG, rngs=rngs))
DECODER = Template(lambda rngs: MaskDecoder(CONFIG, rngs=rngs))
CASES = ("points", "boxes", "textonly")


def part(tensors, prefix):
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def params(golden_weights):
    tensors = golden_weights("segic")
    return {
        "encoder": from_torch(part(tensors, "prompt_encoder."), ENCODER.shapes),
        "decoder": from_torch(part(tensors, "mask_decoder."), DECODER.shapes),
    }


@jax.jit
def decode(params, image, prompts):
    position = ENCODER.bind(params["encoder"]).dense_position()
    return DECODER.bind(params["decoder"])(image, position, prompts)


def encode(params, **inputs) -> Prompts:
    return jax.jit(lambda p, i: ENCODER.bind(p["encoder"])(**i))(params, inputs)


def inputs_of(arrays, case: str) -> dict:
    """Return the inputs of a golden case, whose rows are three concepts of one image."""
    tokens = jnp.asarray(arrays["in.texts"])[None]
    inputs = dict.fromkeys(("points", "point_labels", "boxes", "use_box", "masks"))
    if case != "textonly":
        inputs["points"] = jnp.asarray(arrays["in.point_coords"], jnp.float32)[None]
        inputs["point_labels"] = jnp.asarray(arrays["in.point_labels"], jnp.int32)[None]
        inputs["masks"] = jnp.asarray(arrays["in.masks"])[None]  # a map for each concept
    if case == "boxes":
        inputs["boxes"] = jnp.asarray(arrays["in.boxes"], jnp.float32)[None]
    return inputs | {"tokens": tokens, "tokens_valid": jnp.ones(tokens.shape[:3], bool)}


def image_of(arrays):
    return jnp.moveaxis(jnp.asarray(arrays["in.image_embeddings"]), 1, -1)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def test_dense_position(golden, params):
    position = jax.jit(lambda p: ENCODER.bind(p["encoder"]).dense_position())(params)
    close(np.moveaxis(position, -1, 0), golden("prompt_decoder")["out.image_pe"][0])


@pytest.mark.parametrize("case", CASES)
def test_prompts(case, golden, params):
    arrays = golden("prompt_decoder")
    prompts = encode(params, **inputs_of(arrays, case))
    sparse, valid = np.asarray(prompts.sparse[0]), np.asarray(prompts.sparse_valid[0])
    # The official code has no slots for unused tokens.
    official = np.stack([row[keep] for row, keep in zip(sparse, valid, strict=True)])
    close(official, arrays[f"out.{case}.sparse"])
    close(np.moveaxis(prompts.dense[0], -1, 1), arrays[f"out.{case}.dense"])


@pytest.mark.parametrize("case", CASES)
def test_masks_and_ious(case, golden, params):
    arrays = golden("prompt_decoder")
    logits, iou = decode(params, image_of(arrays), encode(params, **inputs_of(arrays, case)))
    close(logits[0], arrays[f"out.{case}.all_masks"])
    close(iou[0], arrays[f"out.{case}.all_iou"])
    close(logits[0, :, :1], arrays[f"out.{case}.low_res_masks"])
    close(iou[0, :, :1], arrays[f"out.{case}.iou"])


def test_task_indicator(golden, params):
    """Check mask token 0 for classes and 1 for instances."""
    arrays = golden("prompt_decoder")
    logits, iou = decode(params, image_of(arrays), encode(params, **inputs_of(arrays, "textonly")))
    token = arrays["in.task_indicator"].astype(int).reshape(-1)
    rows = np.arange(len(token))
    close(logits[0, rows, token], arrays["out.textonly.task_masks"][:, 0])
    close(iou[0, rows, token], arrays["out.textonly.task_iou"][:, 0])


def test_images_with_and_without_boxes_in_one_batch(golden, params):
    """Check that use_box chooses for each image between the official results with and without boxes."""
    arrays = golden("prompt_decoder")
    inputs = {
        name: None if value is None else jnp.concatenate([value, value])
        for name, value in inputs_of(arrays, "boxes").items()
    }
    prompts = encode(params, **inputs | {"use_box": jnp.array([True, False])})
    logits, iou = decode(params, jnp.repeat(image_of(arrays), 2, axis=0), prompts)
    for row, case in enumerate(("boxes", "points")):
        close(logits[row], arrays[f"out.{case}.all_masks"])
        close(iou[row], arrays[f"out.{case}.all_iou"])


def test_invalid_slots_change_nothing(golden, params):
    arrays = golden("prompt_decoder")
    image, prompts = image_of(arrays), encode(params, **inputs_of(arrays, "points"))
    garbage = 100 * jax.random.normal(
        jax.random.key(0), (*prompts.sparse.shape[:2], 5, prompts.sparse.shape[3])
    )
    padded = Prompts(
        jnp.concatenate([prompts.sparse, garbage], axis=2),
        jnp.pad(prompts.sparse_valid, ((0, 0), (0, 0), (0, 5))),
        prompts.dense,
    )
    for with_more, without in zip(decode(params, image, padded), decode(params, image, prompts), strict=True):
        np.testing.assert_allclose(with_more, without, rtol=0, atol=1e-5)
