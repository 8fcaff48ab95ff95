"""Divide the patches of a target into clusters that look alike (utils/clustering.py).

The partition is that of scikit-learn's AgglomerativeClustering with average linkage, which calls SciPy's
`linkage` on the same distances.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from segic_jax.models.params import AnyArray


def distances(unit: Float[AnyArray, "patches channels"]) -> Float[Array, "patches patches"]:
    """Return 1 - cosine of all pairs."""
    return 1 - jnp.clip(unit @ unit.T, -1, 1)


def cluster_labels(
    distance: Float[np.ndarray, "patches patches"],
    on_image: Bool[np.ndarray, " patches"],
    similarity: float,
) -> Int32[np.ndarray, " patches"]:
    """Return the cluster of each patch, from 0; patches of the padding have 0 and belong to none.

    Args:
        similarity: clusters are joined while the mean cosine between them is above it.
    """
    labels = np.zeros(len(distance), np.int32)
    if not on_image.all():
        distance = distance[np.ix_(on_image, on_image)]
    if len(distance) > 1:
        tree = linkage(squareform(distance, checks=False), "average")
        below = np.nextafter(1 - similarity, 0)  # scikit-learn joins what is strictly below
        labels[on_image] = fcluster(tree, below, "distance") - 1
    return labels
