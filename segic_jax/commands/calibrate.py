"""Define `segic calibrate`: fit the calibration of presence, and measure it."""

from dataclasses import dataclass

from segic_jax.weights.catalog import DEFAULT, PACKAGED

SHOTS = (1, 5)


@dataclass
class Calibrate:
    """Calibrate whether a class is present in an image.

    Fits the calibration on the validation classes of the emoji benchmark and prints how well it does on the
    novel ones, from one and from five examples. With --save it goes into the model file, and
    `result.presence` and `segic predict` use it.
    """

    weights: str = DEFAULT
    """A name from `segic weights list`, or a model file."""
    scenes: int = 300
    """Scenes of each split and number of examples."""
    save: bool = False
    """Write the calibration into the model file's notes."""

    def run(self) -> int:
        """Fit on all numbers of examples together, and measure each."""
        import numpy as np

        from segic_jax.errors import ConfigError
        from segic_jax.evaluate import calibration as fitting
        from segic_jax.inference.presence import EVIDENCE
        from segic_jax.inference.segmenter import Segmenter
        from segic_jax.runtime.compile_cache import use_compile_cache
        from segic_jax.weights.bundle import load_bundle
        from segic_jax.weights.fetch import find

        if self.scenes < 1:
            raise ConfigError(f"--scenes {self.scenes} must be at least 1.")
        if self.save and self.weights in PACKAGED:
            raise ConfigError("--save writes into a model file: name yours with --weights.")
        use_compile_cache()
        path = find(self.weights)
        segmenter = Segmenter(load_bundle(path))
        parts = [fitting.collect_samples(segmenter, "validation", self.scenes, shots) for shots in SHOTS]
        samples = fitting.PresenceSamples(*map(np.concatenate, zip(*parts, strict=True)))
        calibration = fitting.fit_calibration(samples)
        print("| shots | measure | similarity alone | calibrated |\n| --- | --- | --- | --- |")
        measures = {
            "AUROC": fitting.auroc,
            f"false masks at {fitting.RECALL:.0%} recall".replace("%", " %"): fitting.false_positive_rate,
        }
        for shots in SHOTS:
            novel = fitting.collect_samples(segmenter, "novel", self.scenes, shots)
            scores = novel.evidence[:, EVIDENCE.index("similarity")], calibration.presence(novel.evidence)
            for name, measure in measures.items():
                values = " | ".join(f"{measure(score, novel.present):.3f}" for score in scores)
                print(f"| {shots} | {name} | {values} |", flush=True)
            kept = scores[1] >= calibration.least
            print(
                f"| {shots} | recall, false masks at the saved threshold | | "
                f"{kept[novel.present].mean():.3f}, {kept[~novel.present].mean():.3f} |"
            )
        if self.save:
            fitting.save_calibration(path, calibration)
            print(f"{path}: calibration saved")
        return 0
