"""Predict targets with an engine: read them ahead, start them in batches, and make their results.

`Segmenter` is what users call; a Predictor does what all of its calls have in common.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import NamedTuple, NoReturn
from weakref import WeakKeyDictionary

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from segic_jax.data.images import ImageLike, as_image, source_path
from segic_jax.data.preprocess import CanvasImage
from segic_jax.errors import ConfigError, DataError
from segic_jax.inference.context import Context, concept_slots
from segic_jax.inference.engine import Engine, ImageFeatures, padded_concepts
from segic_jax.inference.explain import Explanation, explain_classes
from segic_jax.inference.image_logits import require_cut
from segic_jax.inference.instances import DEFAULT_INSTANCES, InstancesFrom, require_instances
from segic_jax.inference.matching import ConceptMatches, ConceptSlots, image_matches, patches_on_image
from segic_jax.inference.methods import placing
from segic_jax.inference.overlay import class_colours
from segic_jax.inference.presence import Calibration, apply_negatives, decide_presence
from segic_jax.inference.result import Result
from segic_jax.inference.tiles import Tiles, match_tiles, plan_tiles, require_tiles
from segic_jax.inference.training_free.engine import ReferenceSlots, TrainingFreeEngine
from segic_jax.models.encoding import Prototypes
from segic_jax.runtime.prefetch import prefetch

THREADS = 4  # that read images, and as many that make results


class Request(NamedTuple):
    """Hold what a call asks about its targets."""

    context: Context
    cut: float
    keep_absent: bool
    everyone: Prototypes | None = None  # of all concepts, where they read each other's tokens
    tiles: Tiles | None = None
    instances: InstancesFrom | None = None


class Target(NamedTuple):
    """Hold a target at its size and on the canvas."""

    image: UInt8[np.ndarray, "height width 3"]
    source: str | None
    placed: CanvasImage


class Predictor:
    """Hold an engine, and the concepts of Contexts on its device."""

    def __init__(
        self,
        engine: Engine,
        calibration: Calibration | None,
        notes: tuple[str, ...],
        *,
        rounded_canvas: bool = True,
    ):
        """Describe how results are made.

        Args:
            calibration: of presence; None takes every class for present.
            notes: sentences about the weights, for the results.
            rounded_canvas: round resized images to uint8.
        """
        self.engine = engine
        self._calibration, self._notes, self._rounded = calibration, notes, rounded_canvas
        self._place = placing(engine, rounded=rounded_canvas)
        self._slots: WeakKeyDictionary[Context, list[ConceptSlots]] = WeakKeyDictionary()
        self._joined: WeakKeyDictionary[Context, Prototypes] = WeakKeyDictionary()

    def request(
        self,
        context: Context,
        cut: float,
        keep_absent: bool,
        together: bool,
        tiles: Tiles | None,
        instances: InstancesFrom | None,
    ) -> Request:
        """Check what a call asks; see `Segmenter.predict`.

        Raises:
            ConfigError: an argument cannot be used.
        """
        require_cut(cut)
        require_tiles(tiles)
        require_instances(instances)
        if together and isinstance(self.engine, TrainingFreeEngine):
            raise ConfigError("The training-free method decodes each class by itself: leave together out.")
        everyone = self._everyone_in(context) if together else None
        return Request(context, cut, keep_absent, everyone, tiles, instances)

    def read(self, target: ImageLike) -> Target:
        """Read a target, and place it on the canvas.

        Raises:
            DataError: it cannot be read.
        """
        image = as_image(target)
        no_masks = np.zeros((0, *image.shape[:2]), bool)
        return Target(image, source_path(target), self._place(image, no_masks, self.engine.config.canvas))

    def start(self, targets: Sequence[Target], request: Request, rows: int) -> list[Callable[[], Result]]:
        """Start the device; each function waits for it and gives the result of one target."""
        if not targets:
            return []
        if request.tiles is not None:
            return [partial(self._predict_tiles, target, request) for target in targets]
        features = self.engine.features([target.placed for target in targets], rows)
        matches = self.engine.match_concepts(features, self.slots_of(request.context), request.everyone)
        return [
            lambda row=row, target=target: self.result(image_matches(matches, row), target, request)
            for row, target in enumerate(targets)
        ]

    def start_many(
        self,
        targets: Iterable[ImageLike],
        request: Request,
        on_error: Callable[[ImageLike, DataError], None] | None,
    ) -> Iterator[Callable[[], Result]]:
        """Read targets in threads and start them in batches; the function of an error raises it."""
        rows, batch = self.engine.rows, []
        with (
            ThreadPoolExecutor(THREADS) as pool,
            closing(prefetch(pool, self.read, targets, rows)) as reading,
        ):
            for target, future in reading:
                try:
                    batch.append(future.result())
                except DataError as error:
                    if on_error is None:
                        yield from self.start(batch, request, rows)
                        yield lambda error=error: _raise(error)
                        return
                    on_error(target, error)
                if len(batch) == rows:
                    yield from self.start(batch, request, rows)
                    batch = []
            yield from self.start(batch, request, rows)

    def start_with_logits(
        self,
        target: Target,
        features: ImageFeatures,
        request: Request,
        logits: Float[Array, "slots side side"],
    ) -> Callable[[], Result]:
        """Start the matches of an encoded target, whose masks come from elsewhere.

        Args:
            logits: of the classes, at 4 x grid; slots beyond the classes are not read.
        """
        matches = self.engine.match_concepts(features, self.slots_of(request.context))

        def finish() -> Result:
            own = image_matches(matches, 0)
            classes = len(request.context.names)  # whose logits come from elsewhere; negatives keep theirs
            joined = np.concatenate([np.asarray(logits)[:classes], own.logits[classes:]])
            return self.result(own._replace(logits=joined), target, request)

        return finish

    def explain(
        self, target: Target, features: ImageFeatures, context: Context, count: int
    ) -> list[Explanation]:
        """Explain each class of an encoded target by at most `count` matches."""
        chunks = self.engine.match_patches(features, self.slots_of(context))
        return explain_classes(context, target.placed, target.image.shape[:2], chunks, count)

    def _predict_tiles(self, target: Target, request: Request) -> Result:
        assert request.tiles is not None
        plan = plan_tiles(target.image.shape[:2], self.engine.config, request.tiles)
        slots = self.slots_of(request.context)
        rounded, everyone = self._rounded, request.everyone
        matches = match_tiles(self.engine, target.image, plan, slots, everyone, rounded=rounded)
        return self.result(matches, target, request, (plan.side, plan.size))

    def result(
        self,
        matches: ConceptMatches,
        target: Target,
        request: Request,
        plane: tuple[int, tuple[int, int]] | None = None,
    ) -> Result:
        """Make the result of one target.

        Args:
            matches: of the target, without the batch axis.
            plane: side of the square that the maps cover, and the size (h, w) of the target on it; the canvas
                if None.
        """
        context = request.context
        side, size = plane or (self.engine.config.canvas, target.placed.size)
        classes = len(context.names)
        negatives = [
            [classes + i for i, negative in enumerate(context.negatives) if name in negative.against]
            for name in context.names
        ]
        on_image = patches_on_image(np.array(size), side, matches.similarity.shape[-1])
        shots = [*context.shots.values()]
        small_logits, evidence = apply_negatives(matches, negatives, shots, np.asarray(on_image))
        presence, present = decide_presence(self._calibration, evidence)
        result = Result(
            names=context.names,
            presence=presence,
            present=present,
            evidence=evidence,
            image=target.image,
            source=target.source,
            small_logits=small_logits,
            canvas=side,
            placed=size,
            colours=class_colours(classes),
            cut=request.cut,
            keep_absent=request.keep_absent,
            instances_from=request.instances or DEFAULT_INSTANCES,
            separate=request.instances is not None,
            warnings=self._notes,
        )
        result.areas  # noqa: B018 - measure it here, in the caller's thread
        return result

    def slots_of(self, context: Context) -> list[ConceptSlots]:
        """Return the concepts and negatives of a Context on the device, where they are placed once."""
        if context not in self._slots:
            slots = concept_slots((*context.concepts, *context.negatives))
            of_references = isinstance(self.engine, TrainingFreeEngine)
            self._slots[context] = ReferenceSlots.of(context) if of_references else self.engine.place(slots)
        return self._slots[context]

    def _everyone_in(self, context: Context) -> Prototypes:
        """Return the prototypes of all concepts and negatives, placed once, in the slots of some program."""
        if context in self._joined:
            return self._joined[context]
        chunks = [chunk.context for chunk in self.slots_of(context)]
        count = sum(chunk.pooled.shape[1] for chunk in chunks)
        padding = padded_concepts(len(context.concepts) + len(context.negatives)) - count

        def join(*parts: Array) -> np.ndarray:
            joined = np.concatenate([np.asarray(part) for part in parts], axis=1)
            return np.pad(joined, [(0, 0), (0, padding)] + [(0, 0)] * (joined.ndim - 2))

        self._joined[context] = self.engine.place(jax.tree.map(join, *chunks))
        return self._joined[context]


def _raise(error: Exception) -> NoReturn:
    raise error
