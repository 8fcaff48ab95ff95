"""Test the refinement of edges by a dense CRF against what the official code gives."""

from pathlib import Path

import numpy as np
import pytest

from segic_jax.inference.training_free.crf import REACH, EdgeField
from segic_jax.inference.training_free.lattice import Lattice

GOLDEN = Path(__file__).parents[2] / "goldens/insid3_crf.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def test_the_lattice_filters_as_the_official_one(golden):
    filtered = Lattice(golden["positions"]).filter(golden["values"])
    np.testing.assert_allclose(filtered, golden["filtered"], atol=1e-6)


def test_the_lattice_is_close_to_a_gaussian():
    random = np.random.default_rng(0)
    positions, values = random.uniform(0, 3, (600, 2)), random.normal(size=600)
    lattice = Lattice(positions)
    np.testing.assert_allclose(lattice.filter(np.full(600, 7.0)), 7)
    weights = np.exp(-0.5 * ((positions[:, None] - positions) ** 2).sum(-1))
    expected = weights @ values / weights.sum(1)
    assert np.abs(lattice.filter(values) - expected).max() < 0.25 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["cat", "bird"])
def test_refined_masks_are_the_official_ones(golden, name):
    mask, refined = golden[f"{name}.mask"], golden[f"{name}.refined"]
    found = EdgeField(golden[f"{name}.image"], int(golden["canvas"])).refine(mask)
    union = np.count_nonzero(found | refined)
    assert np.count_nonzero(found & refined) / union >= 0.999
    assert np.count_nonzero(mask ^ refined) > 100


def test_only_a_band_along_the_edges_changes():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (60, 70, 3), np.uint8)
    mask = np.zeros((60, 70), bool)
    mask[20:50, 15:55] = True
    changed = EdgeField(image, 512).refine(mask) ^ mask
    assert not changed[20 + REACH + 1 : 50 - REACH - 1, 15 + REACH + 1 : 55 - REACH - 1].any()
    assert not changed[: 20 - REACH].any()
    assert not EdgeField(image, 512).refine(np.zeros_like(mask)).any()
