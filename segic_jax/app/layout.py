"""Lay out the components of the page; `handlers` connects their events."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import gradio as gr

from segic_jax.app import uploads
from segic_jax.app.painter import painter_html
from segic_jax.app.rendering import example_thumbnail
from segic_jax.app.samples import samples
from segic_jax.app.session import Session, Shot
from segic_jax.config import Method
from segic_jax.inference.overlay import class_colours

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.emerald,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_md,
    font=SYSTEM_FONTS,
    font_mono=("ui-monospace", "monospace"),
)
HERE = Path(__file__).parent
METHODS: dict[Method, str] = {"segic": "Trained head", "training_free": "Training-free"}
POSITIVE, NEGATIVE = "The object", "A look-alike"
NO_CLICKS, INSIDE, OUTSIDE, BOX = "Off", "Belongs to it", "Does not belong", "Box: two corners"


class ExampleStep:
    """Lay out step 1: an image, its marks, and the examples so far."""

    def __init__(self):
        _heading(1, "Mark an example", "Drop, paste or choose an image that shows the object.")
        self.upload = _upload("Image of the object", "single", "reference-upload")
        gr.HTML('<p class="hint">No image at hand? Start with a sample:</p>', padding=False)
        colour = class_colours(1)[0]
        self.samples = _thumbnails(
            [
                (
                    example_thumbnail(Shot(sample.image, sample.class_name, sample.mask), colour),
                    sample.class_name,
                )
                for sample in samples()
            ],
            label="Samples",
            columns=3,
            elem_id="samples",
        )
        with gr.Row(elem_id="saved"):
            gr.HTML('<p class="hint">Or continue from a saved context:</p>', padding=False)
            # No file types: phones do not know the suffix, and would offer nothing.
            self.context_file = gr.UploadButton(
                "Load context", size="sm", elem_id="context-upload", min_width=120, scale=0
            )
        self.draft = gr.HTML(painter_html(None), elem_id="draft-data", elem_classes="unseen", padding=False)
        self.marks = gr.Textbox(visible=False)  # filled by page.js when an event reads it
        with gr.Column(elem_id="marking"):
            gr.HTML((HERE / "painter.html").read_text("utf-8"), padding=False)
            with gr.Row():
                self.class_name = gr.Textbox(
                    label="Class name",
                    value="object",
                    max_length=uploads.MAX_NAME,
                    max_lines=1,
                    min_width=140,
                )
                self.kind = gr.Radio(
                    [POSITIVE, NEGATIVE], value=POSITIVE, label="What is marked", min_width=260
                )
            with gr.Row():
                self.add = gr.Button("Add example", elem_id="add", min_width=120)
                self.mask_file = gr.UploadButton(
                    "Load mask file", file_types=list(uploads.SUFFIXES), elem_id="mask-upload", min_width=140
                )
                self.discard = gr.Button("Discard", min_width=90, scale=0)
        self.classes = gr.HTML("", elem_id="classes", padding=False)
        # What page.js changes in the class list: a class, and its new colour or nothing to remove the class.
        self.class_change = [gr.Textbox(visible=False), gr.Textbox(visible=False)]
        self.change_class = gr.Button(elem_id="change-class")
        self.shots = _thumbnails(None, label="Examples", columns=4, elem_id="shots")
        self.remove = gr.Button("Remove selected example", size="sm", elem_id="remove-shot")


class TargetStep:
    """Lay out step 2: the images to search, and the method."""

    def __init__(self, methods: Sequence[Method], first: Method):
        _heading(2, "Add images to search", f"Drop, paste or choose up to {uploads.MAX_TARGETS} images.")
        self.upload = _upload("Images to search", "multiple", "target-upload")
        self.gallery = _thumbnails(None, label="Images to search", columns=4, elem_id="targets")
        self.remove = gr.Button("Remove selected image", size="sm", elem_id="remove-target")
        self.method = gr.Radio(
            [(METHODS[method], method) for method in methods],
            value=first,
            label="Method",
            info="Training-free only compares features; try it where the trained head finds too little.",
            visible=len(methods) > 1,
            elem_id="method",
        )
        self.find = gr.Button("Find it", variant="primary", size="lg", elem_id="find")


class ResultStep:
    """Lay out step 3: the result of the selected image."""

    def __init__(self):
        with gr.Column(elem_id="result-step"):
            _heading(3, "Review the results", "Select another image above to see its result.")
            self.overlay = _image("Result", elem_id="overlay")
            self.presence = gr.HTML(elem_id="presence", padding=False)
            self.threshold = gr.Slider(
                0.05,
                0.95,
                value=0.5,
                step=0.01,
                label="Threshold: a lower value marks more pixels",
                buttons=[],
                elem_id="threshold",
            )
            self.keep_absent = gr.Checkbox(label="Also show masks of absent classes", elem_id="keep-absent")
            self.separate = gr.Checkbox(label="Tell the objects of a class apart", elem_id="separate")
            self.concept = gr.Radio([], label="Class to explain or correct", elem_id="concept")
            with gr.Row(elem_id="clicks"):
                self.clicks = gr.Radio(
                    [NO_CLICKS, INSIDE, OUTSIDE, BOX],
                    value=NO_CLICKS,
                    label="Click on the result to correct the mask",
                    min_width=280,
                )
                self.undo = gr.Button(
                    "Undo corrections", size="sm", elem_id="undo-clicks", min_width=120, scale=0
                )
            with gr.Row():
                self.explain = gr.Button("Show matches", min_width=120)
                self.correct = gr.Button("Correct mask", min_width=120)
                self.export = gr.Button("Downloads", min_width=120)
            self.files = gr.File(label="Files", file_count="multiple", interactive=False, elem_id="files")
            with gr.Column(elem_id="matches"):
                gr.HTML(
                    "<h3>Matches</h3><p>Warm colours show where this image resembles your examples. Each "
                    "number marks a part of an example and the places in this image that match it best.</p>",
                    padding=False,
                )
                with gr.Row():
                    self.heat = _image("This image", min_width=240)
                    self.references = _image("Examples", min_width=240)


def page_state(session: Session) -> str:
    """Return an element whose classes tell style.css which parts of the page to show.

    Gradio's own `visible` removes components from the page and loses updates meanwhile.
    """
    conditions = {
        "has-draft": session.draft is not None,
        "has-classes": bool(session.colours),
        "has-shots": bool(session.shots),
        "shot-selected": session.selected_shot is not None,
        "has-targets": bool(session.targets),
        "has-result": session.searched_target is not None,
        "several-classes": len(session.colours) > 1,
        "explained": session.explained,
        "exported": session.exported,
    }
    classes = " ".join(name for name, holds in conditions.items() if holds)
    return f'<div id="page-state" class="{classes}" hidden></div>'


def header(model: str, device: str, warnings: Sequence[str]) -> str:
    """Return the title and a banner that names the model.

    Args:
        model: the name of the weights.
        warnings: `Segmenter.warnings`.
    """
    doubts = "".join(f"<strong>{escape(sentence)}</strong> " for sentence in warnings)
    return (
        "<header><h1>segic</h1>"
        "<p>Mark an object in one image, and find it in other images.</p>"
        f'</header><p class="banner {"doubtful" if warnings else ""}" role="note">{doubts}The model '
        f"{escape(model)} runs on the {escape(device)} of the machine that serves this page. Your images "
        "stay on that machine and are deleted afterwards.</p>"
    )


def _heading(number: int, text: str, hint: str) -> None:
    gr.HTML(f'<h2><span class="step">{number}</span> {text}</h2><p class="hint">{hint}</p>', padding=False)


def _upload(label: str, count: str, elem_id: str) -> gr.File:
    return gr.File(
        label=label,
        file_count=count,
        file_types=list(uploads.SUFFIXES),
        height=88,
        elem_id=elem_id,
        elem_classes="drop",
    )


def _thumbnails(value: list | None, **options) -> gr.Gallery:
    return gr.Gallery(
        value,
        show_label=False,
        fit_columns=False,
        height="auto",
        allow_preview=False,
        object_fit="cover",
        buttons=[],
        interactive=False,
        elem_classes="thumbnails",
        **options,
    )


def _image(label: str, **options) -> gr.Image:
    return gr.Image(label=label, interactive=False, buttons=["fullscreen"], format="png", **options)
