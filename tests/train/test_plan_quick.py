"""The estimate of a deep backbone from one and two layers of it."""

from collections import Counter
from dataclasses import replace

import pytest
import tiny

from segic_jax.config import Config
from segic_jax.errors import ConfigError
from segic_jax.runtime.hlo_cost import Cost, Source
from segic_jax.runtime.topology import parse_target
from segic_jax.train.plan import Plan
from segic_jax.train.plan_quick import quick_plans

CONFIG = Config(backbone="b", model=tiny.CONFIG)
LAYER = Source(("models/vit.py",), is_backward=False)


def with_depth(depth: int) -> Config:
    backbone = replace(tiny.CONFIG.backbone, depth=depth)
    return replace(CONFIG, model=replace(tiny.CONFIG, backbone=backbone))


def linear(config: Config) -> list[Plan]:
    """Return a plan of which every figure grows with the depth, as those of equal layers do."""
    depth = config.model.backbone.depth
    return [
        Plan(
            program="training step",
            target=parse_target("v5e:2x2"),
            devices=4,
            rows=8,
            unit="pairs",
            memory={"backbone": 10 * depth, "head": 7, "temporaries": 100 - depth},
            products=Counter({("bfloat16", "DEFAULT"): 5 + 3 * depth}),
            cost=Cost(
                bytes=20 + 4.0 * depth,
                collectives=Counter({"all-gather": 6 * depth, "all-reduce": 1}),
                collective_bytes=Counter({"all-gather": 60 * depth, "all-reduce": 9}),
                sent_bytes=2.0 * depth,
                unknown_loops=2,
                by_source=Counter({LAYER: 4.0 * depth, Source(("train/losses.py",), is_backward=True): 20.0}),
            ),
            parts={},
            compile_seconds=1.0,
        )
    ]


def test_figures_that_grow_with_the_depth_are_extrapolated_exactly():
    (estimate,) = quick_plans(with_depth(12), linear)
    (whole,) = linear(with_depth(12))
    assert estimate.cost == whole.cost
    assert estimate.products == whole.products
    assert estimate.memory == whole.memory | {"temporaries": 99}  # what shrinks is not counted on
    assert estimate.parts == {"backbone": 48.0, "losses, gradient": 20.0}
    assert estimate.is_estimate
    assert not quick_plans(with_depth(2), linear)[0].is_estimate  # compiled whole


def test_what_does_not_fit_with_two_layers_does_not_fit():
    def compile_plans(config):
        failure = "out of memory" if config.model.backbone.depth == 2 else ""
        return [replace(linear(config)[0], failure=failure)]

    assert quick_plans(with_depth(12), compile_plans)[0].failure == "out of memory"


def test_a_backbone_of_different_layers_is_refused():
    with pytest.raises(ConfigError, match="--quick needs a ViT"):
        quick_plans(replace(CONFIG, model=tiny.EXTENDED), linear)
