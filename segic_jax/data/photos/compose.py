"""Compose scenes of cut-out objects on photographs, with exact masks of their visible pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from segic_jax.data.photos.library import OPAQUE, Photograph, background_mask, background_photo, object_box
from segic_jax.errors import DataError

ATTEMPTS = 6
MIN_PIXELS = 1 / 1600  # of the scene, visible of label 1
MIN_VISIBLE = 0.4  # of label 1's own pixels
# Where label 1 stays hidden, its object becomes at least so large, and all others at most so large.
ENSURED, SHRUNK = 0.25, 0.4  # of the scene's side
ENTIRE = 0.35  # probability that a photograph of a shared class is shown entirely


@dataclass(frozen=True)
class SceneObject:
    """Describe an object to paste: its label and its image."""

    label: int  # from 1; objects with one label are instances of one class
    levels: Sequence[UInt8[np.ndarray, "_ _ 4"]]  # premultiplied RGBA, the largest first
    smallest: float  # of its longer side, as a fraction of the scene's side
    largest: float
    vary: float  # strength of the changes of shape and colour


def compose(
    rng: np.random.Generator,
    objects: Sequence[SceneObject],
    background: Float32[np.ndarray, "size size 3"],
    labels: UInt8[np.ndarray, "size size"],
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
    """Compose a scene of objects, pasted in random order on a background.

    Args:
        background: RGB in 0..255.
        labels: of the objects that the background shows itself; 0 elsewhere.

    Returns:
        The image, RGB, and the labels of its pixels. At least MIN_VISIBLE of label 1 stays visible, if
        ATTEMPTS placements allow it.
    """
    size = len(labels)
    tone = np.array(cv2.mean(background)[:3])
    sides = [_draw_side(rng, item) for item in objects]
    first = next((number for number, item in enumerate(objects) if item.label == 1), None)
    attempt = 1
    while True:
        scene, scene_labels = background.copy(), labels.copy()
        places = _spread(rng, len(objects))
        own_pixels = np.count_nonzero(labels == 1)
        for index in rng.permutation(len(objects)):
            longest = sides[index] * size
            pixels = _paste(rng, scene, scene_labels, objects[index], longest, places[index], tone)
            own_pixels += pixels if index == first else 0
        visible = int(np.count_nonzero(scene_labels == 1))
        if visible >= max(MIN_VISIBLE * own_pixels, MIN_PIXELS * size * size) or attempt == ATTEMPTS:
            return _photograph(rng, scene), scene_labels
        if attempt == ATTEMPTS // 2:
            sides = [
                max(side, ENSURED) if number == first else min(side, SHRUNK)
                for number, side in enumerate(sides)
            ]
        attempt += 1


def _draw_side(rng: np.random.Generator, item: SceneObject) -> float:
    """Draw the longer side: log-uniform, or uniform over the larger half of the range."""
    if rng.random() < 0.3:
        return float(rng.uniform((item.smallest + item.largest) / 2, item.largest))
    return float(np.exp(rng.uniform(np.log(item.smallest), np.log(item.largest))))


def _spread(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw centres [count, 2] in 0..1: each is the candidate, of three, farthest from the previous ones."""
    centres = rng.uniform(0, 1, (count, 3, 2))
    chosen = centres[:, 0].copy()
    for i in range(1, count):
        distance = np.linalg.norm(centres[i][:, None] - chosen[None, :i], axis=-1).min(1)
        chosen[i] = centres[i, distance.argmax()]
    return chosen


def _paste(rng, scene, labels, item: SceneObject, longest: float, place, tone) -> int:
    """Paste an object and return how many pixels it has inside and outside the scene."""
    size = scene.shape[0]
    level = 0
    while level + 1 < len(item.levels) and max(item.levels[level + 1].shape) >= longest:
        level += 1
    source = _recolour(rng, item.levels[level], item.vary, tone)
    matrix = _placement(rng, source.shape, size, longest, place, item.vary)
    height, width = source.shape[:2]
    corners = matrix @ np.array([[0, width, width, 0], [0, 0, height, height], [1, 1, 1, 1]], np.float64)
    left, top = np.maximum(np.floor(corners.min(1)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(corners.max(1)).astype(int) + 1, size)
    if right - left < 2 or bottom - top < 2:
        return 1
    local = matrix - np.array([[0, 0, left], [0, 0, top]])
    # A source pixel's centre lies at +0.5, which warpAffine takes as 0.
    local[:, 2] += local[:, :2] @ (0.5, 0.5) - 0.5
    patch = cv2.warpAffine(source, local, (int(right - left), int(bottom - top)), flags=cv2.INTER_LINEAR)
    if rng.random() < 0.25:
        patch = cv2.GaussianBlur(patch, (0, 0), rng.uniform(0.4, 1.3), borderType=cv2.BORDER_REPLICATE)
    if rng.random() < 0.35:
        _shadow(rng, scene, patch[..., 3], int(top), int(left))
    # Contiguous planes: numpy is slow where the last of three axes is broadcast.
    alpha = patch[..., 3]
    region = scene[top:bottom, left:right]
    kept = cv2.multiply(region, cv2.merge([255 - alpha] * 3), scale=1 / 255, dtype=cv2.CV_32F)
    region[:] = cv2.add(kept, cv2.cvtColor(patch, cv2.COLOR_RGBA2RGB), dtype=cv2.CV_32F)
    labels[top:bottom, left:right][alpha > OPAQUE] = item.label
    area = abs(np.linalg.det(matrix[:, :2]))
    return int(np.count_nonzero(source[..., 3] > OPAQUE) * area)


def _placement(rng, shape, size: int, longest: float, place, vary: float) -> np.ndarray:
    """Draw the affine map from pixels of the object to pixels of the scene."""
    height, width = shape[:2]
    scale = longest / max(height, width)
    stretch = np.exp(rng.normal(0, 0.1 * vary))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    angle = np.deg2rad(rng.uniform(-180, 180) if rng.random() < 0.12 else rng.normal(0, 12 * vary))
    cos, sin = np.cos(angle), np.sin(angle)
    shear = rng.normal(0, 0.08 * vary)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]])
    linear = linear @ np.diag([mirror * scale * stretch, scale / stretch])
    # Most objects lie inside the scene; some are cut off by its border.
    box = np.abs(linear) @ (width / 2, height / 2)
    margin = box * (rng.uniform(0.1, 0.6) if rng.random() < 0.2 else 0.95)
    margin = np.minimum(margin, size / 2)
    centre = margin + place * (size - 2 * margin)
    return np.column_stack([linear, centre - linear @ (width / 2, height / 2)])


def _recolour(rng, source, vary: float, tone) -> np.ndarray:
    """Change saturation, contrast, brightness and colour balance, sometimes towards the background's."""
    grey = np.full((3, 3), 1 / 3)
    saturation = 1 + 0.3 * vary * rng.uniform(-1, 0.8)
    if rng.random() < 0.04 * vary:
        saturation = 0.0
    hue = rng.normal(0, 0.08) * vary
    axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    colours = np.eye(3) * np.cos(hue) + np.sin(hue) * axis + (1 - np.cos(hue)) * grey
    colours = (saturation * np.eye(3) + (1 - saturation) * grey) @ colours
    balance = np.exp(rng.normal(0, 0.06 * vary, 3))
    if rng.random() < 0.4:  # the light of the scene
        balance *= (0.35 + 0.65 * (tone + 40) / (tone.mean() + 40)) * np.clip(
            (tone.mean() + 80) / 200, 0.55, 1.1
        )
    contrast = np.exp(rng.normal(0, 0.15 * vary))
    brightness = rng.normal(0, 18 * vary)
    # For premultiplied colours a constant becomes a multiple of alpha.
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = contrast * balance[:, None] * colours
    matrix[:3, 3] = ((1 - contrast) * 110 + brightness) / 255
    matrix[3, 3] = 1
    out = cv2.transform(source, matrix)
    return cv2.min(out, cv2.merge([out[..., 3]] * 4))


def _shadow(rng, scene, alpha, top: int, left: int) -> None:
    """Darken the scene around an object: its outline, moved and blurred."""
    size = scene.shape[0]
    height, width = alpha.shape
    longest = max(height, width)
    blur = max(rng.uniform(0.03, 0.12) * longest, 1.0)
    pad = int(2 * blur) + 1
    shift = rng.normal(0, 0.06 * longest), abs(rng.normal(0, 0.07 * longest))
    reduced = max(int(blur / 3), 1)  # the blur hides a coarser grid
    padded = cv2.copyMakeBorder(alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    small = cv2.resize(
        padded,
        (-(-padded.shape[1] // reduced), -(-padded.shape[0] // reduced)),
        interpolation=cv2.INTER_AREA,
    )
    small = cv2.GaussianBlur(small, (0, 0), blur / reduced)
    shadow = cv2.resize(small, (padded.shape[1], padded.shape[0])).astype(np.float32)
    y, x = top - pad + int(shift[1]), left - pad + int(shift[0])
    y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + shadow.shape[0], size), min(x + shadow.shape[1], size)
    if y1 <= y0 or x1 <= x0:
        return
    strength = rng.uniform(0.15, 0.6) / 255
    light = 1 - strength * shadow[y0 - y : y1 - y, x0 - x : x1 - x]
    scene[y0:y1, x0:x1] *= cv2.merge([light] * 3)


def photo_background(
    rng: np.random.Generator, photo: Photograph, size: int, label: int = 0
) -> tuple[Float32[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
    """Draw a part of a photograph, RGB in 0..255, and the labels of its pixels.

    Args:
        label: of the photograph's own object, most of which is then in the part; 0 if it is of no interest.

    Raises:
        DataError: the photograph or its mask cannot be read.
    """
    image = background_photo(photo.file)
    height, width = image.shape[:2]
    mask = background_mask(photo.mask) if photo.mask and label else None
    if mask is not None and mask.shape != (height, width):
        raise DataError(f"{photo.mask} has another size than {photo.file}: make the folder again.")
    shorter = min(height, width)
    smallest = 0.35 * shorter
    box = (0, 0, height, width)
    if mask is not None:
        box = object_box(photo.mask)
        smallest = max(smallest, float(rng.uniform(0.85, 1.3)) * max(box[2] - box[0], box[3] - box[1]))
    if mask is not None and (smallest >= shorter or rng.random() < ENTIRE):
        rows, columns = height, width  # squeezed
    else:
        side = float(np.exp(rng.uniform(np.log(smallest), np.log(shorter))))
        stretch = np.exp(rng.normal(0, 0.15))
        rows = int(np.clip(side * stretch, 8, height))
        columns = int(np.clip(side / stretch, 8, width))
    top = _draw_start(rng, height, rows, box[0], box[2])
    left = _draw_start(rng, width, columns, box[1], box[3])
    part = np.s_[top : top + rows, left : left + columns]
    out = cv2.resize(image[part], (size, size), interpolation=cv2.INTER_AREA)
    labels = np.zeros((size, size), np.uint8)
    if mask is not None:
        covered = cv2.resize(mask[part], (size, size), interpolation=cv2.INTER_LINEAR) > OPAQUE
        labels[covered] = label
    if rng.random() < 0.5:
        out, labels = np.ascontiguousarray(out[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])
    if rng.random() < (0.3 if mask is None else 0.05):  # out of focus
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(1, 6 if mask is None else 2) * size / 320)
    gain = np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.07, 3))
    out = out.astype(np.float32) * gain.astype(np.float32)
    if rng.random() < 0.1:
        out = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.clip(out, 0, 255, out=out), labels


def _draw_start(rng, length: int, kept: int, first: int, last: int) -> int:
    """Draw where a part of `kept` pixels starts, so that it covers first..last, or is covered by it."""
    low, high = sorted((last - kept, first))
    low, high = max(low, 0), min(high, length - kept)
    return int(rng.integers(min(low, high), max(low, high) + 1))


def plain_background(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "size size 3"]:
    """Draw a surface of one colour, RGB in 0..255, sometimes with a horizon and a coarse texture."""
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.float32(np.cos(angle)) * grid[None, :] + np.float32(np.sin(angle)) * grid[:, None]
    light = 1 + np.float32(rng.normal(0, 0.25)) * ramp
    if rng.random() < 0.5:
        light -= np.float32(rng.uniform(0, 0.6)) * (grid[None, :] ** 2 + grid[:, None] ** 2)
    colour = _surface_colour(rng)
    out = _lit(light, colour)
    if rng.random() < 0.4:  # a table in front of a wall
        edge = int(rng.uniform(0.2, 0.8) * size)
        out[:edge] = _lit(light[:edge], _surface_colour(rng))
        blur = int(rng.integers(1, 8))
        band = np.s_[max(edge - 3 * blur, 0) : edge + 3 * blur]
        out[band] = cv2.GaussianBlur(np.ascontiguousarray(out[band]), (0, 0), blur)
    if rng.random() < 0.5:  # a texture; longer along one axis like wood, or not
        cells = rng.integers(4, 120, 2)
        noise = rng.normal(0, rng.uniform(2, 18), tuple(cells)).astype(np.float32)
        out += cv2.merge([cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)] * 3)
    return np.clip(out, 0, 255, out=out)


def _lit(light: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return cv2.merge([light * channel for channel in colour])


def _surface_colour(rng) -> np.ndarray:
    if rng.random() < 0.5:  # white, grey and black
        return (rng.choice([245, 215, 150, 90, 30]) + rng.normal(0, 8, 3)).astype(np.float32)
    return rng.uniform(20, 250, 3).astype(np.float32)


def _photograph(rng, scene) -> UInt8[np.ndarray, "size size 3"]:
    """Change the exposure, blur, add noise and compress the scene, each with a probability."""
    size = scene.shape[0]
    if rng.random() < 0.4:
        gain = np.exp(rng.normal(0, 0.15)) * np.exp(rng.normal(0, 0.05, 3))
        scene = scene * gain.astype(np.float32) + np.float32(rng.normal(0, 10))
    if rng.random() < 0.25:
        scene = cv2.GaussianBlur(scene, (0, 0), rng.uniform(0.4, 1.2) * size / 320)
    if rng.random() < 0.4:
        noise = rng.standard_normal((size, size), np.float32) * np.float32(rng.uniform(1, 8))
        scene = scene + cv2.merge([noise] * 3)
    image = np.clip(scene, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(45, 96))]
        data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1]
        image = cv2.cvtColor(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)
    return image
