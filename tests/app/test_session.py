"""Test the page without a browser: uploads, the session, the painter, rendering and downloads."""

import base64
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from requirements import require_gradio

require_gradio()
from segic_jax.app import painter, rendering, uploads
from segic_jax.app.downloads import export, file_names
from segic_jax.app.samples import samples
from segic_jax.app.session import NamedImage, Session, Target, clean_box, clean_name
from segic_jax.errors import DataError
from segic_jax.inference.explain import Explanation, Match
from segic_jax.inference.segmenter import Segmenter

GREY = np.full((60, 80, 3), 90, np.uint8)


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def marks(image, mask=None, box=None):
    """Return what page.js would send."""
    rows, columns = painter._resize_to_canvas(image.pixels).shape[:2]
    paint = np.zeros((rows, columns, 4), np.uint8)
    if mask is not None:
        paint[uploads.resize_mask(mask, (rows, columns))] = 255
    file = io.BytesIO()
    Image.fromarray(paint).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return json.dumps({"mask": url, "box": box})


@pytest.fixture(scope="module")
def searched():
    """Search with the first sample of the page."""
    session, sample = Session(), samples()[0]
    session.draft = sample.image
    session.add_shot(sample.class_name, sample.mask, None)
    session.add_targets(sample.targets)
    reports = []
    session.segment(Segmenter.load(), lambda done, total: reports.append((done, total)))
    assert reports == [(i, len(sample.targets)) for i in range(len(sample.targets))]
    return session


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"just some text", "is not an image"),
        (b"", "is not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "is not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "cat.png"),
    ],
)
def test_a_file_that_is_not_an_image_is_reported(tmp_path, content, message):
    path = tmp_path / "upload"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        uploads.read_upload(path, "cat.png")
    assert "cat.png" in str(error.value)
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_image_is_reported(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = saved(tmp_path / "intact", noise, format=kind).read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cat\.jpg"):
        uploads.read_upload(tmp_path / "cut", "cat.jpg")


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    with pytest.raises(DataError, match="million pixels"):
        uploads.read_upload(tmp_path / "huge.png", "huge.png")


def test_a_large_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_MEGABYTES", 0)
    with pytest.raises(DataError, match="the limit is 0 MB"):
        uploads.read_upload(saved(tmp_path / "a.png", GREY), "a.png")


def test_images_are_shrunk_to_the_side(tmp_path):
    path = saved(tmp_path / "wide.png", np.zeros((100, 3000, 3), np.uint8))
    assert uploads.read_upload(path, "wide.png").shape == (43, uploads.MAX_SIDE, 3)


def test_a_mask_file_must_have_the_aspect_ratio_of_its_image(tmp_path):
    path = saved(tmp_path / "m.png", np.eye(40, dtype=np.uint8) * 255)
    assert uploads.read_mask_upload(path, "m.png", (20, 20)).shape == (20, 20)
    with pytest.raises(DataError, match=r"m\.png is 40 x 40 pixels, a different aspect ratio"):
        uploads.read_mask_upload(path, "m.png", (20, 40))


def test_painted_marks_are_read_back():
    image = NamedImage("a", GREY)
    mask = np.zeros((60, 80), bool)
    mask[20:40, 16:48] = True
    found, box = painter.read_marks(marks(image, mask), image)
    np.testing.assert_array_equal(found, mask)
    assert box is None
    assert painter.read_marks(marks(image), image) == (None, None)
    assert painter.read_marks(marks(image, box=[160, 80, 320, 240]), image) == (None, (20, 10, 40, 30))


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
def test_malformed_marks_are_reported(text):
    with pytest.raises(DataError, match="cannot be read"):
        painter.read_marks(text, NamedImage("a", GREY))


def test_invalid_examples_are_reported(monkeypatch):
    session, mask = Session(), np.ones((60, 80), bool)
    with pytest.raises(DataError, match="Add an image"):
        session.add_shot("cat", mask, None)
    session.draft = NamedImage("a", GREY)
    for empty in (None, ~mask):
        with pytest.raises(DataError, match="Nothing is marked"):
            session.add_shot("cat", empty, None)
    with pytest.raises(DataError, match="Add an example of cat before"):
        session.add_shot("cat", mask, None, negative=True)
    monkeypatch.setattr(uploads, "MAX_CLASSES", 0)
    with pytest.raises(DataError, match="limit is 0 classes"):
        session.add_shot("cat", mask, None)
    monkeypatch.setattr(uploads, "MAX_EXAMPLES", 0)
    with pytest.raises(DataError, match="limit is 0 examples"):
        session.add_shot("cat", mask, None)
    assert session.draft == NamedImage("a", GREY)  # the draft is kept
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
    session, mask = Session(), np.ones((60, 80), bool)
    for name, negative in (("cat", False), ("cat", True), ("dog", False)):
        session.draft = NamedImage("a", GREY)
        session.add_shot(name, mask, None, negative)
    session.selected_shot = 0
    session.remove_shot()
    assert list(session.colours) == ["dog"]
    assert [shot.class_name for shot in session.shots] == ["dog"]


def test_too_many_targets_are_all_refused():
    session = Session()
    with pytest.raises(DataError, match="segic predict"):
        session.add_targets([NamedImage("a", GREY)] * (uploads.MAX_TARGETS + 1))
    assert not session.targets


def test_a_search_needs_examples_and_targets():
    session = Session()
    with pytest.raises(DataError, match="Add an example first"):
        session.segment(Segmenter.load(), print)
    session.draft = NamedImage("a", GREY)
    session.add_shot("cat", None, (0, 0, 9, 9))
    with pytest.raises(DataError, match="Add images"):
        session.segment(Segmenter.load(), print)
    with pytest.raises(DataError, match="Search first"):
        session.correct("cat")


def test_the_threshold_changes_masks_without_the_model(searched):
    areas = []
    for searched.threshold in (0.1, 0.5, 0.9):
        areas.append(int(searched.styled(searched.searched_target.result).areas[0]))
    searched.threshold = 0.5
    assert areas[0] > areas[1] > areas[2] > 0


def test_a_corrected_mask_becomes_an_example_and_drops_old_results(searched):
    name = samples()[0].class_name
    session = Session(
        shots=list(searched.shots),
        targets=searched.targets[:1],
        context=searched.context,
        palette=searched.palette,
    )
    mask = session.correct(name)
    assert mask.shape == session.targets[0].image.pixels.shape[:2]
    assert mask.any()
    assert session.draft is session.targets[0].image
    assert painter.read_marks(marks(session.draft, mask), session.draft)[0].mean() == pytest.approx(
        mask.mean(), rel=0.05
    )
    result = session.targets[0].result
    session.add_shot(name, mask, None)
    assert session.context is None
    assert session.targets[0].result is None
    searched.targets[0].result = result  # the fixture is shared


def test_clicks_and_boxes_correct_a_mask_and_can_be_undone(searched):
    segmenter, (name,) = Segmenter.load(), searched.colours
    target = Target(searched.targets[0].image, searched.targets[0].result)
    session = Session(
        shots=searched.shots, targets=[target], context=searched.context, palette=searched.palette
    )
    before, (height, width) = target.result, target.image.pixels.shape[:2]
    y, x = np.argwhere(before.mask(0))[len(np.argwhere(before.mask(0))) // 2].tolist()
    session.click(segmenter, name, (x, y), False)
    assert not target.result.mask(0)[y, x]
    session.corner_click(segmenter, name, (width // 4, height // 4))
    assert target.corner is not None
    session.corner_click(segmenter, name, (3 * width // 4, 3 * height // 4))
    assert target.corner is None
    left, _, _, bottom = target.result.boxes[0]
    assert left >= width // 4 - 16
    assert bottom <= 3 * height // 4 + 16
    with pytest.raises(DataError, match="outside the image"):
        session.click(segmenter, name, (width + 5, 0), True)
    with pytest.raises(DataError, match="Select the class"):
        session.click(segmenter, "fox", (1, 1), True)
    session.undo_clicks()
    assert target.result is before
    with pytest.raises(DataError, match="Search first"):
        Session().click(segmenter, name, (1, 1), True)


def test_downloads_match_the_page(searched, tmp_path):
    labels, overlay, coco, context, archive = export(searched, tmp_path)
    expected = searched.styled(searched.searched_target.result)
    np.testing.assert_array_equal(np.asarray(Image.open(labels)), expected.label_map)
    assert Image.open(overlay).size == expected.image.shape[1::-1]
    content = json.loads(Path(coco).read_text())
    assert len(content["images"]) == len(searched.targets)
    assert {row["image_id"] for row in content["annotations"]} <= {row["id"] for row in content["images"]}
    assert len({row["id"] for row in content["annotations"]}) == len(content["annotations"])
    assert Segmenter.load().load_context(context).names == searched.context.names
    assert len(zipfile.ZipFile(archive).namelist()) == 2 * len(searched.targets) + 1
    assert sorted(p.name for p in tmp_path.rglob("*.part")) == []


def test_file_names_are_safe_and_unique():
    session = Session()
    session.add_targets(
        [NamedImage(name, GREY) for name in ("../../etc/passwd", "a b.png", "A_B.jpg", "<>.png", "é")]
    )
    assert file_names(session) == ["passwd", "a_b", "A_B_2", "image", "image_2"]


def test_names_cannot_be_html(searched):
    session, mask = Session(), np.ones((60, 80), bool)
    session.draft = NamedImage("a", GREY)
    session.add_shot("<img src=x onerror=alert(1)>", mask, None)
    assert "<img" not in rendering.class_list(session)
    assert "<table" in rendering.presence_table(searched.styled(searched.searched_target.result))


def test_matches_are_drawn(searched):
    explanation, target = searched.explain(Segmenter.load(), samples()[0].class_name)
    heat, examples = rendering.render_matches(explanation, target.pixels, searched.reference_image)
    assert heat.shape == target.pixels.shape
    assert not np.array_equal(examples, searched.reference_image(0)[0])
    spread = rendering.spread_matches(explanation.matches, 60.0)
    points = np.array([match.target for match in spread])
    distances = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    assert distances[~np.eye(len(spread), dtype=bool)].min() >= 60


def test_points_that_match_the_same_part_of_an_example_share_its_number():
    def render(*points):
        matches = tuple(Match(point, 0, (30.0, 40.0), 0.9) for point in points)
        explanation = Explanation("cat", np.zeros(GREY.shape[:2], np.float32), matches)
        return rendering.render_matches(explanation, GREY, lambda number: (GREY, 1.0))

    (single, example), (double, same) = render((10.0, 10.0)), render((10.0, 10.0), (60.0, 50.0))
    assert np.array_equal(example, same)
    assert np.array_equal(single[:25], double[:25])
    assert not np.array_equal(single, double)
    assert np.array_equal(double[5:16, 5:16], double[45:56, 55:66])  # the same disc


def test_a_saved_context_is_continued(searched, tmp_path):
    segmenter, (name,) = Segmenter.load(), searched.context.names
    searched.context.save(tmp_path / "upload")
    session = Session(targets=[Target(searched.targets[0].image)])
    session.load_context(
        uploads.read_context_upload(tmp_path / "upload", "pets.segic", segmenter), "pets.segic"
    )
    session.segment(segmenter, lambda *_: None)
    np.testing.assert_array_equal(
        session.styled(session.searched_target.result).label_map,
        searched.styled(searched.targets[0].result).label_map,
    )
    explanation, target = session.explain(segmenter, name)
    _, examples = rendering.render_matches(explanation, target.pixels, session.reference_image)
    assert examples.shape == searched.shots[0].image.pixels.shape  # the preview, enlarged
    # Further examples join it: of a new class, and a negative one of the loaded class.
    for other, negative in (("other", False), (name, True)):
        session.draft = searched.targets[1].image
        session.add_shot(other, None, (0, 0, 99, 99), negative)
    session.segment(segmenter, lambda *_: None)
    assert session.context.names == (name, "other")
    assert [concept.against for concept in session.context.negatives] == [(name,)]
    assert "1 example, 1 negative" in rendering.class_list(session)
    session.remove_class(name)
    assert session.loaded is None
    assert [shot.class_name for shot in session.shots] == ["other"]


def test_wrong_contexts_are_reported(searched, tmp_path, monkeypatch):
    segmenter, path = Segmenter.load(), tmp_path / "upload"

    def message() -> str:
        with pytest.raises(DataError) as error:
            uploads.read_context_upload(path, "pets.segic", segmenter)
        assert str(tmp_path) not in str(error.value)
        return str(error.value)

    searched.context.save(path)
    content = path.read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2]):
        path.write_bytes(damaged)
        assert "pets.segic is damaged or not a saved context" in message()
    Image.fromarray(GREY).save(path, format="PNG")
    assert "not a saved context" in message()
    replace(searched.context, model="of other weights").save(path)
    assert "pets.segic belongs to another model" in message()
    (reference,) = searched.context.references
    for damaged in (b"no JPEG", reference.preview[:300]):
        replace(searched.context, references=(replace(reference, preview=damaged),)).save(path)
        assert "pets.segic is damaged: a preview" in message()
    replace(searched.context, references=(reference,) * (uploads.MAX_REFERENCES + 1)).save(path)
    assert "the limits are 300" in message()
    monkeypatch.setattr(uploads, "MAX_MEGABYTES", 0)
    assert "the limit is 0 MB" in message()
    monkeypatch.setattr(uploads, "MAX_CLASSES", 0)
    session = Session()
    with pytest.raises(DataError, match=r"pets\.segic would bring the number of classes to 1"):
        session.load_context(searched.context, "pets.segic")
    assert not session.colours


def test_colours_stay_with_their_classes(searched, tmp_path):
    session, mask = Session(), np.ones((60, 80), bool)
    for name in ("a", "b", "c"):
        session.draft = NamedImage("a", GREY)
        session.add_shot(name, mask, None)
    second = session.colours["b"]
    session.remove_class("a")
    assert session.colours["b"] == second
    session.set_colour("b", "#0a141e")
    assert session.colours["b"] == (10, 20, 30)
    for name, colour in (("a", "#ffffff"), ("b", "red"), ("b", None)):
        with pytest.raises(DataError, match="Select a class"):
            session.set_colour(name, colour)
    (name,) = searched.colours
    before = searched.colours[name]
    searched.set_colour(name, "#0a141e")
    labels = Image.open(export(searched, tmp_path)[0])
    searched.palette[name] = before
    assert labels.getpalette()[3:6] == [10, 20, 30]


def test_without_gradio_the_command_says_how_to_install_it(monkeypatch):
    from segic_jax.commands import app
    from segic_jax.errors import ConfigError

    monkeypatch.setattr(app, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'segic_jax\[app\]'"):
        app.App().run()


def test_a_port_in_use_is_reported():
    import socket

    from segic_jax.errors import ConfigError
    from segic_jax.runtime.listener import open_listener

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="choose another"):
            open_listener("The page", "127.0.0.1", taken.getsockname()[1])


def test_the_banner_says_what_a_model_is_not_for():
    pytest.importorskip("gradio")
    from segic_jax.app import layout

    banner = layout.header("emoji-tiny", "CPU", Segmenter.load("emoji-tiny").warnings)
    assert "emoji-tiny segments scenes of emoji only" in banner
    assert "doubtful" in banner
    assert "doubtful" not in layout.header("photo", "CPU", Segmenter.load().warnings)
