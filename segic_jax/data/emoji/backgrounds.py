"""Draw backgrounds: flat, gradient, stripes, checks, smooth noise and photographs."""

import cv2
import numpy as np
from jaxtyping import UInt8

from segic_jax.data.emoji.sprites import photographs


def background(rng: np.random.Generator, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Draw a background, RGB, of a random kind and with some grain."""
    kind = rng.choice(6, p=[0.12, 0.16, 0.12, 0.12, 0.2, 0.28])
    image = (_flat, _gradient, _stripes, _checks, _noise, _photograph)[kind](rng, size)
    if rng.random() < 0.5:
        grain = rng.normal(0, rng.uniform(2, 10), (size, size, 1)).astype(np.float32)
        image = image + grain
    return np.clip(image, 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0, 255, 3).astype(np.float32)


def _flat(rng, size):
    return np.broadcast_to(_colour(rng), (size, size, 3)).astype(np.float32)


def _ramp(rng, size):
    """Return a coordinate along a random direction, [size, size, 1], -0.5..0.5 along an axis."""
    angle = rng.uniform(0, 2 * np.pi)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    return (np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None])[..., None].astype(np.float32)


def _blend(rng, weight):
    return _colour(rng) * weight + _colour(rng) * (1 - weight)


def _gradient(rng, size):
    return _blend(rng, np.clip(_ramp(rng, size) + 0.5, 0, 1))


def _stripes(rng, size):
    wave = np.sin(_ramp(rng, size) * rng.uniform(10, 80) + rng.uniform(0, 6))
    return _blend(rng, (wave > rng.uniform(-0.5, 0.5)).astype(np.float32))


def _checks(rng, size):
    cell = int(rng.integers(max(2, size // 32), size // 6 + 1))
    index = (np.arange(size) + rng.integers(cell)) // cell
    grid = ((index[:, None] + index[None]) % 2).astype(np.float32)[..., None]
    return _blend(rng, grid)


def _noise(rng, size):
    weight = np.zeros((size, size), np.float32)
    for side in (3, 6, 12, 24)[: rng.integers(1, 5)]:
        coarse = rng.uniform(0, 1, (side, side)).astype(np.float32)
        weight += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC) / side
    low, high = weight.min(), weight.max()
    return _blend(rng, ((weight - low) / (high - low + 1e-6))[..., None])


def _photograph(rng, size):
    photo = photographs()[rng.integers(len(photographs()))]
    height, width = photo.shape[:2]
    side = int(rng.uniform(0.3, 1.0) * min(height, width))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = cv2.resize(photo[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    crop = crop.astype(np.float32)
    if rng.random() < 0.3:
        crop = crop @ rng.uniform(0.0, 0.7, (3, 3)).astype(np.float32)
    return crop * rng.uniform(0.6, 1.2)
