"""Put images on the canvas for exported programs, and compare what they return with the API."""

import dataclasses
from typing import NamedTuple

import numpy as np
import tiny

from segic_jax.data.preprocess import resize_and_pad
from segic_jax.inference.example import Example
from segic_jax.inference.presence import EVIDENCE
from segic_jax.inference.result import Result
from segic_jax.inference.segmenter import Segmenter
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.models.segic import upsample
from segic_jax.weights.bundle import Bundle

REFERENCES = [tiny.random_image(seed, 50 + 9 * seed, 70) for seed in range(3)]
TARGETS = [tiny.random_image(seed, 64, 40 + 8 * seed) for seed in (5, 6)]


def calibrated(bundle: Bundle) -> Bundle:
    """Return a model with a calibration, to which every evidence contributes."""
    random = np.random.default_rng(2)
    weights = {name: float(random.normal()) for name in EVIDENCE}
    notes = {"presence": {"weights": weights, "bias": 0.1, "least": 0.5}}
    return dataclasses.replace(bundle, notes=bundle.notes | notes)


def extended_bundle() -> Bundle:
    """Return an untrained model with both extensions of the head."""
    config = tiny.EXTENDED
    backbone = tiny.parameters(backbone_template(config.backbone), 3)
    for name, value in backbone.items():
        if name.endswith(("/var", "/scale")):
            backbone[name] = 1 + 0.1 * np.abs(value)
    return dataclasses.replace(
        tiny.bundle(),
        config=config,
        backbone=backbone,
        head=tiny.parameters(head_template(config), 4),
        text={"": np.zeros(config.text_width, np.float32)},
    )


class Inputs(NamedTuple):
    """Hold what both programs read."""

    references: np.ndarray
    reference_sizes: np.ndarray
    masks: np.ndarray
    targets: np.ndarray
    target_sizes: np.ndarray


class Expected(NamedTuple):
    """Hold what the API gives for the same images."""

    prototypes: np.ndarray  # [references, channels]
    logits: np.ndarray  # [targets, references, S, S]
    results: list[Result]


def on_canvas(canvas: int, pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images, sizes and masks of pairs of an image and its mask."""
    placed = [resize_and_pad(image, mask[None], canvas) for image, mask in pairs]
    return (
        np.stack([item.image for item in placed]),
        np.array([item.size for item in placed], np.int32),
        np.stack([item.masks[0] for item in placed]),
    )


def make_inputs(canvas: int, references, targets) -> Inputs:
    """Return the inputs of both programs for pairs of an image and its mask."""
    return Inputs(*on_canvas(canvas, references), *on_canvas(canvas, targets)[:2])


def expect(segmenter: Segmenter, references, targets) -> Expected:
    """Return what the API gives for a class of each reference."""
    context = segmenter.fit(
        [Example(image, mask, name=str(number)) for number, (image, mask) in enumerate(references)]
    )
    results = [segmenter.predict(image, context, keep_absent=True) for image, _ in targets]
    small = np.stack([result.small_logits for result in results])
    return Expected(
        np.stack([concept.visual[0] for concept in context.concepts]),
        np.asarray(upsample(small, segmenter.config.canvas)),
        results,
    )


def compare(expected: Expected, encoded, segmented) -> None:
    """Compare the outputs of both programs with the API's: within 1e-4, masks equal but for ties.

    Presence, of calibrated models, is within 1e-3.
    """
    prototypes, text, *_ = encoded
    logits, scores, similarity, *presence = segmented
    assert np.isfinite(expected.logits).all()
    scale = max(1.0, float(np.abs(expected.prototypes).max()))
    np.testing.assert_allclose(prototypes, expected.prototypes, atol=1e-4 * scale)
    assert text.shape[0] == len(prototypes)
    np.testing.assert_allclose(logits, expected.logits, atol=1e-4)
    for row, result in enumerate(expected.results):
        height, width = result.placed
        ours, theirs = (x[row, :, :height, :width] for x in (expected.logits, logits))
        assert not ((ours > 0) != (theirs > 0))[np.abs(ours) > 1e-4].any()
        inside = ours > 0
        probability = np.where(inside, 1 / (1 + np.exp(-ours)), 0).sum((1, 2)) / np.maximum(
            inside.sum((1, 2)), 1
        )
        np.testing.assert_allclose(scores[row], probability, atol=1e-4)
        if presence:
            np.testing.assert_allclose(presence[0][row], result.presence, atol=1e-3)
    assert (np.abs(similarity) <= 1 + 1e-5).all()
