"""Train one head from frozen features: SegIC's losses, with what a row of the ablation changes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from segic_jax.config import (
    EMPTY_PROMPT,
    INSTANCE_PROMPT,
    Config,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    class_prompt,
)
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.errors import TrainingError
from segic_jax.models.correspondence import grid_cells, pool
from segic_jax.models.params import Params
from segic_jax.models.segic import head_template
from segic_jax.runtime import progress
from segic_jax.train.forward import train_forward
from segic_jax.train.losses import draw_points, passes_loss
from segic_jax.train.negatives import choose, empty_queue, push
from segic_jax.train.optim import make_optimizer, trainable_names
from studies.ablation.features import Shelf
from studies.ablation.pairs import Pairs
from studies.ablation.rows import Row
from studies.ablation.scenes import TRAINING, VIEWS
from studies.ablation.told import Told, decode_told
from studies.ablation.words import text_feature

SLOTS = 2  # of a pair with negative prompts or instances; else one
TEXT_KEEP = 0.75  # officially, where names are given
NEGATIVE = 0.25  # of the semantic pairs, where there are negative prompts


@dataclass(frozen=True)
class Recipe:
    """What a step is compiled for."""

    model: ModelConfig
    told: Told
    reversal: bool
    train: TrainConfig
    optim: OptimConfig


def train_head(row: Row, config: Config, shelf: Shelf) -> tuple[Params, float]:
    """The head of a row after `config.train.steps` steps, and the mean loss of the last tenth of them.

    Raises:
        TrainingError: the loss is not finite.
    """
    settings, model = config.train, shelf.config(row.kind)
    recipe = Recipe(model, row.told, row.reversal, settings, config.optim)
    classes = SpriteBank.load("base").classes
    prompts = [
        EMPTY_PROMPT,
        INSTANCE_PROMPT,
        *(class_prompt(one.label) for one in classes),
    ]  # as `pairs` numbers them
    seed = settings.seed + row.seed
    pairs = Pairs(
        scenes=shelf.scenes(TRAINING),
        views=shelf.scenes(VIEWS) if row.instances else None,
        classes=len(classes),
        slots=SLOTS if row.instances or row.negatives else 1,
        data=config.data if row.boxes else dataclasses.replace(config.data, box=0.0),
        text_keep=TEXT_KEEP if row.told.meta else 0.0,
        negative=NEGATIVE if row.negatives else 0.0,
    )
    sources = [(pairs.scenes.labels, shelf.features(TRAINING, row.kind))]
    if row.instances:
        sources.append((shelf.scenes(VIEWS).labels, shelf.features(VIEWS, row.kind)))

    head = head_template(model).init(seed)
    trainable = trainable_names(head, score=row.negatives)
    params = {name: head[name] for name in trainable}
    untrained = {name: value for name, value in head.items() if name not in params}
    table = jnp.stack([text_feature(prompt, model.text_width) for prompt in prompts])
    optimizer = make_optimizer(config.optim, settings.steps)
    queue = empty_queue(len(prompts), settings.negative_queue, model.vit.width) if row.negatives else {}
    state = (params, optimizer.init(params), queue)

    losses = []
    bar = progress.bar(range(settings.steps), desc=row.name, leave=False)
    for number in bar:
        drawn = pairs.batch(np.random.default_rng([seed, number]), settings.batch_size)
        key = jax.random.fold_in(jax.random.key(seed), number)
        state, value = _step(recipe, state, untrained, table, _with_features(drawn, sources), key)
        losses.append(value)
        if number % 20 == 19:
            bar.set_postfix(loss=f"{float(value):.3f}")
    last = float(np.mean(losses[-max(1, settings.steps // 10) :]))
    if not np.isfinite(last):
        raise TrainingError(f"The loss of the row {row.name} is {last}: lower optim.learning_rate.")
    return jax.device_get({**state[0], **untrained}), last


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _step(
    recipe: Recipe, state: tuple, untrained: Params, table: Array, batch: dict[str, Array], key: jax.Array
) -> tuple[tuple, Float[Array, ""]]:
    """(parameters, optimizer's state, queue) after a step, and the loss."""
    params, opt_state, queue = state
    settings, weight = recipe.train, recipe.train.negative_weight
    batch = _on_device(batch, recipe.model.canvas)
    rows, concepts = jnp.arange(settings.batch_size), batch["valid"].shape[1]
    points_key, negatives_key = jax.random.split(key)
    negatives = choose(queue, negatives_key, rows, batch["negative_rows"], concepts) if queue else None
    points = draw_points(points_key, rows, concepts, num_points=settings.num_points)

    def loss(params: Params):
        head = {**params, **untrained}
        passes = train_forward(
            recipe.model,
            head,
            batch["target_features"],
            batch["reference_features"],
            batch,
            table,
            negatives,
            decode=partial(decode_told, recipe.told),
            reversal=recipe.reversal,
        )
        return passes_loss(passes, batch, points, negatives=negatives, negative_weight=weight)[0]

    value, gradients = jax.value_and_grad(loss)(params)
    optimizer = make_optimizer(recipe.optim, settings.steps)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    if queue:
        shown = pool(batch["reference_features"][:, None], batch["reference_masks"][:, :1])[:, 0]
        queue = push(queue, batch["class_row"], shown)
    return (optax.apply_updates(params, updates), opt_state, queue), value


def _with_features(drawn: dict[str, np.ndarray], sources) -> dict[str, np.ndarray]:
    """Labels and features of both scenes of each pair."""
    of = drawn.pop("is_instance").astype(int)
    batch = dict(drawn)
    for side in ("target", "reference"):
        numbers = batch.pop(side)
        for name, place in (("labels", 0), ("features", 1)):
            rows = [sources[s][place][n] for s, n in zip(of, numbers, strict=True)]
            batch[f"{side}_{name}"] = np.stack(rows)
    return batch


def _on_device(batch: Mapping[str, Array], canvas: int) -> dict[str, Array]:
    """With masks on the canvas for labels, and features in float32."""
    batch = dict(batch)
    for side in ("target", "reference"):
        labels, which = batch.pop(side + "_labels"), batch.pop(side + "_which")
        inside = labels[:, None] == which[..., None, None].astype(labels.dtype)
        batch[side + "_masks"] = (grid_cells(inside, canvas) > 0) & batch["valid"][..., None, None]
        batch[side + "_features"] = batch[side + "_features"].astype(jnp.float32)
    return batch
