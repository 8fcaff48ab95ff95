"""Read your own images with a COCO JSON, the second layout of `folder`.

An image's `file_name` is relative to the JSON's folder, or to `images/` beside it; if that folder is
`annotations/`, to its parent or the parent's `images/`, or for `instances_NAME.json` to the parent's
`NAME/`. Every image of a class is a target once; its references are the next ones of its class, sorted by
file name, wrapping.
"""

from collections.abc import Iterator
from pathlib import Path

from segic_jax.data.coco_json import CocoJson
from segic_jax.data.episodes import ClassId, LabelledImage, Manifest, ObjectMasks, View
from segic_jax.data.images import read_rgb, require_size
from segic_jax.data.sampler import classes_with_images, next_images_episodes
from segic_jax.errors import DataError


class CocoFolderSource:
    """Give the episodes of a COCO JSON; class ids are category ids, masks the union of a class's objects."""

    name = "folder"

    def __init__(self, path: Path):
        """Read the JSON. Raises DataError if it is missing or damaged, or has no annotation with a mask."""
        self.coco = CocoJson(path, skip_invalid=True)
        self._ids = {name: image for image, name in self.coco.images.items()}
        self.image_names = {
            class_id: sorted(self.coco.images[image] for image in self.coco.image_ids(class_id))
            for class_id in self.coco.categories
        }
        if not any(self.image_names.values()):
            raise DataError(f"{path} has no annotation with a mask: add some, or give another file.")

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return the episodes; a class of too few images has none.

        Raises:
            DataError: unknown settings, or no class has enough images.
        """
        require_original(protocol, fold, shots)
        annotated = {class_id: names for class_id, names in self.image_names.items() if names}
        image_names, notes = classes_with_images(
            annotated, shots + 1, lambda class_id: f"{self.coco.path}: {self.coco.categories[class_id]}"
        )
        episodes = next_images_episodes(image_names, shots)
        return Manifest(self.name, protocol, fold, shots, tuple(image_names), episodes, notes)

    def class_name(self, class_id: ClassId) -> str:
        """Return the name of a category."""
        if class_id not in self.coco.categories:
            raise DataError(f"{self.coco.path} has no category {class_id!r}.")
        return self.coco.categories[int(class_id)]

    def views(self) -> Iterator[View]:
        """Yield every class of every image."""
        for image, classes in sorted(self.coco.classes_of_images().items()):
            for class_id in sorted(classes):
                yield View(self.coco.images[image], class_id)

    def paths(self, view: View) -> tuple[Path, ...]:
        """Return the path of the image."""
        folder = self.coco.path.parent
        folders = [folder, folder / "images"]
        if folder.name == "annotations":
            own = self.coco.path.stem.removeprefix("instances_")  # train2017, as COCO itself has it
            folders += [folder.parent, folder.parent / "images", folder.parent / own]
        names = dict.fromkeys(
            (view.image_name, Path(view.image_name).name)
        )  # which may be of another machine
        places = [place / name for name in names for place in folders if place.is_dir()]
        return (next((path for path in places if path.is_file()), places[-1]),)

    def load(self, view: View) -> LabelledImage:
        """Read the image and the mask of all objects of the class."""
        if view.image_name not in self._ids:
            raise DataError(f"{self.coco.path} has no image {view.image_name}.")
        self.class_name(view.class_id)
        (path,) = self.paths(view)
        image, mask = read_rgb(path), self.coco.mask(self._ids[view.image_name], int(view.class_id))
        require_size(image, mask, path, f"{self.coco.path}: {view.image_name}")
        return LabelledImage(image, mask)

    def objects(self, view: View) -> ObjectMasks:
        """Return the masks of the objects of a class, each for itself."""
        image, class_id = self._ids[view.image_name], int(view.class_id)
        return ObjectMasks(self.coco.instances(image, class_id), self.coco.crowds(image, class_id))


def require_original(protocol: str, fold: int, shots: int) -> None:
    """Raise DataError for another protocol or fold, or no shots."""
    if protocol != "original" or fold != 0 or shots < 1:
        raise DataError("folder supports the protocol original with fold 0 and at least 1 shot.")


def find_json(root: Path) -> Path | None:
    """Return `root` if it is a JSON, or the only JSON in it; None if there is none.

    Raises:
        DataError: there are several.
    """
    if root.is_file():
        return root
    paths = sorted([*root.glob("*.json"), *root.glob("annotations/*.json")])
    if len(paths) > 1:
        raise DataError(f"{root} holds {paths[0].name} and {paths[1].name}: give one of them as --data-root.")
    return paths[0] if paths else None
