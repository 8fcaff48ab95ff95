"""From a Config to the objects that a training needs: data, frozen weights, text features, validation.

The loop knows none of these by name; a new kind of weights is added here, a new source in
data/training_sources.py.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segic_jax.config import EMPTY_PROMPT, INSTANCE_PROMPT, Config, SourceConfig, class_prompt, to_dict
from segic_jax.data.episodes import PairSource
from segic_jax.data.training_sources import open_mixture
from segic_jax.errors import ConfigError
from segic_jax.evaluate.calibration import tune_threshold
from segic_jax.models.params import as_float32
from segic_jax.train.loop import Parts
from segic_jax.train.validate import BenchmarkValidation, open_episodes
from segic_jax.weights.bundle import Bundle, load_bundle
from segic_jax.weights.convert import read_frozen
from segic_jax.weights.fetch import find
from segic_jax.weights.text import TextTower, encode_prompts


def build(config: Config) -> Parts:
    """Read everything that `config` names.

    Raises:
        ConfigError, DataError, BundleError, ParamsError: a file is missing or does not fit.
    """
    if not config.backbone:
        raise ConfigError("The configuration names no backbone: give the file of its weights by --backbone.")
    frozen = read_frozen(find(config.backbone), config.model.vit)
    backbone = as_float32(frozen.backbone)
    source = open_mixture(config.sources, config.model.canvas)
    start = load_bundle(find(config.start)) if config.start else None
    if start is not None and start.config != config.model:
        raise ConfigError(f"{config.start} is another model than `model` of the configuration says.")
    tower = frozen.tower or (start.tower if start else None)
    text = text_features(config, source, tower, start.text if start else {})
    return Parts(
        source=source,
        backbone=backbone,
        text=text,
        head=start.head if start else None,
        validation=BenchmarkValidation(config, backbone, text) if config.validations else None,
    )


def text_features(
    config: Config, source: PairSource, tower: TextTower | None, known: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """prompt -> feature, of every prompt that the training can use; rows of negative prompts are among them.

    Without a text tower a class's prompt and the empty one are zeros, and that of instances is a constant, so
    that a head can tell the two tasks apart.

    Raises:
        ConfigError: the text tower's width is not `model.text_width`, or `data.text_keep` without one.
        TextError: the tower's tokenizer does not go with it.
    """
    width = config.model.text_width
    prompts = [EMPTY_PROMPT, INSTANCE_PROMPT, *(class_prompt(name) for name in source.class_names)]
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
    if tower is not None:
        if tower.config.width != width:
            raise ConfigError(
                f"The text tower of {config.backbone} has width {tower.config.width}, but model.text_width "
                f"is {width}: set it to that, or take other weights."
            )
        found = encode_prompts(tower, missing) if missing else {}
    elif config.data.text_keep and any(prompt not in (EMPTY_PROMPT, INSTANCE_PROMPT) for prompt in missing):
        raise ConfigError(
            f"data.text_keep is {config.data.text_keep}, but {config.backbone} holds no text tower: join it "
            "with CLIP's by `segic convert`, or set data.text_keep to 0."
        )
    else:
        constant = np.full(width, width**-0.5, np.float32)
        found = {prompt: constant * (prompt == INSTANCE_PROMPT) for prompt in missing}
    found |= known
    return {prompt: found[prompt] for prompt in prompts}


def finished_bundle(config: Config, parts: Parts, head: Mapping[str, np.ndarray]) -> Bundle:
    """The model file's content; its notes hold the configuration and the cosine map's best threshold.

    The threshold, which evaluation needs for a baseline, is chosen on the first validation.
    """
    notes = to_dict(config) | {"backbone": Path(config.backbone).name}  # a path means nothing elsewhere
    notes["trained_on"] = sorted({_data_set(one) for one in config.sources})
    text = {prompt: parts.text[prompt] for prompt in parts.text}
    bundle = Bundle(config.model, parts.backbone, dict(head), text, notes)
    if config.validations:
        notes["cosine_threshold"], _ = tune_threshold(bundle, *open_episodes(config.validations[0]))
    return bundle


def _data_set(source: SourceConfig) -> str:
    """As `Benchmark.pictures` names it; one whose test classes were left out is another."""
    name = source.name.split("_")[0]
    fold = source.without_fold
    return name if fold is None else f"{name} without the classes of fold {fold}"
