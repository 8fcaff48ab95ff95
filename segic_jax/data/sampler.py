"""The field's random draws of episodes, number for number.

They come from numpy's legacy generator and Python's `random`, whose streams are part of the protocols and
stable over versions: do not modernise them.
"""

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from segic_jax.data.coco_json import CocoJson
from segic_jax.data.episodes import ClassId, Episode

T = TypeVar("T")

SEEDS = {"matcher": 0, "insid3": 0, "segic": 42}  # main_oss.py, inference_segmentation.py, train.py (rank 0)


def choose(rng: np.random.RandomState, items: Sequence[T]) -> T:
    """What `rng.choice(items, 1, replace=False)[0]` draws, without making an array of the items."""
    return items[int(rng.choice(len(items), 1, replace=False)[0])]


def draw_others(rng: np.random.RandomState, items: Sequence[T], target: T, shots: int) -> tuple[T, ...]:
    """Draw until there are enough that are not the target; they may repeat."""
    references: list[T] = []
    while len(references) < shots:
        reference = choose(rng, items)
        if reference != target:
            references.append(reference)
    return tuple(references)


def coco20i_episodes(
    image_names: Mapping[int, Sequence[str]], seed: int, shots: int, count: int = 1000
) -> list[Episode]:
    """Class, target, then references until there are enough that are not the target; they may repeat.

    Matcher data/coco.py:86-112, INSID3 datasets/coco.py:82-105, SegIC utils/fss.py `load_frame`.

    Args:
        images: of each class of the fold, in the order of the published lists.
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
    """Every image a target once; references as above (Matcher data/fss.py:81-96, SegIC utils/fss.py).

    A class has the images 1.jpg to 10.jpg; targets come in the order of their names as strings.
    """
    rng = np.random.RandomState(seed)
    numbers = range(1, 11)
    episodes = []
    for class_name in sorted(classes):
        for target in sorted(numbers, key=str):
            references = (f"{number}.jpg" for number in draw_others(rng, numbers, target, shots))
            episodes.append(Episode(class_name, f"{target}.jpg", tuple(references)))
    return episodes


def semcoco_episodes(coco: CocoJson, *, fold: int | None, leak: bool, seed: int = 42) -> list[Episode]:
    """SegIC's own draw on COCO and LVIS (utils/fss.py, `SemCOCO`), as one process without workers makes it.

    Without folds every image is a target once, with one of its classes; with folds there are 2300 draws of
    a class and a target. Images are the file names of the JSON, or the last two parts of `coco_url`.

    Args:
        fold: of ten, over the classes that at least two images have (LVIS); None: all classes (COCO).
        leak: where a class has exactly two images, take the target as its own reference, as the official
            code does (fss.py:347-353). Otherwise the other image is taken; a class that only the target
            has is left out.
    """
    python, legacy = random.Random(seed), np.random.RandomState(seed)
    classes = list(coco.categories)
    if fold is not None:
        classes = sorted(c for c in classes if len(coco.image_ids(c)) > 1)[fold::10]
    kept = set(classes)
    present = {
        image: [c for c in sorted(of) if c in kept] for image, of in sorted(coco.classes_of_images().items())
    }
    images = [image for image, of in present.items() if of]
    places: dict[int, list[int]] = {}  # class -> places in `images`, in the order in which classes turn up
    for place, image in enumerate(images):
        for class_id in present[image]:
            places.setdefault(class_id, []).append(place)

    def other(class_id: int, place: int | None) -> int | None:
        left = list(set(places[class_id]) - {place})
        if len(left) > 1:
            return python.choice(left)
        return place if leak or not left else left[0]

    episodes = []
    for number in range(len(images) if fold is None else 2300):
        if fold is None:
            place, of = number, present[images[number]]
            class_id = int(choose(legacy, of)) if len(of) > 1 else of[0]
        else:
            python.randint(0, len(images) - 1)  # drawn and not used
            class_id = python.choice(list(places))
            place = other(class_id, None)
        reference = other(class_id, place)
        if place is not None and reference is not None and (leak or reference != place):
            names = (coco.images[images[place]], coco.images[images[reference]])
            episodes.append(Episode(class_id, names[0], (names[1],)))
    return episodes


def classes_in_order(episodes: Sequence[Episode]) -> tuple[ClassId, ...]:
    """Every class that is drawn, sorted."""
    return tuple(sorted({episode.class_id for episode in episodes}, key=lambda c: (str(type(c)), c)))
