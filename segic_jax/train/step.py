"""One training step: frozen features of both pictures, the loss of the head, AdamW.

State is {"step", "params", "opt_state"}, where params are the trainable part of the head; the frozen rest
is an argument. The loss is a sum over the global batch, so the number of devices does not matter.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from segic_jax.config import Config
from segic_jax.distributed import replicated
from segic_jax.models.segic import extract
from segic_jax.params import Params
from segic_jax.train.losses import draw_points, train_loss

State = dict  # "step": int32 [], "params": Params, "opt_state": optax's
Batch = dict[str, Array]  # segic_jax.data.pipeline
Metrics = dict[str, Float[Array, ""]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Frozen:
    """What a step reads and never changes."""

    backbone: Params
    untrained: Params  # the parameters of the head that no gradient reaches
    text_table: Float[Array, "prompts text_width"]


def init_state(optimizer: optax.GradientTransformation, params: Params, mesh: Mesh) -> State:
    """The state before the first step, on every device; `params` are there already."""
    # Without out_shardings the moments would lie on one device: zeros do not depend on params.
    opt_state = jax.jit(optimizer.init, out_shardings=replicated(mesh))(params)
    step = jax.jit(lambda: jnp.zeros((), jnp.int32), out_shardings=replicated(mesh))()
    return {"step": step, "params": params, "opt_state": opt_state}


def make_train_step(
    config: Config, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable[[State, Frozen, Batch], tuple[State, Metrics]]:
    """The compiled step; it consumes the state it is given.

    Metrics: `loss`, its four parts, and `grad_norm` over all trainable parameters.
    """

    def train_step(state: State, frozen: Frozen, batch: Batch) -> tuple[State, Metrics]:
        # Side by side, not one after the other: rows stay on the device they are on.
        images = jnp.stack([batch["target_image"], batch["reference_image"]], axis=1)
        sizes = jnp.stack([batch["target_size"], batch["reference_size"]], axis=1)
        rows = images.shape[0]
        features = extract(
            config.model, frozen.backbone, images.reshape(2 * rows, *images.shape[2:]), sizes.reshape(-1, 2)
        )
        features = features.reshape(rows, 2, *features.shape[1:])

        key = jax.random.fold_in(jax.random.key(config.train.seed), state["step"])
        points = draw_points(key, *batch["valid"].shape, num_points=config.train.num_points)

        def loss(params: Params):
            head = {**params, **frozen.untrained}
            return train_loss(
                config.model, head, features[:, 0], features[:, 1], batch, frozen.text_table, points
            )

        (value, parts), gradients = jax.value_and_grad(loss, has_aux=True)(state["params"])
        updates, opt_state = optimizer.update(gradients, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        metrics = {"loss": value, **parts, "grad_norm": optax.global_norm(gradients)}
        return {"step": state["step"] + 1, "params": params, "opt_state": opt_state}, metrics

    return jax.jit(train_step, donate_argnums=0, out_shardings=replicated(mesh))
