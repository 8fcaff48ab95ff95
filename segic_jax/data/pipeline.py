"""Training pairs -> batches, with grain.

Row r of step t is pair number t * global_batch + r, and all its random numbers come from
`np.random.default_rng([seed, number])`: the data do not depend on hosts, workers or restarts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import absl.flags
import cv2
import grain
import numpy as np

from segic_jax.config import DataConfig
from segic_jax.data.augment import flip, large_scale_jitter
from segic_jax.data.canvas import Placed, resize_and_pad
from segic_jax.data.episodes import DataError, PairSource, Picture
from segic_jax.prompts import INSTANCES, NONE, class_prompt

ENDLESS = 2**48  # pairs; grain wants a length


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
    """This host's rows of the global batches, from `start_step` on, without end.

    A batch is a dictionary of arrays; b = global_batch / hosts, k = config.max_concepts, S = canvas:
        target_image, reference_image: uint8 [b, S, S, 3], RGB, padded
        target_size, reference_size: int32 [b, 2], valid (h, w)
        target_masks, reference_masks: bool [b, k, S, S]
        valid: bool [b, k], which slots hold a concept
        target_prompt, reference_prompt: int32 [b], rows of the text table
        use_box, use_cross: bool [b, 2], in the forward and the reversed pass

    Args:
        prompts: text prompt -> row of the text table: '', `INSTANCES` where the source has
            instances, and `class_prompt(name)` of all its classes where config.text_keep is above 0.

    Call `close()` on the iterator when done: it ends the threads and workers.

    Raises:
        DataError: `global_batch` cannot be split over the hosts; later, whatever a pair turns up.
    """
    if global_batch % hosts:
        raise DataError(
            f"A batch of {global_batch} pairs cannot be split over {hosts} hosts: change its size."
        )
    examples = grain.MapDataset.range(ENDLESS).map(Examples(source, config, canvas, prompts, seed))
    # Batch before the host's stride: each host gets neighbouring rows of the same global batch.
    batches = examples.batch(global_batch // hosts)[host::hosts][start_step:]
    threads = 1 if config.workers else config.threads
    dataset = batches.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
    if config.workers:
        # grain 0.2.18's workers read an absl flag, which only absl.app.run would have parsed.
        absl.flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=2)
        )
    return iter(dataset)


@dataclass(frozen=True)
class Examples:
    """Number of a pair -> one row of a batch."""

    source: PairSource
    config: DataConfig
    canvas: int
    prompts: Mapping[str, int]  # must be picklable for worker processes
    seed: int

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        """Draw and prepare pair `number`."""
        cv2.setNumThreads(0)  # the batches are the parallel work
        rng = np.random.default_rng([self.seed, number])
        pair = self.source.pair(rng)
        if len(pair.target.masks) != len(pair.reference.masks):
            raise DataError(
                f"A pair of {pair.name!r} has {len(pair.target.masks)} target and "
                f"{len(pair.reference.masks)} reference masks: give both the same concepts."
            )
        target, reference = self._augmented(pair.target, rng), self._augmented(pair.reference, rng)
        target_prompt, reference_prompt = (
            self._prompt_row(pair.name, pair.is_instance, keep)
            for keep in (rng.random(2) < self.config.text_keep).tolist()
        )
        use_box = rng.random(2) < self.config.box
        use_cross = rng.random(2) < self.config.cross
        concepts = self._chosen_concepts(target, reference, pair.is_instance, rng)
        return {
            "target_image": target.image,
            "reference_image": reference.image,
            "target_size": np.array(target.size, np.int32),
            "reference_size": np.array(reference.size, np.int32),
            "target_masks": self._slots(target.masks[concepts]),
            "reference_masks": self._slots(reference.masks[concepts]),
            "valid": np.arange(self.config.max_concepts) < len(concepts),
            "target_prompt": target_prompt,
            "reference_prompt": reference_prompt,
            "use_box": use_box,
            "use_cross": use_cross,
        }

    def _augmented(self, picture: Picture, rng: np.random.Generator) -> Placed:
        uniforms = rng.random(4)
        image, masks = picture.image, picture.masks
        if self.config.flip:
            image, masks = flip(image, masks, uniforms[0])
        if self.config.jitter:
            return large_scale_jitter(image, masks, self.canvas, uniforms[1:], self.config.jitter)
        return resize_and_pad(image, masks, self.canvas)

    def _prompt_row(self, name: str, is_instance: bool, keep: bool) -> np.int32:
        prompt = INSTANCES if is_instance else class_prompt(name) if keep else NONE
        if prompt not in self.prompts:
            raise DataError(f"The prompt {prompt!r} has no row in the text table: encode it and add it.")
        return np.int32(self.prompts[prompt])

    def _chosen_concepts(
        self, target: Placed, reference: Placed, is_instance: bool, rng: np.random.Generator
    ) -> np.ndarray:
        """At most max_concepts, at random; instances must show in both pictures (fss_inst.py:123-133)."""
        concepts = np.arange(len(target.masks))
        if is_instance:
            concepts = concepts[target.masks.any((1, 2)) & reference.masks.any((1, 2))]
        if len(concepts) > self.config.max_concepts:
            concepts = np.sort(rng.choice(concepts, self.config.max_concepts, replace=False))
        return concepts

    def _slots(self, masks: np.ndarray) -> np.ndarray:
        empty = np.zeros((self.config.max_concepts - len(masks), *masks.shape[1:]), bool)
        return np.concatenate([masks, empty])
