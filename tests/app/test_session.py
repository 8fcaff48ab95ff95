"""The page's logic without a browser: limits on uploads, the session, drawing, downloads."""

import base64
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
from segic_jax.app import drawing, limits
from segic_jax.app.files import export, file_names
from segic_jax.app.scenes import scenes
from segic_jax.app.session import Picture, Session, Target, clean_box, clean_name
from segic_jax.errors import DataError
from segic_jax.inference.explain import Explanation, Match
from segic_jax.inference.segmenter import Segmenter

GREY = np.full((60, 80, 3), 90, np.uint8)


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def marks(picture, mask=None, box=None):
    """What page.js would send."""
    rows, columns = drawing._painter_size(picture.image).shape[:2]
    paint = np.zeros((rows, columns, 4), np.uint8)
    if mask is not None:
        paint[limits.stretch(mask, (rows, columns))] = 255
    file = io.BytesIO()
    Image.fromarray(paint).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return json.dumps({"mask": url, "box": box})


@pytest.fixture(scope="module")
def searched():
    """A session with the first example of the page, searched."""
    session, scene = Session(), scenes()[0]
    session.draft = scene.picture
    session.take(scene.name, scene.mask, None)
    session.add_targets(scene.targets)
    told = []
    session.find(Segmenter.load(), lambda done, total: told.append((done, total)))
    assert told == [(i, len(scene.targets)) for i in range(len(scene.targets))]
    return session


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"just some text", "is not an image"),
        (b"", "is not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "is not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "cat.png"),
    ],
)
def test_what_is_no_image_is_said(tmp_path, content, said):
    path = tmp_path / "upload"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        limits.read_upload(path, "cat.png")
    assert "cat.png" in str(error.value)
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_image_is_said(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = saved(tmp_path / "whole", noise, format=kind).read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cat\.jpg"):
        limits.read_upload(tmp_path / "cut", "cat.jpg")


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    with pytest.raises(DataError, match="million pixels"):
        limits.read_upload(tmp_path / "huge.png", "huge.png")


def test_a_large_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_MEGABYTES", 0)
    with pytest.raises(DataError, match="the page takes 0 MB"):
        limits.read_upload(saved(tmp_path / "a.png", GREY), "a.png")


def test_images_are_shrunk_to_the_side(tmp_path):
    path = saved(tmp_path / "wide.png", np.zeros((100, 3000, 3), np.uint8))
    assert limits.read_upload(path, "wide.png").shape == (43, limits.SIDE, 3)


def test_a_mask_file_must_have_its_images_shape(tmp_path):
    path = saved(tmp_path / "m.png", np.eye(40, dtype=np.uint8) * 255)
    assert limits.read_mask_upload(path, "m.png", (20, 20)).shape == (20, 20)
    with pytest.raises(DataError, match=r"m\.png is 40 x 40 pixels and has another shape"):
        limits.read_mask_upload(path, "m.png", (20, 40))


def test_marks_come_back_as_they_were_painted():
    picture = Picture("a", GREY)
    mask = np.zeros((60, 80), bool)
    mask[20:40, 16:48] = True
    found, box = drawing.marked(marks(picture, mask), picture)
    np.testing.assert_array_equal(found, mask)
    assert box is None
    assert drawing.marked(marks(picture), picture) == (None, None)
    assert drawing.marked(marks(picture, box=[160, 80, 320, 240]), picture) == (None, (20, 10, 40, 30))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"mask": null}',
        '{"mask": "x", "box": null}',
        '{"box": "abc", "mask": 1}',
        "[" * 9999,
    ],
)
def test_malformed_marks_are_said(text):
    with pytest.raises(DataError, match="could not be read"):
        drawing.marked(text, Picture("a", GREY))


def test_what_cannot_be_an_example_is_said(monkeypatch):
    session, some = Session(), np.ones((60, 80), bool)
    with pytest.raises(DataError, match="Bring an image"):
        session.take("cat", some, None)
    session.draft = Picture("a", GREY)
    for mask in (None, ~some):
        with pytest.raises(DataError, match="Nothing is marked"):
            session.take("cat", mask, None)
    with pytest.raises(DataError, match="Show first what cat is"):
        session.take("cat", some, None, negative=True)
    monkeypatch.setattr(limits, "MAX_CLASSES", 0)
    with pytest.raises(DataError, match="takes 0 classes"):
        session.take("cat", some, None)
    monkeypatch.setattr(limits, "MAX_EXAMPLES", 0)
    with pytest.raises(DataError, match="takes 0 examples"):
        session.take("cat", some, None)
    assert session.draft is not None  # nothing is lost
    assert not session.shots


def test_names_and_boxes_are_cleaned():
    assert clean_name("  a\x00\n cat ") == "a cat"
    for name in ("", " \n", "x" * 41):
        with pytest.raises(DataError, match="name"):
            clean_name(name)
    assert clean_box((70, 50, -5, 10), GREY) == (0, 10, 70, 50)
    for box in ((1, 1, None, 4), (float("nan"), 1, 2, 3)):
        with pytest.raises(DataError, match="four numbers"):
            clean_box(box, GREY)
    with pytest.raises(DataError, match="no area"):
        clean_box((90, 0, 99, 9), GREY)


def test_removing_the_last_example_of_a_class_removes_its_negatives():
    session, some = Session(), np.ones((60, 80), bool)
    for name, negative in (("cat", False), ("cat", True), ("dog", False)):
        session.draft = Picture("a", GREY)
        session.take(name, some, None, negative)
    session.chosen_shot = 0
    session.remove_shot()
    assert list(session.colours) == ["dog"]
    assert [shot.name for shot in session.shots] == ["dog"]


def test_too_many_targets_are_refused_together():
    session = Session()
    with pytest.raises(DataError, match="segic predict"):
        session.add_targets([Picture("a", GREY)] * (limits.MAX_TARGETS + 1))
    assert not session.targets


def test_nothing_to_search_is_said():
    session = Session()
    with pytest.raises(DataError, match="Show first"):
        session.find(None, print)
    session.draft = Picture("a", GREY)
    session.take("cat", None, (0, 0, 9, 9))
    with pytest.raises(DataError, match="Add images"):
        session.find(None, print)
    with pytest.raises(DataError, match="Search first"):
        session.correct("cat")


def test_the_threshold_changes_masks_without_the_model(searched):
    areas = []
    for searched.probability in (0.1, 0.5, 0.9):
        areas.append(int(searched.shown(searched.chosen.result).areas[0]))
    searched.probability = 0.5
    assert areas[0] > areas[1] > areas[2] > 0


def test_a_new_example_drops_old_results_and_a_correction_becomes_one(searched):
    name = scenes()[0].name
    session = Session(
        shots=list(searched.shots),
        targets=searched.targets[:1],
        context=searched.context,
        tints=searched.tints,
    )
    mask = session.correct(name)
    assert mask.shape == session.targets[0].picture.image.shape[:2]
    assert mask.any()
    assert session.draft is session.targets[0].picture
    assert drawing.marked(marks(session.draft, mask), session.draft)[0].mean() == pytest.approx(
        mask.mean(), rel=0.05
    )
    result = session.targets[0].result
    session.take(name, mask, None)
    assert session.context is None
    assert session.targets[0].result is None
    searched.targets[0].result = result  # the fixture is shared


def test_downloads_hold_what_is_shown(searched, tmp_path):
    labels, overlay, coco, context, everything = export(searched, tmp_path)
    shown = searched.shown(searched.chosen.result)
    np.testing.assert_array_equal(np.asarray(Image.open(labels)), shown.label_map)
    assert Image.open(overlay).size == shown.image.shape[1::-1]
    content = json.loads(Path(coco).read_text())
    assert len(content["images"]) == len(searched.targets)
    assert {one["image_id"] for one in content["annotations"]} <= {one["id"] for one in content["images"]}
    assert len({one["id"] for one in content["annotations"]}) == len(content["annotations"])
    assert Segmenter.load().load_context(context).names == searched.context.names
    assert len(zipfile.ZipFile(everything).namelist()) == 2 * len(searched.targets) + 1
    assert sorted(p.name for p in tmp_path.rglob("*.part")) == []


def test_file_names_are_safe_and_unique():
    session = Session()
    session.add_targets(
        [Picture(name, GREY) for name in ("../../etc/passwd", "a b.png", "A_B.jpg", "<>.png", "é")]
    )
    assert file_names(session) == ["passwd", "a_b", "A_B_2", "picture", "picture_2"]


def test_names_cannot_be_html(searched):
    session, some = Session(), np.ones((60, 80), bool)
    session.draft = Picture("a", GREY)
    session.take("<img src=x onerror=alert(1)>", some, None)
    assert "<img" not in drawing.legend(session)
    assert "<table" in drawing.presence_table(searched.shown(searched.chosen.result))


def test_what_matched_is_drawn(searched):
    explanation, target = searched.explain(Segmenter.load(), scenes()[0].name)
    heat, examples = drawing.matched(explanation, target.image, searched.reference)
    assert heat.shape == target.image.shape
    assert not np.array_equal(examples, searched.reference(0)[0])
    chosen = drawing.apart(explanation.matches, 60)
    points = np.array([match.target for match in chosen])
    distances = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    assert distances[~np.eye(len(chosen), dtype=bool)].min() >= 60


def test_places_that_match_one_part_of_an_example_have_its_number():
    def drawn(*places):
        matches = tuple(Match(place, 0, (30, 40), 0.9) for place in places)
        explanation = Explanation("cat", np.zeros(GREY.shape[:2], np.float32), matches)
        return drawing.matched(explanation, GREY, lambda number: (GREY, 1.0))

    (one, example), (two, same) = drawn((10, 10)), drawn((10, 10), (60, 50))
    assert np.array_equal(example, same)
    assert np.array_equal(one[:25], two[:25])
    assert not np.array_equal(one, two)
    assert np.array_equal(two[5:16, 5:16], two[45:56, 55:66])  # the same disc


def test_a_saved_context_is_gone_on_with(searched, tmp_path):
    segmenter, (name,) = Segmenter.load(), searched.context.names
    searched.context.save(tmp_path / "upload")
    session = Session(targets=[Target(searched.targets[0].picture)])
    session.load(limits.read_context_upload(tmp_path / "upload", "pets.segic", segmenter), "pets.segic")
    session.find(segmenter, lambda *_: None)
    np.testing.assert_array_equal(
        session.shown(session.chosen.result).label_map, searched.shown(searched.targets[0].result).label_map
    )
    explanation, target = session.explain(segmenter, name)
    _, examples = drawing.matched(explanation, target.image, session.reference)
    assert examples.shape == searched.shots[0].picture.image.shape  # the preview, enlarged
    # Further examples join it: of a new class, and what the loaded class is not.
    for other, negative in (("other", False), (name, True)):
        session.draft = searched.targets[1].picture
        session.take(other, None, (0, 0, 99, 99), negative)
    session.find(segmenter, lambda *_: None)
    assert session.context.names == (name, "other")
    assert [one.against for one in session.context.negatives] == [(name,)]
    assert "1 example, 1 of what it is not" in drawing.legend(session)
    session.remove_class(name)
    assert session.loaded is None
    assert [shot.name for shot in session.shots] == ["other"]


def test_wrong_contexts_are_said(searched, tmp_path, monkeypatch):
    segmenter, path = Segmenter.load(), tmp_path / "upload"

    def said() -> str:
        with pytest.raises(DataError) as error:
            limits.read_context_upload(path, "pets.segic", segmenter)
        assert str(tmp_path) not in str(error.value)
        return str(error.value)

    searched.context.save(path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert "pets.segic is damaged or no saved context" in said()
    Image.fromarray(GREY).save(path, format="PNG")
    assert "no saved context" in said()
    replace(searched.context, model="of other weights").save(path)
    assert "pets.segic belongs to another model" in said()
    (reference,) = searched.context.references
    for wrong in (b"no JPEG", reference.preview[:300]):
        replace(searched.context, references=(replace(reference, preview=wrong),)).save(path)
        assert "pets.segic is damaged: a preview" in said()
    replace(searched.context, references=(reference,) * (limits.MAX_REFERENCES + 1)).save(path)
    assert "the page takes 300" in said()
    monkeypatch.setattr(limits, "MAX_MEGABYTES", 0)
    assert "the page takes 0 MB" in said()
    monkeypatch.setattr(limits, "MAX_CLASSES", 0)
    session = Session()
    with pytest.raises(DataError, match=r"With pets\.segic there are 1 classes"):
        session.load(searched.context, "pets.segic")
    assert not session.colours


def test_colours_stay_with_their_classes(searched, tmp_path):
    session, some = Session(), np.ones((60, 80), bool)
    for name in ("a", "b", "c"):
        session.draft = Picture("a", GREY)
        session.take(name, some, None)
    second = session.colours["b"]
    session.remove_class("a")
    assert session.colours["b"] == second
    session.choose_colour("b", "#0a141e")
    assert session.colours["b"] == (10, 20, 30)
    for name, colour in (("a", "#ffffff"), ("b", "red"), ("b", None)):
        with pytest.raises(DataError, match="Choose a class"):
            session.choose_colour(name, colour)
    (name,) = searched.colours
    before = searched.colours[name]
    searched.choose_colour(name, "#0a141e")
    labels = Image.open(export(searched, tmp_path)[0])
    searched.tints[name] = before
    assert labels.getpalette()[3:6] == [10, 20, 30]


def test_without_gradio_the_command_says_how_to_get_it(monkeypatch):
    from segic_jax.commands import app
    from segic_jax.errors import ConfigError

    monkeypatch.setattr(app, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'segic_jax\[app\]'"):
        app.App().run()


def test_a_port_in_use_is_said():
    import socket

    from segic_jax.app.server import _listener
    from segic_jax.errors import ConfigError

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="choose another"):
            _listener("127.0.0.1", taken.getsockname()[1])
