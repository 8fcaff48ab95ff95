"""Test COCO-20i and COCO val2017: masks, draws compared with the official calls, and damaged files."""

# ruff: noqa: NPY002 (the legacy generator is what the official code draws from)

import json
import random
from collections import defaultdict

import cv2
import numpy as np
import pytest
from layouts_coco import ANNOTATIONS, coco_json, label_map, noise, write_coco, write_coco20i

from segic_jax.data.coco_json import CocoJson
from segic_jax.data.episodes import View
from segic_jax.data.sampler import coco20i_episodes, semcoco_episodes
from segic_jax.data.sources.coco import CocoSource, check
from segic_jax.data.sources.coco20i import Coco20iSource, class_images, fold_classes
from segic_jax.data.sources.coco20i import check as check_coco20i
from segic_jax.errors import DataError


def name(image):
    return f"{image:012}.jpg"


@pytest.fixture
def coco(tmp_path):
    write_coco(tmp_path / "coco")
    return tmp_path / "coco"


def official_semcoco(path, fold, count):
    """Repeat the calls of utils/fss.py in their order, in one process."""
    random.seed(42)
    np.random.seed(42)
    content = json.loads(path.read_text())
    annotations = content["annotations"]
    if fold is not None:
        images = defaultdict(set)
        for entry in annotations:
            images[entry["category_id"]].add(entry["image_id"])
        classes = sorted(c for c, class_images in images.items() if len(class_images) > 1)[fold::10]
        annotations = [entry for entry in annotations if entry["category_id"] in set(classes)]
    by_image = defaultdict(list)
    for entry in annotations:
        by_image[entry["image_id"]].append(entry["category_id"])
    ids, indices = [], defaultdict(list)
    for image in sorted(entry["id"] for entry in content["images"]):
        if by_image[image]:
            ids.append(image)
            for c in np.unique(by_image[image]):
                indices[c].append(len(ids) - 1)

    def reference(c, index):
        candidates = list(set(indices[c]) - {index})
        return random.choice(candidates) if len(candidates) > 1 else index

    rows = []
    for index in range(len(ids) if fold is None else count):
        if fold is None:
            classes = np.unique(by_image[ids[index]])
            c = classes[0]
            if len(classes) > 1:
                c = np.random.choice(classes, size=1, replace=False).tolist()[0]
        else:
            random.randint(0, len(ids) - 1)
            c = random.choice(list(indices.keys()))
            index = reference(c, None)
        rows.append((int(c), name(ids[index]), name(ids[reference(c, index)])))
    return rows


def many_images(tmp_path):
    """Write 30 images with 12 classes, some of which are on one or two images only."""
    rng = np.random.default_rng(1)
    images = [
        {"id": int(i), "file_name": name(i), "height": 24, "width": 32} for i in rng.permutation(30) + 100
    ]
    polygon = [[2, 2, 9, 2, 9, 9]]
    pairs = [(int(i), int(c)) for i in range(100, 130) for c in rng.choice(9, 2, replace=False)]
    pairs += [(100, 20), (101, 20), (102, 21)]
    annotations = [{"image_id": i, "category_id": c, "segmentation": polygon} for i, c in pairs]
    categories = [{"id": c, "name": str(c)} for c in [*range(9), 20, 21]]
    path = tmp_path / "many.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.mark.parametrize("fold", [None, 0, 9])
def test_semcoco_is_the_official_draw_with_its_leak(tmp_path, fold):
    path = many_images(tmp_path)
    expected = official_semcoco(path, fold, 2300)
    episodes = semcoco_episodes(CocoJson(path), "segic-leak", fold=fold)
    assert [(e.class_id, e.target, *e.references) for e in episodes] == expected
    if fold == 9:  # its one class is on two images
        assert all(e.target in e.references for e in episodes)


@pytest.mark.parametrize("fold", [None, 9])
def test_the_leak_is_repaired(tmp_path, fold):
    """Check that a class of two images uses the other image, and a class of one image is left out."""
    coco = CocoJson(many_images(tmp_path))
    leaky, repaired = (semcoco_episodes(coco, protocol, fold=fold) for protocol in ("segic-leak", "segic"))
    correct = [e for e in leaky if e.target not in e.references]
    assert [e for e in repaired if len(coco.image_ids(e.class_id)) > 2] == correct
    assert all(e.target not in e.references for e in repaired)
    of_two_images = [e for e in leaky if len(coco.image_ids(e.class_id)) == 2]
    assert len([e for e in repaired if len(coco.image_ids(e.class_id)) == 2]) == len(of_two_images)
    assert not any(e.class_id == 21 for e in repaired)


def test_coco20i_is_the_official_draw():
    image_names = {c: class_images("val")[c] for c in fold_classes(1)}
    np.random.seed(42)
    expected = []
    for _ in range(60):
        c = np.random.choice(list(image_names), 1, replace=False)[0]
        target = np.random.choice(image_names[c], 1, replace=False)[0]
        references = []
        while len(references) < 2:
            reference = np.random.choice(image_names[c], 1, replace=False)[0]
            if reference != target:
                references.append(str(reference))
        expected.append((int(c), str(target), tuple(references)))
    episodes = coco20i_episodes(image_names, "segic", 2, count=60)
    assert [(e.class_id, e.target, e.references) for e in episodes] == expected


def test_class_lists_have_the_published_sizes():
    for split, sizes in {
        "val": (35783, 17912, 14563, 14315),
        "trn": None,
    }.items():
        lists = class_images(split)
        assert len(lists) == 80
        if sizes:
            assert tuple(sum(len(lists[c]) for c in fold_classes(f)) for f in range(4)) == sizes
            assert len({image_name for image_names in lists for image_name in image_names}) == 39059
        else:
            # A training fold has the classes of the three others.
            totals = [sum(len(lists[c]) for c in range(80) if c % 4 != f) for f in range(4)]
            assert totals == [95476, 133927, 141054, 141016]


def test_coco_masks_and_classes(coco):
    for root in (coco, coco.parent):
        source = CocoSource(root)
        example = source.load(View(name(3), 3))
        expected = np.zeros((24, 32), bool)
        expected[:8, :8] = expected[16:24, 16:24] = True
        np.testing.assert_array_equal(example.mask, expected)
        assert abs(example.image.astype(int) - noise(3)[..., ::-1]).mean() < 60
    assert source.class_name(17) == "cat"
    assert {(v.image_name, v.class_id) for v in source.views()} == {
        (name(image), c) for image, objects in ANNOTATIONS.items() for c, _ in objects
    }
    assert [line.found for line in check(coco)] == [2, 4, 4]
    episodes = source.manifest("segic", 0, 1).episodes
    assert [e.target for e in episodes] == [name(i) for i in (1, 2, 3, 5)]
    assert all(e.target not in e.references for e in episodes)
    for arguments in (("matcher", 0, 1), ("segic", 1, 1), ("segic", 0, 2)):
        with pytest.raises(DataError, match="supports the protocols segic"):
            source.manifest(*arguments)
    with pytest.raises(DataError, match="no class 5"):
        source.class_name(5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": None}, "not in COCO's format"),
        ({"images": [{"id": 1}]}, "not in COCO's format"),
        ({"annotations": [{"image_id": 99, "category_id": 3, "segmentation": []}]}, "image 99 and class 3"),
        (
            {"annotations": [{"image_id": 1, "category_id": 3, "segmentation": [["x"]]}]},
            "not in COCO's format",
        ),
    ],
)
def test_a_damaged_json_is_named(coco, changes, message):
    path = coco / "annotations/instances_val2017.json"
    path.write_text(json.dumps(coco_json(**changes)))
    with pytest.raises(DataError, match=message) as error:
        CocoSource(coco)
    assert str(path) in str(error.value)
    path.write_text(path.read_text()[:50])
    with pytest.raises(DataError, match="damaged or not JSON"):
        CocoSource(coco)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        CocoSource(coco)


def test_a_damaged_segmentation_is_named(coco):
    annotations = [{"image_id": 1, "category_id": 3, "segmentation": {"size": [9, 9], "counts": "abc"}}]
    path = coco / "annotations/instances_val2017.json"
    path.write_text(json.dumps(coco_json(annotations=annotations)))
    with pytest.raises(DataError, match=r"instances_val2017\.json, image 1"):
        CocoSource(coco).load(View(name(1), 3))


def test_coco20i_reads_its_files_and_names_damaged_ones(tmp_path):
    image_names = class_images("val")
    episodes = coco20i_episodes({c: image_names[c] for c in fold_classes(2)}, "matcher", 1, count=3)
    write_coco20i(tmp_path / "COCO2014", episodes)
    for root in (tmp_path, tmp_path / "COCO2014"):
        source = Coco20iSource(root)
        example = source.load(episodes[0].target_view)
        labels = label_map([episodes[0].class_id + 1, 80])
        np.testing.assert_array_equal(example.mask, labels == episodes[0].class_id + 1)
    assert source.manifest("matcher", 2, 1).episodes[:3] == tuple(episodes)
    assert source.manifest("segic", 2, 3).shots == 3
    names = [source.class_name(number) for number in (3, 4, 57, 58, 60, 62, 79)]
    assert names == [  # as SegIC's utils/coco80.txt has them
        *("motorbike", "aeroplane", "sofa", "pottedplant", "diningtable", "tvmonitor"),
        "toothbrush",
    ]
    assert sum(1 for _ in source.views()) == 35783 + 17912 + 14563 + 14315
    line = check_coco20i(tmp_path)[0]
    assert (line.found, line.needed) == (6, 39059)
    target = tmp_path / "COCO2014" / episodes[0].target
    cv2.imwrite(str(target), np.zeros((9, 9, 3), np.uint8))
    for class_id in (80, "cat"):
        with pytest.raises(DataError, match="the classes 0 to 79"):
            source.load(View(episodes[0].target, class_id))
    handled = source.load(episodes[0].target_view)
    assert ".png is 32 x 24 pixels" in handled.note
    assert handled.mask.shape == (9, 9)
    target.unlink()
    with pytest.raises(DataError, match="no such file"):
        source.load(episodes[0].target_view)
    for call in (lambda: source.class_name(80), lambda: source.manifest("matcher", 4, 1)):
        with pytest.raises(DataError):
            call()
    with pytest.raises(DataError, match="val2014 is missing"):
        Coco20iSource(tmp_path / "nothing")


def test_an_unknown_class_is_named(coco):
    with pytest.raises(DataError, match="no class 5"):
        CocoSource(coco).load(View(name(1), 5))


def test_annotations_without_an_episode_are_named(coco):
    (coco / "annotations/instances_val2017.json").write_text(json.dumps(coco_json(annotations=[])))
    with pytest.raises(DataError, match=r"instances_val2017\.json has no class on two images"):
        CocoSource(coco).manifest("segic", 0, 1)
