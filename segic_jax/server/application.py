"""Define the HTTP service as an ASGI application: its routes, and what they take and answer."""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import fastapi
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

import segic_jax
from segic_jax.inference.instances import InstancesFrom
from segic_jax.inference.segmenter import Segmenter
from segic_jax.runtime.limits import Budget, Limits
from segic_jax.server import schemas
from segic_jax.server.answers import AnswerFormat, ExplanationFormat, describe_context
from segic_jax.server.guard import Guard
from segic_jax.server.label_studio import StudioBackend
from segic_jax.server.model_thread import Ask
from segic_jax.server.page import render_page
from segic_jax.server.problems import handle_errors
from segic_jax.server.service import Service
from segic_jax.server.store import ID
from segic_jax.server.task_images import LabelStudio, TaskImages

ContextId = Annotated[str, fastapi.Path(pattern=ID, description="The id of a context.")]
Content = TypeVar("Content", bound=BaseModel)
MAX_FIELDS = 1000  # of a form that are no files
JSON_REQUESTS = 64  # whose content is in memory at once


def make_app(
    segmenter: Segmenter,
    folder: Path,
    limits: Limits,
    *,
    label_studio: LabelStudio | None = None,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
) -> fastapi.FastAPI:
    """Build the service as an ASGI application, which starts its thread at once.

    Args:
        folder: of the contexts.
        label_studio: the only machine that is asked for images of tasks; None for none.
        token: that requests must bring; None for none.
        hosts: names that requests may give this machine; None for any.

    Raises:
        DataError: the folder cannot be created.
    """
    service = Service(segmenter, folder, limits)

    @asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.model.close)

    app = fastapi.FastAPI(
        title="segic serve",
        version=segic_jax.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Guard, limits=limits, token=token, metrics=service.metrics, hosts=hosts)
    handle_errors(app)
    _add_pages(app, service)
    _add_routes(app, service)
    images = TaskImages(label_studio, limits.file_megabytes)
    _add_label_studio(app, StudioBackend(service, images), Budget(JSON_REQUESTS, 2 * limits.request_bytes))
    return app


def _add_pages(app: fastapi.FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> schemas.Health:
        """Say that the service runs; no token is needed."""
        return schemas.Health(
            status="ok",
            version=segic_jax.__version__,
            model=service.segmenter.name,
            contexts=len(service.store.ids()),
            pending_images=service.budget.images,
        )

    @app.get("/metrics", response_class=Response, responses={401: schemas.PROBLEMS[401]})
    async def metrics() -> Response:
        """Return the metrics for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """Describe the routes on a page that loads nothing from elsewhere."""
        return HTMLResponse(render_page(app.openapi()))


def _add_routes(app: fastapi.FastAPI, service: Service) -> None:
    routes = _router("/v1/contexts")

    @routes.get("")
    async def list_contexts() -> schemas.ContextList:
        """List the contexts."""
        return schemas.ContextList(contexts=await run_in_threadpool(service.store.ids))

    @routes.post("", status_code=201, openapi_extra=schemas.CONTEXT_FORM)
    async def create_context(request: Request) -> schemas.ContextInfo:
        """Make a context of reference images and masks, or of the files of a labelling tool."""
        async with request.form(max_files=2 * service.limits.references, max_fields=MAX_FIELDS) as form:
            return await service.create(form)

    @routes.get("/{id}")
    async def get_context(id: ContextId) -> schemas.ContextInfo:
        """Describe a context."""
        return schemas.ContextInfo(**describe_context(id, await service.find(id)))

    @routes.delete("/{id}", status_code=204)
    async def delete_context(id: ContextId) -> None:
        """Delete a context."""
        if not await run_in_threadpool(service.store.delete, id):
            raise HTTPException(404, f"There is no context {id}: GET /v1/contexts lists all.")

    @routes.post("/{id}/predict", response_class=Response, openapi_extra=schemas.PREDICT_FORM)
    async def predict(
        request: Request,
        id: ContextId,
        format: Annotated[AnswerFormat, fastapi.Query(description="Of the response.")] = "json",
        threshold: Annotated[
            float, fastapi.Query(gt=0, lt=1, description="Probability above which a pixel is inside.")
        ] = 0.5,
        keep_absent: Annotated[bool, fastapi.Query(description="Mask absent classes, too.")] = False,
        together: Annotated[bool, fastapi.Query(description="Decode the classes together.")] = False,
        tiles: Annotated[str | None, fastapi.Query(pattern="^(auto|[1-8])$", description="Windows.")] = None,
        instances: Annotated[InstancesFrom | None, fastapi.Query(description="Separate objects.")] = None,
    ) -> Response:
        """Segment images; the answer is COCO's JSON, a label map, or a ZIP for a labelling tool."""
        ask = Ask(
            context=await service.find(id),
            cut=math.log(threshold / (1 - threshold)),
            keep_absent=keep_absent,
            together=together,
            tiles=int(tiles) if tiles and tiles != "auto" else tiles,
            instances=instances,
        )
        async with request.form(max_files=service.limits.images, max_fields=MAX_FIELDS) as form:
            return await service.predict(form, ask, format)

    @routes.post("/{id}/explain", response_class=Response, openapi_extra=schemas.EXPLAIN_FORM)
    async def explain(
        request: Request,
        id: ContextId,
        format: Annotated[ExplanationFormat, fastapi.Query(description="Of the response.")] = "json",
        matches: Annotated[
            int, fastapi.Query(ge=1, le=200, description="Matches of a class, the strongest.")
        ] = 24,
    ) -> Response:
        """Explain an image: its similarity map for each class, and which of its patches match which."""
        context = await service.find(id)
        async with request.form(max_files=1, max_fields=MAX_FIELDS) as form:
            return await service.explain(form, context, matches, format)

    app.include_router(routes)


def _router(prefix: str) -> fastapi.APIRouter:
    security = [fastapi.Security(HTTPBearer(auto_error=False))]
    return fastapi.APIRouter(prefix=prefix, dependencies=security, responses=schemas.PROBLEMS)


def _add_label_studio(app: fastapi.FastAPI, backend: StudioBackend, budget: Budget) -> None:
    """Add the routes of Label Studio's protocol.

    Args:
        budget: of the content of requests, which is held in memory: their number, and their bytes.
    """
    routes = _router("/v1/contexts/{id}/label-studio")

    async def read(request: Request, model: type[Content]) -> Content:
        try:
            return await run_in_threadpool(model.model_validate_json, await request.body())
        except ValidationError as error:
            problems = error.errors(include_input=False, include_url=False)
            raise RequestValidationError(
                [item | {"loc": ("body", *item["loc"])} for item in problems]
            ) from error

    def hold(request: Request) -> AbstractContextManager[None]:
        return budget.reserve(1, int(request.headers["content-length"]))

    @routes.get("/health")
    async def studio_health(id: ContextId) -> schemas.StudioHealth:
        """Say to Label Studio that the ML backend runs."""
        return schemas.StudioHealth()

    @routes.post("/setup", openapi_extra=schemas.json_body(schemas.StudioSetup))
    async def studio_setup(request: Request, id: ContextId) -> schemas.StudioVersion:
        """Check the labelling interface of a project of Label Studio."""
        with hold(request):
            sent = await read(request, schemas.StudioSetup)
            return schemas.StudioVersion(model_version=await backend.setup(id, sent.label_schema))

    @routes.post("/predict", openapi_extra=schemas.json_body(schemas.StudioTasks))
    async def studio_predict(request: Request, id: ContextId) -> schemas.StudioPredictions:
        """Segment the images of tasks of Label Studio."""
        with hold(request):
            sent = await read(request, schemas.StudioTasks)
            return schemas.StudioPredictions(results=await backend.predict(id, sent))

    @routes.post("/webhook", status_code=201, openapi_extra=schemas.json_body(schemas.StudioEvent))
    async def studio_webhook(request: Request, id: ContextId) -> schemas.StudioLearned:
        """Learn from an annotation of Label Studio, or forget deleted ones."""
        with hold(request):
            action = (await read(request, schemas.StudioEvent)).action
            if action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
                return await backend.learn(id, await read(request, schemas.StudioAnnotated))
            if action == "ANNOTATIONS_DELETED":
                return await backend.forget(id, await read(request, schemas.StudioDeleted))
            return schemas.StudioLearned(
                status="ignored",
                detail="Annotations are learned when they are submitted, updated or deleted, one by one.",
            )

    app.include_router(routes)
