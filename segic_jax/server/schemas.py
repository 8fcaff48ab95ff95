"""Describe the content of requests and responses for OpenAPI."""

from typing import Any

from pydantic import BaseModel, Field

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


class StudioTask(BaseModel):
    """Hold a task of Label Studio."""

    id: int = 0
    data: dict[str, Any]


class StudioTasks(BaseModel):
    """Ask for predictions, as Label Studio does."""

    tasks: list[StudioTask]
    label_config: str


class StudioAnnotation(BaseModel):
    """Hold an annotation of Label Studio; of deleted ones only the number is known."""

    id: int = Field(ge=0)
    result: list[dict[str, Any]] = []
    was_cancelled: bool = False


class StudioProject(BaseModel):
    """Hold what is used of a project of Label Studio."""

    label_config: str


class StudioEvent(BaseModel):
    """Tell what happened in Label Studio, as its webhooks do; the rest depends on the action."""

    action: str


class StudioAnnotated(StudioEvent):
    """Tell of an annotation that was made or changed."""

    project: StudioProject
    task: StudioTask
    annotation: StudioAnnotation


class StudioDeleted(StudioEvent):
    """Tell of deleted annotations."""

    annotations: list[StudioAnnotation]


class StudioSetup(BaseModel):
    """Hold the labelling interface of a project, as Label Studio sends it."""

    label_schema: str = Field(alias="schema")


class StudioHealth(BaseModel):
    """Say that the ML backend runs."""

    status: str = "UP"
    model_class: str = "segic_jax"


class StudioVersion(BaseModel):
    """Name the version of a context, which changes with it."""

    model_version: str


class StudioPredictions(BaseModel):
    """Hold a prediction for each task."""

    results: list[dict[str, Any]]


class StudioLearned(BaseModel):
    """Say what an event of Label Studio changed."""

    status: str
    detail: str = ""
    context: str | None = None
    classes: list[str] = []
    deleted: list[str] = []
    warnings: list[str] = []


class Problem(BaseModel):
    """Say in a sentence why a request was refused."""

    detail: str


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a request whose content is JSON."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}


def _form(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


EXPLAIN_FORM = _form(["images"], {"images": _FILES | {"maxItems": 1, "description": "The image to explain."}})
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
