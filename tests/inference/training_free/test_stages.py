"""Test the stages of the training-free method on small arrays, against plain readings of what they do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segic_jax.config import DinoV3Config, EfficientNetConfig, ViTConfig
from segic_jax.inference.training_free.candidates import backward_gate, forward_gate, nearest_patches
from segic_jax.inference.training_free.clusters import cluster_labels, distances
from segic_jax.inference.training_free.debias import debias, positional_basis
from segic_jax.inference.training_free.merging import describe_clusters, merge_clusters
from segic_jax.inference.training_free.reference import mask_on_grid
from segic_jax.inference.training_free.settings import TrainingFree


def unit(shape, seed=0):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_the_basis_is_that_of_the_singular_values():
    blank = np.random.default_rng(0).normal(size=(8, 8, 12)).astype(np.float32) * np.linspace(3, 0.1, 12)
    basis = positional_basis(blank.astype(np.float32), 4)
    flat = blank.reshape(64, 12) / np.linalg.norm(blank.reshape(64, 12), axis=1, keepdims=True)
    left = np.linalg.svd((flat - flat.mean(0)).T, full_matrices=False)[0][:, :4]
    np.testing.assert_allclose(basis @ basis.T, left @ left.T, atol=1e-5)
    debiased = np.asarray(debias(unit((5, 12)), basis))
    np.testing.assert_allclose(debiased @ basis, 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(debiased, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(debias(jnp.asarray(unit((5, 12))), basis[:, :0]), unit((5, 12)))


def test_clusters_are_those_of_repeated_merging():
    """Merge the closest pair of clusters by mean distance, again and again, until none is close enough."""
    features = unit((40, 3), 1)
    distance = np.asarray(distances(features))
    labels = cluster_labels(distance, np.ones(40, bool), 0.6)
    groups = [[i] for i in range(40)]
    while len(groups) > 1:
        means = {
            (a, b): distance[np.ix_(groups[a], groups[b])].mean()
            for a in range(len(groups))
            for b in range(a + 1, len(groups))
        }
        (a, b), closest = min(means.items(), key=lambda item: item[1])
        if closest >= 0.4:
            break
        groups[a] += groups.pop(b)
    assert len(groups) == labels.max() + 1 > 3
    assert all(len(set(labels[group])) == 1 for group in groups)


def test_patches_of_the_padding_are_in_no_cluster():
    features = unit((12, 3), 2)
    on_image = np.arange(12) < 8
    labels = cluster_labels(np.asarray(distances(features)), on_image, 0.6)
    part = cluster_labels(np.asarray(distances(features[:8])), np.ones(8, bool), 0.6)
    np.testing.assert_array_equal(labels[:8], part)
    clusters = describe_clusters(features, features, jnp.asarray(labels), jnp.asarray(on_image))
    assert clusters.size.sum() == 8
    assert cluster_labels(np.zeros((1, 1), np.float32), np.ones(1, bool), 0.6).tolist() == [0]


def test_candidates_match_in_both_directions():
    similarity = jnp.array([[0.3, -0.1, 0.2, 0.9], [-0.5, -0.2, -0.3, 0.4]])
    on_image = jnp.array([True, True, True, False])
    gate = np.asarray(forward_gate(similarity, on_image))
    np.testing.assert_array_equal(gate, [[1, 0, 1, 0], [0, 1, 0, 0]])  # none above 0: the highest tenth
    reference = unit((6, 4), 3)
    target = reference[[4, 0, 5, 2]]
    nearest = np.asarray(nearest_patches(jnp.asarray(reference), jnp.asarray(target)))
    assert nearest.tolist() == [4, 0, 5, 2]
    inside = np.array([[0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 1, 0], [1, 0, 0, 0, 1, 0]], bool)
    votes = backward_gate([nearest, nearest], inside, np.array([0, 1, 1], np.int32))
    assert votes.tolist() == [True, False, False, False]  # 3, 1, 1 and 1 of three votes
    assert backward_gate([nearest], inside[:2], np.zeros(2, np.int32)).tolist() == [True, False, True, True]


@pytest.mark.parametrize("least", [0.0, 0.2, 0.9])
def test_clusters_are_scored_one_by_one(least):
    """Compare with loops over clusters and concepts."""
    patches, channels = 30, 5
    features, debiased = unit((patches, channels), 4), unit((patches, channels), 5)
    random = np.random.default_rng(6)
    labels, on_image = random.integers(0, 4, patches), random.uniform(size=patches) < 0.9
    prototypes, candidates = unit((2, channels), 7), random.uniform(size=(2, patches)) < 0.3
    candidates &= on_image
    candidates[1] = False
    similarity = prototypes @ debiased.T
    arguments = (jnp.asarray(x) for x in (features, debiased, labels.astype(np.int32), on_image))
    clusters = describe_clusters(*arguments)
    merged = jax.jit(merge_clusters, static_argnums=4)(clusters, prototypes, similarity, candidates, least)

    def mean(values, label):
        total = values[(labels == label) & on_image].mean(0)
        return total / np.linalg.norm(total)

    found = [label for label in range(4) if candidates[0][labels == label].any()]
    seed = max(found, key=lambda label: prototypes[0] @ mean(debiased, label))
    for label in range(4):
        members = (labels == label) & on_image
        share = 1 if label == seed else candidates[0][members].mean()
        score = similarity[0][members].mean() * (mean(features, seed) @ mean(features, label)) * share
        np.testing.assert_allclose(merged.score[0][members], score, atol=1e-6)
        assert (np.asarray(merged.inside[0][members]) == (score > least)).all()
    assert not np.asarray(merged.inside)[:, ~on_image].any()
    assert not np.asarray(merged.inside[1]).any()  # without candidates there is no mask
    assert merged.confidence[1] == 0


def test_a_mask_fills_a_patch_at_least():
    mask = np.zeros((32, 32), bool)
    assert not mask_on_grid(mask, 4).any()
    mask[9:15, 9:15] = True
    assert np.argwhere(mask_on_grid(mask, 4)).tolist() == [[1, 1]]
    mask[:] = False
    mask[8, 16] = True  # the first pixel of a patch
    assert np.argwhere(mask_on_grid(mask, 4)).tolist() == [[1, 2]]
    mask[:] = False
    mask[30, 9] = True
    assert np.argwhere(mask_on_grid(mask, 4)).tolist() == [[3, 1]]


def test_components_leave_something_of_every_backbone():
    published = TrainingFree()
    for size in ("b", "l", "h+"):
        assert TrainingFree.for_backbone(DinoV3Config.dinov3(size)) == published
    assert TrainingFree.for_backbone(DinoV3Config.dinov3("s")).components == 187
    narrow = ViTConfig(width=160, depth=6, num_heads=2)
    for backbone in (ViTConfig.dinov2("s"), EfficientNetConfig(), narrow):
        assert TrainingFree.for_backbone(backbone).components < backbone.width
