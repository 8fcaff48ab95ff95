"""Test sources of semantic segmentation on tiny data sets in the official layouts."""

import json

import numpy as np
import pytest
from layouts_semantic import (
    label_map,
    write_ade20k,
    write_ade847,
    write_coco_semantic,
    write_pc459,
)
from PIL import Image

from segic_jax.data.benchmarks import find_benchmark, open_benchmark
from segic_jax.data.semantic import SemanticSource, class_names, draw_references
from segic_jax.data.sources import ade20k, ade847, coco_semantic, pc459
from segic_jax.errors import DataError

WRITERS = {
    ade20k.BENCHMARK.name: write_ade20k,
    ade847.BENCHMARK.name: write_ade847,
    pc459.BENCHMARK.name: write_pc459,
    coco_semantic.BENCHMARK.name: write_coco_semantic,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_image_has_the_masks_of_its_classes(name, tmp_path):
    source = open_benchmark(find_benchmark(name), WRITERS[name](tmp_path))
    assert isinstance(source, SemanticSource)
    for image_name in source.image_names("val"):
        example = source.load("val", image_name)
        assert example.classes == source.present("val", image_name)
        assert example.masks.shape == (len(example.classes), *example.image.shape[:2])
        assert not (example.masks & example.ignored).any()
        assert all(mask.any() for mask in example.masks)


def test_ade20k_counts_from_one(tmp_path):
    source = ade20k.open_source(write_ade20k(tmp_path))
    assert source.image_names("val") == ["ADE_val_1", "ADE_val_2", "ADE_val_3"]
    example = source.load("val", "ADE_val_3")
    stored = label_map(2, [150, 3], 0)
    assert example.classes == (2, 149)
    np.testing.assert_array_equal(example.masks, [stored == 3, stored == 150])
    np.testing.assert_array_equal(example.ignored, stored == 0)
    assert [source.classes[i] for i in (0, 2, 149)] == ["wall", "sky", "flag"]


def test_ade847_and_pc459_count_from_zero(tmp_path):
    source = ade847.open_source(write_ade847(tmp_path))
    example = source.load("val", "ADE_val_00000002")
    assert example.classes == (0, 400, 846)
    stored = label_map(1, [846, 0, 400], 65535)
    np.testing.assert_array_equal(example.masks[2], stored == 846)
    np.testing.assert_array_equal(example.ignored, stored == 65535)
    assert [source.classes[i] for i in (0, 400, 846)] == [
        "wall",
        "meter",
        "adding machine, totalizer, totaliser",
    ]
    context = pc459.open_source(write_pc459(tmp_path))
    assert context.present("val", "2008_000003") == (7, 458)
    assert [context.classes[i] for i in (0, 7, 458)] == ["accordion", "babycarriage", "wool"]
    assert len(context.image_names("val")) == 3  # the images without labels are not of the benchmark
    with pytest.raises(DataError, match=r"pc459_train is missing.*--bank"):
        context.image_names("train")


def test_coco_pixels_may_have_two_classes(tmp_path):
    source = coco_semantic.CocoSemanticSource(write_coco_semantic(tmp_path))
    assert source.classes == ("car", "cat")  # by rising id, 3 and 17
    assert source.image_names("val") == [f"{i:012}.jpg" for i in (1, 2, 5)]
    example = source.load("val", "000000000001.jpg")
    assert example.classes == (0, 1)
    overlap = example.masks.all(0)
    assert overlap[2:22, 12:22].all()
    assert overlap.sum() == 200
    assert not example.ignored.any()
    assert source.load("val", "000000000005.jpg").masks.shape == (0, 60, 44)


@pytest.mark.parametrize("name", WRITERS)
def test_the_root_may_be_the_folder_or_its_parent(name, tmp_path):
    root = WRITERS[name](tmp_path)
    inner = {"ade847": "ADE20K_2021_17_01", "pc459": "VOCdevkit", "coco_semantic": "coco"}.get(name, name)
    benchmark = find_benchmark(name)
    image_names = benchmark.open(root).image_names("val")
    assert benchmark.open(root / inner).image_names("val") == image_names
    with pytest.raises(DataError, match="give the folder"):
        benchmark.open(root / inner / "nowhere")


def test_every_class_has_a_name():
    assert {name: len(class_names(name)) for name in ("ade20k", "ade847", "pc459")} == {
        "ade20k": 150,
        "ade847": 847,
        "pc459": 459,
    }
    assert all(name and name == name.strip() for name in class_names("ade847"))


def test_references_are_the_first_of_a_permutation(tmp_path):
    source = ade20k.open_source(write_ade20k(tmp_path))
    names = source.image_names("train")
    order = [names[i] for i in np.random.RandomState(0).permutation(3)]
    classes = {"ADE_train_1": {0, 2}, "ADE_train_2": {2, 4}, "ADE_train_3": {0, 4, 149}}
    references = draw_references(source, "train", 2)
    assert len(references) == 150
    for number in (0, 2, 4, 149, 10):
        assert references[number] == tuple(name for name in order if number in classes[name])[:2]


def test_the_draw_stops_when_every_class_has_enough(tmp_path):
    class CountingSource:
        name = "eager"
        classes = ("a",)
        reads = 0

        def image_names(self, split):
            return [str(i) for i in range(100)]

        def present(self, split, image_name):
            self.reads += 1
            return (0,)

        def load(self, split, image_name):
            raise AssertionError("the draw reads no image")

    source = CountingSource()
    assert len(draw_references(source, "train", 2)[0]) == 2
    assert source.reads == 2


@pytest.mark.parametrize("name", WRITERS)
def test_check_counts_images_and_names_missing_ones(name, tmp_path):
    lines = find_benchmark(name).check(WRITERS[name](tmp_path))
    assert any(line.found in (2, 3) for line in lines)
    assert any(line.needed not in (None, line.found) for line in lines)  # the real set is larger
    assert not any("missing" in line.problem for line in lines)
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    assert any("missing" in line.problem for line in find_benchmark(name).check(tmp_path))


def test_damaged_files_are_named(tmp_path):
    source = ade847.open_source(write_ade847(tmp_path))
    folder = tmp_path / "ADE20K_2021_17_01"
    labels = folder / "annotations_detectron2/validation/ADE_val_00000001.tif"
    content = labels.read_bytes()
    for size in (0, 4, 9, 60, 200, len(content) - 10, len(content) // 2):
        labels.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"ADE_val_00000001\.tif"):
            source.load("val", "ADE_val_00000001")
    Image.fromarray(np.full((40, 56), 847, np.uint16)).save(labels)
    with pytest.raises(DataError, match=r"value 847; ade847 has 0 to 846"):
        source.present("val", "ADE_val_00000001")
    Image.fromarray(np.zeros((41, 56), np.uint16)).save(labels)
    handled = source.load("val", "ADE_val_00000001")
    assert "is 56 x 41 pixels" in handled.note
    assert handled.masks.shape[1:] == handled.image.shape[:2] == (40, 56)
    (folder / "images_detectron2/validation/ADE_val_00000002.jpg").unlink()
    with pytest.raises(DataError, match=r"ADE_val_00000002\.jpg: there is no such file"):
        source.load("val", "ADE_val_00000002")
    labels.unlink()
    with pytest.raises(DataError, match="no such file"):
        source.present("val", "ADE_val_00000001")


def test_coco_files_must_agree(tmp_path):
    root = write_coco_semantic(tmp_path)
    source = coco_semantic.CocoSemanticSource(root)
    path = root / "coco/annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 99, "name": "unicorn"})
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="other classes"):
        source.image_names("train")


def test_hidden_files_are_not_label_maps(tmp_path):
    root = write_ade20k(tmp_path)
    before = ade20k.open_source(root).image_names("val")
    (root / "ade20k/annotations/validation/._ADE_val_1.png").write_bytes(b"")
    assert ade20k.open_source(root).image_names("val") == before


def test_ade20k_opens_under_the_name_of_its_archive(tmp_path):
    root = write_ade20k(tmp_path)
    image_names = ade20k.open_source(root).image_names("val")
    (root / "ade20k").rename(root / "ADEChallengeData2016")
    for folder in (root, root / "ADEChallengeData2016"):
        assert ade20k.open_source(folder).image_names("val") == image_names
