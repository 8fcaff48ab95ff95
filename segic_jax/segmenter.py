"""The practitioner's API: pictures of any size in, masks of the same size out.

    seg = Segmenter.load()
    ctx = seg.fit([Example("cat.jpg", "cat.png", name="cat")])
    result = seg.predict("street.jpg", ctx)

`fit` reads the examples once and gives a Context; `predict` segments any number of targets with it. The
programs see pictures on the canvas and classes in slots: neither sizes nor numbers make them compile again.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import cv2
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8
from PIL.Image import Image

from segic_jax import programs
from segic_jax.config import to_dict
from segic_jax.context import Concept, Context, Reference, in_slots, joined, read_context, thinned
from segic_jax.data.canvas import Placed, resize_and_pad
from segic_jax.data.episodes import DataError
from segic_jax.data.files import ENDINGS
from segic_jax.example import Example, Picture, as_picture, source_of
from segic_jax.explain import Explanation, explanation
from segic_jax.finding import INSIDE, NEGATIVE, OUTSIDE, PATCHES, Slots
from segic_jax.presence import UNCALIBRATED, calibration_of
from segic_jax.result import Result
from segic_jax.weights.bundle import Bundle, load_bundle
from segic_jax.weights.fetch import find

ROWS = 16  # classes decoded at a time
PREVIEW = 160  # longer side of the preview of a reference

Targets = Picture | Iterable[Picture]


class Segmenter:
    """A model on the default device, ready to take references."""

    def __init__(self, bundle: Bundle):
        self.bundle = bundle
        self.config = bundle.config
        self._backbone, self._head = jax.device_put((bundle.backbone, bundle.head))
        self._calibration = calibration_of(bundle.notes) or UNCALIBRATED
        self._slots: WeakKeyDictionary[Context, Slots] = WeakKeyDictionary()

    @classmethod
    def load(cls, weights: Path | str = "") -> "Segmenter":
        """With a model file, or a name of `segic weights list`; by default the small model of the package.

        Raises:
            FetchError: known weights that are not here yet, or an unknown name.
            BundleError: the file is damaged, of another kind, or no whole model.
        """
        return cls(load_bundle(find(weights)))

    @property
    def name(self) -> str:
        """The weights' file name."""
        return self.bundle.name

    @property
    def calibrated(self) -> bool:
        """Whether "absent" is decided; otherwise every class counts as present."""
        return self._calibration is not UNCALIBRATED

    def fit(self, examples: Example | Iterable[Example], *, class_names: bool = False) -> Context:
        """Learn what to look for.

        Args:
            examples: of any number of classes, in any order; the same name again is another shot.
            class_names: also tell the model the names as text, where it has a text tower.

        Raises:
            DataError: no positive example of a class, or an example that cannot be read (`Example.read`).
            BundleError: `class_names`, and the model cannot read them.
        """
        examples = [examples] if isinstance(examples, Example) else list(examples)
        if not all(isinstance(example, Example) for example in examples):
            raise DataError("fit takes examples: fit([Example(picture, mask, name=...), ...]).")
        names = tuple(dict.fromkeys(e.name for e in examples if not e.negative))
        if not names:
            raise DataError("fit needs at least one positive example.")
        for example in examples:
            if example.name is not None and example.name not in names:
                raise DataError(
                    f"{example.source}: a negative example of '{example.name}', which has no positive one."
                )
        text = self.bundle.text_features(names if class_names else [""] * len(names))
        parts: dict[str | None, list[Concept]] = {name: [] for name in names}
        on_picture: dict[str | int, list[Example]] = {}
        for example in examples:
            on_picture.setdefault(source_of(example.image) or id(example.image), []).append(example)
        references = []
        for index, together in enumerate(on_picture.values()):
            image = as_picture(together[0].image)
            references.append(_reference(together[0], image))
            masks = np.stack([example.object_on(image) for example in together])
            placed = resize_and_pad(image, masks, self.config.canvas)
            features = self.features(placed)
            for row, example in enumerate(together):
                on_canvas = _at_least_a_pixel(placed.masks[row], masks[row], placed.size)
                part = self._seen(features, on_canvas, placed.size, image.shape[:2], index, example.negative)
                for name in [example.name] if example.name else names:
                    parts[name].append(part)
        concepts = tuple(
            joined([replace(part, name=name, text=feature) for part in parts[name]])
            for name, feature in zip(names, text, strict=True)
        )
        return Context(self.fingerprint, concepts, tuple(references))

    def load_context(self, path: Path | str) -> Context:
        """A Context that `Context.save` wrote.

        Raises:
            DataError: not such a file, or made with another model.
        """
        context = read_context(path)
        self._require_own(context, str(path))
        return context

    def predict(self, target: Picture, context: Context, *, keep_absent: bool = False) -> Result:
        """Segment one picture.

        Args:
            keep_absent: give a mask to classes that seem to be absent, too.

        Raises:
            DataError: a file that cannot be read, or a Context of another model.
        """
        self._require_usable(context)
        return self._results([self._placed(target)], context, keep_absent, 1)[0]()

    def predict_many(
        self,
        targets: Targets,
        context: Context,
        *,
        keep_absent: bool = False,
        on_error: Callable[[Picture, DataError], None] | None = None,
    ) -> Iterator[Result]:
        """Segment one picture after another, in order, while others are read and finished in threads.

        Each Result holds its picture: take what you need of it and let it go.

        Args:
            targets: pictures in a list or from an iterator, or a folder (its pictures by name).
            on_error: called with a target that cannot be read, which is then left out; otherwise its error is
                raised after the results before it.

        Raises:
            DataError: as `predict`, or a folder without pictures.
        """
        self._require_usable(context)
        return self._stream(iter(listed(targets)), context, keep_absent, on_error)

    def explain(self, target: Picture, context: Context, *, matches: int = 24) -> list[Explanation]:
        """For each class: where the target looks like the examples, and which parts look like which.

        Args:
            matches: how many of the strongest to list for a class.

        Raises:
            DataError: as `predict`.
        """
        self._require_usable(context)
        shown = self._placed(target)
        found = programs.match(self.config, self.features(shown.placed), self._slots_of(context))
        heat, best, which = map(np.asarray, found)
        own, patch = shown.image.shape[:2], self.config.vit.patch_size
        return [
            explanation(context, i, shown.placed, own, patch, heat[i], best[i], which[i], matches)
            for i in range(len(context.names))
        ]

    @cached_property
    def fingerprint(self) -> str:
        """Of what a Context depends on besides its references: backbone and canvas, not the head.

        Of each tensor a few thousand numbers are read: gigabytes would take seconds.
        """
        config = to_dict(self.config)
        digest = hashlib.sha256(json.dumps([config["vit"], config["canvas"]]).encode())
        for name in sorted(self.bundle.backbone):
            flat = self.bundle.backbone[name].reshape(-1)
            digest.update(np.asarray(flat[:: max(1, len(flat) // 4096)]).tobytes())
        return digest.hexdigest()

    def features(self, placed: Placed) -> Float[Array, "1 g g channels"]:
        """Backbone features of a picture on the canvas."""
        sizes = np.array([placed.size], np.int32)
        return programs.extract(self.config, self._backbone, placed.image[None], sizes)

    def _seen(
        self,
        features: Float[Array, "1 g g channels"],
        mask: Bool[np.ndarray, "S S"],
        placed: tuple[int, int],
        own: tuple[int, int],
        reference: int,
        negative: bool,
    ) -> Concept:
        """What one example teaches; a Concept that has no name yet.

        Args:
            mask: on the canvas.
            placed, own: (height, width) of the picture on the canvas and in the file.
            reference: its place in `Context.references`.
        """
        shown = jax.tree.map(np.asarray, programs.show(features, mask, np.array(placed, np.int32)))
        vectors, patch = np.asarray(features)[0], self.config.vit.patch_size
        groups = (
            [(NEGATIVE, shown.inside)]
            if negative
            else [(INSIDE, shown.inside), (OUTSIDE, shown.valid & ~shown.inside)]
        )
        patches, kinds, places = [], [], []
        for kind, chosen in groups:
            at = np.argwhere(chosen)
            at = at[thinned(np.arange(len(at)), PATCHES)]
            patches.append(vectors[at[:, 0], at[:, 1]])
            kinds.append(np.full(len(at), kind, np.uint8))
            centre = (at + 0.5) * patch * np.array(own) / np.array(placed)
            y, x = np.minimum(centre, np.array(own) - 1).T
            places.append(np.column_stack([np.full(len(at), reference), x, y]).astype(np.int32))
        cells = np.concatenate(patches)
        cells /= np.maximum(np.linalg.norm(cells, axis=-1, keepdims=True), 1e-8)
        return Concept(
            name="",
            visual=shown.visual[None][: 0 if negative else 1],
            text=np.zeros(0, np.float32),
            patches=(cells / np.maximum(np.linalg.norm(cells, axis=-1, keepdims=True), 1e-8)).astype(
                np.float16
            ),
            kind=np.concatenate(kinds),
            place=np.concatenate(places),
        )

    def _placed(self, target: Picture) -> "_Target":
        image = as_picture(target)
        empty = np.zeros((0, *image.shape[:2]), bool)
        return _Target(image, source_of(target), resize_and_pad(image, empty, self.config.canvas))

    def _results(
        self, targets: Sequence["_Target"], context: Context, keep_absent: bool, batch: int
    ) -> list[Callable[[], Result]]:
        """Start the device; each function waits for its result and makes the masks."""
        canvas = self.config.canvas
        images = np.zeros((batch, canvas, canvas, 3), np.uint8)
        sizes = np.full((batch, 2), canvas, np.int32)
        for row, target in enumerate(targets):
            images[row], sizes[row] = target.placed.image, target.placed.size
        features = programs.extract(self.config, self._backbone, images, sizes)
        slots = self._slots_of(context)
        count = len(context.names)
        chunk = min(slots.patches.shape[0], ROWS)
        found = [
            programs.find(
                self.config,
                self._head,
                features,
                sizes,
                slots,
                np.arange(start, start + chunk, dtype=np.int32),
            )
            for start in range(0, count, chunk)
        ]

        def result(row: int, target: _Target) -> Result:
            logits = np.concatenate([np.asarray(part.logits)[row] for part in found])[:count]
            evidence = np.concatenate([np.asarray(part.evidence)[row] for part in found])[:count]
            presence = self._calibration.presence(evidence)
            made = Result(
                names=context.names,
                presence=presence,
                present=self._calibration.present(presence),
                image=target.image,
                source=target.source,
                small_logits=logits,
                canvas=canvas,
                placed=target.placed.size,
                keep_absent=keep_absent,
            )
            made.areas  # noqa: B018 - measure it here, in the caller's thread
            return made

        return [lambda row=row, target=target: result(row, target) for row, target in enumerate(targets)]

    def _stream(self, targets: Iterator[Picture], context, keep_absent, on_error) -> Iterator[Result]:
        batch = 1 if jax.default_backend() == "cpu" else 8
        with ThreadPoolExecutor(4) as pool:
            reading: deque = deque()
            finishing: deque = deque()
            try:
                while True:
                    while len(reading) < 2 * batch and (target := next(targets, None)) is not None:
                        reading.append((target, pool.submit(self._placed, target)))
                    if not reading:
                        break
                    group = []
                    while reading and len(group) < batch:
                        target, future = reading.popleft()
                        try:
                            group.append(future.result())
                        except DataError as error:
                            if on_error is None:
                                finishing += self._submitted(pool, group, context, keep_absent, batch)
                                while finishing:
                                    yield finishing.popleft().result()
                                raise
                            on_error(target, error)
                    finishing += self._submitted(pool, group, context, keep_absent, batch)
                    while len(finishing) > 2 * batch:
                        yield finishing.popleft().result()
                while finishing:
                    yield finishing.popleft().result()
            finally:  # an error, Ctrl-C, or nobody wants the rest
                for future in chain((future for _, future in reading), finishing):
                    future.cancel()

    def _submitted(self, pool, group, context, keep_absent, batch) -> list:
        if not group:
            return []
        return [pool.submit(finish) for finish in self._results(group, context, keep_absent, batch)]

    def _slots_of(self, context: Context) -> Slots:
        """On the device, made once for a Context."""
        if context not in self._slots:
            self._slots[context] = jax.device_put(in_slots(context.concepts))
        return self._slots[context]

    def _require_own(self, context: Context, what: str) -> None:
        if context.model != self.fingerprint:
            raise DataError(f"{what} belongs to another model than {self.name}: fit its examples again.")

    def _require_usable(self, context: Context) -> None:
        self._require_own(context, "The context")
        if not context.names:
            raise DataError("The context has no class: fit an example.")


class _Target(NamedTuple):
    image: UInt8[np.ndarray, "height width 3"]
    source: str | None
    placed: Placed


def listed(targets: Targets) -> Iterable[Picture]:
    """One picture, a folder's pictures by name, or whatever the iterable gives.

    Raises:
        DataError: a folder without pictures.
    """
    if isinstance(targets, (str, Path)):
        folder = Path(targets)
        if not folder.is_dir():
            return [targets]
        inside = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
        if not inside:
            raise DataError(f"{folder} holds no picture ({', '.join(ENDINGS)}).")
        return inside
    if isinstance(targets, Image) or (isinstance(targets, np.ndarray) and targets.ndim == 3):
        return [targets]
    return targets


def _at_least_a_pixel(
    on_canvas: Bool[np.ndarray, "S S"], mask: Bool[np.ndarray, "height width"], placed: tuple[int, int]
) -> Bool[np.ndarray, "S S"]:
    """A mask that was lost in shrinking becomes the canvas pixel at its middle."""
    if not on_canvas.any():
        middle = [np.median(one) for one in np.nonzero(mask)]
        y, x = (int(at * small / side) for at, small, side in zip(middle, placed, mask.shape, strict=True))
        on_canvas[y, x] = True
    return on_canvas


def _reference(example: Example, image: np.ndarray) -> Reference:
    scale = min(1, PREVIEW / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes()
    return Reference(source_of(example.image) or "", image.shape[:2], jpeg)
