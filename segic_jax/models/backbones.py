"""Build the backbone of any architecture: images on the canvas -> features on a grid."""

from collections.abc import Callable
from functools import cache

from flax import nnx

from segic_jax.config import Backbone, DinoV3Config, EfficientNetConfig, ViTConfig
from segic_jax.models.dinov3 import DinoV3
from segic_jax.models.efficientnet import EfficientNet
from segic_jax.models.params import Template
from segic_jax.models.vit import DinoVisionTransformer

# A module maps normalised images to an object with the fields `patches` and `fine` of `Features`.
_MODULES: dict[type[Backbone], Callable[..., nnx.Module]] = {
    ViTConfig: DinoVisionTransformer,
    DinoV3Config: DinoV3,
    EfficientNetConfig: EfficientNet,
}


@cache
def backbone_template(config: Backbone) -> Template:
    """Return the structure of the backbone without its arrays."""
    module = _MODULES[type(config)]
    return Template(lambda rngs: module(config, rngs=rngs))
