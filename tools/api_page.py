"""Write docs/api.md: signatures and docstrings of what users and researchers call, from the source.

    python tools/api_page.py

Griffe reads the source without importing it. A test fails while the page is older than the docstrings.
"""

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent, indent
from typing import NamedTuple

import griffe

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/api.md"


class Part(NamedTuple):
    """One heading of the page and what stands below it."""

    title: str
    text: str
    names: tuple[str, ...]  # below segic_jax; a method or property of a class comes with it


PARTS = (
    Part(
        "The Python API",
        "`from segic_jax import Segmenter, Example, Context, Result, Explanation, DataError`; what it is for "
        "stands in [own_images.md](own_images.md).",
        (
            "segmenter.Segmenter",
            "example.Example",
            "example.Picture",
            "example.Mask",
            "example.Targets",
            "context.Context",
            "context.Concept",
            "context.Reference",
            "result.Result",
            "explain.Explanation",
            "explain.Match",
        ),
    ),
    Part(
        "Errors",
        "All are `segic_jax.InputError`: one sentence, which the commands print before they exit with 2.",
        (
            "errors.InputError",
            "errors.ConfigError",
            "errors.DataError",
            "errors.FetchError",
            "errors.BundleError",
            "errors.ConvertError",
            "errors.SourceError",
            "errors.PthError",
            "errors.FormatError",
            "errors.TextError",
            "errors.WriteError",
            "params.ParamsError",
        ),
    ),
    Part(
        "Weights",
        "What `segic weights`, `convert` and `export` do, in Python; files and names are those of "
        "[weights.md](weights.md).",
        (
            "weights.fetch.find",
            "weights.fetch.fetch",
            "weights.fetch.listed",
            "weights.fetch.Row",
            "weights.bundle.load_bundle",
            "weights.bundle.save_bundle",
            "weights.bundle.Bundle",
            "weights.bundle.read_weights",
            "weights.bundle.write_weights",
            "weights.bundle.Weights",
            "weights.convert.convert",
            "weights.convert.Report",
            "weights.convert.export_head",
            "weights.convert.read_frozen",
            "weights.convert.FrozenParts",
            "weights.pth.read_pth",
            "weights.sources.read_safetensors",
            "weights.torch_names.from_torch",
            "weights.torch_names.to_torch",
            "weights.text.TextTower",
            "weights.text.encode_prompts",
        ),
    ),
    Part(
        "The model",
        "Pure functions over arrays, for research; [how_it_works.md](how_it_works.md) shows the way through "
        "them. Those of `programs` are compiled, once for each shape of their arguments; those of "
        "`models.segic` are for use inside a `jax.jit` of your own.",
        (
            "config.ModelConfig",
            "config.ViTConfig",
            "config.HeadConfig",
            "config.TextConfig",
            "data.canvas.resize_and_pad",
            "data.canvas.Placed",
            "programs.extract",
            "programs.encode",
            "programs.decode",
            "programs.cosine",
            "programs.show",
            "programs.find",
            "programs.match",
            "models.segic.References",
            "models.segic.Context",
            "models.segic.decode_stages",
            "models.segic.Decoded",
            "models.segic.train_forward",
            "models.segic.TrainPass",
            "models.segic.Negatives",
            "finding.Slots",
            "finding.Shown",
            "finding.Found",
            "presence.EVIDENCE",
            "presence.Calibration",
        ),
    ),
    Part(
        "Video",
        "What `segic video` and the video benchmarks run.",
        ("evaluate.video.Tracker", "evaluate.video.follow", "evaluate.video.Memory", "evaluate.video.look"),
    ),
)

HEAD = """# API

Made from the docstrings by `python tools/api_page.py`; do not edit it by hand.

`Float[np.ndarray, "height width"]` is a float array with these axes, as
[jaxtyping](https://docs.kidger.site/jaxtyping/) writes them; `*batch` stands for any number of axes.
`np.ndarray` lies in the machine's memory, `Array` on JAX's device. Masks are `[height, width]`, images
`[height, width, 3]` in RGB, points and boxes `(x, y)`. S is the side of the canvas, g that of the
backbone's grid. `segic.py:300` and the like are lines of the official code.
"""


def page() -> str:
    """The whole of docs/api.md."""
    loader = griffe.GriffeLoader(
        search_paths=[ROOT],
        allow_inspection=False,
        docstring_parser="google",
        docstring_options={"warnings": False},
    )
    package = loader.load("segic_jax", submodules=True)
    text = [HEAD]
    for part in PARTS:
        text += [f"## {part.title}\n", f"{part.text}\n"]
        things = {name: package[name] for name in part.names}
        if part.title == "Errors":
            text += _errors(things)
            continue
        text.append(" · ".join(f"[{_title(name)}](#{_anchor(_title(name))})" for name in things) + "\n")
        for name, thing in things.items():
            text.append(f"### {_title(name)}\n")
            text += _described(thing, name)
    return "\n".join(text).rstrip() + "\n"


def _errors(things: Mapping[str, griffe.Class]) -> list[str]:
    rows = [f"| `{name}` | `{one.bases[0]}` | {_flat(one.docstring.value)} |" for name, one in things.items()]
    return ["| error | is a | when |", "| --- | --- | --- |", *rows, ""]


def _title(name: str) -> str:
    """The class alone where it is in the public API; two of them are called Context."""
    public = ("segmenter.", "example.", "context.", "result.", "explain.")
    return name.partition(".")[2] if name.startswith(public) else name


def _anchor(title: str) -> str:
    return title.lower().replace(".", "")


def _described(thing: griffe.Object, name: str) -> list[str]:
    if thing.is_attribute:
        return [_code(thing.source)]
    if thing.is_function:
        return [_code(_signature(thing)), *_text(thing)]
    members = [one for one in thing.members.values() if _public(one)]
    fields = [one.source for one in thing.members.values() if _is_field(one)]
    bases = ", ".join(str(base) for base in thing.bases)
    text = [
        _code(f"class {thing.name}" + (f"({bases})" if bases else "") + ":" + _body(fields)),
        *_text(thing),
    ]
    properties = [one for one in members if one.is_attribute and "property" in one.labels]
    if properties:
        text += ["| property | type | |", "| --- | --- | --- |"]
        text += [_row(one) for one in properties]
        text.append("")
    for method in (one for one in members if one.is_function):
        text += [f"#### {_title(name)}.{method.name}\n", _code(_signature(method)), *_text(method)]
    return text


def _public(member: griffe.Object) -> bool:
    special = member.name.startswith("__") and member.is_function and member.docstring
    return bool(special) or not member.name.startswith("_")


def _is_field(member: griffe.Object) -> bool:
    """Of a dataclass or a named tuple, and neither a property nor set in `__init__`."""
    return (
        member.is_attribute
        and "property" not in member.labels
        and not member.source.strip().startswith("self.")
    )


def _body(fields: list[str]) -> str:
    return "\n" + indent("\n".join(dedent(field) for field in fields), "    ") if fields else " ..."


def _signature(function: griffe.Function) -> str:
    """The source from the decorators to the docstring."""
    assert function.docstring, f"{function.path} has no docstring"
    end = function.docstring.lineno - function.lineno
    return dedent("\n".join(function.lines[:end])).rstrip() + " ..."


def _code(source: str) -> str:
    return f"```python\n{dedent(source).strip()}\n```\n"


def _row(one: griffe.Attribute) -> str:
    summary = " ".join(one.docstring.value.split())
    return f"| `{one.name}` | `{str(one.annotation).replace('|', chr(92) + '|')}` | {summary} |"


def _text(thing: griffe.Object) -> list[str]:
    assert thing.docstring, f"{thing.path} has no docstring"
    words, items = [], []
    for section in thing.docstring.parsed:
        if section.kind is griffe.DocstringSectionKind.text:
            words.append(section.value + "\n")
        elif section.kind is griffe.DocstringSectionKind.parameters:
            items += [f"- `{one.name}`: {_flat(one.description)}" for one in section.value]
        elif section.kind is griffe.DocstringSectionKind.raises:
            kinds = [(str(one.annotation).strip("()"), one.description) for one in section.value]
            items += [f"- raises `{kind}`: {_flat(when)}" for kind, when in kinds]
        else:
            items += [f"- returns: {_flat(one.description)}" for one in section.value]
    return [*words, *items, ""] if items else words


def _flat(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
