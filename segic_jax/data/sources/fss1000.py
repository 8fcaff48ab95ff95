"""FSS-1000 (Li et al., CVPR 2020): 1000 classes of 10 pictures, with the field's fixed test episodes.

Folder layout: `<root>/<class>/<1..10>.jpg + .png`, or the same under `<root>/data/`.
"""

from importlib import resources
from pathlib import Path
from typing import Literal

from segic_jax.data.benchmark import Benchmark, Check
from segic_jax.data.draws import SEEDS, fss_episodes
from segic_jax.data.episodes import DataError
from segic_jax.data.manifest import Manifest, shipped
from segic_jax.data.sources.folder import FolderSource

Split = Literal["trn", "val", "test"]


class Fss1000Source(FolderSource):
    """One split; its episodes are the field's."""

    name = "fss1000"

    def __init__(self, root: str | Path, *, split: Split = "test"):
        """Raises DataError when a class of the split or one of its ten pictures is missing."""
        root = Path(root)
        if (root / "data").is_dir():
            root = root / "data"
        super().__init__(root, class_names(split))
        for class_name, files in self.pictures.items():
            missing = [n for n in range(1, 11) if f"{n}.jpg" not in files]
            if missing:
                raise DataError(f"{self.root / class_name} has no {missing[0]}.jpg: unpack FSS-1000 again.")

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """All 2400 pictures as targets; for 1 and 5 shots the list is shipped with the package.

        Raises:
            DataError: no such protocol or fold, or no shots.
        """
        if protocol not in SEEDS or fold != 0 or shots < 1:
            raise DataError(f"{self.name} is drawn for {', '.join(SEEDS)}, fold 0, 1 shot or more.")
        return shipped(self.name, protocol, fold, shots) or draw(protocol, shots)


def class_names(split: Split) -> list[str]:
    """The 520 training, 240 validation or 240 test classes, sorted."""
    text = resources.files("segic_jax.data").joinpath(f"splits/fss_{split}.txt").read_text("utf-8")
    return sorted(text.split())


def draw(protocol: str, shots: int) -> Manifest:
    """The field's episodes on the test classes, drawn anew."""
    classes = class_names("test")
    episodes = fss_episodes(classes, SEEDS[protocol], shots)
    return Manifest("fss1000", protocol, 0, shots, tuple(classes), tuple(episodes))


def check(root: Path) -> list[Check]:
    """The test split; names from a list with CRLF line ends keep a carriage return, which is named."""
    folder = root / "data" if (root / "data").is_dir() else root
    odd = sorted(path.name for path in folder.iterdir() if path.name != path.name.strip())
    problem = f"{folder} has {odd[0]!r}: rename it without blanks or carriage returns." if odd else ""
    lines = [Check("odd names", len(odd), 0, problem)]
    try:
        lines.append(Check("pictures of the test classes", sum(1 for _ in Fss1000Source(root).views()), 2400))
    except DataError as error:
        lines.append(Check("pictures of the test classes", "incomplete", 2400, str(error)))
    return lines


BENCHMARK = Benchmark(
    name="fss1000",
    title="FSS-1000 (Li et al., CVPR 2020): 240 test classes of 10 pictures",
    kind="episodes",
    protocols=("matcher", "insid3", "segic"),
    layout="<class>/{1..10}.jpg\n<class>/{1..10}.png   the mask; or both below data/",
    download="https://github.com/HKUSTCV/FSS-1000",
    pictures="fss1000",
    open=Fss1000Source,
    check=check,
)
