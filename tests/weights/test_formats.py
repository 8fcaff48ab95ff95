"""Test that weights under the names of several libraries give the same parameters."""

import dataclasses

import numpy as np
import official
import pytest

from segic_jax.config import ViTConfig
from segic_jax.errors import FormatError, ParamsError
from segic_jax.models.backbones import backbone_template
from segic_jax.models.clip_text import text_template
from segic_jax.models.head import head_template
from segic_jax.models.params import count
from segic_jax.weights import formats
from segic_jax.weights.formats import recognise
from segic_jax.weights.shapes import model_config, text_config, vit_config
from segic_jax.weights.torch_names import from_torch, torch_shapes
from segic_jax.weights.wrappers import unwrap

VITS = {
    "mlp": official.VIT,
    "registers": dataclasses.replace(official.VIT, **official.REGISTERS),
    "swiglu": dataclasses.replace(official.VIT, ffn="swiglu"),
    "swiglu and registers": dataclasses.replace(official.VIT, ffn="swiglu", **official.REGISTERS),
}
LAYOUTS = {
    "Meta": (lambda tensors: tensors, formats.META),
    "in chunks": (official.chunked, formats.META),
    "Hugging Face": (official.hugging_face, formats.HUGGING_FACE),
    "below dinov2": (lambda tensors: official.hugging_face(tensors, "dinov2."), formats.HUGGING_FACE),
}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", VITS)
def test_backbones_of_every_layout(kind, layout):
    config, (rename, origin) = VITS[kind], LAYOUTS[layout]
    tensors = official.backbone(config)
    [part] = recognise(rename(tensors), config=None, what="file")
    assert (part.kind, part.origin) == ("backbone", origin)
    assert any("mask_token" in name for name in part.left_out)
    assert vit_config(part.tensors) == config
    shapes = backbone_template(config).shapes
    assert_same(part.parameters(shapes), from_torch(tensors, shapes))


@pytest.mark.parametrize("kind", VITS)
def test_backbones_of_timm(kind):
    """Check timm's layout: with registers, the class token includes its position, which is zero."""
    config, tensors = VITS[kind], official.backbone(VITS[kind])
    [part] = recognise(official.timm(tensors), config=None, what="file")
    assert part.origin == (formats.META if kind == "mlp" else formats.TIMM)
    assert vit_config(part.tensors) == config
    shapes = backbone_template(config).shapes
    params, expected = part.parameters(shapes), from_torch(tensors, shapes)
    if config.num_registers:
        with_position = expected["cls_token"] + expected["pos_embed"][:, :1]
        np.testing.assert_array_equal(params["cls_token"] + params["pos_embed"][:, :1], with_position)
        expected = expected | {name: params[name] for name in ("cls_token",)}
        np.testing.assert_array_equal(params["pos_embed"][:, 1:], expected["pos_embed"][:, 1:])
        expected["pos_embed"] = params["pos_embed"]
    assert_same(params, expected)


def without_prefix(tensors):
    return {
        name.removeprefix("text_model."): tensor
        for name, tensor in tensors.items()
        if name.startswith("text_model.")
    }


@pytest.mark.parametrize("rename", [lambda tensors: tensors, without_prefix])
def test_clip_with_and_without_prefix(rename):
    tensors = official.text()
    [part] = recognise(rename(official.clip_model(tensors)), config=None, what="file")
    assert (part.kind, part.origin) == ("text", formats.CLIP)
    assert text_config(part.tensors) == official.TEXT
    shapes = text_template(official.TEXT).shapes
    assert_same(part.parameters(shapes), from_torch(tensors, shapes))
    assert any("position_ids" in name for name in part.left_out)


def test_clip_lists_the_tensors_left_out():
    [part] = recognise(official.clip_model(official.text()), config=None, what="file")
    unused = {"logit_scale", "visual_projection.weight", "text_projection.weight"}
    assert unused < set(part.left_out)


def test_a_complete_segic_has_three_parts():
    state = official.segic(official.head(), official.backbone(), official.text())
    parts = {part.kind: part for part in recognise(state, config=None, what="file")}
    assert parts.keys() == {"head", "backbone", "text"}
    config = model_config(parts["head"].tensors, vit_config(parts["backbone"].tensors), 112)
    assert config == official.MODEL
    shapes = head_template(config).shapes
    assert_same(parts["head"].parameters(shapes), from_torch(official.head(), shapes))
    left_out = {name for part in parts.values() for name in part.left_out}
    assert left_out == {"encoder.dinov2.mask_token", "pixel_mean", "pixel_std"}


def test_the_trained_part_of_segic_is_a_head():
    [part] = recognise(official.head(), config=None, what="file")
    assert (part.kind, part.origin, part.left_out) == ("head", formats.SEGIC, ())


@pytest.mark.parametrize("variant", ["mlp", "reg", "swiglu", "swiglu_reg"])
def test_the_configuration_of_the_goldens_is_recognised(golden_weights, variant):
    [part] = recognise(golden_weights(f"backbone_{variant}"), config=None, what="file")
    assert vit_config(part.tensors, num_heads=4) == ViTConfig(
        width=48,
        depth=3,
        num_heads=4,
        ffn="swiglu" if "swiglu" in variant else "mlp",
        **(official.REGISTERS if "reg" in variant else {}),
    )


@pytest.mark.parametrize(
    ("size", "registers", "numbers"),
    # Counts exclude the hub's mask_token, a number for each channel (384, 768, 1024, 1536), and the
    # registers; all eight models are in test_vit.py and parity/test_hf_backbones.py.
    [
        ("s", True, 22_056_192),
        ("b", False, 86_579_712),
        ("l", True, 304_367_616),
        ("g", False, 1_136_479_232),
    ],
)
def test_published_configurations_are_recognised(size, registers, numbers):
    """Recognise the published configurations from shapes alone, without allocating memory."""
    config = ViTConfig.dinov2(size, registers=registers)
    template = backbone_template(config)
    assert count(template.shapes) == numbers + registers * 4 * config.width
    empty = np.empty(0, np.float32)
    tensors = {
        name: np.lib.stride_tricks.as_strided(empty, spec.shape, [0] * len(spec.shape))
        for name, spec in torch_shapes(template.shapes).items()
    }
    assert vit_config(tensors) == config
    hidden = 4096 if size == "g" else 4 * config.width
    assert config.ffn_hidden == hidden


@pytest.mark.parametrize("hidden", [40, 64, 256, 168])
def test_the_hidden_width_of_a_swiglu_is_read(hidden):
    config = dataclasses.replace(official.VIT, ffn="swiglu", mlp_ratio=1.5 * hidden / 64)
    assert config.ffn_hidden == hidden
    assert vit_config(official.backbone(config)).ffn_hidden == hidden


def test_every_fault_is_named_as_in_the_file():
    tensors = official.hugging_face(official.backbone(), "dinov2.")
    block = "dinov2.encoder.layer.1."
    del tensors[block + "attention.attention.key.bias"]
    tensors[block + "norm1.weights"] = tensors.pop(block + "norm1.weight")
    tensors["dinov2.layernorm.bias"] = tensors["dinov2.layernorm.bias"][:-1]
    tensors[block + "attention.attention.query.weight"] = np.ones((3, 64), np.float32)
    [part] = recognise(tensors, config=None, what="model.safetensors")
    with pytest.raises(ParamsError) as error:
        part.parameters(backbone_template(official.VIT).shapes)
    for message in (
        "model.safetensors",
        f" {block}norm1.weight",
        f" {block}attention.attention.key.bias",
        f"unknown: {block}norm1.weights",
        f"{block}attention.attention.query.weight (3, 64), expected (64, 64)",
        "dinov2.layernorm.bias (63,), expected (64,)",
    ):
        assert message in str(error.value)


@pytest.mark.parametrize("rename", [official.timm, official.chunked])
def test_a_missing_tensor_is_named_as_in_the_file(rename):
    config = VITS["swiglu and registers"]
    tensors = rename(official.backbone(config))
    missing = next(name for name in tensors if name.startswith(("blocks.2.mlp", "backbone.blocks.1.2.mlp")))
    del tensors[missing]
    [part] = recognise(tensors, config=None, what="file")
    with pytest.raises(ParamsError, match=f"missing: {missing}"):
        part.parameters(backbone_template(config).shapes)


def test_inconsistent_sizes_are_refused():
    tensors = official.backbone()
    with pytest.raises(FormatError, match=r"width 64.*into 7 attention heads"):
        vit_config(tensors, num_heads=7)
    with pytest.raises(FormatError, match="square grid"):
        vit_config(tensors | {"pos_embed": tensors["pos_embed"][:, :-1]})
    with pytest.raises(FormatError, match="3 dimensions"):
        vit_config(tensors | {"pos_embed": tensors["pos_embed"][0]})
    with pytest.raises(FormatError, match="lacks pos_embed"):
        vit_config({name: tensors[name] for name in tensors if name != "pos_embed"})
    narrow = dataclasses.replace(official.VIT, width=48, num_heads=4)
    with pytest.raises(FormatError, match="--num-heads"):
        vit_config(official.backbone(narrow))
    uneven = official.backbone(VITS["swiglu"])
    uneven["blocks.0.mlp.w3.weight"] = np.ones((64, 90), np.float32)
    with pytest.raises(FormatError, match="90 hidden channels"):
        vit_config(uneven)
    with pytest.raises(FormatError, match="width 64, and this one has 48"):
        model_config(official.head(), narrow, 112)
    with pytest.raises(FormatError, match="patch size 14, and this one has 16"):
        model_config(official.head(), dataclasses.replace(official.VIT, patch_size=16), 112)


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({"conv1.weight": np.ones(1), "fc.weight": np.ones(1)}, r"conv1\.weight, fc\.weight"),
        ({}, "none"),
        ({"image_encoder.blocks.0.attn.qkv.weight": np.ones(1), "mask_decoder.x": np.ones(1)}, "DINOv2"),
        ({"vision_model.encoder.layers.0.self_attn.q_proj.weight": np.ones(1)}, "vision_model"),
    ],
)
def test_other_models_are_refused(tensors, named):
    with pytest.raises(FormatError, match=named) as error:
        recognise(tensors, config=None, what="other.pth")
    assert "other.pth" in str(error.value)


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        (official.clip_model(official.text()), {"text_config": {"hidden_act": "gelu"}}),
        (official.hugging_face(official.backbone()), {"layer_norm_eps": 1e-5}),
    ],
)
def test_unsupported_settings_of_config_json_are_refused(tensors, config):
    with pytest.raises(FormatError, match=r"config\.json says (hidden_act|layer_norm_eps)"):
        recognise(tensors, config=config, what="folder")


@pytest.mark.parametrize(
    "prefix",
    ["teacher.backbone.", "student.", "module.", "_orig_mod.", "model.", "model.module._orig_mod.backbone."],
)
def test_names_of_training_code_are_taken_off(prefix):
    """Find the backbone below the prefixes of training code, and name what was taken off."""
    tensors = official.backbone()
    [candidate] = unwrap({prefix + name: tensor for name, tensor in tensors.items()})
    [part] = recognise(candidate.tensors, config=None, what="file")
    assert part.origin == formats.META
    kept = {name.removeprefix("backbone."): tensor for name, tensor in part.tensors.items()}
    np.testing.assert_array_equal(kept["norm.weight"], tensors["norm.weight"])
    assert "".join(candidate.removed) == prefix.removesuffix("backbone.")


def test_names_of_wrappers_inside_a_name_are_taken_off():
    [candidate] = unwrap({"backbone._orig_mod.blocks.0.attn.qkv.weight": np.zeros(1)})
    assert list(candidate.tensors) == ["backbone.blocks.0.attn.qkv.weight"]
    assert candidate.removed == ("_orig_mod.",)
    with pytest.raises(FormatError, match="become one name"):
        unwrap({"module.a": np.zeros(1), "a": np.zeros(1)})
