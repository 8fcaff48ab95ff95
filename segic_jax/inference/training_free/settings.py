"""Set the training-free method, for each kind of backbone."""

from dataclasses import dataclass, replace

from segic_jax.config import Backbone, DinoV3Config, EfficientNetConfig
from segic_jax.weights.bundle import Bundle

CANVAS = 1024  # pixels, published
NARROWEST = 384  # channels of a published transformer
COMPONENTS = 500  # of the positions, published for 768 and 1024 channels


@dataclass(frozen=True)
class TrainingFree:
    """Hold the hyper-parameters of INSID3 (models/insid3.py); the defaults are the published ones."""

    components: int = COMPONENTS  # of the features of a blank image that are taken away as positions
    similarity: float = 0.6  # mean cosine above which clusters of the target are joined
    least: float = 0.2  # score above which a cluster belongs to the mask
    stretched: bool = True  # the image fills the square canvas, and its aspect ratio is not kept
    edges: float = 0.0  # patches that GrabCut may move the edges of masks by; 0 leaves them, as published
    crf: bool = False  # a dense CRF moves the edges instead, an option of the official code
    canvas: int | None = None  # side in pixels; None for that of `on_canvas`

    @classmethod
    def for_backbone(cls, config: Backbone) -> "TrainingFree":
        """Return the settings that suit a backbone.

        Vision transformers get the published ones. With fewer channels than 768 the published number of
        components would leave little or nothing of the features; they get the share that 500 are of 1024.
        Features of convolutions hold no positions, differ more within an object, and are coarse; the settings
        for EfficientNet were chosen on photographs, and those of transformers narrower than every published
        one on validation classes of emoji (docs/training_free.md).
        """
        if isinstance(config, EfficientNetConfig):
            return cls(components=0, similarity=0.65, least=0.01, stretched=False, edges=1.0)
        if config.width < NARROWEST:
            return cls(components=0, similarity=0.65, least=0.05)
        components = COMPONENTS if config.width > COMPONENTS else config.width * COMPONENTS // 1024
        return cls(components)


def on_canvas(bundle: Bundle, settings: TrainingFree) -> Bundle:
    """Return the model on the canvas of the method.

    By default a backbone without a head, and DINOv3, get the published one, or the closest that patches
    divide; other models keep the canvas of their head.
    """
    config, canvas = bundle.config, settings.canvas
    if canvas is None and bundle.head and not isinstance(config.backbone, DinoV3Config):
        return bundle
    stride = config.backbone.stride
    return replace(bundle, config=replace(config, canvas=canvas or stride * round(CANVAS / stride)))
