"""Make a Context of examples: read and encode each reference once, and keep a few numbers per object."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np

from segic_jax.config import INSTANCE_PROMPT, class_prompt
from segic_jax.data.images import ImageLike, as_image, require_iterable, source_path
from segic_jax.data.preprocess import CanvasImage, resize_and_pad
from segic_jax.errors import DataError
from segic_jax.inference.context import Concept, Context, merge_concepts, subsample
from segic_jax.inference.engine import Engine, ImageFeatures
from segic_jax.inference.example import Example
from segic_jax.inference.matching import INSIDE, OUTSIDE, PATCHES
from segic_jax.inference.reference import Reference, make_mark, make_preview
from segic_jax.runtime.prefetch import prefetch_results

MANY = 8  # examples of a class, beyond which each keeps fewer patches: their memory does not grow further
# Puts an image and its masks on a canvas of the side: `resize_and_pad`, or `stretch`.
PlaceImage = Callable[[np.ndarray, np.ndarray, int], CanvasImage]


class LoadedReference(NamedTuple):
    """Hold a reference image on the canvas, with a mask for each of its examples."""

    reference: Reference
    placed: CanvasImage


def fit_examples(
    engine: Engine,
    model: str,
    examples: Example | Iterable[Example],
    onto: Context | None,
    *,
    class_names: bool = False,
    instances: bool = False,
    place_image: PlaceImage = resize_and_pad,
    on_error: Callable[[ImageLike, DataError], None] | None = None,
    on_image: Callable[[], object] | None = None,
) -> Context:
    """Make a Context of examples alone; see `Segmenter.fit`.

    Args:
        model: fingerprint of the model.
        onto: a Context whose classes negatives may belong to.
        place_image: puts images on the canvas.
        on_image: called for each image when it has been read, for a progress bar.

    Raises:
        DataError, BundleError: as `Segmenter.fit`.
    """
    single = isinstance(examples, Example)
    examples = [examples] if single else list(require_iterable(examples, "fit takes examples"))
    if not all(isinstance(example, Example) for example in examples):
        raise DataError("fit takes examples: fit([Example(image, mask, name=...), ...]).")
    names = tuple(dict.fromkeys(str(e.name) for e in examples if not e.negative))
    all_names = tuple(dict.fromkeys((*(onto.names if onto else ()), *names)))
    if not all_names:
        raise DataError("fit needs at least one positive example.")
    for example in examples:
        if example.name is not None and example.name not in all_names:
            raise DataError(
                f"{example.source}: a negative example of '{example.name}', which has no positive one."
            )
    bundle = engine.bundle
    prompts = [INSTANCE_PROMPT if instances else class_prompt(name if class_names else "") for name in names]
    text = dict(zip(names, bundle.prompt_features(prompts) if names else [], strict=True))
    limits = {name: patch_limit(count) for name, count in Counter(e.name for e in examples).items()}
    positives: dict[str, list[Concept]] = {name: [] for name in names}
    negatives, references = [], []
    groups = group_by_image(examples)
    grids = []

    def load(group: list[Example]) -> LoadedReference | DataError:
        try:
            return load_reference(group, engine.config.canvas, place_image=place_image)
        except DataError as error:
            if on_error is None:
                raise
            return error

    for group, loaded in zip(groups, prefetch_results(load, groups, threads=2, limit=4), strict=True):
        if on_image is not None:
            on_image()
        if isinstance(loaded, DataError):
            assert on_error is not None
            on_error(group[0].image, loaded)
            continue
        features = engine.features([loaded.placed], 1)
        for row, example in enumerate(group):
            concept = encode_example(engine, features, loaded, row, len(references), limits[example.name])
            if example.negative:
                against = all_names if example.name is None else (example.name,)
                negatives.append(replace(concept, text=bundle.text_feature(), against=against))
            else:
                positives[str(example.name)].append(concept)
        references.append(loaded.reference)
        if engine.keeps_grids:
            vectors = engine.compared_patches(features)
            grids.append(vectors.reshape(-1, vectors.shape[-1]))
    names = tuple(name for name in names if positives[name])
    all_names = tuple(dict.fromkeys((*(onto.names if onto else ()), *names)))
    if not all_names:
        raise DataError("No example can be used.")
    concepts = tuple(
        merge_concepts([replace(part, name=name, text=text[name]) for part in positives[name]])
        for name in names
    )
    kept = (replace(n, against=tuple(name for name in n.against if name in all_names)) for n in negatives)
    return Context(model, concepts, tuple(n for n in kept if n.against), tuple(references), tuple(grids))


def patch_limit(examples: int) -> int:
    """Return how many patches of each kind an example of a class keeps until the examples are merged."""
    return max(1, min(PATCHES, MANY * PATCHES // examples))


def group_by_image(examples: Sequence[Example]) -> list[list[Example]]:
    """Group the examples that lie on one image, so that each image is read and encoded once."""
    groups: dict[str | int, list[Example]] = {}
    for example in examples:
        groups.setdefault(source_path(example.image) or id(example.image), []).append(example)
    return list(groups.values())


def load_reference(
    examples: Sequence[Example], canvas: int, *, place_image: PlaceImage = resize_and_pad
) -> LoadedReference:
    """Read the image of `examples`, which share it, and their masks.

    Raises:
        DataError: as `Example.object_mask`, or the image cannot be read.
    """
    image = as_image(examples[0].image)
    masks = np.stack([example.object_mask(image) for example in examples])
    placed = place_image(image, masks, canvas)
    for on_canvas, mask in zip(placed.masks, masks, strict=True):
        if not on_canvas.any():  # lost in shrinking: the pixel at its middle stands for it
            middle = [np.median(indices) for indices in np.nonzero(mask)]
            y, x = (int(at * n / side) for at, n, side in zip(middle, placed.size, mask.shape, strict=True))
            on_canvas[y, x] = True
    height, width = image.shape[:2]
    marks = (make_mark(e.name, e.negative, mask) for e, mask in zip(examples, masks, strict=True))
    source = source_path(examples[0].image) or ""
    reference = Reference(source, (height, width), make_preview(image), tuple(marks))
    return LoadedReference(reference, placed)


def encode_example(
    engine: Engine,
    features: ImageFeatures,
    loaded: LoadedReference,
    row: int,
    index: int,
    limit: int = PATCHES,
) -> Concept:
    """Encode one example as a Concept that has no name and no text yet.

    Args:
        features: of the reference image.
        row: of the example's mask on it.
        index: of the reference in `Context.references`.
        limit: how many patches of each kind it keeps.
    """
    mask, canvas_size, size = loaded.placed.masks[row], loaded.placed.size, loaded.reference.size
    pooled = jax.tree.map(np.asarray, engine.pool_reference(features, mask))
    vectors = engine.compared_patches(features)
    patches, kinds, places = [], [], []
    for kind, selected in ((INSIDE, pooled.inside), (OUTSIDE, pooled.valid & ~pooled.inside)):
        at = np.argwhere(selected)
        at = at[subsample(np.arange(len(at)), limit)]
        patches.append(vectors[at[:, 0], at[:, 1]])
        kinds.append(np.full(len(at), kind, np.uint8))
        centre = (at + 0.5) * (len(mask) / len(vectors)) * np.array(size) / np.array(canvas_size)
        y, x = np.minimum(centre, np.array(size) - 1).T
        places.append(np.column_stack([np.full(len(at), index), x, y]).astype(np.int32))
    unit = np.concatenate(patches)
    unit /= np.maximum(np.linalg.norm(unit, axis=-1, keepdims=True), 1e-8)
    return Concept(
        name="",
        visual=pooled.visual[None],
        text=np.zeros(0, np.float32),
        patches=unit.astype(np.float16),
        kind=np.concatenate(kinds),
        place=np.concatenate(places),
        inside=pooled.inside.reshape(1, -1)[: engine.keeps_grids],
        image=np.array([index], np.int32)[: engine.keeps_grids],
    )
