"""Prompt the decoder for each object of a class: `python -m studies.prompted_instances`.

The parts that `peaks` finds are decoded again, each with prompts of its own; of masks that overlap only the
best is kept: "point" gives its own middle, and those of the others as background; "box" its box; "window" its
box, and a similarity map that is lowered outside of it.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float

from segic_jax.commands.command_line import run_command
from segic_jax.config import ModelConfig
from segic_jax.data.preprocess import resize_and_pad
from segic_jax.data.sources.coco_folder import find_json
from segic_jax.errors import ConfigError
from segic_jax.evaluate.instances import average_precisions, instance_row, overlap_row
from segic_jax.evaluate.metrics import mask_iou
from segic_jax.inference.context import concept_slots
from segic_jax.inference.engine import ImageFeatures
from segic_jax.inference.instances import Instance, split_mask
from segic_jax.inference.result import Result
from segic_jax.inference.segmenter import Segmenter
from segic_jax.models import encoding, segic
from segic_jax.models.correspondence import similarity_map
from segic_jax.models.params import Params
from studies.cutouts import FolderMaterial
from studies.instances import METHODS, Crowd, photographed_crowds, touching_scenes

WAYS = ("point", "box", "window")
PROMPTS = 8  # of one program
OVERLAP = 0.5  # IoU of masks that are one object


def _decode(config, way, head, features, prototypes, points, labels, boxes, window):
    prototypes = jax.tree.map(lambda x: jnp.broadcast_to(x, (1, PROMPTS, *x.shape[2:])), prototypes)
    maps = similarity_map(features.patches, prototypes.pooled, config.canvas)
    levels = segic.level_similarity(config, features.patches, prototypes.pooled)
    if way == "window":
        maps = _lower_outside(maps, window[None])
        levels = None if levels is None else _lower_outside(levels, window[None, :, None])
    geometric = segic.geometric_prompt(maps, config.canvas)._replace(level_maps=levels)
    if way == "point":
        geometric = geometric._replace(
            points=points[None], point_labels=labels[None], points_valid=labels[None] >= 0
        )
    boxed = {"boxes": boxes[None], "use_box": jnp.ones(1, bool)} if way != "point" else {}
    stages = segic.decode_with_prompts(config, head, features, prototypes, geometric, alone=True, **boxed)
    return stages.logits[0]


def _lower_outside(maps, window):
    """Return maps that are as low as anywhere outside of the window."""
    low = maps.min((-2, -1), keepdims=True)
    return low + (maps - low) * window


decode = jax.jit(_decode, static_argnums=(0, 1))


def prompted_logits(
    config: ModelConfig,
    head: Params,
    images: ImageFeatures,
    prototypes: encoding.Prototypes,
    result: Result,
    parts: Sequence[Instance],
    way: str,
) -> list[Float[np.ndarray, "height width"]]:
    """Decode each part with its own prompts; return logits of the target's size."""
    (height, width), (h, w) = result.image.shape[:2], result.placed
    scale = np.array([w / width, h / height])
    corners = np.array([part.box for part in parts], np.float32).reshape(-1, 2, 2) * scale
    middles = np.stack([_middle(part) * scale for part in parts]).astype(np.float32)
    decoded = []
    for start in range(0, len(parts), PROMPTS):
        chosen = [min(i, len(parts) - 1) for i in range(start, start + PROMPTS)]
        # Its own point, and the nearest of the others; missing ones are no points.
        points = np.zeros((PROMPTS, PROMPTS, 2), np.float32)
        labels = np.full((PROMPTS, PROMPTS), -1, np.int32)
        window = np.zeros((PROMPTS, config.canvas // 4, config.canvas // 4), np.float32)
        for row, i in enumerate(chosen):
            order = np.argsort(((middles - middles[i]) ** 2).sum(-1))[:PROMPTS]
            points[row, : len(order)] = middles[order]
            labels[row, : len(order)] = order == i
            (x0, y0), (x1, y1) = corners[i] / 4
            window[row, int(y0) : int(np.ceil(y1)) + 1, int(x0) : int(np.ceil(x1)) + 1] = 1
        boxes = corners[chosen].reshape(PROMPTS, 4) - np.array([0, 0, 1, 1], np.float32)
        inputs = (images.features, prototypes, points, labels, boxes, window)
        decoded += list(np.asarray(decode(config, way, head, *inputs)))
    maps = np.stack(decoded[: len(parts)])
    names = tuple(map(str, range(len(parts))))
    whole = replace(result, names=names, small_logits=maps, present=np.ones(len(parts), bool))
    return list(whole.logits())


def _middle(part: Instance) -> np.ndarray:
    """Return (x, y) of the place farthest from the part's border."""
    distance = cv2.distanceTransform(np.pad(part.inside, 1).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    y, x = np.unravel_index(distance[1:-1, 1:-1].argmax(), part.inside.shape)
    return np.array([x, y]) + part.box[:2]


def suppress(logits: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[float]]:
    """Return the masks and scores, the best first, without those that overlap a better one."""
    masks = [values > 0 for values in logits]
    scores = [
        float((1 / (1 + np.exp(-values[mask].astype(np.float64)))).mean()) if mask.any() else 0.0
        for values, mask in zip(logits, masks, strict=True)
    ]
    kept: list[int] = []
    for i in np.argsort(-np.array(scores), kind="stable").tolist():
        if masks[i].any() and all(mask_iou(masks[i], masks[j]) < OVERLAP for j in kept):
            kept.append(i)
    return [masks[i] for i in kept], [scores[i] for i in kept]


def compare(segmenter: Segmenter, crowds: Iterable[Crowd]) -> dict[str, dict[str, float]]:
    """Return the average precisions of each method and way, in per cent."""
    engine, config = segmenter.engine, segmenter.config
    head = jax.tree.map(lambda x: np.asarray(x, np.float32), dict(segmenter.bundle.head))
    rows: dict[str, dict[str, list[dict]]] = {name: {} for name in (*METHODS, *WAYS)}
    for crowd in crowds:
        context = segmenter.fit(crowd.reference)
        result = segmenter.predict(crowd.image, context, keep_absent=True)
        logits = result.logits(0)
        found: dict[str, dict] = {m: instance_row(logits, m, crowd.objects) for m in METHODS}
        parts = split_mask(logits > 0, "peaks")
        no_masks = np.zeros((0, *crowd.image.shape[:2]), bool)
        images = engine.features([resize_and_pad(crowd.image, no_masks, config.canvas)], 1)
        prototypes = concept_slots(context.concepts)[0].context
        for way in WAYS:
            decoded = prompted_logits(config, head, images, prototypes, result, parts, way) if parts else []
            found[way] = overlap_row(*suppress(decoded), crowd.objects)
        for name, row in found.items():
            rows[name].setdefault(crowd.class_name, []).append(row)
    return {name: average_precisions(by_class.values()) for name, by_class in rows.items()}


@dataclass
class Args:
    """Print average precisions of each method and way."""

    data_root: Path
    """A folder with a folder for each class, whose objects are composed."""
    backgrounds: Path
    """A folder of large photographs."""
    weights: str = "photo"
    """A name from `segic weights list`, or a model file."""
    scenes: int = 24
    """Composed scenes; 0 leaves them out."""
    coco: Path | None = None
    """Also a COCO JSON or the folder that holds it."""
    every: int = 1
    """Take every n-th pair of an image and a class of it."""


def main(args: Args) -> None:
    """Print a line for each set and way."""
    segmenter = Segmenter.load(args.weights)
    material = FolderMaterial(args.data_root, args.backgrounds)
    sets: dict[str, Iterable[Crowd]] = {}
    if args.scenes:
        sets["touching objects"] = touching_scenes(material, args.scenes)
    if args.coco:
        path = find_json(args.coco)
        if path is None:
            raise ConfigError(f"{args.coco} has no COCO JSON: give the file, or the folder that holds it.")
        sets["photographs"] = islice(photographed_crowds(path), 0, None, args.every)
    for name, crowds in sets.items():
        for method, scores in compare(segmenter, crowds).items():
            values = ", ".join(f"{key.upper()} {value:.1f}" for key, value in scores.items())
            print(f"{name}, {method}: {values}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
