"""Connect the page's events to handlers, which change the visitor's session and update components."""

import functools
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from segic_jax.app import painter, rendering, uploads
from segic_jax.app.downloads import export
from segic_jax.app.layout import (
    BOX,
    INSIDE,
    NEGATIVE,
    OUTSIDE,
    POSITIVE,
    ExampleStep,
    ResultStep,
    TargetStep,
    page_state,
)
from segic_jax.app.samples import samples
from segic_jax.app.segmenters import Segmenters
from segic_jax.app.session import NamedImage, Session
from segic_jax.errors import DataError, InputError
from segic_jax.inference.overlay import Mask
from segic_jax.inference.segmenter import Segmenter
from segic_jax.runtime.notices import collect_warnings

SESSION_SECONDS = 3600  # how long a session is kept after its page was closed
SCROLL_TO = "() => document.getElementById('{}').scrollIntoView({{block: 'start'}})"

Updates = dict  # component -> its new value
# Arguments from the browser are `Any`: requests that the page does not send may hold anything.


class Page:
    """Build the three steps inside `gr.Blocks`, and handle their events.

    A handler takes the visitor's session and the values of some components, and returns the components to
    update.
    """

    def __init__(self, segmenters: Segmenters, folder: Path):
        """Build the components.

        Args:
            folder: gets the files that visitors download.
        """
        self.segmenters, self.folder = segmenters, folder
        session = Session(method=segmenters.first)
        self.session = gr.State(session, time_to_live=SESSION_SECONDS)
        self.state = gr.HTML(page_state(session), elem_classes="unseen", padding=False)
        with gr.Row(elem_id="steps"):
            with gr.Column(elem_id="example-step", min_width=320):
                self.example = ExampleStep()
            with gr.Column(elem_id="target-step", min_width=320):
                self.target = TargetStep(segmenters.methods, segmenters.first)
                self.result = ResultStep()
        self._connect()

    def _connect(self) -> None:
        example, target, result = self.example, self.target, self.result
        marks = [example.marks, example.class_name, example.kind]
        with_marks = {"js": "(session, marks, ...others) => [session, window.segicMarks(), ...others]"}
        display = [result.threshold, result.keep_absent, result.separate]
        on_model = {"concurrency_id": "model", "concurrency_limit": 1}  # one visitor at a time; others queue
        latest = {"trigger_mode": "always_last"}

        self._on(example.upload.upload, self.upload_image, [example.upload], reset=example.upload)
        self._on(example.samples.select, self.select_sample)
        self._on(
            example.context_file.upload,
            self.load_context,
            [example.context_file],
            busy=example.context_file,
        )
        self._on(example.mask_file.upload, self.load_mask, [example.mask_file])
        self._on(example.add.click, self.add_example, marks, **with_marks)
        self._on(example.discard.click, self.discard_draft)
        self._on(example.shots.select, self.select_shot)
        self._on(example.remove.click, self.remove_shot)
        class_change = {"js": "(session) => [session, ...window.segicClassChange]"}
        self._on(example.change_class.click, self.change_class, example.class_change, **class_change)
        self._on(target.upload.upload, self.add_targets, [target.upload], reset=target.upload)
        self._on(target.gallery.select, self.select_target)
        self._on(target.remove.click, self.remove_target)
        self._on(target.method.input, self.choose_method, [target.method], busy=target.method, **on_model)
        search = self._on(target.find.click, self.search, marks, busy=target.find, **on_model, **with_marks)
        search.then(None, js=SCROLL_TO.format("target-step"))
        self._on(result.threshold.input, self.preview_display, display, **latest)
        self._on(result.threshold.release, self.change_display, display, **latest)
        self._on(result.keep_absent.input, self.change_display, display, **latest)
        self._on(result.separate.input, self.change_display, display, **latest)
        self._on(result.explain.click, self.explain, [result.concept], busy=result.explain, **on_model)
        corrections = [result.concept, result.clicks]
        self._on(result.overlay.select, self.click, corrections, busy=result.overlay, **on_model)
        self._on(result.undo.click, self.undo_clicks)
        correct = self._on(result.correct.click, self.correct, [result.concept])
        correct.then(None, js=SCROLL_TO.format("example-step"))
        self._on(result.export.click, self.export, busy=result.export)

    def _on(self, event: Callable, handler: Callable, inputs=(), *, busy=None, reset=None, **options):
        """Run a handler at an event.

        Args:
            busy: the component that shows progress meanwhile.
            reset: the component to empty if the handler refuses its input.
        """

        @functools.wraps(handler)
        def run(session: Session, *arguments):
            with collect_warnings() as doubts:
                try:
                    return {**handler(session, *arguments), self.state: page_state(session)}
                except (InputError, OSError) as error:
                    _warn(error)
                    return gr.skip() if reset is None else {reset: None}
                finally:
                    for doubt in doubts:
                        _warn(doubt)

        return event(
            run,
            [self.session, *inputs],
            self._outputs,
            show_progress="full" if busy else "hidden",
            show_progress_on=busy,
            api_visibility="private",
            **options,
        )

    @functools.cached_property
    def _outputs(self) -> list:
        """List every component that a handler updates."""
        example, target, result = self.example, self.target, self.result
        return [
            self.state,
            *(example.draft, example.upload, example.class_name, example.kind),
            *(example.classes, example.shots),
            *(target.gallery, target.upload, target.method),
            *(result.overlay, result.presence, result.concept),
            *(result.heat, result.references, result.files),
        ]

    # Step 1: annotate an image.

    def upload_image(self, session: Session, path: Any) -> Updates:
        """Make an uploaded image the draft."""
        name = _file_name(path)
        session.draft = NamedImage(name, uploads.read_upload(path, name))
        return self._show_draft(session)

    def select_sample(self, session: Session, selection: gr.SelectData) -> Updates:
        """Make a sample the draft, annotated and named, and add its images to search."""
        sample = samples()[_index(selection, len(samples()))]
        present = {target.image.name for target in session.targets}
        session.add_targets([image for image in sample.targets if image.name not in present])
        session.draft = sample.image
        return {
            **self._show_draft(session, sample.mask),
            **self._show_targets(session),
            self.example.class_name: sample.class_name,
        }

    def load_context(self, session: Session, path: Any) -> Updates:
        """Add the classes of a saved context."""
        name = _file_name(path)
        session.load_context(uploads.read_context_upload(path, name, self._segmenter(session)), name)
        return {**self._show_examples(session), **self._show_targets(session)}

    def load_mask(self, session: Session, path: Any) -> Updates:
        """Paint the mask of an uploaded file on the draft."""
        if session.draft is None:
            return {}
        mask = uploads.read_mask_upload(path, _file_name(path), session.draft.pixels.shape[:2])
        return {self.example.draft: painter.painter_html(session.draft, mask)}

    def add_example(self, session: Session, marks: Any, class_name: Any, kind: Any) -> Updates:
        """Turn the annotated draft into an example."""
        self._add_shot(session, marks, class_name, kind)
        return {**self._show_draft(session), **self._show_examples(session), **self._show_targets(session)}

    def discard_draft(self, session: Session) -> Updates:
        """Discard the draft."""
        session.draft = None
        return self._show_draft(session)

    def select_shot(self, session: Session, selection: gr.SelectData) -> Updates:
        """Select the example that can be removed."""
        session.selected_shot = _index(selection, len(session.shots))
        return {}

    def remove_shot(self, session: Session) -> Updates:
        """Remove the selected example."""
        session.remove_shot()
        return {**self._show_examples(session), **self._show_targets(session)}

    def change_class(self, session: Session, name: Any, colour: Any) -> Updates:
        """Change the colour of a class, or remove the class if `colour` is empty.

        The class list is not updated at a change of colour, so that it keeps the keyboard's focus.
        """
        if colour:
            session.set_colour(name, colour)
            return {**self._show_shots(session), **self._show_targets(session), **self._show_masks(session)}
        session.remove_class(name)
        return {**self._show_examples(session), **self._show_targets(session)}

    # Step 2: add images to search.

    def add_targets(self, session: Session, paths: Any) -> Updates:
        """Add uploaded images; report and leave out those that cannot be read."""
        session.check_target_count(len(paths or ()))
        images = []
        for path in paths or [None]:
            name = _file_name(path)
            try:
                images.append(NamedImage(name, uploads.read_upload(path, name)))
            except InputError as error:
                _warn(error)
        session.add_targets(images)
        return self._show_targets(session)

    def select_target(self, session: Session, selection: gr.SelectData) -> Updates:
        """Show the result of another image."""
        session.select_target(_index(selection, len(session.targets)))
        return self._show_result(session)

    def remove_target(self, session: Session) -> Updates:
        """Remove the selected image."""
        session.remove_target()
        return {**self._show_targets(session), **self._show_result(session)}

    def choose_method(self, session: Session, method: Any) -> Updates:
        """Segment with another method from now on; say what to doubt about it."""
        if method not in self.segmenters.methods:
            raise DataError("Choose one of the methods on the page.")
        try:
            session.choose_method(method)
        except DataError as error:
            _warn(error)
            return {self.target.method: session.method}
        for sentence in self._segmenter(session).warnings:
            _warn(sentence)
        return {**self._show_targets(session), **self._show_shots(session)}

    def search(
        self,
        session: Session,
        marks: Any,
        class_name: Any,
        kind: Any,
        progress=gr.Progress(),  # noqa: B008
    ) -> Updates:
        """Segment all images; an annotated draft is added as an example first."""
        if session.draft is not None:
            marked = any(part is not None for part in painter.read_marks(marks, session.draft))
            if marked or not session.colours:
                self._add_shot(session, marks, class_name, kind)
        session.segment(
            self._segmenter(session), lambda done, total: progress((done, total), desc="Searching")
        )
        return {
            **self._show_draft(session),
            **self._show_examples(session),
            **self._show_targets(session),
            **self._show_result(session),
        }

    # Step 3: review the results.

    def preview_display(self, session: Session, threshold: Any, keep_absent: Any, separate: Any) -> Updates:
        """Show the selected image at another threshold; the model does not run."""
        if not isinstance(threshold, int | float):
            raise DataError("The threshold must be a number.")
        session.threshold, session.keep_absent, session.separate = (
            threshold,
            bool(keep_absent),
            bool(separate),
        )
        session.exported = False
        return self._show_masks(session)

    def change_display(self, session: Session, threshold: Any, keep_absent: Any, separate: Any) -> Updates:
        """Show all images at another threshold."""
        shown = self.preview_display(session, threshold, keep_absent, separate)
        return {**shown, **self._show_targets(session)}

    def explain(self, session: Session, class_name: Any) -> Updates:
        """Show where the selected image resembles the examples, and which parts match."""
        explanation, target = session.explain(self._segmenter(session), class_name)
        heat, references = rendering.render_matches(explanation, target.pixels, session.reference_image)
        session.explained = True
        return {self.result.heat: heat, self.result.references: references}

    def click(self, session: Session, class_name: Any, clicks: Any, selection: gr.SelectData) -> Updates:
        """Correct the mask of a class at a place of the selected image."""
        if clicks not in (INSIDE, OUTSIDE, BOX):
            return {}
        point = _point(selection)
        if clicks == BOX:
            session.corner_click(self._segmenter(session), class_name, point)
        else:
            session.click(self._segmenter(session), class_name, point, clicks == INSIDE)
        return {**self._show_masks(session), **self._show_targets(session)}

    def undo_clicks(self, session: Session) -> Updates:
        """Undo the corrections of the selected image."""
        session.undo_clicks()
        return {**self._show_masks(session), **self._show_targets(session)}

    def correct(self, session: Session, class_name: Any) -> Updates:
        """Make the selected image the draft, with its predicted mask as paint."""
        mask = session.correct(class_name)
        return {**self._show_draft(session, mask), self.example.class_name: class_name}

    def export(self, session: Session) -> Updates:
        """Offer files to download."""
        files = export(session, self.folder)
        session.exported = True
        return {self.result.files: files}

    # What several handlers share.

    def _segmenter(self, session: Session) -> Segmenter:
        return self.segmenters.of(session.method)

    def _add_shot(self, session: Session, marks: Any, class_name: Any, kind: Any) -> None:
        mask, box = painter.read_marks(marks, session.draft) if session.draft else (None, None)
        session.add_shot(class_name, mask, box, kind == NEGATIVE)

    def _show_draft(self, session: Session, mask: Mask | None = None) -> Updates:
        """Update the painter, with the paint of a mask or without paint."""
        example = self.example
        return {
            example.draft: painter.painter_html(session.draft, mask),
            example.upload: None,
            example.kind: POSITIVE,
        }

    def _show_examples(self, session: Session) -> Updates:
        return {self.example.classes: rendering.class_list(session), **self._show_shots(session)}

    def _show_shots(self, session: Session) -> Updates:
        thumbnails = [
            (
                rendering.example_thumbnail(shot, session.colours[shot.class_name]),
                rendering.example_caption(shot),
            )
            for shot in session.shots
        ]
        return {self.example.shots: gr.update(value=thumbnails, selected_index=None)}

    def _show_targets(self, session: Session) -> Updates:
        thumbnails = [
            (rendering.target_thumbnail(session, i), Path(target.image.name).stem)
            for i, target in enumerate(session.targets)
        ]
        return {
            self.target.gallery: gr.update(value=thumbnails, selected_index=session.selected_target),
            self.target.upload: None,
        }

    def _show_result(self, session: Session) -> Updates:
        """Update everything about the selected image's result."""
        names = list(session.colours)
        return {
            **self._show_masks(session),
            self.result.concept: gr.update(choices=names, value=names[0] if names else None),
        }

    def _show_masks(self, session: Session) -> Updates:
        target = session.searched_target
        if target is None or target.result is None:
            return {}
        result = session.styled(target.result)
        return {
            self.result.overlay: gr.update(value=result.overlay(), label=target.image.name),
            self.result.presence: rendering.presence_table(result),
        }


def _warn(message: object) -> None:
    gr.Warning(escape(str(message)), duration=12)


# Requests that do not come from the page may hold anything where the page sends a path or an index.


def _file_name(path: Any) -> str:
    """Return an uploaded file's name. Raises DataError if there is no file."""
    if not isinstance(path, str) or not path:
        raise DataError("No file arrived; choose it again.")
    return Path(path).name


def _index(selection: gr.SelectData, count: int) -> int:
    """Return a selected index. Raises DataError if it is not an index of one of `count` images."""
    if type(selection.index) is not int or not 0 <= selection.index < count:
        raise DataError("Select one of the images on the page.")
    return selection.index


def _point(selection: gr.SelectData) -> tuple[float, float]:
    """Return a selected place (x, y), on the image or not. Raises DataError if it is none."""
    index = selection.index
    if not (
        isinstance(index, list | tuple) and len(index) == 2 and all(type(v) in (int, float) for v in index)
    ):
        raise DataError("Click on the image.")
    x, y = index
    return float(x), float(y)
