"""Test that the experiments of configs/ build at the published sizes, and that mistakes are named."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import pytest

from segic_jax.config import (
    Config,
    DataConfig,
    EfficientNetConfig,
    HeadConfig,
    MBConv,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    TrainConfig,
    ViTConfig,
    model_config_from_dict,
    to_dict,
)
from segic_jax.errors import ConfigError
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.models.params import count
from segic_jax.train.experiment import load_config
from segic_jax.train.optim import trainable_names

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_experiment_builds(path):
    config = load_config(path)
    head = head_template(config.model).shapes
    backbone = backbone_template(config.model.backbone)
    if isinstance(config.model.backbone, ViTConfig):  # tracing a large ViT takes seconds
        assert backbone.shapes["patch_embed/proj/kernel"].shape[-1] == config.model.backbone.width
    else:
        pixels = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
        features = jax.eval_shape(lambda params, x: backbone.bind(params)(x), backbone.shapes, pixels)
        assert features.patches.shape[-1] == config.model.backbone.width
        assert tuple(level.shape[-1] for level in features.fine) == config.model.backbone.fine_widths
    assert head["neck/0/kernel"].shape == (1, 1, config.model.backbone.width, config.model.head.width)
    assert model_config_from_dict(to_dict(config)["model"]) == config.model


def test_an_efficientnet_lists_the_published_blocks():
    """Compare with the names and shapes of the published weights of lite 2, and the sizes of all models."""
    config = EfficientNetConfig(fine_blocks=(6, 3))
    layout = config.layout()
    assert layout[0] == MBConv(32, 16, 3, 1, 1)
    assert layout[15] == MBConv(120, 208, 5, 2, 6)
    assert [block.outputs for block in layout] == 1 * [16] + 3 * [24] + 3 * [48] + 4 * [88] + 4 * [120] + (
        5 * [208] + [352]
    )
    assert (config.stride, config.width, config.fine_widths) == (16, 88 + 120 + 352, (48, 24))
    models = [EfficientNetConfig(lite, blocks=(12,)).layout() for lite in (0, 1, 2, 3, 4)]
    assert [len(blocks) for blocks in models] == [16, 21, 21, 24, 30]
    assert [blocks[-1].outputs for blocks in models] == [320, 320, 352, 384, 448]


def test_a_stored_backbone_has_its_kind():
    model = ModelConfig(EfficientNetConfig(fine_blocks=(6, 3)), canvas=448)
    stored = json.loads(json.dumps(to_dict(model)))
    assert stored["backbone"]["kind"] == "efficientnet"
    assert model_config_from_dict(stored) == model
    with pytest.raises(ConfigError, match="does not fit this version: 'resnet'"):
        model_config_from_dict(stored | {"backbone": {"kind": "resnet"}})


def test_pretraining_needs_a_vit():
    with pytest.raises(ConfigError, match="Only a ViT can be pretrained"):
        Config(backbone="", pretrain=PretrainConfig(), model=ModelConfig(EfficientNetConfig()))


def test_the_large_head_has_the_published_size():
    """Expect 5.38 million parameters; the IoU head and the no-mask embedding get no gradient."""
    shapes = head_template(load_config(CONFIGS / "segic_dinov2_l.py").model).shapes
    assert count(shapes) == pytest.approx(5.38e6, rel=0.01)
    assert count({name: shapes[name] for name in trainable_names(shapes)}) < count(shapes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(canvas=100), "canvas 100 must be a multiple"),
        (lambda: ViTConfig(width=100, num_heads=3), "must be divisible by num_heads"),
        (lambda: ViTConfig(patch_size=0), r"ViTConfig\.patch_size 0 must be an integer"),
        (lambda: EfficientNetConfig(blocks=(9, 21)), r"\(9, 21\): lite 2 has blocks 0 to 20"),
        (lambda: EfficientNetConfig(blocks=(6,)), r"stride 16 or 32: those from 7 on in lite 2"),
        (lambda: EfficientNetConfig(fine_blocks=(3, 5)), r"those from 4 and from 1 on in lite 2"),
        (lambda: HeadConfig(num_heads=0), r"HeadConfig\.num_heads 0 must be an integer"),
        (lambda: OptimConfig(learning_rate=float("nan")), r"optim\.learning_rate nan"),
        (lambda: OptimConfig(learning_rate=-1), r"optim\.learning_rate -1"),
        (lambda: OptimConfig(betas=(0.9, 1.0)), r"optim\.betas"),
        (lambda: TrainConfig(seed=-1), r"train\.seed -1"),
        (lambda: DataConfig(colour=(0.1, 0.1, 0.1, 0.9)), r"data\.colour"),
        (lambda: load_config("nowhere.py"), r"nowhere\.py: there is no such configuration file"),
    ],
)
def test_an_invalid_setting_is_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_unknown_efficientnet_is_named(unchecked_types):
    with pytest.raises(ConfigError, match=r"EfficientNetConfig\.lite 5 must be 0, 1, 2, 3 or 4"):
        EfficientNetConfig(lite=5)


def fields(config, prefix="") -> dict[str, object]:
    """Return every setting by its name on the command line."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("sources", "validations"):
            values |= fields(value[0], f"{prefix}{field.name}.N.")
        elif dataclasses.is_dataclass(value) and field.name not in ("backbone", "head"):
            values |= fields(value, f"{prefix}{field.name}.")
        values[prefix + field.name] = value
    return values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"def (", r"c\.py, line 1 cannot be run \(SyntaxError"),
        (b"\x89PNG\0", r"c\.py.* cannot be run \(SyntaxError"),
        (b"\n1 / 0", r"c\.py, line 2 cannot be run \(ZeroDivisionError"),
        (b"import sys\nsys.exit(0)", r"c\.py, line 2 cannot be run \(SystemExit"),
        (b"get_config = 5", "has no function get_config"),
        (b"def get_config():\n    return 5", "returned int"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, content, message):
    (tmp_path / "c.py").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "c.py")


def test_the_documentation_has_every_field_with_its_default():
    text = (ROOT / "docs/training.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|", text, re.MULTILINE))
    defaults = fields(dataclasses.replace(Config(backbone=""), pretrain=PretrainConfig()))
    assert rows.keys() >= defaults.keys()
    assert not {name for name in rows if "." in name and name not in defaults}
    for name, value in defaults.items():
        if isinstance(value, int | float | str | bool | tuple) and "." in name and rows[name] != "required":
            documented = eval(rows[name])  # a literal of this repository
            assert documented == value, name
