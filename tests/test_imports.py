"""Imports run one way: a part may use only the parts listed for it, and never the libraries listed."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "segic_jax").rglob("*.py"))
BASE = {"config", "params", "prompts", "progress"}
JOINED = BASE | {"models", "weights", "data", "distributed", "checkpoint", "metric_writer", "flops"}
JOINED |= {"compile_cache", "entry"}
API = {
    "finding",
    "programs",
    "drawing",
    "presence",
    "example",
    "context",
    "result",
    "explain",
    "fitting",
    "ahead",
}
ALLOWED = {
    "config": set(),
    "entry": {"config"},
    "whole": {"config"},
    "png": set(),
    "prompts": set(),
    "progress": set(),
    "params": {"config"},
    "models": BASE,
    "weights": BASE | {"models", "whole"},
    "data": {"config", "prompts", "progress", "entry", "whole"},
    "distributed": BASE,
    "checkpoint": BASE | {"distributed"},
    "metric_writer": BASE,
    "flops": set(),
    "compile_cache": {"config"},
    "finding": BASE | {"models"},
    "programs": BASE | {"models", "finding"},
    "drawing": set(),
    "presence": {"config", "data", "finding"},
    "example": BASE | {"data"},
    "context": JOINED | {"finding", "whole"},
    "fitting": JOINED | {"programs", "finding", "example", "context"},
    "ahead": set(),
    "result": JOINED | {"drawing", "png", "whole"},
    "explain": JOINED | {"finding", "context"},
    "segmenter": JOINED | API,
    "evaluate": JOINED | API | {"segmenter"},
    "following": {"context", "data", "result", "segmenter", "evaluate"},
    "train": JOINED | {"evaluate", "drawing"},
    "ablate": JOINED | {"programs", "train", "ahead"},
    "parity": JOINED | {"programs", "drawing", "evaluate", "train"},
    "doctor": JOINED | {"__init__"},
    "app": {"config", "data", "segmenter"} | API,
    "commands": {"app", "doctor"}
    | JOINED
    | API
    | {"evaluate", "segmenter", "following", "train", "parity", "__init__"},
    "cli": {"config", "entry", "commands"},
    "__main__": {"cli", "entry"},
    "__init__": JOINED | API | {"segmenter"},
}
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
        "import jax.numpy as jnp\nfrom ..models import vit\nfrom .canvas import pad\n"
        "from segic_jax import config, load\ndef f():\n    import torch\n"
    )
    assert violations(path) == ["jax.numpy", "segic_jax.load", "segic_jax.models", "torch"]
