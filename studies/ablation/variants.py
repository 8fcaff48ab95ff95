"""Define the variants that an ablation compares: each is a row of its table."""

from dataclasses import dataclass

from segic_jax.errors import ConfigError
from studies.ablation.features import BackboneInput
from studies.ablation.prompting import Prompting

DEFAULT = "default"
EXTENSIONS = "extensions"
SEGIC, USUAL = Prompting(), BackboneInput()


@dataclass(frozen=True)
class Variant:
    """Describe one variant by its differences to the default."""

    name: str
    group: str
    title: str
    prompting: Prompting = SEGIC
    input: BackboneInput = USUAL
    reversal: bool = True
    negatives: bool = False
    boxes: bool = True  # box prompts in training, as the configuration's `data.box` has them
    instances: bool = False  # half of the pairs are two views of a scene, and its objects
    seed: int = 0  # added to the configuration's
    head_of: str = ""  # a row whose head is evaluated, instead of training one
    shots: int = 1  # references of an episode
    names: bool = False  # whether the text prompt names the class


def make_variants(config_canvas: int, stride: int) -> tuple[Variant, ...]:
    """Return all variants, the important ones first.

    Args:
        config_canvas: the canvas of the configuration; the other two are about 3/4 and 5/4 of it.
        stride: side of the backbone's patches in pixels; all canvases are multiples of four patches.
    """
    step = 4 * stride
    smaller, larger = (round(config_canvas * share / step) * step for share in (0.75, 1.25))

    def shots(count: int, way: str, title: str) -> Variant:
        name = f"shots_{count}_{way}"
        return Variant(
            name, "shots", f"{count} shots, {title}", Prompting(shots=way), head_of=DEFAULT, shots=count
        )

    ways = (
        ("mean", "mean prototype"),
        ("tokens", "one token each, map of the mean prototype"),
        ("max", "one token each, maximum of the maps"),
    )
    return (
        Variant(DEFAULT, "default", "geometric and visual, context reversal, semantic pairs"),
        Variant("seed", "default", "the same from another seed", seed=1),
        *(shots(count, way, title) for count in (2, 5) for way, title in ways),
        Variant("geometric", "prompts", "geometric only", Prompting(visual=False)),
        Variant("visual", "prompts", "visual only", Prompting(geometric=False)),
        Variant("meta", "prompts", "meta only (name)", Prompting(False, False, True), names=True),
        Variant("all", "prompts", "all three, name given", Prompting(meta=True), names=True),
        Variant("none", "prompts", "none", Prompting(False, False)),
        Variant("unnamed", "text", "all three, name withheld", Prompting(meta=True), head_of="all"),
        Variant("no_reversal", "augmentation", "neither reversal nor negatives", reversal=False),
        Variant("negatives", "augmentation", "reversal and negatives", negatives=True),
        Variant("only_negatives", "augmentation", "negatives, no reversal", reversal=False, negatives=True),
        Variant("no_boxes", "augmentation", "reversal, no box prompts", boxes=False),
        Variant("instances", "data", "semantic pairs and instances", instances=True),
        Variant("random", "backbone", "random", input=BackboneInput("random")),
        Variant(
            "drawings", "backbone", "self-supervised, short (same drawing)", input=BackboneInput("drawings")
        ),
        Variant("classes", "backbone", "supervised, as short (same class)", input=BackboneInput("classes")),
        Variant("smaller", "canvas", f"canvas {smaller}", input=BackboneInput(canvas=smaller)),
        Variant("larger", "canvas", f"canvas {larger}", input=BackboneInput(canvas=larger)),
        Variant("mutual", EXTENSIONS, "similarity map of mutual matches", Prompting(extension="mutual")),
        Variant(
            "mutual_beside",
            EXTENSIONS,
            "similarity map + mutual matches",
            Prompting(extension="mutual_beside"),
        ),
        Variant(
            "prototypes", EXTENSIONS, "three prototypes per reference", Prompting(extension="prototypes")
        ),
        Variant("points", EXTENSIONS, "up to three points, one outside", Prompting(extension="points")),
        Variant("fine", EXTENSIONS, "backbone at twice the canvas, pooled", input=BackboneInput(fine=True)),
    )


def choose_variants(rows: tuple[Variant, ...], only: str) -> list[Variant]:
    """Return the variants to run: all, a group or one, with the default and those whose heads they use.

    Raises:
        ConfigError: `only` names neither.
    """
    choices = sorted({row.group for row in rows}) + [row.name for row in rows]
    if only and only not in choices:
        raise ConfigError(
            f"There is no group or row {only!r}: choose among {', '.join(dict.fromkeys(choices))}."
        )
    chosen = [row for row in rows if not only or only in (row.group, row.name)]
    needed = {DEFAULT, *(row.head_of for row in chosen), *(row.name for row in chosen)}
    return [row for row in rows if row.name in needed]
