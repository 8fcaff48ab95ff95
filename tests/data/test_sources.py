# ruff: noqa: NPY002 (the legacy generator is what the official code draws from)

import re

import cv2
import numpy as np
import pytest
from layouts_coco import write_fss1000

from segic_jax.data.episodes import Episode, LabelledImage, Manifest, View, read_manifest, require_files
from segic_jax.data.pairs import ClassPairs
from segic_jax.data.sources.folder import FolderSource, export
from segic_jax.data.sources.fss1000 import Fss1000Source, check, class_names
from segic_jax.errors import DataError, InputWarning


class Squares:
    """Serve three classes of grey squares; the width of a mask identifies the image."""

    name = "squares"

    def manifest(self, protocol, fold, shots):
        numbers = ("1", "2", "10")
        episodes = tuple(
            Episode(c, n, (numbers[(i + 1) % 3],))
            for c in ("ant", "bee", "cow")
            for i, n in enumerate(numbers)
        )
        return Manifest(self.name, protocol, fold, shots, ("ant", "bee", "cow"), episodes)

    def class_name(self, class_id):
        return class_id

    def views(self):
        return (episode.target_view for episode in self.manifest("original", 0, 1).episodes)

    def load(self, view):
        mask = np.zeros((24, 32), bool)
        mask[:8, : 2 * int(view.image_name)] = True
        return LabelledImage(np.where(mask[..., None], np.uint8([200, 100, 50]), np.uint8(20)), mask)


@pytest.fixture
def folder(tmp_path):
    assert export(Squares(), "original", tmp_path / "data") == 9
    return tmp_path / "data"


def test_export_and_read_back(folder):
    source = FolderSource(folder)
    manifest = source.manifest("original", 0, 1)
    assert len(manifest.episodes) == len(list(source.views())) == 9
    assert manifest.episodes[:3] == (
        Episode("ant", "1.jpg", ("2.jpg",)),
        Episode("ant", "2.jpg", ("3.jpg",)),
        Episode("ant", "3.jpg", ("1.jpg",)),
    )
    for episode, original in zip(manifest.episodes, Squares().manifest("", 0, 1).episodes, strict=True):
        example, expected = source.load(episode.target_view), Squares().load(original.target_view)
        np.testing.assert_array_equal(example.mask, expected.mask)
        assert abs(example.image.astype(int) - expected.image).mean() < 6  # JPEG; also: red is red
    with pytest.raises(DataError, match="not empty"):
        export(Squares(), "original", folder)


def test_numbers_sort_numerically_and_shots_wrap_around(folder):
    for ending in ("jpg", "png"):
        (folder / f"bee/3.{ending}").rename(folder / f"bee/10.{ending}")
    episodes = FolderSource(folder, classes=["bee"]).manifest("original", 0, 2).episodes
    assert [e.target for e in episodes] == ["1.jpg", "2.jpg", "10.jpg"]
    assert [e.references for e in episodes] == [
        ("2.jpg", "10.jpg"),
        ("10.jpg", "1.jpg"),
        ("1.jpg", "2.jpg"),
    ]


def test_pairs_are_two_images_of_one_class(folder):
    source = ClassPairs(FolderSource(folder))
    assert len(source) == 9
    rng = np.random.default_rng(0)
    pairs = [source.pair(rng) for _ in range(40)]
    assert {pair.name for pair in pairs} == {"ant", "bee", "cow"}
    widths = {(p.target.masks.sum(), p.reference.masks.sum()) for p in pairs}
    assert len(widths) == 6  # all ordered pairs of three different images
    assert all(a != b for a, b in widths)
    assert pairs[0].target.masks.shape == (1, 24, 32)
    assert {pair.name for pair in (ClassPairs(source.source, ["bee"]).pair(rng) for _ in range(9))} == {"bee"}
    with pytest.raises(DataError, match="no class of two images to draw pairs of"):
        ClassPairs(source.source, [])


def test_masks_are_read_as_those_of_references(folder):
    mask = np.zeros((24, 32), np.uint8)
    mask[5:15, 5:20] = 1
    for stored in (mask, 255 * mask, np.where(mask, 1, 0).astype(np.uint16)):
        cv2.imwrite(str(folder / "ant/1.png"), stored)
        np.testing.assert_array_equal(FolderSource(folder).load(View("1.jpg", "ant")).mask, mask > 0)


def damage(folder, fault):
    """Damage the folder; return a call that fails, its arguments, and what the message must say."""
    match fault:
        case "missing folder":
            return FolderSource, (folder / "nowhere",), "nowhere is not a folder"
        case "no class":
            (folder / "empty").mkdir()
            return FolderSource, (folder / "empty",), "holds no class"
        case "no mask":
            (folder / "bee/2.png").unlink()
            return FolderSource, (folder,), r"bee/2\.jpg has no mask: save it as 2\.png"
        case "no image":
            (folder / "bee/2.jpg").unlink()
            return FolderSource, (folder,), r"bee/2\.png is a mask without an image"
        case "single image":
            for name in ("ant", "bee", "cow"):
                for number in (2, 3):
                    (folder / f"{name}/{number}.jpg").unlink()
                    (folder / f"{name}/{number}.png").unlink()
            return FolderSource(folder).manifest, ("original", 0, 1), r"No class has the 2 images .*/ant: add"
        case "other size":
            cv2.imwrite(str(folder / "ant/1.png"), np.full((24, 30), 255, np.uint8))
            return (
                FolderSource(folder).load,
                (View("1.jpg", "ant"),),
                r"ant/1\.png is 30 x 24 pixels, .*ant/1\.jpg 32 x 24",
            )
        case "several labels":
            cv2.imwrite(
                str(folder / "ant/1.png"), np.repeat([[1], [2]], 12, 0).repeat(32, 1).astype(np.uint8)
            )
            return FolderSource(folder).load, (View("1.jpg", "ant"),), r"ant/1\.png holds several labels"
        case "not an image":
            (folder / "ant/1.jpg").write_text("not an image")
            return FolderSource(folder).load, (View("1.jpg", "ant"),), r"ant/1\.jpg is not an image"
        case "empty file":
            (folder / "ant/1.png").write_bytes(b"")
            return FolderSource(folder).load, (View("1.jpg", "ant"),), r"ant/1\.png is damaged"
        case "truncated jpg" | "truncated png":
            path = folder / f"ant/1.{fault[-3:]}"
            path.write_bytes(path.read_bytes()[:-30])
            return FolderSource(folder).load, (View("1.jpg", "ant"),), rf"ant/1\.{fault[-3:]} is cut off"
        case "vanished":
            source = FolderSource(folder)
            (folder / "ant/1.jpg").unlink()
            return source.load, (View("1.jpg", "ant"),), r"ant/1\.jpg: there is no such file"


@pytest.mark.parametrize(
    "fault",
    [
        "missing folder",
        "no class",
        "no mask",
        "no image",
        "single image",
        "other size",
        "several labels",
        "not an image",
        "empty file",
        "truncated jpg",
        "truncated png",
        "vanished",
    ],
)
def test_a_damaged_folder_is_named(folder, fault):
    call, arguments, message = damage(folder, fault)
    with pytest.raises(DataError, match=message) as error:
        call(*arguments)
    assert re.search(r"[^.][:;] [^.]", str(error.value))  # the problem and how to fix it
    assert "\n" not in str(error.value)


def test_a_class_of_too_few_images_is_left_out_and_named(folder):
    for number in (2, 3):
        (folder / f"cow/{number}.jpg").unlink()
        (folder / f"cow/{number}.png").unlink()
    (folder / "dog").mkdir()
    source = FolderSource(folder)
    manifest = source.manifest("original", 0, 1)
    assert manifest.classes == ("ant", "bee")
    assert len(manifest.episodes) == 6
    assert manifest.notes == (
        f"{folder}/cow has 1 of the 2 images that an episode needs: it is left out.",
        f"{folder}/dog has 0 of the 2 images that an episode needs: it is left out.",
    )
    with pytest.warns(InputWarning, match="there is one of cow: left out"):
        assert set(ClassPairs(source).views) == {"ant", "bee"}


def test_fss1000_has_the_published_splits():
    splits = {split: class_names(split) for split in ("trn", "val", "test")}
    assert {split: len(names) for split, names in splits.items()} == {"trn": 520, "val": 240, "test": 240}
    assert len({name for names in splits.values() for name in names}) == 1000


@pytest.mark.parametrize("parent", ["", "data"])
def test_fss1000_reads_both_layouts(tmp_path, parent):
    image_name = cv2.imencode(".jpg", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    mask = cv2.imencode(".png", np.full((4, 4), 255, np.uint8))[1].tobytes()
    root = tmp_path / "FSS-1000"
    for name in class_names("test"):
        (root / parent / name).mkdir(parents=True)
        for number in range(1, 11):
            (root / parent / name / f"{number}.jpg").write_bytes(image_name)
            (root / parent / name / f"{number}.png").write_bytes(mask)
    assert Fss1000Source(tmp_path).root == root / parent
    source = Fss1000Source(root)
    episodes = source.manifest("matcher", 0, 1).episodes
    assert len(episodes) == 2400
    example = source.load(episodes[0].target_view)
    assert example.image.shape == (4, 4, 3)
    assert example.mask.all()
    assert [line.found for line in check(root)] == [240, 2400, 2400]
    (root / parent / name / "7.jpg").unlink()
    assert [line.found for line in check(root)] == [240, 2399, 2400]
    assert f"{name}/7.jpg is missing" in check(root)[1].problem


def test_fss1000_draws_without_classes_that_are_missing_as_the_official_code_does(tmp_path):
    with pytest.raises(DataError, match=r"abe's_flyingfish is missing: unpack FSS-1000"):
        Fss1000Source(tmp_path)
    image = np.zeros((4, 4), np.uint8)
    (tmp_path / "abacus").mkdir()  # of the training split
    (tmp_path / "bamboo_slip").mkdir()
    for number in range(1, 11):
        for ending in ("jpg", "png"):
            cv2.imwrite(str(tmp_path / f"bamboo_slip/{number}.{ending}"), image)
    source = Fss1000Source(tmp_path)
    for protocol, seed in (("matcher", 0), ("segic", 42)):
        manifest = source.manifest(protocol, 0, 1)
        found = [tmp_path / "bamboo_slip" / f"{number}.jpg" for number in sorted(range(1, 11), key=str)]
        drawn = [(e.class_id, e.target, e.references) for e in manifest.episodes]
        assert drawn == official_fss(found, 10, seed)
        assert (len(manifest.classes), len(manifest.notes)) == (240, 239)
        assert "flyingfish is missing: no episode has this class" in manifest.notes[0]
    views = [view for e in manifest.episodes for view in (e.target_view, *e.reference_views)]
    require_files(source, views)
    assert source.load(views[0]).image.shape == (4, 4, 3)
    with pytest.raises(DataError, match=r"abe's_flyingfish/1\.jpg is missing, and an episode needs it"):
        require_files(source, source.views())
    assert [(line.found, line.needed) for line in check(tmp_path)] == [(1, 240), (10, 2400), (10, 2400)]


def test_fss1000_handles_the_odd_files_of_the_download(tmp_path):
    """Draw past pairs of two sizes as SegIC does, resize their masks as Matcher does, and name them."""
    write_fss1000(tmp_path, class_names("test"))
    odd = {("crt_screen", "6"), ("screw", "8"), ("shower_curtain", "3")}
    for name, number in odd:
        mask = np.zeros((24, 32), np.uint8)
        mask[:12, :8] = 255
        cv2.imwrite(str(tmp_path / name / f"{number}.png"), mask)
    cv2.imwrite(str(tmp_path / "bamboo_slip/7.png"), np.full((12, 16, 3), 1, np.uint8))
    source = Fss1000Source(tmp_path)
    views = {(name, f"{number}.jpg") for name, number in odd}

    matcher = source.manifest("matcher", 0, 1)
    assert (len(matcher.episodes), matcher.notes) == (2400, ())
    loaded = source.load(View("6.jpg", "crt_screen"))
    assert "crt_screen/6.png is 32 x 24 pixels" in loaded.note
    np.testing.assert_array_equal(loaded.mask, (np.arange(12) < 6)[:, None] & (np.arange(16) < 4))
    other = source.load(View("7.jpg", "bamboo_slip"))
    assert not other.mask.any()
    assert "bamboo_slip/7.png has no value above 1: it is empty" in other.note

    for protocol in ("segic", "segic-1gpu", "segic-8gpu"):
        manifest = source.manifest(protocol, 0, 1)
        assert len(manifest.episodes) == 2400
        used = {(e.class_id, name) for e in manifest.episodes for name in (e.target, *e.references)}
        assert not used & views
        assert len(manifest.notes) == 3
        assert "no episode has it, as in the official code" in manifest.notes[0]
        manifest.write(tmp_path / "list.gz")
        assert read_manifest(tmp_path / "list.gz") == manifest


def official_fss(paths, count, seed=42):
    """Repeat the calls of utils/fss.py, `DatasetFSS`, on the images that it lists, in one process."""
    np.random.seed(seed)

    def sizes_differ(path):
        return cv2.imread(str(path)).shape != cv2.imread(str(path.with_suffix(".png"))).shape

    def item(index):
        target = paths[index]
        while True:
            reference = target.parent / f"{np.random.choice(range(1, 11), 1, replace=False)[0]}.jpg"
            if reference != target:
                break
        if sizes_differ(target) or sizes_differ(reference):
            return item(index + 1)
        return target.parent.name, target.name, (reference.name,)

    return [item(index) for index in range(count)]


def test_fss1000_draws_past_odd_files_as_the_official_code_does(tmp_path):
    write_fss1000(tmp_path, class_names("test"))
    first, second = class_names("test")[:2]
    for place in (f"{first}/10.png", f"{second}/3.png"):
        cv2.imwrite(str(tmp_path / place), np.zeros((5, 5), np.uint8))
    episodes = Fss1000Source(tmp_path).manifest("segic", 0, 1).episodes
    numbers = sorted(range(1, 11), key=str)
    paths = [tmp_path / name / f"{number}.jpg" for name in class_names("test") for number in numbers]
    assert [(e.class_id, e.target, e.references) for e in episodes[:60]] == official_fss(paths, 60)


@pytest.mark.parametrize(
    ("image", "mask"),
    [("1.png", "1_mask.png"), ("1.webp", "1.png"), ("1.jpg", "1.bmp"), ("1.JPG", "1_mask.jpg")],
)
def test_a_folder_takes_images_and_masks_of_any_format(tmp_path, image, mask):
    """Read grey 0/255, RGB 0/1 and JPEG masks beside images of several formats."""
    values = np.zeros((20, 30), np.uint8)
    values[5:15, 5:20] = 255
    (tmp_path / "ant").mkdir()
    for i, stored in enumerate((values, np.stack([values // 255] * 3, -1) if ".jpg" not in mask else values)):
        for name, array in ((image, np.full((20, 30, 3), 90, np.uint8)), (mask, stored)):
            path = str(tmp_path / "ant" / name.replace("1", str(i + 1), 1))
            cv2.imwrite(path, array)
    source = FolderSource(tmp_path)
    for view in source.views():
        loaded = source.load(view)
        np.testing.assert_array_equal(loaded.mask, values > 0)
        assert (loaded.image == 90).mean() > 0.9


def test_a_folder_refuses_what_it_cannot_tell_apart(tmp_path):
    (tmp_path / "ant").mkdir()
    for name in ("1.jpg", "1.jpeg"):
        cv2.imwrite(str(tmp_path / "ant" / name), np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"holds 1\.jpeg, 1\.jpg: keep one image, and name its mask 1_mask"):
        FolderSource(tmp_path)
