"""One training step: frozen features of both images, the loss of the head, AdamW.

State is {"step", "params", "opt_state", "queue"}: params are the trainable part of the head, whose frozen
rest is an argument; the queue is that of negative prompts, empty without them. The loss is a sum over the
global batch, so neither the number of devices nor that of the parts it is computed in matters.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from segic_jax.config import Config
from segic_jax.models.correspondence import pool
from segic_jax.models.params import Params
from segic_jax.models.segic import extract
from segic_jax.runtime.distributed import replicated
from segic_jax.train.losses import batch_totals, draw_points, mask_weights, train_loss
from segic_jax.train.negatives import choose, empty_queue, push

State = dict  # "step": int32 [], "params": Params, "opt_state": optax's, "queue": train.negatives.Queue or {}
Batch = dict[str, Array]  # segic_jax.data.pipeline
Metrics = dict[str, Float[Array, ""]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Frozen:
    """What a step reads and never changes."""

    backbone: Params
    untrained: Params  # the parameters of the head that no gradient reaches
    text_table: Float[Array, "prompts text_width"]


def init_state(
    config: Config, optimizer: optax.GradientTransformation, params: Params, prompts: int, mesh: Mesh
) -> State:
    """The state before the first step, on every device; `params` are there already.

    Args:
        prompts: rows of the text table.
    """

    def fresh(params):
        queue = empty_queue(prompts, config.train.negative_queue, config.model.vit.width)
        return {
            "step": jnp.zeros((), jnp.int32),
            "opt_state": optimizer.init(params),
            "queue": queue if config.data.negative else {},
        }

    # Without out_shardings the moments would lie on one device: zeros do not depend on params.
    return jax.jit(fresh, out_shardings=replicated(mesh))(params) | {"params": params}


def make_train_step(
    config: Config, optimizer: optax.GradientTransformation, mesh: Mesh
) -> jax.stages.Wrapped:
    """(state, frozen, batch) -> (state, metrics), to be compiled; it consumes the state it is given.

    Metrics: `loss`, its parts, `grad_norm` over all trainable parameters, and `unreadable`, how many pairs
    of the batch stand in for some that could not be read.
    """
    settings = config.train

    def gradients_of(params: Params, frozen: Frozen, part: dict, key: jax.Array, totals):
        """Of one part of the batch: what it adds to the loss, its parts and the gradient; its features."""
        batch, rows = _unpacked(part["batch"], config.model.canvas), part["rows"]
        # Side by side, not one after the other: rows stay on the device they are on.
        images = jnp.stack([batch["target_image"], batch["reference_image"]], axis=1)
        sizes = jnp.stack([batch["target_size"], batch["reference_size"]], axis=1)
        features = extract(
            config.model, frozen.backbone, images.reshape(-1, *images.shape[2:]), sizes.reshape(-1, 2)
        )
        features = features.reshape(len(rows), 2, *features.shape[1:])
        points = draw_points(key, rows, batch["valid"].shape[1], num_points=settings.num_points)

        def loss(params: Params):
            return train_loss(
                config.model,
                {**params, **frozen.untrained},
                features[:, 0],
                features[:, 1],
                batch,
                frozen.text_table,
                points,
                negatives=part["negatives"],
                negative_weight=settings.negative_weight,
                totals=totals,
                remat=settings.remat,
            )

        (value, parts), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        shown = pool(features[:, 1:], batch["reference_masks"][:, :1])[:, 0]  # the first concept's feature
        return ({"loss": value, **parts}, gradients), shown

    def train_step(state: State, frozen: Frozen, batch: Batch) -> tuple[State, Metrics]:
        rows = jnp.arange(settings.batch_size)
        key = jax.random.fold_in(jax.random.key(settings.seed), state["step"])
        points_key, negatives_key = jax.random.split(key)
        queue, negatives = state["queue"], None
        if queue:
            candidates = batch["negative_rows"]
            negatives = choose(queue, negatives_key, rows, candidates, batch["valid"].shape[1])
        totals = batch_totals(mask_weights(batch["valid"], negatives, settings.negative_weight))
        whole = {"batch": batch, "rows": rows, "negatives": negatives}

        def one_part(part):
            return gradients_of(state["params"], frozen, part, points_key, totals)

        if settings.accumulate == 1:
            (metrics, gradients), shown = one_part(whole)
        else:
            # Every accumulate-th row, so that each device computes on its own rows.
            split = jax.tree.map(lambda x: _strided(x, settings.accumulate), whole)
            zeros = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype),
                jax.eval_shape(one_part, jax.tree.map(lambda x: x[0], split))[0],
            )

            def add(sums, part):
                found, shown = one_part(part)
                return jax.tree.map(jnp.add, sums, found), shown

            (metrics, gradients), shown = jax.lax.scan(add, zeros, split)
            shown = jnp.moveaxis(shown, 0, 1).reshape(settings.batch_size, -1)

        updates, opt_state = optimizer.update(gradients, state["opt_state"], state["params"])
        state = {
            "step": state["step"] + 1,
            "params": optax.apply_updates(state["params"], updates),
            "opt_state": opt_state,
            "queue": push(queue, batch["class_row"], shown) if queue else queue,
        }
        metrics |= {"grad_norm": optax.tree.norm(gradients), "unreadable": batch["unreadable"].sum()}
        return state, metrics

    return jax.jit(train_step, donate_argnums=0, out_shardings=replicated(mesh))


def _unpacked(batch: Batch, canvas: int) -> Batch:
    """With masks of one number a pixel."""
    masks = {
        name: jnp.unpackbits(batch[name], axis=-1, count=canvas).astype(bool)
        for name in ("target_masks", "reference_masks")
    }
    return batch | masks


def _strided(x: Array, parts: int) -> Array:
    """[rows, ...] -> [parts, rows / parts, ...]."""
    return jnp.moveaxis(x.reshape(len(x) // parts, parts, *x.shape[1:]), 1, 0)
