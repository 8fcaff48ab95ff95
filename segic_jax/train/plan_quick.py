"""Estimate the plan of a deep backbone by compiling it with one layer and with two.

All layers of a backbone are equal, so each further one adds what the second adds to the first.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from segic_jax.config import Config, DinoV3Config, ViTConfig
from segic_jax.errors import ConfigError
from segic_jax.runtime.hlo_cost import Cost
from segic_jax.train.plan import Plan, traffic_parts


def quick_plans(config: Config, compile_plans: Callable[[Config], Sequence[Plan]]) -> list[Plan]:
    """Return estimates of the plans of a configuration, without compiling the whole backbone.

    Args:
        compile_plans: returns the plans of a configuration, always the same programs.

    Raises:
        ConfigError: the backbone is not a stack of equal layers.
    """
    backbone = config.model.backbone
    if not isinstance(backbone, ViTConfig | DinoV3Config):
        raise ConfigError("--quick needs a ViT, whose layers are equal: plan other backbones without it.")
    if backbone.depth <= 2:
        return list(compile_plans(config))
    one, two = (
        compile_plans(replace(config, model=replace(config.model, backbone=replace(backbone, depth=depth))))
        for depth in (1, 2)
    )
    return [_extrapolate(*plans, backbone.depth - 1) for plans in zip(one, two, strict=True)]


def _extrapolate(one: Plan, two: Plan, further: int) -> Plan:
    """Add `further` times what the second layer adds; what does not fit with two layers fails as it does."""
    if one.failure or two.failure:
        return one if one.failure else two

    def number(first, second):
        return first + further * max(second - first, 0)

    def table(first: Mapping, second: Mapping) -> Counter:
        names = dict.fromkeys([*first, *second])
        return Counter({name: number(first.get(name, 0), second.get(name, 0)) for name in names})

    cost = Cost(
        bytes=number(one.cost.bytes, two.cost.bytes),
        collectives=table(one.cost.collectives, two.cost.collectives),
        collective_bytes=table(one.cost.collective_bytes, two.cost.collective_bytes),
        sent_bytes=number(one.cost.sent_bytes, two.cost.sent_bytes),
        unknown_loops=one.cost.unknown_loops,
        by_source=table(one.cost.by_source, two.cost.by_source),
    )
    return replace(
        one,
        memory=table(one.memory, two.memory),
        products=table(one.products, two.products),
        cost=cost,
        parts=traffic_parts(cost),
        compile_seconds=one.compile_seconds + two.compile_seconds,
        is_estimate=True,
    )
