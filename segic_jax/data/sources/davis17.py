"""Read DAVIS 2017, semi-supervised (Pont-Tuset et al., 2017): 30 validation videos at 480p.

<root>/JPEGImages/480p/<video>/00000.jpg
<root>/Annotations/480p/<video>/00000.png     palette PNG, the index is the object
<root>/ImageSets/2017/val.txt
"""

from pathlib import Path

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.layout import read_words
from segic_jax.data.video import VideoSource, make_clip
from segic_jax.errors import DataError

DOWNLOAD = "https://davischallenge.org/davis2017/code.html (TrainVal, 480p)"


def open_source(root: Path | str) -> VideoSource:
    """Open the folder above, DAVIS/ (with 2017/ in it), or its parent.

    Raises:
        DataError: the list or a video of it is missing.
    """
    root = Path(root)
    root = next((root / part for part in ("2017", "DAVIS/2017", "DAVIS") if (root / part).is_dir()), root)
    listing = root / "ImageSets/2017/val.txt"
    names = sorted(read_words(listing, DOWNLOAD))
    for name in names:
        if not (root / "JPEGImages/480p" / name).is_dir():
            raise DataError(
                f"{listing} lists {name}, but {root / 'JPEGImages/480p' / name} is missing: get it."
            )
    return VideoSource(
        "davis17",
        [
            make_clip(name, root / "JPEGImages/480p" / name, root / "Annotations/480p" / name)
            for name in names
        ],
    )


def check(root: Path) -> list[CheckLine]:
    """Count videos, frames and label maps."""
    try:
        clips = open_source(root).videos()
    except DataError as error:
        return [CheckLine("DAVIS 2017 val", "missing", problem=str(error))]
    frames = sum(len(clip.frames) for clip in clips)
    maps = sum(len(clip.annotations) for clip in clips)
    return [
        CheckLine("videos", len(clips), 30),
        CheckLine("frames", frames, 1999),
        CheckLine("label maps", maps, frames),
    ]


BENCHMARK = BenchmarkSpec(
    name="davis17",
    title="DAVIS 2017 val: 30 videos, J&F",
    kind="video",
    protocols=("official", "repaired"),
    layout=(
        "DAVIS/2017/JPEGImages/480p/<video>/*.jpg\nDAVIS/2017/Annotations/480p/<video>/*.png\n"
        "DAVIS/2017/ImageSets/2017/val.txt"
    ),
    download=DOWNLOAD,
    domain="davis",
    open=open_source,
    check=check,
)
