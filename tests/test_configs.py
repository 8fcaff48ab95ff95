"""The experiments of configs/: they build, at the published sizes, without allocating; mistakes are named."""

from pathlib import Path

import pytest

from segic_jax.config import ConfigError, ModelConfig, ViTConfig, load_config, model_config_from_dict, to_dict
from segic_jax.models.segic import backbone_template, head_template
from segic_jax.params import count
from segic_jax.train.optim import trainable_names

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_experiment_builds(path):
    config = load_config(path)
    head = head_template(config.model).shapes
    assert (
        backbone_template(config.model.vit).shapes["patch_embed/proj/kernel"].shape[-1]
        == config.model.vit.width
    )
    assert head["neck/0/kernel"].shape == (1, 1, config.model.vit.width, config.model.head.width)
    assert model_config_from_dict(to_dict(config)["model"]) == config.model


def test_the_large_head_has_the_published_size():
    """5.38 million, of which the IoU head and the no-mask embedding get no gradient."""
    shapes = head_template(load_config(CONFIGS / "segic_dinov2_l.py").model).shapes
    assert count(shapes) == pytest.approx(5.38e6, rel=0.01)
    assert count({name: shapes[name] for name in trainable_names(shapes)}) < count(shapes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(canvas=100), "canvas 100 must be a multiple"),
        (lambda: ViTConfig(width=100, num_heads=3), "must be divisible by num_heads"),
        (lambda: load_config("nowhere.py"), r"nowhere\.py: there is no such configuration file"),
    ],
)
def test_a_setting_that_cannot_work_is_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
