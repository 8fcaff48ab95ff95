"""Test that official state dicts are renamed to our names and back without loss."""

import numpy as np
import pytest

from segic_jax.config import ModelConfig, TextConfig, ViTConfig
from segic_jax.errors import ParamsError
from segic_jax.models.backbones import backbone_template
from segic_jax.models.clip_text import ClipText
from segic_jax.models.head import head_template
from segic_jax.models.params import Template
from segic_jax.weights.torch_names import from_torch, split_segic, to_torch, torch_shapes

CONFIG = ModelConfig(backbone=ViTConfig(width=48, depth=3, num_heads=4), text_width=32, canvas=112)
TEXT = TextConfig(vocab_size=512, width=32, mlp_width=64, depth=2, num_heads=4, eos_id=511)


@pytest.fixture(scope="module")
def official(golden_weights):
    return golden_weights("segic")


def templates():
    text = Template(lambda rngs: ClipText(TEXT, rngs=rngs))
    return backbone_template(CONFIG.backbone), text, head_template(CONFIG)


def test_round_trip_of_a_complete_state_dict(official):
    prefixes = ("encoder.dinov2.", "encoder.text_model.text_model.", "")
    round_trip = {}
    for tensors, template, prefix in zip(split_segic(official), templates(), prefixes, strict=True):
        round_trip |= to_torch(from_torch(tensors, template.shapes), prefix)
    assert set(official) - set(round_trip) == {"encoder.dinov2.mask_token", "pixel_mean", "pixel_std"}
    assert set(round_trip) <= set(official)
    for name, tensor in round_trip.items():
        np.testing.assert_array_equal(tensor, official[name], err_msg=name)


def test_renaming_copies_nothing_and_maps_shapes(official):
    """Check that both directions give views, and that shapes are mapped like arrays."""
    tensors, shapes = split_segic(official).head, templates()[2].shapes
    back = to_torch(from_torch(tensors, shapes))
    assert all(np.shares_memory(back[name], tensors[name]) for name in tensors)
    assert {name: spec.shape for name, spec in torch_shapes(shapes).items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }


def test_the_trained_part_is_split_without_encoders(official):
    """Split what the official training saves: 148 tensors without encoders."""
    head = split_segic(official).head
    assert len(head) == 148
    parts = split_segic(to_torch(from_torch(head, templates()[2].shapes)))
    assert not parts.backbone
    assert not parts.text
    assert set(parts.head) == set(head)


def test_missing_unknown_and_wrong_tensors_are_named(official):
    head = dict(split_segic(official).head)
    shapes = templates()[2].shapes
    head["neck.0.weights"] = head.pop("neck.0.weight")
    head["prompt_proj.bias"] = head["prompt_proj.bias"][:-1]
    with pytest.raises(ParamsError) as error:
        from_torch(head, shapes, what="tensors of a.pth")
    for part in ("tensors of a.pth", "neck/0/kernel", "neck.0.weights", "prompt_proj/bias (255,)"):
        assert part in str(error.value)


def test_a_kernel_of_another_layout_is_refused(official):
    head = dict(split_segic(official).head)
    head["inst_proj.weight"] = head["inst_proj.weight"].reshape(-1)
    with pytest.raises(ParamsError, match=r"inst_proj\.weight has 1 dimensions"):
        from_torch(head, templates()[2].shapes)
