"""Test that no stage costs more operations, bytes or memory than the committed figures."""

import json

import jax
import jaxlib
import pytest

from benchmarks.guard import FILE, SIZES, figures

BAND = 0.05
RENEW = "if this is intended: python -m benchmarks.guard --renew"

committed = json.loads(FILE.read_text())


def differences(actual: dict, expected: dict) -> list[str]:
    """Return the figures outside the band."""
    return [
        f"{name}: {actual[name]}, committed {expected[name]}"
        for name in expected
        if abs(actual[name] - expected[name]) > BAND * expected[name]
    ]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the figures are those of XLA's CPU programs")
@pytest.mark.parametrize("name", SIZES)
def test_a_stage_has_its_committed_cost(name):
    actual, expected = figures(name), committed["stages"][name]
    if jaxlib.__version__ != committed["jaxlib"]:  # another version of XLA may compile other programs
        actual, expected = ({"counted_flops": counts["counted_flops"]} for counts in (actual, expected))
    assert differences(actual, expected) == [], RENEW


def test_the_file_lists_every_stage():
    assert list(committed["stages"]) == list(SIZES), RENEW


def test_a_costlier_stage_is_reported():
    expected = committed["stages"]["decoder"]
    assert differences(expected, expected) == []
    assert len(differences({name: 1.06 * value for name, value in expected.items()}, expected)) == len(
        expected
    )
