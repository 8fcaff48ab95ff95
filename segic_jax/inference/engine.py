"""Run a model for inference; no other module of the package does.

An `Engine` places the weights on its devices once: the backbone in the precision that it is asked for, the
head in float32, whose products are in full precision on every platform. Images go to the devices in turn, and
what is computed from an image stays on the image's device. Shapes are static, so that each program is
compiled once: images lie on the canvas, a fixed number of them at a time, and concepts come in chunks of 16,
4 and 1. Thus neither the batch size nor the number of devices changes a result.
"""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from segic_jax.config import Backend, Method, ModelConfig, Precision
from segic_jax.data.preprocess import CanvasImage
from segic_jax.errors import ConfigError
from segic_jax.inference import matching, memory
from segic_jax.inference.matching import ConceptMatches, ConceptSlots, PatchMatches, PooledReference
from segic_jax.inference.memory import ObjectMemory
from segic_jax.inference.onnx_backbone import OnnxBlocks
from segic_jax.models import correspondence, encoding, segic
from segic_jax.models.backbones import backbone_template
from segic_jax.models.encoding import Prototypes
from segic_jax.models.features import Features
from segic_jax.models.params import Params, place
from segic_jax.weights.bundle import Bundle

ACCELERATOR_ROWS = 8  # images of one program; a CPU takes one at a time
CHUNKS = (16, 4, 1)  # concepts of one program
CPU_PATCHES = 4096  # patches of all concepts that a CPU decodes at once: those of more leave its cache


class ImageFeatures(NamedTuple):
    """Represent a batch of images on one device; rows beyond the images are unused."""

    features: Features
    sizes: Int[Array, "rows 2"]  # (h, w) of each image on the canvas
    images: tuple[CanvasImage, ...] = ()  # on the host, where the method reads their colours


class Decoding(NamedTuple):
    """Hold the masks of some concepts, and the similarity maps that prompted them, on the canvas."""

    logits: Float[Array, "rows concepts S S"]  # inside where positive; crop to the image's size before use
    similarity: Float[Array, "rows concepts S S"]  # cosine, -1..1
    small_logits: Float[Array, "rows concepts side side"]  # at 4 x grid


class Tracking(NamedTuple):
    """Hold the masks of the objects of a video on one frame."""

    small_logits: Float[Array, "objects side side"]  # at 4 x grid
    logits: Float[Array, "objects S S"]  # on the canvas


class Engine:
    """Hold a model on one or more devices and run it.

    `rows` is the number of images of a batch: a fixed number, so that it never changes a result.
    `precision` is that of the backbone, and `backend` what runs it.
    """

    method: Method = "segic"
    keeps_grids = False  # whether a Context holds all patches of the references

    def __init__(
        self,
        bundle: Bundle,
        devices: Sequence[jax.Device] | None = None,
        precision: Precision = "auto",
        *,
        backend: Backend = "jax",
        beside: "Engine | None" = None,
    ):
        """Place the weights.

        Args:
            devices: where to compute, in turn; all devices of this process if None.
            precision: of the backbone; "auto" is bfloat16 on accelerators and float32 on a CPU.
            backend: what runs the backbone; "onnxruntime" is for EfficientNets on a CPU, in float32.
            beside: an engine of the same backbone, devices, precision and backend; its backbone is not placed
                again.

        Raises:
            ConfigError: the engine beside this one has another backbone, other devices, another precision or
                another backend; or the backend cannot run the backbone here.
        """
        self.bundle, self.config = bundle, bundle.config
        self.devices = tuple(jax.local_devices() if devices is None else devices)
        on_cpu = self.devices[0].platform == "cpu"
        self.rows = 1 if on_cpu else ACCELERATOR_ROWS
        self._at_once = max(1, CPU_PATCHES // self.config.grid**2) if on_cpu else None
        if precision == "auto":
            precision = "float32" if on_cpu else "bfloat16"
        self.precision: Precision = precision
        self.backend: Backend = backend
        if beside is None:
            self._backbones, self._blocks = self._place_backbone(), self._load_blocks()
        else:
            self._backbones, self._blocks = beside._shared_backbones(self), beside._blocks
        self._heads = self._place_head(bundle.head)
        self._turns = itertools.cycle(self.devices)  # threads share it

    def with_head(self, head: Params) -> "Engine":
        """Return an engine over the same backbone, which is not placed again, with another head."""
        other = copy.copy(self)
        other.bundle = dataclasses.replace(self.bundle, head=head)
        other._heads = self._place_head(head)
        return other

    def method_settings(self) -> dict:
        """Return the settings of the method besides the model, which contexts and calibrations depend on."""
        return {}

    def _place_backbone(self) -> dict[jax.Device, Params]:
        return {
            device: place(
                self.bundle.backbone, jnp.dtype(self.precision), partial(jax.device_put, device=device)
            )
            for device in self.devices
        }

    def _load_blocks(self) -> OnnxBlocks | None:
        """Return what runs the blocks of the backbone, where that is not JAX."""
        if self.backend == "jax":
            return None
        if any(device.platform != "cpu" for device in self.devices) or self.precision != "float32":
            raise ConfigError("The backend onnxruntime runs on CPUs, in float32: leave it out here.")
        return OnnxBlocks(self.config.backbone, self.bundle.backbone)

    def _shared_backbones(self, other: "Engine") -> dict[jax.Device, Params]:
        """Return the placed weights for another engine, which must ask for the same ones."""
        asked = [(engine.devices, engine.precision, engine.backend) for engine in (self, other)]
        if self.bundle.backbone is not other.bundle.backbone or asked[0] != asked[1]:
            raise ConfigError(
                "Engines share a backbone only with the same weights, devices, precision and backend."
            )
        return self._backbones

    def _place_head(self, head: Params) -> dict[jax.Device, Params]:
        return {
            device: place(head, np.float32, partial(jax.device_put, device=device)) for device in self.devices
        }

    def features(self, images: Sequence[CanvasImage], rows: int | None = None) -> ImageFeatures:
        """Encode images with the backbone, on the next device.

        Args:
            images: at most `rows` of them, all rounded to uint8 or all in float32.
            rows: images of the compiled program; `self.rows` if None.
        """
        device, canvas, rows = next(self._turns), self.config.canvas, rows or self.rows
        pixels = np.zeros((rows, canvas, canvas, 3), images[0].image.dtype)
        sizes = np.full((rows, 2), canvas, np.int32)
        for row, image in enumerate(images):
            pixels[row], sizes[row] = image.image, image.size
        backbone = self._backbones[device]
        pixels, sizes = jax.device_put((pixels, sizes), device)
        if self._blocks is None:
            return ImageFeatures(extract(self.config, backbone, pixels, sizes), sizes)
        outputs = self._blocks(np.asarray(_normalise(self.config, pixels, sizes)))
        return ImageFeatures(_join(self.config, backbone, jax.device_put(outputs, device), sizes), sizes)

    def pool(
        self,
        images: ImageFeatures,
        masks: Float[np.ndarray, "rows masks S S"] | Bool[np.ndarray, "rows masks S S"],
    ) -> Float[Array, "rows masks channels"]:
        """Return the mean feature inside each mask; a mask that fills no patch gives zeros.

        Args:
            masks: of each image on the canvas, bool or 0..1.
        """
        return _pool(images.features.patches, masks)

    def pool_reference(self, images: ImageFeatures, mask: Bool[np.ndarray, "S S"]) -> PooledReference:
        """Pool one mask on the one image of `images` for the API; see `matching.pool_reference`."""
        return _pool_reference(images.features.patches, images.sizes, mask)

    def compared_patches(self, images: ImageFeatures) -> Float[np.ndarray, "g g channels"]:
        """Return the features of the one image of `images` that are compared with those of other images."""
        return np.asarray(images.features.patches)[0]

    def prototypes(
        self,
        shots: Float[np.ndarray, "rows concepts shots channels"],
        text: Float[np.ndarray, "rows concepts text_width"],
    ) -> Prototypes:
        """Represent each concept by the mean of its shots, the best of three ways (`studies.kshot`)."""
        mean = shots.mean(2)
        return Prototypes(
            pooled=mean, visual=mean[:, :, None], visual_valid=np.ones((*mean.shape[:2], 1), bool), text=text
        )

    def decode(
        self, images: ImageFeatures, prototypes: Prototypes, concepts: Sequence[int] | None = None
    ) -> Decoding:
        """Decode concepts as the official code does: each reads the tokens of all.

        Args:
            concepts: which of them to decode; all if None.
        """
        head = self._heads[device_of(images)]
        rows = None if concepts is None else np.asarray(concepts, np.int32)
        return _decode(self.config, self._at_once, head, images.features, prototypes, rows)

    def decode_each(
        self, images: ImageFeatures, prototypes: Prototypes, count: int
    ) -> Iterator[Float[np.ndarray, "S S"]]:
        """Yield the logits of the first `count` concepts on the one image of `images`, decoded in chunks.

        Args:
            prototypes: of at least `padded_concepts(count)` concepts, those beyond `count` not valid.
        """
        prototypes, start = self.place(prototypes, images), 0
        for size in chunk_sizes(count):
            logits = np.asarray(self.decode(images, prototypes, range(start, start + size)).logits[0])
            yield from logits[: count - start]
            start += size

    def match_concepts(
        self,
        images: ImageFeatures,
        slots: Sequence[ConceptSlots],
        everyone: Prototypes | None = None,
    ) -> list[ConceptMatches]:
        """Decode concepts and match their patches; see `matching.match_concepts`.

        Args:
            everyone: the concepts of all slots, padded to `padded_concepts`, where they read each other's
                tokens; None decodes each as if it were the only one.
        """
        head = self._heads[device_of(images)]
        matches, start = [], 0
        for chunk in slots:
            count = len(chunk.patches)
            rows = None if everyone is None else np.arange(start, start + count, dtype=np.int32)
            inputs = images.features, images.sizes, chunk, everyone, rows
            matches.append(_match_concepts(self.config, self._at_once, head, *inputs))
            start += count
        return matches

    def match_patches(self, images: ImageFeatures, slots: Sequence[ConceptSlots]) -> list[PatchMatches]:
        """Match the patches of the one image of `images` for explanations; see `matching.match_patches`."""
        return [_match_patches(self.config, images.features.patches, chunk) for chunk in slots]

    def track(
        self, images: ImageFeatures, objects: ObjectMemory, text: Float[np.ndarray, " text_width"]
    ) -> tuple[Tracking, ObjectMemory]:
        """Decode the objects of a video on its next frame; see `memory.decode_frame`."""
        head = self._heads[device_of(images)]
        return _track(self.config, self._at_once, head, images.features, objects, text)

    def place(self, arrays: Any, images: ImageFeatures | None = None) -> Any:
        """Put arrays on the device of `images`, or on the next one."""
        return jax.device_put(arrays, next(self._turns) if images is None else device_of(images))


def chunk_sizes(concepts: int) -> list[int]:
    """Return the sizes of chunks that hold this many concepts; three programs serve any number of them."""
    largest, middle, _ = CHUNKS
    rest = concepts % largest
    if rest > largest - middle:
        return [largest] * (concepts // largest + 1)
    last = {0: [], 1: [1]}.get(rest % middle, [middle])
    return [largest] * (concepts // largest) + [middle] * (rest // middle) + last


def padded_concepts(concepts: int) -> int:
    """Return the number of slots, 1, 4, 16, 32, 48, ..., for concepts that read each other's tokens."""
    largest = CHUNKS[0]
    return next((size for size in CHUNKS[::-1] if concepts <= size), -(-concepts // largest) * largest)


def compiled(*static: int) -> Callable[[Callable], Callable]:
    """Return a decorator like `jax.jit`, with float32 products in full precision also on TPUs and GPUs."""

    def decorate(function):
        @wraps(function)
        def at_full_precision(*inputs):
            with jax.default_matmul_precision("highest"):
                return function(*inputs)

        return jax.jit(at_full_precision, static_argnums=static)

    return decorate


@compiled(0)
def extract(
    config: ModelConfig,
    backbone: Params,
    images: UInt8[Array, "n S S 3"] | Float[Array, "n S S 3"],
    sizes: Int[Array, "n 2"],
) -> Features:
    """Return the features of images on the canvas; see `models.encoding.extract`.

    Args:
        backbone: parameters; in bfloat16 the backbone runs in it.
        images: RGB, 0..255.
        sizes: (h, w) of each image on the canvas; the rest is padding.
    """
    return encoding.extract(config, backbone, images, sizes)


@compiled(0)
def _normalise(config, images, sizes):
    return encoding.normalise_pixels(config.backbone, images, sizes).transpose(0, 3, 1, 2)


@compiled(0)
def _join(config, backbone, outputs, sizes):
    features = backbone_template(config.backbone).bind(backbone).join(outputs, (config.canvas,) * 2)
    return encoding.finish(config, features, sizes, config.canvas)


def device_of(images: ImageFeatures) -> jax.Device:
    """Return the device that holds a batch of images."""
    (device,) = jnp.asarray(images.features.patches).devices()
    return device


@compiled()
def _pool(patches, masks):
    return correspondence.pool(patches[:, None], masks)


@compiled()
def _pool_reference(patches, sizes, mask):
    return matching.pool_reference(patches[0], mask, sizes[0])


@compiled(0, 1)
def _decode(config, at_once, head, features, prototypes, rows):
    stages = segic.decode_stages(config, head, features, prototypes, rows=rows, concepts_at_once=at_once)
    return Decoding(segic.upsample(stages.logits, config.canvas), stages.map, stages.logits)


@compiled(0, 1)
def _match_concepts(config, at_once, head, features, sizes, slots, everyone, rows):
    return matching.match_concepts(
        config, head, features, sizes, slots, everyone, rows, concepts_at_once=at_once
    )


@compiled(0)
def _match_patches(config, patches, slots):
    return matching.match_patches(config, patches, slots)


@compiled(0, 1)
def _track(config, at_once, head, features, objects, text):
    frame, objects = memory.decode_frame(config, head, features, objects, text, at_once)
    return Tracking(frame.stages.logits[0], frame.logits), objects
