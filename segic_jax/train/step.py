"""Make one training step: features of both images from the frozen backbone, the head's loss, AdamW.

The state is {"step", "params", "opt_state", "queue"}: params are the trainable part of the head, whose fixed
rest is an argument; the queue is that of negative prompts, empty without them. The loss is a sum over the
global batch, so neither the number of devices nor the number of parts it is computed in changes it.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from segic_jax.config import Config, ModelConfig, TrainConfig
from segic_jax.errors import ConfigError
from segic_jax.models.encoding import extract
from segic_jax.models.params import Params
from segic_jax.runtime.distributed import replicated
from segic_jax.train.forward import SEGIC, Prompting
from segic_jax.train.losses import batch_totals, draw_points, mask_weights
from segic_jax.train.negatives import choose, empty_queue, push
from segic_jax.train.packing import loss_and_gradients

State = dict  # "step": int32 [], "params": Params, "opt_state": optax's, "queue": train.negatives.Queue or {}
Batch = dict[str, Array]  # segic_jax.data.pipeline
Metrics = dict[str, Float[Array, ""]]


class Frozen(NamedTuple):
    """Hold what a step reads and never changes."""

    backbone: Params
    untrained: Params  # the parameters of the head that no gradient reaches
    text_table: Float[Array, "prompts text_width"]


def check_batch(settings: TrainConfig, devices: int) -> None:
    """Check that each device gets equally many rows of every part of a batch.

    Raises:
        ConfigError: it does not.
    """
    if settings.batch_size // settings.accumulate % devices:
        raise ConfigError(
            f"train.batch_size {settings.batch_size} / train.accumulate {settings.accumulate} must be "
            f"divisible by the number of devices, {devices}."
        )


def init_state(
    config: Config, optimizer: optax.GradientTransformation, params: Params, prompts: int, mesh: Mesh
) -> State:
    """Return the state before the first step, on every device, where `params` already are.

    Args:
        prompts: rows of the text table.
    """

    def fresh(params):
        queue = empty_queue(prompts, config.train.negative_queue, config.model.backbone.width)
        return {
            "step": jnp.zeros((), jnp.int32),
            "opt_state": optimizer.init(params),
            "queue": queue if config.data.negative else {},
        }

    # Without out_shardings the moments would lie on one device: zeros do not depend on params.
    return jax.jit(fresh, out_shardings=replicated(mesh))(params) | {"params": params}


def with_features(config: ModelConfig, frozen: Frozen, batch: Batch) -> dict[str, Any]:
    """Add the features of both images, and unpack the masks to one number per pixel."""
    # Side by side, not one after the other: rows stay on the device they are on.
    images = jnp.stack([batch["target_image"], batch["reference_image"]], axis=1)
    sizes = jnp.stack([batch["target_size"], batch["reference_size"]], axis=1)
    features = extract(config, frozen.backbone, images.reshape(-1, *images.shape[2:]), sizes.reshape(-1, 2))
    features = jax.tree.map(lambda x: x.reshape(len(images), 2, *x.shape[1:]), features)
    masks = {
        name: jnp.unpackbits(batch[name], axis=-1, count=config.canvas).astype(bool)
        for name in ("target_masks", "reference_masks")
    }
    target, reference = (jax.tree.map(itemgetter((slice(None), side)), features) for side in (0, 1))
    return batch | masks | {"target_features": target, "reference_features": reference}


def make_train_step(
    config: Config,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    prepare: Callable[[ModelConfig, Frozen, Batch], dict[str, Any]] = with_features,
    prompting: Prompting = SEGIC,
    reversal: bool = True,
) -> jax.stages.Wrapped:
    """Return the jitted step: (state, frozen, batch) -> (state, metrics). It consumes the state.

    Metrics are `loss`, its parts, `grad_norm` over all trainable parameters, `chunks`: how many of
    `train.packing` a loop over the concepts ran, the mean of all loops of the step; and `unreadable`: how
    many pairs of the batch replace some that could not be read.

    Args:
        prepare: makes what `train.forward.pass_inputs` reads from (part of) a batch of the pipeline.
        prompting: how prompts are made of the references.
        reversal: whether there is a reversed pass.
    """
    settings = config.train

    def on_device(params: Params, untrained: Params, text_table, key, totals, rows, batch, negatives):
        """Return what the rows of a device add to metrics and gradient, and their features for the queue."""
        packed = loss_and_gradients(
            config.model,
            params,
            untrained,
            batch,
            text_table,
            draw_points(key, rows, batch["valid"].shape[1], num_points=settings.num_points),
            totals,
            negatives,
            negative_weight=settings.negative_weight,
            prompting=prompting,
            reversal=reversal,
            remat=settings.remat,
        )
        # The first concept is never a negative prompt.
        metrics = packed.metrics | {"chunks": packed.chunks / (mesh.size * settings.accumulate)}
        return jax.tree.map(lambda x: x[None], (metrics, packed.gradients)), packed.pooled[:, 0]

    # Each device loops over its own chunks. Sums over devices wait until all parts are added up.
    on_devices = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(P(), P(), P(), P(), P(), P("data"), P("data"), P("data")),
        out_specs=P("data"),
        check_vma=False,
    )

    def train_step(state: State, frozen: Frozen, batch: Batch) -> tuple[State, Metrics]:
        if settings.split_backbone:
            # Gathered before they are used: XLA would else exchange activations, which are larger.
            weights = jax.lax.with_sharding_constraint(frozen.backbone, replicated(mesh))
            frozen = frozen._replace(backbone=weights)
        rows = jnp.arange(settings.batch_size)
        key = jax.random.fold_in(jax.random.key(settings.seed), state["step"])
        points_key, negatives_key = jax.random.split(key)
        queue, negatives = state["queue"], None
        if queue:
            candidates = batch["negative_rows"]
            negatives = choose(queue, negatives_key, rows, candidates, batch["valid"].shape[1])
        totals = batch_totals(mask_weights(batch["valid"], negatives, settings.negative_weight))
        inputs = {"batch": batch, "rows": rows, "negatives": negatives}

        def run_part(part):
            return on_devices(
                state["params"],
                frozen.untrained,
                frozen.text_table,
                points_key,
                totals,
                part["rows"],
                prepare(config.model, frozen, part["batch"]),
                part["negatives"],
            )

        if settings.accumulate == 1:
            sums, pooled = run_part(inputs)
        else:
            # Every accumulate-th row, so that each device computes on its own rows.
            parts = jax.tree.map(lambda x: _strided(x, settings.accumulate), inputs)
            zeros = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype),
                jax.eval_shape(run_part, jax.tree.map(lambda x: x[0], parts))[0],
            )

            def add(sums, part):
                terms, pooled = run_part(part)
                return jax.tree.map(jnp.add, sums, terms), pooled

            sums, pooled = jax.lax.scan(add, zeros, parts)
            pooled = jnp.moveaxis(pooled, 0, 1).reshape(settings.batch_size, -1)
        metrics, gradients = jax.tree.map(lambda x: x.sum(0), sums)

        updates, opt_state = optimizer.update(gradients, state["opt_state"], state["params"])
        state = {
            "step": state["step"] + 1,
            "params": optax.apply_updates(state["params"], updates),
            "opt_state": opt_state,
            "queue": push(queue, batch["class_row"], pooled) if queue else queue,
        }
        metrics |= {"grad_norm": optax.tree.norm(gradients), "unreadable": batch["unreadable"].sum()}
        return state, metrics

    return jax.jit(train_step, donate_argnums=0, out_shardings=replicated(mesh))


def _strided(x: Array, parts: int) -> Array:
    """Split [rows, ...] into [parts, rows / parts, ...]."""
    return jnp.moveaxis(x.reshape(len(x) // parts, parts, *x.shape[1:]), 1, 0)
