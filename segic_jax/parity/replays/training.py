"""Replay a training step with its gradients, the losses alone, and the optimizer.

The step starts from the images (model/segic.py:408-785 of the official code); only the random numbers, among
them the points of the losses, come from the file.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Shaped

from segic_jax.config import EMPTY_PROMPT, INSTANCE_PROMPT, ModelConfig, OptimConfig, class_prompt
from segic_jax.inference import engine
from segic_jax.models import encoding, segic
from segic_jax.models.features import Features
from segic_jax.models.head import head_template
from segic_jax.models.params import Params
from segic_jax.parity.checker import LOSSES, Checker, Row, channels_first, channels_last, threshold_like
from segic_jax.parity.dump import ROUNDING, ROUNDINGS
from segic_jax.parity.golden_files import Goldens, SegicWeights
from segic_jax.parity.replays.modules import cast_params, text_features
from segic_jax.train import forward, losses, optim
from segic_jax.weights.torch_names import Tensors, to_torch

_GRADIENTS = 1e-5  # of the largest entry of the same tensor
_ZERO_GRADIENT = 1e-7  # rounding in gradients that are zero in exact arithmetic
_ROUNDING = 1e-6  # of float32 features
_PASSES = ("fwd", "rev")


def replay_training(goldens: SegicWeights, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Check segic_train_ragged.npz, images with different numbers of masks, and its file of gradients."""
    counts = check.input("in.counts")
    images = np.concatenate([channels_last(check.input(f"in.image{end}")) for end in ("", "_dual")])
    sizes = np.concatenate([check.input(f"in.ori_size{end}") for end in ("", "_dual")])
    model = goldens.segic(images.shape[1])
    config, head = model.config, model.head

    pixels = jax.jit(encoding.normalise_pixels, static_argnums=0)(config.backbone, images, sizes)
    check.close("mid.encoder_in", channels_first(pixels))
    features = engine.extract(config, cast_params(model.backbone, dtype), images, sizes).patches
    check.close("mid.image_embeddings", channels_first(features))

    _check_draws(check, len(counts))
    check.equal("mid.prompts", _prompts(check))
    ids, attended = check.input("mid.input_ids"), check.input("mid.attention_mask")
    table = text_features(model.text_config, cast_params(model.text, dtype), ids, attended).pooled
    check.close("mid.text_features", table)

    batch = _batch(check, counts)
    points = (_slots(check.input(f"mid.{way}.loss_point_coords"), counts) for way in _PASSES)
    coords = np.stack(list(points), axis=1)
    step = _step(config, head, features, batch, table, coords)
    check.close("mid.prompt_proj_out", step.prompt_proj)
    for index, way in enumerate(_PASSES):
        _check_pass(check, f"mid.{way}", step.passes, batch, index, step.inst_proj[index])
    check.close("out.masks", step.passes[0].decoded.logits[batch["valid"]][:, None])
    for way in _PASSES:  # the points are random numbers, which must lie on the image
        name = f"mid.{way}.loss_point_coords"
        check.equal(name, np.clip(check.input(name), 0, 1))
    for name, loss in step.losses.items():
        check.close(f"out.{name}", loss, LOSSES)
    check.close("out.loss", step.loss, LOSSES)
    _check_untrained(check, step.gradients)

    expected = goldens.weights(f"{check.file}_grads")
    prefix = f"{ROUNDING}grad "
    rounding = {n.removeprefix(prefix): float(check.input(n)) for n in check.unread if n.startswith(prefix)}
    rows = gradient_rows(check.file, expected, step.gradients, rounding)
    stored = channels_last(check.input("mid.image_embeddings"))
    failures, start = _failures(rows), "the features of the images"
    for other_start, other_features in _features_within_rounding(stored):
        if not _failures(rows):
            break
        gradients = _step(config, head, other_features, batch, table, coords).gradients
        other_rows = gradient_rows(check.file, expected, gradients, rounding)
        if _failures(other_rows) < _failures(rows):
            rows, start = other_rows, other_start
    if failures:
        check.notes.append(
            f"The gradients in the table start from {start}. From the features of the images, which differ "
            f"by float rounding, {failures} of {len(rows)} exceed their tolerance: a ReLU whose input is 0 "
            "up to rounding switches."
        )
    check.rows.extend(rows)


def _failures(rows: list[Row]) -> int:
    return sum(not row.passed for row in rows)


def _check_draws(check: Checker, images: int) -> None:
    """Check that the decisions follow from the random numbers in the order of segic.py:307, 573 and 677."""
    draws = check.input("in.random_draws")
    text, *boxes_and_crosses = np.split(draws, [2 * images, 4 * images])
    check.equal("in.text_keep", text < 0.75)
    for way, values in zip(_PASSES, boxes_and_crosses, strict=True):
        check.equal(f"in.{way}.use_box", values[::2] > 0.5)
        check.equal(f"in.{way}.use_cross", values[1::2] > 0.5)
    # The official code raises if an image has a box in place of a mask (utils/loss_mask.py:171-213).
    check.equal("in.is_box_mask", np.zeros(images, bool))


def _prompts(check: Checker) -> list[str]:
    """Return the prompts of the targets, then those of the references."""
    named = list(zip(check.input("in.class_name").tolist(), check.input("in.is_inst"), strict=True))
    return [
        INSTANCE_PROMPT if instances else class_prompt(name) if keep else EMPTY_PROMPT
        for (name, instances), keep in zip(2 * named, check.input("in.text_keep"), strict=True)
    ]


def _batch(check: Checker, counts: Int[np.ndarray, " images"]) -> dict[str, np.ndarray]:
    """Return the batch that `train_forward` reads, without features, with masks in slots."""
    images = np.arange(len(counts))
    return {
        "target_masks": _slots(check.input("in.label") / 255 > 0.5, counts),
        "reference_masks": _slots(check.input("in.label_dual") / 255 > 0.5, counts),
        "valid": np.arange(counts.max()) < counts[:, None],
        "target_prompt": images,
        "reference_prompt": len(counts) + images,
        "use_box": np.stack([check.input(f"in.{way}.use_box") for way in _PASSES], axis=1),
        "use_cross": np.stack([check.input(f"in.{way}.use_cross") for way in _PASSES], axis=1),
    }


def _slots(
    rows: Shaped[np.ndarray, "masks ..."], counts: Int[np.ndarray, " images"]
) -> Shaped[np.ndarray, "images slots ..."]:
    """Distribute the masks of all images to equally many slots an image; unused slots are zeros."""
    slots = np.zeros((len(counts), counts.max(), *rows.shape[1:]), rows.dtype)
    slots[np.arange(counts.max()) < counts[:, None]] = rows
    return slots


class _Step(NamedTuple):
    """Hold what one training step computes."""

    passes: tuple[forward.TrainPass, forward.TrainPass]
    prompt_proj: Array
    inst_proj: list[Array]  # of each pass
    loss: Array
    losses: dict[str, Array]  # the terms of `loss`
    gradients: Params


@partial(jax.jit, static_argnums=0)
def _step(config: ModelConfig, head: Params, features, batch, table, coords) -> _Step:
    targets, references = map(Features, jnp.split(jnp.asarray(features), 2))
    inputs = {**batch, "target_features": targets, "reference_features": references}

    def loss(head):
        passes = forward.train_forward(config, head, inputs, table)
        total, parts = losses.train_loss(passes, inputs, coords)
        return total, (parts, passes)

    (total, (parts, passes)), gradients = jax.value_and_grad(loss, has_aux=True)(head)
    module = head_template(config).bind(head)
    inst_proj = [module.inst_proj(way.inputs.prototypes.pooled) for way in passes]
    return _Step(passes, module.prompt_proj(table), inst_proj, total, parts, gradients)


def _check_pass(
    check: Checker,
    prefix: str,
    passes: tuple[forward.TrainPass, forward.TrainPass],
    batch: dict[str, np.ndarray],
    index: int,
    inst_proj,
) -> None:
    """Check one pass; the official arrays have a row for each mask, and no unused slots."""
    current, previous = passes[index], passes[0]
    valid, decoded, canvas = batch["valid"], current.decoded, batch["target_masks"].shape[-1]
    check.close(f"{prefix}.neck_out", channels_first(decoded.image))
    check.close(f"{prefix}.inst_feat", current.inputs.prototypes.pooled[valid])
    check.close(f"{prefix}.inst_proj_out", inst_proj[valid])
    check.close(f"{prefix}.sim", decoded.similarity[valid][:, None])
    check.close(f"{prefix}.mask_input", decoded.map[valid][:, None])
    check.equal(f"{prefix}.point_prompt", decoded.points[valid])
    check.close(f"{prefix}.low_res_masks", decoded.logits[valid][:, None])
    check.close(f"{prefix}.iou_pred", decoded.iou[valid][:, None])
    target = batch["reference_masks" if index else "target_masks"]
    check.equal(f"{prefix}.target", target[valid][:, None])
    if index:  # the context masks are the predictions of the forward pass
        stored = segic.upsample(jnp.asarray(check.input("mid.fwd.low_res_masks")), canvas)[:, 0]
        context = threshold_like(segic.upsample(previous.decoded.logits, canvas)[valid], stored)
    else:
        context = batch["reference_masks"][valid]
    check.equal(f"{prefix}.context_mask", context[:, None])

    prompts = jax.tree.map(np.asarray, decoded.prompts)
    tokens, tokens_valid = np.asarray(decoded.tokens), np.asarray(decoded.tokens_valid)
    for image, count in enumerate(valid.sum(1)):
        if batch["use_box"][image, index]:
            check.equal(f"{prefix}.boxes.{image}", current.inputs.boxes[image, :count])
        rows = [(image, row) for row in range(count)]
        check.close(f"{prefix}.text_tokens.{image}", np.stack([tokens[i][tokens_valid[i]] for i in rows]))
        sparse = [prompts.sparse[i][prompts.sparse_valid[i]] for i in rows]
        check.close(f"{prefix}.sparse.{image}", np.stack(sparse))
        check.close(f"{prefix}.dense.{image}", channels_first(prompts.dense[image, :count]))


def _check_untrained(check: Checker, gradients: Params) -> None:
    """Check which parameters have no gradient; the official Fourier matrix is not a parameter."""
    trained = optim.trainable_names(gradients)
    untrained = to_torch({n: gradients[n] for n in gradients if n not in trained and "/pe_layer/" not in n})
    name = "out.params_without_grad"
    order = {parameter: i for i, parameter in enumerate(check.input(name).tolist())}
    check.equal(name, sorted(untrained, key=lambda n: order.get(n, len(order))))


def gradient_rows(
    file: str, expected: Tensors, gradients: Params, rounding: Mapping[str, float] | None = None
) -> list[Row]:
    """Return a row `grad NAME` for each tensor of either side.

    Args:
        expected: by official name.
        gradients: of all parameters of the head, by our name.
        rounding: how far torch's float32 is from its float64, by official name, where that is known.
    """
    ours = to_torch({name: gradients[name] for name in optim.trainable_names(gradients)})
    check = Checker(f"{file}_grads", {f"grad {name}": value for name, value in expected.items()})
    for name in sorted(expected.keys() | ours.keys()):
        if name not in ours:
            check.fail(f"grad {name}")
            continue
        largest = float(np.abs(expected.get(name, 0)).max())
        # A softmax ignores a shift that all keys share, so that this gradient is rounding only.
        tolerance = _ZERO_GRADIENT if name.endswith("k_proj.bias") else _GRADIENTS * largest
        tolerance = max(tolerance, ROUNDINGS * (rounding or {}).get(name, 0.0))
        check.close(f"grad {name}", ours[name], tolerance)
    return check.rows


def _features_within_rounding(
    features: Float[np.ndarray, "images g g channels"],
) -> Iterator[tuple[str, Float[np.ndarray, "images g g channels"]]]:
    """Yield the official features, then some copies of them within float32 rounding.

    A hidden unit of the decoder whose input is 0 up to rounding passes its gradient or not, which changes the
    gradients above it by far more than their tolerance. Therefore the gradients start from the features of
    the images or, if some differ, from these; all must agree in one and the same run.
    """
    yield "the official features", features
    rng = np.random.default_rng(0)
    for copy in range(1, 9):
        perturbed = (features + rng.uniform(-_ROUNDING, _ROUNDING, features.shape)).astype(np.float32)
        yield f"the official features with random noise of up to {_ROUNDING:g} (copy {copy})", perturbed


def replay_losses(goldens: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Check loss_masks.npz: losses at stored and at sampled points, the sampler, points on the border."""
    logits = jnp.asarray(check.input("in.logits")[:, 0])
    targets = jnp.asarray(check.input("in.targets")[:, 0])
    valid = np.ones(len(logits), bool)

    coords = check.input("in.point_coords")
    check.close("mid.point_logits", losses.point_sample(logits, coords))
    check.close("mid.point_labels", losses.point_sample(targets, coords))
    for index, name in enumerate(("loss_mask", "loss_dice")):

        def loss(logits, index=index):
            return losses.mask_losses(logits, targets, coords, valid)[index]

        value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
        check.close(f"out.{name}", value, LOSSES)
        largest = np.abs(check.input(f"out.grad_{name}")).max()
        check.close(f"out.grad_{name}", gradient[:, None], float(_GRADIENTS * largest))

    candidates, uniform = check.input("in.uniform_oversampled"), check.input("in.uniform_random")
    num_uncertain = coords.shape[1] - uniform.shape[1]
    sampled = losses.sample_points(logits, candidates, uniform, num_uncertain)
    _check_points(check, "out.sampled_coords", sampled, num_uncertain)
    values = losses.mask_losses(logits, targets, sampled, valid)
    for name, value in zip(("loss_mask", "loss_dice"), values, strict=True):
        check.close(f"out.sampled_{name}", value, LOSSES)

    candidates, uniform = check.input("in.small_uniform_oversampled"), check.input("in.small_uniform_random")
    num_points, importance = (
        int(check.input("in.small_num_points")),
        float(check.input("in.small_importance")),
    )
    num_uncertain = int(importance * num_points)
    candidates = candidates[:, : int(check.input("in.small_oversample") * num_points)]
    check.close("mid.small_uncertainty", -jnp.abs(losses.point_sample(logits, candidates)))
    sampled = losses.sample_points(logits, candidates, uniform, num_uncertain)
    _check_points(check, "out.small_coords", sampled, num_uncertain)

    border = losses.point_sample(logits, check.input("in.border_coords"))
    check.close("out.border_samples", border[:, None])


def _check_points(check: Checker, name: str, points, num_uncertain: int) -> None:
    """Check sampled points; the uncertain ones as a set, since nearly equal uncertainties have no order."""
    expected, points = check.input(name), np.array(points)
    if points.shape == expected.shape:
        for ours, official in zip(points, expected, strict=True):
            order, official_order = (np.lexsort(rows[:num_uncertain].T) for rows in (ours, official))
            ours[official_order] = ours[order]
    check.equal(name, points)


def replay_optim(goldens: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Check optim.npz: two trainings with AdamW and a learning rate that drops."""
    for tag in ("short", "long"):
        _replay_adamw(check, tag)


def _replay_adamw(check: Checker, tag: str) -> None:
    grads = check.input(f"in.{tag}.grads")
    steps = len(grads)
    if tag == "short":
        drop = steps / check.input("in.short.epochs") * check.input("in.short.drop")
    else:
        drop = 10 * check.input("in.long.steps_per_epoch")  # officially after epoch 10
    config = OptimConfig(learning_rate=float(check.input("in.lr")), drop_at=min(float(drop) / steps, 1))
    optimizer = optim.make_optimizer(config, steps)
    params = {name: jnp.asarray(check.input(f"in.{name}")) for name in ("param", "param_zero_grad")}

    @jax.jit
    def step(params, state, grad):
        gradients = {"param": grad, "param_zero_grad": jnp.zeros_like(params["param_zero_grad"])}
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state, history = optimizer.init(params), []
    for grad in grads:
        params, state = step(params, state, grad)
        history.append(params)
    for name in params:
        check.close(f"out.{tag}.{name}", np.stack([values[name] for values in history]), LOSSES)
    # The official optimizer skips a parameter without a gradient; ours never gets it.
    untouched = check.input("in.param_no_grad")
    check.equal(f"out.{tag}.param_no_grad", np.tile(untouched, (steps, 1)))
    rate = optim.learning_rate(config, steps)
    check.close(f"out.{tag}.lr", [rate(i) for i in range(steps)], LOSSES * config.learning_rate)
    moments = optax.tree_utils.tree_get(state, "mu"), optax.tree_utils.tree_get(state, "nu")
    for name, moment in zip(("exp_avg", "exp_avg_sq"), moments, strict=True):
        check.close(f"out.{tag}.{name}", moment["param"], LOSSES)
