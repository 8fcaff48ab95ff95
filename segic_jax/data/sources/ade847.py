"""Read A-847: all frequent classes of ADE20K's release 2021_17_01, as Mask2Former's script prepares it.

ADE20K_2021_17_01/images_detectron2/{training,validation}/<id>.jpg
ADE20K_2021_17_01/annotations_detectron2/{training,validation}/<id>.tif   16 bits: 0..846; 65535 is ignored

The files count from 0. The official code reads them as if they counted from 1 (utils/fss.py, `SemADE` with
zero_start False): it leaves out class 0, "wall", and gives every other class the name of the previous one.
Here the numbers have the meaning of the files. Names are the first words of the list that open-vocabulary
segmenters use (FC-CLIP, ade20k_847_with_prompt_eng.txt); several classes share one.
"""

from pathlib import Path

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.layout import find_folder
from segic_jax.data.semantic import Folders, LabelMaps, class_names

DOWNLOAD = (
    "https://groups.csail.mit.edu/vision/datasets/ADE20K/ (release 2021_17_01), then Mask2Former's "
    "datasets/prepare_ade20k_full_sem_seg.py"
)


def open_source(root: Path | None) -> LabelMaps:
    """Open A-847. Raises DataError if there is no ADE20K_2021_17_01/annotations_detectron2 below `root`."""
    folder = find_folder(Path(root or "."), "openseg_data/ADE20K_2021_17_01", "annotations_detectron2")
    images, labels = folder / "images_detectron2", folder / "annotations_detectron2"
    return LabelMaps(
        name="ade847",
        classes=class_names("ade847"),
        folders={
            "train": Folders(images / "training", labels / "training"),
            "val": Folders(images / "validation", labels / "validation"),
        },
        ending=".tif",
        first=0,
        ignored=65535,
        download=DOWNLOAD,
    )


def check(root: Path) -> list[CheckLine]:
    """Check both splits."""
    return open_source(root).check({"train": 25574, "val": 2000})


BENCHMARK = BenchmarkSpec(
    name="ade847",
    title="A-847 (ADE20K 2021_17_01, all frequent classes): 847 classes, semantic segmentation",
    kind="semseg",
    protocols=("semseg",),
    layout=(
        "ADE20K_2021_17_01/images_detectron2/{training,validation}/*.jpg\n"
        "ADE20K_2021_17_01/annotations_detectron2/{training,validation}/*.tif   0..846, 65535 is no class"
    ),
    download=DOWNLOAD,
    domain="ade20k",
    open=open_source,
    check=check,
)
