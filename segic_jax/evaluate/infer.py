"""Episodes in, real-valued maps at the targets' own size out: the part of evaluation that runs a model.

Batches have a fixed size (the last one is padded with invalid rows) and pictures lie on the canvas, so each
program is compiled once.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from segic_jax import programs
from segic_jax.data.canvas import resize, resize_and_pad
from segic_jax.data.episodes import Episode, EpisodeSource
from segic_jax.models.segic import Context, References
from segic_jax.weights.bundle import Bundle


class TargetMaps(NamedTuple):
    """What the model says about the target of one episode."""

    index: int  # of the episode
    image: UInt8[np.ndarray, "height width 3"]
    truth: Bool[np.ndarray, "height width"]
    cosine: Float[np.ndarray, "height width"]  # with the first of the contexts, -1..1
    logits: dict[str, Float[np.ndarray, "height width"]]  # for each context


def encode_references(
    bundle: Bundle,
    source: EpisodeSource,
    episodes: Sequence[Episode],
    *,
    batch_size: int,
    class_names: bool = False,
) -> Context:
    """The Context of every episode, stacked: [episodes, 1 concept, ...], on the host."""
    config = bundle.config
    canvas, shots = config.canvas, max(len(episode.references) for episode in episodes)
    text = bundle.text_features([episode.class_name if class_names else "" for episode in episodes])
    parts = []
    for start in _progress(range(0, len(episodes), batch_size), len(episodes), "references"):
        rows = episodes[start : start + batch_size]
        images = np.zeros((batch_size, shots, canvas, canvas, 3), np.uint8)
        sizes = np.full((batch_size, shots, 2), canvas, np.int32)
        references = References(
            images=None,  # the backbone takes them by themselves, as it does targets
            sizes=None,
            masks=np.zeros((batch_size, 1, shots, canvas, canvas), bool),
            picture=np.tile(np.arange(shots, dtype=np.int32), (batch_size, 1, 1)),
            valid=np.zeros((batch_size, 1, shots), bool),
            text=np.zeros((batch_size, 1, config.text_width), np.float32),
        )
        for row, episode in enumerate(rows):
            references.text[row, 0] = text[start + row]
            for shot, key in enumerate(episode.references):
                image, mask = source.load(key)
                placed = resize_and_pad(image, mask[None], canvas)
                images[row, shot] = placed.image
                sizes[row, shot] = placed.size
                references.masks[row, 0, shot] = placed.masks[0]
                references.valid[row, 0, shot] = True
        flat = images.reshape(-1, canvas, canvas, 3), sizes.reshape(-1, 2)
        features = programs.extract(config, bundle.backbone, *flat)
        features = features.reshape(batch_size, shots, *features.shape[1:])
        parts.append(jax.tree.map(np.asarray, programs.encode(features, references)))
    return jax.tree.map(lambda *values: np.concatenate(values)[: len(episodes)], *parts)


def target_maps(
    bundle: Bundle,
    source: EpisodeSource,
    episodes: Sequence[Episode],
    contexts: dict[str, Context],
    *,
    batch_size: int,
) -> Iterator[TargetMaps]:
    """Decode every target with each of `contexts` (as `encode_references` gives them), in order."""
    config = bundle.config
    waiting = None  # the batch on the device, while the next one is read
    for start in _progress(range(0, len(episodes), batch_size), len(episodes), "targets"):
        pictures = [source.load(episode.target) for episode in episodes[start : start + batch_size]]
        images = np.zeros((batch_size, config.canvas, config.canvas, 3), np.uint8)
        sizes = np.full((batch_size, 2), config.canvas, np.int32)
        for row, (image, mask) in enumerate(pictures):
            placed = resize_and_pad(image, mask[None], config.canvas)
            images[row], sizes[row] = placed.image, placed.size
        rows = np.minimum(np.arange(start, start + batch_size), len(episodes) - 1)
        features = programs.extract(config, bundle.backbone, images, sizes)
        batch = [jax.tree.map(lambda x: x[rows], context) for context in contexts.values()]  # noqa: B023
        cosine = programs.cosine(config.canvas, features, batch[0])
        logits = [programs.decode(config, bundle.head, features, context) for context in batch]
        if waiting:
            yield from _at_own_size(*waiting)
        waiting = start, pictures, sizes, cosine, dict(zip(contexts, logits, strict=True))
    if waiting:
        yield from _at_own_size(*waiting)


def _at_own_size(
    start: int, pictures: list, sizes: np.ndarray, cosine: Array, logits: dict[str, Array]
) -> Iterator[TargetMaps]:
    cosine, logits = jax.tree.map(lambda x: np.asarray(x)[:, 0], (cosine, logits))
    for row, (image, truth) in enumerate(pictures):
        size, own = sizes[row], truth.shape
        yield TargetMaps(
            index=start + row,
            image=image,
            truth=truth,
            cosine=to_own_size(cosine[row], size, own),
            logits={name: to_own_size(values[row], size, own) for name, values in logits.items()},
        )


def to_own_size(
    values: Float[np.ndarray, "canvas_height canvas_width"], size: Sequence[int], own: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    """Crop a canvas to its valid `size`, then bilinear to the picture's `own` (train.py:443-460)."""
    return resize(values[: size[0], : size[1]], own)


def _progress(starts: range, total: int, what: str) -> Iterator[int]:
    """Pass `starts` on and show how far they are on stderr, at most once a second."""
    begin = shown = time.perf_counter()
    for start in starts:
        yield start
        now, done = time.perf_counter(), min(start + starts.step, total)
        if now - shown > 1 or done == total:
            shown = now
            line = f"\r{what}: {done}/{total} episodes, {done / (now - begin):.1f} a second "
            print(line, end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
