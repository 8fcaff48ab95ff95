"""Provide sample images: the example photographs of the project, with their masks."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

from segic_jax.app.session import NamedImage
from segic_jax.data.images import read_image
from segic_jax.data.mask_reader import read_mask
from segic_jax.inference.overlay import Mask
from segic_jax.runtime.project_folder import project_folder

# Images to search for each class; the last of them does not show it.
_TARGETS = {
    "cat": ("kitten", "cat_with_yarn", "cat_portrait", "dog_on_porch"),
    "bird": ("kingfisher", "owl", "dog_on_porch"),
}


class Sample(NamedTuple):
    """Hold an annotated image of a class, and images to search; the last of them does not show the class."""

    class_name: str
    image: NamedImage
    mask: Mask
    targets: tuple[NamedImage, ...]


@cache
def samples() -> tuple[Sample, ...]:
    """Return the samples in the order in which the page offers them."""
    folder = project_folder("examples")
    return tuple(
        Sample(
            name,
            _image(folder / f"{name}_reference.jpg"),
            read_mask(folder / f"{name}_reference_mask.png"),
            tuple(_image(folder / "targets" / f"{target}.jpg") for target in targets),
        )
        for name, targets in _TARGETS.items()
    )


def _image(path: Path) -> NamedImage:
    return NamedImage(path.name, read_image(path))
