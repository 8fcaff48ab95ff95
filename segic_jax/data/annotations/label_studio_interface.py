"""Read the labelling interface of a project of Label Studio: its controls for regions, and their labels."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import NamedTuple

from segic_jax.data.images import shorten
from segic_jax.errors import DataError

KINDS = {"PolygonLabels": "polygon", "BrushLabels": "brush", "RectangleLabels": "rectangle"}
MAX_CHARACTERS = 1_000_000


class Control(NamedTuple):
    """Name a control, the image that it belongs to, and its label for a class."""

    name: str
    to_name: str
    label: str


class Interface(NamedTuple):
    """Hold what regions of a project need."""

    image: str  # key of the image in the data of a task
    controls: Mapping[str, tuple[str, str, Mapping[str, str]]]  # kind -> name, image's name, class -> label

    def of(self, name: str) -> dict[str, Control]:
        """Return the controls with a label for a class, by kind; letters may be upper or lower case."""
        found = {}
        for kind, (control, to_name, labels) in self.controls.items():
            label = labels.get(name) or labels.get(name.casefold())
            if label is not None:
                found[kind] = Control(control, to_name, label)
        return found


def read_interface(config: str) -> Interface:
    """Read the labelling interface of a project, in XML.

    A label is that of a class of its value, or of one that its attribute predicted_values lists.

    Raises:
        DataError: it is damaged, or has no image with a control for polygons, brush strokes or rectangles.
    """
    try:
        if len(config) > MAX_CHARACTERS or "<!DOCTYPE" in config or "<!ENTITY" in config:
            raise ValueError("it is too long, or declares entities")
        view = ET.fromstring(config)
    except (ValueError, ET.ParseError) as error:
        raise DataError(
            f"The labelling interface is damaged ({shorten(error)}): save it again in Label Studio."
        ) from error
    images = {
        str(item.get("name")): value[1:]
        for item in view.iter("Image")
        if (value := item.get("value") or "").startswith("$")
    }
    controls = {}
    for tag, kind in KINDS.items():
        for item in view.iter(tag):
            if item.get("toName") in images and kind not in controls:
                controls[kind] = (str(item.get("name")), str(item.get("toName")), _labels(item))
    if not controls:
        raise DataError(
            "The labelling interface has no Image with PolygonLabels, BrushLabels or RectangleLabels: add "
            "one in the settings of the project."
        )
    # Other images of the same task have other annotations.
    first = next(iter(controls.values()))[1]
    controls = {kind: control for kind, control in controls.items() if control[1] == first}
    return Interface(images[first], controls)


def _labels(control: ET.Element) -> dict[str, str]:
    """Return the label of each class of a control."""
    labels: dict[str, str] = {}
    for item in control.iter("Label"):
        label = item.get("value") or ""
        for name in (label, *(item.get("predicted_values") or "").split(",")):
            if name.strip() and label:
                labels.setdefault(name.strip(), label)
                labels.setdefault(name.strip().casefold(), label)
    return labels
