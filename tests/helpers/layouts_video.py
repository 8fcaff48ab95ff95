"""Write tiny DAVIS and YouTube-VOS trees in the official layouts."""

import json

import cv2
import numpy as np
from PIL import Image

PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [7] * 756
HEIGHT, WIDTH = 40, 56


def clip(seed, frames=5, ids=(1, 2)):
    """Draw disks that move over noise: frames uint8 [t, h, w, 3] and label maps uint8 [t, h, w]."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 120, (frames, HEIGHT, WIDTH, 3), np.uint8)
    labels = np.zeros((frames, HEIGHT, WIDTH), np.uint8)
    for t in range(frames):
        for k, object_id in enumerate(ids):
            disk = np.zeros((HEIGHT, WIDTH), np.uint8)
            cv2.circle(disk, (12 + 14 * k + 2 * t, 14 + 8 * k), 8, 1, -1)
            labels[t][disk > 0] = object_id
            images[t][disk > 0] = (250 - 90 * k, 220, 30 + 60 * k)
    return images, labels


def write_clip(frames_folder, maps_folder, images, labels, *, maps=None, step=1):
    """Write JPEG frames, and palette PNGs for the frames numbered in `maps` (default: all)."""
    frames_folder.mkdir(parents=True)
    maps_folder.mkdir(parents=True)
    for t, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = f"{step * t:05}"
        cv2.imwrite(str(frames_folder / f"{name}.jpg"), image[..., ::-1])
        if maps is None or t in maps:
            png = Image.fromarray(label)
            png.putpalette(PALETTE)
            png.save(maps_folder / f"{name}.png")


def write_davis17(root, videos=(("bear", (1, 2)), ("cows", (1,)))):
    """Write DAVIS/ as `root`; the list of videos has CRLF line ends."""
    root = root / "2017"
    for seed, (name, ids) in enumerate(videos):
        write_clip(root / "JPEGImages/480p" / name, root / "Annotations/480p" / name, *clip(seed, ids=ids))
    (root / "ImageSets/2017").mkdir(parents=True)
    listing = "".join(f"{name}\r\n" for name, _ in videos[::-1])
    (root / "ImageSets/2017/val.txt").write_bytes(listing.encode())


def write_ytvos18(root):
    """Write ytbvos18/ as `root`; the second video has the ids 2 and 5, and object 5 appears late."""
    videos = {"aa": ((1, 2), {0}), "bb": ((2, 5), {0, 3})}
    meta = {}
    for seed, (name, (ids, maps)) in enumerate(videos.items()):
        images, labels = clip(seed, ids=ids)
        if name == "bb":
            labels[:3][labels[:3] == 5] = 0
        folder = root / "val"
        write_clip(
            folder / "JPEGImages" / name, folder / "Annotations" / name, images, labels, maps=maps, step=5
        )
        objects = {
            str(object_id): {"category": "disk", "frames": ["00000", "00005", "00010"]} for object_id in ids
        }
        meta[name] = {"objects": objects}
        write_clip(
            root / "train/JPEGImages" / name, root / "train/Annotations" / name, images, labels, step=5
        )
    (root / "val/meta.json").write_text(json.dumps({"videos": meta}))
