"""Compute the loss and its gradients from the concept slots that are used, a few at a time.

A pair has as many slots as `data.max_concepts`, of which a semantic pair uses one. The loss is a sum over
masks divided by totals that are known beforehand, so the used slots of a device's pairs are packed next to
each other and decoded in chunks of CHUNK slots: a loop over as many chunks as there are, each adding its loss
and its gradients. No slot is left out, whatever a batch holds, and every shape is static.

What does not depend on trained parameters is computed once, outside of the loop, and so is the neck, which
runs once an image: the loop adds up the gradient of its result. The loss is that of `train.losses.train_loss`
on `train.forward.train_forward`, which tests hold this module against.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.models.correspondence import grid_masks
from segic_jax.models.encoding import Prototypes
from segic_jax.models.features import Features
from segic_jax.models.head import head_template
from segic_jax.models.params import AnyArray, Params
from segic_jax.models.segic import decode_embedded
from segic_jax.train.forward import (
    SEGIC,
    NegativeBatch,
    PassInputs,
    Prompting,
    pass_inputs,
    predicted_inside,
)
from segic_jax.train.losses import PointDraws, Totals, mask_weights, pass_losses

CHUNK = 4  # slots that are decoded together
_NECK = ("neck/", "fine_projections/")  # run once an image


class PackedLoss(NamedTuple):
    """Hold what some pairs add to the loss of a batch."""

    metrics: dict[str, Float[Array, ""]]  # "loss" and its terms
    gradients: Params
    pooled: Float[Array, "batch concepts channels"]  # of the reference masks
    chunks: Float[Array, ""]  # that a loop over the slots ran, the mean of both passes


class _Slots(NamedTuple):
    """Hold what a pass reads of every slot by itself."""

    similarity: Float[Array, "*slots quarter quarter"]
    level_maps: Float[Array, "*slots levels quarter quarter"] | None
    boxes: Float[Array, "*slots 4"]
    targets: Bool[Array, "*slots S S"]
    points: PointDraws | Array
    weights: Float[Array, "*slots"]  # 0 where a slot is not used
    negative: Bool[Array, "*slots"] | None


class _Pairs(NamedTuple):
    """Hold what all slots of a pair read."""

    prototypes: Prototypes
    use_box: Bool[Array, " batch"]
    use_cross: Bool[Array, " batch"]


def loss_and_gradients(
    config: ModelConfig,
    params: Params,
    untrained: Params,
    batch: Mapping[str, Any],
    text_table: Float[AnyArray, "prompts text_width"],
    points: PointDraws | Float[AnyArray, "batch passes concepts points 2"],
    totals: Totals,
    negatives: NegativeBatch | None = None,
    *,
    negative_weight: float = 0.1,
    prompting: Prompting = SEGIC,
    reversal: bool = True,
    remat: bool = False,
    chunk: int = CHUNK,
) -> PackedLoss:
    """Return the loss of some pairs of a batch, and its gradient with respect to `params`.

    Args:
        params, untrained: together the parameters of the head.
        batch, negatives: see `train.forward.pass_inputs`.
        points: of the losses; `train.losses.draw_points(key, ...)`, or the points themselves (x, y in 0..1).
        totals: `train.losses.batch_totals` of the global batch.
        remat: compute the activations of a chunk again for the gradient, to save memory.
        chunk: slots that are decoded together.
    """
    passes = 2 if reversal else 1
    weights = mask_weights(batch["valid"], negatives, negative_weight)
    inside = grid_masks(batch["reference_masks"], config.grid)
    terms, gradients, pooled, chunks = {}, [], [], []
    for index in range(passes):

        def chunk_loss(head, images: Features, slots: _Slots, pairs: _Pairs, concepts, index=index):
            """Return what some slots add to the loss; its terms; their predicted masks on the grid."""
            geometric = prompting.locate(slots.similarity[:, None], config.canvas)
            if slots.level_maps is not None:
                geometric = geometric._replace(level_maps=slots.level_maps[:, None])
            decoded = decode_embedded(
                config,
                head,
                images,
                pairs.prototypes,
                geometric,
                boxes=slots.boxes[:, None],
                use_box=pairs.use_box,
                use_cross=pairs.use_cross,
                rows=concepts[:, None],
            )
            terms = pass_losses(
                decoded.logits[:, 0],
                decoded.iou[:, 0],
                slots.targets,
                slots.points,
                slots.weights,
                slots.negative,
                totals,
                index,
            )
            loss = jnp.stack(list(terms.values())).sum() / passes
            return loss, (terms, predicted_inside(config, decoded.logits)[:, 0])

        inputs = pass_inputs(config, index, batch, inside, text_table, negatives, prompting)
        slots = _Slots(
            inputs.similarity,
            inputs.level_maps,
            inputs.boxes,
            batch["reference_masks" if index else "target_masks"],
            jax.tree.map(lambda x, index=index: x[:, index], points),
            weights[:, index],
            None if negatives is None else negatives.valid[:, index],
        )
        run_chunk = jax.checkpoint(chunk_loss) if remat else chunk_loss
        pass_terms, pass_gradients, inside, pass_chunks = _add_chunks(
            run_chunk, config, params, untrained, inputs, slots, chunk
        )
        terms |= pass_terms
        gradients.append(pass_gradients)
        pooled.append(inputs.pooled)
        chunks.append(pass_chunks)
    metrics = {"loss": jnp.stack(list(terms.values())).sum() / passes, **terms}
    gradients = jax.tree.map(lambda *each: sum(each), *gradients)
    return PackedLoss(metrics, gradients, pooled[0], jnp.stack(chunks).mean())


def _add_chunks(
    chunk_loss: Callable,
    config: ModelConfig,
    params: Params,
    untrained: Params,
    inputs: PassInputs,
    slots: _Slots,
    chunk: int,
) -> tuple[dict[str, Array], Params, Float[Array, "batch concepts g g"], Int[Array, ""]]:
    """Return the sums of terms and gradients, the predicted masks on the grid, and how many chunks ran."""
    neck = {name: value for name, value in params.items() if name.startswith(_NECK)}
    decoder = {name: value for name, value in params.items() if name not in neck}

    def embed(neck):
        return head_template(config).bind({**untrained, **decoder, **neck}).embed_image(inputs.features)

    images, pull_back = jax.vjp(embed, neck)
    pairs = _Pairs(inputs.prototypes, inputs.use_box, inputs.use_cross)

    batch, concepts = slots.weights.shape
    slots = jax.tree.map(lambda x: x.reshape(batch * concepts, *x.shape[2:]), slots)
    used = slots.weights > 0
    count, size = used.sum(), min(chunk, len(used))
    chunks = -(-len(used) // size)  # at most
    needed = -(-count // size)
    # The used slots first; what fills the last chunk is beyond the last slot.
    order = jnp.pad(
        jnp.argsort(~used, stable=True), (0, chunks * size - len(used)), constant_values=len(used)
    )

    def run_chunk(number):
        """Return the pairs of a chunk; its terms and predicted masks; its gradients."""
        chosen = jax.lax.dynamic_slice_in_dim(order, number * size, size)
        pair, concept = chosen // concepts, chosen % concepts
        in_chunk = jax.tree.map(lambda x: x[chosen], slots)
        is_used = number * size + jnp.arange(size) < count
        in_chunk = in_chunk._replace(weights=jnp.where(is_used, in_chunk.weights, 0))

        def loss(decoder, images):
            head = {**untrained, **neck, **decoder}
            return chunk_loss(head, images, in_chunk, jax.tree.map(lambda x: x[pair], pairs), concept)

        (_, aux), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(
            decoder, jax.tree.map(lambda x: x[pair], images)
        )
        return pair, aux, gradients

    def add_chunk(state):
        number, terms, inside, gradient, image_gradient = state
        pair, (new_terms, new_inside), (new_gradient, new_image_gradient) = run_chunk(number)
        return (
            number + 1,
            jax.tree.map(jnp.add, terms, new_terms),
            jax.lax.dynamic_update_slice_in_dim(inside, new_inside, number * size, 0),
            jax.tree.map(jnp.add, gradient, new_gradient),
            jax.tree.map(lambda total, new: total.at[pair].add(new), image_gradient, new_image_gradient),
        )

    shapes = jax.eval_shape(run_chunk, jnp.int32(0))
    start = (
        jnp.int32(0),
        jax.tree.map(lambda term: jnp.zeros(term.shape, term.dtype), shapes[1][0]),
        jnp.zeros((chunks * size, config.grid, config.grid), jnp.float32),
        jax.tree.map(jnp.zeros_like, decoder),
        jax.tree.map(jnp.zeros_like, images),
    )
    ran, terms, inside, gradient, image_gradient = jax.lax.while_loop(
        lambda state: state[0] < needed, add_chunk, start
    )
    in_slots = jnp.zeros((len(used), *inside.shape[1:]), inside.dtype).at[order].set(inside, mode="drop")
    gradients = {**gradient, **pull_back(image_gradient)[0]}
    return terms, gradients, in_slots.reshape(batch, concepts, *inside.shape[1:]), ran
