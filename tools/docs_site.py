"""MkDocs hook that adds an API page for every module of the package.

`mkdocs.yml` names it. The pages exist only while the site is built. Each one holds a single mkdocstrings
directive; the text comes from the docstrings.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = "segic_jax"
NOT_AN_API = ("app", "commands")  # the web page and the command line have pages of their own


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the modules to the navigation below "API", one group for each subpackage."""
    groups: dict[str, list[dict[str, str]]] = {}
    for module in modules():
        room, _, name = module.removeprefix(f"{PACKAGE}.").rpartition(".")
        groups.setdefault(room.replace(".", "/") or "top level", []).append({name: page_path(module)})
    assert config.nav
    api = next(entry["API"] for entry in config.nav if "API" in entry)
    api.extend({room: pages} for room, pages in groups.items())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated page of each module."""
    for module in modules():
        content = f"# {module}\n\n::: {module}\n    options:\n      show_root_heading: false\n"
        files.append(File.generated(config, page_path(module), content=content))
    return files


def modules() -> list[str]:
    """Return the dotted names of the modules that others import."""
    paths = sorted((ROOT / PACKAGE).rglob("*.py"), key=lambda path: (path.parent, path.name))
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in paths if not path.name.startswith("_")]
    return [".".join(names) for names in parts if names[1] not in NOT_AN_API]


def page_path(module: str) -> str:
    """Return the path of a module's page below docs/."""
    return f"api/{module.removeprefix(f'{PACKAGE}.').replace('.', '/')}.md"
