"""Describe the content of requests and responses for OpenAPI."""

from typing import Any

from pydantic import BaseModel

from segic_jax.data.annotations.registry import READ


class Health(BaseModel):
    """Describe the service."""

    status: str
    version: str
    model: str
    contexts: int
    pending_images: int


class ContextClass(BaseModel):
    """Describe a class of a context."""

    name: str
    examples: int
    negatives: int


class ContextReference(BaseModel):
    """Describe a reference image."""

    source: str
    height: int
    width: int
    marks: list[str]


class ContextInfo(BaseModel):
    """Describe a context."""

    id: str
    classes: list[ContextClass]
    references: list[ContextReference]
    warnings: list[str] = []


class ContextList(BaseModel):
    """List the ids of all contexts."""

    contexts: list[str]


class Problem(BaseModel):
    """Say in a sentence why a request was refused."""

    detail: str


_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}


def _form(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


PREDICT_FORM = _form(["images"], {"images": _FILES | {"description": "Images to segment."}})
CONTEXT_FORM = _form(
    [],
    {
        "images": _FILES | {"description": "Reference images."},
        "masks": _FILES | {"description": "A mask for each image."},
        "names": {
            "type": "array",
            "items": {"type": "string"},
            "description": "The class of each image, or one for all.",
        },
        "negative": {
            "type": "array",
            "items": {"type": "boolean"},
            "description": "Whether each image shows something similar that is not wanted, or one for all.",
        },
        "project": _FILES
        | {"description": "Instead of images and masks: the files of a labelling tool, images included."},
        "format": {
            "type": "string",
            "enum": ["auto", *READ],
            "default": "auto",
            "description": "The format of the project.",
        },
        "id": {"type": "string", "description": "The id of the new context; by default a random one."},
    },
)
PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": what}
    for code, what in (
        (400, "The content is malformed."),
        (401, "The token is missing or wrong."),
        (404, "There is no such context."),
        (408, "The content did not arrive in time."),
        (409, "The context exists already, or there are too many."),
        (411, "The length of the content is missing."),
        (413, "The content is too large."),
        (422, "Something in the request cannot be used."),
        (429, "The service is busy."),
        (503, "The request took too long."),
    )
}
