"""Test INSID3's cross-domain sets, PerSeg and COCO JSON folders: masks, official draws, damaged files."""

# ruff: noqa: NPY002 (the legacy generator is what the official code draws from)

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from layouts_coco import HEIGHT, WIDTH
from layouts_domains import (
    square,
    write_coco_folder,
    write_isaid,
    write_isic,
    write_lung,
    write_permis,
    write_perseg,
    write_pixels,
    write_suim,
)

from segic_jax.data.benchmarks import find_benchmark, open_benchmark
from segic_jax.data.check import check_benchmark
from segic_jax.data.episodes import Episode, View, require_files
from segic_jax.errors import DataError, InputWarning

SETS = {
    "isic": ("ISIC", write_isic),
    "lung": ("LungSegmentation", write_lung),
    "isaid": ("iSAID", write_isaid),
    "suim": ("SUIM", write_suim),
    "permis": ("PerMIRS", write_permis),
    "perseg": ("PerSeg", write_perseg),
}


def write_set(tmp_path, name):
    folder, write = SETS[name]
    write(tmp_path / folder)
    return tmp_path / folder


def open_set(root, name):
    return open_benchmark(find_benchmark(name), root)


def official_draw(count, image_names, classes, shots):
    """Yield the official episodes: class number idx mod n, a target, and references that differ from it."""
    np.random.seed(0)
    for number in range(count):
        c = classes[number % len(classes)]
        target = np.random.choice(image_names[c], 1, replace=False)[0]
        references = []
        while len(references) < shots:
            reference = np.random.choice(image_names[c], 1, replace=False)[0]
            if reference != target:
                references.append(str(reference))
        yield Episode(c, str(target), tuple(references))


@pytest.mark.parametrize("name", SETS)
def test_the_folder_and_its_parent_are_accepted(tmp_path, name):
    root = write_set(tmp_path, name)
    views = list(open_set(root, name).views())
    assert views == list(open_set(tmp_path, name).views())
    assert len(views) == len(set(views)) > 0
    for view in views:
        example = open_set(root, name).load(view)
        assert example.image.shape == (HEIGHT, WIDTH, 3)
        assert example.mask.any()


@pytest.mark.parametrize("name", SETS)
def test_episodes_use_known_views_and_other_references(tmp_path, name):
    source = open_set(write_set(tmp_path, name), name)
    views = set(source.views())
    benchmark = find_benchmark(name)
    for protocol in benchmark.protocols:
        for fold in range(benchmark.folds):
            manifest = source.manifest(protocol, fold, 1)
            for episode in manifest.episodes:
                assert {episode.target_view, *episode.reference_views} <= views
                assert episode.target not in episode.references
            assert {e.class_id for e in manifest.episodes} <= set(manifest.classes)
    for arguments in (("nonsense", 0, 1), (protocol, benchmark.folds, 1), (protocol, 0, 0)):
        with pytest.raises(DataError, match="supports the protocols"):
            source.manifest(*arguments)


@pytest.mark.parametrize("shots", [1, 3])
def test_isic(tmp_path, shots):
    source = open_set(write_set(tmp_path, "isic"), "isic")
    np.testing.assert_array_equal(source.load(View("2/ISIC_0000005.jpg", 1)).mask, square(5) > 0)
    image_names = {
        0: [f"1/ISIC_{n:07}.jpg" for n in (1, 2, 3)],
        1: [f"2/ISIC_{n:07}.jpg" for n in (4, 5, 6, 7)],
        2: [f"3/ISIC_{n:07}.jpg" for n in (8, 9)],
    }
    expected = tuple(official_draw(600, image_names, [0, 1, 2], shots))
    assert source.manifest("insid3", 0, shots).episodes == expected
    assert source.class_name(2) == "skin lesion"


def test_lung(tmp_path):
    root = write_set(tmp_path, "lung")
    source = open_set(root, "lung")
    np.testing.assert_array_equal(source.load(View("CHNCXR_0002_1.png", 0)).mask, square(4) > 0)
    np.testing.assert_array_equal(source.load(View("MCUCXR_0003_1.png", 0)).mask, square(6) > 0)
    masks = sorted(path.name for path in (root / "masks").iterdir())
    image_names = [name if "MCUCXR" in name else name[:-9] + ".png" for name in masks]
    assert source.manifest("insid3", 0, 1).episodes == tuple(official_draw(600, {0: image_names}, [0], 1))
    assert [line.found for line in find_benchmark("lung").check(tmp_path)] == [5, 4]


def test_isaid(tmp_path):
    source = open_set(write_set(tmp_path, "isaid"), "isaid")
    example = source.load(View("P1_2", 5))
    np.testing.assert_array_equal(example.mask, square(8) > 0)
    np.testing.assert_array_equal(example.ignored, np.arange(HEIGHT)[:, None].repeat(WIDTH, 1) >= 20)
    assert source.load(View("P1_2", 9)).mask.sum() == 4 * WIDTH
    np.random.seed(0)
    expected = []
    for n in range(3):
        for c in (5, 9):
            reference = f"P1_{n}"
            while reference == f"P1_{n}":
                reference = str(np.random.choice(["P1_0", "P1_1", "P1_2"], 1, replace=False)[0])
            expected.append(Episode(c, f"P1_{n}", (reference,)))
    manifest = source.manifest("insid3", 1, 1)
    assert manifest.episodes == tuple(expected)
    assert manifest.classes == (5, 6, 7, 8, 9)
    assert source.class_name(14) == "harbor"
    assert [line.found for line in find_benchmark("isaid").check(tmp_path)] == [18, 9, 9, 9]


def test_suim(tmp_path):
    source = open_set(write_set(tmp_path, "suim"), "suim")
    assert View("d_1_.jpg", "PF") not in set(source.views())  # its mask is below 128
    np.testing.assert_array_equal(source.load(View("d_2_.jpg", "PF")).mask, square(6) > 0)
    codes = ["FV", "HD", "PF", "RI", "RO", "SR", "WR"]
    image_names = {c: [f"d_{n}_.jpg" for n in range(3) if (c, n) != ("PF", 1)] for c in codes}
    assert source.manifest("insid3", 0, 2).episodes == tuple(official_draw(20, image_names, codes, 2))
    assert source.class_name("WR") == "wreck"


def test_classes_without_images_are_left_out_and_named(tmp_path):
    """The sample in SUIM's repository lacks two of the classes; the official code stops at them."""
    root = write_set(tmp_path, "suim")
    shutil.rmtree(root / "masks/PF")
    for path in (root / "masks/SR").iterdir():
        write_pixels(path, square(4, 0))
    source = open_set(root, "suim")
    manifest = source.manifest("insid3", 0, 1)
    kept = ["FV", "HD", "RI", "RO", "WR"]
    image_names = {c: [f"d_{n}_.jpg" for n in range(3)] for c in kept}
    assert manifest.episodes == tuple(official_draw(15, image_names, kept, 1))
    assert manifest.classes == tuple(kept)
    assert manifest.notes == (
        "suim: PF (aquatic plant) has 0 of the 2 images that an episode needs: it is left out.",
        "suim: SR (sea floor and rocks) has 0 of the 2 images that an episode needs: it is left out.",
    )
    report = str(check_benchmark(find_benchmark("suim"), root))
    assert "handled" in report
    assert all(note in report for note in manifest.notes)

    shutil.rmtree(write_set(tmp_path, "isic") / "ISIC2018_Task1-2_Training_Input/2")
    manifest = open_set(tmp_path, "isic").manifest("insid3", 0, 1)
    assert manifest.classes == (0, 2)
    assert "isic: 1 (skin lesion) has 0 of the 2 images" in manifest.notes[0]


def test_permis(tmp_path):
    source = open_set(write_set(tmp_path, "permis"), "permis")
    np.testing.assert_array_equal(source.load(View("vid_a/2.jpg", 0)).mask, square(8) > 0)
    assert source.manifest("insid3", 0, 1).episodes == tuple(
        Episode(0, f"vid_{v}/{f}.jpg", (f"vid_{v}/0.jpg",)) for v in "ab" for f in (1, 2)
    )
    with pytest.raises(DataError, match="1 shot"):
        source.manifest("insid3", 0, 5)
    with pytest.raises(DataError, match="names no classes"):
        source.class_name(0)
    (tmp_path / "PerMIRS/vid_b/masks.npz.npy").unlink()
    (note,) = open_set(tmp_path, "permis").manifest("insid3", 0, 1).notes
    assert note.endswith("vid_b has no masks.npz.npy: no episode has it.")


def test_perseg(tmp_path):
    source = open_set(write_set(tmp_path, "perseg"), "perseg")
    np.testing.assert_array_equal(source.load(View("02.jpg", "teapot")).mask, square(8) > 0)
    assert source.manifest("original", 0, 1).episodes == tuple(
        Episode(c, f"0{n}.jpg", ("00.jpg",)) for c in ("red_cup", "teapot") for n in (1, 2)
    )
    assert source.class_name("red_cup") == "red cup"


@pytest.mark.parametrize("images", ["images/", ""])
def test_a_coco_json_in_a_folder_annotations_is_read(tmp_path, images):
    write_coco_folder(tmp_path, images)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "mine.json").rename(tmp_path / "annotations/mine.json")
    source = open_set(tmp_path, "folder")
    assert source.load(View(f"{3:012}.jpg", 3)).mask.sum() == 128
    (tmp_path / f"{images}{3:012}.jpg").unlink()
    with pytest.raises(DataError, match=f"{images}{3:012}.jpg: there is no such file"):
        source.load(View(f"{3:012}.jpg", 3))


def test_the_good_annotations_of_a_coco_json_are_used(tmp_path):
    """Write what tools export every day: Windows' names, one image twice, flat polygons, boxes, leftovers."""
    write_coco_folder(tmp_path)
    path, polygon = tmp_path / "mine.json", [2, 2, 10, 2, 10, 8, 2, 8]
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["file_name"] = "images\\" + Path(image["file_name"]).name
    content["images"].append(next(image for image in content["images"] if image["id"] == 1) | {"id": 77})
    content["annotations"] = [
        {"image_id": 1, "category_id": 3, "segmentation": [[10, 10, 20, 20], polygon]},
        {"image_id": 77, "category_id": 17, "segmentation": polygon},
        {"image_id": 2, "category_id": 3, "segmentation": []},
        {"image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4]},
        {"image_id": 2, "category_id": 99, "segmentation": [polygon]},
        {"image_id": 99, "category_id": 3, "segmentation": [polygon]},
        {"image_id": 2, "category_id": 3, "segmentation": {"size": [9, 9], "counts": "abc"}},
        {"image_id": 2, "category_id": 3, "segmentation": [[10, 10, 20, 20]]},
        {"image_id": 2, "category_id": 3, "segmentation": [[-9, -9, -4, -9, -4, -4]]},
        {"image_id": 2, "category_id": 3, "segmentation": [[5, 5, 5, 5, 5, 5]]},
    ]
    path.write_text(json.dumps(content))
    with pytest.warns(InputWarning, match="8 of 10 annotations are left out: number 3: it marks .* 3 more"):
        source = open_set(tmp_path, "folder")
    name = f"images/{1:012}.jpg"
    assert {(view.image_name, view.class_id) for view in source.views()} == {(name, 3), (name, 17)}
    masks = [source.load(View(name, class_id)).mask for class_id in (3, 17)]
    assert masks[0].sum() == masks[1].sum() == 48


@pytest.mark.parametrize("images", ["images/", ""])
def test_a_folder_with_a_coco_json_is_read(tmp_path, images):
    write_coco_folder(tmp_path, images)
    for root in (tmp_path, tmp_path / "mine.json"):
        source = open_set(root, "folder")
        assert source.manifest("original", 0, 1).episodes == (
            Episode(3, f"{1:012}.jpg", (f"{3:012}.jpg",)),
            Episode(3, f"{3:012}.jpg", (f"{1:012}.jpg",)),
            Episode(17, f"{1:012}.jpg", (f"{2:012}.jpg",)),
            Episode(17, f"{2:012}.jpg", (f"{5:012}.jpg",)),
            Episode(17, f"{5:012}.jpg", (f"{1:012}.jpg",)),
        )
        assert source.load(View(f"{3:012}.jpg", 3)).mask.sum() == 128
    assert [line.found for line in find_benchmark("folder").check(tmp_path)] == [2, 5]
    two_shots = source.manifest("original", 0, 2)
    assert two_shots.classes == (17,)
    assert len(two_shots.episodes) == 3
    (note,) = two_shots.notes
    assert note == f"{tmp_path}/mine.json: car has 2 of the 3 images that an episode needs: it is left out."
    with pytest.raises(
        DataError, match=r"No class has the 4 images .* such as .*mine\.json: car: add images"
    ):
        source.manifest("original", 0, 3)
    with pytest.raises(DataError, match="no category 4"):
        source.class_name(4)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match=r"holds mine\.json and other\.json"):
        open_set(tmp_path, "folder")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_size(path):
    cv2.imwrite(str(path), np.full((5, 6), 255, np.uint8))


FIRST = {  # an image and its mask of the first view
    "isic": (
        "ISIC2018_Task1-2_Training_Input/1/ISIC_0000001.jpg",
        "ISIC2018_Task1_Training_GroundTruth/ISIC_0000001_segmentation.png",
    ),
    "lung": ("CXR_png/CHNCXR_0001_0.png", "masks/CHNCXR_0001_0_mask.png"),
    "isaid": ("val/images/P0_0.png", "val/semantic_png/P0_0_instance_color_RGB.png"),
    "suim": ("images/d_0_.jpg", "masks/FV/d_0_.bmp"),
    "permis": ("vid_a/0.jpg", "vid_a/masks.npz.npy"),
    "perseg": ("Images/red_cup/00.jpg", "Annotations/red_cup/00.png"),
}


# Which of the two lists the images of a set; None: neither.
LISTING = {"isic": 0, "lung": 1, "isaid": None, "suim": 1, "permis": 1, "perseg": 0}


def read_everything(root, name):
    source = open_set(root, name)
    for view in source.views():
        source.load(view)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("damage", [truncate, other_size, Path.unlink])
def test_a_damaged_file_is_named(tmp_path, name, index, damage):
    root = write_set(tmp_path, name)
    path = root / FIRST[name][index]
    views = set(open_set(root, name).views())
    if damage is other_size and path.suffix == ".npy":
        np.save(path, np.array([{}, {}, {}], object), allow_pickle=True)
    else:
        damage(path)
    if damage is other_size and path.suffix != ".npy":
        loaded = [open_set(root, name).load(view) for view in open_set(root, name).views()]
        notes = [image.note for image in loaded if image.note]
        assert notes
        assert all(path.name in note and "resized to the image, nearest pixel" in note for note in notes)
        assert all(image.mask.shape == image.image.shape[:2] for image in loaded)
        return
    if damage is Path.unlink and index == LISTING[name]:
        read_everything(root, name)
        assert set(open_set(root, name).views()) < views  # the image is no longer listed
        return
    with pytest.raises(DataError) as error:
        read_everything(root, name)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SETS)
def test_missing_data_are_named_with_their_source(tmp_path, name):
    root = write_set(tmp_path, name)
    benchmark = find_benchmark(name)
    shutil.rmtree(root / FIRST[name][0].split("/")[0])
    if name == "permis":
        shutil.rmtree(root / "vid_b")
    with pytest.raises(DataError) as error:
        open_set(root, name)
    assert benchmark.download in str(error.value)
    assert benchmark.check(root)[0].problem
    with pytest.raises(DataError, match=f"/{root.name}"):  # also from the folder above
        open_set(tmp_path, name)


def test_damaged_lists_of_isaid_are_named(tmp_path):
    root = write_set(tmp_path, "isaid")
    path = root / "splits/val/fold1.txt"
    source = open_set(root, "isaid")
    path.write_text("P1_0__3\n")
    with pytest.raises(DataError, match=r"fold1\.txt: 'P1_0__3' is not a name__class of this fold"):
        source.manifest("insid3", 1, 1)
    assert source.manifest("insid3", 0, 1).episodes  # the other folds need not this list
    path.write_text("P1_0__6\n")
    with pytest.raises(DataError, match=r"splits/val/fold1\.txt lists one image of ground track field"):
        source.manifest("insid3", 1, 1)
    for content, message in ((b"\xff\xfe\x00", "missing or not text"), (b"\r\n", "empty")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"fold1\.txt is {message}"):
            source.manifest("insid3", 1, 1)
    path.unlink()
    with pytest.raises(DataError, match="1RBmVHXGhEXak2XB4OeCzQj2yswOmuMB2"):
        list(source.views())
    assert "fold1.txt is missing" in find_benchmark("isaid").check(root)[0].problem


def test_unknown_views_and_classes_are_refused(tmp_path):
    source = open_set(write_set(tmp_path, "isic"), "isic")
    with pytest.raises(DataError, match="no image 9"):
        source.load(View("9", 0))
    with pytest.raises(DataError, match="no class 5"):
        source.class_name(5)


@pytest.mark.parametrize(("name", "class_id"), [("isaid", 15), ("isaid", "ship"), ("permis", 1)])
def test_an_unknown_class_is_named(tmp_path, name, class_id):
    source = open_set(write_set(tmp_path, name), name)
    with pytest.raises(DataError, match=f"has the class.* not {class_id!r}"):
        source.load(next(source.views())._replace(class_id=class_id))


@pytest.mark.parametrize("name", ["isic", "lung", "suim", "perseg"])
def test_hidden_files_are_not_images(tmp_path, name):
    root = write_set(tmp_path, name)
    before = list(open_set(root, name).views())
    for folder in [path for path in root.rglob("*") if path.is_dir()]:
        for hidden in ("._1.jpg", "._1.png", "._1.bmp", ".DS_Store"):
            (folder / hidden).write_bytes(b"\0")
    if name == "suim":
        (root / "masks/FV/Thumbs.db").write_bytes(b"\0")
    if name == "perseg":
        (root / "Images/.ipynb_checkpoints").mkdir()
    assert list(open_set(root, name).views()) == before


def test_endings_in_capitals_are_named(tmp_path):
    root = write_set(tmp_path, "isic")
    path = next((root / "ISIC2018_Task1-2_Training_Input/2").glob("*.jpg"))
    path.rename(path.with_suffix(".JPG"))
    manifest = open_set(root, "isic").manifest("insid3", 0, 1)
    assert manifest.notes == (f"{path.with_suffix('.JPG')} ends in capitals: it is left out, as officially.",)
    assert not any(path.stem in f"{e.target} {e.references}" for e in manifest.episodes)
    root = write_set(tmp_path, "perseg")
    path = next((root / "Images/teapot").glob("*.jpg"))
    path.rename(path.with_suffix(".JPG"))
    with pytest.raises(DataError, match=rf"{path.stem}\.JPG ends in capitals: rename it"):
        open_set(root, "perseg")


def test_folder_has_one_protocol_and_fold(tmp_path):
    write_coco_folder(tmp_path / "json")
    for stem in ("1", "2"):
        (tmp_path / "plain/ant").mkdir(parents=True, exist_ok=True)
        for ending in (".jpg", ".png"):
            (tmp_path / f"plain/ant/{stem}{ending}").write_bytes(b"")
    for root in (tmp_path / "json", tmp_path / "plain"):
        source = open_set(root, "folder")
        for protocol, fold, shots in (("matcher", 0, 1), ("original", 1, 1), ("original", 0, 0)):
            with pytest.raises(DataError, match="supports the protocol original"):
                source.manifest(protocol, fold, shots)


@pytest.mark.parametrize("name", [*SETS, "folder"])
def test_a_missing_file_of_a_view_is_named(tmp_path, name):
    if name == "folder":
        write_coco_folder(tmp_path / "mine")
        source = open_set(tmp_path / "mine", name)
    else:
        source = open_set(write_set(tmp_path, name), name)
    views = list(source.views())
    require_files(source, views)
    with pytest.raises(DataError, match="is missing, and an episode needs it"):
        require_files(source, [View("none/7.jpg", views[0].class_id)])
    path = source.paths(views[-1])[0]
    path.unlink()
    with pytest.raises(
        DataError, match=f"{path.parent.name}/{path.name} is missing, and an episode needs it"
    ):
        require_files(source, views)
