"""Train one head on the fixed scenes: SegIC's training step, with what a variant of the ablation changes."""

import dataclasses
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from segic_jax.config import EMPTY_PROMPT, INSTANCE_PROMPT, Config, DataConfig, ModelConfig, class_prompt
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.errors import TrainingError
from segic_jax.models.correspondence import grid_masks
from segic_jax.models.features import Features
from segic_jax.models.head import head_template
from segic_jax.models.params import Params
from segic_jax.runtime import distributed, progress
from segic_jax.train.optim import make_optimizer, trainable_names
from segic_jax.train.step import Frozen, init_state, make_train_step
from studies.ablation.features import FeatureStore
from studies.ablation.pairs import Pairs
from studies.ablation.prompting import Prompting, training_prompts
from studies.ablation.scenes import TRAINING, VIEWS
from studies.ablation.text_features import text_feature
from studies.ablation.variants import Variant

SLOTS = 2  # of a pair with negative prompts or instances; else one
TEXT_KEEP = 0.75  # official probability of a class's name, for variants with names
NEGATIVE = 0.25  # share of the semantic pairs with negative prompts, for variants with them

# Labels and features.
Source = tuple[Shaped[np.ndarray, "scenes S S"], Shaped[np.ndarray, "scenes g g channels"]]


def train_head(variant: Variant, config: Config, store: FeatureStore) -> tuple[Params, float]:
    """Return the head of a variant after `config.train.steps` steps, and the mean loss of their last tenth.

    Raises:
        TrainingError: the loss is not finite.
    """
    settings, model = config.train, store.config(variant.input)
    classes = SpriteBank.load("base").classes
    # In the order in which `pairs` numbers them.
    prompts = [EMPTY_PROMPT, INSTANCE_PROMPT, *(class_prompt(sprite.label) for sprite in classes)]
    seed, negative = settings.seed + variant.seed, NEGATIVE if variant.negatives else 0.0
    pairs = Pairs(
        scenes=store.scenes(TRAINING),
        views=store.scenes(VIEWS) if variant.instances else None,
        classes=len(classes),
        slots=SLOTS if variant.instances or variant.negatives else 1,
        data=config.data if variant.boxes else dataclasses.replace(config.data, box=0.0),
        text_keep=TEXT_KEEP if variant.prompting.meta else 0.0,
        negative=negative,
    )
    sources = [(pairs.scenes.labels, store.features(TRAINING, variant.input))]
    if variant.instances:
        sources.append((store.scenes(VIEWS).labels, store.features(VIEWS, variant.input)))

    step_config = Config(
        backbone=config.backbone,
        model=model,
        data=DataConfig(negative=negative),
        optim=config.optim,
        train=dataclasses.replace(settings, seed=seed),
    )
    mesh = distributed.make_mesh()
    head = head_template(model).init(seed)
    trainable = set(trainable_names(head, score=variant.negatives))
    params = distributed.replicate(mesh, {name: head[name] for name in head if name in trainable})
    untrained = distributed.replicate(mesh, {name: head[name] for name in head if name not in trainable})
    table = np.stack([text_feature(prompt, model.text_width) for prompt in prompts])
    frozen = Frozen(backbone={}, untrained=untrained, text_table=distributed.replicate(mesh, table))
    optimizer = make_optimizer(config.optim, settings.steps)
    state = init_state(step_config, optimizer, params, len(prompts), mesh)
    train_step = _train_step(step_config, variant.prompting, variant.reversal)

    losses = []
    bar = progress.bar(range(settings.steps), desc=variant.name, leave=False)
    for number in bar:
        rows = pairs.batch(np.random.default_rng([seed, number]), settings.batch_size)
        state, metrics = train_step(state, frozen, _with_features(rows, sources))
        losses.append(metrics["loss"])
        if number % 20 == 19:
            bar.set_postfix(loss=f"{float(metrics['loss']):.3f}")
    last = float(np.mean(losses[-max(1, settings.steps // 10) :]))
    if not np.isfinite(last):
        raise TrainingError(f"The loss of the row {variant.name} is {last}: lower optim.learning_rate.")
    return jax.device_get({**state["params"], **untrained}), last


@cache
def _train_step(config: Config, prompting: Prompting, reversal: bool) -> jax.stages.Wrapped:
    """Return SegIC's training step on stored features; variants that differ elsewhere share the program."""
    return make_train_step(
        config,
        make_optimizer(config.optim, config.train.steps),
        distributed.make_mesh(),
        prepare=partial(_with_masks, prompting),
        prompting=training_prompts(prompting),
        reversal=reversal,
    )


def _with_features(rows: dict[str, np.ndarray], sources: Sequence[Source]) -> dict[str, np.ndarray]:
    """Replace the scenes' numbers of a batch of pairs by labels and features of both scenes."""
    source_of_row = rows["is_instance"].astype(int)
    batch = {name: rows[name] for name in rows if name not in ("is_instance", "target", "reference")}
    for side in ("target", "reference"):
        chosen = list(zip(source_of_row, rows[side], strict=True))
        batch[f"{side}_labels"] = np.stack([sources[source][0][scene] for source, scene in chosen])
        batch[f"{side}_features"] = np.stack([sources[source][1][scene] for source, scene in chosen])
    return batch | {"unreadable": np.zeros(len(source_of_row), np.int32)}


def _with_masks(
    prompting: Prompting, config: ModelConfig, frozen: Frozen, batch: dict[str, Any]
) -> dict[str, Any]:
    """Make masks on the canvas of labels, and convert the features to float32."""
    batch = {**batch, "use_box": batch["use_box"] & prompting.geometric}
    for side in ("target", "reference"):
        labels, concept_labels = batch.pop(side + "_labels"), batch.pop(side + "_concept_labels")
        inside = labels[:, None] == concept_labels[..., None, None].astype(labels.dtype)
        batch[side + "_masks"] = (grid_masks(inside, config.canvas) > 0) & batch["valid"][..., None, None]
        batch[side + "_features"] = Features(batch[side + "_features"].astype(jnp.float32))
    return batch
