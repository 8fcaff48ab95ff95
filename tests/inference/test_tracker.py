import dataclasses

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from segic_jax.config import INSTANCE_PROMPT
from segic_jax.data.preprocess import resize_and_pad
from segic_jax.errors import BundleError, DataError
from segic_jax.inference import engine, memory, tracker

HEIGHT, WIDTH = 40, 56

decode = jax.jit(memory.decode_frame, static_argnums=0)


@pytest.fixture(scope="module")
def bundle():
    return dataclasses.replace(tiny.bundle(), text={"": np.zeros(4, np.float32), INSTANCE_PROMPT: np.ones(4)})


@pytest.fixture(scope="module")
def runner(bundle):
    return engine.Engine(bundle)


@pytest.fixture(scope="module")
def clip():
    """Return five frames of two disks that move over noise, and the masks in every frame."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 120, (5, HEIGHT, WIDTH, 3), np.uint8)
    masks = np.zeros((5, 2, HEIGHT, WIDTH), bool)
    for t, frame in enumerate(frames):
        for k, (x, colour) in enumerate([(12 + 2 * t, (250, 220, 30)), (42 - 2 * t, (20, 200, 250))]):
            disk = np.zeros((HEIGHT, WIDTH), np.uint8)
            cv2.circle(disk, (x, 14 + 12 * k), 9, 1, -1)
            masks[t, k] = disk > 0
            frame[disk > 0] = colour
    return frames, masks


def annotate(masks, ids=(1, 2)):
    """Return a label map with the first mask on top."""
    annotation = np.zeros(masks.shape[1:], np.int32)
    for object_id, mask in list(zip(ids, masks, strict=True))[::-1]:
        annotation[mask] = object_id
    return annotation


def repaired_maps(runner, frames, annotations):
    return np.stack([*tracker.track_annotations(runner, frames, annotations, semantics="repaired")])


def official_maps(runner, frames, annotations):
    return np.stack([*tracker.track_annotations(runner, frames, annotations, semantics="official")])


def run(runner, frames, masks):
    return repaired_maps(runner, frames, {0: annotate(masks)})


def test_the_first_map_shows_the_given_masks(runner, clip):
    frames, masks = clip
    index = run(runner, frames, masks[0])
    assert index.shape == (5, HEIGHT, WIDTH)
    assert index.dtype == np.uint16
    np.testing.assert_array_equal(index[0], np.where(masks[0].any(0), 1 + masks[0].argmax(0), 0))
    assert set(np.unique(index)) <= {0, 1, 2}
    assert (index[1:] > 0).any()  # otherwise the other tests would compare empty maps


def test_one_frame_at_a_time_equals_all_frames_at_once(bundle, runner, clip):
    frames, masks = clip
    padded = [resize_and_pad(frame, masks[0], 64) for frame in frames]
    sizes = np.array([p.size for p in padded])
    features = engine.extract(bundle.config, bundle.backbone, np.stack([p.image for p in padded]), sizes)
    objects = memory.first_memory(features.patches[:1], jnp.asarray(padded[0].masks))
    expected = []
    for t in range(1, len(frames)):
        of_frame = jax.tree.map(lambda x, t=t: x[t : t + 1], features)
        frame, objects = decode(bundle.config, bundle.head, of_frame, objects, bundle.text[INSTANCE_PROMPT])
        expected.append(tracker.index_map(frame.logits, padded[t].size, (HEIGHT, WIDTH)))
    # Empty slots next to the objects change the rounding.
    assert (run(runner, iter(frames), masks[0])[1:] != expected).mean() < 1e-3


def test_the_order_of_objects_permutes_the_maps(runner, clip):
    frames, masks = clip
    swapped = run(runner, frames, masks[0, ::-1])
    assert (run(runner, frames, masks[0]) != np.array([0, 2, 1])[swapped]).mean() < 1e-3


def test_maps_have_the_ids_of_the_annotation(runner, clip):
    frames, masks = clip
    annotation = annotate(masks[0], (700, 3))
    swapped = run(runner, frames, masks[0, ::-1])
    maps = repaired_maps(runner, frames, {0: annotation})
    np.testing.assert_array_equal(maps[0], annotation)
    assert (maps != np.array([0, 3, 700])[swapped]).mean() < 1e-3


def test_official_semantics_number_objects_and_resize_the_first_frame(runner, clip):
    """Check ids 1, 2, ..., the first map resized from the canvas, and that later objects are ignored."""
    frames, masks = clip
    annotation = annotate(masks[0], (700, 3))
    official = official_maps(runner, frames, {0: annotation, 2: annotate(masks[2], (9, 8))})
    repaired = repaired_maps(runner, frames, {0: annotation})
    # The canvas of the official semantics is not rounded, which turns a few pixels.
    assert (official[1:] != np.searchsorted([0, 3, 700], repaired[1:])).mean() < 1e-2
    padded = resize_and_pad(frames[0], annotation == np.array([3, 700])[:, None, None], 64)
    first = tracker.index_map(padded.masks, padded.size, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(official[0], first)
    assert (first > 0).sum() > (annotation > 0).sum()


def test_official_semantics_drop_the_lowest_id_even_of_an_object(runner, clip):
    frames, masks = clip
    annotation = np.where(masks[0, 0], 2, 1)
    official = official_maps(runner, frames, {0: annotation})
    assert set(np.unique(official)) <= {0, 1}
    repaired = repaired_maps(runner, frames, {0: annotation})
    np.testing.assert_array_equal(repaired[0], annotation)


def test_more_objects_than_slots_are_tracked(runner, clip):
    frames, _ = clip
    annotation = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) // 200 + 1  # 12 stripes
    maps = repaired_maps(runner, frames, {0: annotation})
    np.testing.assert_array_equal(maps[0], annotation)
    assert len(maps) == 5


def test_an_object_that_appears_later_is_tracked(runner, clip):
    frames, masks = clip
    annotations = {1: masks[1, 0] * 5, 3: masks[3, 1] * 2 + masks[3, 0] * ~masks[3, 1] * 5}
    maps = repaired_maps(runner, frames, annotations)
    assert not maps[0].any()
    assert set(np.unique(maps[2])) <= {0, 5}
    np.testing.assert_array_equal(maps[3] == 2, masks[3, 1])
    single = repaired_maps(runner, frames[1:], {0: masks[1, 0] * 5})
    np.testing.assert_array_equal(maps[1:3], single[:2])
    np.testing.assert_array_equal(maps[3], np.where(masks[3, 1], 2, single[2]))
    assert (maps[4] == 2).any() or (maps[4] == 5).any()


def test_an_empty_object_gives_finite_values(bundle, clip):
    frames, masks = clip
    padded = resize_and_pad(frames[0], np.stack([masks[0, 0], np.zeros((HEIGHT, WIDTH), bool)]), 64)
    features = engine.extract(bundle.config, bundle.backbone, padded.image[None], np.array([padded.size]))
    objects = memory.first_memory(features.patches, jnp.asarray(padded.masks))
    for _ in range(2):
        frame, objects = decode(bundle.config, bundle.head, features, objects, bundle.text[INSTANCE_PROMPT])
    for value in jax.tree.leaves((frame, objects)):
        assert np.isfinite(value).all()
    np.testing.assert_array_equal(frame.stages.map[0, 1], 0)


def test_overlap_goes_to_the_larger_logit_and_padding_is_removed():
    logits = np.full((2, 64, 64), -1, np.float32)
    logits[0, :10], logits[1, 5:] = 1, 2
    logits[1, 32:] = -1
    index = tracker.index_map(logits, (16, 64), (16, 64))
    np.testing.assert_array_equal(index, np.where(np.arange(16) < 5, 1, 2)[:, None].repeat(64, 1))


def test_programs_are_compiled_once_for_all_sizes_and_objects(runner, clip):
    frames, masks = clip
    programs = engine.extract, engine._pool, engine._track
    run(runner, frames[:2], masks[0])
    before = [program._cache_size() for program in programs]
    run(runner, frames, masks[0])
    run(runner, frames[:, 5:, :30], masks[0][:, 5:, :30])
    annotation = masks[0, 0] * 7 + (np.arange(WIDTH) > 50) * 1
    repaired_maps(runner, frames, {0: annotation, 3: masks[3, 1] * 3})
    assert [program._cache_size() for program in programs] == before


def test_bad_input_is_refused(runner, clip):
    frames, masks = clip
    with pytest.raises(DataError, match="masks are 10 x 40 pixels, their frame 56 x 40"):
        run(runner, frames, masks[0, :, :, :10])
    with pytest.raises(BundleError, match="no text feature for 'a photo of a cat'"):
        tracker.Tracker(runner, prompt="a photo of a cat")
