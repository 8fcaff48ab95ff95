"""What happens on the page: every event changes the visitor's session, then shows it again."""

import functools
from collections.abc import Callable
from html import escape
from pathlib import Path

import gradio as gr

from segic_jax.app import drawing, limits
from segic_jax.app.files import export
from segic_jax.app.layout import NOT_THIS, THIS, Finding, Marking, Searching, stage
from segic_jax.app.scenes import scenes
from segic_jax.app.session import Picture, Session
from segic_jax.errors import DataError, InputError
from segic_jax.inference.overlay import Mask
from segic_jax.inference.segmenter import Segmenter

VISITOR_SECONDS = 3600  # how long a session is kept after its page was closed
SCROLL = "() => document.getElementById('{}').scrollIntoView({{block: 'start'}})"


def warn(message: object) -> None:
    """A notice on the page."""
    gr.Warning(escape(str(message)), duration=12)


# The page itself sends what follows; requests made by hand may send anything.


def _name(path: object) -> str:
    """What the visitor called an uploaded file. Raises DataError where none came."""
    if not isinstance(path, str) or not path:
        raise DataError("No file arrived; choose it again.")
    return Path(path).name


def _index(chosen: gr.SelectData, count: int) -> int:
    """Of one of `count` images. Raises DataError where it is none."""
    if type(chosen.index) is not int or not 0 <= chosen.index < count:
        raise DataError("Choose one of the images that are shown.")
    return chosen.index


class Page:
    """The three steps and what joins them, to be made inside `gr.Blocks`.

    Handlers take the visitor's session and the values of some components, and give the components to change.
    """

    def __init__(self, segmenter: Segmenter, folder: Path):
        """The folder is for files to download."""
        self.segmenter, self.folder = segmenter, folder
        self.session = gr.State(Session(), time_to_live=VISITOR_SECONDS)
        self.stage = gr.HTML(stage(Session()), elem_classes="unseen", padding=False)
        with gr.Row(elem_id="steps"):
            with gr.Column(elem_id="show", min_width=320):
                self.mark = Marking()
            with gr.Column(elem_id="search", min_width=320):
                self.search = Searching()
                self.found = Finding()
        self._wire()

    def _wire(self) -> None:
        mark, search, found = self.mark, self.search, self.found
        marks = [mark.marks, mark.name, mark.kind]
        read = {"js": "(session, marks, ...others) => [session, window.segicMarks(), ...others]"}
        cut = [found.threshold, found.absent]
        model = {"concurrency_id": "model", "concurrency_limit": 1}  # one visitor at a time; the others queue
        latest = {"trigger_mode": "always_last"}

        self._on(mark.upload.upload, self.bring, [mark.upload], reset=mark.upload)
        self._on(mark.samples.select, self.bring_scene)
        self._on(mark.context_file.upload, self.load_context, [mark.context_file], busy=mark.context_file)
        self._on(mark.mask_file.upload, self.load_mask, [mark.mask_file])
        self._on(mark.add.click, self.add, marks, **read)
        self._on(mark.discard.click, self.discard)
        self._on(mark.shots.select, self.choose_shot)
        self._on(mark.remove.click, self.remove_shot)
        change = {"js": "(session) => [session, ...window.segicChange]"}
        self._on(mark.change.click, self.change_class, mark.changed, **change)
        self._on(search.upload.upload, self.add_targets, [search.upload], reset=search.upload)
        self._on(search.gallery.select, self.choose_target)
        self._on(search.remove.click, self.remove_target)
        run = self._on(search.find.click, self.find, marks, busy=search.find, **model, **read)
        run.then(None, js=SCROLL.format("search"))
        self._on(found.threshold.input, self.cut, cut, **latest)
        self._on(found.threshold.release, self.cut_all, cut, **latest)
        self._on(found.absent.input, self.cut_all, cut, **latest)
        self._on(found.explain.click, self.explain, [found.concept], busy=found.explain, **model)
        fix = self._on(found.correct.click, self.correct, [found.concept])
        fix.then(None, js=SCROLL.format("show"))
        self._on(found.prepare.click, self.prepare, busy=found.prepare)

    def _on(self, event: Callable, handler: Callable, inputs=(), *, busy=None, reset=None, **options):
        """Run the handler at the event.

        Args:
            busy: component that shows progress meanwhile.
            reset: component to empty if the input is refused.
        """

        @functools.wraps(handler)
        def run(visitor: Session, *arguments):
            try:
                return {**handler(visitor, *arguments), self.stage: stage(visitor)}
            except (InputError, OSError) as error:
                warn(error)
                return gr.skip() if reset is None else {reset: None}

        return event(
            run,
            [self.session, *inputs],
            self._changing,
            show_progress="full" if busy else "hidden",
            show_progress_on=busy,
            api_visibility="private",
            **options,
        )

    @functools.cached_property
    def _changing(self) -> list:
        """Every component that some handler changes."""
        mark, search, found = self.mark, self.search, self.found
        return [
            *(self.stage, mark.draft, mark.upload, mark.name, mark.kind, mark.legend, mark.shots),
            *(search.gallery, search.upload),
            *(found.overlay, found.presence, found.concept, found.heat, found.examples, found.files),
        ]

    # Step 1: an image, and what is marked in it.

    def bring(self, visitor: Session, path: str) -> dict:
        """An uploaded image becomes the one to mark."""
        name = _name(path)
        visitor.draft = Picture(name, limits.read_upload(path, name))
        return self._draft(visitor)

    def bring_scene(self, visitor: Session, chosen: gr.SelectData) -> dict:
        """An example from inside: marked, named, and with images to search."""
        scene = scenes()[_index(chosen, len(scenes()))]
        there = {target.picture.name for target in visitor.targets}
        visitor.add_targets([one for one in scene.targets if one.name not in there])
        visitor.draft = scene.picture
        return {**self._draft(visitor, scene.mask), **self._targets(visitor), self.mark.name: scene.name}

    def load_context(self, visitor: Session, path: str) -> dict:
        """A saved Context: its classes are there, and examples can be added."""
        name = _name(path)
        visitor.load(limits.read_context_upload(path, name, self.segmenter), name)
        return {**self._examples(visitor), **self._targets(visitor)}

    def load_mask(self, visitor: Session, path: str) -> dict:
        """A mask file becomes paint."""
        if visitor.draft is None:
            return {}
        mask = limits.read_mask_upload(path, _name(path), visitor.draft.image.shape[:2])
        return {self.mark.draft: drawing.painter_data(visitor.draft, mask)}

    def add(self, visitor: Session, marks: str, name: str, kind: str) -> dict:
        """The marked image becomes an example."""
        self._take(visitor, marks, name, kind)
        return {**self._draft(visitor), **self._examples(visitor), **self._targets(visitor)}

    def discard(self, visitor: Session) -> dict:
        """Put the image away."""
        visitor.draft = None
        return self._draft(visitor)

    def choose_shot(self, visitor: Session, chosen: gr.SelectData) -> dict:
        """One that could be removed."""
        visitor.chosen_shot = _index(chosen, len(visitor.shots))
        return {}

    def remove_shot(self, visitor: Session) -> dict:
        """Drop the chosen example."""
        visitor.remove_shot()
        return {**self._examples(visitor), **self._targets(visitor)}

    def change_class(self, visitor: Session, name: str, colour: str) -> dict:
        """Give a class another colour, or remove it. The legend stays as it is meanwhile, with the focus."""
        if colour:
            visitor.choose_colour(name, colour)
            return {**self._shots(visitor), **self._targets(visitor), **self._masks(visitor)}
        visitor.remove_class(name)
        return {**self._examples(visitor), **self._targets(visitor)}

    # Step 2: images to search.

    def add_targets(self, visitor: Session, paths: list[str]) -> dict:
        """Uploaded images; those that cannot be read are named and left out."""
        visitor.check_room(len(paths or ()))
        pictures = []
        for path in paths or [None]:
            name = _name(path)
            try:
                pictures.append(Picture(name, limits.read_upload(path, name)))
            except InputError as error:
                warn(error)
        visitor.add_targets(pictures)
        return self._targets(visitor)

    def choose_target(self, visitor: Session, chosen: gr.SelectData) -> dict:
        """Look at another image."""
        visitor.choose_target(_index(chosen, len(visitor.targets)))
        return self._found(visitor)

    def remove_target(self, visitor: Session) -> dict:
        """Drop the chosen image."""
        visitor.remove_target()
        return {**self._targets(visitor), **self._found(visitor)}

    def find(self, visitor: Session, marks: str, name: str, kind: str, progress=gr.Progress()) -> dict:  # noqa: B008
        """Search. An image that is marked and not added yet is added first."""
        if visitor.draft is not None:
            marked = any(part is not None for part in drawing.marked(marks, visitor.draft))
            if marked or not visitor.colours:
                self._take(visitor, marks, name, kind)
        visitor.find(self.segmenter, lambda done, total: progress((done, total), desc="Searching"))
        return {
            **self._draft(visitor),
            **self._examples(visitor),
            **self._targets(visitor),
            **self._found(visitor),
        }

    # Step 3: what was found.

    def cut(self, visitor: Session, probability: float, absent: bool) -> dict:
        """The chosen image at another threshold; the model does not run."""
        if not isinstance(probability, int | float):
            raise DataError("The threshold is a number.")
        visitor.probability, visitor.keep_absent, visitor.prepared = probability, bool(absent), False
        return self._masks(visitor)

    def cut_all(self, visitor: Session, probability: float, absent: bool) -> dict:
        """All images at another threshold."""
        return {**self.cut(visitor, probability, absent), **self._targets(visitor)}

    def explain(self, visitor: Session, name: str) -> dict:
        """Where the chosen image is alike to the examples, and which parts matched."""
        explanation, target = visitor.explain(self.segmenter, name)
        heat, examples = drawing.matched(explanation, target.image, visitor.reference)
        visitor.explained = True
        return {self.found.heat: heat, self.found.examples: examples}

    def correct(self, visitor: Session, name: str) -> dict:
        """Paint on a result: it becomes the next example."""
        mask = visitor.correct(name)
        return {**self._draft(visitor, mask), self.mark.name: name}

    def prepare(self, visitor: Session) -> dict:
        """Files to download."""
        files = export(visitor, self.folder)
        visitor.prepared = True
        return {self.found.files: files}

    # What several handlers share.

    def _take(self, visitor: Session, marks: str, name: str, kind: str) -> None:
        mask, box = drawing.marked(marks, visitor.draft) if visitor.draft else (None, None)
        visitor.take(name, mask, box, kind == NOT_THIS)

    def _draft(self, visitor: Session, mask: Mask | None = None) -> dict:
        """The image to mark, unmarked or with the paint of a mask."""
        mark = self.mark
        return {mark.draft: drawing.painter_data(visitor.draft, mask), mark.upload: None, mark.kind: THIS}

    def _examples(self, visitor: Session) -> dict:
        return {self.mark.legend: drawing.legend(visitor), **self._shots(visitor)}

    def _shots(self, visitor: Session) -> dict:
        thumbnails = [
            (drawing.example_thumbnail(shot, visitor.colours[shot.name]), "not " * shot.negative + shot.name)
            for shot in visitor.shots
        ]
        return {self.mark.shots: gr.update(value=thumbnails, selected_index=None)}

    def _targets(self, visitor: Session) -> dict:
        thumbnails = [
            (drawing.target_thumbnail(visitor, i), Path(target.picture.name).stem)
            for i, target in enumerate(visitor.targets)
        ]
        return {
            self.search.gallery: gr.update(value=thumbnails, selected_index=visitor.chosen_target),
            self.search.upload: None,
        }

    def _found(self, visitor: Session) -> dict:
        """The chosen image's result."""
        names = list(visitor.colours)
        return {
            **self._masks(visitor),
            self.found.concept: gr.update(choices=names, value=names[0] if names else None),
        }

    def _masks(self, visitor: Session) -> dict:
        if visitor.chosen is None:
            return {}
        result = visitor.shown(visitor.chosen.result)
        return {
            self.found.overlay: gr.update(value=result.overlay(), label=visitor.chosen.picture.name),
            self.found.presence: drawing.presence_table(result),
        }
