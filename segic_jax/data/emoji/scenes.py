"""Scenes of several known objects, for what one object an image cannot show: presence and negatives."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from segic_jax.data.emoji.compose import BENCHMARK_STYLE, compose
from segic_jax.data.emoji.source import SCENE_SIDE
from segic_jax.data.emoji.sprites import SpriteClass


class Scene(NamedTuple):
    """An image and what is on it."""

    image: UInt8[np.ndarray, "side side 3"]
    labels: UInt8[np.ndarray, "side side"]  # 0, or 1 + the place in `names` of the visible object
    names: tuple[str, ...]


def scene(objects: Sequence[SpriteClass], key: str, number: int) -> Scene:
    """One of each of the classes, by any of its artists; the same for the same arguments."""
    rng = np.random.default_rng([zlib.crc32(key.encode()), number])
    drawn = [(one.name, one.artists[rng.integers(len(one.artists))]) for one in objects]
    image, labels = compose(rng, drawn, SCENE_SIDE, BENCHMARK_STYLE)
    return Scene(image, labels, tuple(one.name for one in objects))
