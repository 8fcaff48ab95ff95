"""Train the bundled model of photographs: a SegIC head on a frozen EfficientNet-Lite2.

    python tools/photo_sources.py --out DATA
    segic train --config photo --sources.0.root DATA --workdir outputs/photo

The head is SegIC's with two extensions: a similarity map of each level of the backbone in the mask
prompt, and finer levels of the backbone in the decoder.
"""

from segic_jax.config import (
    Config,
    DataConfig,
    EfficientNetConfig,
    HeadConfig,
    ModelConfig,
    OptimConfig,
    SourceConfig,
    TrainConfig,
)


def get_config() -> Config:
    """Return the training; it reads composed photographs only, and no class name."""
    return Config(
        backbone="efficientnet_lite2.safetensors",
        sources=(SourceConfig("photo_scenes", root="data/photo_scenes"),),
        model=ModelConfig(
            backbone=EfficientNetConfig(lite=2, blocks=(14, 20), fine_blocks=(6, 3)),
            head=HeadConfig(width=128, num_heads=4, mlp_width=512, iou_width=128, level_maps=True),
            text_width=64,
            canvas=320,
        ),
        # The composer of scenes draws scale and mirroring. Box prompts, which are made from the true masks,
        # would make half of the pairs easy; inference never has them.
        data=DataConfig(max_concepts=4, flip=False, jitter=None, text_keep=0.0, box=0.0),
        optim=OptimConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=100),
        train=TrainConfig(steps=4_000, batch_size=16, num_points=2_048, checkpoint_every=100, log_every=20),
    )
