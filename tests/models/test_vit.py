"""Compare the backbone with the official DINOv2."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segic_jax.config import ViTConfig
from segic_jax.models.params import Template, count
from segic_jax.models.vit import DinoVisionTransformer
from segic_jax.weights.torch_names import from_torch

TINY = ViTConfig(width=48, depth=3, num_heads=4)
REGISTERS = {"num_registers": 4, "pos_offset": 0.0, "pos_antialias": True}
VARIANTS = {
    "mlp": TINY,
    "reg": dataclasses.replace(TINY, **REGISTERS),
    "swiglu": dataclasses.replace(TINY, ffn="swiglu"),
    "swiglu_reg": dataclasses.replace(TINY, ffn="swiglu", **REGISTERS),
}


def template(config: ViTConfig) -> Template:
    return Template(lambda rngs: DinoVisionTransformer(config, rngs=rngs))


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_official_backbone(variant, golden, golden_weights):
    """Compare patch and position embeddings, and tokens before and after the norm, on two image shapes."""
    arrays = golden(f"backbone_{variant}")
    model = template(VARIANTS[variant])
    params = from_torch(golden_weights(f"backbone_{variant}"), model.shapes)

    @jax.jit
    def run(params, images):
        backbone = model.bind(params)
        patches = backbone.patch_embed(images)
        return patches, backbone.interpolated_pos_embed(*patches.shape[1:3]), backbone(images)

    for i in range(int(arrays["in.n_inputs"])):
        patches, positions, features = run(params, jnp.moveaxis(jnp.asarray(arrays[f"in.image.{i}"]), 1, -1))
        close(patches.reshape(1, -1, TINY.width), arrays[f"mid.patch_embed.{i}"])
        close(positions, arrays[f"mid.pos_embed.{i}"])
        close(features.before_norm, arrays[f"out.x_prenorm.{i}"])
        close(features.class_token, arrays[f"out.x_norm_clstoken.{i}"])
        close(features.patches.reshape(1, -1, TINY.width), arrays[f"out.x_norm_patchtokens.{i}"])
        if VARIANTS[variant].num_registers:
            close(features.registers, arrays[f"out.x_norm_regtokens.{i}"])


def test_stored_grid_is_not_resampled():
    model = template(dataclasses.replace(TINY, pos_grid=5))
    params = model.init(0)
    np.testing.assert_array_equal(model.bind(params).interpolated_pos_embed(5, 5), params["pos_embed"])


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize(
    ("size", "parameters"),
    # The hub's models have an additional vector, the unused mask_token.
    [
        ("s", 22_056_576 - 384),
        ("b", 86_580_480 - 768),
        ("l", 304_368_640 - 1024),
        ("g", 1_136_480_768 - 1536),
    ],
)
def test_published_sizes(size, parameters, registers):
    config = ViTConfig.dinov2(size, registers=registers)
    assert count(template(config).shapes) == parameters + registers * 4 * config.width
