"""Test PASCAL-Part: the draw compared with a replay of the official one, crops, masks, and damaged files."""

import json
import pickle

import numpy as np
import pytest
from layouts_parts import HEIGHT, WIDTH, box_mask, run_lengths, write_pascal_part

from segic_jax.data.episodes import View
from segic_jax.data.images import read_rgb
from segic_jax.data.sources.pascal_part import BENCHMARK, PascalPartSource, check
from segic_jax.errors import DataError

CATEGORIES = ["animals", "indoor", "person", "vehicles"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("pascal")
    return root, write_pascal_part(root)


def official(root, index, fold, shots):
    """Draw classes and episodes (class, images, numbers) as one process of the official loaders does."""
    objects = index[CATEGORIES[fold]]["object"]
    names, length = [], 0
    for obj in objects:
        for part, split in objects[obj]["part"].items():
            length += len(split["val"])
            if len(split["train"]) > 0 and len(split["val"]) > 0 and obj + "+" + part != "aeroplane+TAIL":
                names.append(obj + "+" + part)
    folder = root / "Pascal-Part/VOCdevkit/VOC2010/Annotations_Part_json_merged_part_classes"
    np.random.seed(0)  # noqa: NPY002
    episodes = []
    for idx in range(min(length, 2500)):
        obj, part = names[idx % len(names)].split("+")
        image_names, numbers = [], []
        while len(image_names) < 1 + shots:
            image_name = np.random.choice(objects[obj]["part"][part]["val"], 1, replace=False)[0]  # noqa: NPY002
            if image_name in image_names:
                continue
            annotation = json.loads((folder / f"{image_name}.json").read_text())
            candidates = [o for o in annotation["object"] if o["name"] == obj]
            if len(candidates) == 0:
                continue
            instance = np.random.choice(candidates, 1, replace=False)[0]  # noqa: NPY002
            if not [p for p in instance["parts"] if p["name"] == part]:
                continue
            image_names.append(image_name)
            numbers.append(candidates.index(instance))
        episodes.append((f"{obj}+{part}", image_names, numbers))
    return names, episodes


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("fold", range(4))
def test_the_draw_is_the_official_one(tiny, fold, shots):
    root, index = tiny
    manifest = PascalPartSource(root).manifest("matcher", fold, shots)
    names, episodes = official(root, index, fold, shots)
    assert list(manifest.classes) == names
    assert [(e.class_id, [e.target, *e.references], list(e.instances)) for e in manifest.episodes] == episodes
    assert (
        {2} < {n for e in manifest.episodes for n in e.instances} <= {0, 2}
    )  # the second objects have no parts
    assert manifest.sha256 == PascalPartSource(root / "Pascal-Part").manifest("insid3", fold, shots).sha256


def test_the_number_of_episodes_counts_parts_that_are_not_classes(tiny):
    root, _ = tiny
    source = PascalPartSource(root / "Pascal-Part/VOCdevkit/VOC2010")
    animals, vehicles = source.manifest("matcher", 0, 1), source.manifest("matcher", 3, 1)
    assert animals.classes == ("cat+HEAD", "cat+TAIL", "bird+LEGS")
    assert len(animals.episodes) == 4 * 14
    assert vehicles.classes == ("aeroplane+BODY", "car+WHEEL")
    assert len(vehicles.episodes) == 3 * 14


def test_crops_and_masks(tiny):
    root, _ = tiny
    source = PascalPartSource(root)
    folder = root / "Pascal-Part/VOCdevkit/VOC2010"
    image = read_rgb(folder / "JPEGImages/2008_000000.jpg")
    example = source.load(View("2008_000000", "cat+HEAD", 0))  # box 2, 3 to 14, 40: beyond the lower edge
    np.testing.assert_array_equal(example.image, image[3:HEIGHT, 2:14])
    expected = box_mask(2, 4, 7, 8) | box_mask(8, 10, 11, 30)
    np.testing.assert_array_equal(example.mask, expected[3:HEIGHT, 2:14])
    other = source.load(View("2008_000001", "bird+LEGS", 2))
    np.testing.assert_array_equal(other.mask, box_mask(10, 4, 15, 8)[3:HEIGHT, 10:22])


def test_views_are_the_loadable_parts_of_every_object(tiny):
    root, _ = tiny
    source = PascalPartSource(root)
    views = list(source.views())
    assert len(set(views)) == len(views)
    assert views[:3] == [
        View("2008_000000", "cat+HEAD", 0),
        View("2008_000000", "cat+TAIL", 0),
        View("2008_000000", "bird+LEGS", 0),
    ]
    assert len(views) == 8 * (7 + 14)  # 8 classes; even images have one object with parts, odd ones two
    episode_views = {
        view
        for fold in range(4)
        for e in source.manifest("matcher", fold, 1).episodes
        for view in (e.target_view, *e.reference_views)
    }
    assert episode_views <= set(views)
    for view in views[::17]:
        assert source.load(view).mask.any()
    assert pickle.loads(pickle.dumps(source)).load(views[0]).mask.any()


def test_class_names(tiny):
    source = PascalPartSource(tiny[0])
    names = {name: source.class_name(name) for name in source.image_names}
    assert names["cat+HEAD"] == "head of a cat"
    assert names["aeroplane+BODY"] == "body of an aeroplane"
    assert names["pottedplant+POT"] == "pot of a potted plant"
    assert names["person+LOWER_ARM"] == "lower arm of a person"
    with pytest.raises(DataError, match=r"no class 'cat\+WHEEL'"):
        source.class_name("cat+WHEEL")


def test_missing_or_damaged_files_are_named(tmp_path):
    (tmp_path / "file").touch()
    for root in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"all_obj_part_to_image\.json is missing"):
            PascalPartSource(root)
    index = write_pascal_part(tmp_path)
    folder = tmp_path / "Pascal-Part/VOCdevkit/VOC2010"
    source = PascalPartSource(tmp_path)
    with pytest.raises(DataError, match="folds 0 to 3"):
        source.manifest("matcher", 4, 1)
    with pytest.raises(DataError, match=r"2008_000003\.json has no 'cat' of number 7"):
        source.load(View("2008_000003", "cat+HEAD", 7))
    with pytest.raises(DataError, match=r"2008_000003\.json: 'cat' 0 has no part 'WHEEL'"):
        source.load(View("2008_000003", "cat+WHEEL", 0))
    annotation = folder / "Annotations_Part_json_merged_part_classes/2008_000003.json"
    original = json.loads(annotation.read_text())
    for content in ("[", "[]", '{"object": 3}', '{"object": [{"name": "cat"}]}', "\xff", "[" * 100_000):
        annotation.write_bytes(content.encode("latin-1"))
        with pytest.raises(DataError, match=r"2008_000003\.json is "):
            source.load(View("2008_000003", "cat+HEAD", 0))
        with pytest.raises(DataError, match=r"2008_000003\.json is "):
            list(source.views())
    cat = original["object"][0]
    for changes, message in (
        ({"bndbox": {"xmin": 40, "ymin": 3, "xmax": 50, "ymax": 9}}, "holds nothing"),
        ({"parts": [{"name": "HEAD", "mask": [{"size": [3, 4], "counts": "<"}]}]}, "holds nothing"),
        ({"parts": [{"name": "HEAD", "mask": [{"size": [24, 32], "counts": "<"}]}]}, "run lengths"),
        ({"bndbox": {"xmin": 40}}, "not laid out"),
        ({"parts": [{"name": "HEAD", "mask": {"size": [3, 4]}}]}, "not laid out"),
    ):
        annotation.write_text(json.dumps({"object": [cat | changes]}))
        with pytest.raises(DataError, match=rf"2008_000003\.json.*{message}"):
            source.load(View("2008_000003", "cat+HEAD", 0))
    annotation.write_text(json.dumps({"object": [{k: cat[k] for k in ("name", "bndbox")}, cat]}))
    numbers = [view.instance for view in source.views() if view.image_name == "2008_000003"]
    assert set(numbers) == {1}  # some objects have no parts
    flat, outside = (
        cat | {"bndbox": {"xmin": left, "ymin": 3, "xmax": right, "ymax": 9}}
        for left, right in ((4, 4), (40, 50))
    )
    annotation.write_text(json.dumps({"object": [flat, cat, outside]}))
    numbers = [view.instance for view in source.views() if view.image_name == "2008_000003"]
    assert set(numbers) == {1}  # a box without a pixel is no view
    annotation.unlink()
    with pytest.raises(DataError, match=r"2008_000003\.json is missing"):
        source.manifest("matcher", 0, 5)
    assert {line.what: line.found for line in check(tmp_path)}["their annotations"] == 13
    annotation.write_text(json.dumps(original))
    index["animals"]["object"]["cat"]["part"]["HEAD"]["val"] = ["2008_000001", "2008_000001"]
    (folder / "all_obj_part_to_image.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"cat\+HEAD has too few images for 1 shot"):
        PascalPartSource(tmp_path).manifest("matcher", 0, 1)
    for content in ("", "{}", '{"animals": []}'):
        (folder / "all_obj_part_to_image.json").write_text(content)
        with pytest.raises(DataError, match=r"all_obj_part_to_image\.json is "):
            PascalPartSource(tmp_path)
    assert "all_obj_part_to_image.json" in check(tmp_path)[0].problem


def test_defects_that_the_official_readers_get_past_are_handled_and_named(tmp_path):
    """Resize what the box holds of a mask of another size; draw again for an image without the object."""
    write_pascal_part(tmp_path)
    folder = tmp_path / "Pascal-Part/VOCdevkit/VOC2010"
    annotation = folder / "Annotations_Part_json_merged_part_classes/2008_000003.json"
    content = json.loads(annotation.read_text())
    cat = next(entry for entry in content["object"] if entry["name"] == "cat")
    half = np.zeros((HEIGHT // 2, WIDTH // 2), bool)
    half[4:8, 4:8] = True
    cat["bndbox"] = {
        "xmin": 2,
        "ymin": 3,
        "xmax": 22,
        "ymax": 23,
    }  # of the mask: rows 3 to 12, columns 2 to 16
    cat["parts"] = [
        {"name": "HEAD", "mask": [ascii_counts(half)]},
        {"name": "TAIL", "mask": [outside_the_box()]},
    ]
    annotation.write_text(json.dumps(content))
    source = PascalPartSource(tmp_path)

    head = source.load(View("2008_000003", "cat+HEAD", 0))
    assert head.mask.shape == head.image.shape[:2] == (20, 20)
    rows, columns = np.arange(20) * 9 // 20, np.arange(20) * 14 // 20  # nearest pixel of the crop of 9 x 14
    np.testing.assert_array_equal(head.mask, half[3:12, 2:16][rows[:, None], columns])
    assert "2008_000003.json, 'HEAD' of 'cat' 0: the mask is 16 x 12 pixels, the image 32 x 24" in head.note
    tail = source.load(View("2008_000003", "cat+TAIL", 0))
    assert not tail.mask.any()
    assert "no pixel of the mask is in the box" in tail.note

    content["object"] = [entry for entry in content["object"] if entry["name"] != "bird"]
    annotation.write_text(json.dumps(content))
    manifest = PascalPartSource(tmp_path).manifest("insid3", 0, 1)
    birds = [e for e in manifest.episodes if str(e.class_id).startswith("bird")]
    assert birds
    assert not any("2008_000003" in (e.target, *e.references) for e in birds)
    (note,) = manifest.notes
    assert "2008_000003.json has no object 'bird', for whose 'LEGS' it is listed" in note


def ascii_counts(mask):
    return {"size": list(mask.shape), "counts": run_lengths(mask)["counts"].decode()}


def outside_the_box():
    return ascii_counts(box_mask(26, 2, 30, 6))


def test_check_counts_classes_and_images(tiny):
    counts = {line.what: (line.found, line.needed) for line in check(tiny[0])}
    assert counts["classes of fold 0 (animals)"] == (3, None)
    assert counts["validation images"] == counts["their annotations"] == (14, 14)
    assert BENCHMARK.folds == 4


def test_every_folder_of_the_layout_opens(tiny):
    root = tiny[0] / "Pascal-Part"
    for inner in ("", "VOCdevkit", "VOCdevkit/VOC2010"):
        assert PascalPartSource(root / inner).root == root / "VOCdevkit/VOC2010"


def test_a_missing_index_is_named_with_its_full_path(tmp_path):
    folder = tmp_path / "Pascal-Part/VOCdevkit/VOC2010"
    folder.mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"Pascal-Part/VOCdevkit/VOC2010/all_obj_part_to_image\.json is missing"
    ):
        PascalPartSource(tmp_path)
