"""Test that `segic doctor` reports what works and what does not."""

import numpy as np
from tiny import CONFIG

from segic_jax.commands import doctor


def test_every_failure_is_reported_as_a_line(monkeypatch, segic, capsys):
    monkeypatch.setattr(doctor, "_product_rate", lambda side: 1e9)
    assert segic("doctor") == 0
    assert "cannot be found out" not in capsys.readouterr().out

    def fail(*_):
        raise RuntimeError("no\nway")

    sections = (
        "versions",
        "processor",
        "memory",
        "devices",
        "weights",
        "programs",
        "disk",
        "speed",
        "advice",
    )
    for name in sections:
        monkeypatch.setattr(doctor, name if name == "processor" else f"_{name}", fail)
    assert segic("doctor") == 0
    assert capsys.readouterr().out.count("cannot be found out: RuntimeError: no way\n") == len(sections)


def test_flops_include_all_products_of_the_backbone():
    """Count 2 * patches * weights operations for each linear layer of the backbone."""
    from segic_jax.models.backbones import backbone_template

    shapes = backbone_template(CONFIG.backbone).shapes
    weights = sum(np.prod(s.shape) for name, s in shapes.items() if "blocks" in name and len(s.shape) == 2)
    assert doctor._flops(CONFIG) > 2 * CONFIG.grid**2 * weights
