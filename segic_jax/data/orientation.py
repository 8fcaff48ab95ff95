"""Turn images upright as their EXIF tags demand, and tell the size that they then have."""

import io
from contextlib import suppress
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from segic_jax.data.image_files import DAMAGED, open_header, read_bytes
from segic_jax.errors import DataError

_ORIENTATION = ExifTags.Base.Orientation


def upright(image: Image.Image, what: Path | str) -> Image.Image:
    """Load the pixels of an image and turn it upright according to its EXIF tag.

    Raises:
        DataError: the pixels cannot be read.
    """
    try:
        image.load()
    except DAMAGED as error:
        raise DataError(f"{what} is damaged: get the file again.") from error
    with suppress(*DAMAGED):  # a tag that cannot be read is ignored
        if image.getexif().get(_ORIENTATION, 1) != 1:
            return ImageOps.exif_transpose(image)
    return image


def upright_size(path: Path | str) -> tuple[int, int]:
    """Return an image's height and width as `read_image` gives them; only the file's header is read.

    Raises:
        DataError: the file is missing or not an image.
    """
    try:
        with Path(path).open("rb") as file:
            if (image := open_header(file, path)) is not None:
                return oriented_size(image)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    raise DataError(f"{path} is damaged or not an image: get the file again.")


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """Return the height and width of an image that is not turned upright yet."""
    with suppress(*DAMAGED):
        # Pillow would read all pixels of a PNG to look for a tag after them, and gives a TIFF's size turned.
        has_tag = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        if has_tag and image.getexif().get(_ORIENTATION, 1) >= 5:
            return image.width, image.height
    return image.height, image.width


def exif_turn(image: object) -> str:
    """Return a clause about the turn that an image's EXIF tag demands; "" for none, and for arrays."""
    turns = {3: 180, 4: 180, 5: 90, 6: 90, 7: 90, 8: 90}
    with suppress(*DAMAGED, DataError):
        opened = (
            open_header(io.BytesIO(read_bytes(image)), image) if isinstance(image, (str, Path)) else image
        )
        if isinstance(opened, Image.Image) and (turn := turns.get(opened.getexif().get(_ORIENTATION, 1))):
            return f"which its EXIF tag turns by {turn} degrees"
    return ""
