"""Test every form of images and objects, and the messages about those that cannot be used."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as coco
from tiny import bundle, random_image

from segic_jax import Example
from segic_jax.data.images import as_image
from segic_jax.data.mask_reader import read_mask
from segic_jax.errors import DataError
from segic_jax.inference.segmenter import Segmenter

IMAGE, MASK = random_image(0, 70, 60)
WHITE = MASK.astype(np.uint8) * 255
LABELS = np.where(MASK, 3, 0).astype(np.uint8)
LABELS[:9, :9] = 7


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle())


def test_an_object_is_read_in_every_form(tmp_path):
    Image.fromarray(WHITE).save(tmp_path / "mask.png")
    Image.fromarray(LABELS).save(tmp_path / "labels.png")
    rle = coco.encode(np.asfortranarray(MASK, np.uint8))
    edges, _ = cv2.findContours(MASK.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = edges[0][:, 0].astype(float) + 0.5
    runs = np.flatnonzero(np.diff(np.concatenate([[0], MASK.ravel(order="F"), [0]])))
    counts = np.diff(np.concatenate([[0], runs, [MASK.size]])).tolist()
    forms = [
        {"mask": MASK},
        {"mask": MASK.astype(int) * 9},
        {"mask": WHITE},
        {"mask": tmp_path / "mask.png"},
        {"mask": str(tmp_path / "labels.png"), "label": 3},
        {"mask": LABELS.astype(np.int64), "label": 3},
        {"mask": Image.fromarray(WHITE)},
        {"mask": Image.fromarray(np.dstack([WHITE] * 3))},
        {"mask": Image.fromarray(LABELS), "label": 3},
        {"mask": Image.fromarray(np.dstack([IMAGE, WHITE]))},
        {"rle": dict(rle)},
        {"rle": {"size": [70, 60], "counts": rle["counts"].decode()}},
        {"rle": {"size": [70, 60], "counts": counts}},
    ]
    for form in forms:
        assert np.array_equal(Example(IMAGE, **form).object_mask(IMAGE), MASK), form
    for polygon in (
        outline,
        edges[0] + 0.5,
        edges,
        outline.tolist(),
        [outline.ravel().tolist()],
        [outline.tolist()],
    ):
        mask = Example(IMAGE, polygon=polygon).object_mask(IMAGE)
        assert (mask & MASK).sum() / (mask | MASK).sum() > 0.9
    expected = np.zeros_like(MASK)
    expected[5:20, 10:31] = True
    assert np.array_equal(Example(IMAGE, box=(10, 5, 30.5, 20)).object_mask(IMAGE), expected)


@pytest.mark.parametrize("tag", range(1, 9))
def test_images_and_masks_are_rotated_by_their_exif_tag(tmp_path, tag):
    """Check files, which OpenCV reads, and images opened by Pillow."""
    exif = Image.Exif()
    exif[0x0112] = tag
    image, mask = Image.fromarray(IMAGE), Image.fromarray(WHITE)
    image.save(tmp_path / "image.png", exif=exif)
    mask.save(tmp_path / "mask.png", exif=exif)
    expected_image = ImageOps.exif_transpose(Image.open(tmp_path / "image.png"))
    for source in (tmp_path / "image.png", Image.open(tmp_path / "image.png")):
        assert np.array_equal(as_image(source), np.asarray(expected_image))
    expected_mask = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "mask.png"))) > 0
    for source in (tmp_path / "mask.png", Image.open(tmp_path / "mask.png")):
        assert np.array_equal(read_mask(source), expected_mask)


def test_damage_is_reported_only_in_the_exception(tmp_path, capfd, unchecked_types):
    """Read a PNG with a wrong bit, invalid Pillow images and arrays; libpng must print nothing."""
    Image.fromarray(IMAGE).save(tmp_path / "whole.png")
    content = bytearray((tmp_path / "whole.png").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "bit.png").write_bytes(content)
    (tmp_path / "last.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-1])
    for name in ("bit.png", "last.png"):
        for reader in (as_image, read_mask):
            with pytest.raises(DataError, match=rf"{name} is cut off or damaged"):
                reader(tmp_path / name)
    for source, sentence in [
        (Image.open(tmp_path / "bit.png"), "damaged"),
        (Image.new("RGB", (0, 0)), "uint8"),
        ([[1], [1, 2]], "array"),
        ("a\0b.png", "cannot be read"),
    ]:
        with pytest.raises(DataError, match=sentence):
            as_image(source)
    assert capfd.readouterr().err == ""


def test_masks_with_soft_edges_are_thresholded(tmp_path):
    large = cv2.resize(WHITE, (600, 700))
    soft = cv2.GaussianBlur(large, (9, 9), 0)
    cv2.imwrite(str(tmp_path / "soft.png"), soft)
    cv2.imwrite(str(tmp_path / "soft.jpg"), soft)
    expected = large > 127
    for mask in (soft, tmp_path / "soft.png", tmp_path / "soft.jpg", soft.astype(np.uint16) * 257):
        result = read_mask(mask)
        assert (result & expected).sum() / (result | expected).sum() > 0.98


def test_unusable_masks_are_refused(tmp_path, unchecked_types):
    Image.fromarray(LABELS).save(tmp_path / "labels.png")
    palette = Image.fromarray(LABELS, "P")
    palette.putpalette([0, 0, 0] * 3 + [200, 10, 10] * 4 + [9, 90, 200])
    palette.save(tmp_path / "palette.png")
    coloured = np.zeros((70, 60, 3), np.uint8)
    coloured[LABELS == 3], coloured[LABELS == 7] = (255, 0, 0), (0, 255, 0)
    Image.fromarray(coloured).save(tmp_path / "coloured.png")
    for mask, sentence in [
        (
            tmp_path / "labels.png",
            r"labels\.png holds several labels, 3 \(24 %\), 7 \(1.9 %\): choose one with label=3",
        ),
        (tmp_path / "palette.png", "several labels"),
        (tmp_path / "coloured.png", "several colours, #ff0000"),
        (LABELS, "several labels"),
        (Image.fromarray(coloured), "several colours"),
        (MASK[None].repeat(5, 0), "mask of one object"),
        (MASK * 1000.5, "probabilities"),
        (np.zeros_like(MASK), "empty"),
        (MASK[1:], "60 x 69 pixels, its image 60 x 70"),
        (tmp_path / "gone.png", "no such file"),
    ]:
        with pytest.raises(DataError, match=sentence):
            Example(IMAGE, mask).object_mask(IMAGE)
    for labels in (MASK, LABELS):
        with pytest.raises(DataError, match="no pixel of the label 1180591620717411303424"):
            Example(IMAGE, labels, label=2**70).object_mask(IMAGE)
    with pytest.raises(DataError, match="no pixel of the label 5; it has 0, 3, 7"):
        Example(IMAGE, LABELS, label=5).object_mask(IMAGE)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({}, "exactly one of mask, box, polygon and rle; it has none"),
        ({"mask": MASK, "box": (0, 0, 1, 1)}, "it has mask, box"),
        ({"box": (0, 0, 1, 1), "label": 3}, "label picks"),
        ({"mask": MASK, "name": None}, "negative"),
        ({"mask": MASK, "label": 1.5}, "number, colour or name"),
        ({"mask": MASK, "name": " "}, "not empty"),
        ({"box": (5, 5, 5, 9)}, "x0 < x1"),
        ({"box": (0, 0, 61, 9)}, "inside the image of 60 x 70"),
        ({"box": (0, 0, float("nan"), 9)}, "x0 < x1"),
        ({"box": "abcd"}, "x0, y0, x1, y1"),
        ({"box": (0.26, 0.22, 0.77, 0.73)}, "multiply x by the image's width, 60, and y by its height, 70"),
        ({"polygon": [[0.2, 0.2], [0.7, 0.2], [0.7, 0.6]]}, "0 to 1, .* and y by its height, 70"),
        ({"polygon": [[1, 1], [2, 2]]}, "three points"),
        ({"polygon": []}, "no points"),
        ({"polygon": {"points": [[1, 1], [9, 1], [9, 9]]}}, "not a list of points"),
        ({"polygon": [[0, 0], [1e9, 0], [0, 9]]}, "far outside"),
        ({"polygon": [["a", 0], [1, 0], [0, 9]]}, "polygon cannot be used"),
        ({"rle": {"size": [7, 6], "counts": "abc"}}, "rle cannot be used"),
        ({"rle": {"counts": [1, 2]}}, "rle cannot be used"),
        ({"rle": 3}, "rle cannot be used"),
    ],
)
def test_invalid_objects_are_refused(unchecked_types, form, sentence):
    with pytest.raises(DataError, match=sentence):
        Example(IMAGE, **form).object_mask(IMAGE)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (5000, 3)])
def test_images_of_extreme_shapes_work(segmenter, size):
    image = np.full((*size, 3), 90, np.uint8)
    context = segmenter.fit(Example(image, np.ones(size, bool)))
    result = segmenter.predict(image, context)
    assert result.label_map.shape == size
    assert np.isfinite(result.presence).all()


def test_an_object_smaller_than_a_canvas_pixel_gives_a_prototype(segmenter):
    mask = np.zeros((900, 1200), bool)
    mask[450, 700] = True
    image = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8)
    concept = segmenter.fit(Example(image, mask)).concepts[0]
    assert np.abs(concept.visual).sum() > 0
    _, x, y = concept.place[concept.kind == 0][0]
    assert abs(x - 700) < 1200 / 8
    assert abs(y - 450) < 1200 / 8


@pytest.mark.usefixtures("unchecked_types")
def test_unusable_references_are_refused(segmenter):
    image, mask = random_image(0, 70, 60)
    for fields, sentence in [
        ({}, "exactly one of mask"),
        ({"mask": np.zeros_like(mask)}, "empty"),
        ({"mask": mask[1:]}, "60 x 69 pixels, its image 60 x 70"),
        ({"mask": mask - 2.5}, "probabilities"),
        ({"mask": mask, "box": (0, 0, 1, 1)}, "exactly one"),
    ]:
        with pytest.raises(DataError, match=sentence):
            segmenter.fit(Example(image, **fields))
    with pytest.raises(DataError, match="at least one"):
        segmenter.fit([])
    with pytest.raises(DataError, match="uint8"):
        segmenter.fit(Example(image / 255, mask))


def test_mask_files_of_every_kind_are_read(tmp_path):
    _, mask = random_image(0, 40, 30)
    file, white = tmp_path / "mask.png", mask.astype(np.uint8) * 255

    def read(pixels, path=file):
        cv2.imwrite(str(path), pixels)
        return read_mask(path)

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
    """Return a PNG file of colour type 3 whose colours are all dark."""
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


def test_palette_masks_are_read_by_index(tmp_path):
    indices = np.random.default_rng(0).integers(0, 2, (20, 31), dtype=np.uint8)
    (tmp_path / "mask.png").write_bytes(palette_png(indices))
    assert np.array_equal(read_mask(tmp_path / "mask.png"), indices > 0)
