from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import parameters

from segic_jax.config import HeadConfig, ModelConfig, ViTConfig
from segic_jax.models.features import Features
from segic_jax.models.head import head_template
from segic_jax.train import forward, losses
from segic_jax.train.optim import trainable_names
from segic_jax.weights.torch_names import from_torch, split_segic, to_torch

TINY = ModelConfig(backbone=ViTConfig(width=48, depth=3, num_heads=4), text_width=32, canvas=112)


def loss_of(config, head, target, reference, batch, table, points, negatives=None, **weights):
    """Return the loss and its parts, computed from features."""
    batch = {**batch, "target_features": Features(target), "reference_features": Features(reference)}
    passes = forward.train_forward(config, head, batch, table, negatives)
    return losses.train_loss(passes, batch, points, negatives=negatives, **weights)


def slots(rows, counts, largest):
    """Reshape [masks of all images, ...] to [images, largest, ...], with zeros in unused slots."""
    out = np.zeros((len(counts), largest, *rows.shape[1:]), rows.dtype)
    for image, part in enumerate(np.split(rows, np.cumsum(counts)[:-1])):
        out[image, : len(part)] = part
    return out


@pytest.fixture(scope="module")
def step(golden, golden_weights):
    """Return the golden training step: three images with 1, 3 and 2 masks, in 3 slots."""
    g = golden("segic_train_ragged")
    counts = g["in.counts"]
    head = from_torch(split_segic(golden_weights("segic")).head, head_template(TINY).shapes)
    features = np.moveaxis(g["mid.image_embeddings"], 1, -1)
    batch = {
        "target_masks": slots(g["in.label"] / 255 > 0.5, counts, 3),
        "reference_masks": slots(g["in.label_dual"] / 255 > 0.5, counts, 3),
        "valid": np.arange(3) < counts[:, None],
        "target_prompt": np.arange(3),
        "reference_prompt": np.arange(3, 6),
        "use_box": np.stack([g["in.fwd.use_box"], g["in.rev.use_box"]], axis=1),
        "use_cross": np.stack([g["in.fwd.use_cross"], g["in.rev.use_cross"]], axis=1),
    }
    coords = np.stack(
        [slots(g[f"mid.{direction}.loss_point_coords"], counts, 3) for direction in ("fwd", "rev")], axis=1
    )
    return g, head, (features[:3], features[3:], batch, g["mid.text_features"]), coords


def test_logits_of_both_passes(step):
    g, head, (target, reference, batch, table), _ = step
    inputs = {**batch, "target_features": Features(target), "reference_features": Features(reference)}
    passes = jax.jit(forward.train_forward, static_argnums=0)(TINY, head, inputs, table)
    for name, result in zip(("fwd", "rev"), passes, strict=True):
        logits = result.decoded.logits
        expected = g[f"mid.{name}.low_res_masks"][:, 0]
        np.testing.assert_allclose(logits[batch["valid"]], expected, atol=1e-4)


def test_losses_and_every_gradient(step, golden_gradients):
    g, head, inputs, coords = step

    loss = partial(loss_of, TINY)
    (total, parts), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(head, *inputs, coords)
    assert abs(total - g["out.loss"]) <= 1e-6
    for name, part in parts.items():
        assert abs(part - g["out." + name]) <= 1e-6, name

    trained = trainable_names(head)
    expected = golden_gradients("segic_train_ragged")
    gradients = {name: (value, to_torch({name: value})) for name, value in gradients.items()}
    assert {key for name in trained for key in gradients[name][1]} == set(expected)
    for name, (value, official) in gradients.items():
        if name not in trained:
            assert "pe_layer" in name or not np.any(value), name
        elif name.endswith("k_proj/bias"):  # zero in exact arithmetic: a softmax ignores a common shift
            assert np.abs(value).max() <= 1e-7, name
        else:
            ((key, gradient),) = official.items()
            assert expected[key].error(gradient) <= 1e-5, name


@pytest.fixture(scope="module")
def small():
    """Return the loss of a small random head, and a batch of three pairs with up to three concepts."""
    config = ModelConfig(
        backbone=ViTConfig(patch_size=8, width=32, depth=1, num_heads=2, pos_grid=4),
        head=HeadConfig(width=32, num_heads=2, mlp_width=64, iou_width=32, mask_channels=8),
        text_width=16,
        canvas=64,
    )
    rng = np.random.default_rng(0)
    batch = {
        "target_masks": rng.random((3, 3, 64, 64)) > 0.3,
        "reference_masks": rng.random((3, 3, 64, 64)) > 0.3,
        "valid": np.array([[True, True, False], [True, True, True], [False, False, False]]),
        "target_prompt": np.array([0, 1, 0]),
        "reference_prompt": np.array([1, 1, 0]),
        "use_box": np.array([[True, False], [False, True], [True, True]]),
        "use_cross": np.array([[True, False], [True, True], [False, True]]),
    }
    features = rng.normal(size=(2, 3, 8, 8, 32)).astype(np.float32)
    features[:, 2] = 0
    head = parameters(head_template(config), 0)
    table = jnp.asarray(rng.normal(size=(2, 16)), jnp.float32)

    @jax.jit
    def loss_and_gradients(features, batch, points):
        def loss(head):
            return loss_of(config, head, features[0], features[1], batch, table, points)[0]

        return jax.value_and_grad(loss)(head)

    def run(*inputs):
        return loss_and_gradients(*inputs)

    run.config, run.head, run.table = config, head, table
    return run, features, batch


def test_invalid_concepts_and_images_have_no_influence(small):
    run, features, batch = small
    points = losses.draw_points(jax.random.key(0), jnp.arange(3), 3, num_points=64)
    other = dict(batch)
    for name in ("target_masks", "reference_masks"):
        other[name] = np.where(batch["valid"][..., None, None], batch[name], False)
    garbage = features.copy()
    garbage[:, 2] = 5
    expected, expected_gradients = run(features, batch, points)
    loss, gradients = run(garbage, other, points)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name, value in gradients.items():
        np.testing.assert_allclose(value, expected_gradients[name], atol=1e-5, err_msg=name)

    # Single images contribute their share: 2 and 3 masks of 5.
    first, second = (
        run(features, {**batch, "valid": batch["valid"] & (np.arange(3) == i)[:, None]}, points)[0]
        for i in (0, 1)
    )
    np.testing.assert_allclose((2 * first + 3 * second) / 5, expected, rtol=1e-5)


def test_a_batch_without_valid_masks_has_zero_loss_and_finite_gradients(small):
    run, features, batch = small
    empty_batch = {
        **batch,
        "valid": np.zeros((3, 3), bool),
        "target_masks": np.zeros((3, 3, 64, 64), bool),
        "reference_masks": np.zeros((3, 3, 64, 64), bool),
    }
    points = losses.draw_points(jax.random.key(0), jnp.arange(3), 3, num_points=64)
    loss, gradients = run(np.zeros_like(features), empty_batch, points)
    assert loss == 0
    for name, value in gradients.items():
        assert np.isfinite(value).all(), name


def test_drawn_points_depend_on_the_key(small):
    run, features, batch = small
    first, repeated, other = (
        run(features, batch, losses.draw_points(jax.random.key(seed), jnp.arange(3), 3, num_points=64))[0]
        for seed in (0, 0, 1)
    )
    assert first == repeated
    assert first != other
    assert jnp.isfinite(first)


def test_negative_prompts_contribute_with_their_weight(small):
    """Give the third image, which has no masks, negative prompts, and derive their share of the loss."""
    run, features, batch = small
    config, head, table = run.config, run.head, run.table
    points = losses.draw_points(jax.random.key(0), jnp.arange(3), 3, num_points=64)
    valid = np.zeros((3, 2, 3), bool)
    valid[2, :, 1:] = True
    negatives = forward.NegativeBatch(valid, np.ones((3, 2, 3, 32), np.float32), np.ones((3, 2, 3), int))
    batch = batch | {
        name: np.where(batch["valid"][..., None, None], batch[name], False)
        for name in ("target_masks", "reference_masks")
    }

    def parts(negatives, weight):
        return loss_of(
            config, head, *features, batch, table, points, negatives=negatives, negative_weight=weight
        )[1]

    without, heavy, light = parts(None, 0.1), parts(negatives, 1.0), parts(negatives, 0.1)
    for name, positive in without.items():
        # (5 positive + 2 negative) / 7 with weight 1, (5 positive + 0.2 negative) / 5.2 with weight 0.1.
        negative = (7 * heavy[name] - 5 * positive) / 2
        np.testing.assert_allclose(light[name], (5 * positive + 0.2 * negative) / 5.2, rtol=1e-5)
    assert set(light) - set(without) == {"loss_score", "loss_score_reverse"}
