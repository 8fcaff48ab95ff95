"""An answer as a line of the sheet: at the size of the images, for `evaluate.report.sheet`."""

from segic_jax.evaluate.infer import Prediction, to_own_size
from segic_jax.evaluate.report import GalleryItem
from segic_jax.evaluate.rows import mask_of


def gallery_item(answer: Prediction, iou: float | None) -> GalleryItem:
    """Draw an answer of `judge_all(..., similarity=True, show_references=True)`; its `kind` is empty."""
    if answer.reference is None or answer.similarity is None:
        raise ValueError("The answer has no reference or similarity map to draw: ask judge_all for them.")
    episode, own, wrong = answer.task.episode, answer.shown.mask.shape, answer.task.wrong
    misled = answer.logits.get("wrong_reference")
    return GalleryItem(
        kind="",
        title=f"{episode.class_id}: {episode.target}",
        reference=answer.reference.image,
        reference_mask=answer.reference.mask,
        target=answer.shown.image,
        cosine=to_own_size(answer.similarity, answer.size, own),
        prediction=mask_of(answer, answer.logits["segic"], own),
        truth=answer.shown.mask,
        iou=iou,
        misled=None if misled is None else mask_of(answer, misled, own),
        misled_by="" if wrong is None else str(wrong.class_id),
    )
