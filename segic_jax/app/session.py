"""What one visitor has on the page: an image being marked, examples, targets and results. No Gradio here."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import cv2
import numpy as np

from segic_jax.app import limits
from segic_jax.errors import DataError
from segic_jax.inference.context import Context, decode_preview
from segic_jax.inference.example import Example
from segic_jax.inference.explain import Explanation
from segic_jax.inference.overlay import Colour, Mask, RGBImage, class_colours
from segic_jax.inference.result import Result
from segic_jax.inference.segmenter import Segmenter

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


class Picture(NamedTuple):
    """An image and what the visitor called it."""

    name: str
    image: RGBImage


@dataclass(frozen=True)
class Shot:
    """One marked image: either mask or box is given."""

    picture: Picture
    name: str  # of the class
    mask: Mask | None = None
    box: Box | None = None
    negative: bool = False  # it looks like the class and is another thing

    def example(self) -> Example:
        """As the library takes it."""
        return Example(self.picture.image, self.mask, box=self.box, name=self.name, negative=self.negative)


@dataclass
class Target:
    """An image to search, and what was found; the result holds what every threshold needs."""

    picture: Picture
    result: Result | None = None


@dataclass
class Session:
    """Everything of one visitor."""

    draft: Picture | None = None  # the image being marked
    loaded: Context | None = None  # of files that were saved before
    shots: list[Shot] = field(default_factory=list)
    context: Context | None = None  # of what was loaded and the shots
    tints: dict[str, Colour] = field(default_factory=dict)  # of the classes
    targets: list[Target] = field(default_factory=list)
    chosen_shot: int | None = None
    chosen_target: int = 0
    probability: float = 0.5  # a pixel above it is inside; the slider
    keep_absent: bool = False  # whether classes that seem to be absent are marked, too
    explained: bool = (
        False  # whether the page shows what matched, and files to download, for the chosen target
    )
    prepared: bool = False

    @property
    def colours(self) -> dict[str, Colour]:
        """The classes, those that were loaded first, and their colours."""
        loaded = self.loaded.names if self.loaded else ()
        names = dict.fromkeys((*loaded, *(shot.name for shot in self.shots if not shot.negative)))
        return {name: self.tints[name] for name in names}

    def reference(self, number: int) -> tuple[RGBImage, float]:
        """An image of `Context.references`, and the scale from its own pixels to those given here.

        Of what was loaded there is a preview only, which is enlarged up to `limits.SIDE`.
        """
        loaded = self.loaded.references if self.loaded else ()
        if number < len(loaded):
            scale = min(1, limits.SIDE / max(loaded[number].size))
            height, width = (max(1, round(scale * side)) for side in loaded[number].size)
            preview = decode_preview(loaded[number])
            return cv2.resize(preview, (width, height), interpolation=cv2.INTER_CUBIC), scale
        own = list({id(shot.picture.image): shot.picture.image for shot in self.shots}.values())
        return own[number - len(loaded)], 1.0

    def load(self, context: Context, name: str) -> None:
        """Go on from a saved Context; all results are dropped.

        Args:
            name: of its file.

        Raises:
            DataError: more classes than the page takes, or a name that cannot be.
        """
        for one in context.names:
            clean_name(one)
        total = {*self.colours, *context.names}
        if len(total) > limits.MAX_CLASSES:
            raise DataError(
                f"With {name} there are {len(total)} classes; the page takes {limits.MAX_CLASSES}."
            )
        for one in context.names:
            self._tint(one)
        self.loaded = context if self.loaded is None else self.loaded + context
        self._forget()

    def _tint(self, name: str) -> None:
        """Give a new class the first colour that no other has."""
        if name not in self.tints:
            taken = self.tints.values()
            self.tints[name] = next(c for c in class_colours(len(taken) + 1) if c not in taken)

    def choose_colour(self, name: str, colour: str) -> None:
        """Of a class in everything that is drawn.

        Raises:
            DataError: no such class, or not #rrggbb.
        """
        if name not in self.colours or not re.fullmatch("#[0-9a-fA-F]{6}", colour or ""):
            raise DataError("Choose a class and a colour.")
        red, green, blue = bytes.fromhex(colour[1:])
        self.tints[name] = (red, green, blue)
        self.prepared = False

    def remove_class(self, name: str) -> None:
        """Drop a class with all its examples; all results are dropped.

        Raises:
            DataError: there is no such class.
        """
        if name not in self.colours:
            raise DataError("Choose the class that is to be removed.")
        self.shots = [shot for shot in self.shots if shot.name != name]
        if self.loaded and name in self.loaded.names:
            left = self.loaded.drop(name)
            self.loaded = left if left.names else None
        del self.tints[name]
        self._forget()

    def take(self, name: str, mask: Mask | None, box: Box | None, negative: bool = False) -> None:
        """The draft becomes an example of the class `name`; all results are dropped.

        Raises:
            DataError: nothing marked, a name that cannot be, a negative of an unknown class, or one too many.
        """
        if self.draft is None:
            raise DataError("Bring an image of the thing first.")
        name = clean_name(name)
        if len(self.shots) >= limits.MAX_EXAMPLES:
            raise DataError(f"The page takes {limits.MAX_EXAMPLES} examples; remove one first.")
        if name not in self.colours and len(self.colours) >= limits.MAX_CLASSES:
            known = ", ".join(self.colours)
            raise DataError(f"The page takes {limits.MAX_CLASSES} classes; use one of: {known}.")
        if negative and name not in self.colours:
            raise DataError(f"Show first what {name} is, then what it is not.")
        if box is not None:
            shot = Shot(self.draft, name, None, clean_box(box, self.draft.image), negative)
        elif mask is not None and mask.any():
            shot = Shot(self.draft, name, mask, None, negative)
        else:
            raise DataError("Nothing is marked yet: paint over the thing, or drag a box around it.")
        self._tint(name)
        self.shots.append(shot)
        self.draft = None
        self._forget()

    def remove_shot(self) -> None:
        """Drop the chosen example, and with the last one of a class also what the class is not."""
        if self.chosen_shot is None or self.chosen_shot >= len(self.shots):
            raise DataError("Choose the example that is to be removed.")
        del self.shots[self.chosen_shot]
        self.shots = [shot for shot in self.shots if shot.name in self.colours]
        self.tints = self.colours
        self._forget()

    def check_room(self, count: int) -> None:
        """Raise DataError if `count` more targets are more than the page takes."""
        if (total := len(self.targets) + count) > limits.MAX_TARGETS:
            raise DataError(
                f"The page searches {limits.MAX_TARGETS} images, these would be {total}; "
                "for a whole folder there is the command segic predict."
            )

    def add_targets(self, pictures: Sequence[Picture]) -> None:
        """Further images to search.

        Raises:
            DataError: more than the page takes; none of them is added then.
        """
        self.check_room(len(pictures))
        self.targets += [Target(picture) for picture in pictures]

    def choose_target(self, index: int) -> None:
        """Look at another one."""
        self.chosen_target = index
        self.explained = self.prepared = False

    def remove_target(self) -> None:
        """Drop the chosen target."""
        if self.chosen_target < len(self.targets):
            del self.targets[self.chosen_target]
        self.choose_target(0)

    def find(self, segmenter: Segmenter, tell: Callable[[int, int], None]) -> None:
        """Search every target that has no result yet.

        Args:
            tell: called with (done, all) before each image.

        Raises:
            DataError: no example or no target.
        """
        if not self.colours:
            raise DataError("Show first what to find: bring an image and mark the thing.")
        if not self.targets:
            raise DataError("Add images to search.")
        if self.context is None:
            examples = [shot.example() for shot in self.shots]
            self.context = segmenter.fit(examples, self.loaded) if examples else self.loaded
        context = self.context
        waiting = [target for target in self.targets if target.result is None]
        for done, target in enumerate(waiting):
            tell(done, len(waiting))
            result = segmenter.predict(target.picture.image, context)
            if self.context is not context:  # the visitor changed the examples meanwhile
                raise DataError("The examples have changed; search again.")
            target.result = result
        self.choose_target(min(self.chosen_target, len(self.targets) - 1))

    @property
    def chosen(self) -> Target | None:
        """The target to look at, if it was searched."""
        if self.chosen_target < len(self.targets) and self.targets[self.chosen_target].result is not None:
            return self.targets[self.chosen_target]
        return None

    def shown(self, result: Result) -> Result:
        """A result as the page shows it; the model does not run."""
        probability = min(max(self.probability, 0.01), 0.99)
        cut = float(np.log(probability / (1 - probability)))
        tints = tuple(self.tints[name] for name in result.names)
        return replace(result, cut=cut, keep_absent=self.keep_absent, colours=tints)

    def explain(self, segmenter: Segmenter, name: str) -> tuple[Explanation, Picture]:
        """Why the mask of a class on the chosen target is where it is, and that target.

        Raises:
            DataError: nothing was found yet, or there is no such class.
        """
        if self.chosen is None or self.context is None:
            raise DataError("Search first; then there is something to explain.")
        strongest = segmenter.config.grid**2 // 4
        for one in segmenter.explain(self.chosen.picture.image, self.context, matches=strongest):
            if one.name == name:
                return one, self.chosen.picture
        raise DataError("Choose the class that is to be explained.")

    def correct(self, name: str) -> Mask:
        """Make the chosen target the draft; the mask of the class is what there is to correct.

        Raises:
            DataError: nothing was found yet, or there is no such class.
        """
        if self.chosen is None:
            raise DataError("Search first; then there is a mask to correct.")
        result = self.shown(self.chosen.result)
        if name not in result.names:
            raise DataError("Choose the class whose mask is to be corrected.")
        self.draft = self.chosen.picture
        return result.mask(result.names.index(name))

    def _forget(self) -> None:
        self.context, self.chosen_shot = None, None
        self.explained = self.prepared = False
        for target in self.targets:
            target.result = None


def clean_name(name: str) -> str:
    """A class name without control characters and double blanks.

    Raises:
        DataError: empty or too long.
    """
    name = " ".join("".join(c if c.isprintable() else " " for c in name or "").split())
    if not name:
        raise DataError("Give the thing a name.")
    if len(name) > limits.MAX_NAME:
        raise DataError(f"The name has {len(name)} characters; the page takes {limits.MAX_NAME}.")
    return name


def clean_box(box: Box, image: RGBImage) -> Box:
    """Corners in order and inside the image.

    Raises:
        DataError: a missing number, or no area inside the image.
    """
    if any(value is None or not np.isfinite(value) for value in box):
        raise DataError("A box needs four numbers: left, top, right and bottom.")
    height, width = image.shape[:2]
    (left, right), (top, bottom) = sorted(box[0::2]), sorted(box[1::2])
    left, right = (min(max(x, 0), width) for x in (left, right))
    top, bottom = (min(max(y, 0), height) for y in (top, bottom))
    if right - left < 1 or bottom - top < 1:
        raise DataError(f"The box has no area inside the image of {width} x {height} pixels.")
    return left, top, right, bottom
