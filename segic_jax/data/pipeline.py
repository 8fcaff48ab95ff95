"""Turn training pairs into batches, with grain.

Row r of step t is pair number t * global_batch + r, and all its random numbers come from
`np.random.default_rng([seed, number, attempt])`: the data do not depend on hosts, workers or restarts. If the
files of a pair cannot be read, another pair is drawn with the next attempt.
"""

import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import absl.flags
import cv2
import grain
import numpy as np

from segic_jax.config import EMPTY_PROMPT, INSTANCE_PROMPT, DataConfig, class_prompt
from segic_jax.data.augment import draw_view, flip, large_scale_jitter, view_image, view_mask
from segic_jax.data.pairs import AnnotatedImage, Pair, PairSource
from segic_jax.data.preprocess import CanvasImage, resize_and_pad
from segic_jax.errors import DataError

ENDLESS = 2**48  # pairs; grain requires a length
CANDIDATES = 40  # names of absent classes that a pair carries
ATTEMPTS = 20  # to read a pair

_REPORTED: set[str] = set()  # messages that this process has printed
_LOCK = threading.Lock()


def training_batches(
    source: PairSource,
    config: DataConfig,
    *,
    canvas: int,
    prompts: Mapping[str, int],
    seed: int,
    global_batch: int,
    start_step: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> grain.DatasetIterator:
    """Return this host's rows of the global batches, from `start_step` on, without end.

    A batch is a dictionary of arrays; b = global_batch / hosts, k = config.max_concepts, S = canvas:
        target_image, reference_image: uint8 [b, S, S, 3], RGB, padded
        target_size, reference_size: int32 [b, 2], valid (h, w)
        target_masks, reference_masks: uint8 [b, k, S, ceil(S / 8)], eight pixels of a row in each number as
            `numpy.packbits` packs them, which is an eighth of the bytes for the device
        valid: bool [b, k], which slots hold a concept
        target_prompt, reference_prompt: int32 [b], rows of the text table
        class_row: int32 [b], row of the class's own prompt, whichever prompt was chosen; -1 for instances
            and pairs of several classes
        negative_rows: int32 [b, CANDIDATES], rows of classes that are on neither image, shuffled, for
            semantic pairs that have negative prompts; -1 elsewhere
        use_box, use_cross: bool [b, 2], in the forward and the reversed pass
        unreadable: int32 [b], pairs that could not be read before this one

    Args:
        prompts: row of the text table by prompt: of '', of `INSTANCE_PROMPT` if the source has instances, and
            of `class_prompt(name)` of all its classes.

    Returns:
        An iterator; its `close()` ends the threads and workers.

    Raises:
        DataError: `global_batch` cannot be split over the hosts. Later, from the iterator: a pair is invalid,
            or ATTEMPTS pairs in a row cannot be read.
    """
    if global_batch % hosts:
        raise DataError(
            f"A batch of {global_batch} pairs cannot be split over {hosts} hosts: change its size."
        )
    examples = grain.MapDataset.range(ENDLESS).map(Examples(source, config, canvas, prompts, seed))
    # Batch before the stride of the hosts: each host gets neighbouring rows of one global batch.
    rows = examples.batch(global_batch // hosts, batch_fn=Stack(config.max_concepts))
    batches = rows[host::hosts][start_step:]
    threads = 1 if config.workers else config.threads
    dataset = batches.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
    if config.workers:
        # The workers of grain 0.2.18 read an absl flag, which only absl.app.run would parse.
        absl.flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=2)
        )
    return iter(dataset)


@dataclass(frozen=True)
class Stack:
    """Stack rows into a batch; masks are packed into `slots`, of which unused ones stay empty."""

    slots: int

    def __call__(self, rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Stack each field of the rows."""
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0] if name[-6:] != "_masks"}
        for name in ("target_masks", "reference_masks"):
            height, width = rows[0][name].shape[1:]
            batch[name] = np.zeros((len(rows), self.slots, height, -(-width // 8)), np.uint8)
            for row, slots in zip(rows, batch[name], strict=True):
                slots[: len(row[name])] = np.packbits(row[name], axis=-1)
        return batch


@dataclass(frozen=True)
class Examples:
    """Make a row of a batch from the number of a pair, with as many masks as the pair has."""

    source: PairSource
    config: DataConfig
    canvas: int
    prompts: Mapping[str, int]  # must be picklable for worker processes
    seed: int

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        """Draw and prepare pair `number`.

        Raises:
            DataError: as `training_batches`.
        """
        cv2.setNumThreads(0)  # the batches are the parallel work
        pair, rng, unreadable = self._readable(number)
        if len(pair.target.masks) != len(pair.reference.masks):
            raise DataError(
                f"A pair of {pair.name!r} has {len(pair.target.masks)} target and "
                f"{len(pair.reference.masks)} reference masks: give both the same concepts."
            )
        target, reference = (self._views if pair.is_instance else self._jittered)(pair, rng)
        keep = rng.random(2) < self.config.text_keep
        use_box = rng.random(2) < self.config.box
        use_cross = rng.random(2) < self.config.cross
        negative = rng.random() < self.config.negative
        class_row = self._row(_prompt(pair))
        target_prompt, reference_prompt = (
            class_row if kept or pair.is_instance else self._row(EMPTY_PROMPT) for kept in keep.tolist()
        )
        return {
            "target_image": target.image,
            "reference_image": reference.image,
            "target_size": np.array(target.size, np.int32),
            "reference_size": np.array(reference.size, np.int32),
            "target_masks": target.masks,
            "reference_masks": reference.masks,
            "valid": np.arange(self.config.max_concepts) < len(target.masks),
            "target_prompt": np.asarray(target_prompt),
            "reference_prompt": np.asarray(reference_prompt),
            "class_row": np.array(-1 if pair.is_instance or not pair.name else class_row, np.int32),
            "negative_rows": self._negative_rows(pair, negative, rng),
            "use_box": use_box,
            "use_cross": use_cross,
            "unreadable": np.array(unreadable, np.int32),
        }

    def _readable(self, number: int) -> tuple[Pair, np.random.Generator, int]:
        """Return the first readable pair of this number, its random numbers, and how many were unreadable."""
        last = None
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self.seed, number, attempt])
            try:
                return self.source.pair(rng), rng, attempt
            except DataError as error:
                _report_once(str(error))
                last = error
        raise DataError(f"{ATTEMPTS} pairs in a row cannot be read; the last one: {last}") from last

    def _jittered(self, pair: Pair, rng: np.random.Generator) -> tuple[CanvasImage, CanvasImage]:
        """Flip and jitter each image separately, with at most max_concepts of the concepts."""
        concepts = np.arange(len(pair.target.masks))
        uniforms = rng.random((2, 4))
        if len(concepts) > self.config.max_concepts:
            concepts = np.sort(rng.choice(concepts, self.config.max_concepts, replace=False))
        target, reference = (
            self._on_canvas(AnnotatedImage(annotated.image, annotated.masks[concepts]), uniform)
            for annotated, uniform in zip((pair.target, pair.reference), uniforms, strict=True)
        )
        return target, reference

    def _on_canvas(self, annotated: AnnotatedImage, uniforms: np.ndarray) -> CanvasImage:
        image, masks = annotated.image, annotated.masks
        if self.config.flip:
            image, masks = flip(image, masks, uniforms[0])
        if self.config.jitter:
            return large_scale_jitter(image, masks, self.canvas, uniforms[1:], self.config.jitter)
        return resize_and_pad(image, masks, self.canvas)

    def _views(self, pair: Pair, rng: np.random.Generator) -> tuple[CanvasImage, CanvasImage]:
        """Make two views, with some of the instances that are visible in both (fss_inst.py:123-133).

        Instances are tried in random order until there are enough, which is a uniform draw of the visible
        ones.
        """
        config, images = self.config, (pair.target, pair.reference)
        views = [
            draw_view(
                annotated.image.shape[0],
                annotated.image.shape[1],
                rng,
                crop=config.crop,
                colour=config.colour,
                colour_share=config.colour_share,
                mirror=config.view_flip,
            )
            for annotated in images
        ]
        limit = max(int(rng.integers(config.max_concepts + 1)), 1)
        available = len(pair.target.masks)
        masks, count = np.empty((2, min(limit, available), self.canvas, self.canvas), bool), 0
        for number in rng.permutation(available):
            if count == limit:
                break
            for annotated, view, view_masks in zip(images, views, masks, strict=True):
                view_mask(annotated.masks[number], view, view_masks[count])
                if np.count_nonzero(view_masks[count]) <= config.instance_pixels:
                    break
            else:
                count += 1
        target, reference = (
            CanvasImage(
                view_image(annotated.image, view, self.canvas), view_masks[:count], (self.canvas, self.canvas)
            )
            for annotated, view, view_masks in zip(images, views, masks, strict=True)
        )
        return target, reference

    def _row(self, prompt: str) -> np.int32:
        if prompt not in self.prompts:
            raise DataError(f"The prompt {prompt!r} has no row in the text table: encode it and add it.")
        return np.int32(self.prompts[prompt])

    def _negative_rows(self, pair: Pair, has_negatives: bool, rng: np.random.Generator) -> np.ndarray:
        rows = np.full(CANDIDATES, -1, np.int32)
        absent = pair.absent if has_negatives and not pair.is_instance else ()
        chosen = rng.permutation(len(absent))[:CANDIDATES]
        rows[: len(chosen)] = [self._row(class_prompt(absent[i])) for i in chosen]
        return rows


def _prompt(pair: Pair) -> str:
    if pair.is_instance:
        return INSTANCE_PROMPT
    return class_prompt(pair.name) if pair.name else EMPTY_PROMPT


def _report_once(sentence: str) -> None:
    with _LOCK:
        if sentence not in _REPORTED:
            _REPORTED.add(sentence)
            print(sentence, file=sys.stderr, flush=True)
