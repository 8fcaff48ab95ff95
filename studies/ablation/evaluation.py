"""Segment the fixed episodes with a head, and count pixels at the scenes' own size."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from segic_jax.config import EMPTY_PROMPT, ModelConfig, class_prompt
from segic_jax.data.emoji.source import SCENES
from segic_jax.models.correspondence import grid_masks
from segic_jax.models.features import Features
from segic_jax.models.layers import bilinear
from segic_jax.models.params import Params
from segic_jax.models.segic import upsample
from segic_jax.train.forward import ShotBatch
from studies.ablation.features import FeatureStore
from studies.ablation.prompting import Prompting, decode_prompted
from studies.ablation.scenes import episode_classes, references
from studies.ablation.text_features import text_feature
from studies.ablation.variants import Variant

BATCH = 10  # episodes


class PixelCounts(NamedTuple):
    """Hold the pixels of every episode, a row per class."""

    intersection: Int[np.ndarray, "classes scenes"]
    union: Int[np.ndarray, "classes scenes"]


def evaluate(part: str, variant: Variant, head: Params, store: FeatureStore) -> PixelCounts:
    """Return the pixel counts of a list of episodes."""
    config = store.config(variant.input)
    labels, features = store.scenes(part).labels, store.features(part, variant.input)
    classes = episode_classes(part, store.size)
    prompts = [class_prompt(sprite.label) if variant.names else EMPTY_PROMPT for sprite in classes]
    text = np.stack([text_feature(prompt, config.text_width) for prompt in prompts])
    head = jax.device_put(head)
    episodes = list(references(len(labels), variant.shots))
    counts = []
    for start in range(0, len(episodes), BATCH):
        targets = np.array([target for target, _ in episodes[start : start + BATCH]])
        scenes = np.array([shots for _, shots in episodes[start : start + BATCH]])
        shown = features[scenes.ravel()].reshape(*scenes.shape, *features.shape[1:]).astype(np.float32)
        masks = (labels[scenes.ravel()] == 1).reshape(len(scenes), 1, variant.shots, *labels.shape[1:])
        counts.append(
            _count(
                config,
                variant.prompting,
                head,
                features[targets].astype(np.float32),
                shown,
                masks,
                text[targets // SCENES][:, None],
                labels[targets] == 1,
            )
        )
    both = np.concatenate(jax.device_get(counts), axis=1)
    return PixelCounts(*both.reshape(2, len(classes), SCENES))


@partial(jax.jit, static_argnums=(0, 1))
def _count(
    config: ModelConfig,
    prompting: Prompting,
    head: Params,
    target: Array,
    features: Array,
    masks: Array,
    text: Array,
    truth: Array,
) -> Int[Array, "2 episodes"]:
    on_canvas = grid_masks(masks, config.canvas) > 0  # as `data.preprocess` does
    shots = ShotBatch(features, grid_masks(on_canvas, config.grid), text, jnp.ones(masks.shape[:2], bool))
    stages = decode_prompted(prompting, config, head, Features(target), shots)
    logits = upsample(stages.logits, config.canvas)[:, 0, :, :, None]
    inside = bilinear(logits, truth.shape[1:])[..., 0] > 0
    return jnp.stack([(inside & truth).sum((1, 2)), (inside | truth).sum((1, 2))])
