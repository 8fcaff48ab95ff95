"""Number the episodes of all folds, with what a model is given besides the images."""

from collections.abc import Sequence

import numpy as np

from segic_jax.data.episodes import Episode, EpisodeSource, Manifest
from segic_jax.errors import DataError
from segic_jax.evaluate.episode_stream import Task
from segic_jax.weights.bundle import Bundle


def make_tasks(
    bundle: Bundle,
    source: EpisodeSource,
    manifests: Sequence[Manifest],
    *,
    class_names: bool = False,
    wrong_references: bool = False,
) -> list[Task]:
    """Number the episodes of all folds and add what the model is given besides images.

    Args:
        class_names: give the class's name as text, instead of the empty prompt.
        wrong_references: add a reference of another class, for that baseline, if all folds have several.

    Raises:
        DataError: there are no episodes, or some have no reference.
        BundleError: the model cannot encode a class name.
    """
    if not all(episode.references for manifest in manifests for episode in manifest.episodes):
        raise DataError(f"{source.name} has episodes without a reference; give it at least one shot.")
    tasks: list[Task] = []
    text: dict[str, np.ndarray] = {}
    orders = [other_class_episodes(manifest.episodes) for manifest in manifests]
    wrong_references = wrong_references and None not in orders
    for manifest, order in zip(manifests, orders, strict=True):
        for number, episode in enumerate(manifest.episodes):
            name = source.class_name(episode.class_id) if class_names else ""
            if name not in text:
                text[name] = bundle.text_feature(name)
            wrong = None
            if wrong_references and order is not None:
                wrong = manifest.episodes[order[number]].reference_views[0]
            tasks.append(Task(len(tasks), manifest.fold, episode, text[name], wrong))
    if not tasks:
        raise DataError(f"{source.name} has no episodes.")
    return tasks


def other_class_episodes(episodes: Sequence[Episode]) -> list[int] | None:
    """Return for each episode the index of one of another class; None if there is only one class.

    It is the first one from half the list further on.
    """
    if len({episode.class_id for episode in episodes}) < 2:
        return None
    count = len(episodes)
    return [
        next(
            other
            for step in range(count)
            if episodes[other := (index + count // 2 + step) % count].class_id != episode.class_id
        )
        for index, episode in enumerate(episodes)
    ]
