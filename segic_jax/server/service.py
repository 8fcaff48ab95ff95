"""Make contexts, keep them in a folder, and segment and explain images with them, within the limits."""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import Response

from segic_jax.data.annotations.registry import READ
from segic_jax.errors import InputError
from segic_jax.inference.context import Context
from segic_jax.inference.segmenter import Segmenter
from segic_jax.runtime.limits import Budget, Limits
from segic_jax.server import forms, schemas, uploads
from segic_jax.server.answers import (
    AnswerFormat,
    ExplanationFormat,
    answer,
    answer_explanation,
    describe_context,
)
from segic_jax.server.metrics import Metrics
from segic_jax.server.model_thread import Ask, ModelThread
from segic_jax.server.store import ContextStore


class Received(NamedTuple):
    """Hold the images of a request, their names, and what is doubtful about them."""

    images: list[UInt8[np.ndarray, "_ _ 3"]]
    names: list[str]
    doubts: list[str]


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
        images, project = forms.files(form, "images"), forms.files(form, "project")
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
        id = forms.text(form, "id") or secrets.token_hex(8)
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
        images = uploads.save_files(forms.files(form, "images"), folder / "images", self.limits)
        masks = uploads.save_files(forms.files(form, "masks"), folder / "masks", self.limits)
        for files in (images, masks):
            uploads.count_pixels(files, self.limits)
        negatives = [forms.flag(value) for value in forms.texts(form, "negative")]
        return uploads.read_references(images, masks, forms.texts(form, "names"), negatives)

    def _read_project(self, form: FormData, folder: Path) -> uploads.References:
        format = forms.text(form, "format") or "auto"
        if format != "auto" and format not in READ:
            raise InputError(f"There is no format '{format[:40]}': choose auto or one of {', '.join(READ)}.")
        uploads.save_project(forms.files(form, "project"), folder, self.limits)
        return uploads.read_project_references(folder, format, self.limits)

    @asynccontextmanager
    async def _receive(self, form: FormData, limit: int) -> AsyncIterator[Received]:
        """Hold the images of a form, at most `limit`, inside the block.

        Raises:
            HTTPException, InputError: they cannot be used.
            BusyError: there is no room for them.
        """
        files = forms.files(form, "images")
        if not files:
            raise InputError("Send the images to segment as files of the field images.")
        if len(files) > limit:
            raise HTTPException(413, f"{len(files)} images were sent: at most {limit} fit.")
        with tempfile.TemporaryDirectory(prefix="segic_serve_") as folder:
            saved = await run_in_threadpool(uploads.save_files, files, Path(folder), self.limits)
            pixels = await run_in_threadpool(uploads.count_pixels, saved, self.limits)
            with self.budget.reserve(len(saved), pixels):
                images, doubts = await run_in_threadpool(uploads.read_images, saved)
                yield Received(images, [file.name for file in saved], doubts)

    async def predict(self, form: FormData, ask: Ask, format: AnswerFormat) -> Response:
        """Segment the images of a form."""
        async with self._receive(form, self.limits.images) as received:
            results = await self.in_time([self.model.predict(image, ask) for image in received.images])
            return await run_in_threadpool(answer, results, received.names, format, received.doubts)

    async def explain(
        self, form: FormData, context: Context, matches: int, format: ExplanationFormat
    ) -> Response:
        """Explain the masks of the classes on the one image of a form."""
        async with self._receive(form, 1) as received:
            count = 10_000 if format == "png" else matches  # the figure chooses those inside the masks
            explain = partial(self.segmenter.predict_and_explain, received.images[0], context, matches=count)
            ((result, explanations),) = await self.in_time([self.model.call(explain)])
            name = received.names[0]
            return await run_in_threadpool(
                answer_explanation, context, result, explanations, name, format, matches
            )
