"""Read PerSeg (Zhang et al., PerSAM, ICLR 2024): 40 objects, each in several images.

<root>/Images/<object>/NN.jpg
<root>/Annotations/<object>/NN.png    coloured; the object is whatever is not black

Image 00 is the reference of all others of its object.
"""

from functools import partial
from pathlib import Path

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.episodes import Episode, Manifest, View
from segic_jax.data.layout import find_root, list_files
from segic_jax.data.mask_files import MaskFileSource
from segic_jax.data.sampler import classes_with_images
from segic_jax.errors import DataError

DOWNLOAD = "https://github.com/ZrrSkywalker/Personalize-SAM (PerSeg)"


class PersegSource(MaskFileSource):
    """Give the episodes; class ids are the names of the folders."""

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return the episodes. Raises DataError for several shots: there is one reference."""
        if protocol not in self.protocols or fold != 0 or shots != 1:
            raise DataError(
                f"{self.name} supports the protocols {', '.join(self.protocols)} with fold 0 and 1 shot."
            )
        episodes = []
        image_names, notes = classes_with_images(self.image_names, 2, self.label)
        for class_id, names in image_names.items():
            if "00.jpg" not in names:
                raise DataError(f"Images/{class_id}/00.jpg is missing: get it from {DOWNLOAD}.")
            episodes += [Episode(class_id, name, ("00.jpg",)) for name in names if name != "00.jpg"]
        return Manifest(self.name, protocol, fold, shots, tuple(image_names), tuple(episodes), notes)


def open_source(root: Path | str) -> PersegSource:
    """Open the folder above (data/ of PerSAM) or its parent.

    Raises:
        DataError: a folder is missing or empty.
    """
    root = Path(root)
    root = next((root / name for name in ("PerSeg", "data") if (root / name / "Images").is_dir()), root)
    root = find_root(root, "PerSeg", "Images", DOWNLOAD)
    folders = (path for path in (root / "Images").iterdir() if path.is_dir())
    objects = sorted(path.name for path in folders if not path.name.startswith("."))
    return PersegSource(
        name="perseg",
        protocols=("original",),
        image_names={name: list_files(root / "Images" / name, ".jpg", DOWNLOAD) for name in objects},
        names={name: name.replace("_", " ") for name in objects},
        paths=partial(_paths, root),
        threshold=1,
    )


def _paths(root: Path, view: View) -> tuple[Path, Path]:
    folder = str(view.class_id)
    mask = Path(view.image_name).with_suffix(".png").name
    return root / "Images" / folder / view.image_name, root / "Annotations" / folder / mask


def check(root: Path) -> list[CheckLine]:
    """Count objects and images."""
    try:
        source = open_source(root)
    except DataError as error:
        return [CheckLine("PerSeg", "missing", problem=str(error))]
    images = sum(map(len, source.image_names.values()))
    return [CheckLine("objects", len(source.image_names), 40), CheckLine("images", images)]


BENCHMARK = BenchmarkSpec(
    name="perseg",
    title="PerSeg: 40 objects, one reference image each (PerSAM)",
    kind="episodes",
    protocols=("original",),
    layout="Images/<object>/{00,01,...}.jpg\nAnnotations/<object>/{00,01,...}.png",
    download=DOWNLOAD,
    domain="perseg",
    open=open_source,
    check=check,
    shots=(1,),
)
