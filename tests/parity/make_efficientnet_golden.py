"""Make the golden of EfficientNet-Lite with its PyTorch package.

PYTHONPATH=tests/helpers python tests/parity/make_efficientnet_golden.py
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import official
import torch
from efficientnet_lite_pytorch import EfficientNet

BLOCKS = (0, 2, 4, 7, 10, 15)  # the last one of each channel width but one
FILE = Path(__file__).parents[1] / "goldens/efficientnet_lite.npz"


@torch.no_grad()
def block_outputs(lite: int, tensors: Mapping[str, np.ndarray], images: np.ndarray) -> list[np.ndarray]:
    """Return the output of each block, channels last.

    Args:
        tensors: a state dict, whose classifier is not read.
        images: [batch, height, width, 3].
    """
    # Without a size, the padding follows the image.
    model = EfficientNet.from_name(f"efficientnet-lite{lite}", image_size=None).eval()
    read = {
        n: torch.as_tensor(t) for n, t in tensors.items() if not n.startswith(("_conv_head", "_bn1", "_fc"))
    }
    assert not model.load_state_dict(read, strict=False).unexpected_keys
    x = model._swish(model._bn0(model._conv_stem(torch.as_tensor(images).movedim(-1, 1))))
    outputs = []
    for block in model._blocks:
        x = block(x)
        outputs.append(x.movedim(1, -1).numpy())
    return outputs


def main() -> None:
    images = np.random.default_rng(5).normal(size=(1, 33, 41, 3)).astype(np.float32)
    outputs = block_outputs(0, official.efficientnet_lite(), images)
    np.savez_compressed(FILE, **{"in.images": images} | {f"out.block.{i}": outputs[i] for i in BLOCKS})


if __name__ == "__main__":
    main()
