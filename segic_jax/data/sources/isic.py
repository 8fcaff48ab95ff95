"""Read ISIC 2018 skin lesions, task 1, as INSID3 scores them (datasets/isic.py): three kinds of lesion.

<root>/ISIC2018_Task1-2_Training_Input/{1,2,3}/<id>.jpg      sorted by DR-Adapter's ISIC_Split.py
<root>/ISIC2018_Task1_Training_GroundTruth/<id>_segmentation.png
"""

from functools import partial
from pathlib import Path

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.episodes import View
from segic_jax.data.layout import find_root, list_files
from segic_jax.data.mask_files import MaskFileSource
from segic_jax.errors import DataError

INPUT, TRUTH = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"
DOWNLOAD = (
    "https://challenge.isic-archive.com/data/ (2018), sorted into 1, 2, 3 by DR-Adapter's ISIC_Split.py"
)
COUNTS = (208, 1867, 519)


def open_source(root: Path | str) -> MaskFileSource:
    """Open ISIC/ or its parent. Raises DataError if there is no image."""
    root = find_root(root, "ISIC", INPUT, DOWNLOAD)
    left_out: list[str] = []
    image_names = {
        number: [
            f"{number + 1}/{name}"
            for name in list_files(
                root / INPUT / str(number + 1), ".jpg", DOWNLOAD, required=False, left_out=left_out
            )
        ]
        for number in range(3)
    }
    if not any(image_names.values()):
        raise DataError(f"{root / INPUT} holds no image in 1, 2 or 3: get them from {DOWNLOAD}.")
    return MaskFileSource(
        name="isic",
        protocols=("insid3", "original"),
        image_names=image_names,
        names=dict.fromkeys(range(3), "skin lesion"),  # the files do not name the kinds
        paths=partial(_paths, root),
        episodes=600,
        left_out=left_out,
    )


def _paths(root: Path, view: View) -> tuple[Path, Path]:
    return root / INPUT / view.image_name, root / TRUTH / f"{Path(view.image_name).stem}_segmentation.png"


def check(root: Path) -> list[CheckLine]:
    """Count the images of each kind."""
    try:
        source = open_source(root)
    except DataError as error:
        return [CheckLine("ISIC 2018", "missing", problem=str(error))]
    return [CheckLine(f"images in {i + 1}/", len(source.image_names[i]), COUNTS[i]) for i in range(3)]


BENCHMARK = BenchmarkSpec(
    name="isic",
    title="ISIC 2018, three kinds of skin lesion, 600 episodes (INSID3)",
    kind="episodes",
    protocols=("insid3", "original"),
    layout=f"ISIC/{INPUT}/{{1,2,3}}/*.jpg\nISIC/{TRUTH}/*_segmentation.png",
    download=DOWNLOAD,
    domain="isic",
    open=open_source,
    check=check,
)
