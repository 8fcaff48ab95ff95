"""The examples inside: scenes of the embedded benchmark, of classes that the shipped model never saw."""

from functools import cache
from typing import NamedTuple

import cv2

from segic_jax.app.session import Picture
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.episodes import View
from segic_jax.inference.overlay import Mask

ENLARGED = 3  # a scene has 192 pixels a side: small for a page


class Scene(NamedTuple):
    """A class: one marked image, and images to search; the last one does not show it."""

    name: str
    picture: Picture
    mask: Mask
    targets: tuple[Picture, ...]


@cache
def scenes() -> tuple[Scene, ...]:
    """In the order in which the page offers them."""
    source = EmojiSource("novel")
    return tuple(
        Scene(
            source.class_name(name),
            *_marked(source, name, 1),
            tuple(
                _marked(source, one, number)[0]
                for one, number in ((name, 2), (name, 5), (name, 8), (other, 6))
            ),
        )
        for name, other in (("hamster", "minibus"), ("broccoli", "hamster"), ("minibus", "broccoli"))
    )


def _marked(source: EmojiSource, name: str, number: int) -> tuple[Picture, Mask]:
    scene = source.load(View(str(number), name))
    size = (ENLARGED * scene.image.shape[1], ENLARGED * scene.image.shape[0])
    image = cv2.resize(scene.image, size, interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(scene.mask.astype("float32"), size, interpolation=cv2.INTER_LINEAR) > 0.5
    return Picture(f"{name}_{number}.png", image), mask
