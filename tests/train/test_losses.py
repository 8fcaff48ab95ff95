import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segic_jax.train import losses

VALID = np.ones((1, 4), bool)


@pytest.fixture
def case(golden):
    g = golden("loss_masks")
    return g, jnp.asarray(g["in.logits"][None, :, 0]), jnp.asarray(g["in.targets"][None, :, 0])


def test_losses_and_gradients_at_given_points(case):
    g, logits, targets = case
    coords = g["in.point_coords"][None]
    values = losses.mask_losses(logits, targets, coords, VALID)
    np.testing.assert_allclose(values, [g["out.loss_mask"], g["out.loss_dice"]], atol=1e-6)
    np.testing.assert_allclose(losses.point_sample(logits, coords)[0], g["mid.point_logits"], atol=1e-5)
    np.testing.assert_allclose(losses.point_sample(targets, coords)[0], g["mid.point_labels"], atol=1e-5)
    for index, name in enumerate(["mask", "dice"]):
        gradient = jax.grad(lambda x, i=index: losses.mask_losses(x, targets, coords, VALID)[i])(logits)
        expected = g[f"out.grad_loss_{name}"][:, 0]
        np.testing.assert_allclose(gradient[0], expected, atol=1e-5 * np.abs(expected).max())


def test_points_are_sampled_at_uncertain_logits(case):
    g, logits, targets = case
    coords = losses.sample_points(
        logits, g["in.uniform_oversampled"][None], g["in.uniform_random"][None], 9408
    )
    np.testing.assert_array_equal(
        sort_points(coords[0, :, :9408]), sort_points(g["out.sampled_coords"][:, :9408])
    )
    np.testing.assert_array_equal(coords[0, :, 9408:], g["out.sampled_coords"][:, 9408:])
    values = losses.mask_losses(logits, targets, coords, VALID)
    np.testing.assert_allclose(values, [g["out.sampled_loss_mask"], g["out.sampled_loss_dice"]], atol=1e-6)


def test_sampled_points_are_the_most_uncertain(case):
    g, logits, _ = case
    uniform = g["in.small_uniform_oversampled"][None]
    np.testing.assert_allclose(
        -np.abs(losses.point_sample(logits, uniform))[0], g["mid.small_uncertainty"], atol=1e-5
    )
    coords = losses.sample_points(logits, uniform, g["in.small_uniform_random"][None], 48)
    np.testing.assert_array_equal(sort_points(coords[0]), sort_points(g["out.small_coords"]))


def test_points_on_the_border_are_sampled_with_zero_padding(case):
    g, logits, _ = case
    values = losses.point_sample(logits, g["in.border_coords"][None])
    np.testing.assert_allclose(values[0], g["out.border_samples"][:, 0], atol=1e-5)


def test_drawn_points_have_the_official_counts():
    draws = losses.draw_points(jax.random.key(0), jnp.arange(2), 3)
    assert draws.oversampled.shape == (2, 2, 3, 37632, 2)
    assert draws.uniform.shape == (2, 2, 3, 3136, 2)
    assert draws.num_uncertain == 9408
    assert not np.array_equal(draws.oversampled[:, 0], draws.oversampled[:, 1])
    of_part = losses.draw_points(jax.random.key(0), jnp.array([1]), 3)  # the same in any part of the batch
    np.testing.assert_array_equal(of_part.uniform[0], draws.uniform[1])


def test_invalid_masks_have_no_influence(case):
    g, logits, targets = case
    coords = g["in.point_coords"][None]
    valid_only = losses.mask_losses(logits[:, :2], targets[:, :2], coords[:, :2], VALID[:, :2])
    padded = losses.mask_losses(
        logits.at[:, 2:].set(jnp.inf), targets, coords, np.array([[True, True, False, False]])
    )
    np.testing.assert_allclose(valid_only, padded, rtol=1e-6)


def test_a_batch_without_masks_has_zero_loss_and_gradient(case):
    g, logits, targets = case

    def total(x):
        return sum(losses.mask_losses(x, targets, g["in.point_coords"][None], ~VALID))

    value, gradient = jax.value_and_grad(total)(logits)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def sort_points(coords):
    """Sort the points of each mask."""
    return np.stack([rows[np.lexsort(rows.T)] for rows in np.asarray(coords)])
