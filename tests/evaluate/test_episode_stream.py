"""Test the stream of episodes: static shapes, order, and independence of other episodes."""

import dataclasses

import numpy as np
import pytest
from tiny import DiskSource, bundle

from segic_jax.data.episodes import LabelledImage
from segic_jax.errors import DataError
from segic_jax.evaluate.episode_stream import predict_episodes
from segic_jax.evaluate.episode_tasks import make_tasks
from segic_jax.inference import engine
from segic_jax.inference.engine import Engine


@pytest.fixture(scope="module")
def model():
    return bundle()


def predict(model, source=None, manifest=None, score=lambda prediction: prediction, **options):
    source = source or DiskSource()
    tasks = make_tasks(model, source, [manifest or source.manifest("", 0, 1)], wrong_references=True)
    return list(predict_episodes({"segic": Engine(model)}, source, tasks, score, **options))


def test_predictions_have_the_order_of_tasks(model):
    predictions = predict(model, in_flight=3)
    assert [prediction.task.index for prediction in predictions] == list(range(8))
    for prediction in predictions:
        assert set(prediction.logits) == {"segic", "wrong_reference"}
        assert (prediction.similarity, prediction.reference) == (None, None)
        truth = DiskSource().load(prediction.task.episode.target_view)
        np.testing.assert_array_equal(prediction.target.mask, truth.mask)


def test_similarity_and_references_are_returned_on_request(model):
    for prediction in predict(model, similarity=True, references=True):
        reference = DiskSource().load(prediction.task.episode.reference_views[0])
        np.testing.assert_array_equal(prediction.reference.image, reference.image)
        assert -1 <= prediction.similarity.min() < prediction.similarity.max() <= 1 + 1e-6


def test_the_baseline_without_a_reference_ignores_it(model):
    manifest = DiskSource().manifest("", 0, 1)
    logits = []
    for order in (slice(None), slice(None, None, -1)):
        pairs = zip(manifest.episodes, manifest.episodes[order], strict=True)
        episodes = tuple(dataclasses.replace(a, references=b.references) for a, b in pairs)
        changed = dataclasses.replace(manifest, episodes=episodes)
        logits.append(predict(model, None, changed, lambda p: p.logits["no_reference"], no_reference=True))
    np.testing.assert_array_equal(*logits)


def test_each_reference_is_encoded_once(model):
    class CountingSource(DiskSource):
        def __init__(self):
            self.loaded = []

        def load(self, view):
            self.loaded.append(view)
            return super().load(view)

    source = CountingSource()
    predict(model, source)
    assert len(source.loaded) == 8 + 8  # each of the 8 images is once a target and once a reference


def test_results_before_an_unreadable_target_are_given_first(model):
    class DamagedSource(DiskSource):
        """The target of the sixth episode cannot be read; its image can, as a reference."""

        def __init__(self):
            episodes = self.manifest("", 0, 1).episodes
            self.damaged = episodes[5].target_view
            self.good_reads = any(self.damaged in episode.reference_views for episode in episodes)

        def load(self, view):
            if view == self.damaged:
                if not self.good_reads:
                    raise DataError("the sixth target is damaged")
                self.good_reads = False
            return super().load(view)

    source = DamagedSource()
    tasks = make_tasks(model, source, [source.manifest("", 0, 1)])
    results = predict_episodes({"segic": Engine(model)}, source, tasks, lambda p: p.task.index)
    for index in range(5):
        assert next(results) == index
    with pytest.raises(DataError, match="the sixth target is damaged"):
        next(results)


def test_programs_are_compiled_once_for_all_sizes(model):
    predict(model, no_reference=True)
    programs = (engine.extract, engine._pool, engine._decode)
    before = [program._cache_size() for program in programs]

    class CroppedSource(DiskSource):
        def load(self, view):
            image, mask, *_ = super().load(view)
            rows = 30 + int(view.image_name)
            return LabelledImage(image[:rows, 5:], mask[:rows, 5:])

    predict(model, CroppedSource(), no_reference=True, in_flight=3)
    assert [program._cache_size() for program in programs] == before
