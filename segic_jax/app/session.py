"""Hold the state of one visitor: the draft, the examples, the targets and their results. No Gradio here."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import cv2
import numpy as np

from segic_jax.app import uploads
from segic_jax.config import Method
from segic_jax.errors import DataError
from segic_jax.inference.context import Context
from segic_jax.inference.example import Example
from segic_jax.inference.explain import Explanation
from segic_jax.inference.overlay import Colour, Mask, RGBImage, class_colours
from segic_jax.inference.reference import decode_preview, draw_marks
from segic_jax.inference.result import Result
from segic_jax.inference.segmenter import Segmenter

Number = float | int
Box = tuple[Number, Number, Number, Number]  # left, top, right, bottom in pixels


class NamedImage(NamedTuple):
    """Hold an image with its file name on the visitor's machine."""

    name: str
    pixels: RGBImage


@dataclass(frozen=True)
class Shot:
    """Hold one annotated image: exactly one of `mask` and `box` is set."""

    image: NamedImage
    class_name: str
    mask: Mask | None = None
    box: Box | None = None
    negative: bool = False  # it shows a look-alike of the class

    def to_example(self) -> Example:
        """Convert the shot to the library's `Example`."""
        return Example(
            self.image.pixels, self.mask, box=self.box, name=self.class_name, negative=self.negative
        )


@dataclass
class Target:
    """Hold an image to segment and its result, which serves every threshold."""

    image: NamedImage
    result: Result | None = None
    uncorrected: Result | None = None  # the result before the first correction by clicks
    corner: tuple[Number, Number] | None = None  # the first corner of a box


@dataclass
class Session:
    """Hold everything that belongs to one visitor."""

    draft: NamedImage | None = None  # the image that is being annotated
    loaded: Context | None = None  # from saved files
    shots: list[Shot] = field(default_factory=list)
    context: Context | None = None  # of `loaded` and `shots`; None until the next search
    palette: dict[str, Colour] = field(default_factory=dict)  # by class
    targets: list[Target] = field(default_factory=list)
    selected_shot: int | None = None
    selected_target: int = 0
    threshold: Number = 0.5  # a pixel above this probability belongs to the mask
    keep_absent: bool = False  # also show the masks of classes that seem to be absent
    separate: bool = False  # show and export each object of a class, not each class
    explained: bool = False  # the page shows the matches of the selected target
    exported: bool = False  # the page offers files of the selected target to download
    method: Method = "segic"  # of segmentation

    @property
    def colours(self) -> dict[str, Colour]:
        """Return the colours of all classes; classes of a loaded context come first."""
        loaded = self.loaded.names if self.loaded else ()
        names = dict.fromkeys((*loaded, *(shot.class_name for shot in self.shots if not shot.negative)))
        return {name: self.palette[name] for name in names}

    @property
    def searched_target(self) -> Target | None:
        """Return the selected target, or None if it has no result yet."""
        if self.selected_target < len(self.targets):
            target = self.targets[self.selected_target]
            return target if target.result is not None else None
        return None

    def reference_image(self, index: int) -> tuple[RGBImage, float]:
        """Return an image of `Context.references` with its masks, and its scale relative to the original.

        A loaded context holds only previews; they are enlarged up to `uploads.MAX_SIDE`.
        """
        image, scale = self._plain_reference(index)
        assert self.context is not None
        return draw_marks(image, self.context.references[index].marks, self.colours), scale

    def _plain_reference(self, index: int) -> tuple[RGBImage, float]:
        loaded = self.loaded.references if self.loaded else ()
        if index < len(loaded):
            scale = min(1.0, uploads.MAX_SIDE / max(loaded[index].size))
            height, width = (max(1, round(scale * side)) for side in loaded[index].size)
            preview = decode_preview(loaded[index])
            return cv2.resize(preview, (width, height), interpolation=cv2.INTER_CUBIC), scale
        # `Segmenter.fit` lists an image once, however many shots it has.
        uploaded = list({id(shot.image.pixels): shot.image.pixels for shot in self.shots}.values())
        return uploaded[index - len(loaded)], 1.0

    # Examples and classes.

    def load_context(self, context: Context, file_name: str) -> None:
        """Add the classes of a saved context, and drop all results.

        Raises:
            DataError: the context has too many classes, or an invalid class name.
        """
        for name in context.names:
            clean_name(name)
        total = {*self.colours, *context.names}
        if len(total) > uploads.MAX_CLASSES:
            raise DataError(
                f"{file_name} would bring the number of classes to {len(total)}; "
                f"the limit is {uploads.MAX_CLASSES}."
            )
        for name in context.names:
            self._assign_colour(name)
        self.loaded = context if self.loaded is None else self.loaded + context
        self._drop_results()

    def add_shot(self, class_name: Any, mask: Mask | None, box: Box | None, negative: bool = False) -> None:
        """Turn the draft into an example of a class, and drop all results.

        Raises:
            DataError: nothing is annotated, the class name is invalid, a negative example names an unknown
                class, or a limit is exceeded.
        """
        if self.draft is None:
            raise DataError("Add an image of the object first.")
        class_name = clean_name(class_name)
        if len(self.shots) >= uploads.MAX_EXAMPLES:
            raise DataError(f"The limit is {uploads.MAX_EXAMPLES} examples; remove one first.")
        if class_name not in self.colours and len(self.colours) >= uploads.MAX_CLASSES:
            names = ", ".join(self.colours)
            raise DataError(f"The limit is {uploads.MAX_CLASSES} classes; use one of: {names}.")
        if negative and class_name not in self.colours:
            raise DataError(f"Add an example of {class_name} before a look-alike of it.")
        if box is not None:
            box = clean_box(box, self.draft.pixels)
            shot = Shot(self.draft, class_name, box=box, negative=negative)
        elif mask is not None and mask.any():
            shot = Shot(self.draft, class_name, mask=mask, negative=negative)
        else:
            raise DataError("Nothing is marked yet: paint over the object, or drag a box around it.")
        self._assign_colour(class_name)
        self.shots.append(shot)
        self.draft = None
        self._drop_results()

    def remove_shot(self) -> None:
        """Remove the selected example; a class that loses its last example loses its negatives as well.

        Raises:
            DataError: no example is selected.
        """
        if self.selected_shot is None or self.selected_shot >= len(self.shots):
            raise DataError("Select the example to remove.")
        del self.shots[self.selected_shot]
        self.shots = [shot for shot in self.shots if shot.class_name in self.colours]
        self.palette = self.colours
        self._drop_results()

    def remove_class(self, name: Any) -> None:
        """Remove a class with all its examples, and drop all results.

        Raises:
            DataError: there is no such class.
        """
        if name not in self.colours:
            raise DataError("Select the class to remove.")
        self.shots = [shot for shot in self.shots if shot.class_name != name]
        if self.loaded and name in self.loaded.names:
            rest = self.loaded.drop(name)
            self.loaded = rest if rest.names else None
        del self.palette[name]
        self._drop_results()

    def set_colour(self, name: Any, colour: Any) -> None:
        """Change the colour of a class in everything that is drawn.

        Args:
            colour: "#rrggbb".

        Raises:
            DataError: there is no such class, or the colour is malformed.
        """
        if name not in self.colours or not re.fullmatch("#[0-9a-fA-F]{6}", colour or ""):
            raise DataError("Select a class and a colour.")
        red, green, blue = bytes.fromhex(colour[1:])
        self.palette[name] = (red, green, blue)
        self.exported = False

    def _assign_colour(self, name: str) -> None:
        """Give a new class the first colour that no other class has."""
        if name not in self.palette:
            used = self.palette.values()
            self.palette[name] = next(c for c in class_colours(len(used) + 1) if c not in used)

    def _drop_results(self) -> None:
        self.context, self.selected_shot = None, None
        self.explained = self.exported = False
        for target in self.targets:
            target.result = target.uncorrected = target.corner = None

    # Targets.

    def check_target_count(self, count: int) -> None:
        """Raise DataError if `count` more targets would exceed the limit."""
        if (total := len(self.targets) + count) > uploads.MAX_TARGETS:
            raise DataError(
                f"The page segments at most {uploads.MAX_TARGETS} images, and these would be {total}; "
                "for a whole folder, use the command segic predict."
            )

    def add_targets(self, images: Sequence[NamedImage]) -> None:
        """Add images to segment.

        Raises:
            DataError: the limit would be exceeded; then none of them is added.
        """
        self.check_target_count(len(images))
        self.targets += [Target(image) for image in images]

    def select_target(self, index: int) -> None:
        """Show another target."""
        self.selected_target = index
        self.explained = self.exported = False

    def remove_target(self) -> None:
        """Remove the selected target."""
        if self.selected_target < len(self.targets):
            del self.targets[self.selected_target]
        self.select_target(0)

    # Results.

    def choose_method(self, method: Method) -> None:
        """Segment with another method from now on, and drop all results.

        Raises:
            DataError: a loaded context belongs to the method before.
        """
        if method == self.method:
            return
        if self.loaded is not None:
            raise DataError("The loaded context was made with the other method: remove its classes first.")
        self.method = method
        self._drop_results()

    def segment(self, segmenter: Segmenter, report: Callable[[int, int], None]) -> None:
        """Segment every target that has no result yet.

        Args:
            report: is called with (done, total) before each target.

        Raises:
            DataError: there is no example or no target.
        """
        if not self.colours:
            raise DataError("Add an example first: choose an image and mark the object in it.")
        if not self.targets:
            raise DataError("Add images to search.")
        if self.context is None:
            examples = [shot.to_example() for shot in self.shots]
            self.context = segmenter.fit(examples, self.loaded) if examples else self.loaded
        context = self.context
        waiting = [target for target in self.targets if target.result is None]
        for done, target in enumerate(waiting):
            report(done, len(waiting))
            result = segmenter.predict(target.image.pixels, context)
            if self.context is not context:  # another request of this visitor changed the examples meanwhile
                raise DataError("The examples have changed; search again.")
            target.result = result
        self.select_target(min(self.selected_target, len(self.targets) - 1))

    def styled(self, result: Result) -> Result:
        """Return a result with the visitor's threshold and colours; the model does not run."""
        probability = min(max(self.threshold, 0.01), 0.99)
        cut = float(np.log(probability / (1 - probability)))
        colours = tuple(self.palette[name] for name in result.names)
        shown = {"keep_absent": self.keep_absent, "separate": self.separate}
        return replace(result, cut=cut, colours=colours, **shown)

    def explain(self, segmenter: Segmenter, class_name: str) -> tuple[Explanation, NamedImage]:
        """Explain the mask of a class on the selected target; return the target's image as well.

        Raises:
            DataError: the target has no result yet, or there is no such class.
        """
        target = self.searched_target
        if target is None or self.context is None:
            raise DataError("Search first; there is no result to explain yet.")
        strongest = segmenter.config.grid**2 // 4
        for explanation in segmenter.explain(target.image.pixels, self.context, matches=strongest):
            if explanation.name == class_name:
                return explanation, target.image
        raise DataError("Select the class to explain.")

    def click(
        self, segmenter: Segmenter, class_name: Any, point: tuple[Number, Number], inside: bool
    ) -> None:
        """Correct the mask of a class on the selected target: the point is inside the object, or it is not.

        Raises:
            DataError: the target has no result yet, there is no such class, or the point is outside.
        """
        self._refine(segmenter, class_name, points=[(*point, inside)])

    def corner_click(self, segmenter: Segmenter, class_name: Any, point: tuple[Number, Number]) -> None:
        """Take the first corner of a box around the object, or with the second one correct the mask.

        Raises:
            DataError: as `click`, or the box has no area.
        """
        target = self.searched_target
        if target is None or target.corner is None:
            if target is not None:
                target.corner = point
            return
        box, target.corner = clean_box((*target.corner, *point), target.image.pixels), None
        self._refine(segmenter, class_name, box=box)

    def _refine(self, segmenter: Segmenter, class_name: Any, **corrections) -> None:
        target = self.searched_target
        if target is None or target.result is None:
            raise DataError("Search first; there is no mask to correct yet.")
        if class_name not in target.result.names:
            raise DataError("Select the class whose mask you want to correct.")
        before = target.result
        refined = segmenter.refine(before, name=class_name, **corrections)
        target.result, target.uncorrected = refined, target.uncorrected or before
        self.exported = False

    def undo_clicks(self) -> None:
        """Return to the result of the selected target before the first correction."""
        target = self.searched_target
        if target is not None:
            target.result, target.uncorrected, target.corner = target.uncorrected or target.result, None, None
            self.exported = False

    def correct(self, class_name: Any) -> Mask:
        """Make the selected target the draft, and return the predicted mask of a class to start from.

        Raises:
            DataError: the target has no result yet, or there is no such class.
        """
        target = self.searched_target
        if target is None or target.result is None:
            raise DataError("Search first; there is no mask to correct yet.")
        result = self.styled(target.result)
        if class_name not in result.names:
            raise DataError("Select the class whose mask you want to correct.")
        self.draft = target.image
        return result.mask(result.names.index(class_name))


def clean_name(name: Any) -> str:
    """Return a class name without control characters and repeated spaces.

    Raises:
        DataError: the name is empty or too long.
    """
    name = " ".join("".join(c if c.isprintable() else " " for c in name or "").split())
    if not name:
        raise DataError("Enter a class name.")
    if len(name) > uploads.MAX_NAME:
        raise DataError(f"The class name has {len(name)} characters; the limit is {uploads.MAX_NAME}.")
    return name


def clean_box(box: tuple, image: RGBImage) -> Box:
    """Return the box with its corners in order and inside the image.

    Raises:
        DataError: a number is missing, or the box has no area inside the image.
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
