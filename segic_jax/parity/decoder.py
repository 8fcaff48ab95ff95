"""SAM's prompt encoder and mask decoder alone (prompt_decoder.npz), with and without points and boxes."""

from functools import partial

import jax
import numpy as np

from segic_jax.config import ModelConfig
from segic_jax.models.params import Params
from segic_jax.models.prompt_encoder import Prompts
from segic_jax.models.segic import head_template
from segic_jax.parity.goldens import Goldens
from segic_jax.parity.table import Checker, channels_first, channels_last


def replay_prompt_decoder(golden: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Prompts, masks and predicted IoUs of each case; the head runs in float32 whatever `dtype` is."""
    masks = check.input("in.masks")[None, :, 0]  # the rows are concepts of one image
    tokens = check.input("in.texts")[None]
    points = {
        "points": check.input("in.point_coords")[None],
        "point_labels": check.input("in.point_labels").astype(np.int32)[None],
        "masks": masks,
    }
    boxes = check.input("in.boxes")[None]
    image = channels_last(check.input("in.image_embeddings"))
    token = check.input("in.task_indicator").astype(int).reshape(-1)
    model = golden.segic(masks.shape[-1])
    nothing = dict.fromkeys(("points", "point_labels", "masks", "boxes", "use_box"))
    for case, given in (("points", points), ("boxes", points | {"boxes": boxes}), ("textonly", {})):
        inputs = nothing | given | {"tokens": tokens, "tokens_valid": np.ones(tokens.shape[:3], bool)}
        position, prompts, all_masks, all_iou = _decode(model.config, model.head, image, inputs)
        if case == "points":
            check.close("out.image_pe", channels_first(position)[None])
        check.close(f"out.{case}.sparse", read_slots(prompts)[0])
        check.close(f"out.{case}.dense", channels_first(prompts.dense[0]))
        check.close(f"out.{case}.low_res_masks", all_masks[0, :, :1])
        check.close(f"out.{case}.iou", all_iou[0, :, :1])
        check.close(f"out.{case}.all_masks", all_masks[0])
        check.close(f"out.{case}.all_iou", all_iou[0])
    rows = np.arange(len(token))  # `textonly`: mask token 0 for classes, 1 for instances
    check.close("out.textonly.task_masks", all_masks[0, rows, token][:, None])
    check.close("out.textonly.task_iou", all_iou[0, rows, token][:, None])


def read_slots(prompts: Prompts) -> list[np.ndarray]:
    """The sparse prompts of each image without the slots that are not read, which torch does not have.

    [concepts, slots, width] for each image of the batch; its concepts must read equally many.
    """
    return [
        np.stack([row[keep] for row, keep in zip(rows, valid, strict=True)])
        for rows, valid in zip(np.asarray(prompts.sparse), np.asarray(prompts.sparse_valid), strict=True)
    ]


@partial(jax.jit, static_argnums=0)
def _decode(
    config: ModelConfig, head: Params, image: jax.Array, inputs: dict
) -> tuple[jax.Array, Prompts, jax.Array, jax.Array]:
    module = head_template(config).bind(head)
    position = module.prompt_encoder.dense_position()
    prompts = module.prompt_encoder(**inputs)
    return position, prompts, *module.mask_decoder(image, position, prompts)
