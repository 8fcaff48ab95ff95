"""Write tiny trees of INSID3's cross-domain sets, PerSeg and a COCO JSON, in the official layouts."""

import json

import cv2
import numpy as np
from layouts_coco import HEIGHT, WIDTH, coco_json, noise


def square(size, value=255):
    """Return a mask with `size` x `size` pixels of `value` at the top left."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:size, :size] = value
    return mask


def write_pixels(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def write_isic(root):
    """Write ISIC/ as `root`: 3, 4 and 2 images; the mask of image n is a square of n pixels a side."""
    n = 0
    for folder, count in enumerate((3, 4, 2), start=1):
        for _ in range(count):
            n += 1
            write_pixels(root / f"ISIC2018_Task1-2_Training_Input/{folder}/ISIC_{n:07}.jpg", noise(n))
            write_pixels(
                root / f"ISIC2018_Task1_Training_GroundTruth/ISIC_{n:07}_segmentation.png", square(n)
            )


def write_lung(root):
    """Write LungSegmentation/ as `root`: two masks of each hospital, and one image without a mask."""
    for n, name in enumerate(("CHNCXR_0001_0", "CHNCXR_0002_1", "MCUCXR_0001_0", "MCUCXR_0003_1"), start=3):
        write_pixels(root / f"CXR_png/{name}.png", noise(n))
        write_pixels(root / ("masks/" + name + ("" if "MCU" in name else "_mask") + ".png"), square(n))
    write_pixels(root / "CXR_png/CHNCXR_0009_0.png", noise(9))


def write_isaid(root):
    """Write iSAID/ as `root`: fold f has its first and last class on three patches; 255 is ignored."""
    for fold in range(3):
        lines = []
        for n in range(3):
            name = f"P{fold}_{n}"
            labels = square(6 + n, 5 * fold + 1) + square(0)
            labels[12:16] = 5 * fold + 5
            labels[20:] = 255
            write_pixels(root / f"val/images/{name}.png", noise(10 * fold + n))
            write_pixels(root / f"val/semantic_png/{name}_instance_color_RGB.png", labels)
            lines += [f"{name}__{5 * fold + 1}", f"{name}__{5 * fold + 5}"]
        path = root / f"splits/val/fold{fold}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(line + "\r\n" for line in lines).encode())


def write_suim(root):
    """Write SUIM/ as `root`: three images with all classes, except one empty mask."""
    for n in range(3):
        write_pixels(root / f"images/d_{n}_.jpg", noise(n))
        for folder in ("FV", "HD", "PF", "RI", "RO", "SR", "WR"):
            empty = folder == "PF" and n == 1
            write_pixels(root / f"masks/{folder}/d_{n}_.bmp", square(4 + n, 100 if empty else 255))


def write_permis(root):
    """Write PerMIRS/ as `root`: two videos; the first track is the object."""
    for n, video in enumerate(("vid_b", "vid_a")):
        frames = np.empty(3, object)
        for frame in range(3):
            write_pixels(root / video / f"{frame}.jpg", noise(frame))
            frames[frame] = {7: square(5 + n + frame, 1), 9: square(2, 1)}
        np.save(root / video / "masks.npz.npy", frames, allow_pickle=True)


def write_perseg(root):
    """Write Images/ and Annotations/ into `root`: two objects on three images each, with red masks."""
    for name in ("teapot", "red_cup"):
        for n in range(3):
            write_pixels(root / f"Images/{name}/{n:02}.jpg", noise(n))
            write_pixels(
                root / f"Annotations/{name}/{n:02}.png", np.dstack([square(0), square(0), square(6 + n, 128)])
            )


def write_coco_folder(root, images="images/"):
    """Write a COCO JSON with its images in the folder `images`."""
    for n in (1, 2, 3, 4, 5):
        write_pixels(root / f"{images}{n:012}.jpg", noise(n))
    (root / "mine.json").write_text(json.dumps(coco_json()))
