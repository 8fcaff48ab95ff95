"""Train emoji-tiny: pretrain a small backbone on emoji, freeze it, and train a SegIC head on it.

    segic train --config emoji_tiny --workdir outputs/emoji_tiny

Both stages use base classes only. The training took two hours on two busy CPU cores (docs/emoji_tiny/).
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
    """Return both stages; the head has the modules, losses and reversal of the large models."""
    return Config(
        backbone="",
        sources=(SourceConfig("emoji_scenes"),),
        validations=(ValidationConfig("emoji"),),
        model=ModelConfig(
            backbone=ViTConfig(patch_size=8, width=160, depth=6, num_heads=2, pos_grid=16),
            head=HeadConfig(width=128, num_heads=4, mlp_width=512, iou_width=128),
            text_width=64,
            canvas=128,
        ),
        pretrain=PretrainConfig(),
        # The composer of scenes draws scale and mirroring. Box prompts, which are made from the true masks,
        # would make half of the pairs easy; inference never has them.
        data=DataConfig(max_concepts=3, flip=False, jitter=None, text_keep=0.0, box=0.0),
        optim=OptimConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=100),
        train=TrainConfig(
            steps=2_000, batch_size=16, num_points=2_048, eval_every=500, checkpoint_every=250, log_every=25
        ),
    )
