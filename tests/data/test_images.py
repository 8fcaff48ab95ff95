"""Test images of every kind, and messages about those that cannot be read."""

import io
import struct
import sys
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from requirements import require_module
from tiny import random_image

from segic_jax.data.images import as_image, open_image, read_image
from segic_jax.data.orientation import upright, upright_size
from segic_jax.errors import DataError, InputWarning

IMAGE, MASK = random_image(0, 70, 60)
WHITE = MASK.astype(np.uint8) * 255


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_truncated_files_are_reported(tmp_path, ending):
    path = tmp_path / f"photo.{ending}"
    image = random_image(0, 80, 90)[0]
    cv2.imwrite(str(path), image)
    assert read_image(path).shape == image.shape
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(DataError, match=rf"photo\.{ending} is cut off"):
        read_image(path)


def test_missing_files_and_other_formats_are_reported(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: there is no such file"):
        read_image(tmp_path / "a.png")
    for content in (b"", b"text"):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.png .*use PNG, JPEG, WebP, TIFF or BMP"):
            read_image(tmp_path / "a.png")


def test_images_of_every_kind_are_read(tmp_path):
    path = tmp_path / "photo"

    def check(image: Image.Image, ending: str, expected=IMAGE, tolerance=1, **options):
        image.save(f"{path}.{ending}", **options)
        for source in (f"{path}.{ending}", Image.open(f"{path}.{ending}")):
            array = as_image(source)
            assert array.dtype == np.uint8
            assert array.shape == expected.shape
            assert np.abs(array.astype(int) - expected).mean() <= tolerance

    rgb = Image.fromarray(IMAGE)
    check(rgb, "png", tolerance=0)
    check(Image.fromarray(np.dstack([IMAGE, WHITE])), "png", tolerance=0)  # alpha is ignored
    grey = np.dstack([np.asarray(rgb.convert("L"))] * 3)
    check(rgb.convert("L"), "png", grey, tolerance=0)
    check(Image.fromarray(grey[..., 0].astype(np.uint16) * 257), "png", grey)  # 16 bits
    palette = rgb.quantize(32)
    check(palette, "png", np.asarray(palette.convert("RGB")), tolerance=0)
    smooth = Image.fromarray(cv2.blur(IMAGE, (9, 9)))
    check(smooth.convert("CMYK"), "jpg", np.asarray(smooth), tolerance=4, quality=98)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was rotated by 90 degrees
    turned = np.rot90(np.asarray(smooth), -1)
    check(smooth, "jpg", turned, tolerance=4, quality=98, exif=exif)


def huge_png() -> bytes:
    """Return a PNG file of 50 KB with 20 000 x 20 000 pixels of one bit."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(2501 * 1000)) for _ in range(20)) + packer.flush()
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_unusable_images_are_refused(tmp_path, unchecked_types):
    (tmp_path / "huge.png").write_bytes(huge_png())
    with pytest.raises(DataError, match=r"huge\.png has .*million pixels.*shrink"):
        as_image(tmp_path / "huge.png")
    with pytest.raises(DataError, match=r"huge\.png has .*million pixels.*shrink"):
        open_image(tmp_path / "huge.png")
    with pytest.raises(DataError, match="20000 x 20000"):
        as_image(np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)))
    Image.fromarray(IMAGE).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("use PNG, JPEG, WebP, TIFF or BMP")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, sentence in [
        ("gone.jpg", "there is no such file"),
        ("text.png", "use PNG, JPEG, WebP, TIFF or BMP"),
        ("empty.png", "use PNG, JPEG, WebP, TIFF or BMP"),
        ("cut.jpg", "cut off"),
        (".", "cannot be read"),
    ]:
        with pytest.raises(DataError, match=sentence) as error:
            as_image(tmp_path / name)
        assert str(tmp_path) in str(error.value)
    for array in (IMAGE / 255, IMAGE[..., 0], IMAGE[:0], np.dstack([IMAGE, WHITE])):
        with pytest.raises(DataError, match="must be uint8"):
            as_image(array)


def test_twelve_bits_in_sixteen_are_read_by_their_range(tmp_path):
    """The values of cameras and scanners often use a part of the 16 bits they are stored in."""
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for name, pixels in (("colour.png", np.dstack([values] * 3)), ("grey.tif", values)):
        cv2.imwrite(str(tmp_path / name), pixels)
        with pytest.warns(InputWarning, match=rf"{name}: .* end at 4095: they are read as 12 bits"):
            image = as_image(tmp_path / name)
        assert np.abs(image[..., 0] - values / 4095 * 255).max() <= 0.5
    cv2.imwrite(str(tmp_path / "full.png"), values * 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_image(tmp_path / "full.png")
    Image.fromarray(values / np.float32(4095)).save(tmp_path / "fractions.tif")
    assert np.abs(as_image(tmp_path / "fractions.tif")[..., 0] - values / 4095 * 255).max() <= 0.5
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "fractions.tif")
    with pytest.raises(DataError, match="values from 0 to 4095: save it in 8 or 16 bits"):
        as_image(tmp_path / "fractions.tif")


@pytest.mark.parametrize("ending", ["avif", "gif", "ppm", "pgm", "jp2", "tif", "bmp"])
def test_images_of_every_format_are_read(tmp_path, ending):
    smooth = Image.fromarray(cv2.blur(IMAGE, (9, 9))).convert("L" if ending == "pgm" else "RGB")
    smooth.save(tmp_path / f"photo.{ending}")
    difference = as_image(tmp_path / f"photo.{ending}").astype(int) - np.asarray(smooth.convert("RGB"))
    assert np.abs(difference).mean() < 5


def test_heic_is_read_or_the_package_for_it_named(tmp_path, monkeypatch):
    path = tmp_path / "photo.heic"
    path.write_bytes(b"\0\0\0\x1cftypheic" + bytes(40))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DataError, match=r"photo\.heic is a HEIC image: run pip install 'segic_jax\[heic\]'"):
        as_image(path)
    monkeypatch.undo()
    heif = require_module("pillow_heif")
    heif.from_pillow(Image.fromarray(cv2.blur(IMAGE, (9, 9)))).save(path)
    assert as_image(path).shape == IMAGE.shape


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "avif", "heic"])
def test_all_orientations_are_turned_upright(tmp_path, ending):
    if ending == "heic":
        require_module("pillow_heif").register_heif_opener()
    path = tmp_path / f"photo.{ending}"
    for orientation in range(1, 9):
        stored = Image.fromarray(cv2.blur(IMAGE, (9, 9)))
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = io.BytesIO()
        stored.save(turned, "PNG", exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(turned)))
        if ending == "heic":  # whose own turn is written with the tag of the image, not of the option
            stored.info["exif"] = exif.tobytes()
            stored.save(path, quality=100)
        else:
            stored.save(path, exif=exif, **({} if ending == "tif" else {"quality": 95}))
        image = as_image(path)
        assert image.shape == expected.shape == (*upright_size(path), 3)
        assert np.abs(image.astype(int) - expected).mean() < 3
        assert upright(open_image(path), path).size == image.shape[1::-1]


def test_the_page_that_is_read_is_said(tmp_path):
    pages = [Image.new("RGB", (9, 7), colour) for colour in ("white", "red")]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.warns(InputWarning, match=r"a\.tif holds 2 images; the first is read"):
        assert (as_image(tmp_path / "a.tif") == 255).all()
