"""Read FSS-1000 (Li et al., CVPR 2020): 1000 classes of 10 images, with the published test episodes.

The layout is `<root>/<class>/<1..10>.jpg + .png`, or the same under `<root>/data/`. The lists of classes are
part of this package; splits/ is not read.
"""

from collections.abc import Collection, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.episodes import ClassId, LabelledImage, Manifest, View, packaged_manifest
from segic_jax.data.images import image_size, read_grey, read_rgb
from segic_jax.data.masks import fit_to_image
from segic_jax.data.sampler import GPUS, fss_episodes
from segic_jax.data.sources.folder import FolderSource
from segic_jax.errors import DataError

Split = Literal["trn", "val", "test"]
DOWNLOAD = "https://github.com/HKUSTCV/FSS-1000"


class Fss1000Source(FolderSource):
    """Give the published episodes and the images of one split."""

    name = "fss1000"

    def __init__(self, root: str | Path, *, split: Split = "test"):
        """Open FSS-1000/ or its parent; the folder of a class may be missing.

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
        self._masks = {}

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return all 2400 images as targets; for 1 and 5 shots the list of Matcher is part of the package.

        Classes without a folder have no episode, but count in means over the fold, and protocols of SegIC
        draw past pairs whose mask has another size than its image, as the official readers do.

        Raises:
            DataError: unknown protocol or fold, or no shots.
        """
        if protocol not in BENCHMARK.protocols or fold != 0 or shots < 1 or (protocol in GPUS and shots > 1):
            raise DataError(
                f"{self.name} supports the protocols {', '.join(BENCHMARK.protocols)} with fold 0 and at "
                f"least 1 shot, {' and '.join(GPUS)} with 1."
            )
        missing = {name for name in class_names("test") if not (self.root / name).is_dir()}
        notes = [f"{self.root / name} is missing: no episode has this class." for name in sorted(missing)]
        if protocol == "segic" or protocol in GPUS:
            pairs = self._pairs_of_two_sizes()
            return draw(protocol, shots, missing=missing, skipped=pairs, notes=[*notes, *pairs.values()])
        packaged = None if missing else packaged_manifest(self.name, protocol, fold, shots)
        return packaged or draw(protocol, shots, missing=missing, notes=notes)

    def class_name(self, class_id: ClassId) -> str:
        """Return the folder's name with its underscores, as official SegIC gives it to the text tower."""
        return str(class_id)

    def _pairs_of_two_sizes(self) -> dict[tuple[str, str], str]:
        """Return the (class, image) whose mask has another size than the image, each with a sentence."""
        found = {}
        for view in self.views():
            image_path, mask_path = self.paths(view)
            if image_path.is_file() and mask_path.is_file():
                sizes = image_size(image_path), image_size(mask_path)
                if sizes[0] != sizes[1]:
                    (width, height), (mask_width, mask_height) = sizes
                    found[str(view.class_id), view.image_name] = (
                        f"{mask_path} is {mask_width} x {mask_height} pixels, its image {width} x {height}: "
                        "no episode has it, as in the official code."
                    )
        return found

    def load(self, view: View) -> LabelledImage:
        """Read an image and its mask, whose pixels of at least 128 are the object."""
        image_path, mask_path = self.paths(view)
        image, mask = read_rgb(image_path), read_grey(mask_path)
        mask, note = fit_to_image(mask, image, mask_path, image_path)
        if 0 < mask.max() < 128:
            note = (
                f"{mask_path} has no value above {mask.max()}: it is empty, as the field's readers take it."
            )
        return LabelledImage(image, mask >= 128, note=note)


def class_names(split: Split) -> list[str]:
    """Return the 520 training, 240 validation or 240 test classes, sorted."""
    text = resources.files("segic_jax.data").joinpath(f"splits/fss_{split}.txt").read_text("utf-8")
    return sorted(text.split())


def draw(
    protocol: str,
    shots: int,
    *,
    missing: Collection[str] = (),
    skipped: Collection[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Manifest:
    """Draw the published episodes of the test classes again.

    Args:
        missing: classes that the official readers do not find; they list the images on disk.
        skipped: as for `fss_episodes`.
        notes: a sentence about each of these, for a result.
    """
    classes = class_names("test")
    found = [name for name in classes if name not in missing]
    episodes = fss_episodes(found, protocol, shots, skipped)
    return Manifest("fss1000", protocol, 0, shots, tuple(classes), tuple(episodes), tuple(notes))


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
    protocols=("matcher", "insid3", "segic", *GPUS),
    layout="FSS-1000/<class>/{1..10}.jpg\nFSS-1000/<class>/{1..10}.png   the mask; or both below data/",
    download=DOWNLOAD,
    domain="fss1000",
    open=Fss1000Source,
    check=check,
)
