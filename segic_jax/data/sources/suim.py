"""Read SUIM, seven classes of underwater images (Islam et al., IROS 2020), as INSID3 scores it.

<root>/images/<id>.jpg
<root>/masks/{FV,HD,PF,RI,RO,SR,WR}/<id>.*    128 and above is the class; empty masks are left out

Source: INSID3 datasets/suim.py.
"""

from functools import partial
from pathlib import Path

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.episodes import View
from segic_jax.data.images import ENDINGS, read_grey
from segic_jax.data.layout import find_root, list_files
from segic_jax.data.mask_files import MaskFileSource
from segic_jax.errors import DataError
from segic_jax.runtime.prefetch import prefetch_results

DOWNLOAD = "Kaggle, heyoujue/suim-merged (both splits; INSID3 docs/data.md)"
IMAGES = 1635
THREADS = 4
NAMES = {
    "FV": "fish",
    "HD": "human diver",
    "PF": "aquatic plant",
    "RI": "reef",
    "RO": "robot",
    "SR": "sea floor and rocks",
    "WR": "wreck",
}


def open_source(root: Path | str) -> MaskFileSource:
    """Open SUIM/ or its parent; all masks are read, to leave out the empty ones.

    A class may lack its folder, as two do in the sample of SUIM's repository.

    Raises:
        DataError: all masks are missing, or one cannot be read.
    """
    root = find_root(root, "SUIM", "images", DOWNLOAD)
    endings, image_names = {}, {}
    for folder in NAMES:
        masks = list_files(root / "masks" / folder, "", DOWNLOAD, required=False)
        masks = [mask for mask in masks if Path(mask).suffix.lower() in ENDINGS]
        paths = [root / "masks" / folder / mask for mask in masks]
        non_empty = prefetch_results(_is_non_empty, paths, threads=THREADS, limit=16 * THREADS)
        kept = [mask for mask, keep in zip(masks, non_empty, strict=True) if keep]
        image_names[folder] = [f"{mask.split('.')[0]}.jpg" for mask in kept]
        endings |= {(folder, mask.split(".")[0]): mask for mask in kept}
    if not any(image_names.values()):
        raise DataError(f"{root / 'masks'} holds no mask: get it from {DOWNLOAD}.")
    return MaskFileSource(
        name="suim",
        protocols=("insid3", "original"),
        image_names=image_names,
        names=NAMES,
        paths=partial(_paths, root, endings),
    )


def _is_non_empty(path: Path) -> bool:
    return bool((read_grey(path) >= 128).any())


def _paths(root: Path, masks: dict[tuple[str, str], str], view: View) -> tuple[Path, Path]:
    folder = str(view.class_id)
    stem = Path(view.image_name).stem
    mask = masks.get((folder, stem), f"{stem}.bmp")
    return root / "images" / view.image_name, root / "masks" / folder / mask


def check(root: Path) -> list[CheckLine]:
    """Count the images of each class."""
    try:
        source = open_source(root)
        image_names = list_files(find_root(root, "SUIM", "images", DOWNLOAD) / "images", ".jpg", DOWNLOAD)
    except DataError as error:
        return [CheckLine("SUIM", "missing", problem=str(error))]
    return [
        CheckLine("images", len(image_names), IMAGES),
        *(CheckLine(f"images of {source.names[c]}", len(names)) for c, names in source.image_names.items()),
    ]


BENCHMARK = BenchmarkSpec(
    name="suim",
    title="SUIM, seven classes of underwater images, an episode for each mask (INSID3)",
    kind="episodes",
    protocols=("insid3", "original"),
    layout="SUIM/images/*.jpg\nSUIM/masks/{FV,HD,PF,RI,RO,SR,WR}/*",
    download=DOWNLOAD,
    domain="suim",
    open=open_source,
    check=check,
)
