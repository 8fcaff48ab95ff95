"""Imports run one way: a part may use only the parts listed for it, and never the libraries listed."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "segic_jax").rglob("*.py"))
# Each room and the rooms that it may import, the lowest first.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors"},
    "runtime": {"errors", "config"},
    "models": {"errors", "config"},
    "weights": {"errors", "config", "runtime", "models"},
    "data": {"errors", "config", "runtime"},
}
ALLOWED["inference"] = set(ALLOWED)
ALLOWED["evaluate"] = set(ALLOWED)
ALLOWED["train"] = set(ALLOWED)
ALLOWED["parity"] = set(ALLOWED)
ALLOWED["app"] = set(ALLOWED) - {"evaluate", "train", "parity"}
ALLOWED["commands"] = set(ALLOWED) | {"__init__"}
ALLOWED["__main__"] = {"errors", "runtime", "commands"}
ALLOWED["__init__"] = {"errors", "inference"}
FORBIDDEN = {
    "": {"torch", "torchvision", "tensorflow"},
    "config": {"jax", "flax", "optax", "numpy"},
    # Worker processes run the data code; one that touches jax would take the accelerator.
    "data": {"jax", "jaxlib", "flax", "optax", "orbax"},
}


def part(path: Path) -> str:
    """segic_jax/models/vit.py -> models."""
    return path.relative_to(ROOT / "segic_jax").with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Dotted names of everything a file imports, at any depth, relative ones resolved."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*start, *([node.module] if node.module else ())))
            # `from segic_jax import x` may name a module or something of the package itself.
            names |= {f"{module}.{alias.name}" if module == "segic_jax" else module for alias in node.names}
    return names


def violations(path: Path) -> list[str]:
    """What a file imports and must not."""
    here, problems = part(path), []
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "segic_jax" and rest not in ("", "__version__"):
            used = rest.partition(".")[0]
            used = used if used in ALLOWED else "__init__"
            if used != here and used not in ALLOWED[here]:
                problems.append(name)
        if top in FORBIDDEN[""] | FORBIDDEN.get(here, set()):
            problems.append(name)
    return sorted(problems)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    assert part(path) in ALLOWED, f"{path} belongs to no known part: add it to ALLOWED"
    assert violations(path) == []


def test_the_rule_is_acyclic():
    order = list(ALLOWED)
    for name, uses in ALLOWED.items():
        for used in uses - {"__init__"}:
            assert order.index(used) < order.index(name)


def test_a_violation_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "segic_jax/data/bad.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import jax.numpy as jnp\nfrom ..models import vit\nfrom .preprocess import pad\n"
        "from segic_jax import config, load\ndef f():\n    import torch\n"
    )
    assert violations(path) == ["jax.numpy", "segic_jax.load", "segic_jax.models", "torch"]
