"""Compare the clusters of the training-free method with scikit-learn's, which the official code calls."""

import numpy as np
import pytest
from requirements import require_module

from segic_jax.inference.training_free.clusters import cluster_labels, distances

cluster = require_module("sklearn.cluster")


@pytest.mark.parametrize("channels", [3, 8, 64])
@pytest.mark.parametrize("similarity", [0.2, 0.6, 0.9])
def test_the_partition_is_the_same(channels, similarity):
    random = np.random.default_rng(channels)
    centres = random.normal(size=(12, channels))
    features = centres[random.integers(0, 12, 400)] + 0.6 * random.normal(size=(400, channels))
    features[:30] = features[0]  # patches of equal colour, whose distances are 0
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    distance = np.asarray(distances(features.astype(np.float32)))
    model = cluster.AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1 - similarity
    )
    expected = model.fit_predict(distance)
    labels = cluster_labels(distance, np.ones(len(distance), bool), similarity)
    pairs = np.unique(np.stack([labels, expected]), axis=1)
    assert pairs.shape[1] == labels.max() + 1 == expected.max() + 1
