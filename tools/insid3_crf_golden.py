"""Write tests/goldens/insid3_crf.npz with the official refinement of masks by a dense CRF.

    git clone https://github.com/visinf/INSID3 && git clone https://github.com/netw0rkf10w/CRF
    pip install torch torchvision matplotlib && python tools/insid3_crf_golden.py --insid3 INSID3 --crf CRF

The library CRF filters on a GPU; its code for CPUs expects another layout of arrays than it is given. Here
that code, compiled by g++, filters one map at a time, with the positions of pixels as on a GPU.
"""

import argparse
import ctypes
import importlib
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
CANVAS, SIDE = 256, 96  # the kernels are those of the canvas; the image is a part of it
MASKS = {"cat": (0, 120), "bird": (120, 80)}  # the upper left corner of the part
SOURCE = """
#include <cstring>
#include <utility>
#include "PermutohedralLatticeCPU.h"
extern "C" void filter(double* out, const double* in, const double* positions, int n, int d) {
    PermutohedralLatticeCPU<double>(d, 2, n).filter(out, in, positions, false);
}
"""


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--insid3", type=Path, required=True, help="checkout of visinf/INSID3")
    parser.add_argument("--crf", type=Path, required=True, help="checkout of netw0rkf10w/CRF")
    parser.add_argument("--out", type=Path, default=ROOT / "tests/goldens/insid3_crf.npz")
    args = parser.parse_args()
    sys.path[:0] = [str(args.insid3), str(args.crf / "src")]
    import torch

    lattice = compiled_lattice(args.crf / "src/PermutohedralFiltering/source/cpu")
    install_filter(lattice)
    refinement = importlib.import_module("utils.refinement")
    solver, reach, certain = refinement.init_crf(CANVAS, "cpu")
    arrays = {}
    mean, spread = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for name, corner in MASKS.items():
        pixels, mask = example(name, corner)
        image = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / spread
        refined = refinement.crf_refine(solver, reach, certain, image[None], torch.from_numpy(mask))
        arrays |= {f"{name}.image": pixels, f"{name}.mask": mask, f"{name}.refined": refined.numpy()}
        print(f"{name}: {np.count_nonzero(mask)} pixels, {np.count_nonzero(mask ^ refined.numpy())} changed")
    values = np.random.default_rng(0).normal(size=400)
    positions = np.random.default_rng(1).normal(size=(400, 5))
    arrays |= {"values": values, "positions": positions, "filtered": lattice(values, positions)}
    np.savez_compressed(args.out, canvas=CANVAS, **arrays)
    print(f"{args.out}: {args.out.stat().st_size} bytes")


def example(name: str, corner: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a part of an example, and its mask as coarse as the patches of a backbone."""
    from PIL import Image

    image = Image.open(EXAMPLES / f"{name}_reference.jpg").convert("RGB").resize((CANVAS, CANVAS))
    mask = Image.open(EXAMPLES / f"{name}_reference_mask.png").convert("L").resize((CANVAS // 8,) * 2)
    mask = mask.resize((CANVAS, CANVAS), Image.Resampling.NEAREST)
    part = tuple(slice(start, start + SIDE) for start in corner)
    return np.array(image)[part], np.asarray(mask)[part] > 127


def compiled_lattice(folder: Path):
    """Compile the lattice, and return a function of values and positions."""
    with tempfile.TemporaryDirectory() as build:
        source, library = Path(build, "lattice.cpp"), Path(build, "lattice.so")
        source.write_text(SOURCE)
        subprocess.run(["g++", "-O2", "-shared", "-fPIC", f"-I{folder}", source, "-o", library], check=True)
        function = ctypes.CDLL(str(library)).filter

    def run(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
        arrays = (np.empty(len(values)), values, positions)
        arrays = [np.ascontiguousarray(array, np.float64) for array in arrays]
        pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in arrays)
        function(*pointers, *positions.shape)
        return arrays[0]

    return run


def install_filter(lattice) -> None:
    """Stand in for the module of the library that needs a GPU."""
    import torch

    class PermutohedralLayer(torch.nn.Module):
        def __init__(self, bilateral, theta_alpha, theta_beta, theta_gamma):
            super().__init__()
            self.bilateral, self.plane = bilateral, theta_alpha if bilateral else theta_gamma
            self.colour = theta_beta

        def forward(self, x, image):
            rows, columns = np.indices(x.shape[2:])
            positions = [rows / self.plane, columns / self.plane]
            if self.bilateral:
                positions += [channel.numpy() / self.colour for channel in image[0]]
            flat = np.stack([np.ravel(values) for values in positions], axis=-1)
            maps = [lattice(np.ravel(values.numpy()), flat).reshape(values.shape) for values in x[0]]
            return torch.from_numpy(np.stack(maps)[None].astype(np.float32))

    module = types.ModuleType("PermutohedralFiltering")
    # The type checker knows no attributes of a module that is made here.
    setattr(module, "PermutohedralLayer", PermutohedralLayer)  # noqa: B010
    sys.modules["PermutohedralFiltering"] = module


if __name__ == "__main__":
    main()
