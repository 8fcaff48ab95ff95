"""Read YouTube-VOS 2018 (Xu et al., ECCV 2018): the validation set, and a hold-out that can be scored here.

<root>/val/{JPEGImages,Annotations}/<video>/*.{jpg,png}, <root>/val/meta.json    (valid/ in the download)
<root>/train/{JPEGImages,Annotations}/<video>/*.{jpg,png}

The validation set has label maps only of frames on which objects first appear; the challenge's server, which
may not answer, scores it. The hold-out is 50 videos of the training set, whose label maps are complete.
"""

import json
from pathlib import Path

import numpy as np

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.video import VideoSource, make_clip
from segic_jax.errors import DataError

DOWNLOAD = "https://youtube-vos.org/dataset/vos/ (2018; a registration is needed)"
HELD_OUT = 50  # videos, drawn with seed 0 from the sorted names


def open_validation(root: Path | str) -> VideoSource:
    """Open the validation set in ytbvos18/, its parent or its val/.

    A video is in both meta.json and JPEGImages/, or left out and noted: the official loader does not look for
    others. See `make_clip` for frames.

    Raises:
        DataError: meta.json or every video is missing.
    """
    folder = _split(Path(root), "val", "valid")
    path = folder / "meta.json"
    try:
        videos = json.loads(path.read_bytes())["videos"]
        required = {
            name: frozenset(stem for item in video["objects"].values() for stem in item["frames"])
            for name, video in videos.items()
        }
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): get it from {DOWNLOAD}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a list of videos and objects: get it again ({DOWNLOAD}).") from error
    frames = folder / "JPEGImages"
    on_disk = {path.name for path in frames.glob("[!.]*") if path.is_dir()}
    if not required.keys() & on_disk:
        raise DataError(f"{frames} holds no video that {path} lists: get it from {DOWNLOAD}.")
    clips = [
        make_clip(name, frames / name, folder / "Annotations" / name, required[name])
        for name in sorted(required.keys() & on_disk)
    ]
    left_out = [
        *(
            f"{frames / name} is missing, and {path} lists it: it is left out."
            for name in required.keys() - on_disk
        ),
        *(f"{frames / name} is not in {path}: it is left out." for name in on_disk - required.keys()),
    ]
    return VideoSource("ytvos18", clips, sorted(left_out))


def open_held_out(root: Path | str) -> VideoSource:
    """Open the hold-out in ytbvos18/ or its parent. Raises DataError if the training set is missing."""
    folder = _split(Path(root), "train")
    names = sorted(path.name for path in (folder / "JPEGImages").glob("[!.]*") if path.is_dir())
    if not names:
        raise DataError(f"{folder / 'JPEGImages'} holds no video: get it from {DOWNLOAD}.")
    drawn = np.random.default_rng(0).permutation(len(names))[:HELD_OUT]
    return VideoSource(
        "ytvos18_holdout",
        [
            make_clip(name, folder / "JPEGImages" / name, folder / "Annotations" / name)
            for name in sorted(names[i] for i in drawn)
        ],
    )


def _split(root: Path, *names: str) -> Path:
    root = root / "ytbvos18" if (root / "ytbvos18").is_dir() else root
    for name in names:
        if (root / name).is_dir():
            return root / name
    if (root / "JPEGImages").is_dir():
        return root
    raise DataError(f"{root / names[0]} is missing: get YouTube-VOS 2018 from {DOWNLOAD}.")


def check_validation(root: Path) -> list[CheckLine]:
    """Count the videos of the validation set."""
    return _check(open_validation, root, 474)


def check_held_out(root: Path) -> list[CheckLine]:
    """Count the videos of the hold-out, and those with all label maps."""
    return _check(open_held_out, root, HELD_OUT)


def _check(open_split, root: Path, videos: int) -> list[CheckLine]:
    try:
        clips = open_split(root).videos()
    except DataError as error:
        return [CheckLine("YouTube-VOS 2018", "missing", problem=str(error))]
    lines = [CheckLine("videos", len(clips), videos), CheckLine("frames", sum(len(c.frames) for c in clips))]
    if open_split is open_held_out:
        lines.append(CheckLine("videos with all label maps", sum(c.scored for c in clips), len(clips)))
    return lines


BENCHMARK = BenchmarkSpec(
    name="ytvos18",
    title="YouTube-VOS 2018 val: predictions for the challenge's server",
    kind="video",
    protocols=("official", "repaired"),
    layout="ytbvos18/val/{JPEGImages,Annotations}/<video>/\nytbvos18/val/meta.json",
    download=DOWNLOAD,
    domain="ytvos",
    open=open_validation,
    check=check_validation,
)
HOLDOUT = BenchmarkSpec(
    name="ytvos18_holdout",
    title="YouTube-VOS 2018: 50 training videos, J&F computed here",
    kind="video",
    protocols=("official", "repaired"),
    layout="ytbvos18/train/{JPEGImages,Annotations}/<video>/",
    download=DOWNLOAD,
    domain="ytvos",
    open=open_held_out,
    check=check_held_out,
)
