"""Test that only the engine runs a model, and that its programs are compiled once for all inputs."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import CONFIG, DiskSource, bundle, parameters, random_image

from segic_jax import Example
from segic_jax.data.preprocess import resize_and_pad
from segic_jax.evaluate.calibration import tune_threshold
from segic_jax.inference import engine
from segic_jax.inference.engine import Engine, chunk_sizes, padded_concepts
from segic_jax.inference.segmenter import Segmenter
from segic_jax.inference.tracker import track_annotations
from segic_jax.models import encoding, segic
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.weights.bundle import save_bundle

PACKAGE = Path(segic.__file__).parents[1]
# The rooms that use a model for inference; training and the parity report run the networks themselves.
ROOMS = ("inference", "evaluate", "app", "commands")
DOCTOR = "commands/doctor.py"  # times a matrix product, and counts operations without running them
PURE = ("inference/engine.py", "inference/memory.py", "inference/matching.py")  # what the engine compiles
COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **fields: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


@pytest.fixture(scope="module")
def runner():
    return Engine(bundle())


def random_padded_image(seed: int, height: int = 50, width: int = 64):
    image, mask = random_image(seed, height, width)
    return resize_and_pad(image, mask[None], CONFIG.canvas)


def prototypes(rows: int, concepts: int, valid: int | None = None) -> encoding.Prototypes:
    random = np.random.default_rng(concepts)
    visual = random.normal(size=(rows, concepts, 1, CONFIG.backbone.width)).astype(np.float32)
    text = random.normal(size=(rows, concepts, CONFIG.text_width)).astype(np.float32)
    flags = np.broadcast_to(np.arange(concepts)[:, None] < (valid or concepts), (rows, concepts, 1))
    return encoding.Prototypes(pooled=visual[:, :, 0], visual=visual, visual_valid=flags, text=text)


NETWORK = ("segic_jax.models.encoding", "segic_jax.models.segic")


def model_uses(path: Path) -> set[str]:
    """Return which of `jit`, `pmap` and the functions of the network in models/ a module uses."""
    tree, names = ast.parse(path.read_text("utf-8")), set()
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "segic_jax.models"
        for alias in node.names
        if f"{node.module}.{alias.name}" in NETWORK
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("jit", "pmap"):
            names.add(node.attr)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            names.add(node.attr)
        if isinstance(node, ast.ImportFrom) and node.module in NETWORK:
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module == "jax":
            names |= {alias.name for alias in node.names} & {"jit", "pmap"}
    return names - {"Prototypes", "ReferenceBatch"}


def test_no_other_module_runs_a_model():
    paths = [path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py"))]
    uses_of = {str(path.relative_to(PACKAGE)): names for path in paths if (names := model_uses(path))}
    assert set(uses_of) - set(PURE) == {DOCTOR}
    assert {"jit", "extract", "decode_stages"} <= uses_of["inference/engine.py"]  # the check finds uses
    assert "jit" not in uses_of["inference/memory.py"] | uses_of["inference/matching.py"]


def predict(model):
    segmenter = Segmenter(model)
    segmenter.predict(random_image(1, 40, 50)[0], segmenter.fit(Example(*random_image(0, 50, 50))))


def evaluate(model):
    source = DiskSource()
    tune_threshold(model, (source, source.manifest("", 0, 1)))


def track(model):
    image, mask = random_image(0, 40, 50)
    list(track_annotations(Engine(model), [image, image], {0: mask.astype(np.int32)}, prompt=""))


@pytest.mark.parametrize("use", [predict, evaluate, track])
def test_every_use_goes_through_the_engine(use, monkeypatch):
    placed_weights, encoded = [], []
    place, extract = engine.place, engine.extract
    monkeypatch.setattr(engine, "extract", lambda *inputs: encoded.append(1) or extract(*inputs))
    monkeypatch.setattr(engine, "place", lambda x, *more: placed_weights.append(x) or place(x, *more))
    model = bundle()
    use(model)
    assert len(encoded) > 0
    assert len([weights for weights in placed_weights if weights is model.backbone]) == 1


def test_image_sizes_concepts_and_shots_compile_nothing_new():
    segmenter = Segmenter(bundle())
    examples = [Example(*random_image(i, 40 + i, 64), name=str(i)) for i in range(20)]
    for count in (1, 4, 16):
        segmenter.predict(random_image(0, 50, 60)[0], segmenter.fit(examples[:count]))
    before = len(COMPILED)
    assert before > 0  # the listener works
    further = [Example(*random_image(30 + i, 50, 50 + i), name="0", negative=i % 2 > 0) for i in range(5)]
    for i in range(50):
        context = segmenter.fit([*examples[: 1 + i % 20], *further[: i % 6]])
        segmenter.predict(random_image(i, 30 + 3 * i, 150 - 2 * i)[0], context)
    assert len(COMPILED) == before


def test_joint_decoding_compiles_a_few_programs(runner):
    images = runner.features([random_padded_image(0)], 1)

    def decode(counts):
        for count in counts:
            slots = padded_concepts(count)
            logits = list(runner.decode_each(images, prototypes(1, slots, count), count))
            assert len(logits) == count
        return engine._decode._cache_size()

    before = decode((1, 4, 5, 8, 16, 17, 20, 32))
    assert decode(range(2, 32, 5)) == before


def test_chunks_hold_all_concepts():
    for concepts in range(1, 200):
        sizes = chunk_sizes(concepts)
        assert set(sizes) <= {1, 4, 16}
        assert sum(sizes[:-1]) < concepts <= sum(sizes) <= concepts + 3
        assert sum(sizes) <= padded_concepts(concepts)


def test_logits_do_not_depend_on_the_size_of_a_group(runner, monkeypatch):
    """Decode in groups of several sizes; on a CPU the cache limits a group."""
    images = runner.features([random_padded_image(0)], 1)
    expected = np.asarray(runner.decode(images, prototypes(1, 7)).logits)
    for group_size in (1, 3, None):
        monkeypatch.setattr(runner, "_at_once", group_size)
        logits = np.asarray(runner.decode(images, prototypes(1, 7)).logits)
        np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_rows_of_a_batch_are_independent(runner):
    """Compare a batch of the size for accelerators, of which two rows are used, with single images."""
    batch = runner.features([random_padded_image(0), random_padded_image(1, 64, 30)], engine.ACCELERATOR_ROWS)
    assert batch.features.patches.shape[0] == engine.ACCELERATOR_ROWS
    decoded = runner.decode(batch, prototypes(engine.ACCELERATOR_ROWS, 2))
    for row, image in enumerate((random_padded_image(0), random_padded_image(1, 64, 30))):
        single = runner.features([image], 1)
        np.testing.assert_allclose(batch.features.patches[row], single.features.patches[0], atol=1e-4)
        batch_prototypes = prototypes(engine.ACCELERATOR_ROWS, 2)
        row_prototypes = jax.tree.map(lambda x, row=row: x[row : row + 1], batch_prototypes)
        expected = runner.decode(single, row_prototypes)
        scale = np.abs(expected.logits).max()
        np.testing.assert_allclose(decoded.logits[row], expected.logits[0], atol=1e-4 * scale)
        np.testing.assert_allclose(decoded.similarity[row], expected.similarity[0], atol=1e-5)


def test_features_stay_on_the_device_of_their_image(runner):
    assert runner.rows == 1  # on a CPU
    images = runner.features([random_padded_image(0)])
    assert images.features.patches.devices() == {runner.devices[0]}
    pooled = runner.pool(images, random_padded_image(0).masks[None])
    assert pooled.shape == (1, 1, CONFIG.backbone.width)
    assert not np.asarray(runner.pool(images, np.zeros((1, 1, 64, 64), bool))).any()


def test_the_api_and_the_evaluation_give_the_same_logits():
    segmenter = Segmenter(bundle())
    (image, mask), (target, _) = random_image(0, 50, 64), random_image(1, 60, 50)
    result = segmenter.predict(target, segmenter.fit(Example(image, mask)), keep_absent=True)
    runner = Engine(bundle())
    reference, seen = (
        resize_and_pad(x, y[None], CONFIG.canvas) for x, y in ((image, mask), (target, target[..., 0] > 0))
    )
    shots = np.asarray(runner.pool(runner.features([reference], 1), reference.masks[None]))[:, :, None]
    concepts = runner.prototypes(shots, runner.bundle.text_feature()[None, None])
    logits = np.asarray(runner.decode(runner.features([seen], 1), concepts).logits[0, 0])
    expected = np.asarray(segic.upsample(result.small_logits[None], CONFIG.canvas))[0, 0]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_classes_of_a_call_are_decoded_alone_or_together():
    segmenter = Segmenter(bundle())
    target = random_image(9, 60, 50)[0]
    examples = [Example(*random_image(i, 50, 64), name=str(i)) for i in range(6)]
    alone = [segmenter.predict(target, segmenter.fit(examples[:n])).small_logits for n in (1, 6)]
    np.testing.assert_allclose(alone[0][0], alone[1][0], atol=1e-5)
    together = segmenter.predict(target, segmenter.fit(examples), together=True).small_logits
    assert np.abs(together - alone[1]).max() > 1e-3
    runner, context = segmenter.engine, segmenter.fit(examples)
    shots = np.stack([concept.visual for concept in context.concepts])[None]
    concepts = runner.prototypes(shots, np.stack([concept.text for concept in context.concepts])[None])
    placed_target = resize_and_pad(target, np.zeros((0, *target.shape[:2]), bool), CONFIG.canvas)
    logits = np.asarray(runner.decode(runner.features([placed_target], 1), concepts).logits[0])
    expected = np.asarray(segic.upsample(together[None], CONFIG.canvas))[0]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_the_backbone_runs_in_the_precision_that_is_asked_for(precision):
    runner = Engine(bundle(), precision=precision)
    (backbone,), (head,) = runner._backbones.values(), runner._heads.values()
    assert runner.precision == ("float32" if precision == "auto" else precision)  # this is a CPU
    assert {str(value.dtype) for value in backbone.values()} == {runner.precision}
    assert {str(value.dtype) for value in head.values()} == {"float32"}


MEASURE = """
import resource, sys
from pathlib import Path
import jax
import numpy as np
from segic_jax.inference.segmenter import Segmenter
from segic_jax.models.params import count

jax.block_until_ready(jax.device_put(np.ones(3)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
segmenter = Segmenter.load(Path(sys.argv[1]), precision=sys.argv[2])
jax.block_until_ready([*segmenter.engine._backbones.values()])
used = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(used / (count(segmenter.bundle.backbone) * jax.numpy.dtype(segmenter.engine.precision).itemsize))
"""


@pytest.mark.parametrize(
    ("stored", "precision"), [("float16", "float32"), ("float32", "float32"), ("float32", "bfloat16")]
)
def test_loading_takes_the_memory_of_the_weights_and_a_fifth(stored, precision, tmp_path):
    config = dataclasses.replace(
        CONFIG, backbone=dataclasses.replace(CONFIG.backbone, width=768, depth=10, num_heads=12)
    )
    model = dataclasses.replace(
        bundle(),
        config=config,
        backbone=parameters(backbone_template(config.backbone), 0),
        head=parameters(head_template(config), 0),
    )
    save_bundle(tmp_path / "wide.safetensors", model, float16=stored == "float16")
    command = [sys.executable, "-c", MEASURE, tmp_path / "wide.safetensors", precision]
    used = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert float(used) < 1.2
