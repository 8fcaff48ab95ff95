"""Make inference engines with random weights."""

import jax
import numpy as np

from benchmarks.stages import filled
from segic_jax.config import EMPTY_PROMPT, ModelConfig, Precision
from segic_jax.inference.engine import Engine
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.weights.bundle import Bundle


def random_engine(model: ModelConfig, precision: Precision) -> Engine:
    """Return an engine on the first device."""
    bundle = Bundle(
        config=model,
        backbone=filled(dict(backbone_template(model.backbone).shapes)),
        head=filled(dict(head_template(model).shapes)),
        text={EMPTY_PROMPT: np.zeros(model.text_width, np.float32)},
    )
    return Engine(bundle, jax.local_devices()[:1], precision)
