"""Define the programs of an exported model: references to Context arrays, a target with them to masks.

Both are the functions that the engine compiles, with the weights inside and full precision of float32
products. They work image by image and class by class, so that neither the batch nor the other classes change
a result: a class is decoded as `Segmenter.predict` does by default.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Bool, Float, Int, UInt8

from segic_jax.config import ModelConfig
from segic_jax.errors import ConfigError
from segic_jax.inference.matching import pool_reference
from segic_jax.models import encoding, segic
from segic_jax.models.params import Params, place
from segic_jax.weights.bundle import Bundle

ExportPrecision = Literal["float32", "bfloat16", "float16"]
IMAGES, CLASSES = "images", "classes"  # dimensions of any size


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
    config, dtype = bundle.config, jnp.dtype(precision)
    stored, head = place(bundle.backbone, dtype, jnp.asarray), place(bundle.head, np.float32, jnp.asarray)
    if precision == "float16" and not all(bool(jnp.isfinite(value).all()) for value in stored.values()):
        raise ConfigError(f"{bundle.name} has weights that float16 cannot hold: export it in bfloat16.")
    side, width, text_width = config.canvas, config.backbone.width, config.text_width
    prompt = np.asarray(bundle.text_feature(), np.float32)

    def computing() -> Params:
        return {name: value.astype(compute or dtype) for name, value in stored.items()}

    def encode_image(image, size, mask):
        features = encoding.extract(config, computing(), image[None], size[None])
        return pool_reference(features.patches[0], mask, size).visual, jnp.asarray(prompt)

    def segment_image(image, size, prototypes, text):
        return _segment(config, computing(), head, image, size, prototypes, text)

    images = Port("images", (IMAGES, side, side, 3), "uint8", "RGB on the canvas, as `preprocessing` says")
    sizes = Port("sizes", (IMAGES, 2), "int32", "height and width of each image on its canvas")
    prototypes = "mean feature inside each mask; the prototype of several references is the mean of theirs"
    text = "the feature of a class without a name; the same for all"
    encode = Program(
        "encode",
        _over_images(encode_image),
        (images, sizes, Port("masks", (IMAGES, side, side), "bool", "the object on each image's canvas")),
        (
            Port("prototypes", (IMAGES, width), "float32", prototypes),
            Port("text", (IMAGES, text_width), "float32", text),
        ),
    )
    segment = Program(
        "segment",
        _over_images(segment_image, shared=2),
        (
            images,
            sizes,
            Port("prototypes", (CLASSES, width), "float32", "of each class, from `encode`"),
            Port("text", (CLASSES, text_width), "float32", "of each class, from `encode`"),
        ),
        (
            Port("logits", (IMAGES, CLASSES, side, side), "float32", "inside where positive; crop to sizes"),
            Port("scores", (IMAGES, CLASSES), "float32", "mean probability inside the mask; 0 if empty"),
            Port("similarity", (IMAGES, CLASSES), "float32", "largest cosine of the image to the prototype"),
        ),
    )
    return encode, segment


def _segment(
    config: ModelConfig,
    backbone: Params,
    head: Params,
    image: UInt8[Array, "S S 3"],
    size: Int[Array, " 2"],
    prototypes: Float[Array, "classes channels"],
    text: Float[Array, "classes text_width"],
) -> tuple[Float[Array, "classes S S"], Float[Array, " classes"], Float[Array, " classes"]]:
    """Segment one image; return logits, scores and similarity of every class."""
    features = encoding.extract(config, backbone, image[None], size[None])
    index = jnp.arange(config.canvas)
    inside = (index[:, None] < size[0]) & (index < size[1])

    def segment_class(prototype, text):
        concept = encoding.Prototypes(
            pooled=prototype[None, None],
            visual=prototype[None, None, None],
            visual_valid=np.ones((1, 1, 1), bool),
            text=text[None, None],
        )
        stages = segic.decode_stages(config, head, features, concept, alone=True)
        logits = segic.upsample(stages.logits, config.canvas)[0, 0]
        similarity = jnp.where(inside, stages.map[0, 0], -1).max()
        return logits, _mean_probability(logits, inside), similarity

    return jax.vmap(segment_class)(prototypes, text)


def _mean_probability(logits: Float[Array, "S S"], inside: Bool[Array, "S S"]) -> Float[Array, ""]:
    mask = ((logits > 0) & inside).astype(jnp.float32)
    return (mask * jax.nn.sigmoid(logits)).sum() / jnp.maximum(mask.sum(), 1)


def _over_images(function: Callable[..., tuple], shared: int = 0) -> Callable[..., tuple[Array, ...]]:
    """Return the function over a batch of images, at full precision; all of them share the last inputs."""

    def over_images(*inputs):
        axes = [0] * (len(inputs) - shared) + [None] * shared
        with jax.default_matmul_precision("highest"):
            return tuple(jax.vmap(function, in_axes=axes)(*inputs))

    return over_images


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
