"""SUIM, under water (Islam et al., IROS 2020), as INSID3 scores it (datasets/suim.py): seven classes.

<root>/images/<id>.jpg
<root>/masks/{FV,HD,PF,RI,RO,SR,WR}/<id>.*    128 and above is the class; empty ones are left out
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from segic_jax.data.benchmark import BenchmarkSpec, Check
from segic_jax.data.episodes import View
from segic_jax.data.files import ENDINGS, read_grey
from segic_jax.data.listed import ListedSource, files, find_root
from segic_jax.errors import DataError

DOWNLOAD = "Kaggle, heyoujue/suim-merged (both splits; INSID3 docs/data.md)"
IMAGES = 1635
NAMES = {
    "FV": "fish",
    "HD": "human diver",
    "PF": "aquatic plant",
    "RI": "reef",
    "RO": "robot",
    "SR": "sea floor and rocks",
    "WR": "wreck",
}


def open_source(root: Path | str) -> ListedSource:
    """`root` is SUIM/ or its parent; all masks are read, to leave out the empty ones.

    Raises:
        DataError: a folder is missing or empty, or a mask cannot be read.
    """
    root = find_root(root, "SUIM", "images", DOWNLOAD)
    endings, pictures = {}, {}
    with ThreadPoolExecutor(4) as pool:
        for folder in NAMES:
            masks = files(root / "masks" / folder, "", DOWNLOAD)
            masks = [mask for mask in masks if Path(mask).suffix.lower() in ENDINGS]
            seen = pool.map(_shows_something, [root / "masks" / folder / mask for mask in masks])
            kept = [mask for mask, shows in zip(masks, seen, strict=True) if shows]
            pictures[folder] = [f"{mask.split('.')[0]}.jpg" for mask in kept]
            endings |= {(folder, mask.split(".")[0]): mask for mask in kept}
    return ListedSource(
        name="suim",
        protocols=("insid3", "original"),
        pictures=pictures,
        names=NAMES,
        paths=partial(_paths, root, endings),
    )


def _shows_something(path: Path) -> bool:
    return bool((read_grey(path) >= 128).any())


def _paths(root: Path, masks: dict[tuple[str, str], str], view: View) -> tuple[Path, Path]:
    folder = str(view.class_id)
    stem = Path(view.picture).stem
    mask = masks.get((folder, stem), f"{stem}.bmp")
    return root / "images" / view.picture, root / "masks" / folder / mask


def check(root: Path) -> list[Check]:
    """Images that show something of each class."""
    try:
        source = open_source(root)
        pictures = files(find_root(root, "SUIM", "images", DOWNLOAD) / "images", ".jpg", DOWNLOAD)
    except DataError as error:
        return [Check("SUIM", "missing", problem=str(error))]
    return [
        Check("pictures", len(pictures), IMAGES),
        *(Check(f"images of {source.names[c]}", len(names)) for c, names in source.pictures.items()),
    ]


BENCHMARK = BenchmarkSpec(
    name="suim",
    title="SUIM, seven classes under water, an episode for each mask (INSID3)",
    kind="episodes",
    protocols=("insid3", "original"),
    layout="SUIM/images/*.jpg\nSUIM/masks/{FV,HD,PF,RI,RO,SR,WR}/*",
    download=DOWNLOAD,
    pictures="suim",
    open=open_source,
    check=check,
)
