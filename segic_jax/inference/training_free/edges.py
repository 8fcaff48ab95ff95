"""Move the edges of a mask to those of the image: GrabCut in a band around them.

INSID3 offers a dense CRF in such a band instead (utils/refinement.py), with the same rule: what lies deeper
inside the mask, or further outside, stays as it is.
"""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

ROUNDS = 2  # of colour models and cuts


def refine_edges(
    image: UInt8[np.ndarray, "height width 3"], inside: Bool[np.ndarray, "height width"], reach: int
) -> Bool[np.ndarray, "height width"]:
    """Return the mask with other edges, at most `reach` pixels from those that it has."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    values = inside.view(np.uint8)
    core, near = cv2.erode(values, kernel), cv2.dilate(values, kernel)
    if not core.any() or near.all():  # nothing is certain, of which colours could be learnt
        return inside
    labels = np.where(near, np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD), cv2.GC_BGD)
    labels = np.where(core, cv2.GC_FGD, labels).astype(np.uint8)
    # Beyond the surroundings of the object colours say little, and cost time.
    rows, columns = (np.flatnonzero(near.any(axis)) for axis in (1, 0))
    margins = [max(2 * reach, (side[-1] - side[0]) // 2) for side in (rows, columns)]
    part = tuple(
        slice(max(0, side[0] - margin), side[-1] + margin + 1)
        for side, margin in zip((rows, columns), margins, strict=True)
    )
    cropped = np.ascontiguousarray(labels[part])
    if not (cropped == cv2.GC_BGD).any():
        return inside
    cv2.setRNGSeed(0)  # it groups colours from random centres
    pixels = np.ascontiguousarray(image[part])
    outside, object_ = np.zeros((1, 65)), np.zeros((1, 65))  # its models of colours
    cv2.grabCut(pixels, cropped, (0, 0, 0, 0), outside, object_, ROUNDS, cv2.GC_INIT_WITH_MASK)
    refined = np.zeros_like(inside)
    refined[part] = (cropped == cv2.GC_FGD) | (cropped == cv2.GC_PR_FGD)
    return refined
