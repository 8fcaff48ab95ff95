"""Test that the study of precisions uses bfloat16, which changes masks a little."""

from segic_jax.data.emoji.source import EmojiSource
from segic_jax.weights.bundle import load_bundle
from segic_jax.weights.fetch import find
from studies.precision import compare


def test_bfloat16_changes_masks_a_little():
    scores = compare(load_bundle(find("emoji-tiny")), EmojiSource("validation"), limit=6)
    assert 97 < scores["between"] < 100
    assert abs(scores["float32"] - scores["bfloat16"]) < 2
