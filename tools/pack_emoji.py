"""Pack sprites and photographs into `sprites.zip`, the package data of the embedded benchmark.

    python tools/pack_emoji.py SPRITES_ZIP PHOTO... --held-out FILE

SPRITES_ZIP holds `<class>/<artist>.webp` (RGBA, cropped to the alpha) and `classes.json`; see
LICENSES.md for the packages that they come from. The classes named in `--held-out`, and whatever looks
like them or shares a word with them, are left out. Of the rest, only classes that have no such kin
may become validation or novel classes, so that no near-duplicate sits on two sides.
"""

import argparse
import hashlib
import json
import re
import zipfile
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from segic_jax.errors import DataError

SIDE = 96  # pixels of a packed sprite's longer side
QUALITY = 72  # WebP quality of the colours; the alpha channel stays lossless
PHOTO_SIDE = 320
NOVEL, VALIDATION = 64, 40  # classes
MIN_ARTISTS = 5  # of a novel or validation class
LOOKS_ALIKE = 0.13  # root mean square of two 16 x 16 thumbnails (0..1)
PLAIN_WORDS = {"with", "and", "the", "face", "not", "done", "1", "of", "on", "in", "a"}
# A word that stands for one thing under two names, or an image inside another.
SAME_THING = [
    {"locked", "unlocked"},
    {"calendar", "spiral_calendar"},
    {"cityscape", "sunset", "night_with_stars", "bridge_at_night"},
    {"aerial_tramway", "mountain_cableway", "suspension_railway"},
    {"sunglasses", "glasses", "goggles"},
    {"running_shoe", "hiking_boot"},
    {"ballet_shoes", "flat_shoe"},
    {"shamrock", "four_leaf_clover"},
    {"hatching_chick", "front_facing_baby_chick"},
    {"mouse_face", "rat"},
    {"pig", "boar"},
    {"duck", "goose", "swan"},
    {"trackball", "computer_mouse"},
]


def main() -> None:
    """Pack the files that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sprites", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--held-out", type=Path, required=True)
    args = parser.parse_args()
    pack(
        args.sprites,
        args.photos,
        set(args.held_out.read_text().split()),
        Path(__file__).parents[1] / "segic_jax/data/emoji/sprites.zip",
    )


def pack(sprites: Path, photos: list[Path], held_out: set[str], out: Path) -> None:
    """Write `out`: `classes.json`, `<class>/<artist>.webp`, `photos/<name>.jpg`."""
    with zipfile.ZipFile(sprites) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        classes = json.loads(source.read("classes.json"))
        images = {
            (entry["name"], artist): decode(source.read(f"{entry['name']}/{artist}.webp"))
            for entry in classes
            for artist in entry["vendors"]
        }
        kin = find_kin(classes, images)
        left_out = held_out | {other for name in held_out for other in kin[name]}
        split = choose_splits([entry for entry in classes if entry["name"] not in left_out], kin)
        index = [
            {
                "name": entry["name"],
                "label": entry["label"],
                "split": split[entry["name"]],
                "artists": entry["vendors"],
            }
            for entry in classes
            if entry["name"] not in left_out
        ]
        write(target, "classes.json", json.dumps(index, indent=0).encode())
        for entry in index:
            for artist in entry["artists"]:
                image = shrink(images[entry["name"], artist], SIDE)
                data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])[1]
                write(target, f"{entry['name']}/{artist}.webp", data.tobytes())
        for photo in sorted(photos):
            image = shrink(cv2.imread(str(photo), cv2.IMREAD_COLOR), PHOTO_SIDE)
            data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
            write(target, f"photos/{photo.stem}.jpg", data.tobytes())


def write(target: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Write a member with a fixed date, so that the same input gives the same file."""
    target.writestr(zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0)), data)


def decode(data: bytes) -> np.ndarray:
    """Decode WebP to BGRA uint8; a sprite without alpha is opaque."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DataError("A sprite cannot be read as an image.")
    if image.shape[2] == 3:
        image = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    return image


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Shrink an image so that its longer side has `side` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def find_kin(classes: list[dict], images: dict) -> dict[str, set[str]]:
    """Return for each class those that share a telling word, are in SAME_THING, or look alike."""
    names = [entry["name"] for entry in classes]
    kin: dict[str, set[str]] = {name: set() for name in names}

    def relate(a: str, b: str) -> None:
        kin[a].add(b)
        kin[b].add(a)

    words = {name: set(re.split("_", name)) - PLAIN_WORDS for name in names}
    for a, b in combinations(names, 2):
        if words[a] & words[b]:
            relate(a, b)
    for group in SAME_THING:
        for a, b in combinations(sorted(group & set(names)), 2):
            relate(a, b)
    for artist in sorted({artist for _, artist in images}):
        drawn = [name for name in names if (name, artist) in images]
        thumbnails = np.stack([thumbnail(images[name, artist]) for name in drawn])
        mirrored = thumbnails[:, :, ::-1].reshape(len(drawn), -1)
        thumbnails = thumbnails.reshape(len(drawn), -1)
        distance = np.minimum(
            root_mean_square(thumbnails, thumbnails), root_mean_square(thumbnails, mirrored)
        )
        for i, j in np.argwhere(np.triu(distance < LOOKS_ALIKE, 1)):
            relate(drawn[i], drawn[j])
    return kin


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return an image as [16, 16, 4] in 0..1, centred on a grey square."""
    alpha = image[..., 3:].astype(np.float32) / 255
    colour = image[..., :3].astype(np.float32) / 255
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 4), np.float32)
    square[..., :3] = 0.5
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = np.dstack([colour * alpha + 0.5 * (1 - alpha), alpha])
    return cv2.resize(square, (16, 16), interpolation=cv2.INTER_AREA)


def root_mean_square(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the distance of every row of `a` to every row of `b`."""
    squared = (a**2).mean(1)[:, None] + (b**2).mean(1)[None] - 2 * a @ b.T / a.shape[1]
    return np.sqrt(np.maximum(squared, 0))


def choose_splits(classes: list[dict], kin: dict[str, set[str]]) -> dict[str, str]:
    """Assign 'novel', 'validation' or 'base' to each class, by a hash of its name."""
    alone = [c["name"] for c in classes if not kin[c["name"]] and len(c["vendors"]) >= MIN_ARTISTS]
    alone.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    split = {entry["name"]: "base" for entry in classes}
    split |= dict.fromkeys(alone[:NOVEL], "novel")
    split |= dict.fromkeys(alone[NOVEL : NOVEL + VALIDATION], "validation")
    return split


if __name__ == "__main__":
    main()
