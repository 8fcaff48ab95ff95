"""Give pairs of composed photographs as training pairs."""

from dataclasses import dataclass, field

import numpy as np

from segic_jax.data.emoji.source import two_artists
from segic_jax.data.emoji.sprites import SpriteBank, SpriteClass, sprite
from segic_jax.data.pairs import AnnotatedImage, Pair
from segic_jax.data.photos.compose import SceneObject, compose, photo_background, plain_background
from segic_jax.data.photos.library import CutoutClass, Photograph, PhotoLibrary, cutout

SHARED = (0.35, 0.35, 0.3)  # probabilities that both scenes of a pair share one, two and three classes
OBJECTS = (1, 5)  # of a scene: smallest and largest number, shared classes included
PHOTO_SHARE = 0.7  # probability that a shared class is photographed, not drawn
SIMILAR = 0.5  # probability that a distractor is of the kind of a shared class, if it can be
REPEATED = 0.2  # probability of a second instance of a shared class in a scene; and so on
PHOTOGRAPHED = 0.75  # probability of a photograph as the background, else a plain surface
OWN_PHOTOGRAPH = 0.6  # probability that it is one that shows a shared class itself, if there is one
UNCROWDED = 0.5  # probability that such a photograph gets no objects of other classes
OTHER_CUTOUT = 0.9  # probability that the scenes have different cut-outs, if the class has several
MIN_VISIBLE_SHARE = 1 / 2500  # of a scene's pixels; a class with fewer is not a concept of its pair
ENLARGED = 3.5  # times the pixels of a cut-out, at most
SMALLEST, LARGEST = 0.07, 0.8  # longer side of an object, as a fraction of the scene's side
SMALLEST_REFERENCE = 0.2  # so that a reference shows the object clearly

Concept = CutoutClass | SpriteClass


@dataclass(frozen=True)
class PhotoScenePairs:
    """Draw pairs of scenes that share one to three classes among distractors, without end.

    A pair of one class has its name, and names all classes of the library that are in neither scene.
    """

    library: PhotoLibrary
    bank: SpriteBank
    canvas: int
    _kinds: dict[str, tuple[int, ...]] = field(init=False, repr=False)
    _photos: dict[str, list[Photograph]] = field(init=False, repr=False)
    _weights: np.ndarray = field(init=False, repr=False)

    has_instances = False

    def __post_init__(self):
        kinds: dict[str, list[int]] = {}
        for number, item in enumerate(self.library.classes):
            kinds.setdefault(item.kind, []).append(number)
        object.__setattr__(self, "_kinds", {kind: tuple(numbers) for kind, numbers in kinds.items()})
        photos: dict[str, list[Photograph]] = {}
        for photo in self.library.backgrounds:
            if photo.name:
                photos.setdefault(photo.name, []).append(photo)
        object.__setattr__(self, "_photos", photos)
        # Classes of several images teach what a class is, and masks of photographs are real: draw them more.
        weights = np.array(
            [min(len(item.files), 4) ** 0.5 + 2 * (item.name in photos) for item in self.library.classes]
        )
        object.__setattr__(self, "_weights", np.cumsum(weights / weights.sum()))

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.library.classes) + len(self.bank.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of all classes, each once."""
        names = [item.name for item in self.library.classes] + [item.label for item in self.bank.classes]
        return tuple(dict.fromkeys(names))

    def pair(self, rng: np.random.Generator) -> Pair:
        """Draw two scenes; a class that is hidden in one of them is not a concept.

        Raises:
            DataError: a cut-out or a background cannot be read.
        """
        concepts: list[Concept] = []
        for _ in range(1 + int(rng.choice(len(SHARED), p=SHARED))):
            concept = self._draw(rng, concepts)
            if concept is not None:
                concepts.append(concept)
        images = [_two_images(rng, concept) for concept in concepts]
        present = {_label(concept) for concept in concepts}
        photos = self._draw_photographs(rng, concepts)
        scenes = []
        for side, photo in enumerate(photos):  # of the target, of the reference
            background, labels = self._background(rng, concepts, photo)
            if photo is not None and photo.name:
                present.add(photo.name)
            crowded = not labels.any() or rng.random() >= UNCROWDED
            objects = []
            for label, (concept, pair) in enumerate(zip(concepts, images, strict=True), 1):
                if not (labels == label).any():
                    objects.append(_scene_object(label, concept, pair[side], self.canvas, side == 1))
                while crowded and rng.random() < REPEATED and len(objects) < OBJECTS[1]:
                    image = pair[side] if rng.random() < 0.5 else _any_image(rng, concept)
                    objects.append(_scene_object(label, concept, image, self.canvas, side == 1))
            others = list(concepts)
            count = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1)) if crowded else 0
            for _ in range(count - len(concepts)):
                other = self._draw(rng, others, similar_to=concepts)
                if other is not None:
                    others.append(other)
                    present.add(_label(other))
                    objects.append(_scene_object(0, other, _any_image(rng, other), self.canvas))
            scenes.append(compose(rng, objects, background, labels))
        numbers = range(1, len(concepts) + 1)
        masks = [np.stack([labels == number for number in numbers]) for _, labels in scenes]
        enough = MIN_VISIBLE_SHARE * self.canvas**2
        visible = np.array(
            [all(np.count_nonzero(mask[number - 1]) >= enough for mask in masks) for number in numbers]
        )
        if not visible.any():
            visible[0] = True
        target, reference = (
            AnnotatedImage(image, mask[visible]) for (image, _), mask in zip(scenes, masks, strict=True)
        )
        name = _label(concepts[int(visible.argmax())]) if visible.sum() == 1 else ""
        absent = tuple(other for other in self.class_names if other not in present)
        return Pair(target=target, reference=reference, name=name, absent=absent)

    def _draw_photographs(self, rng: np.random.Generator, concepts: list[Concept]) -> list[Photograph | None]:
        """Draw the photographs behind both scenes, None for a plain surface.

        Those of a shared class are preferred, different ones in both scenes.
        """
        chosen: list[Photograph | None] = []
        own = [photo for concept in concepts for photo in self._photos.get(_label(concept), ())]
        for _ in range(2):
            rest = [photo for photo in own if photo not in chosen]
            if rest and rng.random() < OWN_PHOTOGRAPH:
                chosen.append(rest[rng.integers(len(rest))])
            elif rng.random() < PHOTOGRAPHED:
                photos = self.library.backgrounds
                chosen.append(photos[rng.integers(len(photos))])
            else:
                chosen.append(None)
        return chosen

    def _background(self, rng: np.random.Generator, concepts: list[Concept], photo: Photograph | None):
        if photo is None:
            return plain_background(rng, self.canvas), np.zeros((self.canvas, self.canvas), np.uint8)
        names = [_label(concept) for concept in concepts]
        label = names.index(photo.name) + 1 if photo.name in names else 0
        return photo_background(rng, photo, self.canvas, label)

    def _draw(
        self, rng: np.random.Generator, taken: list[Concept], similar_to: list[Concept] | None = None
    ) -> Concept | None:
        """Draw a class whose name is not among those of `taken`; None if there is no other."""
        names = {_label(concept) for concept in taken}
        kinds = [concept.kind for concept in similar_to or () if isinstance(concept, CutoutClass)]
        for _ in range(20):
            concept: Concept
            if kinds and rng.random() < SIMILAR:
                numbers = self._kinds[kinds[rng.integers(len(kinds))]]
                concept = self.library.classes[numbers[rng.integers(len(numbers))]]
            elif rng.random() < PHOTO_SHARE or not self.bank.classes:
                number = min(int(np.searchsorted(self._weights, rng.random())), len(self._weights) - 1)
                concept = self.library.classes[number]
            else:
                concept = self.bank.classes[rng.integers(len(self.bank.classes))]
            if _label(concept) not in names:
                return concept
        return None


def _label(concept: Concept) -> str:
    return concept.name if isinstance(concept, CutoutClass) else concept.label


def _image(concept: Concept, number: int):
    """Return the levels of a cut-out, or of a drawing."""
    if isinstance(concept, CutoutClass):
        return cutout(concept.files[number])
    return sprite(concept.name, concept.artists[number])


def _any_image(rng: np.random.Generator, concept: Concept):
    count = len(concept.files) if isinstance(concept, CutoutClass) else len(concept.artists)
    return _image(concept, int(rng.integers(count)))


def _two_images(rng: np.random.Generator, concept: Concept):
    """Draw two images of a class: mostly of two objects, or by two artists."""
    if isinstance(concept, SpriteClass):
        artists = two_artists(rng, concept)
        return tuple(_image(concept, concept.artists.index(artist)) for artist in artists)
    first = int(rng.integers(len(concept.files)))
    second = first
    if len(concept.files) > 1 and rng.random() < OTHER_CUTOUT:
        second = (first + 1 + int(rng.integers(len(concept.files) - 1))) % len(concept.files)
    return _image(concept, first), _image(concept, second)


def _scene_object(
    label: int, concept: Concept, levels, canvas: int, is_reference: bool = False
) -> SceneObject:
    """Bound the size by the pixels of the image, so that an enlarged cut-out does not become a blur."""
    smallest = SMALLEST_REFERENCE if is_reference else SMALLEST
    largest = min(LARGEST, ENLARGED * max(levels[0].shape) / canvas)
    return SceneObject(
        label=label,
        levels=levels,
        smallest=smallest,
        largest=max(largest, 1.2 * smallest),
        vary=1.0 if isinstance(concept, CutoutClass) else 1.5,
    )
