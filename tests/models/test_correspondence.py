import jax.numpy as jnp
import numpy as np
import pytest

from segic_jax.models import correspondence
from segic_jax.models.layers import bilinear, l2_normalise

CASES = ["segic_infer_semantic", "segic_infer_instances", "segic_infer_empty_reference"]


def channels_last(array):
    """Return an NCHW array as NHWC."""
    return np.moveaxis(array, 1, -1)


@pytest.mark.parametrize("name", CASES)
def test_maps_and_points_equal_the_inference_goldens(golden, name):
    g = golden(name)
    target, reference = channels_last(g["mid.image_embeddings"])
    pooled = correspondence.pool(reference[None], g["in.label_dual"] / 255 > 0.5)
    np.testing.assert_allclose(pooled, g["mid.inst_feat"], atol=1e-5)
    similarity = correspondence.cosine_map(target[None], pooled[None], 112)
    np.testing.assert_allclose(similarity[0], g["mid.mask_input"][:, 0], atol=1e-5)
    points = correspondence.best_point(similarity)
    np.testing.assert_array_equal(points[0], g["mid.point_coords"][:, 0])


def test_soft_masks_are_pooled_without_binarising(golden):
    g = golden("segic_semseg")
    features = channels_last(g["mid.ref_image_embeddings"])
    pooled = correspondence.pool(features, g["in.ref_label"] / 255)
    np.testing.assert_allclose(pooled, g["out.inst_feats"][:, 0], atol=1e-5)


@pytest.mark.parametrize(("direction", "context"), [("fwd", slice(3, 6)), ("rev", slice(0, 3))])
def test_maps_and_points_equal_the_training_goldens(golden, direction, context):
    g = golden("segic_train_ragged")
    features = channels_last(g["mid.image_embeddings"])
    target = features[{"fwd": slice(0, 3), "rev": slice(3, 6)}[direction]]
    owner = np.repeat(np.arange(3), g["in.counts"])
    masks = g[f"mid.{direction}.context_mask"][:, 0].astype(bool)
    pooled = correspondence.pool(features[context][owner], masks)
    np.testing.assert_allclose(pooled, g[f"mid.{direction}.inst_feat"], atol=1e-5)
    similarity = correspondence.cosine_map(target[owner], pooled[:, None], 112)
    expected = bilinear(channels_last(g[f"mid.{direction}.sim"]), (112, 112))[..., 0]
    np.testing.assert_allclose(similarity[:, 0], expected, atol=1e-5)
    points = correspondence.best_point(similarity)
    np.testing.assert_array_equal(points, g[f"mid.{direction}.point_prompt"])
    boxes = correspondence.mask_boxes(jnp.asarray(g[f"mid.{direction}.target"][:, 0], bool))
    for image in range(3):
        if f"mid.{direction}.boxes.{image}" in g:
            np.testing.assert_array_equal(boxes[owner == image], g[f"mid.{direction}.boxes.{image}"])


@pytest.mark.parametrize(("grid", "canvas"), [(8, 112), (5, 70), (16, 128), (9, 18)])
def test_cosine_map_equals_the_map_of_enlarged_features(grid, canvas):
    rng = np.random.default_rng(grid)
    features = jnp.asarray(rng.normal(size=(2, grid, grid, 7)), jnp.float32)
    features = features.at[0, :2].set(0)  # an area without any feature, and neighbours that cancel
    features = features.at[1, 2, 2].set(-features[1, 2, 3] * 0.9)
    pooled = jnp.asarray(rng.normal(size=(2, 3, 7)), jnp.float32).at[1, 1].set(0)
    large = l2_normalise(bilinear(features, (canvas // 4, canvas // 4)), 1e-8)
    small = jnp.einsum("byxc,bkc->byxk", large, l2_normalise(pooled, 1e-8))
    expected = jnp.moveaxis(bilinear(small, (canvas, canvas)), -1, 1)
    np.testing.assert_allclose(correspondence.cosine_map(features, pooled, canvas), expected, atol=2e-5)


def test_best_point_takes_the_first_of_equal_maxima():
    maps = np.zeros((2, 4, 4), np.float32)
    maps[1, 2, 3] = maps[1, 3, 0] = 1
    np.testing.assert_array_equal(correspondence.best_point(jnp.asarray(maps)), [[0, 0], [3, 2]])


def test_boxes_and_features_of_empty_masks_are_zero():
    empty = jnp.zeros((1, 8, 8), bool)
    np.testing.assert_array_equal(correspondence.mask_boxes(empty), [[0, 0, 0, 0]])
    single_pixel = empty.at[0, 2, 5].set(True)
    np.testing.assert_array_equal(correspondence.mask_boxes(single_pixel), [[5, 2, 5, 2]])
    np.testing.assert_array_equal(correspondence.pool(jnp.ones((1, 2, 2, 3)), single_pixel), [[0, 0, 0]])


def test_best_point_on_a_border_does_not_depend_on_rounding():
    """Put the highest value at the left border, where the upsampled map repeats it."""
    rng = np.random.default_rng(0)
    values = rng.random((4, 4)).astype(np.float32) * 0.5
    values[2, 0] = 0.9
    enlarged = np.asarray(correspondence.upsample_maps(jnp.asarray(values[None]), 56))[0]
    expected = correspondence.best_point(jnp.asarray(enlarged))
    assert expected[0] == 0
    for seed in range(20):
        noise = np.random.default_rng(seed).uniform(-1.2e-7, 1.2e-7, enlarged.shape).astype(np.float32)
        np.testing.assert_array_equal(correspondence.best_point(jnp.asarray(enlarged + noise)), expected)
