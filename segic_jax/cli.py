"""The `segic` command: `predict` on one's own pictures, `emoji export` of the embedded benchmark."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass
class Predict:
    """Find what one picture with a mask shows in other pictures.

    Writes NAME_mask.png (0 or 255, at the picture's size) and NAME_overlay.jpg for every target, and
    scores.json. A mask may be any picture of its picture's size: a palette PNG marks the object by indices
    above 0, a picture with transparency by its opaque part, any other by values above 127.
    """

    ref: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[Path, Path], ...]], tyro.conf.arg(metavar="IMAGE MASK")
    ]
    """A picture and its mask; give it again for further shots of the same thing."""
    target: tuple[Path, ...]
    """Pictures to segment; a folder stands for all pictures in it."""
    out: Path
    """Folder for the results; made if need be."""
    weights: Path | None = None
    """Model file; the one inside the package by default."""


@dataclass
class Emoji:
    """The benchmark inside the package, as a folder of pictures and masks: CLASS/N.jpg and CLASS/N.png."""

    action: tyro.conf.Positional[Literal["export"]]
    """What to do."""
    out: Path
    """Folder for the pictures; new or empty."""
    split: Literal["novel", "validation", "base"] = "novel"
    """Which classes; the benchmark is scored on the novel ones."""


Command = (
    Annotated[Predict, tyro.conf.subcommand("predict")] | Annotated[Emoji, tyro.conf.subcommand("emoji")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; the exit code is 2 if some input was wrong."""
    command = tyro.cli(Command, prog="segic", description=__doc__, args=arguments)
    # Only now: JAX takes a second to import, and --help does not need it.
    from segic_jax.data.episodes import DataError
    from segic_jax.weights.bundle import BundleError

    try:
        sys.exit(predict(command) if isinstance(command, Predict) else export(command))
    except (DataError, BundleError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def predict(command: Predict) -> int:
    """Segment every target that can be read; 0, or 2 if one could not."""
    import cv2

    from segic_jax.data.episodes import DataError
    from segic_jax.data.files import read_picture
    from segic_jax.evaluate.report import RED, overlay
    from segic_jax.segmenter import load
    from segic_jax.weights.bundle import SHIPPED

    if not command.ref or not command.target:
        raise DataError("Give at least one --ref IMAGE MASK and one --target IMAGE.")
    targets = expanded(command.target)
    context = load(command.weights or SHIPPED).fit([("object", image, mask) for image, mask in command.ref])
    command.out.mkdir(parents=True, exist_ok=True)
    scores, code = {}, 0
    for name, path in targets.items():
        try:
            image = read_picture(path)
        except DataError as error:
            print(error, file=sys.stderr)
            code = 2
            continue
        result = context.predict(image)
        mask, score = result.masks[0], round(float(result.scores[0]), 4)
        drawn = cv2.cvtColor(overlay(image, mask, RED), cv2.COLOR_RGB2BGR)
        _write(command.out / f"{name}_mask.png", mask.astype("uint8") * 255)
        _write(command.out / f"{name}_overlay.jpg", drawn)
        scores[name] = {"target": str(path), "score": score, "pixels": int(mask.sum())}
        print(f"{path}: score {score:.2f}, {100 * mask.mean():.1f} % of the picture")
    (command.out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    return code


def expanded(targets: Sequence[Path]) -> dict[str, Path]:
    """Name of the results -> file: the stem, or the whole name where two files share their stem.

    Raises:
        DataError: a folder without pictures, or two files with one name.
    """
    from segic_jax.data.episodes import DataError
    from segic_jax.data.files import ENDINGS

    files: list[Path] = []
    for target in targets:
        if target.is_dir():
            inside = sorted(path for path in target.iterdir() if path.suffix.lower() in ENDINGS)
            if not inside:
                raise DataError(f"{target} holds no picture ({', '.join(ENDINGS)}).")
            files += inside
        else:
            files.append(target)
    files = list(dict.fromkeys(files))
    stems = [path.stem for path in files]
    named: dict[str, Path] = {}
    for path in files:
        name = path.stem if stems.count(path.stem) == 1 else path.name
        if name in named:
            raise DataError(f"{named[name]} and {path} would write the same files; segment them one by one.")
        named[name] = path
    return named


def export(command: Emoji) -> int:
    """Write the split's pictures."""
    from segic_jax.data.emoji.source import EmojiSource
    from segic_jax.data.sources import folder

    count = folder.export(EmojiSource(split=command.split), command.out)
    print(f"{count} pictures with masks in {command.out}")
    return 0


def _write(path: Path, pixels) -> None:
    import cv2

    from segic_jax.data.episodes import DataError

    if not cv2.imwrite(str(path), pixels):
        raise DataError(f"{path} could not be written.")
