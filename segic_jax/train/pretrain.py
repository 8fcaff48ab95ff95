"""Pretrain a small DINOv2-shaped backbone on the base classes of the embedded benchmark.

Two losses on the patch tokens, both with cosine logits, so that the features suit SegIC:
- every patch against one learned vector per base class, and one for the background;
- every patch against the pooled features of the objects in the other scenes of its group: the similarity
  map of in-context segmentation, with a learned level below which a patch is background.
The patch targets are soft: the share of each object in the patch.

Most steps read only some patches of each scene, those of objects more often than those of the background,
which halves the work. The last steps read all.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8
from optax.contrib import MuonDimensionNumbers, muon

from segic_jax.config import ModelConfig, PretrainConfig, to_dict
from segic_jax.data.emoji.compose import TRAINING_STYLE, compose
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.models.backbones import backbone_template
from segic_jax.models.encoding import normalise_pixels
from segic_jax.models.layers import l2_normalise
from segic_jax.models.params import AnyArray, Params
from segic_jax.models.vit import DinoVisionTransformer
from segic_jax.runtime import distributed
from segic_jax.runtime.metric_writer import MetricWriter
from segic_jax.train.checkpoint import Checkpoints
from segic_jax.train.mixed_precision import mixed_precision
from segic_jax.weights.bundle import Weights, write_weights

MAX_OBJECTS = 5  # in a scene
FOLDER = "pretrain"  # of the work directory
ENDLESS = 2**48  # steps; grain requires a length


def pretrained(settings: PretrainConfig, model: ModelConfig, workdir: Path) -> Path | None:
    """Return the file of the backbone that `settings` describe; pretrain it first if it does not exist.

    Return None when the pretraining was asked to stop; call again to continue.
    """
    file = workdir / "backbone.safetensors"
    if not file.exists():
        params: Params | None
        if settings.steps == 0:
            params = backbone_template(model.backbone).init(settings.seed)
        else:
            params = pretrain(settings, model, workdir)
        if params is None:
            return None
        workdir.mkdir(parents=True, exist_ok=True)
        backbone = {name: np.asarray(value) for name, value in params.items()}
        write_weights(file, Weights(backbone_config=model.backbone, backbone=backbone))
    return file


def pretrain(settings: PretrainConfig, model: ModelConfig, workdir: Path) -> Params | None:
    """Train the backbone from the latest checkpoint of `workdir/pretrain`, or from the start.

    It runs on one device. Return None when it was asked to stop (SIGTERM, Ctrl-C) before the last step.
    """
    bank = SpriteBank.load("base")
    params: Params = backbone_template(model.backbone).init(settings.seed)
    extra = init_extra(model, len(bank.classes), settings.seed)
    optimizer = make_optimizer(settings, (params, extra))
    opt_state = optimizer.init((params, extra))
    meta = {
        "config": {"model": to_dict(model), "pretrain": to_dict(settings)},
        "backbone": {"name": "a fresh one", "sha256": ""},
    }

    checkpoints = Checkpoints(workdir / FOLDER)
    start = 0
    if restored := checkpoints.restore_latest(
        {"params": params, "untrained": extra, "opt_state": opt_state}, meta
    ):
        start = restored.step
        params, extra, opt_state = (restored.items[name] for name in ("params", "untrained", "opt_state"))
    groups = grain.MapDataset.range(ENDLESS).map(SceneGroups(bank, settings, model))
    groups = iter(groups[start:].to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))

    def step(params, extra, opt_state, group):
        def loss(trained):
            return pretrain_loss(model, settings, *trained, **group)

        gradients, parts = jax.grad(loss, has_aux=True)((params, extra))
        updates, opt_state = optimizer.update(gradients, opt_state, (params, extra))
        params, extra = cast(tuple, optax.apply_updates((params, extra), updates))
        return params, extra, opt_state, parts

    step = jax.jit(mixed_precision(step) if settings.mixed_precision else step, donate_argnums=(0, 1, 2))

    def save():
        items = {"params": params, "untrained": extra, "opt_state": opt_state}
        checkpoints.save(done, items, meta)

    writer = MetricWriter(workdir / FOLDER, start_step=start)
    stop = distributed.StopRequest()
    done, since, pending = start, time.monotonic(), []
    try:
        while done < settings.steps and not stop.reached(done):
            params, extra, opt_state, parts = step(params, extra, opt_state, next(groups))
            done += 1
            pending.append(parts)
            if done % settings.log_every == 0:
                means = {name: float(np.mean([p[name] for p in pending])) for name in parts}
                rate = len(pending) / (time.monotonic() - since)
                writer.write(done, {**means, "steps_per_second": rate})
                losses = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
                left = (settings.steps - done) / rate / 60
                print(f"pretraining {done}/{settings.steps}  {losses}  {left:.0f} min left", flush=True)
                since, pending = time.monotonic(), []
            if done % settings.checkpoint_every == 0:
                save()
        save()
    finally:
        checkpoints.close()
        groups.close()
        writer.close()
        stop.close()
    if done < settings.steps:
        print(f"Stopped and saved after pretraining step {done}; run the same command again to continue.")
        return None
    return params


def make_optimizer(settings: PretrainConfig, trained: tuple[Params, Params]) -> optax.GradientTransformation:
    """Return Muon for the matrices of the backbone, which decay, and Adam for the rest."""
    highest, warmup = settings.learning_rate, settings.warmup_steps
    decay = round(settings.decay_share * settings.steps)
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0, highest, warmup),
            optax.linear_schedule(highest, 0, decay, transition_begin=settings.steps - decay - warmup),
        ],
        [warmup],
    )
    params, extra = trained
    matrices = {name: MuonDimensionNumbers() if value.ndim == 2 else None for name, value in params.items()}
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        muon(
            rate,
            consistent_rms=0.2,  # steps of AdamW's size
            weight_decay=settings.weight_decay,
            adam_b2=0.98,
            muon_weight_dimension_numbers=(matrices, dict.fromkeys(extra)),
        ),
    )


@dataclass(frozen=True)
class SceneGroups:
    """Make the scenes of a step from its number."""

    bank: SpriteBank
    settings: PretrainConfig
    model: ModelConfig

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        """Return a `scene_group`, before the last steps with `patches` to read, int32 [scenes, patches]."""
        rng = np.random.default_rng([self.settings.seed, number])
        group = scene_group(rng, self.bank, self.settings, self.model.canvas)
        if number < (1 - self.settings.full_share) * self.settings.steps:
            group["patches"] = self._draw_patches(rng, group["labels"])
        return group

    def _draw_patches(self, rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
        """Draw patches without replacement, those of the background by their weight."""
        scenes, grid, patch = len(labels), self.model.grid, self.model.backbone.stride
        inside = (labels > 0).reshape(scenes, grid, patch, grid, patch).mean((2, 4)) >= 0.5
        weight = np.where(inside, 1, self.settings.background_weight).reshape(scenes, -1)
        order = np.argsort(rng.exponential(size=weight.shape) / weight, axis=1)
        return order[:, : self.settings.patches].astype(np.int32)


def scene_group(
    rng: np.random.Generator, bank: SpriteBank, config: PretrainConfig, canvas: int
) -> dict[str, np.ndarray]:
    """Compose scenes that share a few classes.

    Returns:
        images uint8 [scenes, S, S, 3]; labels uint8 [scenes, S, S], 0 background, i + 1 object i;
        classes int32 [scenes, MAX_OBJECTS], the class of each object, -1 where there is none.
    """
    chosen = rng.choice(len(bank.classes), config.group_classes, replace=False)
    images, labels = [], []
    classes = np.full((config.group_scenes, MAX_OBJECTS), -1, np.int32)
    for scene in range(config.group_scenes):
        present = rng.choice(chosen, int(rng.integers(2, MAX_OBJECTS + 1)), replace=False)
        classes[scene, : len(present)] = present
        objects = [(bank.classes[c].name, str(rng.choice(bank.classes[c].artists))) for c in present]
        image, label = compose(rng, objects, canvas, TRAINING_STYLE)
        images.append(image)
        labels.append(label)
    return {"images": np.stack(images), "labels": np.stack(labels), "classes": classes}


def init_extra(config: ModelConfig, classes: int, seed: int) -> Params:
    """Return what the losses learn beside the backbone: class vectors, two scales, the background level."""
    key = jax.random.key(seed)
    return {
        "class_vectors": 0.05 * jax.random.normal(key, (classes + 1, config.backbone.width)),
        "class_scale": jnp.asarray(16.0),
        "match_scale": jnp.asarray(16.0),
        "match_level": jnp.asarray(0.4),
    }


def pretrain_loss(
    config: ModelConfig,
    pretrain: PretrainConfig,
    backbone: Params,
    extra: Params,
    images: UInt8[AnyArray, "scenes S S 3"],
    labels: UInt8[AnyArray, "scenes S S"],
    classes: Int[AnyArray, "scenes objects"],
    patches: Int[AnyArray, "scenes patches"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the sum of both losses, and each.

    Args:
        patches: read only these patches, which then also attend only to each other; all if None.
    """
    scenes, side = images.shape[:2]
    grid, patch = config.grid, config.backbone.stride
    pixels = normalise_pixels(config.backbone, images, jnp.full((scenes, 2), side))
    tokens = _patch_tokens(backbone_template(config.backbone).bind(backbone), pixels, patches)
    unit = l2_normalise(tokens, 1e-6)

    # Share of background and of each object in every patch: [scenes, patches, 1 + objects].
    one_hot = labels[..., None] == jnp.arange(1 + MAX_OBJECTS, dtype=jnp.uint8)
    share = one_hot.reshape(scenes, grid, patch, grid, patch, -1).mean((2, 4))
    share = share.reshape(scenes, grid * grid, -1)
    if patches is not None:
        share = jnp.take_along_axis(share, patches[..., None], axis=1)
    weight = jnp.where(share[..., 0] > 0.5, pretrain.background_weight, 1.0)
    weight = weight / weight.sum()

    class_loss = _class_loss(unit, share, classes, weight, extra)
    match_loss = matching_loss(tokens, unit, share, classes, weight, extra)
    return class_loss + match_loss, {"class_loss": class_loss, "match_loss": match_loss}


def _patch_tokens(vit: DinoVisionTransformer, pixels: Array, patches: AnyArray | None) -> Array:
    """Return the features of all or some patches: [scenes, patches, width]."""
    x = vit.embed(pixels)
    first = 1 + vit.config.num_registers
    if patches is not None:
        x = jnp.concatenate(
            [x[:, :first], jnp.take_along_axis(x[:, first:], patches[..., None], axis=1)], axis=1
        )
    for block in vit.blocks:
        x = block(x)
    return vit.norm(x)[:, first:]


def _class_loss(unit, share, classes, weight, extra):
    vectors = l2_normalise(extra["class_vectors"], 1e-6)  # the last one is the background
    log_p = jax.nn.log_softmax(extra["class_scale"] * unit @ vectors.T)
    background = vectors.shape[0] - 1
    index = jnp.where(classes < 0, background, classes)[:, None]  # [scenes, 1, objects]
    of_objects = jnp.take_along_axis(log_p, jnp.broadcast_to(index, (*log_p.shape[:2], index.shape[-1])), -1)
    log_p_true = share[..., 0] * log_p[..., background] + (share[..., 1:] * of_objects).sum(-1)
    return -(weight * log_p_true).sum()


def matching_loss(
    tokens: Float[AnyArray, "scenes patches channels"],
    unit: Float[AnyArray, "scenes patches channels"],
    share: Float[AnyArray, "scenes patches _"],
    classes: Int[AnyArray, "scenes objects"],
    weight: Float[AnyArray, "scenes patches"],
    extra: Params,
) -> Float[Array, ""]:
    """Return the cross-entropy of every patch over the pooled objects of the other scenes.

    The logit of the background is 0.

    Args:
        tokens, unit: patch features, as they are and normalised to length 1.
        share: of the background, then of each object in a patch [scenes, patches, 1 + objects], 0..1.
        classes: the identity of each object; -1 where there is none.
        weight: of each patch; their sum is 1.
        extra: `match_scale` and `match_level`.
    """
    scenes, _, objects = share[..., 1:].shape
    inside = (share[..., 1:] > 0.5).astype(tokens.dtype)  # [scenes, patches, objects]
    pooled = jnp.einsum("spo,spc->soc", inside, tokens) / jnp.maximum(inside.sum(1), 1)[..., None]
    usable = ((classes >= 0) & (inside.sum(1) > 0)).reshape(-1)
    pooled = l2_normalise(pooled, 1e-6).reshape(scenes * objects, -1)
    logits = extra["match_scale"] * (unit @ pooled.T - extra["match_level"])  # [scenes, patches, keys]
    # A scene is not matched with its own objects.
    own = jnp.arange(scenes)[:, None] == jnp.repeat(jnp.arange(scenes), objects)
    readable = (usable & ~own)[:, None]  # [scenes, 1, keys]
    # The background's logit is 0; cosines bound the others, so that no exponential underflows.
    odds = jnp.where(readable, jnp.exp(logits), 0)
    log_all = jnp.log1p(odds.sum(-1))
    # For each object of a scene, the odds of all objects of its class elsewhere.
    same = (classes[..., None] == classes.reshape(-1)) & readable  # [scenes, objects, keys]
    odds_same = jnp.einsum("spk,sok->spo", odds, same.astype(odds.dtype))
    matchable = same.any(-1)[:, None]
    log_same = jnp.log(jnp.where(matchable, odds_same, 1))
    of_objects = jnp.where(matchable, share[..., 1:] * (log_same - log_all[..., None]), 0).sum(-1)
    return -(weight * (of_objects - share[..., 0] * log_all)).sum()
