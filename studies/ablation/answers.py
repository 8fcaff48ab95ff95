"""Answer the fixed episodes with a head, and count pixels at the scenes' own size."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from segic_jax.config import EMPTY_PROMPT, ModelConfig, class_prompt
from segic_jax.data.emoji.source import SCENES
from segic_jax.models.correspondence import grid_cells
from segic_jax.models.params import Params
from segic_jax.models.resize import bilinear
from segic_jax.models.segic import upsample
from segic_jax.train.forward import ShotBatch
from studies.ablation.features import Shelf
from studies.ablation.rows import Row
from studies.ablation.scenes import episode_classes, references
from studies.ablation.told import Told, decode_told, pooled
from studies.ablation.words import text_feature

BATCH = 10


class Counts(NamedTuple):
    """Pixels of every episode, a row a class."""

    intersection: Int[np.ndarray, "classes scenes"]
    union: Int[np.ndarray, "classes scenes"]


def answered(part: str, row: Row, head: Params, shelf: Shelf) -> Counts:
    """The counts of a list of episodes."""
    config = shelf.config(row.kind)
    labels, features = shelf.scenes(part).labels, shelf.features(part, row.kind)
    classes = episode_classes(part, shelf.size)
    names = [class_prompt(one.label) if row.names else EMPTY_PROMPT for one in classes]
    text = np.stack([text_feature(name, config.text_width) for name in names])
    head = jax.device_put(head)
    episodes = list(references(len(labels), row.shots))
    found = []
    for start in range(0, len(episodes), BATCH):
        targets = np.array([target for target, _ in episodes[start : start + BATCH]])
        scenes = np.array([shown for _, shown in episodes[start : start + BATCH]])
        shots = ShotBatch(
            features=features[scenes.ravel()].reshape(*scenes.shape, *features.shape[1:]).astype(np.float32),
            masks=(labels[scenes.ravel()] == 1).reshape(len(scenes), 1, row.shots, *labels.shape[1:]),
            text=text[targets // SCENES][:, None],
            valid=np.ones((len(targets), 1), bool),
        )
        target = features[targets].astype(np.float32)
        found.append(_counted(config, row.told, head, target, shots, labels[targets] == 1))
    both = np.concatenate(jax.device_get(found), axis=1)
    return Counts(*both.reshape(2, len(classes), SCENES))


@partial(jax.jit, static_argnums=(0, 1))
def _counted(
    config: ModelConfig, told: Told, head: Params, target: Array, shots: ShotBatch, truth: Array
) -> Int[Array, "2 episodes"]:
    shots = replace(shots, masks=grid_cells(shots.masks, config.canvas) > 0)  # as `data.preprocess` does
    _, decoded = decode_told(told, config, head, target, shots, pooled(shots))
    logits = upsample(decoded.logits, config.canvas)[:, 0, :, :, None]
    inside = bilinear(logits, truth.shape[1:])[..., 0] > 0
    return jnp.stack([(inside & truth).sum((1, 2)), (inside | truth).sum((1, 2))])
