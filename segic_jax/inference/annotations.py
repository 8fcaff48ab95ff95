"""Take examples from the projects of labelling tools, and write results as their annotations."""

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from PIL import Image

from segic_jax.data import masks
from segic_jax.data.annotations.lookup import draw_label
from segic_jax.data.annotations.paths import ImageFinder
from segic_jax.data.annotations.project import AUTO, read_project
from segic_jax.data.annotations.registry import WRITTEN, find_format
from segic_jax.data.annotations.types import LISTED, AnnotatedImage, LabelledImage, Region, list_names
from segic_jax.data.images import read_labels
from segic_jax.data.orientation import oriented_size, upright_size
from segic_jax.errors import ConfigError, DataError, InputWarning
from segic_jax.inference.example import Example
from segic_jax.inference.result import Result

OnError = Callable[[Path, DataError], None]


def read_examples(
    project: Path | str,
    format: str = AUTO,
    *,
    images: Path | str | None = None,
    max_images: int | None = None,
    within: Path | None = None,
    on_error: OnError | None = None,
) -> list[Example]:
    """Read the annotations of a project as examples: one for each label on each image.

    Args:
        project: a folder, or a file of annotations; docs/labelling_tools.md has the formats.
        format: its name, or "auto" to recognise it.
        images: the folder of the images, where it is not the project's.
        max_images: take at most this number of images of each label: always the same ones, as far as possible
            those that serve several labels.
        within: the folder that images must lie in, for projects that are not trusted; None for any.
        on_error: called with a file and an error for each object that cannot be used, which is then left out.
            If None, the first error is raised.

    Raises:
        DataError: the project cannot be read, has several formats, or has no annotation that can be used.
        ConfigError: `max_images` is below 1.
    """
    if max_images is not None and max_images < 1:
        raise ConfigError(f"max_images {max_images} must be at least 1.")
    root, folder = Path(project), None if images is None else Path(images)
    if not root.exists():
        raise DataError(f"{root}: there is no such file or folder.")
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder} is no folder: give that of the images.")
    found = read_project(root, format, on_error)
    finder = ImageFinder(root if root.is_dir() else root.parent, folder, within)
    by_image: dict[int, list[Example]] = {}
    taken: Counter[str] = Counter()
    for place in _order(found.images, drawn=max_images is not None):
        annotated = found.images[place]
        labels = [label for label in annotated.labels if max_images is None or taken[label] < max_images]
        if labels:
            by_image[place] = _read_image(annotated, labels, finder, on_error)
            taken.update(str(example.name) for example in by_image[place])
    unmarked = [annotated.name for annotated in found.images if not annotated.annotations]
    if unmarked:
        warnings.warn(
            f"{root}: {len(unmarked)} image{'s' * (len(unmarked) != 1)} without annotations left out: "
            f"{list_names(unmarked, LISTED)}.",
            InputWarning,
            stacklevel=2,
        )
    examples = [example for place in sorted(by_image) for example in by_image[place]]
    if not examples:
        raise DataError(f"{root} has no annotation of {found.format.title} that can be used as a reference.")
    return examples


def _order(images: Sequence[AnnotatedImage], *, drawn: bool) -> Sequence[int]:
    """Return the places of the images as they are, or shuffled by their names, whatever their order."""
    if not drawn:
        return range(len(images))
    keys = [hashlib.sha256(annotated.name.encode(errors="replace")).digest() for annotated in images]
    return sorted(range(len(images)), key=keys.__getitem__)


def _read_image(
    annotated: AnnotatedImage, labels: Sequence[str], finder: ImageFinder, on_error: OnError | None
) -> list[Example]:
    """Return the examples of some labels on an image, whose pixels are not read."""
    examples = []
    try:
        image, (height, width) = _open_image(annotated, finder)
    except DataError as error:
        if on_error is None:
            raise
        on_error(annotated.file, error)
        return []
    for label in labels:
        try:
            mask = draw_label(annotated, label, image, height, width)
            examples.append(Example(image, rle=masks.encode(mask), name=label))
        except DataError as error:
            if on_error is None:
                raise
            on_error(annotated.file, error)
    return examples


def _open_image(annotated: AnnotatedImage, finder: ImageFinder) -> tuple[Path | Image.Image, tuple[int, int]]:
    """Return an image's path, or the image in the file of its annotations; and its height and width."""
    if (path := finder.find(annotated)) is not None:
        return path, upright_size(path)
    if annotated.content is None:
        raise DataError(
            f"{annotated.file}: its image {annotated.name} is missing; put it beside the annotations, or "
            "give the folder of the images with --images."
        )
    try:
        image = Image.open(io.BytesIO(annotated.content))
        return image, oriented_size(image)
    except (OSError, ValueError) as error:
        raise DataError(f"{annotated.file}: its image is damaged; save the file again.") from error


def labelled_image(result: Result, stem: str) -> LabelledImage:
    """Return what is written of a result: each class with a mask, or each object of it if `separate`."""
    regions = []
    for i, name in enumerate(result.names):
        if result.areas[i] and result.separate:
            objects = zip(result.instances(i), result.instance_scores(i), strict=True)
            regions += [Region(name, mask, score) for mask, score in objects]
        elif result.areas[i]:
            regions.append(Region(name, result.mask(i), float(result.scores[i])))
    path = Path(result.source or f"{stem}.png")
    return LabelledImage(stem, path, result.image.shape[:2], lambda: regions, lambda: result.label_map)


def labelled_file(stem: str, path: Path, coco: dict, labels: Path) -> LabelledImage:
    """Return the same from the files that `Result.save` wrote: a COCO file and a label map."""
    size = coco["images"][0]["height"], coco["images"][0]["width"]

    def regions() -> list[Region]:
        return [
            Region(item["category_name"], masks.decode(item["segmentation"], *size), item["score"])
            for item in coco["annotations"]
        ]

    return LabelledImage(stem, path, size, regions, lambda: read_labels(labels))


def write_annotations(results: Iterable[Result], folder: Path | str, format: str) -> Path:
    """Write results as annotations of a labelling tool, and return the file or folder to open.

    Args:
        results: of images in files, with the same classes.
        folder: is created if necessary.
        format: labelme, coco, cvat, label-studio, yolo, via, voc or masks.

    Raises:
        DataError: there is no such format, there is no result, or a file cannot be written.
    """
    results = list(results)
    if not results or len({result.names for result in results}) > 1:
        raise DataError("Annotations are written of at least one result, all with the same classes.")
    stems: dict[str, int] = {}
    images = []
    for result in results:
        stem = Path(result.source or "image").stem
        number = stems[stem] = stems.get(stem, 0) + 1
        images.append(labelled_image(result, stem if number == 1 else f"{stem}_{number}"))
    return save_annotations(images, list(results[0].names), Path(folder), format)


def save_annotations(
    images: Sequence[LabelledImage], labels: Sequence[str], folder: Path, format: str
) -> Path:
    """Write images as `write_annotations` does."""
    write = find_format(format, WRITTEN).write
    assert write is not None
    return write(folder, labels, images)
