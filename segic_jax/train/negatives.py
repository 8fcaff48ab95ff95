"""Negative prompts: concepts that are in neither image of a pair, for which nothing is to be found.

A queue keeps the latest features of every class, as references showed them; a prompt of another image's
class is made of one of them and the class's name (segic.py:577-614, 763-782). The queue is part of the
training's state: the same on every device, and in every checkpoint.

Where the official code slips, this does not: classes must be absent from both images, since the reversed
pass segments the reference; features come from true masks, never from predicted ones, and empty ones are left
out; every class keeps its own name.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segic_jax.train.forward import NegativeBatch

MOST = 9  # beside the class itself: officially ten prompts in all (segic.py:712)

Queue = dict[str, Array]  # "features" [classes, length, channels], "count" [classes], all ever put in


def empty_queue(classes: int, length: int, channels: int) -> Queue:
    """Nothing of any class; a class is a row of the text table."""
    return {
        "features": jnp.zeros((classes, length, channels), jnp.float32),
        "count": jnp.zeros(classes, jnp.int32),
    }


def push(queue: Queue, classes: Int[Array, " batch"], features: Float[Array, "batch channels"]) -> Queue:
    """Put the features of a batch in, in its order; the oldest of a class fall out.

    Args:
        classes: rows of the queue; below 0 for none.
        features: zeros (of a reference whose mask is too small for the grid) are left out.
    """
    known, length = queue["features"].shape[:2]
    wanted = (classes >= 0) & features.any(-1)
    same = (classes[:, None] == classes) & wanted
    earlier = jnp.tril(same, -1).sum(1)
    later = jnp.triu(same, 1).sum(1)
    # A class with more features than places in one batch keeps the last ones.
    row = jnp.where(wanted & (later < length), classes, known)
    place = (queue["count"][classes] + earlier) % length
    return {
        "features": queue["features"].at[row, place].set(features, mode="drop"),
        "count": queue["count"].at[jnp.where(wanted, classes, known)].add(1, mode="drop"),
    }


def choose(
    queue: Queue,
    key: jax.Array,
    rows: Int[Array, " batch"],
    candidates: Int[Array, "batch candidates"],
    concepts: int,
) -> NegativeBatch:
    """Negative prompts for the slots from the second on, as many as there are features, at most MOST.

    Args:
        key: made from (seed, step).
        rows: places in the global batch; random numbers depend on them.
        candidates: shuffled classes that are in neither image; below 0 for none. The forward pass takes
            those at the front, the reversed one those at the end.
        concepts: slots of a pair.
    """
    count = min(MOST, concepts - 1)
    order = jnp.stack([candidates, candidates[:, ::-1]], axis=1)  # [batch, passes, candidates]
    there = (order >= 0) & (queue["count"][order] > 0)
    first = jnp.argsort(~there, axis=-1, stable=True)[..., :count]
    chosen = jnp.take_along_axis(order, first, axis=-1)
    valid: Bool[Array, "batch passes count"] = jnp.take_along_axis(there, first, axis=-1)
    uniform = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row), (2, count)))(rows)
    kept = jnp.minimum(queue["count"][chosen], queue["features"].shape[1])
    features = queue["features"][chosen, (uniform * kept).astype(jnp.int32)]

    def in_slots(values):
        fill = [(0, 0), (0, 0), (1, concepts - 1 - values.shape[2])] + [(0, 0)] * (values.ndim - 3)
        return jnp.pad(values, fill)

    return NegativeBatch(in_slots(valid), in_slots(features), in_slots(jnp.where(valid, chosen, 0)))
