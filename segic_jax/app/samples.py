"""Provide sample images: scenes of the embedded emoji benchmark, with classes the shipped model never saw."""

from functools import cache
from typing import NamedTuple

import cv2

from segic_jax.app.session import NamedImage
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.episodes import View
from segic_jax.inference.overlay import Mask

ENLARGEMENT = 3  # a scene has 192 pixels a side, which is small on a page


class Sample(NamedTuple):
    """Hold an annotated image of a class, and images to search; the last of them does not show the class."""

    class_name: str
    image: NamedImage
    mask: Mask
    targets: tuple[NamedImage, ...]


@cache
def samples() -> tuple[Sample, ...]:
    """Return the samples in the order in which the page offers them."""
    source = EmojiSource("novel")
    return tuple(
        Sample(
            source.class_name(name),
            *_scene(source, name, 1),
            tuple(
                _scene(source, class_id, number)[0]
                for class_id, number in ((name, 2), (name, 5), (name, 8), (other, 6))
            ),
        )
        for name, other in (("hamster", "minibus"), ("broccoli", "hamster"), ("minibus", "broccoli"))
    )


def _scene(source: EmojiSource, class_id: str, number: int) -> tuple[NamedImage, Mask]:
    scene = source.load(View(str(number), class_id))
    size = (ENLARGEMENT * scene.image.shape[1], ENLARGEMENT * scene.image.shape[0])
    image = cv2.resize(scene.image, size, interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(scene.mask.astype("float32"), size, interpolation=cv2.INTER_LINEAR) > 0.5
    return NamedImage(f"{class_id}_{number}.png", image), mask
