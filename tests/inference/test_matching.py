"""Compare the matching of patches with plain loops."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CONFIG, bundle

from segic_jax.inference.context import Concept, concept_slots
from segic_jax.inference.engine import Engine, ImageFeatures
from segic_jax.inference.matching import INSIDE, OUTSIDE, patches_on_image, pool_reference
from segic_jax.models.features import Features

GRID, CHANNELS = CONFIG.grid, CONFIG.backbone.width


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def concept(random, inside: int, outside: int) -> Concept:
    count = inside + outside
    return Concept(
        name="a",
        visual=random.normal(size=(2, CHANNELS)).astype(np.float32),
        text=np.zeros(CONFIG.text_width, np.float32),
        patches=unit(random.normal(size=(count, CHANNELS))).astype(np.float16),
        kind=np.array([INSIDE] * inside + [OUTSIDE] * outside, np.uint8),
        place=np.zeros((count, 3), np.int32),
    )


def test_matches_equal_loops_over_patches():
    random = np.random.default_rng(0)
    concepts = [concept(random, 20, 9), concept(random, 3, 0)]
    features = random.normal(size=(1, GRID, GRID, CHANNELS)).astype(np.float32)
    sizes = np.array([[40, 64]], np.int32)
    runner = Engine(bundle())
    images = ImageFeatures(*runner.place((Features(features), sizes)))
    (matches,) = runner.match_concepts(images, concept_slots(concepts))
    target = unit(features[0]).reshape(-1, CHANNELS)
    on_image = patches_on_image(sizes[0], CONFIG.canvas, GRID).reshape(-1)
    assert on_image.sum() == 5 * 8
    for row, reference in enumerate(concepts):
        cosine = reference.patches.astype(np.float32) @ target.T
        for kind in (INSIDE, OUTSIDE):
            rows = cosine[reference.kind == kind]
            best = rows.max(0) if len(rows) else np.full(GRID * GRID, -1)
            np.testing.assert_allclose(matches.matched[0, row, kind].reshape(-1), best, atol=1e-5)
        mutual = 0
        for patch in np.flatnonzero(reference.kind == INSIDE):
            nearest = max(np.flatnonzero(on_image), key=lambda i, patch=patch: cosine[patch, i])
            mutual += cosine[patch, nearest] >= cosine[:, nearest].max()
        assert matches.mutual[0, row] == pytest.approx(mutual / (reference.kind == INSIDE).sum())
    (patches,) = runner.match_patches(images, concept_slots(concepts))
    inside = concepts[0].patches[concepts[0].kind == INSIDE].astype(np.float32) @ target.T
    np.testing.assert_array_equal(np.asarray(patches.index)[0].reshape(-1), inside.argmax(0))
    np.testing.assert_allclose(np.asarray(patches.best)[0].reshape(-1), inside.max(0), atol=1e-5)


def test_a_reference_is_pooled_inside_its_mask():
    random = np.random.default_rng(1)
    features = random.normal(size=(GRID, GRID, CHANNELS)).astype(np.float32)
    mask = np.zeros((CONFIG.canvas, CONFIG.canvas), bool)
    mask[8:24, 16:48] = True  # patches of 8 pixels
    pooled = pool_reference(jnp.asarray(features), jnp.asarray(mask), jnp.asarray([40, 64]))
    assert np.array_equal(np.argwhere(pooled.inside), [(y, x) for y in (1, 2) for x in range(2, 6)])
    np.testing.assert_allclose(pooled.visual, features[1:3, 2:6].mean((0, 1)), atol=1e-6)
    assert np.asarray(pooled.valid).sum() == 5 * 8


def test_a_mask_that_fills_no_patch_pools_the_patch_it_covers_most():
    features = np.random.default_rng(2).normal(size=(GRID, GRID, CHANNELS)).astype(np.float32)
    mask = np.zeros((CONFIG.canvas, CONFIG.canvas), bool)
    mask[30, 30:35] = True  # two pixels of one patch, three of the next
    pooled = pool_reference(jnp.asarray(features), jnp.asarray(mask), jnp.asarray([64, 64]))
    assert np.array_equal(np.argwhere(pooled.inside), [(3, 4)])
    np.testing.assert_allclose(pooled.visual, features[3, 4], atol=1e-6)


def test_patches_on_the_image_have_their_centre_on_it():
    sizes = np.array([[64, 64], [12, 13], [1, 1], [20, 64]])
    counts = [int(on_image.sum()) for on_image in patches_on_image(sizes, 64, 8)]
    assert counts == [64, 1 * 2, 1, 2 * 8]
