"""Find folders of the project that lie beside the package in a checkout and inside it once installed."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def project_folder(name: str, package: Path = _PACKAGE) -> Path:
    """Return a folder of the project such as "configs": inside an installed package, beside it in a checkout.

    A folder of that name beside an installed package belongs to some other package.
    """
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
