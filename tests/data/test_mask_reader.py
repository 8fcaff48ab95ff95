"""Test that a mask is read as the right object or refused, however it is stored."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segic_jax.data.mask_reader import read_mask, read_objects
from segic_jax.errors import DataError, InputWarning
from segic_jax.inference.video_io import read_object_labels

CAT, DOG, VOID = (48, 112, 32), (176, 112, 32), (224, 224, 192)
MASK = np.zeros((120, 160), bool)
MASK[26:88, 42:125] = True
LABELS = np.where(MASK, 1, 0)
LABELS[95:110, 10:60] = 2


def stored(image: Image.Image, kind: str = "PNG", **options) -> Image.Image:
    """Write an image as a file, and open it again."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def coloured(labels: np.ndarray, *colours: tuple[int, int, int]) -> np.ndarray:
    return np.array([(0, 0, 0), *colours], np.uint8)[labels]


def grey(labels: np.ndarray, *values: int) -> Image.Image:
    return stored(Image.fromarray(np.array([0, *values], np.uint8)[labels]))


def test_the_colour_of_a_palette_decides_and_not_its_index():
    white = np.where(MASK, 255, 0).astype(np.uint8)
    for order in ([255, 255, 255, 0, 0, 0], [0, 0, 0, 255, 255, 255]):
        image = Image.fromarray(np.where(MASK, 0, 1).astype(np.uint8) ^ (order[0] == 0), "P")
        image.putpalette(order)
        np.testing.assert_array_equal(read_mask(stored(image)), MASK)
    np.testing.assert_array_equal(read_mask(stored(Image.fromarray(white).quantize(2))), MASK)


def test_a_mask_of_one_colour_is_the_object_and_of_several_is_refused(tmp_path):
    for colour in (CAT, (48, 16, 0), (0, 0, 64), (255, 255, 255)):
        np.testing.assert_array_equal(read_mask(coloured(MASK.astype(int), colour)), MASK)
    path = tmp_path / "mask.png"
    Image.fromarray(coloured(LABELS, CAT, DOG)).save(path)
    with pytest.raises(
        DataError, match=r"several colours, #307020 \(27 %\), #b07020 \(3.9 %\): .*mask.png:#30"
    ):
        read_mask(path)
    np.testing.assert_array_equal(read_mask(path, "#b07020"), LABELS == 2)
    with pytest.raises(DataError, match="no pixel of the colour #010203; it has #000000, #307020, #b07020"):
        read_mask(path, "#010203")
    with pytest.raises(DataError, match="has colours, no numbers"):
        read_mask(path, 3)
    photograph = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    with pytest.raises(DataError, match=r"holds \d+ colours, which mark no object"):
        read_mask(photograph)


def test_void_is_ignored_and_said():
    border = cv2.dilate(MASK.astype(np.uint8), np.ones((5, 5))) > 0
    labels = np.where(MASK, 1, np.where(border, 2, 0))
    with pytest.warns(InputWarning, match=r"#e0e0c0 \(3.1 % of the image\) is ignored as void"):
        np.testing.assert_array_equal(read_mask(coloured(labels, (64, 0, 0), VOID)), MASK)
    with pytest.warns(InputWarning, match="255 .* is ignored as void"):
        np.testing.assert_array_equal(read_mask(grey(labels, 8, 255)), MASK)
    for image in (grey(LABELS, 255, 3), grey(labels, 128, 255), grey(LABELS, 100, 255)):
        with pytest.raises(DataError, match="several labels"):
            read_mask(image)


def test_alpha_decides_only_where_it_separates():
    rgba = np.dstack([coloured(MASK.astype(int), (255, 255, 255)), np.full(MASK.shape, 255, np.uint8)])
    rgba[3, 4, 3] = 0
    np.testing.assert_array_equal(read_mask(stored(Image.fromarray(rgba))), MASK)
    photograph = np.random.default_rng(0).integers(0, 255, (*MASK.shape, 3), np.uint8)
    for colours in (photograph, 0 * photograph, 0 * photograph + 255):
        cut_out = np.dstack([colours, np.where(MASK, 255, 0).astype(np.uint8)])
        np.testing.assert_array_equal(read_mask(stored(Image.fromarray(cut_out))), MASK)
    rgba[:, :20, 3] = 0
    with pytest.raises(DataError, match=r"by transparency .* and by colour, .*:alpha or .*:255"):
        read_mask(stored(Image.fromarray(rgba)))
    np.testing.assert_array_equal(read_mask(stored(Image.fromarray(rgba)), "alpha"), rgba[..., 3] > 0)
    with pytest.raises(DataError, match="no transparency"):
        read_mask(grey(LABELS, 1, 2), "alpha")


def test_arrays_of_frameworks_are_read():
    soft = cv2.GaussianBlur(MASK.astype(np.float32), (0, 0), 2)
    for array in (MASK[..., None], MASK[None], MASK.astype(float), MASK * 255.0, MASK * np.float16(1)):
        np.testing.assert_array_equal(read_mask(array), MASK)
    for array in (soft, 255 * soft, soft[None], np.rint(255 * soft).astype(np.uint8)):
        np.testing.assert_array_equal(read_mask(array), soft > 0.5)
    np.testing.assert_array_equal(read_mask(coloured(MASK.astype(int), CAT) / 255), MASK)
    for array in (LABELS / 2, MASK - 0.5, MASK * np.inf, np.stack([MASK] * 5), MASK * 1j, MASK[:0]):
        with pytest.raises(DataError):
            read_mask(array)


def test_a_mask_that_was_compressed_has_no_labels():
    for quality in (75, 95):
        image = stored(Image.fromarray(np.where(MASK, 255, 0).astype(np.uint8)), "JPEG", quality=quality)
        assert np.mean(read_mask(image) == MASK) > 0.999
        with pytest.raises(DataError, match="not exact: save it as PNG"):
            read_mask(image, 255)
    with pytest.raises(DataError, match="not one white object on black: save it as PNG"):
        read_mask(stored(Image.fromarray((100 * LABELS).astype(np.uint8)), "JPEG"))


def test_two_numbers_without_zero_are_two_labels():
    for low, high in ((1, 255), (11, 230), (5, 65535)):
        labels = np.where(MASK, low, high).astype(np.uint16 if high > 255 else np.uint8)
        for mask in (labels, stored(Image.fromarray(labels))):
            with pytest.raises(DataError, match=rf"several labels, {low} \(.*\), {high} \("):
                read_mask(mask)
            np.testing.assert_array_equal(read_mask(mask, low), MASK)


def test_only_grey_that_is_nearly_black_is_a_background():
    outside = np.uint8([7, 7, 7])
    np.testing.assert_array_equal(read_mask(np.where(MASK[..., None], np.uint8(CAT), outside)), MASK)
    one_hot = np.stack([~MASK, MASK, 0 * MASK], -1).astype(np.uint8)
    numbers = np.where(MASK[..., None], np.uint8([0, 0, 2]), np.uint8([0, 0, 1]))
    for mask in (one_hot, numbers):
        with pytest.raises(DataError, match="several colours, #0"):
            read_mask(mask)


def test_numpy_files_are_read(tmp_path):
    path = tmp_path / "mask.npy"
    for array in (MASK, MASK.astype(np.float32), MASK[None].astype(np.int64)):
        np.save(path, array)
        np.testing.assert_array_equal(read_mask(path), MASK)
    np.save(path, LABELS)
    np.testing.assert_array_equal(read_mask(path, 2), LABELS == 2)
    np.testing.assert_array_equal(read_object_labels(path), LABELS)
    np.save(path, np.array([None]), allow_pickle=True)
    for content in (path.read_bytes(), b"", b"\x93NUMPY", b"PK\3\4"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"mask\.npy is damaged, or no array of numbers"):
            read_mask(path)
    with pytest.raises(DataError, match="no such file"):
        read_mask(tmp_path / "other.npy")


def test_objects_keep_their_numbers():
    for image in (grey(LABELS, 3, 7), Image.fromarray(np.array([0, 3, 7], np.uint8)[LABELS])):
        labels, names = read_objects(image)
        np.testing.assert_array_equal(labels, np.array([0, 3, 7])[LABELS])
        assert dict(names) == {3: "3", 7: "7"}
    with pytest.raises(DataError, match="save a palette or grey image"):
        read_objects(coloured(LABELS, CAT, DOG))


def test_a_file_of_several_pages_says_which_is_read(tmp_path):
    pages = [Image.fromarray(np.where(n == LABELS, 255, 0).astype(np.uint8)) for n in (1, 2)]
    pages[0].save(tmp_path / "mask.tif", save_all=True, append_images=pages[1:])
    with pytest.warns(InputWarning, match=r"mask\.tif holds 2 images; the first is read"):
        np.testing.assert_array_equal(read_mask(Path(tmp_path, "mask.tif")), MASK)


# Random label maps in every encoding: each is read as its object, or refused where there are several.


def random_shape(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    mask, middle = np.zeros((height, width), np.uint8), rng.integers(5, (width - 5, height - 5))
    match rng.integers(3):
        case 0:
            radii = [int(rng.integers(3, side // 3)) for side in (width, height)]
            cv2.ellipse(mask, middle.tolist(), radii, float(rng.integers(180)), 0, 360, 1, -1)
        case 1:
            x, y = middle - 3
            mask[y : y + rng.integers(4, height // 2), x : x + rng.integers(4, width // 2)] = 1
        case _:
            points = rng.integers(0, (width, height), (int(rng.integers(3, 7)), 2))
            cv2.fillPoly(mask, [points.astype(np.int32)], 1)
    return mask > 0


def random_labels(rng: np.random.Generator) -> np.ndarray:
    """Draw up to three objects, of 20 pixels at least, numbered from 1."""
    while True:
        height, width = rng.integers(24, 72, 2)
        labels = np.zeros((height, width), np.int64)
        for number in range(1, 1 + rng.integers(1, 4)):
            labels[random_shape(rng, height, width)] = number
        numbers, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
        labels = labels.reshape(height, width)
        cores = [
            cv2.erode(np.uint8(labels == number), np.ones((3, 3))).any() for number in range(len(numbers))
        ]
        if numbers[0] == 0 and len(numbers) > 1 and counts.min() >= 20 and all(cores):
            return labels


def distinct(rng: np.random.Generator, count: int, distance: int, channels: int = 1) -> np.ndarray:
    """Draw values of a byte that differ from each other, and from 0."""
    while True:
        values = np.concatenate([np.zeros((1, channels), int), rng.integers(0, 256, (count, channels))])
        gaps = np.abs(values[:, None] - values).max(-1) + 255 * np.eye(count + 1, dtype=int)
        if gaps.min() >= distance and not (values == VOID[:channels]).all(1).any():
            return values.astype(np.uint8)


def soften(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.5, 2)))


def palette_image(labels: np.ndarray, colours: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Store colours in a palette, in any order; colours that are not used fill the rest."""
    indices = rng.permutation(256)[: len(colours)]
    palette = np.full((256, 3), 7, np.uint8)
    palette[indices] = colours
    image = Image.fromarray(indices.astype(np.uint8)[labels], "P")
    image.putpalette(palette.ravel().tolist())
    return stored(image)


def rgba_image(colours: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return stored(Image.fromarray(np.dstack([colours, alpha]).astype(np.uint8)))


def encode(kind: str, labels: np.ndarray, rng: np.random.Generator):
    """Return a mask that stores the labels, or the union of the objects where the kind has no labels."""
    count, union = int(labels.max()), labels > 0
    white = np.where(union, 255, 0).astype(np.uint8)
    values, colours = distinct(rng, count, 1)[:, 0], distinct(rng, count, 1, 3)
    quality = int(rng.integers(75, 100))
    match kind:
        case "numbers":
            return labels.astype(rng.choice([np.uint8, np.uint16, np.int32, np.int64]))
        case "one axis more":
            return labels[None] if rng.random() < 0.5 else labels[..., None].astype(np.uint8)
        case "grey":
            return stored(Image.fromarray(values[labels]))
        case "floats":
            return values[labels].astype(np.float32)
        case "16 bits":
            wide = np.concatenate([[0], 1 + rng.permutation(65534)[:count]])
            return stored(Image.fromarray(wide[labels].astype(np.uint16)))
        case "palette":
            return palette_image(labels, colours, rng)
        case "quantized":
            return stored(Image.fromarray(colours[labels]).quantize(count + 1))
        case "colours":
            return stored(Image.fromarray(colours[labels]))
        case "opaque":
            alpha = np.full(labels.shape, 255)
            alpha[rng.integers(len(alpha)), 0] = rng.choice([0, 255])
            return rgba_image(colours[labels], alpha)
        case "grey JPEG":
            return stored(Image.fromarray(distinct(rng, count, 48)[:, 0][labels]), "JPEG", quality=quality)
        case "colour JPEG":
            image = Image.fromarray(distinct(rng, count, 64, 3)[labels])
            return stored(image, "JPEG", quality=quality, subsampling=int(rng.integers(3)))
        case "PNG of a JPEG":
            image = Image.fromarray(distinct(rng, count, 64, 3)[labels])
            return stored(stored(image, "JPEG", quality=quality).convert("RGB"))
        case "bool":
            return union
        case "0 and 255":
            return stored(Image.fromarray(white))
        case "white JPEG":
            return stored(Image.fromarray(white), "JPEG", quality=quality)
        case "cut out":
            return rgba_image(rng.integers(0, 256, (*labels.shape, 3)), white)
        case "soft":
            return stored(Image.fromarray(soften(white, rng)))
        case "soft colour":
            return stored(Image.fromarray(soften((white // 5)[..., None] * np.uint8([1, 5, 2]), rng)))
        case "probabilities":
            return soften(union.astype(np.float32), rng)
    raise AssertionError(kind)


LABELLED = (
    *("numbers", "one axis more", "grey", "floats", "16 bits", "palette", "quantized", "colours", "opaque"),
    *("grey JPEG", "colour JPEG", "PNG of a JPEG"),
)
UNION = ("bool", "0 and 255", "white JPEG", "cut out", "soft", "soft colour", "probabilities")
EXACT = {*LABELLED[:8], *UNION[:2]}
NEVER_REFUSED = {*LABELLED[:8], "bool", "0 and 255", "probabilities"}  # with one object


def check_case(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, kind = random_labels(rng), str(rng.choice([*LABELLED, *UNION]))
    cores = (cv2.erode(np.uint8(labels == number), np.ones((5, 5))) for number in range(1, labels.max() + 1))
    if "JPEG" in kind and not all(core.any() for core in cores):
        kind = "grey"  # JPEG blurs what is thinner than five pixels
    source = encode(kind, labels, rng)
    single, union = kind in UNION or labels.max() == 1, labels > 0
    try:
        mask = read_mask(source)
    except DataError:
        assert not single or kind not in NEVER_REFUSED, (seed, kind)
        return
    if not mask.any() and kind not in EXACT:
        return  # refused as empty: what a blur or a compression has left is dark
    assert single, (seed, kind)
    inside = cv2.erode(union.astype(np.uint8), np.ones((9, 9))) > 0
    outside = cv2.dilate(union.astype(np.uint8), np.ones((9, 9))) == 0
    assert not (mask & outside).any(), (seed, kind)
    assert mask[inside].all(), (seed, kind)
    if kind in EXACT:
        np.testing.assert_array_equal(mask, union, err_msg=f"{seed} {kind}")


@pytest.mark.filterwarnings("ignore::segic_jax.errors.InputWarning")
@pytest.mark.parametrize("part", range(4))
def test_random_label_maps_are_read_right_or_refused(part):
    for seed in range(100 * part, 100 * part + 100):
        check_case(seed)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore::segic_jax.errors.InputWarning")
def test_ten_thousand_random_label_maps_are_read_right_or_refused():
    for seed in range(1000, 11_000):
        check_case(seed)
