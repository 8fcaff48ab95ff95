"""Run a complete training: pretrain the backbone if asked to, read everything, train, write the model file.

The loop knows no data set and no weight format by name: a new kind of weights is added in `build`, a new
source in data/training_sources.py.
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import logging

from segic_jax.config import (
    EMPTY_PROMPT,
    INSTANCE_PROMPT,
    Config,
    Hosts,
    SourceConfig,
    class_prompt,
    to_dict,
)
from segic_jax.data.pairs import PairSource
from segic_jax.data.training_sources import open_mixture, training_domain
from segic_jax.errors import ConfigError, InputError, TrainingError
from segic_jax.evaluate.calibration import tune_threshold
from segic_jax.runtime import distributed
from segic_jax.runtime.compile_cache import use_compile_cache
from segic_jax.train.loop import Parts, train
from segic_jax.train.pretrain import pretrained
from segic_jax.train.validation import BenchmarkValidation, open_episodes
from segic_jax.weights.bundle import Bundle, load_bundle, save_bundle
from segic_jax.weights.convert import read_frozen
from segic_jax.weights.fetch import find
from segic_jax.weights.text import TextTower, encode_prompts

MODEL = "model.safetensors"  # of the work directory


def run(config: Config, workdir: Path, hosts: Hosts | None = None) -> int:
    """Start or continue a training; the finished model is `workdir/model.safetensors`.

    Returns:
        The exit code: 0, 2 for wrong input, 1 where the training failed; the reason goes to stderr.
    """
    logging.set_verbosity(logging.ERROR)  # orbax warns at every save without a score
    try:
        existing = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise ConfigError(
                f"{workdir} cannot be a work directory: {existing} is a file; give another folder."
            )
        distributed.initialize(hosts)
        use_compile_cache()
        if config.pretrain:
            _open_data(config)
            backbone = pretrained(config.pretrain, config.model, workdir)
            if backbone is None:
                return 0
            config = dataclasses.replace(config, backbone=str(backbone))
        parts = build(config)
        outcome = train(config, workdir, parts)
        if outcome.finished and distributed.is_main_host():
            # A repeated command leaves the file alone: a calibration may have been saved in it.
            if outcome.trained or not (workdir / MODEL).exists():
                save_bundle(workdir / MODEL, finished_bundle(config, parts, outcome.head))
            print(f"{workdir / MODEL}: the finished model", flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except TrainingError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def build(config: Config) -> Parts:
    """Read everything that `config` names: data, frozen weights, text features, validation.

    Raises:
        InputError: a file is missing, damaged or does not fit the configuration.
    """
    if not config.backbone:
        raise ConfigError("The configuration names no backbone: give its weights with --backbone.")
    frozen = read_frozen(find(config.backbone), config.model.backbone)
    source = open_mixture(config.sources, config.model.canvas)
    start = load_bundle(find(config.start)) if config.start else None
    # No weight of the head depends on the canvas: a training may go on on a larger one.
    if start is not None and dataclasses.replace(start.config, canvas=config.model.canvas) != config.model:
        raise ConfigError(
            f"{config.start} has another model configuration than `model`: start from a model of the same "
            "sizes, or change `model`. Only the canvas may differ."
        )
    tower = frozen.tower or (start.tower if start else None)
    text = text_features(config, source, tower, start.text if start else {})
    return Parts(
        source=source,
        backbone=frozen.backbone,
        text=text,
        head=start.head if start else None,
        validation=BenchmarkValidation(config, frozen.backbone, text) if config.validations else None,
    )


def _open_data(config: Config) -> None:
    """Open sources and validations, so that a wrong name or folder is reported before a long pretraining."""
    open_mixture(config.sources, config.model.canvas)
    for validation in config.validations:
        open_episodes(validation)


def text_features(
    config: Config, source: PairSource, tower: TextTower | None, stored: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the feature of every prompt that the training can use, those of negative prompts included.

    Without a text tower the prompts of classes and the empty one are zeros, and that of instances is a
    constant, so that a head can distinguish the two tasks.

    Args:
        stored: features that are already encoded.

    Raises:
        ConfigError: the text tower's width is not `model.text_width`, or `data.text_keep` without one.
        TextError: the tower's tokenizer does not belong to it.
    """
    width = config.model.text_width
    prompts = [EMPTY_PROMPT, INSTANCE_PROMPT, *(class_prompt(name) for name in source.class_names)]
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in stored]
    if tower is not None:
        if tower.config.width != width:
            raise ConfigError(
                f"The text tower of {config.backbone} has width {tower.config.width}, but model.text_width "
                f"is {width}: set it to that, or use other weights."
            )
        encoded = encode_prompts(tower, missing) if missing else {}
    elif config.data.text_keep and any(prompt not in (EMPTY_PROMPT, INSTANCE_PROMPT) for prompt in missing):
        raise ConfigError(
            f"data.text_keep is {config.data.text_keep}, but {config.backbone} holds no text tower: join it "
            "with CLIP's by `segic convert`, or set data.text_keep to 0."
        )
    else:
        constant = np.full(width, width**-0.5, np.float32)
        encoded = {prompt: constant * (prompt == INSTANCE_PROMPT) for prompt in missing}
    features = {**encoded, **stored}
    return {prompt: features[prompt] for prompt in prompts}


def finished_bundle(config: Config, parts: Parts, head: Mapping[str, np.ndarray]) -> Bundle:
    """Return the content of the model file; its notes hold the configuration and the similarity threshold.

    The threshold, which evaluation needs for a baseline, is tuned on the first validation.
    """
    notes = to_dict(config)
    folders = [*notes["sources"], *notes["validations"]]
    for entry, field in [(notes, "backbone"), (notes, "start"), *((folder, "root") for folder in folders)]:
        entry[field] = Path(entry[field]).name  # a path means nothing elsewhere
    notes["trained_on"] = sorted({_data_set(source) for source in config.sources})
    if domain := training_domain(config.sources):
        notes["domain"] = domain
    bundle = Bundle(config.model, parts.backbone, dict(head), dict(parts.text), notes)
    if config.validations:
        notes["cosine_threshold"], _ = tune_threshold(bundle, open_episodes(config.validations[0]))
    return bundle


def _data_set(source: SourceConfig) -> str:
    """Return the name by which a benchmark knows its data; without some classes it is another set."""
    name = source.name.split("_")[0]
    fold = source.without_fold
    return name if fold is None else f"{name} without the classes of fold {fold}"
