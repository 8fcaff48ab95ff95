"""`segic predict`: masks for one's own pictures."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

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
    weights: str = ""
    """Model file, or a name of `segic weights list`; the small model inside the package by default."""

    def run(self) -> int:
        """Segment every target that can be read; 0, or 2 if one could not."""
        import cv2

        from segic_jax.compile_cache import use_compile_cache
        from segic_jax.data.episodes import DataError
        from segic_jax.example import Example
        from segic_jax.segmenter import Segmenter

        if not self.ref or not self.target:
            raise DataError("Give at least one --ref IMAGE MASK and one --target IMAGE.")
        targets = expanded(self.target)
        use_compile_cache()
        segmenter = Segmenter.load(self.weights)
        context = segmenter.fit([Example(image, mask) for image, mask in self.ref])
        self.out.mkdir(parents=True, exist_ok=True)
        scores, code = {}, 0
        for name, path in targets.items():
            try:
                result = segmenter.predict(path, context)
            except DataError as error:
                print(error, file=sys.stderr)
                code = 2
                continue
            mask, score = result.masks[0], round(float(result.scores[0]), 4)
            drawn = cv2.cvtColor(result.overlay(), cv2.COLOR_RGB2BGR)
            _write(self.out / f"{name}_mask.png", mask.astype("uint8") * 255)
            _write(self.out / f"{name}_overlay.jpg", drawn)
            scores[name] = {"target": str(path), "score": score, "pixels": int(mask.sum())}
            print(f"{path}: score {score:.2f}, {100 * mask.mean():.1f} % of the picture")
        (self.out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
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


def _write(path: Path, pixels) -> None:
    import cv2

    from segic_jax.data.episodes import DataError

    if not cv2.imwrite(str(path), pixels):
        raise DataError(f"{path} could not be written.")
