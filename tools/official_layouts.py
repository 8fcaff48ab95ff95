"""Write small data sets with shapes on textures in the layouts that the official code reads below data/."""

import pickle
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

FSS_CLASSES = ("abe's_flyingfish", "bamboo_slip", "crt_screen")  # underscores and an apostrophe
COCO_IMAGES = 6
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [7] * 756


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """Return smooth coloured noise, uint8 [height, width, 3]."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return (255 * (smooth - smooth.min()) / (smooth.max() - smooth.min())).astype(np.uint8)


def blob(seed: int, height: int, width: int) -> np.ndarray:
    """Return the mask of an ellipse, bool [height, width]."""
    rng, mask = np.random.default_rng(seed), np.zeros((height, width), np.uint8)
    centre = tuple(
        int(side * place) for side, place in zip((width, height), rng.uniform(0.35, 0.65, 2), strict=True)
    )
    axes = tuple(
        int(side * part) for side, part in zip((width, height), rng.uniform(0.12, 0.3, 2), strict=True)
    )
    cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return mask > 0


def size(seed: int) -> tuple[int, int]:
    """Return a (height, width); most of them need a resize, and some lose a row to rounding."""
    return [(83, 112), (150, 97), (224, 224), (120, 200), (61, 90), (112, 75)][seed % 6]


def save(path: Path, array: np.ndarray) -> None:
    """Write an image file; JPEG with quality 95."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def shown(seed: int, mask: np.ndarray, colour: tuple) -> np.ndarray:
    """Return a texture whose pixels inside the mask are tinted."""
    image = texture(seed, *mask.shape)
    image[mask] = (0.4 * image[mask] + 0.6 * np.array(colour)).astype(np.uint8)
    return image


def write_fss1000(data: Path) -> None:
    """Write FSS-1000 with a few of its test classes, odd files as those of the download, and their list."""
    for number, name in enumerate(FSS_CLASSES):
        colour = tuple(np.random.default_rng(number).integers(0, 256, 3))
        for i in range(1, 11):
            mask = blob(100 * number + i, *size(number + i))
            save(data / f"FSS-1000/{name}/{i}.jpg", shown(100 * number + i, mask, colour))
            save(data / f"FSS-1000/{name}/{i}.png", mask.astype(np.uint8) * 255)
    write_odd_files(data / "FSS-1000")
    listing = data / "splits/fss/test.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{name}\n" for name in FSS_CLASSES))


def write_odd_files(root: Path) -> None:
    """Replace files by grey and turned images, and by masks in colour, with shades, or of another size."""
    first, second, third = (root / name for name in FSS_CLASSES)
    save(first / "2.jpg", np.asarray(Image.open(first / "2.jpg").convert("L")))
    turned = Image.Exif()
    turned[274] = 6  # shown by viewers as turned by 90 degrees, which the official code does not read
    Image.open(first / "5.jpg").save(first / "5.jpg", quality=95, exif=turned)
    save(
        second / "4.png", np.asarray(Image.open(second / "4.png").resize((50, 40), Image.Resampling.NEAREST))
    )
    save(second / "9.jpg", np.asarray(Image.open(second / "9.jpg").resize((70, 71))))
    save(third / "3.png", np.dstack([np.asarray(Image.open(third / "3.png"))] * 3))
    save(third / "7.png", cv2.GaussianBlur(np.asarray(Image.open(third / "7.png")), (0, 0), 5))


def write_coco20i(data: Path) -> None:
    """Write COCO-20i: every image shows every class of fold 0."""
    names = [f"val2014/COCO_val2014_{number:012}.jpg" for number in range(1, COCO_IMAGES + 1)]
    for seed, name in enumerate(names):
        height, width = size(seed)
        rows, columns = np.arange(height) * 4 // height, np.arange(width) * 5 // width
        place = rows[:, None] * 5 + columns
        order = np.random.default_rng(seed).permutation(20)
        labels = (4 * order[place] + 1).astype(np.uint8)
        colours = np.random.default_rng(7).integers(0, 256, (20, 3))
        image = (0.5 * texture(seed, height, width) + 0.5 * colours[order[place]]).astype(np.uint8)
        save(data / "COCO2014" / name, image)
        save((data / "COCO2014/annotations" / name).with_suffix(".png"), labels)
    listing = data / "splits/coco/val/fold0.pkl"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_bytes(pickle.dumps({number: names if number % 4 == 0 else [] for number in range(80)}))


def write_ade20k(data: Path) -> None:
    """Write ADE20K: three classes on the validation images, which later training images have as well.

    The official code blanks a reference whose number in the training split is the target's in the validation
    split: the first training images show another class.
    """
    splits = {
        "validation": [(1, 90), (90, 5), (1, 5, 90), (5,)],
        "training": [(150,)] * 5 + [(1,), (90, 1), (5, 90)],
    }
    for split, images in splits.items():
        for number, values in enumerate(images):
            height, width = size(number + len(split))
            labels = np.zeros((height, width), np.uint8)
            for k, value in enumerate(values):
                labels[4:, k * width // len(values) + 3 : (k + 1) * width // len(values)] = value
            colours = np.random.default_rng(9).integers(0, 256, (256, 3))
            image = (0.5 * texture(number, height, width) + 0.5 * colours[labels]).astype(np.uint8)
            save(data / f"ade20k/images/{split}/ADE_{split}_{number:08}.jpg", image)
            save(data / f"ade20k/annotations/{split}/ADE_{split}_{number:08}.png", labels)


def write_davis17(data: Path) -> None:
    """Write DAVIS with a video of two objects and one of a single object."""
    for video, (name, objects) in enumerate((("bear", 2), ("cows", 1))):
        height, width = size(video)
        for frame in range(5):
            labels = np.zeros((height, width), np.uint8)
            image = texture(50 + video, height, width)
            for k in range(objects):
                mask = np.roll(
                    blob(60 + 10 * video + k, height, width), (2 * frame, 3 * frame * (1 - 2 * k)), (0, 1)
                )
                labels[mask] = k + 1
                image[mask] = (image[mask] * 0.4 + 0.6 * np.array([[220, 60, 20], [30, 90, 230]][k])).astype(
                    np.uint8
                )
            save(data / f"DAVIS/2017/JPEGImages/480p/{name}/{frame:05}.jpg", image)
            label_map = Image.fromarray(labels)
            label_map.putpalette(PALETTE)
            path = data / f"DAVIS/2017/Annotations/480p/{name}/{frame:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            label_map.save(path)
    listing = data / "DAVIS/2017/ImageSets/2017/val.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("bear\ncows\n")


WRITE = {
    "fss1000": write_fss1000,
    "coco20i": write_coco20i,
    "ade20k": write_ade20k,
    "davis17": write_davis17,
}
