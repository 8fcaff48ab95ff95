"""Encode and decode the records of a built data set: an image with its masks, or a frame with its label map.

An image is stored as the bytes of the original file if they decode to the source's pixels, else as PNG. Masks
are COCO run lengths and label maps PNG: both are lossless.
"""

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Integer, UInt8

from segic_jax.data.episodes import ClassId
from segic_jax.data.images import ENDINGS, decode_rgb, read_rgb
from segic_jax.data.masks import decode
from segic_jax.errors import DataError

Form = Literal["image", "frame"]
NO_INSTANCE = -1

Image = UInt8[np.ndarray, "height width 3"]
Mask = Bool[np.ndarray, "height width"]


@dataclass(frozen=True)
class Concept:
    """Hold one mask on an image."""

    class_id: ClassId
    instance: int | None
    mask: Mask
    note: str = ""  # how a defect of its files was handled; kept in the description of the data set


@dataclass(frozen=True)
class ImageRecord:
    """Hold an image of a source of episodes or of semantic segmentation, with its masks."""

    image_name: str  # as the source names it
    image: Image
    concepts: tuple[Concept, ...]
    ignored: Mask | None
    note: str = ""  # as that of a concept, where it is about the image with all its masks


@dataclass(frozen=True)
class FrameRecord:
    """Hold a frame of a video."""

    video: str
    frame: str  # the stem of its file
    image: Image
    labels: Integer[np.ndarray, "_ _"] | None  # object ids up to 65535; None without a label map


@cache
def features(form: Form):
    """Return the TFDS features of a record; their names are part of the file format."""
    import tensorflow_datasets as tfds

    image = tfds.features.Image(shape=(None, None, 3))
    if form == "frame":
        labels = tfds.features.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png")
        return tfds.features.FeaturesDict(
            {
                "video": tfds.features.Text(),
                "frame": tfds.features.Text(),
                "image": image,
                "labels": labels,  # one pixel where the frame has none
            }
        )
    return tfds.features.FeaturesDict(
        {
            "picture": tfds.features.Text(),
            "image": image,
            "concepts": tfds.features.Sequence(
                {
                    "class_id": tfds.features.Text(),  # JSON: a number or a string
                    "instance": np.int64,
                    "mask": tfds.features.Text(),  # COCO run lengths; the size is the image's
                }
            ),
            "ignored": tfds.features.Text(),  # the same, or empty
        }
    )


def encode(record: ImageRecord | FrameRecord, read: Iterable[Path]) -> bytes:
    """Encode a record as TFDS stores it.

    Args:
        read: the files that the source read for it; one of them may be the image itself.

    Raises:
        DataError: a label map with more than 65535 objects.
    """
    fields: dict = {"image": io.BytesIO(_image_bytes(record.image, read))}
    if isinstance(record, FrameRecord):
        labels = np.zeros((1, 1), np.uint16) if record.labels is None else record.labels
        if labels.min() < 0 or labels.max() > np.iinfo(np.uint16).max:
            raise DataError(f"{record.video}/{record.frame} has object ids above 65535: renumber them.")
        fields |= {
            "video": record.video,
            "frame": record.frame,
            "labels": io.BytesIO(_png(labels.astype(np.uint16))),
        }
        form: Form = "frame"
    else:
        fields |= {
            "picture": record.image_name,
            "concepts": [
                {
                    "class_id": json.dumps(concept.class_id),
                    "instance": NO_INSTANCE if concept.instance is None else concept.instance,
                    "mask": _run_lengths(concept.mask),
                }
                for concept in record.concepts
            ],
            "ignored": b"" if record.ignored is None else _run_lengths(record.ignored),
        }
        form = "image"
    schema = features(form)
    return schema.serialize_example(schema.encode_example(fields))


def decode_image(fields: dict, name: str, concepts: Iterable[int] | None = None) -> ImageRecord:
    """Decode a record that TFDS read with its images left encoded.

    Args:
        name: the name of the record for error messages.
        concepts: the numbers of the masks to decode; the others stay empty. None decodes all.

    Raises:
        DataError: the record is damaged.
    """
    image = decode_rgb(bytes(fields["image"]), name)
    height, width = image.shape[:2]
    empty = np.zeros((height, width), bool)
    columns = fields["concepts"]
    chosen = range(len(columns["mask"])) if concepts is None else set(concepts)

    def mask(counts: bytes) -> Mask:
        try:
            return decode({"size": [height, width], "counts": bytes(counts)}, height, width)
        except ValueError as error:
            raise DataError(f"{name} is damaged ({error}): build the data set again.") from error

    return ImageRecord(
        image_name=fields["picture"].decode(),
        image=image,
        concepts=tuple(
            Concept(
                json.loads(class_id),
                None if instance == NO_INSTANCE else int(instance),
                mask(counts) if i in chosen else empty,
            )
            for i, (class_id, instance, counts) in enumerate(
                zip(columns["class_id"], columns["instance"], columns["mask"], strict=True)
            )
        ),
        ignored=mask(fields["ignored"]) if fields["ignored"] else None,
    )


def decode_labels(content: bytes, name: str) -> Integer[np.ndarray, "height width"]:
    """Decode the label map of a frame, in 8 bits where they suffice.

    Raises:
        DataError: the label map is damaged.
    """
    labels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2:
        raise DataError(f"{name} is damaged: build the data set again.")
    return labels.astype(np.uint8) if labels.max() < 256 else labels


def _image_bytes(image: Image, read: Iterable[Path]) -> bytes:
    for path in read:
        if path.suffix.lower() in ENDINGS and np.array_equal(read_rgb(path), image):
            return path.read_bytes()
    return _png(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def _run_lengths(mask: Mask) -> bytes:
    from pycocotools import mask as coco

    counts = coco.encode(np.asfortranarray(mask, np.uint8))["counts"]
    return counts.encode() if isinstance(counts, str) else counts
