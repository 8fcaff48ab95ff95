"""Test PACO-Part: the draw compared with a replay of the official one, crops, masks, and damaged files."""

import functools
import pickle
import re

import numpy as np
import pytest
from layouts_parts import HEIGHT, WIDTH, rectangle, write_image, write_paco_part

from segic_jax.data.episodes import View
from segic_jax.data.images import read_rgb
from segic_jax.data.masks import decode
from segic_jax.data.sources.paco_part import BENCHMARK, PacoPartSource, check
from segic_jax.errors import DataError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("paco")
    return root, *write_paco_part(root)


def official(train, val, fold, shots):
    """Draw classes and episodes (class, images, objects) as one process of the official loaders does."""

    def pick(items):
        return np.random.choice(items, 1, replace=False)[0]  # noqa: NPY002

    listed = {}
    for c in val["cid2img"]:
        images = []
        listed[c] = []
        for entry in val["cid2img"][c]:
            if next(iter(entry)) not in images:
                images.append(next(iter(entry)))
                listed[c].append(entry)
    numbers = list(train["cid2img"].keys())
    classes = [numbers[fold + 4 * v] for v in range(len(numbers) // 4)]
    classes = [c for c in classes if c in listed and len(listed[c]) > shots]

    @functools.cache
    def objects(image_id, c):
        objects_of_class = {}
        for annotation in val["img2anno"][image_id]:
            if annotation["category_id"] == c:
                mask = decode(annotation["segmentation"], HEIGHT, WIDTH)
                objects_of_class.setdefault(annotation["obj_ann_id"], []).append(
                    (annotation["obj_bbox"], mask)
                )
        return objects_of_class

    def draw_frame():
        c = pick(classes)
        examples = []
        while len(examples) < 1 + shots:
            entry = pick(listed[c])
            image_id, name = next(iter(entry.items()))
            name = "/".join(name.split("/")[-2:])
            if examples and name == examples[0][0]:
                continue
            objects_of_class = objects(image_id, c)
            instance = pick(list(objects_of_class.keys()))
            x, y, w, h = objects_of_class[instance][0][0]
            mask = np.any([mask for _, mask in objects_of_class[instance]], axis=0)
            examples.append((name, instance, mask[int(y) : int(y + h), int(x) : int(x + w)]))
        return c, examples

    np.random.seed(0)  # noqa: NPY002
    episodes, redraws = [], 0
    for _ in range(2500):
        c, examples = draw_frame()
        while any(0 in mask.shape for *_, mask in examples):
            c, examples = draw_frame()
            redraws += 1
        episodes.append((c, [name for name, *_ in examples], [instance for _, instance, _ in examples]))
    return classes, episodes, redraws


@pytest.mark.parametrize(("fold", "shots"), [(0, 1), (1, 1), (2, 1), (3, 1), (0, 5)])
def test_the_draw_is_the_official_one(tiny, fold, shots):
    root, train, val = tiny
    manifest = PacoPartSource(root).manifest("matcher", fold, shots)
    classes, episodes, redraws = official(train, val, fold, shots)
    assert redraws > 0
    assert list(manifest.classes) == classes
    assert [(e.class_id, [e.target, *e.references], list(e.instances)) for e in manifest.episodes] == episodes
    assert manifest.sha256 == PacoPartSource(root / "PACO-Part").manifest("insid3", fold, shots).sha256


def test_crops_and_masks(tmp_path):
    _, val = write_paco_part(tmp_path)
    annotations = [
        {
            "category_id": 115,
            "obj_ann_id": 7,
            "obj_bbox": [4.7, 3.2, 10.9, 12.9],
            "segmentation": [rectangle(5, 4, 9, 6)],
        },
        {
            "category_id": 115,
            "obj_ann_id": 8,
            "obj_bbox": [1, 1, 9, 9],
            "segmentation": [rectangle(0, 0, 3, 3)],
        },
        {
            "category_id": 115,
            "obj_ann_id": 7,
            "obj_bbox": [0, 0, 1, 1],
            "segmentation": [rectangle(13, 10, 30, 20)],
        },
        {
            "category_id": 114,
            "obj_ann_id": 8,
            "obj_bbox": [20, 20, 90, 90],
            "segmentation": [rectangle(0, 0, 3, 3)],
        },
    ]
    val["img2anno"][1000] = annotations
    (tmp_path / "PACO-Part/paco/paco_part_val.pkl").write_bytes(pickle.dumps(val))
    source = PacoPartSource(tmp_path)
    image = read_rgb(tmp_path / "PACO-Part/coco/val2017/000000000001.jpg")
    example = source.load(View("val2017/000000000001.jpg", 115, 7))  # rows 3 to 16.1, columns 4 to 15.6
    np.testing.assert_array_equal(example.image, image[3:16, 4:15])
    expected = np.zeros((13, 11), bool)
    expected[1:3, 1:5] = True
    expected[7:13, 9:11] = True
    np.testing.assert_array_equal(example.mask, expected)
    beyond = source.load(View("val2017/000000000001.jpg", 114, 8))
    assert beyond.mask.shape == beyond.image.shape[:2] == (HEIGHT - 20, WIDTH - 20)
    views_of_image = [view[1:] for view in source.views() if view.image_name == "val2017/000000000001.jpg"]
    assert views_of_image == [(115, 7), (115, 8), (114, 8)]  # views of one crop are adjacent


def has_pixels(x, y, width, height):
    """Return whether the crop of the official loaders contains pixels."""
    return np.zeros((HEIGHT, WIDTH))[int(y) : int(y + height), int(x) : int(x + width)].size > 0


def test_views_are_all_crops_with_pixels(tiny):
    root, _, val = tiny
    source = PacoPartSource(root)
    views = list(source.views())
    expected = {
        (path.removeprefix("datasets/coco/"), c, annotation["obj_ann_id"])
        for c, entries in val["cid2img"].items()
        for entry in entries
        for image_id, path in entry.items()
        for annotation in val["img2anno"][image_id]
        if annotation["category_id"] == c and has_pixels(*annotation["obj_bbox"])
    }
    assert set(views) == expected
    assert len(views) == len(expected)
    crops = [(view.image_name, view.instance) for view in views]
    assert len([1 for n, crop in enumerate(crops) if n == 0 or crops[n - 1] != crop]) == len(set(crops))
    for view in views:
        source.load(view)


def test_a_draw_reads_only_the_headers_of_images(tmp_path):
    write_paco_part(tmp_path)
    expected = PacoPartSource(tmp_path).manifest("matcher", 0, 1)
    for path in (tmp_path / "PACO-Part/coco").rglob("*.jpg"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - 200])
    assert PacoPartSource(tmp_path).manifest("matcher", 0, 1) == expected


def test_a_pickled_copy_reads_the_annotations_itself(tiny):
    source = PacoPartSource(tiny[0])
    copy = pickle.loads(pickle.dumps(source))
    assert copy._annotations is None
    assert copy.manifest("matcher", 0, 1) == source.manifest("matcher", 0, 1)


def test_missing_or_damaged_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"paco_part_train\.pkl is missing"):
        PacoPartSource(tmp_path)
    _, val = write_paco_part(tmp_path)
    folder = tmp_path / "PACO-Part"
    source = PacoPartSource(tmp_path)
    with pytest.raises(DataError, match="names no classes"):
        source.class_name(115)
    with pytest.raises(DataError, match="folds 0 to 3"):
        source.manifest("matcher", 4, 1)
    with pytest.raises(DataError, match=r"paco_part_val\.pkl has no class of fold 0 with more than 9 images"):
        source.manifest("matcher", 0, 9)
    with pytest.raises(
        DataError, match=r"paco_part_val\.pkl has no object 99 with the part 115 in val2017/x"
    ):
        source.load(View("val2017/x.jpg", 115, 99))
    outside = next(
        View(image_name, class_id, instance)
        for class_id, image_names in source.image_names.items()
        for image_name in image_names
        for instance, entry in source._objects(image_name, class_id).items()
        if entry.rows.start == 40
    )
    with pytest.raises(DataError, match=r"object \d+ of class .* holds nothing"):
        source.load(outside)
    path = folder / "coco/val2017/000000000001.jpg"
    original = path.read_bytes()
    for content, message in ((b"x", "damaged or not an image"), (None, "no such file")):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(DataError, match=rf"000000000001\.jpg.*{message}"):
            source.manifest("matcher", 0, 1)
    assert {entry.what: entry.found for entry in check(tmp_path)}["validation images"] == 8
    write_image(path, 0)
    assert path.read_bytes() == original
    (val_path, train_path) = folder / "paco/paco_part_val.pkl", folder / "paco/paco_part_train.pkl"
    images = [next(iter(entry)) for entry in val["cid2img"][115]]
    for change in (
        lambda v: v.pop("cid2img"),
        lambda v: v.pop("img2anno"),
        lambda v: v["cid2img"].update({115: [{}]}),
        lambda v: v["cid2img"].update({115: [{1: "a/b.jpg"}, {2: "a/b.jpg"}]}),
        lambda v: v["img2anno"][images[0]].append({}),
        lambda v: v["img2anno"][images[0]].append(
            v["img2anno"][images[0]][0] | {"obj_bbox": [1, 2], "obj_ann_id": 5}
        ),
        lambda v: v["img2anno"][images[0]][0].update(segmentation=[[["x"]]]),
    ):
        changed = pickle.loads(pickle.dumps(val))
        change(changed)
        val_path.write_bytes(pickle.dumps(changed))
        with pytest.raises(DataError, match=r"paco_part_val\.pkl is not laid out"):
            PacoPartSource(tmp_path)
    val["img2anno"] = {}
    val_path.write_bytes(pickle.dumps(val))
    with pytest.raises(DataError, match=r"paco_part_val\.pkl lists .* has no such part"):
        PacoPartSource(tmp_path).manifest("matcher", 0, 1)
    for c in val["cid2img"]:
        for entry in val["cid2img"][c]:
            for image_id in entry:
                box = {"obj_bbox": [0, 99, 5, 5], "segmentation": [rectangle(0, 0, 3, 3)], "obj_ann_id": 1}
                val["img2anno"].setdefault(image_id, []).append(box | {"category_id": c})
    val_path.write_bytes(pickle.dumps(val))
    with pytest.raises(DataError, match="hold nothing of the images"):
        PacoPartSource(tmp_path).manifest("matcher", 0, 1)
    train_path.write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match=r"paco_part_train\.pkl is not laid out"):
        PacoPartSource(tmp_path)
    assert "paco_part_train.pkl" in check(tmp_path)[0].problem


def test_objects_without_pixels_are_drawn_again_and_named(tiny):
    source = PacoPartSource(tiny[0])
    for fold in range(4):
        manifest = source.manifest("insid3", fold, 1)
        used = {view for e in manifest.episodes for view in (e.target_view, *e.reference_views)}
        for note in manifest.notes:
            instance, class_id, image_name = re.search(
                r"object (\d+) of class (\d+) in (\S+): its", note
            ).groups()
            assert View(image_name, int(class_id), int(instance)) not in used
    assert sum(len(source.manifest("insid3", fold, 1).notes) for fold in range(4)) > 3


def test_check_counts_classes_and_images(tiny):
    counts = {line.what: (line.found, line.needed) for line in check(tiny[0])}
    assert counts["classes of the training list"] == (16, 448)
    assert counts["classes drawn for 1 shot"] == (13, 303)
    assert counts["validation images"] == (9, 9)
    assert BENCHMARK.folds == 4
