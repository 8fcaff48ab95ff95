"""Make backbones to compare with: one drawn at random, and two with a short training.

Both trainings match every patch with the pooled objects of other scenes (`train.pretrain.matching_loss`). In
one of them objects of one class match, whatever the artist. In the other only the same drawing matches,
pasted twice: that needs neither names nor annotation, so it is self-supervised.
"""

from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from safetensors.numpy import load_file

from segic_jax.config import ModelConfig
from segic_jax.data.emoji.compose import TRAINING_STYLE, compose
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.models.backbones import backbone_template
from segic_jax.models.encoding import normalise_pixels
from segic_jax.models.layers import l2_normalise
from segic_jax.models.params import Params
from segic_jax.runtime import progress
from segic_jax.runtime.prefetch import prefetch_results
from segic_jax.train.mixed_precision import mixed_precision
from segic_jax.train.pretrain import matching_loss
from segic_jax.weights.safetensors_file import write_safetensors

SCENES = 16  # of a step
IDENTITIES = 14  # classes or drawings that they share
MAX_OBJECTS = 5  # objects of a scene, at least two
BACKGROUND = 0.35  # weight of a background patch, where an object's has 1
RATE, WARMUP, DECAY = 1e-3, 50, 0.05

Positives = Literal["drawings", "classes"]


def random_backbone(model: ModelConfig, seed: int) -> Params:
    """Draw a backbone at random."""
    return backbone_template(model.backbone).init(seed)


def short_backbone(positives: Positives, model: ModelConfig, steps: int, seed: int, file: Path) -> Params:
    """Train a backbone for `steps` steps, or read it from `file` if it exists."""
    if not file.exists():
        params = _train(positives, model, steps, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(file, jax.device_get(params), {})
    return {name: jnp.asarray(value) for name, value in load_file(file).items()}


def scene_group(
    rng: np.random.Generator, bank: SpriteBank, positives: Positives, canvas: int
) -> dict[str, np.ndarray]:
    """Compose scenes whose objects share some identities.

    Returns:
        images uint8 [scenes, S, S, 3]; labels uint8 [scenes, S, S], i + 1 for object i; identities int32
        [scenes, MAX_OBJECTS], which of the shared identities each object is, -1 where there is none.
    """
    chosen = [bank.classes[i] for i in rng.choice(len(bank.classes), IDENTITIES, replace=False)]
    drawn_by = [str(rng.choice(sprite.artists)) for sprite in chosen]
    images, labels = [], []
    identities = np.full((SCENES, MAX_OBJECTS), -1, np.int32)
    for scene in range(SCENES):
        present = rng.choice(IDENTITIES, int(rng.integers(2, MAX_OBJECTS + 1)), replace=False)
        identities[scene, : len(present)] = present
        artists = [
            drawn_by[i] if positives == "drawings" else str(rng.choice(chosen[i].artists)) for i in present
        ]
        objects = [(chosen[i].name, artist) for i, artist in zip(present, artists, strict=True)]
        image, label = compose(rng, objects, canvas, TRAINING_STYLE)
        images.append(image)
        labels.append(label)
    return {"images": np.stack(images), "labels": np.stack(labels), "identities": identities}


def _train(positives: Positives, model: ModelConfig, steps: int, seed: int) -> Params:
    bank = SpriteBank.load("base")
    params = backbone_template(model.backbone).init(seed)
    trained = params, {"match_scale": jnp.asarray(16.0), "match_level": jnp.asarray(0.4)}
    rate = optax.warmup_cosine_decay_schedule(0.0, RATE, min(WARMUP, steps // 2), steps)
    matrices = jax.tree.map(lambda value: value.ndim > 1, trained)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.98, weight_decay=DECAY, mask=matrices)
    )

    def step(trained, opt_state, group):
        value, gradients = jax.value_and_grad(lambda t: _loss(model, *t, **group))(trained)
        updates, opt_state = optimizer.update(gradients, opt_state, trained)
        return optax.apply_updates(trained, updates), opt_state, value

    step = jax.jit(mixed_precision(step), donate_argnums=(0, 1))
    opt_state = optimizer.init(trained)

    def group(number: int):
        return scene_group(np.random.default_rng([seed, number]), bank, positives, model.canvas)

    groups = prefetch_results(group, range(steps), limit=4)
    bar = progress.bar(groups, total=steps, desc=f"backbone: {positives}", leave=False)
    for number, scenes in enumerate(bar):
        trained, opt_state, value = step(trained, opt_state, scenes)
        if number % 20 == 19:
            bar.set_postfix(loss=f"{float(value):.3f}")
    return trained[0]


def _loss(
    model: ModelConfig, backbone: Params, extra: Params, images: Array, labels: Array, identities: Array
):
    scenes, side = images.shape[:2]
    grid, patch = model.grid, model.backbone.stride
    pixels = normalise_pixels(model.backbone, images, jnp.full((scenes, 2), side))
    tokens = backbone_template(model.backbone).bind(backbone)(pixels).patches.reshape(scenes, grid * grid, -1)
    one_hot = labels[..., None] == jnp.arange(1 + MAX_OBJECTS, dtype=jnp.uint8)
    share = (
        one_hot.reshape(scenes, grid, patch, grid, patch, -1).mean((2, 4)).reshape(scenes, grid * grid, -1)
    )
    weight = jnp.where(share[..., 0] > 0.5, BACKGROUND, 1.0)
    return matching_loss(tokens, l2_normalise(tokens, 1e-6), share, identities, weight / weight.sum(), extra)
