"""Compose episodes with small objects: a large reference, and a target with several small ones in clutter."""

from collections.abc import Iterator
from itertools import islice

from segic_jax.data.episodes import ClassId, Episode, LabelledImage, Manifest, View
from studies.cutouts import Material
from studies.tiles import LargeScene, large_scenes

SIDE = 640  # pixels of the longer side of a scene
SIZES = (24, 64)  # pixels of the longer side of an object
REFERENCE = "reference"


class SmallObjects:
    """Give each scene of `studies.tiles.large_scenes` as an episode, at the size of a photograph."""

    name = "small objects"

    def __init__(self, material: Material, count: int):
        """Take `count` scenes of the classes in turn; they are drawn when they are read."""
        self._material, self._count = material, count
        self._scenes: dict[str, LargeScene] = {}

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return an episode for each scene, of one shot."""
        names = [kind.name for kind in self._material.kinds]
        episodes = tuple(
            Episode(names[number % len(names)], str(number), (REFERENCE,)) for number in range(self._count)
        )
        return Manifest(self.name, protocol, fold, shots, tuple(names), episodes)

    def class_name(self, class_id: ClassId) -> str:
        """Return the class."""
        return str(class_id)

    def views(self) -> Iterator[View]:
        """Yield all targets."""
        return (episode.target_view for episode in self.manifest("original", 0, 1).episodes)

    def paths(self, view: View) -> tuple:
        """Return no path: nothing is read from a file."""
        return ()

    def load(self, view: View) -> LabelledImage:
        """Return a scene, or the reference of a class."""
        if view.image_name == REFERENCE:
            return next(kind.reference for kind in self._material.kinds if kind.name == view.class_id)
        if not self._scenes:
            scenes = large_scenes(self._material, SIDE, SIZES, self._count)
            self._scenes = {str(number): scene for number, scene in enumerate(islice(scenes, self._count))}
        scene = self._scenes[view.image_name]
        return LabelledImage(scene.image, scene.truth)
