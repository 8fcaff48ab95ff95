"""The packed loss equals the plain one, whichever slots are used and however they are computed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import EXTENDED, parameters

from segic_jax.models.features import Features
from segic_jax.models.head import head_template
from segic_jax.train import forward, losses
from segic_jax.train.flops import flops_of
from segic_jax.train.optim import trainable_names
from segic_jax.train.packing import loss_and_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")
PAIRS, SLOTS = 3, 4
USED = {
    "one concept a pair": [[1, 0, 0, 0]] * PAIRS,
    "every slot": [[1, 1, 1, 1]] * PAIRS,
    "mixed": [[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]],
    "gaps": [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]],
    "none": [[0, 0, 0, 0]] * PAIRS,
}


@pytest.fixture(scope="module")
def head():
    return parameters(head_template(EXTENDED), 0)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    grid = EXTENDED.grid
    features = rng.normal(size=(2, PAIRS, grid, grid, EXTENDED.backbone.width)).astype(np.float32)
    fine = [
        rng.normal(size=(2, PAIRS, scale * grid, scale * grid, width)).astype(np.float32)
        for scale, width in zip((2, 4), EXTENDED.backbone.fine_widths, strict=True)
    ]
    corners = rng.integers(0, 32, (2, PAIRS, SLOTS, 2))
    masks = np.zeros((2, PAIRS, SLOTS, 64, 64), bool)
    for place in np.ndindex(2, PAIRS, SLOTS):
        y, x = corners[place]
        masks[place][y : y + 30, x : x + 25] = True
    masks[:, 1, 0] = False  # of a concept that is not on the image
    return {
        "target_features": Features(features[0], tuple(level[0] for level in fine)),
        "reference_features": Features(features[1], tuple(level[1] for level in fine)),
        "target_masks": masks[0],
        "reference_masks": masks[1],
        "target_prompt": np.array([0, 1, 0]),
        "reference_prompt": np.array([1, 1, 0]),
        "use_box": np.array([[True, False], [False, True], [True, True]]),
        "use_cross": np.array([[True, False], [True, True], [False, True]]),
    }


TABLE = jnp.asarray(np.random.default_rng(1).normal(size=(2, EXTENDED.text_width)), jnp.float32)


def split(head, negatives):
    trainable = trainable_names(head, score=negatives is not None)
    return {n: head[n] for n in trainable}, {n: head[n] for n in head if n not in trainable}


@partial(jax.jit, static_argnames="reversal")
def plain(head, batch, points, negatives, reversal=True):
    params, untrained = split(head, negatives)

    def loss(params):
        passes = forward.train_forward(
            EXTENDED, {**params, **untrained}, batch, TABLE, negatives, reversal=reversal
        )
        value, parts = losses.train_loss(passes, batch, points, negatives=negatives)
        return value, (parts, passes[0].inputs.pooled)

    (value, (parts, pooled)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return {"loss": value, **parts}, gradients, pooled


@partial(jax.jit, static_argnames=("reversal", "chunk", "remat"))
def packed(head, batch, points, negatives, **options):
    params, untrained = split(head, negatives)
    totals = losses.batch_totals(losses.mask_weights(batch["valid"], negatives, 0.1))
    return loss_and_gradients(EXTENDED, params, untrained, batch, TABLE, points, totals, negatives, **options)


def check(expected, actual):
    """Compare (metrics, gradients, pooled features)."""
    for a, b, tolerance in zip(expected, actual, (1e-6, 1e-5, 1e-6), strict=True):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
            # The largest entry of a gradient that is zero up to rounding is no measure of its error.
            largest = max(np.abs(x).max(), 1e-2)
            np.testing.assert_allclose(y, x, rtol=0, atol=tolerance * largest, err_msg=str(path))


def draw():
    return losses.draw_points(jax.random.key(0), jnp.arange(PAIRS), SLOTS, num_points=64)


@pytest.mark.parametrize("used", USED)
def test_loss_gradients_and_pooled_features_equal_the_plain_ones(head, batch, used):
    batch = batch | {"valid": np.array(USED[used], bool)}
    expected = plain(head, batch, draw(), None)
    *actual, chunks = packed(head, batch, draw(), None, chunk=3)
    check(expected, actual)
    assert chunks == -(-batch["valid"].sum() // 3)
    if used == "none":
        assert expected[0]["loss"] == 0


@pytest.mark.parametrize("options", [{"chunk": 1}, {"chunk": 100, "remat": True}])
def test_neither_the_chunk_nor_recomputation_changes_anything(head, batch, options):
    batch = batch | {"valid": np.array(USED["mixed"], bool)}
    check(plain(head, batch, draw(), None), packed(head, batch, draw(), None, **options)[:3])


def test_without_reversal(head, batch):
    batch = batch | {"valid": np.array(USED["mixed"], bool)}
    expected = plain(head, batch, draw(), None, reversal=False)
    check(expected, packed(head, batch, draw(), None, reversal=False, chunk=3)[:3])


def test_negative_prompts(head, batch):
    """Negative prompts use other slots in each of the two passes."""
    batch = batch | {"valid": np.array(USED["one concept a pair"], bool)}
    chosen = np.zeros((PAIRS, 2, SLOTS), bool)
    chosen[0, 0, 1:] = chosen[0, 1, 2] = chosen[2, :, 1] = True
    masks = {
        name: np.where(batch["valid"][..., None, None], batch[name], False)
        for name in ("target_masks", "reference_masks")
    }
    features = (
        np.random.default_rng(2).normal(size=(*chosen.shape, EXTENDED.backbone.width)).astype(np.float32)
    )
    negatives = forward.NegativeBatch(chosen, features, np.ones(chosen.shape, np.int32))
    expected = plain(head, batch | masks, draw(), negatives)
    assert "loss_score_reverse" in expected[0]
    check(expected, packed(head, batch | masks, draw(), negatives, chunk=3)[:3])


def test_parts_of_a_batch_add_up(head, batch):
    batch = batch | {"valid": np.array(USED["mixed"], bool)}
    params, untrained = split(head, None)
    totals = losses.batch_totals(losses.mask_weights(batch["valid"], None, 0.1))

    @jax.jit
    def part(rows):
        points = losses.draw_points(jax.random.key(0), rows, SLOTS, num_points=64)
        chosen = jax.tree.map(lambda x: jnp.asarray(x)[rows], batch)
        return loss_and_gradients(EXTENDED, params, untrained, chosen, TABLE, points, totals)

    each = [part(jnp.arange(PAIRS)[row : row + 1]) for row in range(PAIRS)]
    metrics, gradients = (jax.tree.map(lambda *x: sum(x), *(one[i] for one in each)) for i in (0, 1))
    expected = plain(head, batch, draw(), None)
    check(expected, (metrics, gradients, jnp.concatenate([one.pooled for one in each])))


def test_operations_count_as_often_as_chunks_run(head, batch):
    batch = batch | {"valid": np.array(USED["every slot"], bool)}

    def flops(chunk, trips):
        return flops_of(jax.make_jaxpr(partial(packed, chunk=chunk))(head, batch, draw(), None).jaxpr, trips)

    without = flops(3, 0)
    three, six, twelve = (flops(chunk, 1) - without for chunk in (3, 6, 12))
    # A chunk costs the same for every slot, beside what it computes once.
    assert twelve - three == pytest.approx(3 * (six - three), rel=1e-3)
    *_, chunks = packed(head, batch, draw(), None, chunk=3)
    assert chunks == PAIRS * SLOTS / 3
