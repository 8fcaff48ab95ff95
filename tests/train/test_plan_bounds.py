"""The bounds of the official recipes on TPUs and GPUs, as `segic plan --quick` estimates them.

They take many minutes: `pytest -m "compilers and slow"`.
"""

import dataclasses

import pytest
from requirements import require_module

from segic_jax.config import Config
from segic_jax.runtime import topology
from segic_jax.train.experiment import load_config
from segic_jax.train.plan import plan_prediction, plan_training
from segic_jax.train.plan_quick import quick_plans

pytestmark = [pytest.mark.compilers, pytest.mark.slow]


@pytest.fixture
def target(monkeypatch):
    """Return a function that reads a target; what it puts into the environment is undone later."""
    for name, value in topology.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    def start(text: str, package: str) -> topology.Target:
        require_module(package)
        topology.start_compilers()
        return topology.parse_target(text)

    return start


def with_depth(config: Config, depth: int) -> Config:
    backbone = dataclasses.replace(config.model.backbone, depth=depth)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, backbone=backbone))


def test_the_recipe_of_vit_l_fits_on_16_chips_and_is_not_bound_by_memory_traffic(target):
    """A quarter of the memory stays free, and memory traffic takes at most twice the time of compute."""
    chips = target("v5e:4x4", "libtpu")
    (plan,) = quick_plans(load_config("segic_dinov2_l"), lambda config: [plan_training(config, chips)])
    assert plan.memory_left >= 0.25 * plan.target.chip.memory
    assert plan.seconds["memory"] <= 2 * plan.seconds["compute"]


def test_the_recipe_of_vit_g_fits_on_16_chips_with_a_split_backbone(target):
    """With two of the forty layers, which leaves room for twenty times their weights.

    The devices exchange weights and gradients, not the activations, which are larger.
    """
    config = with_depth(load_config("segic_dinov2_g"), 2)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, split_backbone=True))
    plan = plan_training(config, target("v5e:4x4", "libtpu"))
    assert plan.memory_left >= 19 * plan.memory["frozen backbone"]
    assert set(plan.cost.collectives) == {"all-gather", "all-reduce"}
    assert plan.seconds["memory"] <= 2 * plan.seconds["compute"]


@pytest.mark.parametrize(("text", "package"), [("v6e:1x1", "libtpu"), ("h100:1", "jax_cuda12_plugin")])
def test_no_product_of_the_backbone_is_in_float32(target, text, package):
    """ViT-L at 896 pixels with 8 images and one of its layers: every matrix product reads bfloat16."""
    config = with_depth(load_config("segic_dinov2_l"), 1)
    backbone, _ = plan_prediction(config, target(text, package), rows=8)
    least = 2 * 8 * config.model.grid**2 * 12 * config.model.backbone.width**2  # of the layer's four weights
    in_bfloat16 = sum(flops for kind, flops in backbone.products.items() if kind[0] == "bfloat16")
    assert in_bfloat16 >= least
    assert in_bfloat16 == backbone.flops
