"""SegIC on DINOv2-L/14 (304 M frozen parameters), the backbone of the released weights.

    python train.py --config configs/segic_dinov2_l.py --workdir runs/dinov2_l \\
        --backbone dinov2_vitl14.safetensors --source FSS-1000/train --validation FSS-1000/validation

The official data (COCO, ADE20k and LVIS, semantic and instances) are not in this configuration yet: it
trains on a folder of classes, without class names.
"""

from segic_jax.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig, ViTConfig

BATCH = 32  # 4 on each of 8 GPUs (scripts/segic_dist.sh)
EPOCH = 80_000 // BATCH  # steps


def get_config() -> Config:
    """12 epochs of 80 000 samples; the learning rate drops to a tenth after the tenth."""
    return Config(
        backbone="dinov2_vitl14.safetensors",
        source="FSS-1000/train",
        validation="FSS-1000/validation",
        model=ModelConfig(vit=ViTConfig.dinov2("l"), canvas=896),
        data=DataConfig(text_keep=0.0),  # officially 0.75; it needs text features of the class names
        optim=OptimConfig(learning_rate=1e-4, weight_decay=1e-4, schedule="step", drop_at=10 / 12),
        train=TrainConfig(steps=12 * EPOCH, batch_size=BATCH, seed=42, eval_every=EPOCH),
    )
