"""Define the official training recipe (train.py and scripts/segic_dist.sh; paper, section 4).

This module adds what the defaults of `DataConfig`, `OptimConfig` and `TrainConfig` do not give. All folders
are below `data/`, in the layout of the official code; `--sources.0.root DIR` sets another.
"""

from segic_jax.config import (
    Backbone,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    SourceConfig,
    TrainConfig,
    ValidationConfig,
    ViTConfig,
)

BATCH = 32  # 4 on each of 8 GPUs
EPOCH = 80_000 // BATCH  # steps
EPOCHS = 12  # the learning rate drops to a tenth after the tenth

COCO_SEMANTIC = SourceConfig("coco_semantic", "data/COCO2014")
ADE20K_SEMANTIC = SourceConfig("ade20k_semantic", "data/ade20k")
COCO_INSTANCES = SourceConfig("coco_instances", "data/coco")
LVIS_INSTANCES = SourceConfig("lvis_instances", "data/lvis")
OFFICIAL_SOURCES = (COCO_SEMANTIC, ADE20K_SEMANTIC, COCO_INSTANCES, LVIS_INSTANCES)  # in equal parts

VALIDATIONS = (
    *(ValidationConfig("coco20i", "data/COCO2014", "segic", fold) for fold in range(4)),
    ValidationConfig("fss1000", "data/FSS-1000", "segic"),
)


def official(
    backbone: Backbone,
    weights: str,
    *,
    sources: tuple[SourceConfig, ...] = OFFICIAL_SOURCES,
    validations: tuple[ValidationConfig, ...] = VALIDATIONS,
    split_backbone: bool = False,
) -> Config:
    """Return the recipe: 12 epochs of 80 000 samples, and a validation after each.

    Args:
        backbone: the frozen backbone.
        weights: file with the backbone and CLIP's text tower, made by `segic convert`.
    """
    return Config(
        backbone=weights,
        sources=sources,
        validations=validations,
        model=ModelConfig(backbone=backbone, canvas=896),
        data=DataConfig(),
        optim=OptimConfig(learning_rate=1e-4, weight_decay=1e-4, schedule="step", drop_at=10 / EPOCHS),
        train=TrainConfig(
            steps=EPOCHS * EPOCH,
            batch_size=BATCH,
            seed=42,
            eval_every=EPOCH,
            eval_episodes=1000,
            split_backbone=split_backbone,
        ),
    )


def strict_coco20i(fold: int) -> Config:
    """Return the few-shot recipe for COCO-20i: the 20 classes of the fold are in no source (paper, table 2).

    The sources are COCO's semantic pairs and instances. An image of the 60 other classes may show an object
    of these 20, which then has no mask, as in all works on COCO-20i.
    """
    sources = (
        SourceConfig("coco_semantic", "data/COCO2014", without_fold=fold),
        SourceConfig("coco_instances", "data/coco", without_fold=fold),
    )
    return official(
        ViTConfig.dinov2("g"),
        "dinov2_vitg14_clip.safetensors",
        sources=sources,
        validations=(ValidationConfig("coco20i", "data/COCO2014", "matcher", fold),),
        split_backbone=True,
    )
