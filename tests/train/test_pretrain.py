"""Test the losses of the pretraining, and that it resumes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from segic_jax.config import HeadConfig, ModelConfig, PretrainConfig, ViTConfig
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.models.backbones import backbone_template
from segic_jax.train import pretrain
from segic_jax.train.mixed_precision import mixed_precision
from segic_jax.weights.convert import read_frozen

pytestmark = pytest.mark.usefixtures("quick_compilation")
MODEL = ModelConfig(
    backbone=ViTConfig(patch_size=8, width=16, depth=1, num_heads=2, pos_grid=4),
    head=HeadConfig(width=16, num_heads=2),
    canvas=32,
)
SETTINGS = PretrainConfig(
    steps=4, group_scenes=4, group_classes=6, patches=9, log_every=2, checkpoint_every=2, warmup_steps=1
)


def make_group():
    return pretrain.scene_group(np.random.default_rng(0), SpriteBank.load("base"), SETTINGS, MODEL.canvas)


def test_a_group_names_the_class_of_every_object():
    scenes = make_group()
    assert scenes["images"].shape == (4, 32, 32, 3)
    for labels, classes in zip(scenes["labels"], scenes["classes"], strict=True):
        objects = np.unique(labels[labels > 0])
        assert (classes[objects - 1] >= 0).all()
    assert len(np.unique(scenes["classes"][scenes["classes"] >= 0])) <= SETTINGS.group_classes


def test_steps_read_a_sample_of_patches_and_the_last_steps_read_all():
    groups = pretrain.SceneGroups(SpriteBank.load("base"), replace(SETTINGS, full_share=0.5), MODEL)
    assert ["patches" in groups(number) for number in range(4)] == [True, True, False, False]
    scenes = groups(0)
    inside = (scenes["labels"] > 0).reshape(4, 4, 8, 4, 8).mean((2, 4)).reshape(4, 16) >= 0.5
    for patches in scenes["patches"]:
        assert len(set(patches.tolist())) == 9
    sampled = np.take_along_axis(inside, scenes["patches"], axis=1)
    assert sampled.mean() > inside.mean()

    # A patch that is not sampled has no influence.
    params, extra = backbone_template(MODEL.backbone).init(0), pretrain.init_extra(MODEL, 497, 0)
    images, labels = (scenes[name].copy() for name in ("images", "labels"))
    hidden = next(patch for patch in range(16) if patch not in scenes["patches"][0])
    rows, columns = (slice(8 * index, 8 * index + 8) for index in divmod(hidden, 4))
    images[0, rows, columns], labels[0, rows, columns] = 0, 0
    loss = jax.jit(lambda group: pretrain.pretrain_loss(MODEL, SETTINGS, params, extra, **group)[0])
    assert loss(scenes) == loss(scenes | {"images": images, "labels": labels})


def test_mixed_precision_changes_gradients_little():
    """Compare gradients of the backbone at a size where products are in bfloat16."""
    vit = replace(MODEL.backbone, width=64)
    model = replace(MODEL, backbone=vit)
    params, extra = backbone_template(vit).init(0), pretrain.init_extra(model, 497, 0)

    def gradient(params, scenes):
        return jax.grad(lambda p: pretrain.pretrain_loss(model, SETTINGS, p, extra, **scenes)[0])(params)

    full, mixed = (
        jax.jit(function)(params, make_group()) for function in (gradient, mixed_precision(gradient))
    )
    for name, value in full.items():
        assert np.linalg.norm(mixed[name] - value) < 0.03 * np.linalg.norm(value) + 1e-6, name
    assert any((mixed[name] != value).any() for name, value in full.items())


def test_features_that_identify_the_class_have_almost_no_loss():
    """Give each class, and the background, a feature along its own axis."""
    classes = jnp.array([[0, 1], [1, 0], [0, 2]])
    share = jnp.zeros((3, 6, 3)).at[:, :2, 0].set(1).at[:, 2:4, 1].set(1).at[:, 4:, 2].set(1)
    axes = jnp.eye(4)
    patch_class = jnp.concatenate([jnp.full((3, 2), 3), jnp.repeat(classes, 2, axis=1)], axis=1)
    tokens = axes[patch_class]
    extra = {"match_scale": jnp.array(40.0), "match_level": jnp.array(0.5)}
    weight = jnp.full((3, 6), 1 / 18)
    correct = pretrain.matching_loss(tokens, tokens, share, classes, weight, extra)
    swapped = pretrain.matching_loss(tokens[:, ::-1], tokens[:, ::-1], share, classes, weight, extra)
    assert correct < 1e-3 < 1 < swapped

    extra = {"class_vectors": axes, "class_scale": jnp.array(40.0)}
    correct = pretrain._class_loss(tokens, share, classes, weight, extra)
    swapped = pretrain._class_loss(tokens[:, ::-1], share, classes, weight, extra)
    assert correct < 1e-3 < 1 < swapped


def test_gradients_are_finite_even_without_any_object():
    scenes = make_group()
    scenes["classes"][:] = -1
    scenes["labels"][:] = 0
    params = backbone_template(MODEL.backbone).init(0)
    extra = pretrain.init_extra(MODEL, 497, 0)
    gradients = jax.grad(
        lambda p, e: pretrain.pretrain_loss(MODEL, SETTINGS, p, e, **scenes)[0], argnums=(0, 1)
    )(params, extra)
    assert all(np.isfinite(value).all() for value in jax.tree.leaves(gradients))


def test_a_stopped_pretraining_resumes_bit_by_bit(tmp_path, monkeypatch, capsys):
    file = pretrain.pretrained(SETTINGS, MODEL, tmp_path / "straight")
    uninterrupted = load_file(file)
    backbone = read_frozen(file, MODEL.backbone).backbone  # as the training of the head does
    assert all(np.array_equal(backbone[name], uninterrupted[f"backbone/{name}"]) for name in backbone)

    stop_requests = iter([False, False, True])
    monkeypatch.setattr(pretrain.distributed.StopRequest, "reached", lambda self, step: next(stop_requests))
    assert pretrain.pretrained(SETTINGS, MODEL, tmp_path / "stopped") is None
    assert "Stopped and saved after pretraining step" in capsys.readouterr().out
    monkeypatch.undo()
    resumed = load_file(pretrain.pretrained(SETTINGS, MODEL, tmp_path / "stopped"))
    assert uninterrupted.keys() == resumed.keys()
    assert all(np.array_equal(uninterrupted[name], resumed[name]) for name in uninterrupted)
