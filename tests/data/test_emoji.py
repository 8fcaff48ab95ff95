"""Test the embedded benchmark: splits, artists, scenes and their masks."""

from dataclasses import replace

import numpy as np
import pytest

from segic_jax.data.emoji.compose import BENCHMARK_STYLE, MIN_VISIBLE, TRAINING_STYLE, SceneStyle, compose
from segic_jax.data.emoji.source import SCENES, EmojiPairs, EmojiSource, distractors, two_artists
from segic_jax.data.emoji.sprites import FAMILY, SpriteBank, sprite
from segic_jax.data.sources.folder import FolderSource, export
from segic_jax.errors import DataError

SPLITS = ("base", "validation", "novel")


def test_no_class_is_in_two_splits():
    names = [{concept.name for concept in SpriteBank.load(split).classes} for split in SPLITS]
    assert [len(split) for split in names] == [497, 40, 64]
    assert len(set.union(*names)) == sum(map(len, names))


def test_names_of_validation_and_novel_classes_share_no_word_with_other_classes():
    def distinctive_words(concept):
        return {
            word for word in concept.name.split("_") if len(word) > 3 and word not in ("with", "face", "done")
        }

    concepts = [(split, concept) for split in SPLITS for concept in SpriteBank.load(split).classes]
    for split, concept in concepts:
        if split != "base":
            related = [
                other.name
                for _, other in concepts
                if other != concept and distinctive_words(other) & distinctive_words(concept)
            ]
            assert not related, f"{concept.name}: {related}"


def test_the_reference_is_by_another_family_of_artists():
    rng = np.random.default_rng(0)
    for concept in SpriteBank.load("novel").classes:
        families = {FAMILY.get(artist, artist) for artist in concept.artists}
        for _ in range(5):
            first, second = two_artists(rng, concept)
            assert first != second
            assert len(families) == 1 or FAMILY.get(first, first) != FAMILY.get(second, second)


def test_distractors_are_of_other_classes():
    bank, rng = SpriteBank.load("validation"), np.random.default_rng(1)
    for concept in bank.classes:
        names = [name for name, _ in distractors(rng, bank, [concept], 5)]
        assert concept.name not in names
        assert len(set(names)) == 5


def test_an_unoccluded_mask_has_the_area_of_the_scaled_sprite():
    """Check the area of masks without occlusion, at any rotation of the sprite."""
    style = SceneStyle(smallest=0.4, largest=0.4, hue=0.0, colour=0.0)
    concept = SpriteBank.load("novel").classes[0]
    alpha = sprite(concept.name, concept.artists[0])[0][..., 3]
    expected = (alpha > 127).sum() * (0.4 * 128 / max(alpha.shape)) ** 2
    for seed in range(20):
        rng = np.random.default_rng(seed)
        image, labels = compose(rng, [(concept.name, concept.artists[0])], 128, style)
        assert image.shape == (128, 128, 3)
        touches_border = labels[[0, -1]].any() or labels[:, [0, -1]].any()
        if not touches_border:
            assert (labels == 1).sum() == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("style", [BENCHMARK_STYLE, TRAINING_STYLE])
def test_the_object_stays_visible(style):
    bank, rng = SpriteBank.load("base"), np.random.default_rng(2)
    for concept in bank.classes[::25]:
        others = distractors(rng, bank, [concept], 3)
        _, labels = compose(rng, [(concept.name, concept.artists[0]), *others], 128, style)
        assert (labels == 1).sum() > MIN_VISIBLE * 0.01 * 128 * 128
        assert set(np.unique(labels)) <= {0, 1, 2, 3, 4}


def test_episodes_are_deterministic_and_use_every_scene_as_target_once():
    source = EmojiSource("novel")
    episodes = source.manifest("original", 0, 1).episodes
    targets = [episode.target_view for episode in episodes]
    assert len(targets) == len(set(targets)) == 64 * SCENES
    assert set(targets) == set(source.views())
    assert all(episode.target not in episode.references for episode in episodes)
    example, repeated = source.load(targets[7]), EmojiSource("novel").load(targets[7])
    assert np.array_equal(example.image, repeated.image)
    assert np.array_equal(example.mask, repeated.mask)
    with pytest.raises(DataError, match="at most 9 shots"):
        source.manifest("original", 0, 10)


def test_pairs_depend_on_the_generator_alone():
    pairs = EmojiPairs(SpriteBank.load("base"), canvas=64)
    first, second = (pairs.pair(np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first.target.image, second.target.image)
    assert first.target.masks.shape == (1, 64, 64)
    assert first.target.masks.any()
    assert first.reference.masks.any()


class TwoClasses(EmojiSource):
    """Limit the benchmark to the first two classes."""

    def manifest(self, protocol, fold, shots):
        manifest = super().manifest(protocol, fold, shots)
        return replace(manifest, episodes=manifest.episodes[: 2 * SCENES])


def test_export_reads_back_as_the_same_episodes(tmp_path):
    source = TwoClasses("validation")
    export(source, "original", tmp_path / "scenes")
    folder = FolderSource(tmp_path / "scenes")

    def episodes(source):
        return {
            (e.class_id, e.target.removesuffix(".jpg"), *(r.removesuffix(".jpg") for r in e.references))
            for e in source.manifest("original", 0, 1).episodes
        }

    assert episodes(folder) == episodes(source)
    for view in folder.views():
        original = view._replace(image_name=view.image_name.removesuffix(".jpg"))
        assert np.array_equal(folder.load(view).mask, source.load(original).mask)
