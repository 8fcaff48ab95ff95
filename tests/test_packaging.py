"""Check that what the project declares about itself is what its code needs."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import segic_jax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# The rooms of the package that may import what an extra brings; each says so where it is missing.
OPTIONAL = {
    "app": {"fastapi", "gradio", "starlette", "uvicorn"},
    "data": {"pillow-heif"},
    "export": {"jax2onnx", "onnx"},
    "inference": {"onnx", "onnxruntime"},
    "runtime": {"tensorboardx"},
    "server": {"fastapi", "prometheus-client", "pydantic", "starlette", "uvicorn"},
}
# Import names whose distribution is called otherwise.
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "absl": "absl-py",
    "orbax": "orbax-checkpoint",
    "yaml": "pyyaml",
}


def canonical(name: str) -> str:
    """Return a distribution's name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    """Return the distributions that a list of requirements names."""
    return {canonical(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def third_party_imports(path: Path) -> set[str]:
    """Return the distributions that a file imports at any depth, the standard library left out."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    names -= {*sys.stdlib_module_names, "segic_jax"}
    return {canonical(DISTRIBUTIONS.get(name, name)) for name in names}


@pytest.mark.parametrize("path", sorted((ROOT / "segic_jax").rglob("*.py")), ids=lambda path: path.stem)
def test_imported_packages_are_declared(path):
    room = path.relative_to(ROOT / "segic_jax").parts[0]
    allowed = declared(PROJECT["dependencies"]) | OPTIONAL.get(room, set())
    assert third_party_imports(path) <= allowed


def test_extras_declare_what_is_optional():
    assert declared(EXTRAS["app"]) == OPTIONAL["app"]
    assert declared(EXTRAS["onnxruntime"]) == OPTIONAL["inference"]
    # onnx and onnxruntime, which runs the files, come with the extra that this project includes in it.
    assert declared(EXTRAS["export"]) == OPTIONAL["export"] - {"onnx"} | {"segic-jax"}
    assert declared(EXTRAS["serve"]) == OPTIONAL["server"] | {
        "python-multipart"
    }  # with which starlette reads forms
    assert declared(EXTRAS["tensorboard"]) == OPTIONAL["runtime"]
    assert declared(EXTRAS["heic"]) == OPTIONAL["data"]


def test_every_dependency_is_imported():
    imported = set().union(*(third_party_imports(path) for path in (ROOT / "segic_jax").rglob("*.py")))
    assert declared(PROJECT["dependencies"]) <= imported


def test_type_checkers_see_the_public_names():
    tree = ast.parse((ROOT / "segic_jax/__init__.py").read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names if "segic_jax" in node.module}
    assert seen == {name: f"segic_jax.{module}" for name, module in segic_jax._MODULES.items()}
    assert sorted(seen) == segic_jax.__all__
    assert all(hasattr(segic_jax, name) for name in segic_jax.__all__)


def test_the_version_is_in_one_place():
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
    assert metadata.version("segic_jax") == segic_jax.__version__
