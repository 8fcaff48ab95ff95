"""Define the stages of inference, each as a function with the shapes of its arguments.

`run`, `growth`, `roofline` and `guard` all measure or count these programs. Shapes are abstract, so that
counting allocates nothing; `filled` makes the arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct as Shape

from segic_jax.config import ModelConfig, ViTConfig
from segic_jax.inference.overlay import class_colours
from segic_jax.inference.result import Result
from segic_jax.models import encoding, segic
from segic_jax.models.backbones import backbone_template
from segic_jax.models.correspondence import best_point, similarity_map, upsample_maps
from segic_jax.models.features import Features
from segic_jax.models.head import head_template
from segic_jax.models.params import Template
from segic_jax.models.prompt_encoder import Prompts

IMAGE = (480, 640)  # height and width of a target, where the post-processing makes its masks
POINT_SLOTS = 2  # sparse prompts beside the tokens: the point and SAM's padding point
VITS = ("b", "l", "g")  # of DINOv2


@dataclass(frozen=True)
class Size:
    """Describe the inputs of a stage."""

    model: ModelConfig
    batch: int = 1
    concepts: int = 1
    shots: int = 1
    precision: str = "float32"  # of the backbone; of the stage itself where it is one of the head's products

    @property
    def tokens(self) -> int:
        """Tokens of one image in the backbone."""
        return self.model.grid**2 + 1 + self.vit.num_registers

    @property
    def vit(self) -> ViTConfig:
        """The backbone; those that are compared with PyTorch are DINOv2's."""
        assert isinstance(self.model.backbone, ViTConfig)
        return self.model.backbone


class Stage(NamedTuple):
    """Hold a function to compile, and the shapes of its arguments."""

    function: Callable[..., Any]
    arguments: tuple


def model(vit: str, canvas: int) -> ModelConfig:
    """Return the configuration of SegIC with one of the VITS."""
    return ModelConfig(backbone=ViTConfig.dinov2(vit), canvas=canvas)


def backbone(size: Size) -> Stage:
    """Encode uint8 images to patch features, with the normalisation of pixels."""
    return Stage(
        lambda params, images, sizes: encoding.extract(size.model, params, images, sizes),
        (_params(backbone_template(size.model.backbone), size.precision), *_images(size, size.batch)),
    )


def products(size: Size) -> Stage:
    """Run the dense matrix products of one backbone block alone, to see the speed of the library."""
    vit = size.vit
    hidden = vit.ffn_hidden * (2 if vit.ffn == "swiglu" else 1)

    def product(a, b):  # as `models.layers.Linear` has it
        return jnp.matmul(a, b, preferred_element_type=jnp.float32).astype(a.dtype)

    def multiplied(tokens, qkv, proj, up, down):
        inner = product(tokens, up)[:, : vit.ffn_hidden]
        return product(tokens, qkv), product(tokens, proj), product(inner, down)

    shapes = [
        (vit.width, 3 * vit.width),
        (vit.width, vit.width),
        (vit.width, hidden),
        (vit.ffn_hidden, vit.width),
    ]
    tokens = _floats(size.batch * size.tokens, vit.width, dtype=size.precision)
    return Stage(multiplied, (tokens, *(_floats(*shape, dtype=size.precision) for shape in shapes)))


def references(size: Size) -> Stage:
    """Pool the features of reference images, one for each shot, inside their masks to prototypes."""
    batch = _references(size)
    patches = _features(size, size.shots).patches
    return Stage(encoding.encode_features, (patches, batch._replace(images=None, sizes=None)))


def neck(size: Size) -> Stage:
    """Project features to the image embedding that the decoder reads."""
    return Stage(
        lambda head, features: _head(size).bind(head).embed_image(features).patches,
        (_params(_head(size), size.precision), _features(size, dtype=size.precision)),
    )


def correspondence(size: Size) -> Stage:
    """Compute similarity maps on the canvas and their peaks from features and prototypes."""

    def match(patches, pooled):
        at_canvas = upsample_maps(similarity_map(patches, pooled, size.model.canvas), size.model.canvas)
        return at_canvas, best_point(at_canvas)

    return Stage(match, (_features(size).patches, _context(size).pooled))


def prompts(size: Size) -> Stage:
    """Encode similarity map, point and prototypes to sparse and dense prompts."""

    def encoded(head, maps, points, context):
        module = _head(size).bind(head)
        batch, concepts = points.shape[:2]
        tokens, valid = module.tokens(context, True)
        return module.prompt_encoder(
            points=points[:, :, None],
            point_labels=jnp.ones((batch, concepts, 1), jnp.int32),
            boxes=None,
            use_box=None,
            masks=maps[:, :, None],
            tokens=tokens,
            tokens_valid=valid,
        )

    shape, side = (size.batch, size.concepts), size.model.canvas // 4
    return Stage(
        encoded,
        (_params(_head(size)), _floats(*shape, side, side), _floats(*shape, 2), _context(size)),
    )


def decoder(size: Size) -> Stage:
    """Run SAM's mask decoder alone: image and prompts to low-resolution logits and predicted IoU."""

    def decoded(head, image, prompts):
        module = _head(size).bind(head)
        position = module.prompt_encoder.dense_position().astype(image.dtype)
        logits, iou = module.mask_decoder(image, position, prompts)
        return logits[:, :, 0], iou[:, :, 0]

    config, shape = size.model, (size.batch, size.concepts)
    grid, width = (config.grid, config.grid), config.head.width
    slots = POINT_SLOTS + 1 + size.concepts * size.shots  # a concept also reads the others' tokens
    prompts = Prompts(
        sparse=_floats(*shape, slots, width, dtype=size.precision),
        sparse_valid=Shape((*shape, slots), bool),
        dense=_floats(*shape, *grid, width, dtype=size.precision),
    )
    image = _floats(size.batch, *grid, width, dtype=size.precision)
    return Stage(decoded, (_params(_head(size), size.precision), image, prompts))


def upsampling(size: Size) -> Stage:
    """Upsample low-resolution logits to the canvas."""
    return Stage(lambda logits: segic.upsample(logits, size.model.canvas), (_small_logits(size),))


def head(size: Size) -> Stage:
    """Run everything after the features, from neck to upsampling, in one program."""

    def decoded(params, features, context):
        logits, iou = segic.decode(size.model, params, features, context)
        return segic.upsample(logits, size.model.canvas), iou

    return Stage(decoded, (_params(_head(size)), _features(size), _context(size)))


def head_alone(size: Size) -> Stage:
    """Run `head` with concepts that do not read each other, as in the API."""

    def decoded(params, features, context):
        decoded = segic.decode_stages(size.model, params, features, context, alone=True)
        return segic.upsample(decoded.logits, size.model.canvas), decoded.iou

    return Stage(decoded, head(size).arguments)


def complete(size: Size) -> Stage:
    """Run images to mask logits on the canvas in one program, with given prototypes."""
    return Stage(
        lambda params, head, images, sizes, context: segic.segment(
            size.model, params, head, images, sizes, context
        ),
        (
            _params(backbone_template(size.model.backbone), size.precision),
            _params(_head(size)),
            *_images(size, size.batch),
            _context(size),
        ),
    )


def complete_with_references(size: Size) -> Stage:
    """Run reference images, masks and targets to mask logits in one program."""

    def segmented(params, head, images, sizes, references):
        # One call of the backbone: XLA on a CPU would run two beside each other, and hold the memory of both.
        batch, shots = references.images.shape[:2]
        reference_images = references.images.reshape(batch * shots, *references.images.shape[2:])
        sizes = jnp.concatenate([sizes, references.sizes.reshape(-1, 2)])
        features = encoding.extract(size.model, params, jnp.concatenate([images, reference_images]), sizes)
        patches = features.patches[batch:].reshape(batch, shots, *features.patches.shape[1:])
        context = encoding.encode_features(patches, references._replace(images=None, sizes=None))
        logits, iou = segic.decode(size.model, head, jax.tree.map(lambda x: x[:batch], features), context)
        return segic.upsample(logits, size.model.canvas), iou

    return Stage(segmented, (*complete(size).arguments[:4], _references(size)))


STAGES: dict[str, Callable[[Size], Stage]] = {
    "backbone": backbone,
    "products": products,
    "references": references,
    "neck": neck,
    "correspondence": correspondence,
    "prompts": prompts,
    "decoder": decoder,
    "up-sampling": upsampling,
    "head": head,
    "head, each alone": head_alone,
    "whole": complete,
    "whole with references": complete_with_references,
}
HOST = "post-processing"  # numpy on the host, see `post_processing`


def post_processing(size: Size) -> Callable[[], None]:
    """Turn low-resolution logits into label maps, areas, boxes, scores and masks at the IMAGE's size."""
    config, (height, width) = size.model, IMAGE
    canvas = config.canvas
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(size.batch, size.concepts, 8, 8)).astype(np.float32)
    logits_of_images = coarse.repeat(config.grid // 2, -1).repeat(config.grid // 2, -2)  # a few large regions
    results = [
        dict(
            names=tuple(map(str, range(size.concepts))),
            presence=np.ones(size.concepts, np.float32),
            present=np.ones(size.concepts, bool),
            evidence=np.zeros((size.concepts, 0), np.float32),
            image=np.zeros((*IMAGE, 3), np.uint8),
            source=None,
            small_logits=logits,
            canvas=canvas,
            placed=(canvas * height // width, canvas),
            colours=class_colours(size.concepts),
        )
        for logits in logits_of_images
    ]

    def finish():
        for fields in results:
            result = Result(**fields)  # a new one: a Result keeps what it has measured
            _ = result.label_map, result.scores, result.masks

    return finish


def filled(arguments: Any, seed: int = 0) -> Any:
    """Make arrays for abstract arguments: small random numbers, full canvases, all slots valid.

    Every reference mask lies on the first image; the time depends on the number of images only.
    """
    rng = np.random.default_rng(seed)
    numbers = 0.05 * rng.standard_normal(99_991, np.float32)  # repeated: a backbone has 1e8 numbers and more

    def fill(path: tuple, spec: Shape) -> np.ndarray:
        if spec.dtype == bool:
            return np.ones(spec.shape, bool)
        if spec.dtype == np.uint8:
            return rng.integers(0, 256, spec.shape, np.uint8)
        if spec.dtype == np.int32:
            is_index = jax.tree_util.keystr(path).endswith(".image_index")
            return np.full(spec.shape, 0 if is_index else _WHOLE, np.int32)
        return np.resize(numbers.astype(spec.dtype), spec.shape)

    return jax.tree_util.tree_map_with_path(fill, arguments)


_WHOLE = 1 << 20  # (h, w) of an image that fills any canvas


def _head(size: Size) -> Template:
    return head_template(size.model)


def _params(template: Template, precision: str = "float32") -> dict[str, Shape]:
    return {name: Shape(spec.shape, precision) for name, spec in template.shapes.items()}


def _floats(*shape: int, dtype: str = "float32") -> Shape:
    return Shape(shape, dtype)


def _images(size: Size, *shape: int) -> tuple[Shape, Shape]:
    side = size.model.canvas
    return Shape((*shape, side, side, 3), np.uint8), Shape((*shape, 2), np.int32)


def _features(size: Size, *images: int, dtype: str = "float32") -> Features:
    config, shape = size.model, (size.batch, *images)
    patches = _floats(*shape, config.grid, config.grid, config.backbone.width, dtype=dtype)
    sides = [2 ** (level + 1) * config.grid for level in range(len(config.backbone.fine_widths))]
    fine = zip(sides, config.backbone.fine_widths, strict=True)
    return Features(patches, tuple(_floats(*shape, side, side, width, dtype=dtype) for side, width in fine))


def _small_logits(size: Size) -> Shape:
    side = 4 * size.model.grid
    return _floats(size.batch, size.concepts, side, side)


def _context(size: Size) -> encoding.Prototypes:
    shape, width = (size.batch, size.concepts), size.model.backbone.width
    return encoding.Prototypes(
        pooled=_floats(*shape, width),
        visual=_floats(*shape, size.shots, width),
        visual_valid=Shape((*shape, size.shots), bool),
        text=_floats(*shape, size.model.text_width),
    )


def _references(size: Size) -> encoding.ReferenceBatch:
    """Place all concepts on the same images, one for each shot."""
    images, sizes = _images(size, size.batch, size.shots)
    shape, side = (size.batch, size.concepts, size.shots), size.model.canvas
    return encoding.ReferenceBatch(
        images=images,
        sizes=sizes,
        masks=Shape((*shape, side, side), bool),
        image_index=Shape(shape, np.int32),
        valid=Shape(shape, bool),
        text=_floats(*shape[:2], size.model.text_width),
    )
