"""Image files that cannot be read."""

import cv2
import pytest
from tiny import random_image

from segic_jax.data.image_files import read_image
from segic_jax.errors import DataError


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_files_that_are_cut_off(tmp_path, ending):
    path = tmp_path / f"picture.{ending}"
    image = random_image(0, 80, 90)[0]
    cv2.imwrite(str(path), image)
    assert read_image(path).shape == image.shape
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(DataError, match=rf"picture\.{ending} is cut off"):
        read_image(path)


def test_files_that_are_not_images(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: there is no such file"):
        read_image(tmp_path / "a.png")
    for content in (b"", b"text"):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.png .*use PNG, JPEG, WebP, TIFF or BMP"):
            read_image(tmp_path / "a.png")
