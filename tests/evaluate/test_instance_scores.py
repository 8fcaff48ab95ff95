"""Compare the scores of instances with pycocotools, and check what is done about crowds."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segic_jax.data import masks
from segic_jax.data.episodes import ObjectMasks
from segic_jax.evaluate.instances import average_precisions, instance_row, overlap_row


def blobs(random, count: int) -> np.ndarray:
    """Return masks of rectangles, some of which are nearly the same."""
    out = np.zeros((count, 40, 50), bool)
    for mask in out:
        y, x = random.integers(0, 4, 2) * (8, 10)
        height, width = random.integers(4, 13, 2)
        mask[y : y + height, x : x + width] = True
    return out


def test_scores_are_those_of_pycocotools():
    random = np.random.default_rng(0)
    rows: dict[int, list[dict]] = {1: [], 2: []}
    truth = {"images": [], "annotations": [], "categories": [{"id": 1}, {"id": 2}]}
    found = []
    for image in range(1, 31):
        truth["images"].append({"id": image, "height": 40, "width": 50})
        for class_id in rows:
            true = blobs(random, int(random.integers(0, 5)))
            crowd = (random.random(len(true)) < 0.2).tolist()
            predicted = np.concatenate([true[random.random(len(true)) < 0.8], blobs(random, 2)])
            scores = random.random(len(predicted)).round(3).tolist()
            rows[class_id].append(overlap_row(list(predicted), scores, ObjectMasks(true, crowd)))
            for mask, is_crowd in zip(true, crowd, strict=True):
                truth["annotations"].append(
                    {
                        "id": len(truth["annotations"]) + 1,
                        "image_id": image,
                        "category_id": class_id,
                        "segmentation": masks.encode(mask),
                        "area": int(mask.sum()),
                        "bbox": [0, 0, 1, 1],
                        "iscrowd": int(is_crowd),
                    }
                )
            for mask, score in zip(predicted, scores, strict=True):
                found.append(
                    {
                        "image_id": image,
                        "category_id": class_id,
                        "segmentation": masks.encode(mask),
                        "score": score,
                    }
                )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = 100 * evaluation.stats[:3]
    scores = average_precisions(rows.values())
    assert [scores["ap"], scores["ap50"], scores["ap75"]] == pytest.approx(expected.tolist(), abs=0.05)
    assert 20 < scores["ap50"] < 95


def test_instances_of_logits_are_scored_by_their_probability():
    logits = np.full((40, 50), -3, np.float32)
    logits[5:15, 5:15], logits[20:30, 30:45] = 1, 4
    true = np.stack([logits == 1, logits == 4])
    row = instance_row(logits, "regions", ObjectMasks(true, [False, True]))
    assert row["scores"] == pytest.approx([1 / (1 + np.exp(-4)), 1 / (1 + np.exp(-1))], abs=1e-5)
    assert row["overlaps"] == [[0, 1], [1, 0]]
    assert average_precisions([[row]])["ap"] == 100  # what lies on the crowd is not counted
    empty = instance_row(logits - 9, "peaks", ObjectMasks(true, [False, True]))
    assert empty == {"scores": [], "overlaps": [], "crowd": [False, True]}
    assert average_precisions([[empty]])["ap50"] == 0
    assert np.isnan(average_precisions([])["ap"])
