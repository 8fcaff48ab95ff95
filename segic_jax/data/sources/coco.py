"""Read COCO val2017 as a semantic benchmark, as the command in official SegIC's README does.

<root>/val2017/*.jpg
<root>/annotations/instances_val2017.json

Every image is a target once, with one of its classes; all 80 classes, one fold (utils/fss.py, `SemCOCO`).
This is not COCO-20i.
"""

from collections.abc import Iterator
from pathlib import Path

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.coco_json import CocoJson
from segic_jax.data.episodes import ClassId, LabelledImage, Manifest, View
from segic_jax.data.images import read_rgb, require_size
from segic_jax.data.sampler import GPUS, semcoco_episodes
from segic_jax.errors import DataError

DOWNLOAD = "https://cocodataset.org/#download (2017 val images and train/val annotations)"


class CocoSource:
    """Give COCO's episodes.

    Class ids are COCO's (1 to 90, with gaps); the mask of a class is the union of its objects.
    """

    name = "coco"

    def __init__(self, root: Path | str):
        """Open coco/ or its parent.

        Raises:
            DataError: the images' folder or the annotations are missing or damaged.
        """
        root = Path(root)
        self.root = root / "coco" if (root / "coco").is_dir() else root
        if not (self.root / "val2017").is_dir():
            raise DataError(f"{self.root / 'val2017'} is missing: unpack COCO's images there ({DOWNLOAD}).")
        self.coco = CocoJson(self.root / "annotations/instances_val2017.json")
        self._ids = {name: image for image, name in self.coco.images.items()}

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Draw the episodes.

        Raises:
            DataError: the protocol is not SegIC's, the fold is not 0, or there are several shots.
        """
        if protocol not in BENCHMARK.protocols or fold != 0 or shots != 1:
            raise DataError(
                f"{self.name} supports the protocols {', '.join(BENCHMARK.protocols)} with fold 0 and 1 shot."
            )
        episodes = semcoco_episodes(self.coco, protocol, fold=None)
        if not episodes:
            raise DataError(f"{self.coco.path} has no class on two images: get it from {DOWNLOAD}.")
        return Manifest(self.name, protocol, fold, shots, tuple(self.coco.categories), tuple(episodes))

    def class_name(self, class_id: ClassId) -> str:
        """Return COCO's name of a class."""
        if class_id not in self.coco.categories:
            raise DataError(f"{self.name} has no class {class_id!r}: its file numbers them from 1 to 90.")
        return self.coco.categories[int(class_id)]

    def views(self) -> Iterator[View]:
        """Yield every class of every image."""
        for image, classes in sorted(self.coco.classes_of_images().items()):
            for class_id in sorted(classes):
                yield View(self.coco.images[image], class_id)

    def paths(self, view: View) -> tuple[Path, ...]:
        """Return the path of the image."""
        return (self.root / "val2017" / view.image_name,)

    def load(self, view: View) -> LabelledImage:
        """Read the image and the mask of all objects of the class."""
        if view.image_name not in self._ids:
            raise DataError(f"{self.coco.path} has no image {view.image_name}: list the episodes again.")
        self.class_name(view.class_id)
        (path,) = self.paths(view)
        image = read_rgb(path)
        mask = self.coco.mask(self._ids[view.image_name], int(view.class_id))
        require_size(image, mask, path, self.coco.path)
        return LabelledImage(image, mask)


def check(root: Path) -> list[CheckLine]:
    """Count classes, annotated images, and images on disk."""
    try:
        source = CocoSource(root)
    except DataError as error:
        return [CheckLine("COCO val2017", "missing", problem=str(error))]
    image_names = {view.image_name for view in source.views()}
    on_disk = sum((source.root / "val2017" / image_name).is_file() for image_name in image_names)
    gone = f"some are missing from {source.root / 'val2017'}: unpack them again."
    return [
        CheckLine("classes", len(source.coco.categories), 80),
        CheckLine("annotated images", len(image_names), 4952),
        CheckLine("of them on disk", on_disk, len(image_names), "" if on_disk == len(image_names) else gone),
    ]


BENCHMARK = BenchmarkSpec(
    name="coco",
    title="COCO val2017, one class of each image: official SegIC's README command",
    kind="episodes",
    protocols=("segic", "segic-leak", *GPUS),
    layout="coco/val2017/*.jpg\ncoco/annotations/instances_val2017.json",
    download=DOWNLOAD,
    domain="coco",
    open=CocoSource,
    check=check,
    shots=(1,),
)
