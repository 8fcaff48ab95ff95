"""Test LVIS-92i: the draw compared with a replay of the official one, masks, and damaged files."""

import json
import pickle

import numpy as np
import pytest
from layouts_parts import HEIGHT, WIDTH, box_mask, write_lvis92i

from segic_jax.data.episodes import View
from segic_jax.data.sources.lvis92i import BENCHMARK, Lvis92iSource, check
from segic_jax.errors import DataError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("lvis")
    return root, write_lvis92i(root)


def official(content, fold, shots):
    """Draw classes and episodes as one process of the official loaders does."""
    numbers = [i for i in list(content.keys()) if len(content[i]) > shots]
    classes = [numbers[fold + 10 * v] for v in range(len(numbers) // 10)]
    np.random.seed(0)  # noqa: NPY002
    episodes = []
    for idx in range(2300):
        c = classes[idx % len(classes)]
        target = np.random.choice(list(content[c].keys()), 1, replace=False)[0]  # noqa: NPY002
        references = []
        while True:
            reference = np.random.choice(list(content[c].keys()), 1, replace=False)[0]  # noqa: NPY002
            if target != reference:
                references.append(reference)
            if len(references) == shots:
                break
        episodes.append((c, target, references))
    return classes, episodes


@pytest.mark.parametrize(("fold", "shots"), [(0, 1), (7, 1), (9, 1), (0, 5), (1, 5)])
def test_the_draw_is_the_official_one(tiny, fold, shots):
    root, content = tiny
    manifest = Lvis92iSource(root).manifest("matcher", fold, shots)
    classes, episodes = official(content, fold, shots)
    assert list(manifest.classes) == classes
    assert [(e.class_id, e.target, list(e.references)) for e in manifest.episodes] == episodes
    assert manifest.sha256 == Lvis92iSource(root / "LVIS").manifest("insid3", fold, shots).sha256
    assert len(manifest.classes) == (2 if shots == 1 else 1)  # 20 and 12 classes have images enough


def test_masks_are_unions(tiny):
    root, _ = tiny
    source = Lvis92iSource(root)
    first = source.load(View("val2017/000000000001.jpg", 1))  # polygons; the class's first image: two objects
    expected = box_mask(0, 0, 9, 6) | box_mask(20, 12, 24, 20)
    np.testing.assert_array_equal(first.mask, expected)
    assert first.image.shape == (HEIGHT, WIDTH, 3)
    second = source.load(View("val2017/000000000006.jpg", 1))  # run lengths
    np.testing.assert_array_equal(second.mask, box_mask(0, 1, 9, 7))


def test_views_are_those_of_the_pickle(tiny):
    root, content = tiny
    views = list(Lvis92iSource(root).views())
    assert {(v.image_name, v.class_id) for v in views} == {(p, c) for c in content for p in content[c]}
    assert len(set(views)) == len(views)
    image_names = [v.image_name for v in views]
    assert image_names == sorted(image_names)


def test_a_pickled_copy_is_small_and_reads_the_annotations_itself(tiny):
    root, _ = tiny
    source = Lvis92iSource(root)
    view = next(iter(source.views()))
    copy = pickle.loads(sent := pickle.dumps(source))
    assert b"segmentation" not in sent
    assert copy._annotations is None
    np.testing.assert_array_equal(copy.load(view).mask, source.load(view).mask)
    assert copy.manifest("matcher", 0, 1) == source.manifest("matcher", 0, 1)


def test_the_protocol_segic_draws_known_views_without_its_leak(tiny):
    root, content = tiny
    source = Lvis92iSource(root)
    manifest = source.manifest("segic", 3, 1)
    assert list(manifest.classes) == sorted(c for c in content if len(content[c]) > 1)[3::10]
    for episode in manifest.episodes:
        assert episode.target != episode.references[0]
        for view in (episode.target_view, *episode.reference_views):
            assert view.image_name in content[view.class_id]
    assert {e.class_id for e in manifest.episodes} == set(manifest.classes)
    with pytest.raises(DataError, match="1 shot"):
        source.manifest("segic", 3, 5)
    with pytest.raises(DataError, match="no protocol 'original'"):
        source.manifest("original", 3, 1)


def test_the_protocol_segic_leak_repeats_targets_as_references(tmp_path):
    content = write_lvis92i(tmp_path)
    path = tmp_path / "LVIS/lvis_v1_val.json"
    published = json.loads(path.read_text())
    class_id = sorted(content)[13]
    others = [entry for entry in published["annotations"] if entry["category_id"] != class_id]
    of_class = [entry for entry in published["annotations"] if entry["category_id"] == class_id]
    images = sorted({entry["image_id"] for entry in of_class})[:2]
    published["annotations"] = others + [entry for entry in of_class if entry["image_id"] in images]
    path.write_text(json.dumps(published))
    source = Lvis92iSource(tmp_path)
    for protocol, leaks in (("segic", False), ("segic-leak", True)):
        manifests = [source.manifest(protocol, fold, 1) for fold in range(10)]
        leaking = {e.class_id for m in manifests for e in m.episodes if e.target == e.references[0]}
        assert leaking == ({class_id} if leaks else set())


def test_class_names(tiny, tmp_path):
    root, _ = tiny
    source = Lvis92iSource(root)
    assert source.class_name(5) == "tiny_class_5"
    with pytest.raises(DataError, match="no class 99"):
        source.class_name(99)
    write_lvis92i(tmp_path)
    (tmp_path / "LVIS/lvis_v1_val.json").unlink()
    nameless = Lvis92iSource(tmp_path)
    assert len(nameless.manifest("matcher", 0, 1).episodes) == 2300
    with pytest.raises(DataError, match=r"lvis_v1_val\.json is missing"):
        nameless.class_name(5)
    with pytest.raises(DataError, match=r"lvis_v1_val\.json is missing"):
        nameless.manifest("segic", 0, 1)
    (tmp_path / "lvis").mkdir()
    (tmp_path / "lvis/lvis_v1_val.json").write_bytes((root / "LVIS/lvis_v1_val.json").read_bytes())
    assert nameless.class_name(5) == "tiny_class_5"


def test_missing_or_damaged_files_are_named(tmp_path):
    with pytest.raises(DataError, match="coco is missing"):
        Lvis92iSource(tmp_path)
    content = write_lvis92i(tmp_path)
    source = Lvis92iSource(tmp_path)
    for fold, shots in ((10, 1), (-1, 1), (0, 0)):
        with pytest.raises(DataError, match="folds 0 to 9"):
            source.manifest("matcher", fold, shots)
    with pytest.raises(DataError, match="0 classes of more than 7 images"):
        source.manifest("matcher", 0, 7)
    for view in (View("val2017/none.jpg", 1), View("val2017/000000000001.jpg", 99)):
        with pytest.raises(DataError, match=r"lvis_val\.pkl has no class"):
            source.load(view)
    path = tmp_path / "LVIS/coco/val2017/000000000001.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"000000000001\.jpg is cut off"):
        source.load(View("val2017/000000000001.jpg", 1))
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        source.load(View("val2017/000000000001.jpg", 1))
    path = tmp_path / "LVIS/lvis_val.pkl"
    content[1]["val2017/000000000006.jpg"]["annotations"][0]["segmentation"]["size"] = [WIDTH, HEIGHT]
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(
        DataError, match=r"lvis_val\.pkl, class 1 in val2017/000000000006\.jpg: the mask's size"
    ):
        Lvis92iSource(tmp_path).load(View("val2017/000000000006.jpg", 1))
    for content in (
        [],
        {1: 2},
        {1: {"a.jpg": {}}},
        {"x": {}},
        {1: {"a.jpg": {"annotations": [{"segmentation": [3]}]}}},
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=r"lvis_val\.pkl is not laid out"):
            Lvis92iSource(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"lvis_val\.pkl is cut off"):
        Lvis92iSource(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"lvis_val\.pkl is missing"):
        Lvis92iSource(tmp_path)
    assert "is missing" in check(tmp_path)[0].problem


def test_check_counts_classes_and_images(tiny):
    root, _ = tiny
    lines = {line.what: line for line in check(root)}
    assert (
        lines["classes of more than 1 image"].found,
        lines["classes of more than 1 image"].needed,
    ) == (20, 920)
    assert (lines["images"].found, lines["images"].needed, lines["images"].problem) == (12, 12, "")
    assert BENCHMARK.folds == 10
    assert BENCHMARK.name == Lvis92iSource.name
