"""Open the sources of training pairs that a configuration names.

Roots are the folders of the official code's data/; the module of each source shows their layout.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from segic_jax.config import SourceConfig
from segic_jax.data.build.info import find_built
from segic_jax.data.build.read import BuiltSemanticSource, BuiltSource, open_built
from segic_jax.data.emoji.source import EmojiInstancePairs, EmojiPairs, EmojiScenePairs
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.data.pairs import ClassPairs, ImagePairs, InstancePairs, Mixture, PairSource
from segic_jax.data.photos.library import PhotoLibrary
from segic_jax.data.photos.source import PhotoScenePairs
from segic_jax.data.semantic import index_classes
from segic_jax.data.sources import ade20k, coco20i
from segic_jax.data.sources.coco_instances import COCO, LVIS, OBJECTS365, PACO, CocoInstances, InstanceLayout
from segic_jax.data.sources.folder import open_folder
from segic_jax.data.sources.fss1000 import Fss1000Source
from segic_jax.data.sources.lip import LipInstances
from segic_jax.errors import ConfigError, DataError

Opener = Callable[[SourceConfig, int], PairSource]  # the second argument is the canvas


def open_mixture(configs: Sequence[SourceConfig], canvas: int) -> PairSource:
    """Open all sources and mix them by their weights; a single source is returned as it is.

    Args:
        canvas: side of the scenes that a source composes, in pixels.

    Raises:
        ConfigError: an unknown source, or a setting that the source does not have.
        DataError: the data of a source are missing or damaged.
    """
    sources = [open_pairs(config, canvas) for config in configs]
    return sources[0] if len(sources) == 1 else Mixture(sources, [config.weight for config in configs])


def training_domain(configs: Sequence[SourceConfig]) -> str:
    """Say what the sources show, for the notes of a model; "" if one is a folder, which may show anything."""
    names = {config.name for config in configs}
    if "folder" in names:
        return ""
    return " and ".join(sorted({"scenes of emoji" if name in PACKAGED else "photographs" for name in names}))


def open_pairs(config: SourceConfig, canvas: int) -> PairSource:
    """Open one source. Raises as `open_mixture` does."""
    if config.name not in SOURCES:
        raise ConfigError(f"There is no source {config.name!r}: choose among {', '.join(SOURCES)}.")
    if config.without_fold is not None:
        if config.name not in WITH_FOLDS:
            raise ConfigError(
                f"The source {config.name} cannot leave out a fold of COCO-20i: only "
                f"{' and '.join(WITH_FOLDS)} can; remove without_fold."
            )
        if config.without_fold not in range(coco20i.FOLDS):
            raise ConfigError(f"{config.name}: without_fold is 0 to {coco20i.FOLDS - 1}.")
    if config.name not in PACKAGED and not Path(config.root or "?").is_dir():
        raise DataError(
            f"The source {config.name} needs the folder of its data, and its root is "
            f"{config.root or 'not set'}: set it to an existing folder."
        )
    return SOURCES[config.name](config, canvas)


def _emoji(config: SourceConfig, canvas: int) -> PairSource:
    return EmojiPairs(SpriteBank.load("base"), canvas)


def _emoji_scenes(config: SourceConfig, canvas: int) -> PairSource:
    return EmojiScenePairs(SpriteBank.load("base"), canvas)


def _emoji_instances(config: SourceConfig, canvas: int) -> PairSource:
    return EmojiInstancePairs(SpriteBank.load("base"), canvas)


def _photo_scenes(config: SourceConfig, canvas: int) -> PairSource:
    return PhotoScenePairs(PhotoLibrary.open(config.root), SpriteBank.load("base"), canvas)


def _folder(config: SourceConfig, canvas: int) -> PairSource:
    if find_built(config.root) is None:
        return ClassPairs(open_folder(config.root))
    source = open_built(config.root)
    if isinstance(source, BuiltSource):
        return ClassPairs(source)
    if isinstance(source, BuiltSemanticSource):
        return _built_semantic(source)
    raise DataError(f"{config.root} holds videos: give a data set of images.")


def _fss1000(config: SourceConfig, canvas: int) -> PairSource:
    return ClassPairs(Fss1000Source(config.root, split="trn"))


def _coco_semantic(config: SourceConfig, canvas: int) -> PairSource:
    excluded = () if config.without_fold is None else coco20i.fold_classes(config.without_fold)
    classes = [number for number in range(coco20i.CLASSES) if number not in excluded]
    return ClassPairs(coco20i.Coco20iSource(config.root, split="trn"), classes, exhaustive=True)


def _ade20k_semantic(config: SourceConfig, canvas: int) -> PairSource:
    if find_built(config.root) is not None:
        source = open_built(config.root)
        if not isinstance(source, BuiltSemanticSource):
            raise DataError(f"{config.root} holds {source.name}: give ade20k's folder.")
        return _built_semantic(source)
    source = ade20k.open_source(Path(config.root))
    return ImagePairs(source, "train", index_classes(source, "train"))


def _built_semantic(source: BuiltSemanticSource) -> PairSource:
    return ImagePairs(
        source,
        "train",
        {image_name: source.present("train", image_name) for image_name in source.image_names("train")},
    )


def _instances(layout: InstanceLayout) -> Opener:
    def open_instances(config: SourceConfig, canvas: int) -> PairSource:
        fold = () if config.without_fold is None else coco20i.fold_classes(config.without_fold)
        names = [coco20i.class_names()[number] for number in fold]
        return InstancePairs(CocoInstances(config.root, layout, names))

    return open_instances


def _lip(config: SourceConfig, canvas: int) -> PairSource:
    return InstancePairs(LipInstances(config.root))


SOURCES: dict[str, Opener] = {
    "emoji": _emoji,
    "emoji_scenes": _emoji_scenes,
    "emoji_instances": _emoji_instances,
    "photo_scenes": _photo_scenes,
    "folder": _folder,
    "fss1000": _fss1000,
    "coco_semantic": _coco_semantic,
    "ade20k_semantic": _ade20k_semantic,
    "coco_instances": _instances(COCO),
    "lvis_instances": _instances(LVIS),
    "objects365_instances": _instances(OBJECTS365),
    "paco_instances": _instances(PACO),
    "lip_instances": _lip,
}
PACKAGED = ("emoji", "emoji_scenes", "emoji_instances")
WITH_FOLDS = ("coco_semantic", "coco_instances")
