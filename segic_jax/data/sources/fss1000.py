"""Read FSS-1000 (Li et al., CVPR 2020): 1000 classes of 10 images, with the published test episodes.

The layout is `<root>/<class>/<1..10>.jpg + .png`, or the same under `<root>/data/`. The lists of classes are
part of this package; splits/ is not read.
"""

from importlib import resources
from pathlib import Path
from typing import Literal

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.episodes import LabelledImage, Manifest, View, packaged_manifest
from segic_jax.data.images import read_grey, read_rgb, require_size
from segic_jax.data.sampler import SEEDS, fss_episodes
from segic_jax.data.sources.folder import FolderSource
from segic_jax.errors import DataError

Split = Literal["trn", "val", "test"]
DOWNLOAD = "https://github.com/HKUSTCV/FSS-1000"


class Fss1000Source(FolderSource):
    """Give the published episodes and the images of one split."""

    name = "fss1000"

    def __init__(self, root: str | Path, *, split: Split = "test"):
        """Open FSS-1000/ or its parent; classes that no episode needs may be missing.

        Raises:
            DataError: every class of the split is missing.
        """
        root = Path(root)
        inner = ("FSS-1000/data", "FSS-1000", "data", "")
        self.root = next(root / name for name in inner if (root / name).is_dir() or not name)
        names = class_names(split)
        if not any((self.root / name).is_dir() for name in names):
            raise DataError(f"{self.root / names[0]} is missing: unpack FSS-1000 there ({DOWNLOAD}).")
        self.image_names = {name: [f"{number}.jpg" for number in range(1, 11)] for name in names}

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return all 2400 images as targets; for 1 and 5 shots the list is part of the package.

        Raises:
            DataError: unknown protocol or fold, or no shots.
        """
        if protocol not in SEEDS or fold != 0 or shots < 1:
            raise DataError(
                f"{self.name} supports the protocols {', '.join(SEEDS)} with fold 0 and at least 1 shot."
            )
        return packaged_manifest(self.name, protocol, fold, shots) or draw(protocol, shots)

    def load(self, view: View) -> LabelledImage:
        """Read an image and its mask, whose pixels of at least 128 are the object."""
        image_path, mask_path = self.paths(view)
        image, mask = read_rgb(image_path), read_grey(mask_path)
        require_size(image, mask, image_path, mask_path)
        if 0 < mask.max() < 128:
            raise DataError(f"{mask_path} has no value above {mask.max()}: save the object as 255.")
        return LabelledImage(image, mask >= 128)


def class_names(split: Split) -> list[str]:
    """Return the 520 training, 240 validation or 240 test classes, sorted."""
    text = resources.files("segic_jax.data").joinpath(f"splits/fss_{split}.txt").read_text("utf-8")
    return sorted(text.split())


def draw(protocol: str, shots: int) -> Manifest:
    """Draw the published episodes of the test classes again."""
    classes = class_names("test")
    episodes = fss_episodes(classes, SEEDS[protocol], shots)
    return Manifest("fss1000", protocol, 0, shots, tuple(classes), tuple(episodes))


def check(root: Path) -> list[CheckLine]:
    """Check the classes, images and masks of the test split."""
    try:
        source = Fss1000Source(root)
    except DataError as error:
        return [CheckLine("FSS-1000", "missing", problem=str(error))]
    classes = sum((source.root / name).is_dir() for name in source.image_names)
    paths = [source.paths(view) for view in source.views()]
    lines = [CheckLine("test classes", classes, len(source.image_names))]
    for what, files in zip(("images", "masks"), zip(*paths, strict=True), strict=True):
        gone = [path for path in files if not path.is_file()]
        problem = f"{gone[0]} is missing: get it from {DOWNLOAD}." if gone else ""
        lines.append(CheckLine(f"{what} of the test classes", len(files) - len(gone), len(files), problem))
    return lines


BENCHMARK = BenchmarkSpec(
    name="fss1000",
    title="FSS-1000 (Li et al., CVPR 2020): 240 test classes of 10 images",
    kind="episodes",
    protocols=("matcher", "insid3", "segic"),
    layout="FSS-1000/<class>/{1..10}.jpg\nFSS-1000/<class>/{1..10}.png   the mask; or both below data/",
    download=DOWNLOAD,
    domain="fss1000",
    open=Fss1000Source,
    check=check,
)
