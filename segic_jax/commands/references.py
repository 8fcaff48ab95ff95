"""What several commands take: references on the command line or in a saved context, and weights."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from segic_jax.errors import InputError

if TYPE_CHECKING:
    from segic_jax.inference.context import Context
    from segic_jax.inference.example import Example
    from segic_jax.inference.segmenter import Segmenter

_PAIR = tyro.conf.arg(metavar="IMAGE MASK")
_BOX = re.compile(r"[-\d.]*(,[-\d.]*)+")
_LABEL = re.compile(r"(.+):(\d+)")


@dataclass(kw_only=True)
class WithReferences:
    """The arguments that say what to look for."""

    ref: Annotated[tyro.conf.UseAppendAction[tuple[tuple[Path, str], ...]], _PAIR] = ()
    """An image and what it shows: a mask of its size (PNG, white or opaque on the object), one label of a
    mask with several (MASK:3), or a box in pixels (X0,Y0,X1,Y1)."""
    name: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What it is called: once for all --ref, or once for each, in their order. The same name again makes
    another example of that class."""
    negative: Annotated[tyro.conf.UseAppendAction[tuple[tuple[Path, str], ...]], _PAIR] = ()
    """An image and a mask of what looks alike and is not meant."""
    context: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A file of `segic fit`, instead of --ref or besides it."""
    class_names: bool = False
    """Tell the model the names as text, where it has a text tower."""
    weights: str = ""
    """Model file, or a name of `segic weights list`; the small model inside the package by default."""

    def ready(self) -> "tuple[Segmenter, Context]":
        """The model, and what it has learned from the references.

        Raises:
            InputError: the arguments do not go together, or a file cannot be used.
        """
        examples = self.examples()
        if self.negative and not self.ref and not self.context:
            raise InputError("--negative needs a --ref IMAGE MASK or a --context besides it.")
        if not examples and not self.context:
            raise InputError("Say what to look for: --ref IMAGE MASK, or --context FILE of `segic fit`.")

        segmenter = self.model()
        parts = [segmenter.load_context(path) for path in self.context]
        if not parts:
            return segmenter, segmenter.fit(examples, class_names=self.class_names)
        context = sum(parts[1:], parts[0])
        if examples:
            context = segmenter.fit(examples, context, class_names=self.class_names)
        return segmenter, context

    def model(self) -> "Segmenter":
        """What --weights names.

        Raises:
            InputError: it cannot be used.
        """
        from segic_jax.inference.segmenter import Segmenter
        from segic_jax.runtime.compile_cache import use_compile_cache

        use_compile_cache()
        return Segmenter.load(self.weights)

    def pictures(self) -> list[Path | str]:
        """The files of `examples`."""
        paths = (path for one in self.examples() for path in (one.image, one.mask))
        return [path for path in paths if isinstance(path, (Path, str))]

    def examples(self) -> "list[Example]":
        """Of --ref, --name and --negative.

        Raises:
            InputError: there are neither as many names as references, nor one, nor none.
        """
        if len(self.name) > 1 and len(self.name) != len(self.ref):
            raise InputError(
                f"There are {len(self.ref)} --ref and {len(self.name)} --name: give one name for all, "
                "or one for each in the same order."
            )
        if self.name and not self.ref:
            raise InputError("--name names a --ref IMAGE MASK; there is none.")
        names = self.name if len(self.name) == len(self.ref) else (self.name or ("object",)) * len(self.ref)
        return [
            _example(image, mask, name, negative=False)
            for (image, mask), name in zip(self.ref, names, strict=True)
        ] + [_example(image, mask, None, negative=True) for image, mask in self.negative]


@dataclass(kw_only=True)
class WithMasks(WithReferences):
    """The arguments that say which pixels of a target belong to a mask."""

    threshold: float = 0.5
    """How probable a pixel must be to belong to a mask."""
    keep_absent: bool = False
    """Give masks to classes that seem to be absent, too."""

    @property
    def cut(self) -> float:
        """The logit of the threshold.

        Raises:
            InputError: it is no probability.
        """
        if not 0 < self.threshold < 1:
            raise InputError(
                f"--threshold {self.threshold:g} is a probability: give a number between 0 and 1."
            )
        return math.log(self.threshold / (1 - self.threshold))


def _example(image: Path, mask: str, name: str | None, *, negative: bool) -> "Example":
    from segic_jax.inference.example import Example

    if not Path(mask).exists():
        if _BOX.fullmatch(mask):
            try:
                box = [float(value) for value in mask.split(",")]
            except ValueError as error:
                raise InputError(f"{mask}: a box is four numbers in pixels, X0,Y0,X1,Y1.") from error
            return Example(image, box=box, name=name, negative=negative)
        if label := _LABEL.fullmatch(mask):
            return Example(image, label[1], label=int(label[2]), name=name, negative=negative)
    return Example(image, mask, name=name, negative=negative)
