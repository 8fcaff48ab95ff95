"""Run the evaluations of the official repository, and keep the logits, episodes and scores that they compute.

`compare_official.py` calls these functions in a folder with data/ and utils/ in the official layouts.
"""

import functools
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from tools.official_checkout import Parallel

EPISODES = 40  # of COCO-20i; the official list has 1000


def official_loader(dataset, batch: int = 1, collate: bool = True):
    """Return a loader with the settings of train.py, without worker processes."""
    sampler = torch.utils.data.distributed.DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=False)
    options = {"collate_fn": importlib.import_module("utils.dataloader").custom_collate_fn} if collate else {}
    return torch.utils.data.DataLoader(dataset, batch, sampler=sampler, drop_last=False, **options)


def meter_scores() -> list[float]:
    """Return a list that receives every mIoU that the official meter computes."""
    meter = importlib.import_module("utils.meter").AverageMeter
    scores, original = [], meter.compute_iou

    @functools.wraps(original)
    def compute_iou(self):
        result = original(self)
        scores.append(float(result[0]))
        return result

    meter.compute_iou = compute_iou
    return scores


def run_episodes(model, arguments, dataset) -> SimpleNamespace:
    """Run `evaluate()` on a data set; return episodes, logits at the truth's size, and mIoU."""
    train = importlib.import_module("train")
    logits, truths, ties, scores = [], [], [], meter_scores()

    def record(data, result, tied):
        truth = data["ori_label"][0]
        shape = truth.shape[-2:]
        truths.append(truth[0].numpy() > 128)
        ties.extend(tied)
        resized = nn.functional.interpolate(result[0], size=shape, mode="bilinear", align_corners=False)
        logits.append(resized[0, 0].numpy().copy())

    arguments.output = "official"
    np.random.seed(42)  # noqa: NPY002 - the official loaders draw from it
    train.evaluate(arguments, Parallel(model, record), [official_loader(dataset)])
    classes = [episode[0] for episode in dataset.drawn]
    masks = SimpleNamespace(logits=logits, truths=truths, classes=classes, ties=ties)
    return SimpleNamespace(episodes=dataset.drawn, masks=masks, score=scores[-1])


def official_fss1000(model, arguments) -> SimpleNamespace:
    """Evaluate FSS-1000."""
    fss = importlib.import_module("utils.fss")

    class Recorded(fss.DatasetFSS):
        def __getitem__(self, idx):
            before = len(self.drawn)
            item = super().__getitem__(idx)
            del self.drawn[before:-1]  # drawn, and replaced because the sizes of a pair differ
            return item

        def sample_episode(self, idx):
            target, references, number = super().sample_episode(idx)
            names = [Path(path) for path in (target, *references)]
            self.drawn.append((names[0].parent.name, names[0].name, (names[1].name,)))
            return target, references, number

    dataset = Recorded("data", None, resize(arguments), "test", 1, False)
    dataset.drawn = []
    return run_episodes(model, arguments, dataset)


def official_coco20i(model, arguments) -> SimpleNamespace:
    """Evaluate fold 0 of COCO-20i."""
    fss = importlib.import_module("utils.fss")

    class Recorded(fss.DatasetCOCO):
        def __len__(self):
            return EPISODES

        def load_frame(self):
            frame = super().load_frame()
            self.drawn.append((int(frame[6]), str(frame[4]), (str(frame[5][0]),)))
            return frame

    dataset = Recorded("data", 0, resize(arguments), "test", 1, False)
    dataset.drawn = []
    return run_episodes(model, arguments, dataset)


def official_ade20k(model, arguments) -> SimpleNamespace:
    """Run `evaluate_semseg()`, with references from the training split: its own are not distributed."""
    fss, train = importlib.import_module("utils.fss"), importlib.import_module("train")
    dataset = fss.SemADE("data/ade20k", resize(arguments), False, is_semseg=True)
    references = fss.SemADE("data/ade20k", resize(arguments), True, is_semseg=True, is_meta=True)
    drawn, names, scores = {}, [], meter_scores()
    masks = SimpleNamespace(logits=[], truths=[], classes=[], ties=[])

    class Recorded:
        def __iter__(self):
            for batch in official_loader(references, 8):
                for number, place in zip(batch["class_id"].tolist(), batch["imidx"].tolist(), strict=True):
                    found = references.meta_info[number]
                    drawn[number - 1] = [references.image_ids[place]] if found else []
                yield batch

    def record(data, result, tied):
        truth = data["origin_semmask"][0].numpy() > 0
        shape = truth.shape[-2:]
        masks.classes.extend(data["valid_cids"][0].nonzero().flatten().tolist())
        masks.truths.extend(truth)
        masks.ties.extend(tied)
        resized = nn.functional.interpolate(result[0], size=shape, mode="bilinear", align_corners=False)
        masks.logits.extend(resized[:, 0].numpy().copy())
        names.append(dataset.image_ids[int(data["imidx"])])

    arguments.output = "official"
    train.evaluate_semseg(arguments, Parallel(model, record), [official_loader(dataset)], [Recorded()])
    return SimpleNamespace(references=drawn, names=names, masks=masks, score=scores[-1])


def official_davis17(model, arguments) -> SimpleNamespace:
    """Run `evaluate_vos()`."""
    train = importlib.import_module("train")
    videos, loaders = (
        importlib.import_module("utils.vos_dataset"),
        importlib.import_module("utils.dataloader"),
    )
    transform = loaders.ResizeVOS(arguments.input_size)
    benchmark: Any = importlib.import_module("vos_benchmark.benchmark")
    original, scores = benchmark.benchmark, []

    @functools.wraps(original)
    def recorded(*arguments, **keywords):
        result = original(*arguments, **keywords)
        scores.append([float(result[i][0]) for i in range(3)])
        return result

    benchmark.benchmark = recorded
    arguments.output, arguments.vos_dataset = "official", "davis17"
    arguments.vos_gt_root = "data/DAVIS/2017/Annotations/480p/"
    dataset = videos.DAVISTestDataset("data/DAVIS/2017", "2017/val.txt", transform)
    train.evaluate_vos(
        arguments, Parallel(model, lambda *result: None), [official_loader(dataset, collate=False)]
    )
    return SimpleNamespace(folder=Path("official/test_davis17").resolve(), score=scores[-1][0])


def resize(arguments):
    """Return the official resize."""
    return importlib.import_module("utils.dataloader").Resize(arguments.input_size)


OFFICIAL = {
    "fss1000": official_fss1000,
    "coco20i": official_coco20i,
    "ade20k": official_ade20k,
    "davis17": official_davis17,
}
