"""Choose the method of segmentation: every method has the verbs of `inference.engine.Engine`."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import jax

from segic_jax.config import Backend, MethodChoice, Precision
from segic_jax.data.preprocess import resize_and_pad, stretch
from segic_jax.errors import ConfigError
from segic_jax.inference.engine import Engine
from segic_jax.inference.references import PlaceImage
from segic_jax.inference.training_free.engine import TrainingFreeEngine
from segic_jax.inference.training_free.settings import TrainingFree, on_canvas
from segic_jax.weights.bundle import Bundle, load_backbone, load_bundle


def load_model(path: Path | str, method: MethodChoice | TrainingFree) -> Bundle:
    """Read the model file that a method needs: a complete model, or one with a backbone at least.

    Raises:
        ConfigError: there is no such method.
        BundleError: a part is missing, or the file is damaged or of another kind.
    """
    require_method(method)
    return load_bundle(path) if method == "segic" else load_backbone(path)


def make_engine(
    bundle: Bundle,
    method: MethodChoice | TrainingFree,
    devices: Sequence[jax.Device] | None = None,
    precision: Precision = "auto",
    *,
    backend: Backend = "jax",
    beside: Engine | None = None,
) -> Engine:
    """Return an engine that runs the method on the devices; see `Engine`.

    Args:
        method: its name, or settings of the training-free method other than those that suit the backbone.
        backend: what runs the backbone.
        beside: an engine whose placed backbone this one shares.

    Raises:
        ConfigError: there is no such method, the backend cannot run the backbone, or it cannot be shared.
    """
    require_method(method)
    if method == "segic":
        return Engine(bundle, devices, precision, backend=backend, beside=beside)
    settings = method
    if not isinstance(settings, TrainingFree):
        settings = TrainingFree.for_backbone(bundle.config.backbone)
        if method == "training_free_crf":
            settings = replace(settings, crf=True, edges=0.0)
    bundle = on_canvas(bundle, settings)
    return TrainingFreeEngine(bundle, settings, devices, precision, backend=backend, beside=beside)


def require_method(method: object) -> None:
    """Raise ConfigError if this is neither the name of a method nor settings of the training-free one."""
    names = get_args(MethodChoice)
    if method not in names and not isinstance(method, TrainingFree):
        raise ConfigError(f"There is no method {method!r}: choose one of {', '.join(names)}.")


def placing(engine: Engine, *, rounded: bool) -> PlaceImage:
    """Return how images are put on the canvas of an engine.

    Args:
        rounded: round to uint8 where the method leaves it open.
    """
    if isinstance(engine, TrainingFreeEngine) and engine.settings.stretched:
        return stretch
    return partial(resize_and_pad, rounded=rounded)
