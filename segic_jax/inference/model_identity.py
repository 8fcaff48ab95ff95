"""Say which model a Context belongs to: features of one backbone mean nothing to another."""

import hashlib
import json

import numpy as np

from segic_jax.config import to_dict
from segic_jax.errors import DataError
from segic_jax.inference.context import Context
from segic_jax.inference.engine import Engine
from segic_jax.models.params import release


def model_fingerprint(engine: Engine) -> str:
    """Return a hash of what a Context depends on besides its references: backbone, canvas and method.

    A few thousand numbers of each tensor are hashed: gigabytes would take seconds.
    """
    config, backbone = to_dict(engine.config), engine.bundle.backbone
    made_for = [config["backbone"], config["canvas"]]
    if settings := engine.method_settings():
        made_for.append(settings)
    digest = hashlib.sha256(json.dumps(made_for).encode())
    for name in sorted(backbone):
        flat = backbone[name].reshape(-1)
        digest.update(np.asarray(flat[:: max(1, len(flat) // 4096)], np.float32).tobytes())
        release(flat)
    return digest.hexdigest()


def require_model(context: Context, engine: Engine, model: str, what: str) -> None:
    """Raise DataError for a Context of another model.

    Args:
        model: fingerprint of the engine's model.
        what: how the message names the Context.
    """
    widths = (engine.config.backbone.width, engine.config.text_width)
    fits = all((concept.visual.shape[1], len(concept.text)) == widths for concept in context.concepts)
    if context.model != model or not fits:
        raise DataError(f"{what} belongs to another model than {engine.bundle.name}: fit its examples again.")


def require_usable(context: object, engine: Engine, model: str) -> None:
    """Raise DataError unless this is a Context of the model with at least one class."""
    if not isinstance(context, Context):
        raise DataError(f"A Context made by fit or load_context is needed, not {type(context).__name__}.")
    require_model(context, engine, model, "The context")
    if not context.names:
        raise DataError("The context has no class: fit an example.")
