"""From a Config to the objects that a training needs: data, frozen weights, text features, validation.

The loop knows none of these by name; a new data source or kind of weights is added here.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segic_jax.config import Config, ConfigError, ViTConfig, to_dict
from segic_jax.data.build.info import find_built
from segic_jax.data.build.read import open_built
from segic_jax.data.emoji.source import EmojiPairs, EmojiSource
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.data.episodes import PairSource, Source
from segic_jax.data.manifest import Manifest
from segic_jax.data.pairs import ClassPairs
from segic_jax.data.sources.folder import open_folder
from segic_jax.evaluate.run import score
from segic_jax.evaluate.threshold import tune_threshold
from segic_jax.params import Params, as_float32
from segic_jax.train.loop import Evaluate, Parts
from segic_jax.weights.bundle import Bundle, load_bundle
from segic_jax.weights.convert import read_backbone


def build(config: Config) -> Parts:
    """Read everything that `config` names.

    Raises:
        ConfigError, DataError, BundleError, ParamsError: a file is missing or does not fit.
    """
    backbone = load_backbone(config.backbone, config.model.vit)
    # Without text features every prompt is the empty one.
    text = {"": np.zeros(config.model.text_width, np.float32)}
    head = None
    if config.start:
        start = load_bundle(config.start)
        if start.config != config.model:
            raise ConfigError(f"{config.start} is another model than `model` of the configuration says.")
        head, text = start.head, start.text
    if config.data.text_keep and len(text) == 1:
        raise ConfigError("There are no text features of class names: set data.text_keep to 0.")
    return Parts(
        source=_pairs(config),
        backbone=backbone,
        text=text,
        head=head,
        evaluate=_validation(config, backbone, text),
    )


def finished_bundle(config: Config, parts: Parts, head: Params) -> Bundle:
    """The model file's content; its notes hold the configuration and the cosine map's best threshold.

    The threshold, which evaluation needs for a baseline, is chosen on the validation classes.
    """
    notes = to_dict(config) | {"backbone": Path(config.backbone).name}  # a path means nothing elsewhere
    bundle = Bundle(config.model, parts.backbone, head, dict(parts.text), notes)
    if config.validation:
        notes["cosine_threshold"], _ = tune_threshold(bundle, *_episodes(config.validation))
    return bundle


def load_backbone(path: str, config: ViTConfig) -> Params:
    """Frozen weights from a file of this project, or from DINOv2's as Meta, Hugging Face or timm ship it.

    Raises:
        ConfigError: there is no such file.
        ParamsError: it is no such file, or its tensors do not fit `config`.
    """
    if not Path(path).is_file():
        raise ConfigError(
            f"{path or 'The empty path'}: there is no such file; give the backbone's weights with --backbone."
        )
    return as_float32(read_backbone(path, config))


def _pairs(config: Config) -> PairSource:
    if config.source == "emoji":
        return EmojiPairs(SpriteBank.load("base"), config.model.canvas)
    return ClassPairs(_source(config.source))


def _episodes(validation: str) -> tuple[Source, Manifest]:
    source = EmojiSource("validation") if validation == "emoji" else _source(validation)
    return source, source.manifest("original", 0, 1)


def _source(root: str) -> Source:
    """A folder of classes, or a data set that `data.build` wrote of any benchmark with episodes."""
    source = open_built(root) if find_built(root) else open_folder(root)
    if not isinstance(source, Source):
        raise ConfigError(f"{root} holds {source.name}, which has no episodes: give another data set.")
    return source


def _validation(config: Config, backbone: Params, text: Mapping[str, np.ndarray]) -> Evaluate | None:
    if not config.validation:
        return None
    source, manifest = _episodes(config.validation)

    def scores(head: Params) -> dict[str, float]:
        bundle = Bundle(config=config.model, backbone=backbone, head=head, text=dict(text))
        found = score(bundle, source, manifest, limit=config.train.eval_episodes)
        return {name: found[name] for name in ("miou", "fb_iou", "episode_iou")}

    return scores
