"""Describe the result of an evaluation of episodes: labels, a table, and the images of the report."""

from collections.abc import Mapping, Sequence

from segic_jax.data.episodes import ClassId, EpisodeSource
from segic_jax.errors import DataError
from segic_jax.evaluate.episode_stream import Prediction
from segic_jax.evaluate.protocols import predicted_mask, similarity_on_image
from segic_jax.evaluate.report import GalleryItem

LABELS = {
    "segic": "SegIC",
    "copy": "reference's mask copied",
    "cosine": "similarity map, thresholded",
    "no_reference": "head without a reference",
    "wrong_reference": "head with a wrong reference",
    "random_backbone": "head on a random backbone",
}


def score_table(result: dict, instances_from: str | None) -> str:
    """Return the scores as aligned lines, at most a screen.

    Args:
        instances_from: how the instances that were scored were told apart.
    """
    protocol, scores = result["protocol"], result["scores"]
    lines = [
        f"{result['benchmark']}: {result['episodes']} episodes of {result['classes']} classes, "
        f"{result['shots']} shot(s), mIoU in per cent",
        f"  protocol {protocol['name']}: {protocol['truth']}; class names "
        f"{'given' if result['class_names_given'] else 'not given'}",
    ]
    labels = LABELS | ({"segic": "training-free"} if "method" in result else {})
    for name, values in {"segic": scores, **result["baselines"]}.items():
        low, high = values["interval_95"]
        lines.append(f"  {labels[name]:<28}{values['miou']:6.1f}   95 % interval {low:.1f} - {high:.1f}")
    lines += [
        f"  mean over all classes of a fold {scores['miou_fold_classes']:.1f}, "
        f"over classes seen {scores['miou_seen_classes']:.1f}",
        f"  FB-IoU {scores['fb_iou']:.1f}, mean of the episodes' IoU {scores['episode_iou']:.1f}, "
        f"boundary IoU {_cell(scores['boundary_iou'])}",
    ]
    if (instances := result["instances"]) is not None:
        lines.append(
            f"  instances, from {instances_from}: AP50 {_cell(instances['ap50'])}, "
            f"AP75 {_cell(instances['ap75'])}, AP {_cell(instances['ap'])}"
        )
    if len(result["fold_scores"]) > 1:
        folds = (f"{fold}: {values['miou']:.1f}" for fold, values in result["fold_scores"].items())
        lines.append(f"  folds  {'  '.join(folds)}")
    ranked = sorted(result["class_iou"].items(), key=lambda item: item[1])
    if len(ranked) > 3:
        for label, part in (("best", ranked[:-4:-1]), ("worst", ranked[:3])):
            lines.append(f"  {label:<6} " + ", ".join(f"{name[:20]} {value:.1f}" for name, value in part))
    return "\n".join([*lines, *(f"  {note}" for note in result["notes"])])


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def class_labels(source: EpisodeSource, rows: Sequence[dict]) -> Mapping[tuple[int, ClassId], str]:
    """Return names of the (fold, class) pairs in `rows`; where two share a name, the class id is added."""
    labels: dict[tuple[int, ClassId], str] = {}
    for fold, class_id in dict.fromkeys((row["fold"], row["class"]) for row in rows):
        try:
            label = source.class_name(class_id)
        except DataError:  # the benchmark's files name no classes
            label = str(class_id)
        labels[fold, class_id] = f"{label} ({class_id})" if label in labels.values() else label
    return labels


def gallery_item(prediction: Prediction, iou: float | None) -> GalleryItem:
    """Return a prediction as images of the target's size; `kind` stays empty.

    Args:
        prediction: made with `similarity` and `references`.
        iou: 0..1, for its title.
    """
    if prediction.reference is None:
        raise ValueError("The prediction has no reference to draw: ask predict_episodes for it.")
    task, image_size = prediction.task, prediction.target.mask.shape
    is_wrong = "wrong_reference" in prediction.logits
    return GalleryItem(
        kind="",
        title=f"{task.episode.class_id}: {task.episode.target}",
        reference=prediction.reference.image,
        reference_mask=prediction.reference.mask,
        target=prediction.target.image,
        similarity=similarity_on_image(prediction, image_size),
        prediction=predicted_mask(prediction, "segic", image_size),
        truth=prediction.target.mask,
        iou=iou,
        wrong_prediction=predicted_mask(prediction, "wrong_reference", image_size) if is_wrong else None,
        wrong_class="" if task.wrong_reference is None else str(task.wrong_reference.class_id),
    )
