"""Train the bundled model of photographs: a SegIC head on a frozen EfficientNet-Lite2.

    python tools/photo_sources.py --out data/photos
    segic weights fetch efficientnet-lite2
    segic train --config photo --workdir outputs/photo
    segic convert outputs/photo/model.safetensors --canvas 448 --out photo.safetensors

The head is SegIC's with two extensions: a similarity map of each level of the backbone in the mask
prompt, and finer levels of the backbone in the decoder. It is trained on a small canvas, which is fast, and
used on a larger one, which is better. docs/models.md has the scores.
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
        backbone="efficientnet-lite2",
        sources=(SourceConfig("photo_scenes", root="data/photos"),),
        validations=(),
        model=ModelConfig(
            backbone=EfficientNetConfig(lite=2, blocks=(14, 20), fine_blocks=(6, 3)),
            head=HeadConfig(width=128, num_heads=4, mlp_width=512, iou_width=128, level_maps=True),
            text_width=64,
            canvas=256,
        ),
        # The composer of scenes draws scale and mirroring. Box prompts, which are made from the true masks,
        # would make half of the pairs easy; inference never has them.
        data=DataConfig(max_concepts=4, flip=False, jitter=None, text_keep=0.0, box=0.0, negative=0.25),
        optim=OptimConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=100),
        train=TrainConfig(steps=3_000, batch_size=8, num_points=2_048, checkpoint_every=100, log_every=20),
    )
