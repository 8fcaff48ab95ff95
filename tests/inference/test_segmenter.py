"""The Segmenter: fit, predict and predict_many; nothing is read, encoded or compiled twice."""

import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from tiny import bundle, picture

from segic_jax import Example
from segic_jax.data.image_files import read_image
from segic_jax.data.preprocess import resize
from segic_jax.errors import DataError
from segic_jax.inference import engine
from segic_jax.inference.example import as_mask
from segic_jax.inference.matching import PATCHES
from segic_jax.inference.segmenter import Segmenter


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle())


def test_importing_the_package_does_not_import_jax():
    code = "import segic_jax, sys; assert 'jax' not in sys.modules; segic_jax.Segmenter"
    code += "; assert not {'orbax', 'grain', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("size", [(50, 80), (131, 64), (64, 64), (1, 1), (3, 900)])
def test_results_have_the_targets_size(segmenter, size):
    context = segmenter.fit(Example(*picture(0, 70, 60)))
    result = segmenter.predict(
        picture(1, *size)[0] if min(size) > 2 else np.zeros((*size, 3), np.uint8), context
    )
    logits = result.logits()
    assert result.names == ("object",)
    assert result.masks.shape == logits.shape == (1, *size)
    assert np.array_equal(result.masks, logits > 0)
    assert np.array_equal(result.label_map, result.masks[0])
    inside = logits[result.masks]
    expected = (1 / (1 + np.exp(-inside))).mean() if inside.size else 0
    assert result.scores[0] == pytest.approx(expected, abs=1e-5)
    assert result.areas.tolist() == [inside.size]


def test_logits_are_those_of_the_evaluation(segmenter):
    """Small map -> canvas -> crop -> own size, in strips, equals the two steps on whole maps."""
    context = segmenter.fit([Example(*picture(0, 70, 60)), Example(*picture(3, 60, 60), name="other")])
    result = segmenter.predict(picture(1, 131, 90)[0], context)
    h, w = result.placed
    whole = resize(resize(result.small_logits, (64, 64))[:, :h, :w], (131, 90))
    np.testing.assert_allclose(result.logits(), whole, atol=1e-4)


def test_nothing_found_scores_zero():
    model = bundle()
    names = [name for name in model.head if name.startswith("mask_decoder/output_hypernetworks_mlps")]
    model.head.update({name: np.zeros_like(model.head[name]) for name in names})  # all logits are 0
    segmenter = Segmenter(model)
    result = segmenter.predict(picture(1, 50, 80)[0], segmenter.fit(Example(*picture(0, 70, 60))))
    assert not result.masks.any()
    assert not result.label_map.any()
    assert result.scores.tolist() == [0]
    assert result.boxes == [None]
    assert result.presence.tolist() == [0]


def test_several_classes_and_shots(segmenter):
    shown = [("disk", picture(0, 70, 60)), ("ring", picture(1, 64, 64)), ("disk", picture(2, 50, 90))]
    context = segmenter.fit([Example(*pixels, name=name) for name, pixels in shown])
    assert context.names == ("disk", "ring")
    assert context.shots == {"disk": 2, "ring": 1}
    alone = [segmenter.fit(Example(*pixels)).concepts[0].visual[0] for _, pixels in shown]
    np.testing.assert_allclose(context.concepts[0].visual, [alone[0], alone[2]], atol=1e-6)
    result = segmenter.predict(picture(3, 60, 80)[0], context)
    for row in range(2):
        assert not (result.label_map[~result.masks[row]] == row + 1).any()
    assert np.array_equal(result.label_map > 0, result.masks.any(0))
    both = result.masks.all(0)
    assert np.array_equal(result.label_map[both], 1 + result.logits().argmax(0)[both])


def test_a_context_is_saved_and_loaded(segmenter, tmp_path):
    examples = [Example(*picture(0, 70, 60), name="disk"), Example(*picture(1, 64, 64), name="ring")]
    context = segmenter.fit(examples)
    context.save(tmp_path / "c.segic")
    loaded = segmenter.load_context(tmp_path / "c.segic")
    assert loaded.names == context.names
    assert loaded.references == context.references
    for one, other in zip(loaded.concepts, context.concepts, strict=True):
        for key in ("visual", "text", "patches", "kind", "place"):
            np.testing.assert_array_equal(getattr(one, key), getattr(other, key))
    with pytest.raises(DataError, match="another model"):
        Segmenter(bundle(seed=3)).load_context(tmp_path / "c.segic")
    with pytest.raises(DataError, match="another model"):
        Segmenter(bundle(seed=3)).predict(picture(0, 70, 60)[0], context)
    with pytest.raises(DataError, match="no such file"):
        segmenter.load_context(tmp_path / "d.segic")
    (tmp_path / "d.segic").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not a saved context"):
        segmenter.load_context(tmp_path / "d.segic")


def test_references_that_cannot_be_used(segmenter):
    image, mask = picture(0, 70, 60)
    for shown, sentence in [
        ({}, "exactly one of mask"),
        ({"mask": np.zeros_like(mask)}, "empty"),
        ({"mask": mask[1:]}, "60 x 69 pixels, its image 60 x 70"),
        ({"mask": mask.astype(float)}, "whole numbers"),
        ({"mask": mask, "box": (0, 0, 1, 1)}, "exactly one"),
    ]:
        with pytest.raises(DataError, match=sentence):
            segmenter.fit(Example(image, **shown))
    with pytest.raises(DataError, match="at least one"):
        segmenter.fit([])
    with pytest.raises(DataError, match="uint8"):
        segmenter.fit(Example(image / 255, mask))


def test_mask_files(tmp_path):
    _, mask = picture(0, 40, 30)
    file, white = tmp_path / "mask.png", mask.astype(np.uint8) * 255

    def read(pixels, path=file):
        cv2.imwrite(str(path), pixels)
        return as_mask(path)

    blue = np.dstack([white, 0 * white, 0 * white])
    opaque = np.full((40, 30, 1), 255, np.uint8)
    for pixels in (
        white,
        blue,
        np.dstack([blue, opaque]),
        np.dstack([255 - blue, white]),
        white.astype(np.uint16) * 257,
    ):
        assert np.array_equal(read(pixels), mask)
    assert np.mean(read(white, tmp_path / "mask.webp") == mask) > 0.99


def palette_png(indices: np.ndarray) -> bytes:
    """A PNG of colour type 3 whose colours are all dark."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = indices.shape
    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", bytes([9, 9, 9, 0, 0, 60, 50, 0, 0]))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_palette_masks_go_by_index(tmp_path):
    indices = np.random.default_rng(0).integers(0, 2, (20, 31), dtype=np.uint8)
    (tmp_path / "mask.png").write_bytes(palette_png(indices))
    assert np.array_equal(as_mask(tmp_path / "mask.png"), indices > 0)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_files_that_are_cut_off(tmp_path, ending):
    path = tmp_path / f"picture.{ending}"
    image = picture(0, 80, 90)[0]
    cv2.imwrite(str(path), image)
    assert read_image(path).shape == image.shape
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(DataError, match=rf"picture\.{ending} is cut off"):
        read_image(path)


def test_files_that_are_no_images(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: there is no such file"):
        read_image(tmp_path / "a.png")
    for content in (b"", b"text"):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.png .*use PNG, JPEG, WebP, TIFF or BMP"):
            read_image(tmp_path / "a.png")


def classes(count: int) -> list[Example]:
    return [Example(*picture(i, 40 + i, 64), name=str(i)) for i in range(count)]


def counted(monkeypatch, name: str) -> list:
    """Count the calls of a program of the engine."""
    calls, program = [], getattr(engine, name)
    monkeypatch.setattr(engine, name, lambda *inputs: calls.append(1) or program(*inputs))
    return calls


def test_a_context_is_encoded_once_for_many_targets(segmenter, monkeypatch):
    context = segmenter.fit(classes(3))
    encoded, referred = counted(monkeypatch, "extract"), counted(monkeypatch, "_pool_reference")
    results = list(segmenter.predict_many((picture(i, 40, 50)[0] for i in range(100)), context))
    assert (len(results), len(encoded), len(referred)) == (100, 100, 0)


def test_examples_on_one_image_are_encoded_once(segmenter, monkeypatch):
    image, mask = picture(0, 70, 60)
    encoded = counted(monkeypatch, "extract")
    context = segmenter.fit(
        [Example(image, mask, name="a"), Example(image, ~mask, name="b"), Example(image, box=(0, 0, 9, 9))]
    )
    assert len(encoded) == 1
    assert len(context.references) == 1


def test_300_references(segmenter):
    examples = [Example(*picture(i, 30, 40), name=f"class {i % 3}") for i in range(300)]
    context = segmenter.fit(examples)
    assert context.shots == {"class 0": 100, "class 1": 100, "class 2": 100}
    assert segmenter.predict(picture(3, 60, 60)[0], context).masks.shape == (3, 60, 60)
    assert all(len(concept.patches) <= 2 * PATCHES for concept in context.concepts)  # no more for more shots


def test_many_targets_give_what_one_by_one_gives(segmenter, monkeypatch):
    """In order, also in padded batches as on an accelerator, and with a target that cannot be read."""
    context = segmenter.fit(classes(3))
    targets = [picture(i, 30 + 7 * i, 64)[0] for i in range(11)]
    alone = [segmenter.predict(target, context) for target in targets]
    failed = []
    for rows in (1, engine.ACCELERATOR_ROWS):
        monkeypatch.setattr(segmenter.engine, "rows", rows)
        mixed = [*targets[:4], "gone.jpg", *targets[4:]]
        results = segmenter.predict_many(mixed, context, on_error=lambda target, _: failed.append(target))
        for result, expected in zip(results, alone, strict=True):
            assert result.image is expected.image
            np.testing.assert_allclose(result.small_logits, expected.small_logits, atol=1e-4)
            np.testing.assert_allclose(result.presence, expected.presence, atol=1e-5)
    assert failed == ["gone.jpg"] * 2


def test_reading_and_finishing_overlap(segmenter, monkeypatch):
    """Twelve images of which each takes 50 ms to read take less than twelve times that."""
    context = segmenter.fit(classes(1))
    placed = segmenter._read_target

    def slowly(target):
        time.sleep(0.05)
        return placed(target)

    segmenter.predict(picture(0, 50, 50)[0], context)
    monkeypatch.setattr(segmenter, "_read_target", slowly)
    begin = time.perf_counter()
    list(segmenter.predict_many([picture(0, 50, 50)[0]] * 12, context))
    assert time.perf_counter() - begin < 0.8 * 12 * 0.05


def test_the_rest_is_left_when_nobody_wants_it(segmenter, monkeypatch):
    context = segmenter.fit(classes(1))
    read = []
    placed = segmenter._read_target
    monkeypatch.setattr(segmenter, "_read_target", lambda target: read.append(1) or placed(target))
    results = segmenter.predict_many((picture(0, 40, 40)[0] for _ in range(1000)), context)
    next(results)
    results.close()
    assert len(read) < 20
