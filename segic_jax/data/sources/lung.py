"""Read chest X-rays (Shenzhen and Montgomery sets) as INSID3 scores them (datasets/lung.py): the lungs.

<root>/CXR_png/<name>.png    800 images
<root>/masks/<name>_mask.png, and <name>.png for those of Montgomery (MCUCXR...)    704 masks
"""

from functools import partial
from pathlib import Path

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.episodes import View
from segic_jax.data.layout import find_root, list_files
from segic_jax.data.mask_files import MaskFileSource
from segic_jax.errors import DataError

DOWNLOAD = "Kaggle, nikhilpandey360/chest-xray-masks-and-labels"


def open_source(root: Path | str) -> MaskFileSource:
    """Open LungSegmentation/ or its parent. Raises DataError if a folder is missing or empty."""
    root = find_root(root, "LungSegmentation", "CXR_png", DOWNLOAD)
    # Sorted by mask, which is not the order of the images.
    left_out: list[str] = []
    masks = list_files(root / "masks", ".png", DOWNLOAD, left_out=left_out)
    image_names = [_image(name) for name in masks]
    return MaskFileSource(
        name="lung",
        protocols=("insid3", "original"),
        image_names={0: image_names},
        names={0: "lung"},
        paths=partial(_paths, root),
        episodes=600,
        left_out=left_out,
    )


def _image(mask: str) -> str:
    return mask if "MCUCXR" in mask else mask.removesuffix("_mask.png") + ".png"


def _paths(root: Path, view: View) -> tuple[Path, Path]:
    stem = Path(view.image_name).stem
    mask = view.image_name if "MCUCXR" in view.image_name else f"{stem}_mask.png"
    return root / "CXR_png" / view.image_name, root / "masks" / mask


def check(root: Path) -> list[CheckLine]:
    """Count images and masks."""
    try:
        source = open_source(root)
        images = len(
            list_files(find_root(root, "LungSegmentation", "CXR_png", DOWNLOAD) / "CXR_png", ".png", DOWNLOAD)
        )
    except DataError as error:
        return [CheckLine("chest X-rays", "missing", problem=str(error))]
    return [CheckLine("images", images, 800), CheckLine("masks", len(source.image_names[0]), 704)]


BENCHMARK = BenchmarkSpec(
    name="lung",
    title="chest X-rays, the lungs, 600 episodes (INSID3)",
    kind="episodes",
    protocols=("insid3", "original"),
    layout="LungSegmentation/CXR_png/*.png\nLungSegmentation/masks/*.png",
    download=DOWNLOAD,
    domain="lung",
    open=open_source,
    check=check,
)
