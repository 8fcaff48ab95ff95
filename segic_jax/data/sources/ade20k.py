"""Read ADE20K with the 150 classes of the MIT scene parsing challenge.

ade20k/images/{training,validation}/<id>.jpg           the folder may have the archive's name
ade20k/annotations/{training,validation}/<id>.png     8 bits: 0 is no class and ignored, 1..150 are classes

The official code numbers the classes 1..150 too and leaves 0 out (utils/fss.py, `SemADE`, with "none" before
the names). Names are those that official SegIC gives to the text tower: the first words of the challenge's
objectInfo150.txt, but "television receiver".
"""

from pathlib import Path

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.layout import find_folder
from segic_jax.data.semantic import Folders, LabelMaps, class_names

DOWNLOAD = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"


def open_source(root: Path | None) -> LabelMaps:
    """Open ADE20K. Raises DataError if there is no ade20k/annotations below `root`."""
    root = Path(root or ".")
    inner = "ADEChallengeData2016" if (root / "ADEChallengeData2016").is_dir() else "ade20k"
    folder = find_folder(root, inner, "annotations")
    return LabelMaps(
        name="ade20k",
        classes=class_names("ade20k"),
        folders={
            "train": Folders(folder / "images/training", folder / "annotations/training"),
            "val": Folders(folder / "images/validation", folder / "annotations/validation"),
        },
        ending=".png",
        first=1,
        ignored=0,
        download=DOWNLOAD,
    )


def check(root: Path) -> list[CheckLine]:
    """Check both splits."""
    return open_source(root).check({"train": 20210, "val": 2000})


BENCHMARK = BenchmarkSpec(
    name="ade20k",
    title="ADE20K (Zhou et al., CVPR 2017): 150 classes, semantic segmentation",
    kind="semseg",
    protocols=("semseg",),
    layout=(
        "ade20k/images/{training,validation}/*.jpg\n"
        "ade20k/annotations/{training,validation}/*.png   0 is no class, 1..150"
    ),
    download=DOWNLOAD,
    domain="ade20k",
    open=open_source,
    check=check,
)
