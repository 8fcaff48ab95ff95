"""Check that imports run one way: between rooms by the table below, between modules without a cycle.

Every import counts, also those inside functions and under TYPE_CHECKING.
"""

import ast
from graphlib import CycleError, TopologicalSorter
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
ALLOWED["server"] = ALLOWED["app"] | {"__init__"}
ALLOWED["export"] = set(ALLOWED) - {"evaluate", "train", "parity", "app", "server"}
ALLOWED["commands"] = set(ALLOWED) | {"__init__"}
ALLOWED["__main__"] = {"commands"}
ALLOWED["__init__"] = {"errors", "inference"}
# Top-level names that no module of a room ("" for all rooms) may import.
FORBIDDEN = {
    # What is not in the wheel, and the frameworks that only comparisons use.
    "": {"benchmarks", "configs", "studies", "tests", "tools", "tensorflow", "torch", "torchvision"},
    "config": {"jax", "flax", "optax", "numpy"},
    # Worker processes run the data code; one that touches jax would take the accelerator.
    "data": {"jax", "jaxlib", "flax", "optax", "orbax"},
}


def room(path: Path) -> str:
    """Return the room of a file: "models" for segic_jax/models/vit.py."""
    return path.relative_to(ROOT / "segic_jax").with_suffix("").parts[0]


def module_name(path: Path) -> str:
    """Return the dotted name of a file: "segic_jax.models.vit"."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_names(path: Path) -> set[str]:
    """Return the dotted names of everything a file imports, at any depth, relative ones resolved.

    `from a import b` gives "a.b", whether b is a module or something inside of a.
    """
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*start, *([node.module] if node.module else ())))
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def violations(path: Path) -> list[str]:
    """Return what a file imports and must not."""
    here, problems = room(path), []
    for name in imported_names(path):
        top, _, rest = name.partition(".")
        if top == "segic_jax" and rest not in ("", "__version__"):
            used = rest.partition(".")[0]
            used = used if used in ALLOWED else "__init__"
            if used != here and used not in ALLOWED[here]:
                problems.append(name)
        if top in FORBIDDEN[""] | FORBIDDEN.get(here, set()):
            problems.append(name)
    return sorted(problems)


def import_cycle(paths: list[Path]) -> list[str]:
    """Return the modules of one import cycle, or an empty list where there is none."""
    modules = {module_name(path) for path in paths}
    graph = {}
    for path in paths:
        # "segic_jax.models.vit.ViT" is something inside of the module segic_jax.models.vit.
        names = imported_names(path)
        names = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module_name(path)] = (names & modules) - {module_name(path)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    assert room(path) in ALLOWED, f"{path} belongs to no known room: add it to ALLOWED"
    assert violations(path) == []


def test_no_two_modules_import_each_other():
    assert import_cycle(MODULES) == []


def test_every_room_of_the_table_exists():
    assert {room(path) for path in MODULES} == set(ALLOWED)


def test_the_table_of_rooms_is_acyclic():
    order = list(ALLOWED)
    for name, uses in ALLOWED.items():
        for used in uses - {"__init__"}:
            assert order.index(used) < order.index(name)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a module into an empty package and returns its path."""
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)

    def write(name: str, text: str) -> Path:
        path = tmp_path / "segic_jax" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_a_violation_is_found(write):
    path = write(
        "data/bad.py",
        "import jax.numpy as jnp\nfrom ..models import vit\nfrom .canvas import pad\n"
        "from segic_jax import config, load\ndef f():\n    import torch\n    from studies.kshot import main\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from segic_jax.train.loop import train\n",
    )
    assert violations(path) == [
        "jax.numpy",
        "segic_jax.load",
        "segic_jax.models.vit",
        "segic_jax.train.loop.train",
        "studies.kshot.main",
        "torch",
    ]


def test_a_cycle_is_found(write):
    lower = write("data/lower.py", "from segic_jax.data.upper import Upper\n")
    upper = write("data/upper.py", "def f():\n    from segic_jax.data import lower\n")
    other = write("data/other.py", "from segic_jax.data.lower import Lower\n")
    assert set(import_cycle([lower, upper, other])) == {"segic_jax.data.lower", "segic_jax.data.upper"}
    assert import_cycle([lower, other]) == []
