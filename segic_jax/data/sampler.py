"""Draw the field's random episodes, number for number as the official loaders do.

The numbers come from numpy's legacy generator and Python's `random`, whose streams are part of the protocols
and stable over versions: do not modernise them.
"""

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from segic_jax.data.coco_json import CocoJson
from segic_jax.data.episodes import ClassId, Episode
from segic_jax.errors import DataError

T = TypeVar("T")

SEEDS = {"matcher": 0, "insid3": 0, "segic": 42}  # main_oss.py, inference_segmentation.py, train.py (rank 0)


def choose(rng: np.random.RandomState, items: Sequence[T]) -> T:
    """Draw what `rng.choice(items, 1, replace=False)[0]` draws, without making an array of the items."""
    return items[int(rng.choice(len(items), 1, replace=False)[0])]


def draw_others(rng: np.random.RandomState, items: Sequence[T], target: T, shots: int) -> tuple[T, ...]:
    """Draw items until `shots` of them are not the target; they may repeat."""
    references: list[T] = []
    while len(references) < shots:
        reference = choose(rng, items)
        if reference != target:
            references.append(reference)
    return tuple(references)


def coco20i_episodes(
    image_names: Mapping[int, Sequence[str]], seed: int, shots: int, count: int = 1000
) -> list[Episode]:
    """Draw a class, a target, then references until enough of them are not the target; they may repeat.

    Source: Matcher data/coco.py:86-112, INSID3 datasets/coco.py:82-105, SegIC utils/fss.py `load_frame`.

    Args:
        image_names: by class of the fold, in the order of the published lists.
    """
    rng = np.random.RandomState(seed)
    classes = list(image_names)
    episodes = []
    for _ in range(count):
        class_id = choose(rng, classes)
        target = choose(rng, image_names[class_id])
        references = draw_others(rng, image_names[class_id], target, shots)
        episodes.append(Episode(class_id, target, references))
    return episodes


def fss_episodes(classes: Sequence[str], seed: int, shots: int) -> list[Episode]:
    """Take every image as a target once and draw references as `coco20i_episodes` does.

    A class has the images 1.jpg to 10.jpg; targets come in the order of their names as strings.
    Source: Matcher data/fss.py:81-96, SegIC utils/fss.py.
    """
    rng = np.random.RandomState(seed)
    numbers = range(1, 11)
    episodes = []
    for class_name in sorted(classes):
        for target in sorted(numbers, key=str):
            references = (f"{number}.jpg" for number in draw_others(rng, numbers, target, shots))
            episodes.append(Episode(class_name, f"{target}.jpg", tuple(references)))
    return episodes


def round_robin_episodes(
    name: str, image_names: Mapping[ClassId, Sequence[str]], count: int, shots: int
) -> list[Episode]:
    """Take the classes in turn and draw target and references with seed 0, as INSID3's loaders do.

    A reference is drawn until it is not the target; references may repeat.

    Args:
        name: of the benchmark, for error messages.

    Raises:
        DataError: a class has only one image.
    """
    rng = np.random.RandomState(0)
    classes = list(image_names)
    for class_id in classes:
        if len(image_names[class_id]) < 2:
            raise DataError(
                f"{name}: class {class_id!r} has fewer than two images, and an episode needs two: get the "
                "data again."
            )
    episodes = []
    for number in range(count):
        class_id = classes[number % len(classes)]
        target = choose(rng, image_names[class_id])
        references = draw_others(rng, image_names[class_id], target, shots)
        episodes.append(Episode(class_id, target, references))
    return episodes


def semcoco_episodes(coco: CocoJson, *, fold: int | None, leak: bool, seed: int = 42) -> list[Episode]:
    """Draw SegIC's own episodes on COCO and LVIS, as one process without workers draws them.

    Without folds every image is a target once, with one of its classes; with folds there are 2300 draws of
    a class and a target. Images are the file names of the JSON, or the last two parts of `coco_url`.
    Source: utils/fss.py, `SemCOCO`.

    Args:
        fold: of ten, over the classes that at least two images have (LVIS); None: all classes (COCO).
        leak: if a class has exactly two images, take the target as its own reference, as the official
            code does (fss.py:347-353). Otherwise take the other image, and leave out a class of the target
            alone.
    """
    python, legacy = random.Random(seed), np.random.RandomState(seed)
    classes = list(coco.categories)
    if fold is not None:
        classes = sorted(c for c in classes if len(coco.image_ids(c)) > 1)[fold::10]
    kept = set(classes)
    present = {
        image: [c for c in sorted(image_classes) if c in kept]
        for image, image_classes in sorted(coco.classes_of_images().items())
    }
    images = [image for image, image_classes in present.items() if image_classes]
    places: dict[int, list[int]] = {}  # class -> places in `images`, in the order in which classes turn up
    for place, image in enumerate(images):
        for class_id in present[image]:
            places.setdefault(class_id, []).append(place)

    def draw_other(class_id: int, place: int | None) -> int | None:
        others = list(set(places[class_id]) - {place})
        if len(others) > 1:
            return python.choice(others)
        return place if leak or not others else others[0]

    episodes = []
    for number in range(len(images) if fold is None else 2300):
        if fold is None:
            place, image_classes = number, present[images[number]]
            class_id = int(choose(legacy, image_classes)) if len(image_classes) > 1 else image_classes[0]
        else:
            python.randint(0, len(images) - 1)  # drawn and not used
            class_id = python.choice(list(places))
            place = draw_other(class_id, None)
        reference = draw_other(class_id, place)
        if place is not None and reference is not None and (leak or reference != place):
            target_name, reference_name = coco.images[images[place]], coco.images[images[reference]]
            episodes.append(Episode(class_id, target_name, (reference_name,)))
    return episodes
