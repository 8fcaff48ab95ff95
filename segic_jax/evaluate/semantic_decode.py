"""Many concepts on one image, decoded in chunks of CHUNK rows.

Every row reads the tokens of all concepts, so the chunks change no result. The number of concepts is padded
to 4, 8, 16 or a multiple of 16, and each of these numbers that occurs is compiled once: at most three, and
one for each further 16 of the fullest image.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.data.canvas import fitted_taps, resample, resize_and_pad
from segic_jax.models import segic
from segic_jax.models.correspondence import pool
from segic_jax.models.params import Params
from segic_jax.models.segic import Prototypes
from segic_jax.runtime.prefetch import prefetch_results
from segic_jax.weights.bundle import Bundle

CHUNK = 16  # concepts decoded together; of 847 at canvas 896 they take about 1 GB


class Model:
    """The bundle on one device."""

    def __init__(self, bundle: Bundle, device: jax.Device):
        self.config = bundle.config
        self._device = device
        self._backbone, self._head = jax.device_put((bundle.backbone, bundle.head), device)

    def visual(
        self, image: np.ndarray, mask: Bool[np.ndarray, "height width"]
    ) -> Float[np.ndarray, " channels"]:
        """The feature of a reference; its mask is pooled as soft as resizing leaves it (segic.py:996-998)."""
        placed = resize_and_pad(image, mask[None][:0], self.config.canvas)
        soft = np.zeros((self.config.canvas, self.config.canvas), np.float32)
        rows, columns = placed.size
        height, width = mask.shape
        soft[:rows, :columns] = resample(mask, *fitted_taps(height, width, self.config.canvas))
        inputs = jax.device_put((placed.image, np.array(placed.size), soft), self._device)
        return np.asarray(_visual(self.config, self._backbone, *inputs))

    def logits(
        self, image: np.ndarray, context: Prototypes
    ) -> Iterator[Float[np.ndarray, "valid_height valid_width"]]:
        """Of the valid concepts in `context`, one by one, on the part of the canvas that has the image."""
        placed = resize_and_pad(image, np.zeros((0, *image.shape[:2]), bool), self.config.canvas)
        height, width = placed.size
        slots, used = context.pooled.shape[1], int(np.asarray(context.valid).sum())
        if not used:
            return
        inputs = jax.device_put((placed.image, np.array(placed.size), context), self._device)
        image_on_device, size, context = inputs
        features = _features(self.config, self._backbone, image_on_device, size)
        chunk = min(slots, CHUNK)
        for start in range(0, used, chunk):
            rows = jax.device_put(np.arange(start, start + chunk, dtype=np.int32), self._device)
            logits = np.asarray(_decode(self.config, self._head, features, context, rows))
            yield from logits[: used - start, :height, :width]


@partial(jax.jit, static_argnums=0)
def _features(config: ModelConfig, backbone: Params, image: Array, size: Array) -> Array:
    return segic.extract(config, backbone, image[None], size[None])


@partial(jax.jit, static_argnums=0)
def _visual(config: ModelConfig, backbone: Params, image: Array, size: Array, mask: Array) -> Array:
    return pool(segic.extract(config, backbone, image[None], size[None])[0], mask)


@partial(jax.jit, static_argnums=0)
def _decode(
    config: ModelConfig, head: Params, features: Array, context: Prototypes, rows: Int[Array, " chunk"]
) -> Float[Array, "chunk S S"]:
    logits = segic.decode_stages(config, head, features, context, rows=rows).logits
    return segic.upsample(logits, config.canvas)[0]


def padded_slots(concepts: int) -> int:
    """How many slots a program for so many concepts has: 4, 8, 16, 32, 48, ..."""
    small = next((size for size in (4, 8) if concepts <= size), None)
    return small or -(-max(concepts, 1) // CHUNK) * CHUNK


def spread_over(work: Callable, items: Sequence, models: Sequence[Model], at_a_time: int) -> Iterator:
    """`work(item, model)` in order, `at_a_time` of them in threads, on all devices in turn."""
    pairs = zip(items, cycle(models), strict=False)
    return prefetch_results(
        lambda pair: work(*pair), pairs, threads=max(at_a_time, 1), limit=max(2 * at_a_time - 1, 0)
    )
