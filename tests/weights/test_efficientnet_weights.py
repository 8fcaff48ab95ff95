"""Test the conversion of EfficientNet-Lite's published state dicts."""

import dataclasses

import numpy as np
import official
import pytest
from pth_writer import write_state_dict
from safetensors.numpy import save_file

from segic_jax.config import EfficientNetConfig, ViTConfig
from segic_jax.errors import ConvertError, FormatError, ParamsError
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.weights.bundle import Weights, read_weights, write_weights
from segic_jax.weights.convert import convert, read_frozen
from segic_jax.weights.formats import recognise
from segic_jax.weights.shapes import efficientnet_config
from segic_jax.weights.torch_names import to_torch, torch_shapes

LITE0 = EfficientNetConfig.published(0)


@pytest.fixture(scope="module")
def tensors():
    return official.efficientnet_lite()


@pytest.fixture(scope="module")
def file(tensors, tmp_path_factory):
    return write_state_dict(tmp_path_factory.mktemp("lite") / "lite0.pth", tensors)


@pytest.mark.parametrize("lite", range(5))
def test_names_and_shapes_give_the_model(lite):
    tensors = {n: np.broadcast_to(0.0, t.shape) for n, t in official.efficientnet_lite(lite).items()}
    [part] = recognise(tensors, config=None, what="test")
    assert efficientnet_config(part.tensors) == EfficientNetConfig.published(lite)


def test_every_tensor_is_used_or_named_and_can_be_given_back(tensors, file, tmp_path):
    report = convert([file], tmp_path / "out.safetensors")
    weights = read_weights(tmp_path / "out.safetensors")
    assert weights.backbone_config == LITE0
    left_out = {name for name in tensors if name.startswith(("_conv_head", "_bn1", "_fc"))}
    left_out |= {name for name in tensors if name.endswith("num_batches_tracked")}
    assert set(report.left_out) == left_out
    assert str(report).count("left out, because no forward pass reads them: _conv_head.weight") == 1
    [part] = recognise(tensors, config=None, what="test")
    shapes = {n: spec.shape for n, spec in torch_shapes(backbone_template(LITE0).shapes).items()}
    exported = to_torch(weights.backbone)
    for name, (name_in_file, shape) in zip(shapes, part.in_file(shapes).items(), strict=True):
        np.testing.assert_array_equal(exported[name].reshape(shape), tensors.get(name_in_file))
    assert part.in_file(shapes).keys() == tensors.keys() - left_out


def test_blocks_that_no_output_needs_are_left_out(file, tmp_path):
    config = EfficientNetConfig(0, blocks=(7, 10), fine_blocks=(4,))
    shapes = backbone_template(config).shapes
    convert([file], tmp_path / "out.safetensors")
    for path in (file, tmp_path / "out.safetensors"):
        assert read_frozen(path, config).backbone.keys() == shapes.keys()
    head = head_template(dataclasses.replace(official.MODEL, backbone=config))
    params = {name: np.zeros(spec.shape, np.float32) for name, spec in head.shapes.items()}
    model = dataclasses.replace(official.MODEL, backbone=config)
    write_weights(tmp_path / "head.safetensors", Weights(model=model, head=params))
    report = convert([file, tmp_path / "head.safetensors"], tmp_path / "joined.safetensors")
    assert read_weights(tmp_path / "joined.safetensors").backbone_config == config
    assert "_blocks.11._bn0.weight" in report.left_out


def test_other_weights_are_refused_in_a_sentence(tensors, file, tmp_path):
    with pytest.raises(
        ConvertError, match=r"lite0\.pth holds an EfficientNet, and the backbone of the model"
    ):
        read_frozen(file, ViTConfig())
    save_file(official.backbone(), tmp_path / "vit.safetensors")
    with pytest.raises(ConvertError, match=r"vit\.safetensors holds a ViT, and the backbone of the model"):
        read_frozen(tmp_path / "vit.safetensors", LITE0)
    for changes, error, message in (
        ({"_blocks.3._se_reduce.weight": np.ones((1, 1, 1, 1))}, FormatError, "only Lite is supported"),
        (
            {"_blocks.16._project_conv.weight": np.ones((320, 1, 1, 1))},
            FormatError,
            "of no EfficientNet-Lite",
        ),
        ({"_blocks.3._depthwise_conv.weight": np.ones((144, 5, 5))}, ParamsError, r"_blocks\.3\._depthwise"),
        ({"_blocks.3.more": np.ones(2)}, ParamsError, r"unknown: _blocks\.3\.more"),
    ):
        save_file(tensors | changes, tmp_path / "changed.safetensors")
        with pytest.raises(error, match=message):
            convert([tmp_path / "changed.safetensors"], tmp_path / "out.safetensors")
