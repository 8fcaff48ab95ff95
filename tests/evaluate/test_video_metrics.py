import numpy as np
import pytest
from layouts_video import clip

from segic_jax.evaluate import video_metrics
from segic_jax.evaluate.video_metrics import (
    Video,
    davis_rows,
    frame_scores,
    object_rows,
    official_csv,
    score_video,
    score_videos,
)


@pytest.fixture(scope="module")
def videos(golden):
    values = golden("metrics")
    numbers = range(int(values["in.jf.n_videos"]))
    return [Video(f"v{v}", values[f"in.jf.gt.{v}"], values[f"in.jf.pred.{v}"]) for v in numbers]


def test_videos_equal_official(golden, videos):
    values = golden("metrics")
    for v, video in enumerate(videos):
        scores = score_video(video.truth, video.prediction)
        assert list(scores) == sorted(values[f"out.jf.{v}.object_ids"].tolist())
        assert [i for i in scores if scores[i].in_truth] == sorted(values[f"out.jf.{v}.gt_ids"].tolist())
        for i, score in scores.items():
            np.testing.assert_allclose(score.j_frames, values[f"out.jf.{v}.frame_j.{i}"], rtol=1e-12)
            np.testing.assert_allclose(score.f_frames, values[f"out.jf.{v}.frame_f.{i}"], rtol=1e-12)
            assert len(score.j_frames) == len(video.truth) - score.first
        for n, i in enumerate(values[f"out.jf.{v}.gt_ids"].tolist()):
            assert scores[i].j == pytest.approx(values[f"out.jf.{v}.j"][n], rel=1e-12)
            assert scores[i].f == pytest.approx(values[f"out.jf.{v}.f"][n], rel=1e-12)


def test_benchmark_equals_official(golden, videos):
    values = golden("metrics")
    result = score_videos(videos)
    for name in ("jf", "j", "f"):
        assert getattr(result, name) == pytest.approx(float(values[f"out.benchmark.{name}"]), rel=1e-12)
    assert official_csv(result) == str(values["out.benchmark.csv"])


def test_frames_may_be_iterators(videos):
    streams = [Video(name, iter(truth), iter(prediction)) for name, truth, prediction in videos]
    assert score_videos(streams) == score_videos(videos)


def plain_outline(mask):
    """Return pixels (y, x) that differ from a neighbour to the right, below or right below, by loops."""
    height, width = mask.shape
    pixels = []
    for y in range(height):
        for x in range(width):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if any(mask[y, x] != mask[b, a] for b, a in neighbours if b < height and a < width):
                pixels.append((y, x))
    return np.array(pixels).reshape(-1, 2)


def plain_f(truth, prediction):
    """Compute F from the distances between all pairs of outline pixels."""
    a, b = plain_outline(truth), plain_outline(prediction)
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    near = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1)) <= np.ceil(0.008 * np.hypot(*truth.shape))
    recall, precision = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def blobs(random, number, shape):
    """Draw random rectangles, some of them empty, some at the border."""
    masks = np.zeros((number, *shape), bool)
    for mask in masks:
        for _ in range(random.integers(0, 3)):
            y, x = random.integers(0, shape[0]), random.integers(0, shape[1])
            mask[y : y + random.integers(1, 30), x : x + random.integers(1, 30)] = True
    return masks


@pytest.mark.parametrize("shape", [(40, 30), (1, 50), (33, 150), (200, 210)])  # radius 1, 1, 2, 3
def test_frame_scores_equal_loops(shape):
    random = np.random.default_rng(4)
    truth, prediction = blobs(random, 8, shape), blobs(random, 8, shape)
    prediction[:4] = truth[:4] ^ (random.random(prediction[:4].shape) < 0.002)
    truth[0] = prediction[1] = True  # masks without an outline
    j, f = frame_scores(truth, prediction)
    np.testing.assert_allclose(
        f, [plain_f(*pair) for pair in zip(truth, prediction, strict=True)], rtol=1e-12
    )
    for score, a, b in zip(j, truth, prediction, strict=True):
        assert score == ((a & b).sum() / (a | b).sum() if (a | b).any() else 1)


def test_outline_lies_on_the_upper_left_side():
    mask = np.zeros((4, 5), bool)
    mask[2:, 2:4] = True
    expected = [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 0, 1, 0]]
    np.testing.assert_array_equal(video_metrics.outline(mask), expected)


def test_disk_kernels_contain_the_grid_points_of_a_circle():
    assert video_metrics.disk_kernel(0).tolist() == [[1]]
    assert video_metrics.disk_kernel(1).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert video_metrics.disk_kernel(8).sum() == 197  # the number of grid points in a circle of radius 8


def frames(*columns):
    """Return frames of 6 x 6 pixels; an argument gives the objects in the left and the right half."""
    video = np.zeros((len(columns), 6, 6), np.uint8)
    for frame, (left, right) in zip(video, columns, strict=True):
        frame[:, :3], frame[:, 3:] = left, right
    return video


def test_an_object_counts_from_its_first_frame():
    truth = frames((7, 0), (7, 200), (7, 200), (7, 0))
    prediction = frames((7, 0), (7, 0), (7, 200), (7, 0))
    scores = score_video(truth, prediction)
    assert list(scores) == [7, 200]
    assert scores[7] == ([1.0] * 4, [1.0] * 4, 0, True, True)
    # The object is missed, found, and correctly absent.
    assert scores[200].first == 1
    assert scores[200].j_frames == [0, 1, 1]
    assert scores[200].j == pytest.approx(200 / 3)


def test_an_object_only_in_the_prediction_is_not_in_the_table():
    video = Video("a", frames((1, 0), (1, 0), (1, 0)), frames((1, 0), (1, 5), (1, 0)))
    assert not score_video(*video[1:])[5].in_truth
    assert [row.object_id for row in score_videos([video]).objects] == [1]


# What davis2017-evaluation gives for label maps that are moved by (1, 2) pixels: J and F of each object. With
# an object too many it ends without a result, and the tool of the official code gives these numbers.
OFFICIAL = {
    ("bear", 1): (0.6982758620689655, 0.5294117647058824),
    ("bear", 2): (0.6982758620689655, 0.5294117647058824),
    ("bear", 3): (0.6979493207941485, 0.5223942533473511),
    ("cows", 1): (0.6982758620689655, 0.5294117647058824),
    ("cows", 2): (0.6982758620689655, 0.5294117647058824),
}


@pytest.mark.parametrize("case", ["moved", "without the last object", "one object too many"])
def test_scores_equal_the_tool_of_davis(case):
    videos = []
    for seed, (name, ids) in enumerate({"bear": (1, 2, 3), "cows": (1, 2)}.items()):
        truth = clip(seed, frames=6, ids=ids)[1]
        prediction = np.roll(truth, (1, 2), (1, 2))
        if case == "without the last object":
            prediction = np.where(prediction == ids[-1], 0, prediction)
        elif case == "one object too many":
            prediction[:, :6, :6] = ids[-1] + 1
        videos.append(Video(name, truth, prediction))
    expected = dict(OFFICIAL)
    if case == "without the last object":
        expected |= {("bear", 3): (0.0, 0.0), ("cows", 2): (0.0, 0.0)}
    result = score_videos(videos)
    rows = {(row.video, row.object_id): (row.j / 100, row.f / 100) for row in result.objects}
    assert rows.keys() == expected.keys()
    for key, scores in expected.items():
        assert rows[key] == pytest.approx(scores, rel=1e-12)
    assert result.jf == pytest.approx(50 * np.sum(list(expected.values())) / len(expected), rel=1e-12)


def test_an_object_that_is_hidden_at_first_counts_as_in_the_tool_of_davis():
    truth = clip(0, frames=7, ids=(1, 2, 4))[1]
    truth[:, :6, :6] = 3
    truth[1:3][truth[1:3] == 2] = 0  # hidden at first
    truth[1:-1][truth[1:-1] == 3] = 0  # in no frame that is scored
    truth[:3:2, -4:, -4:] = 255
    prediction = np.roll(np.where(truth == 255, 0, truth), (1, 2), (1, 2))
    prediction[prediction == 4] = 0  # the last object is lacking
    prediction[4][truth[4] == 2] = 0
    scores = score_video(truth[1:-1], prediction[1:-1])
    # What davis2017-evaluation prints for these label maps: J and F of objects 1 to 4.
    expected = [
        (0.7045666356011184, 0.5514536849222448),
        (0.6793103448275861, 0.7183220829315332),
        (1.0, 1.0),
        (0.0, 0.0),
    ]
    rows = davis_rows("a", scores, objects=4, frames=5)
    assert [row.object_id for row in rows] == [1, 2, 3, 4]
    np.testing.assert_allclose([(row.j / 100, row.f / 100) for row in rows], expected, rtol=1e-12)
    # The tool of the official code leaves out the frames before an object is seen, and objects never seen.
    hidden = {row.object_id: row for row in object_rows("a", scores)}
    assert hidden[2].j == pytest.approx(100 * (5 * 0.6793103448275861 - 2) / 3, rel=1e-12)
    assert 3 not in hidden


def test_the_tool_of_davis_refuses_an_object_too_many():
    truth = frames((1, 0), (1, 2), (1, 2))
    scores = score_video(truth, frames((1, 0), (1, 0), (1, 0)))
    assert [row.object_id for row in davis_rows("a", scores, objects=1, frames=3)] == [1]  # 2 came later
    assert davis_rows("a", score_video(truth, truth), objects=1, frames=3) is None


def test_the_first_and_last_frame_are_left_out():
    # The object is in the truth only in the first and last frame, and hence does not count.
    video = Video("a", frames((3, 0), (0, 0), (0, 0), (3, 0)), frames((3, 0), (3, 0), (0, 0), (3, 0)))
    result = score_videos([video])
    assert result.objects == []
    assert np.isnan([result.jf, result.j, result.f]).all()
    assert [row[1:] for row in score_videos([video], skip_ends=False).objects] == [(3, 75, 75, 75)]


def test_ids_above_255_and_mixed_types_are_supported():
    truth = frames((1, 0)).astype(np.int32) * 1000
    assert score_video(truth, truth.astype(np.uint16))[1000].j == 100
    assert score_video(truth, frames((0, 1)))[1000].j == 0


def test_empty_videos_have_no_objects():
    assert score_video([], []) == {}
    empty = frames((0, 0), (0, 0))
    assert score_video(empty, empty) == {}
    assert score_videos([]).objects == []


def test_mismatched_frames_are_refused():
    with pytest.raises(ValueError, match="the prediction ends after 1 frames"):
        score_video(frames((1, 0), (1, 0)), frames((1, 0)))
    with pytest.raises(ValueError, match=r"frame 0: truth is \(6, 6\) pixels, prediction \(6, 5\)"):
        score_video(frames((1, 0)), frames((1, 0))[:, :, :5])
    short = Video("dogs", frames((1, 0), (1, 0), (1, 0)), frames((1, 0), (1, 0)))
    with pytest.raises(ValueError, match="dogs: the prediction ends"):
        score_videos([short])
