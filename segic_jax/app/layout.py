"""The components of the page and where they stand; `events` makes them work."""

from html import escape
from pathlib import Path

import gradio as gr

from segic_jax.app import limits
from segic_jax.app.drawing import example_thumbnail, painter_data
from segic_jax.app.scenes import scenes
from segic_jax.app.session import Session, Shot
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
THIS, NOT_THIS = "This is it", "Alike, but not it"


class Marking:
    """Step 1: an image, what is marked in it, and the examples so far."""

    def __init__(self):
        gr.HTML(_heading(1, "Show what to find", "Drop, paste or choose an image of it."), padding=False)
        self.upload = _upload("Image of the thing", "single", "reference-upload")
        gr.HTML('<p class="hint">No image at hand? Start from one of these:</p>', padding=False)
        self.samples = _thumbnails(
            [
                (
                    example_thumbnail(Shot(scene.picture, scene.name, scene.mask), class_colours(1)[0]),
                    scene.name,
                )
                for scene in scenes()
            ],
            label="Examples to start from",
            columns=3,
            elem_id="samples",
        )
        with gr.Row(elem_id="saved"):
            gr.HTML('<p class="hint">Or go on from a Context that you saved:</p>', padding=False)
            # No file types: phones do not know this ending, and would offer nothing.
            self.context_file = gr.UploadButton(
                "Load a Context", size="sm", elem_id="context-upload", min_width=120, scale=0
            )
        self.draft = gr.HTML(painter_data(None), elem_id="draft-data", elem_classes="unseen", padding=False)
        self.marks = gr.Textbox(visible=False)  # what page.js says is marked
        with gr.Column(elem_id="marking"):
            gr.HTML((HERE / "painter.html").read_text("utf-8"), padding=False)
            with gr.Row():
                self.name = gr.Textbox(
                    label="Its name", value="object", max_length=limits.MAX_NAME, max_lines=1, min_width=140
                )
                self.kind = gr.Radio([THIS, NOT_THIS], value=THIS, label="What is marked", min_width=260)
            with gr.Row():
                self.add = gr.Button("Add this example", elem_id="add", min_width=120)
                self.mask_file = gr.UploadButton(
                    "Load a mask file", file_types=list(limits.ENDINGS), elem_id="mask-upload", min_width=140
                )
                self.discard = gr.Button("Discard", min_width=90, scale=0)
        self.legend = gr.HTML("", elem_id="legend", padding=False)
        # What page.js says is to be changed in the legend: a class, and its colour or nothing to remove it.
        self.changed = [gr.Textbox(visible=False), gr.Textbox(visible=False)]
        self.change = gr.Button(elem_id="class-change")
        self.shots = _thumbnails(None, label="Examples", columns=4, elem_id="shots")
        self.remove = gr.Button("Remove the chosen example", size="sm", elem_id="remove-shot")


class Searching:
    """Step 2: the images to search."""

    def __init__(self):
        gr.HTML(
            _heading(2, "Add images to search", f"Drop, paste or choose up to {limits.MAX_TARGETS}."),
            padding=False,
        )
        self.upload = _upload("Images to search", "multiple", "target-upload")
        self.gallery = _thumbnails(None, label="Images to search", columns=4, elem_id="targets")
        self.remove = gr.Button("Remove the chosen image", size="sm", elem_id="remove-target")
        self.find = gr.Button("Find it", variant="primary", size="lg", elem_id="find")


class Finding:
    """Step 3: what was found in the chosen image."""

    def __init__(self):
        with gr.Column(elem_id="found"):
            gr.HTML(
                _heading(3, "Look at what was found", "Choose another image above to look at it."),
                padding=False,
            )
            self.overlay = _image("Found", elem_id="overlay")
            self.presence = gr.HTML(elem_id="presence", padding=False)
            self.threshold = gr.Slider(
                0.05,
                0.95,
                value=0.5,
                step=0.01,
                label="Threshold: lower marks more, higher marks less",
                buttons=[],
                elem_id="threshold",
            )
            self.absent = gr.Checkbox(label="Mark classes that seem absent, too", elem_id="absent")
            self.concept = gr.Radio([], label="Look closer at", elem_id="concept")
            with gr.Row():
                self.explain = gr.Button("Show matches", min_width=120)
                self.correct = gr.Button("Correct mask", min_width=120)
                self.prepare = gr.Button("Downloads", min_width=120)
            self.files = gr.File(label="Files", file_count="multiple", interactive=False, elem_id="files")
            with gr.Column(elem_id="matches"):
                gr.HTML(
                    "<h3>What matched</h3><p>Warm colours: alike to what you marked. A number stands for a "
                    "part of an example, and for the parts of the image that match it best.</p>",
                    padding=False,
                )
                with gr.Row():
                    self.heat = _image("This image", min_width=240)
                    self.examples = _image("Examples", min_width=240)


def stage(visitor: Session) -> str:
    """What there is to show, as classes that style.css looks for: parts of the page hide without them.

    Gradio's own `visible` takes components out of the page, and loses some of what they are told meanwhile.
    """
    there = {
        "draft": visitor.draft is not None,
        "classes": bool(visitor.colours),
        "shots": bool(visitor.shots),
        "shot-chosen": visitor.chosen_shot is not None,
        "targets": bool(visitor.targets),
        "found": visitor.chosen is not None,
        "several": len(visitor.colours) > 1,
        "explained": visitor.explained,
        "prepared": visitor.prepared,
    }
    return f'<div id="stage" class="{" ".join(name for name, true in there.items() if true)}" hidden></div>'


def header(model: str, device: str, embedded: bool) -> str:
    """Title, and what is running: honest about the small model."""
    running = (
        "<strong>The small model inside the package is running.</strong> It was trained on composed scenes "
        "of emoji and finds emoji-like objects; it is no model of photographs. "
        "For those start <code>segic app --weights segic-l</code>."
        if embedded
        else f"<strong>{escape(model)}</strong> is running."
    )
    return (
        "<header><h1>segic</h1>"
        "<p>Show one image with a mask, and find the same thing in other images.</p>"
        f'</header><p class="banner {"small" if embedded else ""}" role="note">{running} It runs on the '
        f"{escape(device)} of the machine that serves this page; images stay there and are deleted.</p>"
    )


def _heading(number: int, text: str, hint: str) -> str:
    return f'<h2><span class="step">{number}</span> {text}</h2><p class="hint">{hint}</p>'


def _upload(label: str, count: str, elem_id: str) -> gr.File:
    return gr.File(
        label=label, file_count=count, file_types=list(limits.ENDINGS), height=88, elem_id=elem_id,
        elem_classes="drop",
    )  # fmt: skip


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
