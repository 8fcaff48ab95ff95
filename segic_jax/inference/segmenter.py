"""The practitioner's API: images of any size in, masks of the same size out.

    seg = Segmenter.load()
    ctx = seg.fit([Example("cat.jpg", "cat.png", name="cat")])
    result = seg.predict("street.jpg", ctx)

`fit` reads the examples once and gives a Context; `predict` segments any number of targets with it. The
programs see images on the canvas and classes in slots: neither sizes nor numbers make them compile again.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from segic_jax.config import to_dict
from segic_jax.data.preprocess import CanvasImage, resize_and_pad
from segic_jax.errors import DataError
from segic_jax.inference.context import Concept, Context, in_slots, joined, read_context
from segic_jax.inference.engine import Engine, ImageFeatures
from segic_jax.inference.example import (
    Example,
    ImageLike,
    Targets,
    as_image,
    listed,
    require_iterable,
    source_of,
)
from segic_jax.inference.explain import Explanation, explanation
from segic_jax.inference.matching import ConceptMatches, ConceptSlots, cells_on_image
from segic_jax.inference.overlay import class_colours
from segic_jax.inference.presence import calibration_of, judged, settle
from segic_jax.inference.references import Read, by_image, read, taught
from segic_jax.inference.result import Result
from segic_jax.runtime.prefetch import prefetch
from segic_jax.weights.bundle import Bundle, load_bundle
from segic_jax.weights.fetch import find


class Segmenter:
    """A model on JAX's default device, ready to take references.

    `bundle` holds its weights and notes, `config` the sizes of the network.
    """

    def __init__(self, bundle: Bundle):
        self.bundle = bundle
        self.config = bundle.config
        self.engine = Engine(bundle, [*jax.device_put(0).devices()])
        self._calibration = calibration_of(bundle.notes)
        self._slots: WeakKeyDictionary[Context, list[ConceptSlots]] = WeakKeyDictionary()

    @classmethod
    def load(cls, weights: Path | str = "") -> "Segmenter":
        """Read a model and put it on the device.

        Args:
            weights: a model file, or a name of `segic weights list` that was fetched; "" is the small model
                of the package.

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
        return self._calibration is not None

    def fit(
        self,
        examples: Example | Iterable[Example],
        onto: Context | None = None,
        *,
        class_names: bool = False,
    ) -> Context:
        """Learn what to look for.

        Args:
            examples: of any number of classes, in any order; the same name again is another shot.
            onto: a Context that the examples are added to; negatives may speak against its classes.
            class_names: also tell the model the names as text, where it has a text tower.

        Raises:
            DataError: no positive example of a class, or one that cannot be used (`Example.object_on`).
            BundleError: `class_names`, and the model cannot read them.
        """
        single = isinstance(examples, Example)
        examples = [examples] if single else list(require_iterable(examples, "fit takes examples"))
        if not all(isinstance(example, Example) for example in examples):
            raise DataError("fit takes examples: fit([Example(image, mask, name=...), ...]).")
        names = tuple(dict.fromkeys(e.name for e in examples if not e.negative))
        known = tuple(dict.fromkeys((*(onto.names if onto else ()), *names)))
        if not known:
            raise DataError("fit needs at least one positive example.")
        for example in examples:
            if example.name is not None and example.name not in known:
                raise DataError(
                    f"{example.source}: a negative example of '{example.name}', which has no positive one."
                )
        text = self.bundle.text_features(names if class_names else [""] * len(names)) if names else []
        parts: dict[str | None, list[Concept]] = {name: [] for name in names}
        negatives, references = [], []
        with ThreadPoolExecutor(2) as pool:
            for group, future in prefetch(pool, self._read, by_image(examples), 4):
                shown = future.result()
                features = self.engine.features([shown.placed], 1)
                for row, example in enumerate(group):
                    part = taught(self.engine, features, shown, row, len(references))
                    if example.negative:
                        against = known if example.name is None else (example.name,)
                        negatives.append(replace(part, text=self.bundle.text_feature(), against=against))
                    else:
                        parts[example.name].append(part)
                references.append(shown.reference)
        concepts = tuple(
            joined([replace(part, name=name, text=feature) for part in parts[name]])
            for name, feature in zip(names, text, strict=True)
        )
        made = Context(self.fingerprint, concepts, tuple(negatives), tuple(references))
        return made if onto is None else onto + made

    def load_context(self, path: Path | str) -> Context:
        """A Context that `Context.save` wrote.

        Raises:
            DataError: not such a file, or made with another model.
        """
        context = read_context(path)
        self._require_own(context, str(path))
        return context

    def predict(self, target: ImageLike, context: Context, *, keep_absent: bool = False) -> Result:
        """Segment one image.

        Args:
            target: a path, a uint8 RGB array [height, width, 3] or a PIL image, of any size up to 178
                million pixels.
            context: of `fit` or `load_context`, with at least one class.
            keep_absent: give a mask to classes that seem to be absent, too.

        Returns:
            Masks, label map and presence at the target's own size, a row for each class of the Context.

        Raises:
            DataError: an image that cannot be read, a Context of another model, or one without a class.
        """
        self._require_usable(context)
        return self._results([self._placed(target)], context, keep_absent, 1)[0]()

    def predict_many(
        self,
        targets: Targets,
        context: Context,
        *,
        keep_absent: bool = False,
        on_error: Callable[[ImageLike, DataError], None] | None = None,
    ) -> Iterator[Result]:
        """Segment one image after another, in order, while others are read and finished in threads.

        Each Result holds its image: take what you need of it and let it go.

        Args:
            targets: images in a list or from an iterator, or a folder (its images by name).
            on_error: called with a target that cannot be read, which is then left out; otherwise its error is
                raised after the results before it.

        Raises:
            DataError: as `predict`, or a folder without images.
        """
        self._require_usable(context)
        return self._stream(iter(listed(targets)), context, keep_absent, on_error)

    def explain(self, target: ImageLike, context: Context, *, matches: int = 24) -> list[Explanation]:
        """For each class: where the target looks like the examples, and which parts look like which.

        Args:
            matches: how many of the strongest to list for a class, at most one for each cell of the grid.

        Raises:
            DataError: as `predict`.
        """
        self._require_usable(context)
        shown = self._placed(target)
        features = self.engine.features([shown.placed], 1)
        found = self.engine.match_patches(features, self._slots_of(context))
        heat, best, which = (np.concatenate(parts) for parts in zip(*found, strict=True))
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

    def judge(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        placed: CanvasImage,
        features: ImageFeatures,
        context: Context,
        logits: Float[Array, "rows side side"],
        *,
        keep_absent: bool = False,
    ) -> Callable[[], Result]:
        """Start to judge masks that come from elsewhere, as those of `predict` are; the function waits.

        Args:
            image, placed: the target, and the same on the canvas.
            features: of it.
            logits: of the classes, at 4 x grid; what is beyond their number is not read.
        """
        self._require_usable(context)
        found = self.engine.match_concepts(features, self._slots_of(context))
        return lambda: self._result(found, 0, _Target(image, None, placed), context, keep_absent, logits)

    def _placed(self, target: ImageLike) -> "_Target":
        image = as_image(target)
        empty = np.zeros((0, *image.shape[:2]), bool)
        return _Target(image, source_of(target), resize_and_pad(image, empty, self.config.canvas))

    def _read(self, group: Sequence[Example]) -> Read:
        return read(group, self.config.canvas)

    def _results(
        self, targets: Sequence["_Target"], context: Context, keep_absent: bool, batch: int
    ) -> list[Callable[[], Result]]:
        """Start the device; each function waits for its result and makes the masks."""
        if not targets:
            return []
        features = self.engine.features([target.placed for target in targets], batch)
        found = self.engine.match_concepts(features, self._slots_of(context))
        return [
            lambda row=row, target=target: self._result(found, row, target, context, keep_absent)
            for row, target in enumerate(targets)
        ]

    def _result(
        self,
        found: Sequence[ConceptMatches],
        row: int,
        target: "_Target",
        context: Context,
        keep_absent: bool,
        logits=None,
    ) -> Result:
        """Of one row of a batch, whose concepts were found in several chunks."""
        whole = jax.tree.map(lambda *parts: np.concatenate([np.asarray(part)[row] for part in parts]), *found)
        classes = len(context.names)
        if logits is not None:  # instead of those that were found
            own = np.asarray(logits)[:classes]
            whole = whole._replace(logits=np.concatenate([own, whole.logits[classes:]]))
        against = [
            [classes + i for i, one in enumerate(context.negatives) if name in one.against]
            for name in context.names
        ]
        on_image = cells_on_image(np.array(target.placed.size), self.config.canvas, self.config.grid)
        settled, evidence = settle(whole, against, list(context.shots.values()), on_image)
        presence, present = judged(self._calibration, evidence)
        made = Result(
            names=context.names,
            presence=presence,
            present=present,
            evidence=evidence,
            image=target.image,
            source=target.source,
            small_logits=settled,
            canvas=self.config.canvas,
            placed=target.placed.size,
            colours=class_colours(classes),
            keep_absent=keep_absent,
        )
        made.areas  # noqa: B018 - measure it here, in the caller's thread
        return made

    def _stream(self, targets: Iterator[ImageLike], context, keep_absent, on_error) -> Iterator[Result]:
        batch = self.engine.rows
        group: list[_Target] = []
        finishing: deque[Future[Result]] = deque()
        failed: DataError | None = None
        with ThreadPoolExecutor(4) as pool, closing(prefetch(pool, self._placed, targets, 2 * batch)) as read:
            try:
                for target, future in read:
                    try:
                        group.append(future.result())
                    except DataError as error:
                        if on_error is None:
                            failed = error
                            break
                        on_error(target, error)
                    if len(group) == batch:
                        finishing += self._submitted(pool, group, context, keep_absent, batch)
                        group = []
                    while len(finishing) > 2 * batch:
                        yield finishing.popleft().result()
                finishing += self._submitted(pool, group, context, keep_absent, batch)
                while finishing:
                    yield finishing.popleft().result()
            finally:  # an error, Ctrl-C, or nobody wants the rest
                for future in finishing:
                    future.cancel()
        if failed is not None:
            raise failed

    def _submitted(self, pool, group, context, keep_absent, batch) -> list[Future[Result]]:
        return [pool.submit(finish) for finish in self._results(group, context, keep_absent, batch)]

    def _slots_of(self, context: Context) -> list[ConceptSlots]:
        """On the device, made once for a Context."""
        if context not in self._slots:
            self._slots[context] = self.engine.place(in_slots((*context.concepts, *context.negatives)))
        return self._slots[context]

    def _require_own(self, context: Context, what: str) -> None:
        own = (self.config.vit.width, self.config.text_width)
        fits = all((one.visual.shape[1], len(one.text)) == own for one in context.concepts)
        if context.model != self.fingerprint or not fits:
            raise DataError(f"{what} belongs to another model than {self.name}: fit its examples again.")

    def _require_usable(self, context: Context) -> None:
        if not isinstance(context, Context):
            raise DataError(f"A Context of fit or load_context is needed, not {type(context).__name__}.")
        self._require_own(context, "The context")
        if not context.names:
            raise DataError("The context has no class: fit an example.")


class _Target(NamedTuple):
    image: UInt8[np.ndarray, "height width 3"]
    source: str | None
    placed: CanvasImage
