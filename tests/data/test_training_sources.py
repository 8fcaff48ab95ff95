"""Test sources of training pairs: official layouts, draws, classes left out, and damaged files."""

import json
import os
import pickle
from collections import Counter

import cv2
import numpy as np
import pytest
from layouts_coco import write_fss1000
from layouts_photos import write_photos
from layouts_training import (
    DOG,
    FURTHER,
    HEIGHT,
    KITE,
    OFFICIAL,
    WIDTH,
    coco_train_json,
    source_configs,
    write_coco_train,
    write_further,
    write_lvis_train,
    write_training,
)

from segic_jax.commands.data import Build
from segic_jax.config import SourceConfig
from segic_jax.data import coco_arrays, disk_cache
from segic_jax.data.coco_arrays import CocoArrays
from segic_jax.data.emoji import source as emoji
from segic_jax.data.emoji.compose import compose
from segic_jax.data.emoji.source import EmojiInstancePairs, EmojiScenePairs
from segic_jax.data.pairs import AnnotatedImage, ImagePairs, Mixture, Pair, PairSource
from segic_jax.data.semantic import index_classes
from segic_jax.data.sources import ade20k, coco20i
from segic_jax.data.sources.coco_instances import COCO, CocoInstances
from segic_jax.data.training_sources import SOURCES, open_mixture, open_pairs, training_domain
from segic_jax.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGIC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path, monkeypatch):
    return write_further(write_training(tmp_path / "data", monkeypatch))


def open_source_pairs(name, root, **fields):
    (config,) = source_configs(root, [name])
    return open_pairs(SourceConfig(name, config.root, **fields), 64)


def pairs(source, count=60, seed=0):
    return [source.pair(np.random.default_rng([seed, i])) for i in range(count)]


@pytest.mark.parametrize(
    "name",
    [*OFFICIAL, *FURTHER, "emoji", "emoji_scenes", "emoji_instances", "photo_scenes"],
)
def test_every_source_draws_pairs_and_can_be_pickled(name, root, tmp_path):
    if name == "photo_scenes":
        source = open_pairs(SourceConfig(name, str(write_photos(tmp_path / "photos"))), 64)
    else:
        source = open_pairs(SourceConfig(name), 64) if "emoji" in name else open_source_pairs(name, root)
    assert isinstance(source, PairSource)
    assert len(source) > 0
    assert source.has_instances == name.endswith("_instances")
    copy = pickle.loads(pickle.dumps(source))
    for i in range(8):
        pair = source.pair(np.random.default_rng(i))
        copied_pair = copy.pair(np.random.default_rng(i))
        np.testing.assert_array_equal(pair.target.masks, copied_pair.target.masks)
        np.testing.assert_array_equal(pair.reference.image, copied_pair.reference.image)
        assert (pair.name, pair.absent) == (copied_pair.name, copied_pair.absent)
        assert pair.is_instance == source.has_instances
        for side in (pair.target, pair.reference):
            assert side.image.shape[:2] == side.masks.shape[1:]
            assert side.masks.dtype == bool
        if pair.is_instance:
            assert pair.target is pair.reference
        else:
            if pair.name:
                assert {pair.name, *pair.absent} <= set(source.class_names)
                assert pair.name not in pair.absent
                assert len(pair.target.masks) == 1
            assert pair.target.masks.any()
            assert pair.reference.masks.any()


def test_all_sources_are_tested():
    packaged = {"emoji", "emoji_scenes", "emoji_instances"}
    assert {*OFFICIAL, *FURTHER, *packaged, "photo_scenes"} == set(SOURCES)


def test_the_domain_of_a_model_follows_from_its_sources():
    def domain(*names: str) -> str:
        return training_domain([SourceConfig(name) for name in names])

    assert domain("emoji_scenes") == "scenes of emoji"
    assert domain("coco_semantic", "emoji") == "photographs and scenes of emoji"
    assert domain("coco_semantic", "folder") == ""


def official_coco_names() -> tuple[str, ...]:
    """Return the names of COCO's classes as the official training gives them to the text tower."""
    return tuple(coco20i.SEGIC_NAMES.get(name, name) for name in coco20i.class_names())


def test_coco_semantic_draws_classes_evenly_and_knows_absent_ones(root):
    source = open_source_pairs("coco_semantic", root)
    assert source.class_names == official_coco_names()
    examples = pairs(source, 800)
    assert len({pair.name for pair in examples}) == 80
    classes = {}
    for class_id, image_names in enumerate(coco20i.class_images("trn")):
        for image_name in image_names:
            classes.setdefault(image_name, set()).add(official_coco_names()[class_id])
    present = [frozenset(official_coco_names()) - set(pair.absent) for pair in examples]
    allowed = {frozenset(a | b) for a in classes.values() for b in classes.values()}
    assert set(present) <= allowed
    assert max(map(len, present)) > 2


def test_strict_coco20i_names_no_class_of_the_fold(root):
    novel = {official_coco_names()[number] for number in coco20i.fold_classes(1)}
    source = open_source_pairs("coco_semantic", root, without_fold=1)
    assert len(source.class_names) == 60
    assert not novel & set(source.class_names)
    for pair in pairs(source, 200):
        assert pair.name not in novel
        assert not novel & set(pair.absent)


def test_coco_instances_leave_out_objects_of_the_fold(root):
    complete, strict = (open_source_pairs("coco_instances", root, without_fold=fold) for fold in (None, 1))
    assert (len(complete), len(strict)) == (3, 2)  # image 3 shows only kites
    assert [len(complete.reader.load(i).masks) for i in range(3)] == [1, 1, 2]
    assert [len(strict.reader.load(i).masks) for i in range(2)] == [1, 1]
    names = dict(zip(range(80), official_coco_names(), strict=True))
    categories = {category["id"]: category["name"] for category in coco_train_json()["categories"]}
    assert names[16] == categories[DOG] == "dog"
    assert names[33] == categories[KITE] == "kite"
    assert 33 in coco20i.fold_classes(1)


def test_masks_in_every_encoding(root):
    """Read two squares as polygons, as run lengths in numbers and in text, and as boxes."""
    first, second = np.zeros((2, HEIGHT, WIDTH), bool)
    first[4:34, 4:34] = second[30:56, 40:76] = True
    coco = open_source_pairs("coco_instances", root).reader
    np.testing.assert_array_equal(coco.load(0).masks, [first])
    np.testing.assert_array_equal(coco.load(1).masks, [first | second])
    np.testing.assert_array_equal(coco.load(2).masks, [first, second])
    lvis = open_source_pairs("lvis_instances", root).reader
    np.testing.assert_array_equal(lvis.load(0).masks, [first, second, first | second])
    np.testing.assert_array_equal(lvis.load(1).masks, [second])
    np.testing.assert_array_equal(
        open_source_pairs("paco_instances", root).reader.load(0).masks, [first, second]
    )
    boxes = open_source_pairs("objects365_instances", root).reader.load(0).masks
    expected = np.zeros((2, HEIGHT, WIDTH), bool)
    expected[0, 5:45, 10:40] = expected[1, 20:50, 50:70] = True
    np.testing.assert_array_equal(boxes, expected)
    lip = open_source_pairs("lip_instances", root).reader
    assert [len(lip.load(i).masks) for i in range(3)] == [2, 3, 0]
    assert [mask[0].nonzero()[0][0] for mask in lip.load(0).masks] == [26, 52]


def test_ade20k_draws_images_evenly_and_skips_classes_of_one_image(root):
    """Check the draws: classes 0, 2 and 4 have two images each; 149 has one."""
    source = open_source_pairs("ade20k_semantic", root)
    assert len(source) == 3
    examples = pairs(source, 900)
    names = ade20k.open_source(root).classes
    assert set(pair.name for pair in examples) == {names[0], names[2], names[4]}
    sizes = Counter(pair.target.image.shape[:2] for pair in examples)
    assert min(sizes.values()) > 250  # three images, each a third of the targets
    assert all(pair.target.image.shape != pair.reference.image.shape for pair in examples)
    for pair in examples[:50]:
        assert {"wall", "sky", "tree"}.isdisjoint(pair.absent) == ({0, 2, 4} <= _present_classes(pair, names))
        assert names[1] in pair.absent
        assert len(pair.absent) == len(set(names)) - len(_present_classes(pair, names))


def _present_classes(pair, names):
    return {number for number, name in enumerate(names) if name not in pair.absent}


def test_ade20k_masks_show_the_class(root):
    source = open_source_pairs("ade20k_semantic", root)
    maps = source.source
    for pair in pairs(source, 20):
        number = maps.classes.index(pair.name)
        examples = [maps.load("train", image_name) for image_name in maps.image_names("train")]
        expected = [
            example.masks[example.classes.index(number)] for example in examples if number in example.classes
        ]
        assert any(np.array_equal(pair.target.masks[0], mask) for mask in expected)


def test_the_class_index_is_cached_until_the_listing_changes(root, monkeypatch):
    source = ade20k.open_source(root)
    first = index_classes(source, "train")
    assert first == {
        image_name: source.present("train", image_name) for image_name in source.image_names("train")
    }
    monkeypatch.setattr(type(source), "present", None)
    assert index_classes(source, "train") == first
    monkeypatch.undo()
    folder = source.folders["train"].labels
    labels = np.full((30, 30), 7, np.uint8)
    cv2.imwrite(str(folder / "ADE_train_9.png"), labels)
    assert index_classes(source, "train") == first | {"ADE_train_9": (6,)}


def test_a_built_data_set_gives_the_pairs_of_its_files(root, tmp_path, capsys):
    Build("ade20k", tmp_path / "built", root).run()
    Build("folder", tmp_path / "built_mine", root / "mine").run()
    capsys.readouterr()
    for name, folder in {"ade20k_semantic": "built", "folder": "built_mine"}.items():
        original, copied = (
            open_source_pairs(name, root),
            open_pairs(SourceConfig(name, str(tmp_path / folder)), 64),
        )
        assert copied.class_names == original.class_names
        for pair, copied_pair in zip(pairs(original, 20), pairs(copied, 20), strict=True):
            assert (pair.name, pair.absent) == (copied_pair.name, copied_pair.absent)
            np.testing.assert_array_equal(pair.target.image, copied_pair.target.image)
            np.testing.assert_array_equal(pair.reference.masks, copied_pair.reference.masks)
    semantic = open_pairs(SourceConfig("folder", str(tmp_path / "built")), 64)
    assert isinstance(semantic, ImagePairs)
    with pytest.raises(DataError, match="holds folder: give ade20k's folder"):
        open_pairs(SourceConfig("ade20k_semantic", str(tmp_path / "built_mine")), 64)


def test_annotations_are_cached_and_pickled_as_a_path(root, monkeypatch):
    path = root / "coco/annotations/instances_train2017.json"
    CocoArrays(path)
    monkeypatch.setattr(coco_arrays, "_read", None)
    cached = CocoArrays(path)
    cached.masks(0)
    assert len(pickle.dumps(cached)) < 3000  # mostly names of the classes
    assert cached.images_with_objects().tolist() == [0, 1, 3]
    assert cached.file_name(3) == "000000000009.jpg"
    monkeypatch.undo()
    content = coco_train_json()
    content["annotations"] = content["annotations"][:1]
    path.write_text(json.dumps(content))
    assert CocoArrays(path).images_with_objects().tolist() == [3]


def test_a_cache_that_cannot_be_written_is_named(root, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEGIC_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set SEGIC_CACHE to another folder"):
        open_source_pairs("coco_instances", root)


def test_of_two_processes_the_first_makes_the_cache_entry(tmp_path):
    """Check that the slower process uses the faster one's entry, and leaves nothing behind."""

    def make_slowly(folder):
        made_first = disk_cache.cached_folder("kind", [1], lambda inner: (inner / "who").write_text("fast"))
        (folder / "who").write_text("slow")
        assert made_first.is_dir()

    folder = disk_cache.cached_folder("kind", [1], make_slowly)
    assert (folder / "who").read_text() == "fast"
    assert os.listdir(folder.parent) == [folder.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": []}, "has no annotation"),
        ({"categories": None}, "not in COCO's format"),
        ({"annotations": [{"image_id": 9, "category_id": DOG}]}, "not in COCO's format .*segmentation"),
        ({"annotations": [{"image_id": 8, "category_id": DOG, "segmentation": []}]}, "does not list"),
        ({"annotations": [{"image_id": 9, "category_id": 12, "segmentation": []}]}, "does not list"),
        ({"annotations": [{"image_id": 9, "category_id": DOG, "segmentation": [["a"]]}]}, "damaged"),
        ({"annotations": [{"image_id": 9, "category_id": DOG, "segmentation": 3}]}, "damaged"),
        (
            {
                "annotations": [
                    {"image_id": 9, "category_id": DOG, "segmentation": {"size": [1, 2], "counts": [2]}}
                ]
            },
            "another size",
        ),
    ],
)
def test_damaged_annotations_are_named(tmp_path, change, message):
    write_coco_train(tmp_path / "coco")
    path = tmp_path / "coco/annotations/instances_train2017.json"
    path.write_text(json.dumps(coco_train_json() | change))
    with pytest.raises(DataError, match=message) as raised:
        CocoInstances(tmp_path, COCO)
    assert str(path) in str(raised.value)


def test_a_damaged_polygon_and_image_are_named_when_they_are_read(tmp_path):
    write_coco_train(tmp_path / "coco")
    path = tmp_path / "coco/annotations/instances_train2017.json"
    content = coco_train_json()
    content["annotations"][0]["segmentation"] = [[1.0, 2.0]]
    path.write_text(json.dumps(content))
    reader = CocoInstances(tmp_path, COCO)
    with pytest.raises(DataError, match=r"000000000009\.jpg: a polygon of "):
        reader.load(2)
    (tmp_path / "coco/train2017/000000000005.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"000000000005\.jpg is not an image"):
        reader.load(1)


def test_missing_data_and_wrong_settings_are_named(tmp_path, root):
    with pytest.raises(ConfigError, match="no source 'coca': choose among emoji, "):
        open_pairs(SourceConfig("coca"), 64)
    with pytest.raises(ConfigError, match="lvis_instances cannot leave out a fold"):
        open_source_pairs("lvis_instances", root, without_fold=0)
    with pytest.raises(ConfigError, match="without_fold is 0 to 3"):
        open_source_pairs("coco_semantic", root, without_fold=4)
    with pytest.raises(
        DataError, match=r"lip_instances needs the folder of its data, and its root is not set"
    ):
        open_pairs(SourceConfig("lip_instances"), 64)
    with pytest.raises(DataError, match=r"its root is .*nowhere"):
        open_pairs(SourceConfig("coco_semantic", str(tmp_path / "nowhere")), 64)
    (tmp_path / "empty").mkdir()
    for name in (*OFFICIAL, *FURTHER):
        with pytest.raises(DataError, match=str(tmp_path / "empty")):
            open_pairs(SourceConfig(name, str(tmp_path / "empty")), 64)
    write_fss1000(tmp_path / "folder", ["ant"])
    with pytest.raises(DataError, match=r"train2014 is missing"):
        open_pairs(SourceConfig("coco_semantic", str(tmp_path / "folder")), 64)


def test_a_class_to_leave_out_must_exist(tmp_path):
    write_lvis_train(tmp_path / "coco/train2017")
    (tmp_path / "coco/annotations").mkdir()
    (tmp_path / "coco/train2017/lvis_v1_train.json").rename(
        tmp_path / "coco/annotations/instances_train2017.json"
    )
    with pytest.raises(DataError, match="has no class 'airplane'"):
        open_pairs(SourceConfig("coco_instances", str(tmp_path), without_fold=0), 64)


def test_a_mixture_draws_by_weight(root):
    configs = [
        SourceConfig(config.name, config.root, weight)
        for config, weight in zip(source_configs(root), (1, 2, 4, 1), strict=True)
    ]
    source = open_mixture(configs, 64)
    assert isinstance(source, Mixture)
    assert source.has_instances
    assert len(source) == sum(len(open_pairs(config, 64)) for config in configs)
    ade = ade20k.open_source(root).classes
    assert source.class_names == tuple(dict.fromkeys((*official_coco_names(), *ade)))
    calls = Counter()
    source.sources = tuple(_CountingSource(calls, number) for number in range(4))
    for i in range(4000):
        source.pair(np.random.default_rng(i))
    np.testing.assert_allclose([calls[i] / 4000 for i in range(4)], [1 / 8, 2 / 8, 4 / 8, 1 / 8], atol=0.025)
    single = open_mixture(configs[:1], 64)
    assert not isinstance(single, Mixture)
    for weights in ([], [0.0], [1.0, 1.0]):
        with pytest.raises(DataError, match="above 0"):
            Mixture([single], weights)


EMPTY_IMAGE = AnnotatedImage(np.zeros((1, 1, 3), np.uint8), np.zeros((0, 1, 1), bool))
EMPTY_PAIR = Pair(EMPTY_IMAGE, EMPTY_IMAGE, "")


class _CountingSource:
    def __init__(self, calls, number):
        self.calls, self.number = calls, number

    def pair(self, rng):
        self.calls[self.number] += 1
        return EMPTY_PAIR


def test_emoji_scenes_share_their_concepts():
    source = open_pairs(SourceConfig("emoji_scenes"), 96)
    assert isinstance(source, EmojiScenePairs)
    examples = pairs(source, 40)
    assert {len(pair.target.masks) for pair in examples} == {1, 2, 3}
    for pair in examples:
        assert pair.name == ""
        for side in (pair.target, pair.reference):
            assert len(side.masks) == len(pair.target.masks)
            assert (side.masks.sum(0) <= 1).all()
            assert (side.masks[1:].mean((1, 2)) > 0.005).all()


def test_emoji_scenes_show_the_same_classes_first(monkeypatch):
    compositions = []
    monkeypatch.setattr(
        emoji,
        "compose",
        lambda rng, objects, *rest: compositions.append(objects) or compose(rng, objects, *rest),
    )
    for pair in pairs(open_pairs(SourceConfig("emoji_scenes"), 96), 12):
        target, reference = ([name for name, _ in objects] for objects in compositions[-2:])
        shared = [name for name in target if name in reference]
        assert target[: len(shared)] == reference[: len(shared)]
        assert len(pair.target.masks) <= len(shared) < len(target) <= 4
        assert len(set(target)) == len(target)


def test_emoji_instances_are_two_to_five_objects():
    source = open_pairs(SourceConfig("emoji_instances"), 96)
    assert isinstance(source, EmojiInstancePairs)
    counts = Counter(len(pair.target.masks) for pair in pairs(source, 40))
    assert set(counts) == {2, 3, 4, 5}
    for pair in pairs(source, 10):
        assert (pair.target.masks.sum(0) <= 1).all()


def test_emoji_pairs_know_absent_classes():
    source = open_pairs(SourceConfig("emoji"), 64)
    for pair in pairs(source, 10):
        assert 490 <= len(pair.absent) < len(source.class_names)
        assert pair.name not in pair.absent
