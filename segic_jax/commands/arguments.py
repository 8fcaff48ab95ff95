"""Define the arguments that several commands share: references, masks, targets and the paths of results."""

import math
import operator
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from segic_jax.config import Backend, MethodChoice, Precision
from segic_jax.errors import InputError
from segic_jax.runtime import progress
from segic_jax.weights.catalog import DEFAULT

if TYPE_CHECKING:
    from tqdm import tqdm

    from segic_jax.data.images import ImageLike
    from segic_jax.errors import DataError
    from segic_jax.inference.context import Context
    from segic_jax.inference.example import Example
    from segic_jax.inference.segmenter import Segmenter

MAX_LINES = 20  # about references
TilesOption = Annotated[int | Literal["auto"] | None, tyro.conf.arg(metavar="N|auto")]
_PAIR = tyro.conf.arg(metavar="IMAGE MASK")
_BOX = re.compile(r"[-\d.]*(,[-\d.]*)+")
_LABEL = re.compile(r"(.+):(\d+|#[0-9a-fA-F]{6}|alpha)")
_NAME = re.compile(r"(.+\.[^.:/]+):(.+)")  # of a label, after a mask
_ANNOTATIONS = re.compile(r"(.+\.(?:json|xml|txt)):(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(kw_only=True)
class ReferenceArguments:
    """Take references from the command line or from saved contexts, and the weights of the model."""

    ref: Annotated[tyro.conf.UseAppendAction[tuple[tuple[Path, str], ...]], _PAIR] = ()
    """A reference image and the object on it: a mask of the same size (PNG, white or opaque where the object
    is), one of several objects in a mask (by number, MASK:3, or colour, MASK:#307020), the objects with a
    label in a file of a labelling tool (photo.json:cat), or a box in pixels (X0,Y0,X1,Y1)."""
    name: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """The name of the class: given once for all --ref, or once for each in the same order; by default the
    label. References with the same name are shots of one class."""
    negative: Annotated[tyro.conf.UseAppendAction[tuple[tuple[Path, str], ...]], _PAIR] = ()
    """An image and a mask of something that looks similar but is not wanted."""
    context: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A file written by `segic fit`, instead of --ref or in addition to it."""
    class_names: bool = False
    """Also give the model the class names as text, if it has a text tower."""
    weights: str = DEFAULT
    """A name from `segic weights list`, or a model file."""
    method: MethodChoice = "segic"
    """segic decodes with the trained head; training_free (INSID3) compares features, and needs a backbone
    only, such as --weights dinov3-l; training_free_crf also moves the edges of its masks to those of the
    image."""
    precision: Precision = "auto"
    """The precision of the backbone: auto is bfloat16 on a GPU or TPU and float32 on a CPU."""
    backend: Backend = "jax"
    """What runs the backbone: onnxruntime takes a CPU less time for EfficientNets, such as photo; it needs
    pip install 'segic_jax[onnxruntime]'."""

    @cached_property
    def examples(self) -> "list[Example]":
        """Return the examples that --ref, --name and --negative describe.

        Raises:
            InputError: the number of names is not that of the references, one or none.
        """
        if len(self.name) > 1 and len(self.name) != len(self.ref):
            raise InputError(
                f"--ref is given {len(self.ref)} times and --name {len(self.name)} times: give one name for "
                "all, or one for each in the same order."
            )
        if self.name and not self.ref:
            raise InputError("--name names a --ref IMAGE MASK, but no --ref is given.")
        names = self.name if len(self.name) == len(self.ref) else (self.name or ("",)) * len(self.ref)
        positives = zip(self.ref, names, strict=True)
        return [_parse_example(image, mask, name) for (image, mask), name in positives] + [
            _parse_example(image, mask, None) for image, mask in self.negative
        ]

    @property
    def example_files(self) -> list[Path]:
        """Return the files that the examples are read from."""
        files = [file for example in self.examples for file in (example.image, example.mask)]
        return [Path(file) for file in files if isinstance(file, (str, Path))]

    @property
    def on_error(self) -> "SkippedInputs | None":
        """Return what is called with references that cannot be read; None ends the command there."""
        return None

    def load_model(self) -> "Segmenter":
        """Load the model that --weights names.

        Raises:
            InputError: it cannot be used.
        """
        from segic_jax.inference.segmenter import Segmenter
        from segic_jax.runtime.compile_cache import use_compile_cache

        use_compile_cache()
        return Segmenter.load(
            self.weights, precision=self.precision, method=self.method, backend=self.backend
        )

    def load(self) -> "tuple[Segmenter, Context]":
        """Load the model and make the context of all references.

        Raises:
            InputError: the arguments contradict each other, or a file cannot be used.
        """
        from segic_jax.inference.references import group_by_image

        if self.negative and not self.context and all(example.negative for example in self.examples):
            raise InputError("--negative also needs a --ref IMAGE MASK or a --context FILE.")
        if not self.examples and not self.context:
            raise InputError("Say what to look for: --ref IMAGE MASK, or --context FILE from `segic fit`.")
        segmenter = self.load_model()
        saved = [segmenter.load_context(path) for path in self.context]
        context = reduce(operator.add, saved) if saved else None
        if context is None or self.examples:
            images = len(group_by_image(self.examples))
            with bar(total=images, unit="image", desc="references", delay=2) as shown:
                context = segmenter.fit(
                    self.examples,
                    context,
                    class_names=self.class_names,
                    on_error=self.on_error,
                    on_image=shown.update,
                )
        print_references(context)
        return segmenter, context


@dataclass(kw_only=True)
class MaskArguments(ReferenceArguments):
    """Add the arguments that decide which pixels belong to a mask."""

    threshold: float = 0.5
    """The probability above which a pixel belongs to a mask."""
    keep_absent: bool = False
    """Also write masks of classes that seem to be absent."""

    @property
    def cut(self) -> float:
        """Return the logit of the threshold.

        Raises:
            InputError: it is no probability.
        """
        if not 0 < self.threshold < 1:
            fault = "is no probability"
            if self.threshold in (0, 1):
                fault = "would mark no pixel" if self.threshold else "would mark every pixel"
            raise InputError(
                f"--threshold {self.threshold:g} {fault}: give a number between 0 and 1, such as 0.5."
            )
        return math.log(self.threshold / (1 - self.threshold))


def _parse_example(image: Path, mask: str, name: str | None) -> "Example":
    """Make an Example of IMAGE and a mask, MASK:LABEL, a file of a labelling tool or a box.

    Args:
        name: None for a negative; an empty one stands for the label, or "object".
    """
    from segic_jax.inference.example import Example

    common = {"name": name if name is None else name or "object", "negative": name is None}
    if not Path(mask).exists():
        if _BOX.fullmatch(mask):
            try:
                box = [float(value) for value in mask.split(",")]
            except ValueError as error:
                raise InputError(f"{mask}: a box is four numbers in pixels, X0,Y0,X1,Y1.") from error
            return Example(image, box=box, **common)
        if annotations := _ANNOTATIONS.fullmatch(mask):
            return _parse_annotations(image, Path(annotations[1]), annotations[2], name)
        if label := _LABEL.fullmatch(mask):
            value = int(label[2]) if label[2].isdecimal() else label[2]
            return Example(image, label[1], label=value, **common)
        if (label := _NAME.fullmatch(mask)) and Path(label[1]).is_file():
            return Example(
                image, label[1], label=label[2], **common | ({"name": label[2]} if name == "" else {})
            )
    if _ANNOTATIONS.fullmatch(f"{mask}:"):
        return _parse_annotations(image, Path(mask), None, name)
    return Example(image, mask, **common)


def _parse_annotations(image: Path, file: Path, label: str | None, name: str | None) -> "Example":
    """Make an Example of the objects with a label in a file of a labelling tool; None is its only label."""
    from segic_jax.data.annotations.lookup import find_annotations
    from segic_jax.inference.example import Example

    _, label = find_annotations(file, image, label)
    return Example(image, file, label=label, name=label if name == "" else name, negative=name is None)


@dataclass(kw_only=True)
class TargetArguments(MaskArguments):
    """Add the images to segment, and the folder of the results."""

    targets: tyro.conf.Positional[tuple[Path, ...]]
    """Images, or folders of images."""
    out: Path
    """The output folder, which is created if necessary."""
    recursive: bool = False
    """Also take the images in all folders below those given."""


def name_targets(
    targets: Sequence[Path], *, recursive: bool = False, exclude: Path | None = None
) -> dict[str, Path]:
    """Return the target files by the names of their results, without repetitions.

    A folder stands for its images in the order of their names. A result is named after its file without the
    suffix; where several files share that name, with the suffix; where they still do, with as many parent
    folders in front as it takes (a_1.jpg and b_1.jpg).

    Args:
        recursive: also take the images in all folders below.
        exclude: a folder to leave alone, that of the results.

    Raises:
        InputError: there is no target, or a folder has no images.
    """
    from segic_jax.data.image_folder import list_images

    if not targets:
        raise InputError("Give at least one target: an image, or a folder of images.")
    paths = dict.fromkeys(
        Path(path) for target in targets for path in list_images(target, recursive=recursive, exclude=exclude)
    )
    first = {Path(os.path.abspath(path)): path for path in reversed(paths)}
    files = [path for path in paths if first[Path(os.path.abspath(path))] == path]
    names = [path.stem for path in files]
    for depth in range(1, 100):
        folded = [name.lower() for name in names]  # some file systems ignore the case
        count = Counter(folded)
        clashing = [i for i, name in enumerate(folded) if count[name] > 1]
        if not clashing:
            break
        for i in clashing:
            names[i] = "_".join(Path(os.path.abspath(files[i])).parts[-depth:]).replace(os.sep, "")
    return dict(zip(names, files, strict=True))


def print_references(context: "Context") -> None:
    """Print on stderr what is marked on each reference, so that a wrong mask is noticed."""
    from segic_jax.inference.reference import describe_references

    lines = list(describe_references(context.references))
    for line in lines[:MAX_LINES]:
        progress.write_line(line, to_stderr=True)
    if len(lines) > MAX_LINES:
        progress.write_line(f"and {len(lines) - MAX_LINES} more references", to_stderr=True)


class SkippedInputs:
    """Report files that cannot be read, and keep the messages."""

    def __init__(self):
        self.messages: dict[str, str] = {}  # by file

    def exit_code(self, done: int) -> int:
        """Return 0 if nothing was skipped, 1 if nothing was done, and 2 otherwise."""
        return 0 if not self.messages else 2 if done else 1

    def __call__(self, file: "ImageLike", error: "DataError") -> None:
        self.messages[str(file)] = str(error)
        progress.write_line(error, to_stderr=True)


def bar(items: Iterable | None = None, *, total: int | None, unit: str, **options) -> "tqdm":
    """Show a progress bar on a terminal only; elsewhere the lines that a command prints show its progress."""
    return progress.bar(items, enabled=sys.stderr.isatty(), total=total, unit=unit, leave=False, **options)


def require_folder_path(path: Path) -> None:
    """Raise InputError, before long work, if a file is in the place of a folder to be made."""
    if next(existing for existing in (path, *path.absolute().parents) if existing.exists()).is_file():
        raise InputError(f"{path} is a file, or below one: give --out a folder.")


def require_distinct(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise InputError, before long work, if a result would overwrite one of its inputs."""
    originals = {os.path.realpath(path) for path in inputs}
    for path in outputs:
        if os.path.realpath(path) in originals:
            raise InputError(f"{path} is an input and would be overwritten: give another --out.")
