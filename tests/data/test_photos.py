"""Test scenes composed of cut-outs on photographs: masks, classes, and messages about bad files."""

import cv2
import numpy as np
import pytest
from layouts_photos import write_photos

from segic_jax.config import SourceConfig
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.data.photos import compose
from segic_jax.data.photos import source as photo_source
from segic_jax.data.photos.library import PhotoLibrary, cutout
from segic_jax.data.photos.source import PhotoScenePairs
from segic_jax.data.training_sources import open_pairs
from segic_jax.errors import DataError

CANVAS = 96
NO_EMOJI = SpriteBank("base")


def open_photos(root, **classes):
    return PhotoScenePairs(PhotoLibrary.open(write_photos(root / "photos", classes)), NO_EMOJI, CANVAS)


def test_a_pair_depends_on_seed_and_index_alone(tmp_path):
    root = str(write_photos(tmp_path / "photos"))
    first, again = (open_pairs(SourceConfig("photo_scenes", root), CANVAS) for _ in range(2))
    first.pair(np.random.default_rng(0))  # draws before do not matter
    for index in range(5):
        one, other = (source.pair(np.random.default_rng([3, index])) for source in (first, again))
        np.testing.assert_array_equal(one.target.image, other.target.image)
        np.testing.assert_array_equal(one.reference.masks, other.reference.masks)
        assert (one.name, one.absent) == (other.name, other.absent)


def compose_plainly(monkeypatch, seed, items, labels=None):
    """Compose on black without any effect."""
    monkeypatch.setattr(compose, "_recolour", lambda rng, source, vary, tone: source)
    monkeypatch.setattr(compose, "_shadow", lambda *_: None)
    monkeypatch.setattr(compose, "_photograph", lambda rng, scene: scene.astype(np.uint8))
    black = np.zeros((CANVAS, CANVAS, 3), np.float32)
    labels = np.zeros((CANVAS, CANVAS), np.uint8) if labels is None else labels
    return compose.compose(np.random.default_rng(seed), items, black, labels)


def test_the_mask_is_where_the_object_was_pasted(monkeypatch):
    level = np.zeros((40, 40, 4), np.uint8)
    cv2.circle(level, (20, 20), 18, (255, 255, 255, 255), -1)
    for seed in range(20):
        item = compose.SceneObject(1, (level,), smallest=0.2, largest=0.6, vary=1.0)
        image, labels = compose_plainly(monkeypatch, seed, [item])
        np.testing.assert_array_equal(labels == 1, image[..., 0] > 127)
        assert labels.any()


def test_an_object_of_another_class_hides_the_one_behind(monkeypatch):
    white, black = np.full((2, 40, 40, 4), 255, np.uint8)
    black[..., :3] = 0
    hidden = 0
    for seed in range(20):
        items = [
            compose.SceneObject(1, (white,), 0.6, 0.7, 0.0),
            compose.SceneObject(0, (black,), 0.6, 0.7, 0.0),
        ]
        image, labels = compose_plainly(monkeypatch, seed, items)
        assert (labels[image[..., 0] > 127] == 1).all()
        assert (image[..., 0][labels == 1] > 60).all()  # both soft edges may be there
        hidden += np.count_nonzero(labels) < 0.9 * (0.6 * CANVAS) ** 2
    assert hidden


def test_the_object_of_the_background_keeps_its_label(monkeypatch):
    labels = np.zeros((CANVAS, CANVAS), np.uint8)
    labels[20:60, 20:60] = 1
    _, drawn = compose_plainly(monkeypatch, 0, [], labels)
    np.testing.assert_array_equal(drawn, labels)


def test_a_part_of_an_annotated_photograph_shows_its_object(tmp_path):
    library = PhotoLibrary.open(write_photos(tmp_path / "photos", annotate="cup"))
    annotated = library.backgrounds[0]
    assert (annotated.name, library.backgrounds[1].name) == ("cup", "")
    for seed in range(20):
        _, labels = compose.photo_background(np.random.default_rng(seed), annotated, CANVAS, label=2)
        assert set(np.unique(labels)) == {0, 2}
        assert np.count_nonzero(labels) > 0.08 * CANVAS**2
    _, labels = compose.photo_background(np.random.default_rng(0), annotated, CANVAS)
    assert not labels.any()


def test_annotated_photographs_take_the_place_of_cutouts(tmp_path):
    """The object of the photograph is a square, which is fuller than the discs that are pasted."""
    root = write_photos(tmp_path / "photos", {"cup": 1}, annotate="cup")
    source = PhotoScenePairs(PhotoLibrary.open(root), NO_EMOJI, CANVAS)
    shares = []
    for index in range(30):
        pair = source.pair(np.random.default_rng(index))
        for mask in (pair.target.masks[0], pair.reference.masks[0]):
            _, _, width, height = cv2.boundingRect(mask.astype(np.uint8))
            shares.append(np.count_nonzero(mask) / (width * height))
    assert 10 <= sum(share > 0.95 for share in shares) < 60


def test_pairs_share_their_classes_and_name_absent_ones(tmp_path):
    source = open_photos(tmp_path, cup=3, bowl=1, spoon=1)
    assert source.class_names == ("bowl", "cup", "spoon")
    examples = [source.pair(np.random.default_rng([0, index])) for index in range(40)]
    for pair in examples:
        assert len(pair.target.masks) == len(pair.reference.masks) >= 1
        for side in (pair.target, pair.reference):
            assert side.image.shape == (CANVAS, CANVAS, 3)
            assert side.masks.any((1, 2)).all()
            assert (side.masks.sum(0) <= 1).all()
        assert bool(pair.name) == (len(pair.target.masks) == 1)
        assert pair.name not in pair.absent
    assert {len(pair.target.masks) for pair in examples} == {1, 2, 3}
    assert any(pair.absent for pair in examples)


def test_scenes_mostly_have_different_cutouts_of_a_class(tmp_path):
    (concept,) = open_photos(tmp_path, cup=3).library.classes
    rng = np.random.default_rng(0)
    drawn = [photo_source._two_images(rng, concept) for _ in range(100)]
    assert 80 <= sum(first is not second for first, second in drawn) < 100


def test_a_library_of_one_cutout_gives_pairs(tmp_path):
    source = open_photos(tmp_path, cup=1)
    for index in range(10):
        assert source.pair(np.random.default_rng(index)).name == "cup"


def test_missing_and_damaged_files_are_named(tmp_path):
    root = write_photos(tmp_path / "photos")
    (root / "cutouts/cup0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cup0\.png cannot be read"):
        cutout(root / "cutouts/cup0.png")
    cv2.imwrite(str(root / "cutouts/cup1.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"cup1\.png has no alpha"):
        cutout(root / "cutouts/cup1.png")
    cv2.imwrite(str(root / "cutouts/cup2.png"), np.zeros((8, 8, 4), np.uint8))
    with pytest.raises(DataError, match=r"cup2\.png is transparent"):
        cutout(root / "cutouts/cup2.png")
    (root / "cutouts/spoon0.png").unlink()
    with pytest.raises(DataError, match=r"spoon0\.png is missing"):
        PhotoLibrary.open(root)
    (root / "cutouts.txt").write_text("cup0.png cup\n")
    with pytest.raises(DataError, match=r"cutouts\.txt, line 1"):
        PhotoLibrary.open(root)
    (root / "cutouts.txt").unlink()
    with pytest.raises(DataError, match=r"cutouts\.txt cannot be read"):
        PhotoLibrary.open(root)


def test_bad_annotations_are_named(tmp_path):
    root = write_photos(tmp_path / "photos", {"cup": 1}, annotate="cup")
    (root / "masks/0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png is missing"):
        PhotoLibrary.open(root)
    (root / "photographs.txt").write_text("0.jpg\tjar\tdishes\n")
    with pytest.raises(DataError, match="jar has no cut-out"):
        PhotoLibrary.open(root)


def test_a_folder_without_backgrounds_is_refused(tmp_path):
    root = write_photos(tmp_path / "photos")
    for file in (root / "backgrounds").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="has no JPEG photograph"):
        PhotoLibrary.open(root)
