"""Draw the field's random episodes, number for number as the official loaders do.

The numbers come from numpy's legacy generator and Python's `random`, whose streams are part of the protocols
and stable over versions: do not modernise them.

Official SegIC reads with four worker processes for each GPU, and every worker has its own streams, whose
seeds torch derives from the seed of its GPU's process. `draw_streams` derives the same seeds without torch.
"""

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from segic_jax.data.coco_json import CocoJson
from segic_jax.data.episodes import ClassId, Episode
from segic_jax.errors import DataError

T = TypeVar("T")
Class = TypeVar("Class", int, str, ClassId)

SEEDS = {"matcher": 0, "insid3": 0, "segic": 42}  # main_oss.py, inference_segmentation.py, train.py (rank 0)
GPUS = {"segic-1gpu": 1, "segic-8gpu": 8}  # of official runs; each GPU has a process with WORKERS workers
WORKERS = 4  # train.py, num_workers


class Streams(NamedTuple):
    """Hold the generators that one process of a loader draws from."""

    legacy: np.random.RandomState  # numpy's
    python: random.Random


def draw_streams(protocol: str, count: int, loader: int = 0) -> Iterator[tuple[int, Streams]]:
    """Yield the index of each item of a list, in order, with the streams that it is drawn from.

    Each GPU takes every n-th item, its workers take turns, and items are repeated until every GPU has as many
    (torch's DistributedSampler and DataLoader). Other protocols draw in a single process.

    Args:
        count: items of the list.
        loader: how many loaders the official command has started before this one.
    """
    gpus = GPUS.get(protocol)
    if gpus is None:
        seed = SEEDS[protocol]
        streams = Streams(np.random.RandomState(seed), random.Random(seed))
        yield from ((index, streams) for index in range(count))
        return
    workers = [
        [_worker_streams(_base_seed(SEEDS["segic"] + gpu, loader), worker) for worker in range(WORKERS)]
        for gpu in range(gpus)
    ]
    for place in range(-(-count // gpus) * gpus):
        turn, gpu = divmod(place, gpus)
        yield place % count, workers[gpu][turn % WORKERS]


def _base_seed(seed: int, loader: int) -> int:
    """Return what torch draws after `torch.manual_seed(seed)` when DataLoader number `loader` starts."""
    bits = np.random.RandomState(seed).randint(0, 1 << 32, (loader + 1, 2), dtype=np.uint32)
    high, low = (int(half) for half in bits[loader])
    return (high << 32 | low) % (1 << 63)


def _worker_streams(base_seed: int, worker: int) -> Streams:
    """Seed the streams of a worker as torch/utils/data/_utils/worker.py does."""
    sequence = np.random.SeedSequence([worker, base_seed & 0xFFFFFFFF, base_seed >> 32, 0])
    legacy = np.random.RandomState(sequence.generate_state(4))
    return Streams(legacy, random.Random(base_seed + worker))


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
    image_names: Mapping[int, Sequence[str]], protocol: str, shots: int, *, loader: int = 0, count: int = 1000
) -> list[Episode]:
    """Draw a class, a target, then references until enough of them are not the target; they may repeat.

    Source: Matcher data/coco.py:86-112, INSID3 datasets/coco.py:82-105, SegIC utils/fss.py `load_frame`.

    Args:
        image_names: by class of the fold, in the order of the published lists.
        loader: as for `draw_streams`.
    """
    classes = list(image_names)
    episodes = []
    for _, streams in draw_streams(protocol, count, loader):
        class_id = choose(streams.legacy, classes)
        target = choose(streams.legacy, image_names[class_id])
        references = draw_others(streams.legacy, image_names[class_id], target, shots)
        episodes.append(Episode(class_id, target, references))
    return episodes


def fss_episodes(
    classes: Sequence[str], protocol: str, shots: int, skipped: Collection[tuple[str, str]] = ()
) -> list[Episode]:
    """Take every image as a target once and draw references as `coco20i_episodes` does.

    A class has the images 1.jpg to 10.jpg; targets come in the order of their names as strings.
    Source: Matcher data/fss.py:81-96, SegIC utils/fss.py.

    Args:
        skipped: (class, image) whose mask has another size. Official SegIC replaces an episode with such a
            target or reference by one of the next target, for which it draws again (utils/fss.py:640-642).

    Raises:
        DataError: the last target is to be replaced; the official code ends with an IndexError.
    """
    numbers = range(1, 11)
    targets = [(name, number) for name in sorted(classes) for number in sorted(numbers, key=str)]

    def draw(index: int, rng: np.random.RandomState) -> Episode:
        if index == len(targets):
            raise DataError(
                f"The masks of {targets[-1][0]} differ in size from their images: get them again."
            )
        class_name, target = targets[index]
        references = tuple(f"{number}.jpg" for number in draw_others(rng, numbers, target, shots))
        if any((class_name, name) in skipped for name in (f"{target}.jpg", *references)):
            return draw(index + 1, rng)
        return Episode(class_name, f"{target}.jpg", references)

    return [draw(index, streams.legacy) for index, streams in draw_streams(protocol, len(targets))]


def classes_with_images(
    image_names: Mapping[Class, Sequence[str]], needed: int, label: Callable[[Class], str]
) -> tuple[dict[Class, Sequence[str]], tuple[str, ...]]:
    """Leave out the classes that have too few images for an episode, and name each in a sentence.

    Args:
        needed: images of an episode.
        label: gives the name of a class in its sentence.

    Raises:
        DataError: no class has enough.
    """
    kept = {class_id: names for class_id, names in image_names.items() if len(names) >= needed}
    notes = tuple(
        f"{label(class_id)} has {len(names)} of the {needed} images that an episode needs: it is left out."
        for class_id, names in image_names.items()
        if class_id not in kept
    )
    if not kept:
        first = f", such as {label(next(iter(image_names)))}" if image_names else ""
        raise DataError(f"No class has the {needed} images that an episode needs{first}: add images.")
    return kept, notes


def round_robin_episodes(image_names: Mapping[Class, Sequence[str]], count: int, shots: int) -> list[Episode]:
    """Take the classes in turn and draw target and references with seed 0, as INSID3's loaders do.

    A reference is drawn until it is not the target; references may repeat.

    Args:
        image_names: by class, at least two each.
    """
    rng = np.random.RandomState(0)
    classes = list(image_names)
    episodes = []
    for number in range(count):
        class_id = classes[number % len(classes)]
        target = choose(rng, image_names[class_id])
        references = draw_others(rng, image_names[class_id], target, shots)
        episodes.append(Episode(class_id, target, references))
    return episodes


def next_images_episodes(image_names: Mapping[Class, Sequence[str]], shots: int) -> tuple[Episode, ...]:
    """Take every image as a target once; its references are the next ones of its class, wrapping."""
    return tuple(
        Episode(class_id, target, tuple(names[(place + step) % len(names)] for step in range(1, shots + 1)))
        for class_id, names in image_names.items()
        for place, target in enumerate(names)
    )


def semcoco_episodes(coco: CocoJson, protocol: str, *, fold: int | None) -> list[Episode]:
    """Draw SegIC's own episodes on COCO and LVIS.

    Without folds every image is a target once, with one of its classes; with folds there are 2300 draws of
    a class and a target. Images are the file names of the JSON, or the last two parts of `coco_url`.
    Source: utils/fss.py, `SemCOCO`.

    If a class has exactly two images, the official code takes the target as its own reference
    (fss.py:347-353). The protocol segic takes the other image, and leaves out a class of the target alone.

    Args:
        protocol: segic, segic-leak, or one of `GPUS`.
        fold: of ten, over the classes that at least two images have (LVIS); None: all classes (COCO).
    """
    leak = protocol != "segic"
    drawn_as = protocol if protocol in GPUS else "segic"
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

    def draw_other(python: random.Random, class_id: int, place: int | None) -> int | None:
        others = list(set(places[class_id]) - {place})
        if len(others) > 1:
            return python.choice(others)
        return place if leak or not others else others[0]

    episodes = []
    count = len(images) if fold is None else 2300
    for place, (legacy, python) in draw_streams(drawn_as, count, fold or 0):
        if fold is None:
            image_classes = present[images[place]]
            class_id = int(choose(legacy, image_classes)) if len(image_classes) > 1 else image_classes[0]
        else:
            python.randint(0, len(images) - 1)  # drawn and not used
            class_id = python.choice(list(places))
            place = draw_other(python, class_id, None)
        reference = draw_other(python, class_id, place)
        if place is not None and reference is not None and (leak or reference != place):
            target_name, reference_name = coco.images[images[place]], coco.images[images[reference]]
            episodes.append(Episode(class_id, target_name, (reference_name,)))
    return episodes
