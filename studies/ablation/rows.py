"""The rows of the table: what each one changes of the default, in the order in which they are run."""

from dataclasses import dataclass

from segic_jax.errors import ConfigError
from studies.ablation.features import Kind
from studies.ablation.told import Told

DEFAULT = "default"
EXTENSIONS = "extensions"
SEGIC, USUAL = Told(), Kind()


@dataclass(frozen=True)
class Row:
    """One line; all that is not said is as in the default."""

    name: str
    group: str
    title: str
    told: Told = SEGIC
    kind: Kind = USUAL
    reversal: bool = True
    negatives: bool = False
    boxes: bool = True  # box prompts in training, as the configuration's `data.box` has them
    instances: bool = False  # half of the pairs are two views of a scene, and its objects
    seed: int = 0  # added to the configuration's
    # Only evaluated: another row's head.
    head_of: str = ""
    shots: int = 1
    names: bool = False  # the class's name is given


def rows_of(config_canvas: int, patch_size: int) -> tuple[Row, ...]:
    """All rows, the important ones first.

    Args:
        config_canvas: of the model; the other two canvases are about 3/4 and 5/4 of it.
        patch_size: must divide them, and half of it a quarter of them.
    """
    step = 4 * patch_size
    smaller, larger = (round(config_canvas * share / step) * step for share in (0.75, 1.25))

    def shots(count: int, way: str, title: str) -> Row:
        name = f"shots_{count}_{way}"
        return Row(name, "shots", f"{count} shots, {title}", Told(way=way), head_of=DEFAULT, shots=count)

    ways = (
        ("mean", "mean feature"),
        ("tokens", "a token each, map of the mean"),
        ("max", "a token each, largest of the maps"),
    )
    return (
        Row(DEFAULT, "default", "geometric and visual, context reversal, semantic pairs"),
        Row("seed", "default", "the same from another seed", seed=1),
        *(shots(count, way, title) for count in (2, 5) for way, title in ways),
        Row("geometric", "instructions", "geometric only", Told(visual=False)),
        Row("visual", "instructions", "visual only", Told(geometric=False)),
        Row("meta", "instructions", "meta only (name)", Told(False, False, True), names=True),
        Row("all", "instructions", "all three, name given", Told(meta=True), names=True),
        Row("none", "instructions", "none", Told(False, False)),
        Row("unnamed", "text", "all three, name withheld", Told(meta=True), head_of="all"),
        Row("no_reversal", "augmentation", "neither reversal nor negatives", reversal=False),
        Row("negatives", "augmentation", "reversal and negatives", negatives=True),
        Row("only_negatives", "augmentation", "negatives, no reversal", reversal=False, negatives=True),
        Row("no_boxes", "augmentation", "reversal, no box prompts", boxes=False),
        Row("instances", "data", "semantic pairs and instances", instances=True),
        Row("random", "backbone", "random", kind=Kind("random")),
        Row("drawings", "backbone", "self-supervised, short (same drawing)", kind=Kind("drawings")),
        Row("classes", "backbone", "supervised, as short (same class)", kind=Kind("classes")),
        Row("smaller", "canvas", f"canvas {smaller}", kind=Kind(canvas=smaller)),
        Row("larger", "canvas", f"canvas {larger}", kind=Kind(canvas=larger)),
        Row("mutual", EXTENSIONS, "cosine map where both sides choose", Told(extension="mutual")),
        Row("mutual_beside", EXTENSIONS, "cosine map + mutual choice", Told(extension="mutual_beside")),
        Row("prototypes", EXTENSIONS, "three prototypes a reference", Told(extension="prototypes")),
        Row("points", EXTENSIONS, "up to three points, one outside", Told(extension="points")),
        Row("fine", EXTENSIONS, "backbone at twice the canvas, pooled", kind=Kind(fine=True)),
    )


def chosen(rows: tuple[Row, ...], only: str) -> list[Row]:
    """The rows to run: all, or those of a group or a name, with the default and the heads that they need.

    Raises:
        ConfigError: `only` names neither.
    """
    known = sorted({row.group for row in rows}) + [row.name for row in rows]
    if only and only not in known:
        raise ConfigError(
            f"There is no group or row {only!r}: choose among {', '.join(dict.fromkeys(known))}."
        )
    wanted = [row for row in rows if not only or only in (row.group, row.name)]
    needed = {DEFAULT, *(row.head_of for row in wanted), *(row.name for row in wanted)}
    return [row for row in rows if row.name in needed]
