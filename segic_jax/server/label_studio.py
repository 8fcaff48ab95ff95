"""Answer Label Studio as one of its ML backends: predict its tasks, and learn from its annotations.

The backend of a context is below /v1/contexts/ID/label-studio. It predicts with context ID and with those
that it made of annotations, ID-annotation-N each, where N is Label Studio's number of the annotation: so a
changed or deleted annotation changes or deletes what was learned from it, and nothing else.
"""

import hashlib
import json
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from segic_jax.data.annotations.label_studio import region_items
from segic_jax.data.annotations.label_studio_interface import Interface, read_interface
from segic_jax.errors import DataError
from segic_jax.inference.annotations import labelled_image
from segic_jax.inference.context import Context
from segic_jax.inference.result import Result
from segic_jax.server import uploads
from segic_jax.server.model_thread import Ask
from segic_jax.server.schemas import StudioAnnotated, StudioDeleted, StudioLearned, StudioTask, StudioTasks
from segic_jax.server.service import Service
from segic_jax.server.store import CACHED, ID, Stamp
from segic_jax.server.task_images import TaskImages


class StudioBackend:
    """Serve Label Studio with the contexts of a service."""

    def __init__(self, service: Service, images: TaskImages):
        self._service, self._images = service, images
        self._lock = threading.Lock()
        self._merged: OrderedDict[str, tuple[tuple[Stamp, ...], Context | None]] = OrderedDict()

    async def setup(self, id: str, config: str) -> str:
        """Check a project's labelling interface, and return the version of the context.

        Raises:
            InputError: the interface has no control for regions.
        """
        read_interface(config)
        return (await run_in_threadpool(self._find, id))[0]

    async def predict(self, id: str, sent: StudioTasks) -> list[dict[str, Any]]:
        """Return a prediction for each task; empty ones where nothing was learned yet.

        Raises:
            HTTPException, InputError: a task cannot be used.
            BusyError: there is no room for an image.
        """
        limits = self._service.limits
        if len(sent.tasks) > limits.references:
            raise HTTPException(413, f"{len(sent.tasks)} tasks were sent: at most {limits.references} fit.")
        interface = read_interface(sent.label_config)
        version, context = await run_in_threadpool(self._find, id)
        if context is None:
            empty = {"result": [], "score": 0.0, "model_version": version}
            return [empty for _ in sent.tasks]
        predictions, end = [], time.monotonic() + limits.seconds
        for task in sent.tasks:
            if time.monotonic() > end:
                raise HTTPException(503, f"The request took more than {limits.seconds} s: send fewer tasks.")
            with tempfile.TemporaryDirectory(prefix="segic_serve_") as folder:
                file = await run_in_threadpool(self._save_image, task, interface, Path(folder))
                pixels = await run_in_threadpool(uploads.count_pixels, [file], limits)
                with self._service.budget.reserve(1, pixels):
                    (image,), _ = await run_in_threadpool(uploads.read_images, [file])
                    ask = Ask(context)
                    (result,) = await self._service.in_time([self._service.model.predict(image, ask)])
                    predictions.append(await run_in_threadpool(_prediction, result, interface, version))
        return predictions

    async def forget(self, id: str, sent: StudioDeleted) -> StudioLearned:
        """Forget what was learned from annotations that are deleted now."""
        names = [_learned_id(id, item.id) for item in sent.annotations]
        deleted = [name for name in names if await run_in_threadpool(self._service.store.delete, name)]
        return StudioLearned(status="ok", deleted=deleted)

    async def learn(self, id: str, sent: StudioAnnotated) -> StudioLearned:
        """Learn from an annotation that was made or changed; an empty or skipped one is forgotten.

        Raises:
            HTTPException, InputError: the annotation cannot be used.
            BusyError: there is no room for its image.
        """
        if sent.annotation.was_cancelled or not sent.annotation.result:
            return await self.forget(id, StudioDeleted(action=sent.action, annotations=[sent.annotation]))
        store, limit = self._service.store, self._service.limits.contexts
        name, ids = _learned_id(id, sent.annotation.id), await run_in_threadpool(store.ids)
        if name not in ids and len(ids) >= limit:
            raise HTTPException(409, f"There are {limit} contexts, the limit: delete one first.")
        context, warnings = await self._fit(sent.task, sent.annotation.result, sent.project.label_config)
        await run_in_threadpool(store.put, name, context)
        return StudioLearned(status="ok", context=name, classes=list(context.names), warnings=warnings)

    async def _fit(
        self, task: StudioTask, result: list[dict[str, Any]], config: str
    ) -> tuple[Context, list[str]]:
        """Make a context of an annotation; return it with what is doubtful about it."""
        limits, model = self._service.limits, self._service.model
        interface = read_interface(config)
        with (
            self._service.budget.reserve(1, limits.megapixels * 10**6),
            tempfile.TemporaryDirectory(prefix="segic_serve_") as folder,
        ):
            part = Path(folder, "a", "b", "project")
            part.mkdir(parents=True)
            file = await run_in_threadpool(self._save_image, task, interface, part)
            export = [{"id": task.id, "data": {"image": file.path.name}, "annotations": [{"result": result}]}]
            (part / "annotation.json").write_text(json.dumps(export), "utf-8")
            references = await run_in_threadpool(
                uploads.read_project_references, part, "label-studio", limits
            )
            if len({example.name for example in references.examples}) > limits.classes:
                raise HTTPException(413, f"An annotation may have at most {limits.classes} classes.")
            (context,) = await self._service.in_time(
                [model.call(partial(self._service.segmenter.fit, references.examples))]
            )
        renamed = tuple(replace(item, source=f"task {task.id}") for item in context.references)
        return replace(context, references=renamed), references.warnings

    def _save_image(self, task: StudioTask, interface: Interface, folder: Path) -> uploads.SavedFile:
        what = f"task {task.id}"
        content = self._images.read(task.data.get(interface.image), what)
        path = folder / f"task_{task.id}.png"  # what it is shows in its content
        path.write_bytes(content)
        return uploads.SavedFile(f"the image of {what}", path)

    def _find(self, id: str) -> tuple[str, Context | None]:
        """Return the sum of a context and of those that were learned for it, with its version."""
        store = self._service.store
        learned = re.compile(rf"{re.escape(id)}-annotation-(\d+)")
        found = [match for name in store.ids() if (match := learned.fullmatch(name))]
        names = [id, *(match[0] for match in sorted(found, key=lambda match: int(match[1])))]
        stamps = store.stamps(names)
        with self._lock:
            kept = self._merged.get(id)
        if kept is None or kept[0] != stamps:
            parts = [context for stamp in stamps if (context := store.get(stamp[0])) is not None]
            kept = stamps, reduce(add, parts) if parts else None
            if kept[1] is not None and len(kept[1].names) > self._service.limits.classes:
                limit = self._service.limits.classes
                raise DataError(f"Context {id} and its annotations have more than {limit} classes.")
            with self._lock:
                self._merged[id] = kept
                while len(self._merged) > CACHED:
                    self._merged.popitem(last=False)
        digest = hashlib.sha256(repr([stamp[:1] + stamp[2:] for stamp in stamps]).encode()).hexdigest()
        return f"{id}-{digest[:8]}", kept[1]


def _learned_id(id: str, annotation: int) -> str:
    name = f"{id}-annotation-{annotation}"
    if not re.fullmatch(ID, name):
        raise DataError(f"{id} is too long for annotations beside it: connect a context with a shorter id.")
    return name


def _prediction(result: Result, interface: Interface, version: str) -> dict[str, Any]:
    """Return a result as a prediction of Label Studio; classes without a label are left out."""
    items: list[dict[str, Any]] = []
    regions: Sequence = labelled_image(result, "task").regions()
    for region in regions:
        items += region_items(region, result.image.shape[:2], interface.of(region.label))
    scores = [item["score"] for item in items]
    return {
        "result": items,
        "score": round(float(np.mean(scores)), 4) if scores else 0.0,
        "model_version": version,
    }
