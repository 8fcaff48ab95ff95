"""Define the programs of an exported model: references to Context arrays, a target with them to masks.

Both are the functions that the engine compiles, with the weights inside and full precision of float32
products. They work image by image and class by class, so that neither the batch nor the other classes change
a result: a class is decoded as `Segmenter.predict` does by default.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.errors import ConfigError
from segic_jax.export.presence_program import class_presence, kept_patches
from segic_jax.inference.matching import KINDS, PATCHES, pool_reference
from segic_jax.inference.presence import Calibration, read_calibration
from segic_jax.models import encoding, segic
from segic_jax.models.features import Features
from segic_jax.models.params import Params, place
from segic_jax.weights.bundle import Bundle

ExportPrecision = Literal["float32", "bfloat16", "float16"]
IMAGES, CLASSES = "images", "classes"  # dimensions of any size
_PATCHES_MEANING = "features of unit length inside and beside the object; zeros after the last one"


class Port(NamedTuple):
    """Describe an input or output of a program."""

    name: str
    shape: tuple[int | str, ...]  # a name stands for a dimension of any size
    dtype: str
    meaning: str


class Program(NamedTuple):
    """Hold a function of arrays in the order of `inputs`, which returns a tuple in the order of `outputs`."""

    name: str
    function: Callable[..., tuple[Array, ...]]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def make_programs(
    bundle: Bundle, precision: ExportPrecision = "float32", compute: ExportPrecision | None = None
) -> tuple[Program, Program]:
    """Return the programs `encode` and `segment` of a model.

    Args:
        precision: of the backbone's weights; those of the head are in float32.
        compute: precision that the backbone computes in; that of its weights if None.

    Raises:
        ConfigError: a weight is too large for the precision.
    """
    config, dtype, calibration = bundle.config, jnp.dtype(precision), read_calibration(bundle.notes)
    stored, head = place(bundle.backbone, dtype, jnp.asarray), place(bundle.head, np.float32, jnp.asarray)
    if precision == "float16" and not all(bool(jnp.isfinite(value).all()) for value in stored.values()):
        raise ConfigError(f"{bundle.name} has weights that float16 cannot hold: export it in bfloat16.")
    prompt = np.asarray(bundle.text_feature(), np.float32)

    def computing() -> Params:
        return {name: value.astype(compute or dtype) for name, value in stored.items()}

    def encode_image(patches, size, mask):
        pooled = pool_reference(patches, mask, size)
        outputs = pooled.visual, jnp.asarray(prompt)
        return outputs if calibration is None else (*outputs, kept_patches(patches, pooled))

    def encode(images, sizes, masks):
        patches = encoding.extract(config, computing(), images, sizes).patches
        return tuple(jax.vmap(encode_image)(patches, sizes, masks))

    def segment_image(features, size, *classes):
        features = jax.tree.map(lambda level: level[None], features)
        return jax.vmap(partial(_segment_class, config, head, calibration, features, size))(*classes)

    def segment(images, sizes, *classes):
        features = encoding.extract(config, computing(), images, sizes)
        axes = 0, 0, *[None] * len(classes)
        return tuple(jax.vmap(segment_image, axes)(features, sizes, *classes))

    ports = _ports(config, calibration is not None)
    return (
        Program("encode", _in_full_precision(encode), ports.references, ports.encoded),
        Program("segment", _in_full_precision(segment), ports.targets, ports.segmented),
    )


class _Ports(NamedTuple):
    """Hold the inputs and outputs of both programs."""

    references: tuple[Port, ...]
    encoded: tuple[Port, ...]
    targets: tuple[Port, ...]
    segmented: tuple[Port, ...]


def _ports(config: ModelConfig, calibrated: bool) -> _Ports:
    """Describe the programs of a model; presence is among them if it is calibrated."""
    side = config.canvas
    images = (
        Port("images", (IMAGES, side, side, 3), "uint8", "RGB on the canvas, as `preprocessing` says"),
        Port("sizes", (IMAGES, 2), "int32", "height and width of each image on its canvas"),
    )
    masks = Port("masks", (IMAGES, side, side), "bool", "the object on each image's canvas")

    def look(number: str, what: str) -> tuple[Port, ...]:
        ports = (
            Port("prototypes", (number, config.backbone.width), "float32", f"mean feature {what}"),
            Port(
                "text", (number, config.text_width), "float32", "of a class without a name; always the same"
            ),
            Port("patches", (number, KINDS, PATCHES, config.backbone.width), "float16", _PATCHES_MEANING),
        )
        return ports if calibrated else ports[:2]

    shots = Port("shots", (CLASSES,), "int32", "how many references each class has")
    segmented = (
        Port("logits", (IMAGES, CLASSES, side, side), "float32", "inside where positive; crop to sizes"),
        Port("scores", (IMAGES, CLASSES), "float32", "mean probability inside the mask; 0 if empty"),
        Port("similarity", (IMAGES, CLASSES), "float32", "largest cosine of the image to the prototype"),
    )
    presence = Port("presence", (IMAGES, CLASSES), "float32", "0..1, whether the class is in the image")
    return _Ports(
        references=(*images, masks),
        encoded=look(IMAGES, "inside each mask"),
        targets=(*images, *look(CLASSES, "of each class, from `encode`"), *[shots] * calibrated),
        segmented=(*segmented, *[presence] * calibrated),
    )


def _segment_class(
    config: ModelConfig,
    head: Params,
    calibration: Calibration | None,
    features: Features,
    size: Int[Array, " 2"],
    prototype: Float[Array, " channels"],
    text: Float[Array, " text_width"],
    *evidence: Array,
) -> tuple[Array, ...]:
    """Segment one class on one image; return logits, score, similarity and, with a calibration, presence.

    Args:
        evidence: patches and number of the references, with a calibration.
    """
    concept = encoding.Prototypes(
        pooled=prototype[None, None],
        visual=prototype[None, None, None],
        visual_valid=np.ones((1, 1, 1), bool),
        text=text[None, None],
    )
    index = jnp.arange(config.canvas)
    inside = (index[:, None] < size[0]) & (index < size[1])
    stages = segic.decode_stages(config, head, features, concept, alone=True)
    logits = segic.upsample(stages.logits, config.canvas)[0, 0]
    similarity = jnp.where(inside, stages.map[0, 0], -1).max()
    outputs = logits, _mean_probability(logits, inside), similarity
    if calibration is None:
        return outputs
    presence = class_presence(calibration, config.canvas, features.patches[0], size, stages, *evidence)
    return (*outputs, presence)


def _mean_probability(logits: Float[Array, "S S"], inside: Bool[Array, "S S"]) -> Float[Array, ""]:
    mask = ((logits > 0) & inside).astype(jnp.float32)
    return (mask * jax.nn.sigmoid(logits)).sum() / jnp.maximum(mask.sum(), 1)


def _in_full_precision(function: Callable[..., tuple]) -> Callable[..., tuple[Array, ...]]:
    def in_full_precision(*inputs):
        with jax.default_matmul_precision("highest"):
            return function(*inputs)

    return in_full_precision


def input_specs(ports: Sequence[Port]) -> list[jax.ShapeDtypeStruct]:
    """Return what a function of these inputs is traced with."""
    scope = export.SymbolicScope()
    return [
        jax.ShapeDtypeStruct(
            export.symbolic_shape(", ".join(map(str, port.shape)), scope=scope), np.dtype(port.dtype)
        )
        for port in ports
    ]


def with_batch(ports: Sequence[Port], batch: int | None) -> list[Port]:
    """Return ports with a fixed number of images; None leaves any number."""
    fixed: Mapping[Any, Any] = {} if batch is None else {IMAGES: batch}
    return [port._replace(shape=tuple(fixed.get(size, size) for size in port.shape)) for port in ports]
