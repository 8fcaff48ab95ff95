"""Compare every stage with the official code of INSID3, whose results are in tests/goldens/insid3.npz."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segic_jax.config import DinoV3Config, ModelConfig
from segic_jax.data.preprocess import CanvasImage, stretch
from segic_jax.inference.example import Example
from segic_jax.inference.segmenter import Segmenter
from segic_jax.inference.training_free.clusters import cluster_labels, distances
from segic_jax.inference.training_free.debias import unit_patches
from segic_jax.inference.training_free.settings import TrainingFree
from segic_jax.models.backbones import backbone_template
from segic_jax.models.dinov3 import rotary_periods
from segic_jax.weights.bundle import Bundle
from segic_jax.weights.formats import recognise

ROOT = Path(__file__).parents[3]
GOLDEN = Path(os.environ.get("SEGIC_INSID3_GOLDEN") or ROOT / "tests/goldens/insid3.npz")
EPISODES = ("one", "fine", "two", "three", "speck", "dot")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def bundle(golden):
    width, depth, heads, hidden, canvas, _ = golden["sizes"].tolist()
    config = DinoV3Config(width=width, depth=depth, num_heads=heads, ffn_hidden=hidden)
    tensors = {
        name.removeprefix("weights."): (value.astype(np.uint32) << 16).view(np.float32)
        for name, value in golden.items()
        if name.startswith("weights.")
    }
    tensors["rope_embed.periods"] = rotary_periods(width // heads // 4)
    for name in [name for name in tensors if name.endswith("qkv.bias")]:
        tensors[f"{name}_mask"] = np.repeat(np.float32([1, 0, 1]), width)
    [part] = recognise(tensors, config=None, what="golden")
    params = part.parameters(backbone_template(config).shapes)
    return Bundle(ModelConfig(config, text_width=1, canvas=canvas), params, {}, {"": np.zeros(1, np.float32)})


@pytest.fixture(scope="module")
def segmenters(golden, bundle):
    """Return a segmenter for each episode's settings."""
    made = {}
    for name in EPISODES:
        similarity, least = golden[f"{name}.settings"].tolist()
        canvas, components = golden["sizes"].tolist()[-2:]
        settings = TrainingFree(components, similarity, least, canvas=canvas)
        made[name] = Segmenter(bundle, method=settings)
    return made


def pixels(path: Path) -> np.ndarray:
    """Read an image as the official code does."""
    return np.asarray(Image.open(path).convert("RGB"))


def example(reference: str, canvas: int) -> Example:
    """Return an example of the project, with its mask or with a box y0,y1,x0,x1 on the canvas."""
    name, _, box = reference.partition(":")
    image = pixels(ROOT / f"examples/{name}_reference.jpg")
    mask = cv2.imread(str(ROOT / f"examples/{name}_reference_mask.png"), cv2.IMREAD_GRAYSCALE) > 127
    if box:
        height, width = mask.shape
        y0, y1, x0, x1 = (int(number) for number in box.split(","))
        mask[:] = False
        mask[height * y0 // canvas : height * y1 // canvas, width * x0 // canvas : width * x1 // canvas] = (
            True
        )
    return Example(image, mask, name="object")


def target(golden, name: str) -> np.ndarray:
    return pixels(ROOT / f"examples/targets/{golden[f'{name}.images'][-1]}.jpg")


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def on_canvas(image: np.ndarray, canvas: int) -> CanvasImage:
    return stretch(image, np.zeros((0, *image.shape[:2]), bool), canvas)


@pytest.mark.parametrize("name", EPISODES)
def test_debiased_features_and_clusters(golden, segmenters, name):
    engine = segmenters[name].engine
    features = engine.features([on_canvas(target(golden, name), engine.config.canvas)])
    if f"{name}.debiased" in golden:
        np.testing.assert_allclose(engine.compared_patches(features), golden[f"{name}.debiased"], atol=1e-4)
    if f"{name}.labels" not in golden:  # no candidate, so nothing was divided
        return
    distance = np.asarray(distances(unit_patches(features.features.patches[0])))
    labels = cluster_labels(distance, np.ones(len(distance), bool), engine.settings.similarity)
    expected = golden[f"{name}.labels"]
    pairs = np.unique(np.stack([labels, expected]), axis=1)
    assert pairs.shape[1] == labels.max() + 1 == expected.max() + 1  # one to one: the same partition


@pytest.mark.parametrize("name", EPISODES)
def test_masks_at_the_size_of_the_image(golden, segmenters, name):
    segmenter = segmenters[name]
    references = golden[f"{name}.images"].tolist()[:-1]
    context = segmenter.fit([example(reference, segmenter.config.canvas) for reference in references])
    result = segmenter.predict(target(golden, name), context, keep_absent=True)
    truth = np.unpackbits(golden[f"{name}.mask"], axis=1, count=result.image.shape[1]).astype(bool)
    assert overlap(result.masks[0], truth) >= 0.999
    patch = segmenter.config.backbone.stride
    at_centres = result.small_logits[0][patch // 2 :: patch, patch // 2 :: patch] > 0
    np.testing.assert_array_equal(at_centres, golden.get(f"{name}.inside", np.zeros_like(at_centres)))
    assert result.present[0] == at_centres.any()
