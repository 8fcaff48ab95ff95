"""Segment images by examples: images of any size in, masks of the same size out.

    segmenter = Segmenter.load()
    context = segmenter.fit([Example("cat.jpg", "cat.png", name="cat")])
    result = segmenter.predict("street.jpg", context)

`fit` reads the examples once and gives a Context; `predict` segments any number of targets with it. Neither
image sizes nor numbers of classes or examples compile a program again.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from segic_jax.config import Backend, MethodChoice, Precision
from segic_jax.data.image_folder import Targets, list_images
from segic_jax.data.images import ImageLike
from segic_jax.data.preprocess import CanvasImage
from segic_jax.errors import ConfigError, DataError, InputWarning
from segic_jax.inference.context import Context, read_context
from segic_jax.inference.engine import ImageFeatures
from segic_jax.inference.example import Example
from segic_jax.inference.explain import Explanation
from segic_jax.inference.instances import InstancesFrom
from segic_jax.inference.matching import image_matches
from segic_jax.inference.methods import load_model, make_engine, placing
from segic_jax.inference.model_identity import model_fingerprint, require_model, require_usable
from segic_jax.inference.prediction import THREADS, Predictor, Request, Target
from segic_jax.inference.presence import read_calibration
from segic_jax.inference.references import fit_examples
from segic_jax.inference.refine import PatchEncoder, read_box, read_clicks, refine_result
from segic_jax.inference.result import Result
from segic_jax.inference.tiles import Tiles
from segic_jax.inference.training_free.settings import TrainingFree
from segic_jax.runtime.prefetch import prefetch_results
from segic_jax.weights.bundle import Bundle
from segic_jax.weights.catalog import DEFAULT
from segic_jax.weights.fetch import find


class Segmenter:
    """Hold a model on JAX's default device, ready to take references.

    `bundle` has its weights and notes, `config` the sizes of the network, and `engine` runs it. `calibrated`
    says whether the model decides that classes are absent; otherwise every class is present.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision = "auto",
        *,
        rounded_canvas: bool = True,
        method: MethodChoice | TrainingFree = "segic",
        backend: Backend = "jax",
        beside: "Segmenter | None" = None,
    ):
        """Put a model on the device.

        Args:
            beside: a segmenter of the same model with another method, whose weights of the backbone this one
                shares; see `load` for the rest.
        """
        self.rounded_canvas = rounded_canvas
        other = None if beside is None else beside.engine
        devices = [*jax.device_put(0).devices()]
        self.engine = make_engine(bundle, method, devices, precision, backend=backend, beside=other)
        self.bundle = self.engine.bundle
        self.config = self.engine.config
        self.method = self.engine.method
        calibration = read_calibration(bundle.notes, self.method, self.engine.method_settings())
        self.calibrated = calibration is not None
        self._predictor = Predictor(self.engine, calibration, self.warnings, rounded_canvas=rounded_canvas)
        self._encode = PatchEncoder(self.engine)

    @classmethod
    def load(
        cls,
        weights: Path | str = DEFAULT,
        *,
        precision: Precision = "auto",
        rounded_canvas: bool = True,
        method: MethodChoice | TrainingFree = "segic",
        backend: Backend = "jax",
    ) -> "Segmenter":
        """Read a model and put it on the device; its `warnings` are given as InputWarnings.

        Args:
            weights: a name of `segic weights list`, in the package or fetched, or a model file.
            precision: of the backbone: "float32", "bfloat16", or "auto", which is bfloat16 on accelerators
                and float32 on a CPU. The head runs in float32.
            rounded_canvas: round resized images to uint8, which takes a quarter of the bytes; False keeps
                their fractions, as the official code does.
            method: "segic" decodes with the trained head; "training_free" (INSID3) needs a backbone only,
                such as dinov3-l, and finds masks by comparing features; "training_free_crf" refines their
                edges by a dense CRF, as the published figures do. A TrainingFree gives other settings than
                those that suit the backbone.
            backend: what runs the backbone. "onnxruntime" gives the same features within rounding, and takes
                less time for an EfficientNet on a CPU; it needs `pip install 'segic_jax[onnxruntime]'`.

        Raises:
            ConfigError: the backend cannot run the backbone here.
            FetchError: the weights are known and not fetched yet, or the name is unknown.
            BundleError: the file is damaged, of another kind, or not a complete model.
        """
        bundle = load_model(find(weights), method)
        segmenter = cls(bundle, precision, rounded_canvas=rounded_canvas, method=method, backend=backend)
        for sentence in segmenter.warnings:
            warnings.warn(sentence, InputWarning, stacklevel=2)
        return segmenter

    @property
    def name(self) -> str:
        """Return the name of the weights: of the packaged model, or of the file."""
        return self.bundle.name

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what to doubt about every result of these weights, a sentence each."""
        sentences = (self.bundle.domain_warning, "" if self.calibrated else self._uncalibrated)
        return tuple(filter(None, sentences))

    @property
    def _uncalibrated(self) -> str:
        of_method, command = {
            "segic": ("", "`segic calibrate` makes one"),
            "training_free": (
                " for these settings of the training-free method",
                "`segic calibrate --method training_free` makes one for the settings of the backbone",
            ),
        }[self.method]
        return (
            f"{self.name} has no calibration of presence{of_method}, so a class is present wherever it has a "
            f"mask: {command}."
        )

    def fit(
        self,
        examples: Example | Iterable[Example],
        onto: Context | None = None,
        *,
        class_names: bool = False,
        instances: bool = False,
        on_error: Callable[[ImageLike, DataError], None] | None = None,
        on_image: Callable[[], object] | None = None,
    ) -> Context:
        """Make a Context of examples.

        Args:
            examples: of any number of classes, in any order; the same name again is another shot.
            onto: a Context that the examples are added to; negatives may belong to its classes.
            class_names: also give the model the names as text, where it has a text tower.
            instances: every class is a single object: give the model the sentence for instances instead.
            on_error: called with an image on which an example cannot be used and the error; the examples on
                that image are then left out. If None, the error is raised.
            on_image: called for each image when it has been read, for a progress bar.

        Raises:
            DataError: a class has no positive example, or an example cannot be used (`Example.object_mask`).
            BundleError: `class_names` or `instances`, and the model cannot encode them.
            ConfigError: `class_names` and `instances`, or one of them with the training-free method.
        """
        if self.method != "segic" and (class_names or instances):
            raise ConfigError("The training-free method reads no text: leave class names and instances out.")
        if class_names and instances:
            raise ConfigError("The prompt is the names of classes or the sentence for instances: choose one.")
        context = fit_examples(
            self.engine,
            self.fingerprint,
            examples,
            onto,
            class_names=class_names,
            instances=instances,
            place_image=placing(self.engine, rounded=self.rounded_canvas),
            on_error=on_error,
            on_image=on_image,
        )
        return context if onto is None else onto + context

    def load_context(self, path: Path | str) -> Context:
        """Read a Context that `Context.save` wrote.

        Raises:
            DataError: it is not such a file, or was made with another model.
        """
        context = read_context(path)
        require_model(context, self.engine, self.fingerprint, str(path))
        return context

    def predict(
        self,
        target: ImageLike,
        context: Context,
        *,
        cut: float = 0.0,
        keep_absent: bool = False,
        together: bool = False,
        tiles: Tiles | None = None,
        instances: InstancesFrom | None = None,
    ) -> Result:
        """Segment one image.

        Args:
            target: a path, a uint8 RGB array [height, width, 3] or a PIL image, of any size up to 178
                million pixels.
            context: made by `fit` or `load_context`, with at least one class.
            cut: logit above which a pixel belongs to a mask; 0 is a probability of 0.5.
            keep_absent: also give a mask to classes that seem to be absent.
            together: let each class also read the features of the others, as the official code does. Without
                it every class is decoded as if it were the only one, and adding a class changes no other's
                mask. For a single class there is no difference.
            tiles: segment overlapping windows of the image, this number along its longer side or "auto", and
                merge them: for objects that are small in a large image. None: the image as a whole.
            instances: let overlays and annotations show each object of a class, separated in this way; see
                `inference.instances`. None: they show each class.

        Returns:
            Masks, label map and presence at the target's size, a row for each class of the Context.

        Raises:
            DataError: the image cannot be read, or the Context belongs to another model or has no class.
            ConfigError: `cut` is no number, `tiles` no number of windows, `instances` no method, or
                `together` is asked of the training-free method.
        """
        self._require_usable(context)
        request = self._predictor.request(context, cut, keep_absent, together, tiles, instances)
        return self._predictor.start([self._predictor.read(target)], request, 1)[0]()

    def predict_many(
        self,
        targets: Targets,
        context: Context,
        *,
        cut: float = 0.0,
        keep_absent: bool = False,
        together: bool = False,
        tiles: Tiles | None = None,
        instances: InstancesFrom | None = None,
        on_error: Callable[[ImageLike, DataError], None] | None = None,
    ) -> Iterator[Result]:
        """Segment images one after another, in order, while threads read the next ones and make the results.

        Each Result holds its image: take what you need of it and drop it.

        Args:
            targets: images in a list or from an iterator, or a folder (its images by name).
            cut, keep_absent, together, tiles, instances: as for `predict`.
            on_error: called with a target that cannot be read and its error; the target is then left out.
                If None, the error is raised after the results before it.

        Raises:
            DataError: as `predict`, or a folder has no images.
            ConfigError: as `predict`.
        """
        self._require_usable(context)
        request = self._predictor.request(context, cut, keep_absent, together, tiles, instances)
        started = self._predictor.start_many(iter(list_images(targets)), request, on_error)
        return prefetch_results(lambda finish: finish(), started, threads=THREADS, limit=self.engine.rows)

    def refine(
        self,
        result: Result,
        *,
        points: Iterable[Sequence] = (),
        box: Sequence | None = None,
        name: str | None = None,
    ) -> Result:
        """Correct a mask by points and a box on the target; see `inference.refine`.

        The image is encoded again, unless the last call was about the same one. Points of earlier calls count
        as well, so that corrections can be made one after the other.

        Args:
            points: (x, y) in pixels of the target for a place inside the object, or (x, y, inside) with True
                or False.
            box: (x0, y0, x1, y1) around the object; the mask becomes what fits it best.
            name: the class; may be left out where there is only one.

        Returns:
            The result with another mask of this class, which is present where a point is inside or there is a
            box. The presence and the other classes stay as they are.

        Raises:
            DataError: a point or the box is malformed or outside the image, or there is no such class.
        """
        if name is None and len(result.names) == 1:
            (name,) = result.names
        if name not in result.names:
            raise DataError(f"Name one of the classes {', '.join(result.names)} to refine, not {name!r}.")
        clicks = read_clicks(points, *result.image.shape[:2])
        box = None if box is None else read_box(box, *result.image.shape[:2])
        concept = result.names.index(name)
        return refine_result(result, concept, clicks, box, self.config.canvas, self._encode)

    def explain(self, target: ImageLike, context: Context, *, matches: int = 24) -> list[Explanation]:
        """Explain each class: where the target looks like the examples, and which patches match which.

        Args:
            matches: how many of the strongest matches to list for a class, at most one per patch.

        Raises:
            DataError: as `predict`.
        """
        self._require_usable(context)
        loaded = self._predictor.read(target)
        features = self.engine.features([loaded.placed], 1)
        return self._predictor.explain(loaded, features, context, matches)

    def predict_and_explain(
        self,
        target: ImageLike,
        context: Context,
        *,
        cut: float = 0.0,
        keep_absent: bool = False,
        matches: int = 24,
    ) -> tuple[Result, list[Explanation]]:
        """Return what `predict` and `explain` return; the backbone runs once for both."""
        self._require_usable(context)
        loaded = self._predictor.read(target)
        features = self.engine.features([loaded.placed], 1)
        concepts = self.engine.match_concepts(features, self._predictor.slots_of(context))
        explanations = self._predictor.explain(loaded, features, context, matches)
        request = Request(context, cut, keep_absent)
        return self._predictor.result(image_matches(concepts, 0), loaded, request), explanations

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of what a Context depends on besides its references: backbone, canvas and method."""
        return model_fingerprint(self.engine)

    def start_result(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        placed: CanvasImage,
        features: ImageFeatures,
        context: Context,
        *,
        logits: Float[Array, "slots side side"],
        cut: float = 0.0,
        keep_absent: bool = False,
    ) -> Callable[[], Result]:
        """Start what `predict` does, for an image that is encoded already and masks that come from elsewhere.

        Args:
            placed: the image on the canvas.
            logits: of the classes, at 4 x grid; slots beyond the classes are not read.

        Returns:
            A function that waits for the device and gives the result.
        """
        self._require_usable(context)
        target, request = Target(image, None, placed), Request(context, cut, keep_absent)
        return self._predictor.start_with_logits(target, features, request, logits)

    def _require_usable(self, context: Context) -> None:
        require_usable(context, self.engine, self.fingerprint)
