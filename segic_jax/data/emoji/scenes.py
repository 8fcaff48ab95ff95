"""Compose scenes of several objects with their labels, to measure presence and negatives."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from segic_jax.data.emoji.compose import BENCHMARK_STYLE, compose
from segic_jax.data.emoji.source import SCENE_SIDE
from segic_jax.data.emoji.sprites import SpriteClass


class Scene(NamedTuple):
    """Hold an image and the objects on it."""

    image: UInt8[np.ndarray, "side side 3"]
    labels: UInt8[np.ndarray, "side side"]  # 0 for background, i + 1 where object i of `names` is visible
    names: tuple[str, ...]


def scene(objects: Sequence[SpriteClass], key: str, number: int) -> Scene:
    """Compose an object of each class, by random artists; equal arguments give equal scenes."""
    rng = np.random.default_rng([zlib.crc32(key.encode()), number])
    drawn = [(item.name, item.artists[rng.integers(len(item.artists))]) for item in objects]
    image, labels = compose(rng, drawn, SCENE_SIDE, BENCHMARK_STYLE)
    return Scene(image, labels, tuple(item.name for item in objects))
