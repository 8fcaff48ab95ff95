"""Test that DINOv3 under the names of Meta, Hugging Face and timm gives the same parameters."""

import dataclasses

import numpy as np
import official
import pytest
from safetensors.numpy import save_file

from segic_jax.config import DinoV3Config, ViTConfig
from segic_jax.errors import ConvertError, FormatError, ParamsError
from segic_jax.models.backbones import backbone_template
from segic_jax.models.dinov3 import rotary_periods
from segic_jax.models.head import head_template
from segic_jax.models.params import count
from segic_jax.weights import dinov3
from segic_jax.weights.bundle import read_weights
from segic_jax.weights.catalog import CATALOG
from segic_jax.weights.convert import convert, read_frozen
from segic_jax.weights.formats import recognise
from segic_jax.weights.shapes import backbone_of_head, dinov3_config
from segic_jax.weights.torch_names import to_torch, torch_shapes

PLAIN = official.DINOV3
GATED = dataclasses.replace(PLAIN, ffn="swiglu", ffn_hidden=88)
LAYOUTS = {
    "Meta": (lambda tensors: tensors, dinov3.META),
    "Meta's training": (
        lambda tensors: {f"backbone.{name}": tensor for name, tensor in tensors.items()},
        dinov3.META,
    ),
    "Hugging Face": (official.dinov3_hugging_face, dinov3.HUGGING_FACE),
    "below dinov3_vit": (
        lambda tensors: {f"dinov3_vit.{n}": t for n, t in official.dinov3_hugging_face(tensors).items()},
        dinov3.HUGGING_FACE,
    ),
    "timm": (official.dinov3_timm, dinov3.TIMM),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", [PLAIN, GATED], ids=["plain", "gated"])
def test_every_layout_gives_the_same_parameters(config, layout):
    rename, origin = LAYOUTS[layout]
    tensors = rename(official.dinov3(config))
    [part] = recognise(tensors, config=None, what="file")
    assert (part.kind, part.origin) == ("backbone", origin)
    assert dinov3_config(part.tensors) == config
    shapes = backbone_template(config).shapes
    official_tensors = to_torch(part.parameters(shapes))
    expected = official.dinov3(config)
    for name, tensor in official_tensors.items():
        if name.endswith("qkv.bias"):  # keys have none
            np.testing.assert_array_equal(tensor, expected[name] * expected[f"{name}_mask"])
        elif name == "rope_embed.periods":
            np.testing.assert_allclose(tensor, rotary_periods(len(tensor)), rtol=1e-6)
        else:
            np.testing.assert_array_equal(tensor, expected[name], err_msg=name)
    # Back: every name of the file is expected or named as left out, and nothing else is.
    made = {name: spec.shape for name, spec in torch_shapes(shapes).items() if name not in part.made}
    in_file = part.in_file(made)
    assert in_file == {name: t.shape for name, t in tensors.items() if name not in part.left_out}
    assert all("mask_token" in name for name in part.left_out)


def test_without_any_bias_they_are_zero():
    """timm's files have none: those of the published models are zero."""
    tensors = {
        name: tensor
        for name, tensor in official.dinov3_timm(official.dinov3(PLAIN)).items()
        if not name.endswith(("q_bias", "v_bias"))
    }
    [part] = recognise(tensors, config=None, what="file")
    params = part.parameters(backbone_template(PLAIN).shapes)
    assert not params["blocks/1/attn/qkv/bias"].any()


def test_the_periods_of_the_file_are_kept(tmp_path):
    """Meta's are rounded to bfloat16; a config.json may name another base."""
    tensors = official.dinov3(PLAIN)
    tensors["rope_embed.periods"] = np.float32([1, 3.171875])
    save_file(tensors, tmp_path / "meta.safetensors")
    convert([tmp_path / "meta.safetensors"], tmp_path / "out.safetensors", num_heads=8)
    weights = read_weights(tmp_path / "out.safetensors")
    assert weights.backbone_config == dataclasses.replace(PLAIN, num_heads=8)
    np.testing.assert_array_equal(weights.backbone["rope_embed/periods"], [1, 3.171875])
    tensors = official.dinov3_hugging_face(official.dinov3(PLAIN))
    [part] = recognise(tensors, config={"rope_theta": 16.0}, what="file")
    params = part.parameters(backbone_template(dataclasses.replace(PLAIN, num_heads=8)).shapes)
    np.testing.assert_allclose(params["rope_embed/periods"], [1, 4])


@pytest.mark.parametrize("size", ["s", "s+"])  # the larger ones: parity/test_dinov3_torch.py
def test_published_sizes_are_recognised(size):
    config = DinoV3Config.dinov3(size)
    shapes = backbone_template(config).shapes
    tensors = {n: np.broadcast_to(np.float32(0), s.shape) for n, s in torch_shapes(shapes).items()}
    assert dinov3_config(tensors) == config
    assert CATALOG[f"dinov3-{size.replace('+', '-plus')}"].parameters == count(shapes)


def test_every_fault_is_named_as_in_the_file():
    hugging_face = official.dinov3_hugging_face(official.dinov3(GATED))
    del hugging_face["layer.1.attention.v_proj.bias"]
    hugging_face["layer.0.attention.k_proj.weight"] = np.ones((3, 64), np.float32)
    [part] = recognise(hugging_face, config=None, what="model.safetensors")
    with pytest.raises(ParamsError) as error:
        part.parameters(backbone_template(GATED).shapes)
    for message in ("missing: layer.1.attention.v_proj.bias", "layer.0.attention.k_proj.weight (3, 64)"):
        assert message in str(error.value)
    timm = official.dinov3_timm(official.dinov3(PLAIN))
    timm["blocks.0.more"] = timm.pop("blocks.0.gamma_2")
    [part] = recognise(timm, config=None, what="file")
    with pytest.raises(ParamsError, match=r"missing: blocks\.0\.gamma_2; unknown: blocks\.0\.more"):
        part.parameters(backbone_template(PLAIN).shapes)
    with pytest.raises(FormatError, match="hidden_act 'relu'"):
        recognise(hugging_face, config={"hidden_act": "relu"}, what="folder")
    tensors = official.dinov3(PLAIN)
    del tensors["blocks.0.mlp.fc1.weight"]
    with pytest.raises(FormatError, match="lacks blocks"):
        dinov3_config(tensors)


def test_the_backbones_of_a_model_are_not_mixed_up(tmp_path):
    save_file(official.dinov3(PLAIN), tmp_path / "three.safetensors")
    save_file(official.backbone(), tmp_path / "two.safetensors")
    with pytest.raises(
        ConvertError, match=r"three\.safetensors holds a DINOv3, and the backbone of the model"
    ):
        read_frozen(tmp_path / "three.safetensors", ViTConfig())
    with pytest.raises(ConvertError, match=r"two\.safetensors holds a ViT, and the backbone of the model"):
        read_frozen(tmp_path / "two.safetensors", PLAIN)


def test_a_head_alone_finds_its_backbone():
    model = dataclasses.replace(official.MODEL, backbone=DinoV3Config.dinov3("l"), canvas=112)
    shapes = torch_shapes(head_template(model).shapes)
    head = {name: np.broadcast_to(np.float32(0), spec.shape) for name, spec in shapes.items()}
    assert backbone_of_head(head) == DinoV3Config.dinov3("l")
