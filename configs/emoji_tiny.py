"""The shipped model: a small backbone pretrained on emoji, frozen, and a SegIC head on top.

    python train.py --config configs/emoji_tiny.py --workdir outputs/emoji_tiny

Both stages see base classes only. About an hour on two CPU cores.
"""

from segic_jax.config import (
    Config,
    DataConfig,
    HeadConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    SourceConfig,
    TrainConfig,
    ValidationConfig,
    ViTConfig,
)


def get_config() -> Config:
    """Pretraining, then the head exactly as at full size: same modules, losses and reversal."""
    return Config(
        backbone="",
        sources=(SourceConfig("emoji"),),
        validations=(ValidationConfig("emoji"),),
        model=ModelConfig(
            vit=ViTConfig(patch_size=8, width=160, depth=6, num_heads=2, pos_grid=16),
            head=HeadConfig(width=128, num_heads=4, mlp_width=512, iou_width=128),
            text_width=64,
            canvas=128,
        ),
        pretrain=PretrainConfig(),
        # The composer draws scale and mirroring itself.
        data=DataConfig(max_concepts=1, flip=False, jitter=None, text_keep=0.0),
        optim=OptimConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=100),
        train=TrainConfig(
            steps=1_700, batch_size=16, num_points=2_048, eval_every=850, checkpoint_every=425, log_every=25
        ),
    )
