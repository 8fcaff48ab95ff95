"""Choose negative prompts: concepts that are in neither image of a pair, whose mask is empty.

A queue keeps the latest pooled features of every class; a negative prompt is made of one of them and the name
of its class (segic.py:577-614, 763-782). The queue is part of the training's state: the same on every device,
and in every checkpoint.

Three mistakes of the official code are not repeated: classes are absent from both images, since the reversed
pass segments the reference; features come from true masks, never from predicted ones, and empty ones are left
out; every class keeps its own name.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segic_jax.models.params import AnyArray
from segic_jax.train.forward import NegativeBatch

MAX_NEGATIVES = 9  # beside the class itself: officially ten prompts in all (segic.py:712)

Queue = dict[str, Array]  # "features" [classes, length, channels], "count" [classes], all ever put in


def empty_queue(classes: int, length: int, channels: int) -> Queue:
    """Return a queue without features; a class is a row of the text table."""
    return {
        "features": jnp.zeros((classes, length, channels), jnp.float32),
        "count": jnp.zeros(classes, jnp.int32),
    }


def push(queue: Queue, classes: Int[Array, " batch"], features: Float[Array, "batch channels"]) -> Queue:
    """Append the features of a batch in its order; the oldest ones of a class are dropped.

    Args:
        classes: rows of the queue; below 0 for none.
        features: zeros (of a mask too small for the grid) are left out.
    """
    num_classes, length = queue["features"].shape[:2]
    used = (classes >= 0) & features.any(-1)
    same = (classes[:, None] == classes) & used
    earlier = jnp.tril(same, -1).sum(1)
    later = jnp.triu(same, 1).sum(1)
    # Of more features than fit into the queue of a class, a batch leaves the last ones.
    row = jnp.where(used & (later < length), classes, num_classes)
    place = (queue["count"][classes] + earlier) % length
    return {
        "features": queue["features"].at[row, place].set(features, mode="drop"),
        "count": queue["count"].at[jnp.where(used, classes, num_classes)].add(1, mode="drop"),
    }


def choose(
    queue: Queue,
    key: jax.Array,
    rows: Int[AnyArray, " batch"],
    candidates: Int[AnyArray, "batch candidates"],
    concepts: int,
) -> NegativeBatch:
    """Choose negative prompts for the slots from the second on, at most MAX_NEGATIVES.

    Only classes that have features in the queue are chosen.

    Args:
        key: made from (seed, step).
        rows: places in the global batch; random numbers depend on them.
        candidates: shuffled classes that are in neither image; below 0 for none. The forward pass takes
            those at the front, the reversed one those at the end.
        concepts: slots of a pair.
    """
    count = min(MAX_NEGATIVES, concepts - 1)
    order = jnp.stack([candidates, candidates[:, ::-1]], axis=1)  # [batch, passes, candidates]
    usable = (order >= 0) & (queue["count"][order] > 0)
    first = jnp.argsort(~usable, axis=-1, stable=True)[..., :count]
    chosen = jnp.take_along_axis(order, first, axis=-1)
    valid: Bool[Array, "batch passes count"] = jnp.take_along_axis(usable, first, axis=-1)
    uniform = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row), (2, count)))(rows)
    kept = jnp.minimum(queue["count"][chosen], queue["features"].shape[1])
    features = queue["features"][chosen, (uniform * kept).astype(jnp.int32)]

    def in_slots(values):
        fill = [(0, 0), (0, 0), (1, concepts - 1 - values.shape[2])] + [(0, 0)] * (values.ndim - 3)
        return jnp.pad(values, fill)

    return NegativeBatch(in_slots(valid), in_slots(features), in_slots(jnp.where(valid, chosen, 0)))
