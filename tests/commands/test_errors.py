"""Test the rows of the table "Errors" in docs/own_images.md that have no test elsewhere."""

import ast
import errno
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny import blob_result, bundle, random_image

from segic_jax import Example
from segic_jax.data.image_folder import list_images
from segic_jax.data.images import as_image, read_labels
from segic_jax.errors import BundleError, DataError
from segic_jax.inference import result
from segic_jax.inference.matching import PATCHES
from segic_jax.inference.segmenter import Segmenter
from segic_jax.runtime.atomic_write import atomic_write
from segic_jax.weights.bundle import load_bundle, save_bundle

ROOT = Path(__file__).parents[2]
IMAGE, MASK = random_image(0, 50, 70)
# The beginning of each row, and its tests.
TESTS = {
    "no such file": [
        "data/test_images.py::test_unusable_images_are_refused",
        "commands/test_errors.py::test_devices_are_not_read",
    ],
    "not an image": ["commands/test_errors.py::test_other_files_are_refused"],
    "cut off or damaged": [
        "inference/test_example.py::test_damage_is_reported_only_in_the_exception",
        "commands/test_errors.py::test_a_jpeg_damaged_inside_is_read",
    ],
    "a wrong ending": [
        "commands/test_errors.py::test_a_wrong_suffix_is_accepted",
        "commands/test_predict.py::test_file_names_may_hold_any_bytes",
    ],
    "16-bit": [
        "data/test_images.py::test_images_of_every_kind_are_read",
        "commands/test_errors.py::test_the_first_image_of_a_file_is_read",
    ],
    "turned by": ["inference/test_example.py::test_images_and_masks_are_rotated_by_their_exif_tag"],
    "1 x 1": ["inference/test_example.py::test_images_of_extreme_shapes_work"],
    "20 000": ["data/test_images.py::test_unusable_images_are_refused"],
    "array of another": ["data/test_images.py::test_unusable_images_are_refused"],
    "mask of another size": ["inference/test_example.py::test_unusable_masks_are_refused"],
    "empty mask": ["inference/test_example.py::test_unusable_masks_are_refused"],
    "mask of several": ["inference/test_example.py::test_unusable_masks_are_refused"],
    "mask of logits": [
        "inference/test_example.py::test_unusable_masks_are_refused",
        "commands/test_errors.py::test_fractional_labels_are_refused",
    ],
    "box, polygon": ["inference/test_example.py::test_invalid_objects_are_refused"],
    "something of another type": ["commands/test_errors.py::test_wrong_types_are_reported"],
    "no example": ["commands/test_errors.py::test_too_few_examples_are_refused"],
    "300 examples": ["commands/test_errors.py::test_300_examples_are_fitted"],
    "unreadable Context": ["inference/test_context.py::test_damaged_contexts_are_refused"],
    "weights that do not fit": ["commands/test_errors.py::test_inconsistent_weights_are_refused"],
    "weights with NaN": ["commands/test_errors.py::test_infinite_weights_are_refused"],
    "a target among": ["commands/test_predict.py::test_a_bad_target_does_not_stop_the_others"],
    "a result that would": ["commands/test_predict.py::test_inputs_are_never_overwritten"],
    "a folder, a device": ["commands/test_errors.py::test_only_files_are_written_to"],
    "no free disk": [
        "commands/test_errors.py::test_a_failing_disk_is_reported",
        "commands/test_video.py::test_a_truncated_video_is_reported",
        "inference/test_context.py::test_a_failed_save_keeps_the_old_file",
        "commands/test_command_line.py::test_ctrl_c_during_the_imports_is_reported",
    ],
    "nobody reads": ["commands/test_command_line.py::test_a_closed_pipe_ends_the_command_silently"],
}


def test_every_row_has_a_test():
    table = (ROOT / "docs/own_images.md").read_text("utf-8").partition("\n## Errors\n")[2]
    rows = [row for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) if row not in ("what", "---")]
    assert len(rows) == len(TESTS)
    for row, (start, tests) in zip(rows, TESTS.items(), strict=True):
        assert row.startswith(start)
        for test in tests:
            file, _, name = test.partition("::")
            functions = ast.parse((ROOT / "tests" / file).read_text("utf-8")).body
            assert name in {node.name for node in functions if isinstance(node, ast.FunctionDef)}, test


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle())


@pytest.mark.skipif(not Path("/dev/zero").is_char_device(), reason="reading it would not end")
def test_devices_are_not_read():
    with pytest.raises(DataError, match="/dev/zero cannot be read: it is a device"):
        as_image("/dev/zero")


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4\n", b"\0" * 999, b"PK\3\4" * 9],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png is not an image that can be read; use PNG, JPEG"):
        as_image(tmp_path / "a.png")


def test_a_jpeg_damaged_inside_is_read(tmp_path):
    content = bytearray(cv2.imencode(".jpg", cv2.blur(IMAGE, (9, 9)))[1].tobytes())
    content[-60:-50] = bytes(10)
    (tmp_path / "a.jpg").write_bytes(content)
    assert as_image(tmp_path / "a.jpg").shape == IMAGE.shape


def test_a_wrong_suffix_is_accepted(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(as_image(tmp_path / "a.jpg"), IMAGE)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG"])
def test_the_first_image_of_a_file_is_read(tmp_path, kind):
    pages = [Image.new("RGB", (9, 7), colour) for colour in ("white", "red", "blue")]
    pages[0].save(tmp_path / "a", format=kind, save_all=True, append_images=pages[1:])
    assert (as_image(tmp_path / "a") > 250).all()


def test_fractional_labels_are_refused(tmp_path):
    Image.fromarray(MASK.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif holds fractions"):
        read_labels(tmp_path / "a.tif")


@pytest.mark.parametrize("value", [None, 5, 1.5, {}, np.zeros(3), np.uint8(3)])
def test_wrong_types_are_reported(segmenter, tmp_path, unchecked_types, value):
    context = segmenter.fit(Example(IMAGE, MASK, name="a"))
    prediction = segmenter.predict(IMAGE, context)
    calls = [
        lambda: segmenter.predict(IMAGE, value),
        lambda: segmenter.fit(value),
        lambda: segmenter.load_context(value),
        lambda: context.drop(value),
        lambda: context.save(value),
        lambda: prediction.save(value),
        lambda: Segmenter.load(value),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"needed, not|takes examples|one positive|path of a file|no class"
        ):
            call()


def test_an_image_as_polygon_and_a_number_as_list_are_refused(unchecked_types):
    with pytest.raises(DataError, match="1200000000 numbers"):
        Example(IMAGE, polygon=np.broadcast_to(np.uint8(0), (20_000, 20_000, 3))).object_mask(IMAGE)
    with pytest.raises(DataError, match="a list of images, not int"):
        list_images(5)


@pytest.mark.parametrize(
    ("examples", "sentence"),
    [
        ([], "at least one positive example"),
        ([Example(IMAGE, MASK, name="a", negative=True)], "at least one positive example"),
        (
            [Example(IMAGE, MASK, name="a"), Example(IMAGE, MASK, name="b", negative=True)],
            "'b', which has no positive one",
        ),
    ],
)
def test_too_few_examples_are_refused(segmenter, examples, sentence):
    with pytest.raises(DataError, match=sentence):
        segmenter.fit(examples)
    with pytest.raises(DataError, match="not empty"):
        Example(IMAGE, MASK, name="")


def test_300_examples_are_fitted(segmenter):
    context = segmenter.fit([Example(IMAGE, MASK, name="a")] * 300)
    assert context.shots == {"a": 300}
    assert len(context.concepts[0].patches) <= 2 * PATCHES
    assert segmenter.predict(IMAGE, context).label_map.shape == MASK.shape


def test_inconsistent_weights_are_refused(tmp_path):
    save_bundle(tmp_path / "m.safetensors", bundle())
    content = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(content.replace(b"head/neck/0/kernel", b"head/neck/9/kernel"))
    with pytest.raises(
        BundleError, match=r"m\.safetensors: .*missing: neck/0/kernel; unknown: neck/9/kernel"
    ):
        load_bundle(tmp_path / "m.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_infinite_weights_are_refused(tmp_path, monkeypatch, value):
    model = bundle()
    model.head["neck/0/kernel"][0] = value
    with monkeypatch.context() as patch:
        patch.setattr("segic_jax.weights.bundle._check", lambda *_: None)
        save_bundle(tmp_path / "m.safetensors", model, float16=False)
    with pytest.raises(BundleError, match=r"m\.safetensors: head/neck/0/kernel holds NaN or infinite"):
        load_bundle(tmp_path / "m.safetensors")


def test_only_files_are_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")  # stands for a device, which a failing test must not touch
    for path in ("folder", "fifo", "", ".", "a\0b"):
        with pytest.raises(DataError, match="is a folder, a device or not a valid file name"):
            atomic_write(path, b"x")
    assert sorted(os.listdir()) == ["fifo", "folder"]
    assert (tmp_path / "fifo").is_fifo()


@pytest.mark.parametrize(
    ("code", "sentence"), [(errno.ENOSPC, "No space left"), (errno.EACCES, "Permission")]
)
def test_a_failing_disk_is_reported(tmp_path, monkeypatch, code, sentence):
    def fail(*_):
        yield b"\x89PNG"
        raise OSError(code, os.strerror(code))

    prediction = blob_result(60, 80)
    older = prediction.save(tmp_path)[0]
    content = older.read_bytes()
    monkeypatch.setattr(result, "rgb_png", fail)
    with pytest.raises(DataError, match=rf"large\.png cannot be written to: {sentence}"):
        prediction.save(tmp_path)
    assert older.read_bytes() == content
    assert os.listdir(older.parent) == ["large.png"]
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"".join(fail()))
    with pytest.raises(DataError, match=rf"large\.png cannot be read \({sentence}"):
        as_image(older)
