"""Compose scenes of sprites on a background, with exact masks of their visible pixels."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from segic_jax.data.emoji.backgrounds import background
from segic_jax.data.emoji.sprites import sprite

MIN_VISIBLE = 0.4  # of the first object's own pixels
ATTEMPTS = 8


@dataclass(frozen=True)
class SceneStyle:
    """Say how much scenes vary; sizes are fractions of the scene's side."""

    smallest: float = 0.28
    largest: float = 0.58
    rotation: float = 35.0  # degrees in either direction
    stretch: float = 0.0  # log of the largest change of the aspect ratio
    shear: float = 0.0
    hue: float = 0.35  # radians about the grey axis
    colour: float = 0.25  # change of contrast, brightness and saturation
    redraw: float = 0.0  # probability that an object gets an outline, loses its colours, or is blurred
    camera: float = 0.0  # probability of each of JPEG, blur and exposure of the image


BENCHMARK_STYLE = SceneStyle()
TRAINING_STYLE = SceneStyle(
    smallest=0.24,
    largest=0.66,
    rotation=45.0,
    stretch=0.25,
    shear=0.15,
    hue=0.6,
    colour=0.35,
    redraw=0.3,
    camera=0.3,
)


def compose(
    rng: np.random.Generator, objects: list[tuple[str, str]], size: int, style: SceneStyle
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
    """Compose a scene of `objects`, given as (class, artist), pasted in random order.

    Returns:
        The image, RGB, and the label map: 0 background, i + 1 where object i is visible. At least
        MIN_VISIBLE of the first object stays visible.
    """
    attempt = 1
    while True:
        scene = background(rng, size).astype(np.float32)
        labels = np.zeros((size, size), np.uint8)
        own_pixels = 0
        centres = _spread(rng, len(objects))
        for index in rng.permutation(len(objects)):
            pixels = _paste(rng, scene, labels, objects[index], int(index) + 1, centres[index], style)
            own_pixels = pixels if index == 0 else own_pixels
        visible = int((labels == 1).sum())
        if visible >= max(MIN_VISIBLE * own_pixels, size * size / 400) or attempt == ATTEMPTS:
            return _photographed(rng, scene, style), labels
        attempt += 1


def _spread(rng, count: int) -> np.ndarray:
    """Draw centres [count, 2] in 0..1: each is the candidate, of three, farthest from the previous ones."""
    centres = rng.uniform(0, 1, (count, 3, 2))
    chosen = centres[:, 0]
    for i in range(1, count):
        distance = np.linalg.norm(centres[i][:, None] - chosen[None, :i], axis=-1).min(1)
        chosen[i] = centres[i, distance.argmax()]
    return chosen


def _paste(rng, scene, labels, drawing, label, centre, style) -> int:
    """Paste one object and return how many pixels it has inside and outside the image."""
    size = scene.shape[0]
    matrix, source = _placed(rng, drawing, size, centre, style)
    source = _recoloured(rng, source, style)
    height, width = source.shape[:2]
    corners = matrix @ np.array([[0, width, width, 0], [0, 0, height, height], [1, 1, 1, 1]], np.float64)
    left, top = np.maximum(np.floor(corners.min(1)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(corners.max(1)).astype(int) + 1, size)
    local = matrix - np.array([[0, 0, left], [0, 0, top]])
    patch = cv2.warpAffine(source, local, (int(right - left), int(bottom - top)), flags=cv2.INTER_LINEAR)
    alpha = patch[..., 3:].astype(np.float32) / 255
    region = scene[top:bottom, left:right]
    region *= 1 - alpha
    region += patch[..., :3]
    labels[top:bottom, left:right][patch[..., 3] > 127] = label
    area = abs(np.linalg.det(matrix[:, :2]))
    return int((source[..., 3] > 127).sum() * area)


def _placed(rng, drawing, size, centre, style) -> tuple[np.ndarray, np.ndarray]:
    """Draw the affine map from sprite to scene pixels, and choose the resolution of the sprite."""
    full, reduced = sprite(*drawing)
    longest = rng.uniform(style.smallest, style.largest) * size
    source = reduced if longest < 0.6 * max(full.shape) else full
    height, width = source.shape[:2]
    scale = longest / max(height, width)
    stretch = np.exp(rng.uniform(-style.stretch, style.stretch) / 2)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    angle = np.deg2rad(rng.uniform(-style.rotation, style.rotation))
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.array(
        [[1, rng.uniform(-style.shear, style.shear)], [0, 1]]
    )
    linear = linear @ np.diag([mirror * scale * stretch, scale / stretch])
    margin = 0.3 * longest  # most of the object stays inside the scene
    offset = margin + centre * (size - 2 * margin) - linear @ np.array([width / 2, height / 2])
    return np.column_stack([linear, offset]), source


def _recoloured(rng, source, style) -> np.ndarray:
    """Change hue, saturation, contrast and brightness, and sometimes add an outline, grey or blur."""
    grey = np.full((3, 3), 1 / 3)
    angle = rng.uniform(-style.hue, style.hue)
    axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    colours = np.eye(3) * np.cos(angle) + np.sin(angle) * axis + (1 - np.cos(angle)) * grey
    saturation = 1 + rng.uniform(-style.colour, style.colour)
    redraw = rng.random() < style.redraw
    kind = rng.integers(3) if redraw else -1
    if kind == 0:
        saturation = rng.uniform(0, 0.2)
    colours = (saturation * np.eye(3) + (1 - saturation) * grey) @ colours
    contrast = 1 + rng.uniform(-style.colour, style.colour)
    brightness = rng.uniform(-style.colour, style.colour) * 128
    # For premultiplied colours a constant becomes a multiple of alpha.
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = contrast * colours
    matrix[:3, 3] = ((1 - contrast) * 128 + brightness) / 255
    matrix[3, 3] = 1
    out = cv2.transform(source, matrix)
    np.minimum(out[..., :3], out[..., 3:], out=out[..., :3])
    if kind == 1:
        out = _outlined(rng, out)
    elif kind == 2:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.6, 2.0) * max(out.shape) / 96)
    return out


def _outlined(rng, source) -> np.ndarray:
    """Draw a dark or light line around the object."""
    width = int(rng.integers(1, 1 + max(2, max(source.shape) // 24)))
    source = cv2.copyMakeBorder(source, width, width, width, width, cv2.BORDER_CONSTANT)
    grown = cv2.dilate(source[..., 3], cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1,) * 2))
    ink = rng.uniform(0, 60) if rng.random() < 0.7 else rng.uniform(200, 255)
    behind = (grown.astype(np.float32) * (1 - source[..., 3].astype(np.float32) / 255))[..., None] / 255
    out = source.astype(np.float32)
    out[..., :3] += behind * ink
    out[..., 3:] += behind * 255
    return out.astype(np.uint8)


def _photographed(rng, scene, style) -> np.ndarray:
    """Change exposure, blur and compress the image, each with a probability."""
    if rng.random() < style.camera:
        scene = scene * rng.uniform(0.6, 1.3) + rng.uniform(-25, 25)
    if rng.random() < style.camera:
        scene = cv2.GaussianBlur(scene, (0, 0), rng.uniform(0.3, 0.9) * scene.shape[0] / 128)
    image = np.clip(scene, 0, 255).astype(np.uint8)
    if rng.random() < style.camera:
        quality = int(rng.integers(50, 96))
        data = cv2.imencode(
            ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )[1]
        decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
        image = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return image
