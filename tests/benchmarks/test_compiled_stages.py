"""No stage costs more operations, bytes or memory than the committed figures; nothing is timed."""

import json

import jax
import jaxlib
import pytest

from benchmarks.guard import FILE, SIZES, figures

BAND = 0.05
RENEW = "if that is meant: python -m benchmarks.guard --renew"

committed = json.loads(FILE.read_text())


def differences(found: dict, expected: dict) -> list[str]:
    """The figures that lie outside the band."""
    return [
        f"{name}: {found[name]}, committed {expected[name]}"
        for name in expected
        if abs(found[name] - expected[name]) > BAND * expected[name]
    ]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the figures are those of XLA's CPU programs")
@pytest.mark.parametrize("name", SIZES)
def test_a_stage_costs_what_it_did(name):
    found, expected = figures(name), committed["stages"][name]
    if jaxlib.__version__ != committed["jaxlib"]:  # another XLA compiles as it likes
        found, expected = ({"counted_flops": one["counted_flops"]} for one in (found, expected))
    assert differences(found, expected) == [], RENEW


def test_the_file_lists_every_stage():
    assert list(committed["stages"]) == list(SIZES), RENEW


def test_a_costlier_stage_is_noticed():
    expected = committed["stages"]["decoder"]
    assert differences(expected, expected) == []
    assert len(differences({name: 1.06 * value for name, value in expected.items()}, expected)) == len(
        expected
    )
