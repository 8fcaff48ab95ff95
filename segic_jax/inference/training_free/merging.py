"""Choose a seed among the clusters of a target, and join to it what belongs to the same object.

Follows insid3.py:299-354. Arrays over clusters have as many places as there are patches.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segic_jax.inference.training_free.debias import EPSILON
from segic_jax.models.layers import l2_normalise
from segic_jax.models.params import AnyArray


class Clusters(NamedTuple):
    """Describe the clusters of a target; an unused place has size 0 and zero features."""

    labels: Int[AnyArray, " patches"]
    on_image: Bool[AnyArray, " patches"]
    size: Float[AnyArray, " clusters"]
    plain: Float[Array, "clusters channels"]  # mean feature, of unit length
    debiased: Float[Array, "clusters channels"]  # the same of debiased features


class Merged(NamedTuple):
    """Hold which patches belong to the mask of each concept, and how well they fit it."""

    inside: Bool[AnyArray, "concepts patches"]
    score: Float[Array, "concepts patches"]  # of the patch's cluster
    confidence: Float[Array, " concepts"]  # similarity of the seed to the prototype, 0..1


def describe_clusters(
    unit: Float[AnyArray, "patches channels"],
    debiased: Float[AnyArray, "patches channels"],
    labels: Int[AnyArray, " patches"],
    on_image: Bool[AnyArray, " patches"],
) -> Clusters:
    """Return sizes and mean features of the clusters."""

    def sums(values):
        weighted = values * on_image.reshape(-1, *[1] * (values.ndim - 1))
        return jax.ops.segment_sum(weighted, labels, len(labels))

    size = sums(jnp.ones(len(labels)))
    means = (
        l2_normalise(sums(values) / jnp.maximum(size, 1)[:, None], EPSILON) for values in (unit, debiased)
    )
    return Clusters(labels, on_image, size, *means)


def merge_clusters(
    clusters: Clusters,
    prototypes: Float[AnyArray, "concepts channels"],
    similarity: Float[AnyArray, "concepts patches"],
    candidates: Bool[AnyArray, "concepts patches"],
    least: float,
) -> Merged:
    """Return the mask of each concept: the clusters whose score is above `least`.

    The seed is the cluster with a candidate that looks most like the prototype. The score of a cluster is its
    similarity to the prototype, times that to the seed, times its share of candidates, which is 1 for the
    seed.

    Args:
        similarity: cosine of each patch to the prototype.
    """
    number = len(clusters.labels)

    def sums(values):
        return jax.vmap(lambda row: jax.ops.segment_sum(row * clusters.on_image, clusters.labels, number))(
            values.astype(jnp.float32)
        )

    found = sums(candidates)
    likeness = prototypes @ clusters.debiased.T
    seed = jnp.argmax(jnp.where(found > 0, likeness, -jnp.inf), axis=-1)
    size = jnp.maximum(clusters.size, 1)
    share = jnp.where(jnp.arange(number) == seed[:, None], 1, found / size)
    score = sums(similarity) / size * (clusters.plain[seed] @ clusters.plain.T) * share
    any_found = jnp.any(candidates, axis=-1, keepdims=True)
    per_patch = jnp.where(any_found & clusters.on_image, score[:, clusters.labels], 0)
    confidence = jnp.take_along_axis(likeness, seed[:, None], axis=-1)[:, 0]
    return Merged(
        (per_patch > least) & any_found & clusters.on_image,
        per_patch,
        jnp.where(any_found[:, 0], jnp.clip(confidence, 0, 1), 0),
    )
