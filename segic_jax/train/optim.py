"""Make the optimizer: AdamW on the trainable parameters, with a learning rate that depends on the step."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import optax

from segic_jax.config import OptimConfig

# Never reached by a gradient (`out.params_without_grad` of the official code): every concept has a mask
# prompt, and the Fourier matrix is a constant.
UNTRAINED = ("prompt_encoder/no_mask_embed/", "prompt_encoder/pe_layer/")
SCORE = "mask_decoder/iou_prediction_head/"  # only the score loss of negative prompts reads the predicted IoU


def trainable_names(head: Iterable[str], *, score: bool = False) -> list[str]:
    """Return the names of the parameters that the loss reaches; only these are updated and decayed.

    Args:
        score: whether there is a score loss.
    """
    untrained = UNTRAINED if score else (*UNTRAINED, SCORE)
    return [name for name in head if not name.startswith(untrained)]


def learning_rate(config: OptimConfig, total_steps: int) -> optax.Schedule:
    """Return the schedule: step -> learning rate.

    'step' multiplies by gamma at every multiple of drop_at * total_steps (torch's StepLR), 'cosine'
    falls to 0 at total_steps; both rise linearly over the first warmup_steps.
    """
    drop_every = max(round(config.drop_at * total_steps), 1)

    def rate(step):
        if config.schedule == "step":
            scale = config.gamma ** (step // drop_every)
        else:
            progress = (step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1)
            scale = (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1))) / 2
        warmup = jnp.minimum((step + 1) / max(config.warmup_steps, 1), 1)
        return config.learning_rate * scale * warmup

    return rate


def make_optimizer(config: OptimConfig, total_steps: int) -> optax.GradientTransformation:
    """Return torch's AdamW. Give it trainable parameters only: it decays whatever it is given."""
    return optax.chain(
        optax.scale_by_adam(b1=config.betas[0], b2=config.betas[1], eps=config.eps),
        _decayed_step(learning_rate(config, total_steps), config.weight_decay),
    )


def _decayed_step(rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """Apply decay and step in torch's order, which is not `optax.adamw`'s: decay by a factor, then the step.

    The factor 1 - 1e-4 * 1e-4 of the official settings is 1 in float32: officially nothing decays. Adding
    the decay to the step moves a weight by as much as the rounding of 36 steps.
    """

    def update(directions, state, params):
        now = rate(state.count)
        changes = jax.tree.map(lambda p, d: p * (1 - now * weight_decay) - now * d - p, params, directions)
        return changes, optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(
        lambda params: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update
    )
