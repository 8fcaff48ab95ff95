"""Define `segic calibrate`: fit the calibration of presence, and measure it."""

from dataclasses import dataclass
from pathlib import Path

from segic_jax.config import Method
from segic_jax.weights.catalog import DEFAULT, PACKAGED

SHOTS = (1, 5)


@dataclass
class Calibrate:
    """Calibrate whether a class is present in an image.

    Fits the calibration on the validation classes of the emoji benchmark and prints how well it does on the
    novel ones, from one and from five examples. With --data-root it takes photographs: a question about a
    class is measured with a fit on other classes; what is saved is then fitted on all of them. With --save it
    goes into the model file, and `result.presence` and `segic predict` use it.
    """

    weights: str = DEFAULT
    """A name from `segic weights list`, or a model file."""
    method: Method = "segic"
    """Whose presence is calibrated: segic decodes with the trained head; training_free (INSID3) compares
    features, with the settings that suit the backbone."""
    data_root: tuple[Path, ...] = ()
    """Folders in the layout of `segic eval --benchmark folder`, in place of emoji scenes."""
    images: int | None = None
    """How many images of each folder to ask about, spread evenly; all by default."""
    scenes: int = 300
    """Emoji scenes of each split and number of examples."""
    save: bool = False
    """Write the calibration into the model file's notes; with segic and --data-root also the similarity
    threshold."""

    def run(self) -> int:
        """Fit on all numbers of examples together, and measure each."""
        from segic_jax.data.sources.folder import FolderSource
        from segic_jax.errors import ConfigError
        from segic_jax.evaluate.calibration import (
            calibrate_on_emoji,
            calibrate_on_folders,
            save_calibration,
            tune_threshold,
        )
        from segic_jax.inference.methods import load_model
        from segic_jax.inference.segmenter import Segmenter
        from segic_jax.runtime.compile_cache import use_compile_cache
        from segic_jax.weights.fetch import find

        if self.scenes < 1:
            raise ConfigError(f"--scenes {self.scenes} must be at least 1.")
        if self.save and self.weights in PACKAGED:
            raise ConfigError("--save writes into a model file: name yours with --weights.")
        use_compile_cache()
        path = find(self.weights)
        segmenter = Segmenter(load_model(path, self.method), method=self.method)
        notes = {}
        print("| shots | measure | similarity alone | calibrated |\n| --- | --- | --- | --- |")
        if self.data_root:
            sources = [FolderSource(root) for root in self.data_root]
            calibration = calibrate_on_folders(segmenter, sources, SHOTS, print, self.images)
            if self.method == "segic":
                episodes = ((source, source.manifest("original", 0, 1)) for source in sources)
                notes["cosine_threshold"], score = tune_threshold(segmenter.bundle, *episodes)
                best = f"its best threshold {notes['cosine_threshold']}"
                print(f"similarity map alone: mIoU {score:.1f} at {best}")
        else:
            calibration = calibrate_on_emoji(segmenter, self.scenes, SHOTS, print)
        if self.save:
            save_calibration(path, calibration, self.method, **notes)
            print(f"{path}: calibration saved")
        return 0
