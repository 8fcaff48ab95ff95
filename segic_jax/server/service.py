"""Define the HTTP service: contexts that are kept in a folder, and predictions with them."""

import asyncio
import logging
import math
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import fastapi
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

import segic_jax
from segic_jax.data.annotations.registry import READ
from segic_jax.errors import BusyError, InputError
from segic_jax.inference.context import Context
from segic_jax.inference.instances import InstancesFrom
from segic_jax.inference.segmenter import Segmenter
from segic_jax.server import schemas, uploads
from segic_jax.server.answers import AnswerFormat, answer, describe_context
from segic_jax.server.guard import Guard
from segic_jax.server.limits import Budget, Limits
from segic_jax.server.metrics import Metrics
from segic_jax.server.model_thread import Ask, ModelThread
from segic_jax.server.page import render_page
from segic_jax.server.store import ID, ContextStore

ContextId = Annotated[str, fastapi.Path(pattern=ID, description="The id of a context.")]
MAX_FIELDS = 1000  # of a form that are no files
_LOG = logging.getLogger("segic_jax.server")


class Service:
    """Hold what the routes share: one model, one folder of contexts, the limits and the metrics."""

    def __init__(self, segmenter: Segmenter, folder: Path, limits: Limits):
        self.segmenter, self.limits = segmenter, limits
        self.store = ContextStore(folder, segmenter)
        self.metrics = Metrics()
        self.budget = Budget(limits.pending_images, limits.pending_megapixels * 10**6)
        self.model = ModelThread(segmenter, self.metrics.count_batch)
        self.metrics.watch(
            "segic_pending_images", "Images that wait or are in work.", lambda: self.budget.images
        )
        self.metrics.watch("segic_contexts", "Contexts in the folder.", lambda: len(self.store.ids()))

    async def in_time(self, futures: Sequence[Future]) -> list[Any]:
        """Return the results of futures of the model's thread.

        Raises:
            HTTPException: they take longer than a request may.
        """
        waiting = asyncio.gather(*map(asyncio.wrap_future, futures))
        try:
            return await asyncio.wait_for(waiting, self.limits.seconds)
        except TimeoutError as error:
            sentence = (
                f"The request took more than {self.limits.seconds} s: send fewer images, or try again later."
            )
            raise HTTPException(503, sentence, {"Retry-After": "5"}) from error

    async def find(self, id: str) -> Context:
        """Return a context.

        Raises:
            HTTPException: there is none of this id.
        """
        context = await run_in_threadpool(self.store.get, id)
        if context is None:
            raise HTTPException(404, f"There is no context {id}: GET /v1/contexts lists all.")
        return context

    async def create(self, form: FormData) -> schemas.ContextInfo:
        """Make a context of a form, and keep it.

        Raises:
            HTTPException, InputError: the form cannot be used, or the id is taken.
        """
        id = await self._free_id(form)
        images, project = _files(form, "images"), _files(form, "project")
        if bool(images) == bool(project):
            raise InputError("Send images and masks, or the files of a labelling tool as project.")
        if len(images) > self.limits.references:
            raise HTTPException(413, f"{len(images)} images were sent: at most {self.limits.references} fit.")
        # The size of a project's images is not known yet: it holds as much as it may have.
        with (
            self.budget.reserve(len(images) or 1, self.limits.megapixels * 10**6),
            tempfile.TemporaryDirectory(prefix="segic_serve_") as folder,
        ):
            read = self._read_project if project else self._read_pairs
            references = await run_in_threadpool(read, form, Path(folder, "a", "b", "project"))
            classes = {example.name for example in references.examples if not example.negative}
            if len(classes) > self.limits.classes:
                raise HTTPException(
                    413, f"There are {len(classes)} classes: at most {self.limits.classes} fit."
                )
            (context,) = await self.in_time(
                [self.model.call(partial(self.segmenter.fit, references.examples))]
            )
        named = zip(context.references, references.sources, strict=True)
        context = replace(context, references=tuple(replace(item, source=name) for item, name in named))
        if not await run_in_threadpool(self.store.add, id, context):
            raise HTTPException(
                409, f"There is a context {id} already: choose another id, or delete it first."
            )
        return schemas.ContextInfo(**describe_context(id, context), warnings=references.warnings)

    async def _free_id(self, form: FormData) -> str:
        id = _text(form, "id") or secrets.token_hex(8)
        if await run_in_threadpool(self.store.get, id) is not None:
            raise HTTPException(
                409, f"There is a context {id} already: choose another id, or delete it first."
            )
        if len(await run_in_threadpool(self.store.ids)) >= self.limits.contexts:
            raise HTTPException(
                409, f"There are {self.limits.contexts} contexts, the limit: delete one first."
            )
        return id

    def _read_pairs(self, form: FormData, folder: Path) -> uploads.References:
        images = uploads.save_files(_files(form, "images"), folder / "images", self.limits)
        masks = uploads.save_files(_files(form, "masks"), folder / "masks", self.limits)
        for files in (images, masks):
            uploads.count_pixels(files, self.limits)
        negatives = [_flag(value) for value in _texts(form, "negative")]
        return uploads.read_references(images, masks, _texts(form, "names"), negatives)

    def _read_project(self, form: FormData, folder: Path) -> uploads.References:
        format = _text(form, "format") or "auto"
        if format != "auto" and format not in READ:
            raise InputError(f"There is no format '{format[:40]}': choose auto or one of {', '.join(READ)}.")
        uploads.save_project(_files(form, "project"), folder, self.limits)
        return uploads.read_project_references(folder, format, self.limits)

    async def predict(self, form: FormData, ask: Ask, format: AnswerFormat) -> Response:
        """Segment the images of a form.

        Raises:
            HTTPException, InputError: they cannot be used.
            BusyError: there is no room for them.
        """
        files = _files(form, "images")
        if not files:
            raise InputError("Send the images to segment as files of the field images.")
        if len(files) > self.limits.images:
            raise HTTPException(413, f"{len(files)} images were sent: at most {self.limits.images} fit.")
        with tempfile.TemporaryDirectory(prefix="segic_serve_") as folder:
            saved = await run_in_threadpool(uploads.save_files, files, Path(folder), self.limits)
            pixels = await run_in_threadpool(uploads.count_pixels, saved, self.limits)
            with self.budget.reserve(len(saved), pixels):
                images, doubts = await run_in_threadpool(uploads.read_images, saved)
                results = await self.in_time([self.model.predict(image, ask) for image in images])
                names = [file.name for file in saved]
                return await run_in_threadpool(answer, results, names, format, doubts)


def make_app(
    segmenter: Segmenter,
    folder: Path,
    limits: Limits,
    *,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
) -> fastapi.FastAPI:
    """Build the service as an ASGI application, which starts its thread at once.

    Args:
        folder: of the contexts.
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
    app.add_middleware(Guard, limits=limits, token=token, metrics=service.metrics)
    if hosts is not None:  # other sites whose name resolves to here are refused
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    _handle_errors(app)
    _add_pages(app, service)
    _add_routes(app, service)
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
    routes = fastapi.APIRouter(
        prefix="/v1/contexts",
        dependencies=[fastapi.Security(HTTPBearer(auto_error=False))],
        responses=schemas.PROBLEMS,
    )

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

    app.include_router(routes)


def _handle_errors(app: fastapi.FastAPI) -> None:
    """Answer every error with a sentence."""

    def respond(status: int, sentence: Callable[[Any], str], headers: dict[str, str] | None = None):
        async def handle(request: Request, error: Exception) -> JSONResponse:
            return JSONResponse({"detail": sentence(error)}, status, headers)

        return handle

    async def handle_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        short = {
            404: "There is no such address: /docs lists all.",
            405: "This address does not take this method: /docs lists them.",
        }
        sentence = error.detail if " " in error.detail.strip() and error.detail not in _PHRASES else ""
        return JSONResponse(
            {"detail": sentence or short.get(error.status_code, error.detail)},
            error.status_code,
            error.headers,
        )

    async def handle_bug(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("%s %s", request.method, request.url.path, exc_info=error)
        return JSONResponse({"detail": "The service failed: its log says why."}, 500)

    app.add_exception_handler(InputError, respond(422, str))
    app.add_exception_handler(BusyError, respond(429, str, {"Retry-After": "1"}))
    app.add_exception_handler(RequestValidationError, respond(422, _describe_invalid))
    app.add_exception_handler(HTTPException, handle_http)
    app.add_exception_handler(Exception, handle_bug)


_PHRASES = ("Not Found", "Method Not Allowed")


def _describe_invalid(error: RequestValidationError) -> str:
    problems = (f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in error.errors())
    return f"The request cannot be used: {'; '.join(problems)}."


def _files(form: FormData, name: str) -> list[UploadFile]:
    """Return the files of a field.

    Raises:
        InputError: something in it is no file.
    """
    values = form.getlist(name)
    if not all(isinstance(value, UploadFile) for value in values):
        raise InputError(f"The field {name} takes files, with their names.")
    return [value for value in values if isinstance(value, UploadFile)]


def _texts(form: FormData, name: str) -> list[str]:
    """Return the values of a field that is no file."""
    values = form.getlist(name)
    if not all(isinstance(value, str) for value in values):
        raise InputError(f"The field {name} takes text, not files.")
    return [str(value) for value in values]


def _text(form: FormData, name: str) -> str:
    values = _texts(form, name)
    if len(values) > 1:
        raise InputError(f"The field {name} is given {len(values)} times: give it once.")
    return values[0] if values else ""


def _flag(value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0"):
        raise InputError(f"negative is true or false, not {value[:40]!r}.")
    return value.lower() in ("true", "1")
