"""Read iSAID-5i, aerial images (Yao et al., TGRS 2021), as INSID3 scores it (datasets/isaid.py): 15 classes.

<root>/val/images/<name>.png
<root>/val/semantic_png/<name>_instance_color_RGB.png    class + 1; 255 is ignored
<root>/splits/val/fold{0,1,2}.txt                        lines name__class, the class from 1

Every line is a target once; its references are other lines of its class.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.episodes import ClassId, Episode, LabelledImage, Manifest, View
from segic_jax.data.images import read_labels, read_rgb
from segic_jax.data.layout import find_root, read_words
from segic_jax.data.masks import fit_to_image
from segic_jax.data.sampler import draw_others
from segic_jax.errors import DataError

FOLDS, EACH = 3, 5
DOWNLOAD = (
    "Google Drive 17PQ1iKCbaj2OjwBdCn_VBh09ntI4lxgL (patches) and 1RBmVHXGhEXak2XB4OeCzQj2yswOmuMB2 (splits)"
)
NAMES = (
    "ship",
    "storage tank",
    "baseball diamond",
    "tennis court",
    "basketball court",
    "ground track field",
    "bridge",
    "large vehicle",
    "small vehicle",
    "helicopter",
    "swimming pool",
    "roundabout",
    "soccer ball field",
    "plane",
    "harbor",
)


class IsaidSource:
    """Give the episodes and patches; class ids are 0 to 14, fold f has the classes 5 f to 5 f + 4."""

    name = "isaid"

    def __init__(self, root: Path | str):
        """Open iSAID/ or its parent; the list of a fold is read when it is used.

        Raises:
            DataError: the folder of patches is missing.
        """
        self.root = find_root(root, "iSAID", "val/images", DOWNLOAD)

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Take every line of a fold as a target.

        Raises:
            DataError: the list is missing, a line of it is not name__class, or a class has only one image.
        """
        if protocol not in BENCHMARK.protocols or fold not in range(FOLDS) or shots < 1:
            raise DataError(
                f"{self.name} supports the protocols {', '.join(BENCHMARK.protocols)} with folds 0 to "
                f"{FOLDS - 1} and at least 1 shot."
            )
        lines = self.lines(fold)
        image_names: dict[int, list[str]] = {}
        for image_name, class_id in lines:
            image_names.setdefault(class_id, []).append(image_name)
        for class_id, names in image_names.items():
            if len(set(names)) < 2:
                raise DataError(
                    f"{self._list(fold)} lists one image of {NAMES[class_id]}; an episode needs two: "
                    f"get it again from {DOWNLOAD}."
                )
        rng = np.random.RandomState(0)
        episodes = []
        for target, class_id in lines:
            references = draw_others(rng, image_names[class_id], target, shots)
            episodes.append(Episode(class_id, target, references))
        classes = tuple(range(EACH * fold, EACH * (fold + 1)))
        return Manifest(self.name, protocol, fold, shots, classes, tuple(episodes))

    def class_name(self, class_id: ClassId) -> str:
        """Return the name of a class."""
        if class_id not in range(len(NAMES)):
            raise DataError(f"{self.name} has the classes 0 to {len(NAMES) - 1}, not {class_id!r}.")
        return NAMES[int(class_id)]

    def views(self) -> Iterator[View]:
        """Yield every class of every listed patch, patch by patch."""
        for image_name, class_id in sorted({line for fold in range(FOLDS) for line in self.lines(fold)}):
            yield View(image_name, class_id)

    def paths(self, view: View) -> tuple[Path, ...]:
        """Return the paths of the patch and its label map."""
        label = f"{view.image_name}_instance_color_RGB.png"
        return self.root / "val/images" / f"{view.image_name}.png", self.root / "val/semantic_png" / label

    def load(self, view: View) -> LabelledImage:
        """Read the patch, the mask of the class, and the ignored pixels."""
        self.class_name(view.class_id)
        image_path, label_path = self.paths(view)
        image, labels = read_rgb(image_path), read_labels(label_path)
        labels, note = fit_to_image(labels, image, label_path, image_path)
        return LabelledImage(image, labels == int(view.class_id) + 1, labels == 255, note)

    def _list(self, fold: int) -> Path:
        return self.root / f"splits/val/fold{fold}.txt"

    def lines(self, fold: int) -> list[tuple[str, int]]:
        """Return the patches of a fold's list with their classes.

        Raises:
            DataError: the list is missing, or a line is not name__class.
        """
        path = self._list(fold)
        lines = []
        for line in read_words(path, DOWNLOAD):
            name, _, number = line.partition("__")
            if not number.isdecimal() or not EACH * fold < int(number) <= EACH * (fold + 1):
                raise DataError(f"{path}: {line!r} is not a name__class of this fold; see {DOWNLOAD}.")
            lines.append((name, int(number) - 1))
        return lines


def check(root: Path) -> list[CheckLine]:
    """Count the patches of the lists and on disk."""
    try:
        source = IsaidSource(root)
        patches = {view.image_name for view in source.views()}
    except DataError as error:
        return [CheckLine("iSAID", "missing", problem=str(error))]
    on_disk = sum((source.root / "val/images" / f"{patch}.png").is_file() for patch in patches)
    lines = sum(len(source.lines(fold)) for fold in range(FOLDS))
    gone = f"some are missing from {source.root / 'val/images'}: unpack them again."
    return [
        CheckLine("lines of the lists", lines),
        CheckLine("patches of the lists", len(patches)),
        CheckLine("of them on disk", on_disk, len(patches), "" if on_disk == len(patches) else gone),
        CheckLine("patches on disk", sum(1 for _ in (source.root / "val/images").glob("*.png")), 6363),
    ]


BENCHMARK = BenchmarkSpec(
    name="isaid",
    title="iSAID-5i, 15 classes of aerial images in three folds (INSID3)",
    kind="episodes",
    protocols=("insid3", "original"),
    layout=(
        "iSAID/val/images/*.png\niSAID/val/semantic_png/*_instance_color_RGB.png\n"
        "iSAID/splits/val/fold{0,1,2}.txt"
    ),
    download=DOWNLOAD,
    domain="isaid",
    open=IsaidSource,
    check=check,
    folds=FOLDS,
)
