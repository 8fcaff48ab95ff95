"""Read PC-459: all classes of PASCAL Context, as CAT-Seg's script prepares its validation images.

VOCdevkit/VOC2010/JPEGImages/<id>.jpg
VOCdevkit/VOC2010/annotations_detectron2/pc459_val/<id>.tif     16 bits: 0..458; 65535 is ignored

The files count from 0 (the script subtracts 1 from PASCAL Context's LabelMap), and so does the official code
(utils/fss.py, `SemADE` with zero_start True). The script makes the validation split only, so references come
from it (--bank val); a folder pc459_train beside pc459_val is read as the training split. Names are PASCAL
Context's own, written in one word ("airconditioner"), as official SegIC gives them to the text tower.
"""

from pathlib import Path

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.layout import find_folder
from segic_jax.data.semantic import Folders, LabelMaps, class_names

DOWNLOAD = (
    "https://cs.stanford.edu/~roozbeh/pascal-context/ and VOC2010's images, then CAT-Seg's "
    "datasets/prepare_pascal_context_459.py"
)


def open_source(root: Path | None) -> LabelMaps:
    """Open PC-459. Raises DataError if there is no VOCdevkit/VOC2010/annotations_detectron2 below `root`."""
    folder = find_folder(Path(root or "."), "openseg_data/VOCdevkit/VOC2010", "annotations_detectron2")
    images, labels = folder / "JPEGImages", folder / "annotations_detectron2"
    return LabelMaps(
        name="pc459",
        classes=class_names("pc459"),
        folders={
            "train": Folders(images, labels / "pc459_train"),
            "val": Folders(images, labels / "pc459_val"),
        },
        ending=".tif",
        first=0,
        ignored=65535,
        download=DOWNLOAD,
    )


def check(root: Path) -> list[CheckLine]:
    """Check the validation split, as CAT-Seg's pascalcontext_val.txt lists it."""
    return open_source(root).check({"val": 5104})


BENCHMARK = BenchmarkSpec(
    name="pc459",
    title="PC-459 (PASCAL Context, Mottaghi et al., CVPR 2014): 459 classes, semantic segmentation",
    kind="semseg",
    protocols=("semseg",),
    layout=(
        "VOCdevkit/VOC2010/JPEGImages/*.jpg\n"
        "VOCdevkit/VOC2010/annotations_detectron2/pc459_val/*.tif   0..458, 65535 is no class"
    ),
    download=DOWNLOAD,
    domain="pascal",
    open=open_source,
    check=check,
)
