"""Test `segic video` with an untrained model."""

import json
import os
import resource
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from tiny import command_files, random_image

from segic_jax.commands.arguments import SkippedInputs
from segic_jax.commands.command_line import main
from segic_jax.errors import DataError
from segic_jax.inference import video_io
from segic_jax.inference.engine import Engine
from segic_jax.inference.segmenter import Segmenter
from segic_jax.inference.tracker import track_annotations
from segic_jax.inference.video_io import VideoOutputs, open_video
from segic_jax.inference.video_log import FrameRecord

WEIGHTS = ("--weights", "tiny.safetensors")
REF = ("--ref", "ref.png", "mask.png")
IMAGE, MASK = random_image(0, 50, 70)


@pytest.fixture(scope="module")
def clip(files):
    """Write six frames as a video and as a folder, and the first mask with two objects, 3 and 5."""
    (files / "frames").mkdir()
    video = cv2.VideoWriter(str(files / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (70, 50))
    for i in range(6):
        frame = np.roll(random_image(0, 50, 70)[0], 2 * i, 1)
        video.write(frame)
        cv2.imwrite(str(files / f"frames/{i + 7}.png"), frame)
    video.release()
    labels = np.zeros((50, 70), np.uint8)
    labels[10:40, 20:35], labels[5:20, 50:60] = 5, 3
    cv2.imwrite(str(files / "first.png"), labels)
    return labels


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def count_frames(video):
    video = cv2.VideoCapture(str(video))
    return sum(video.read()[0] for _ in range(10))


def test_a_video_is_tracked_from_its_first_mask(segic, clip, tmp_path, capsys):
    outs = ("--out", tmp_path / "o.mp4", "--out", tmp_path / "labels")
    assert segic("video", "clip.avi", "--mask", "first.png", *outs, *WEIGHTS) == 0
    assert capsys.readouterr().out.startswith("6 frames are done: ")
    assert sorted(os.listdir(tmp_path)) == ["labels", "o.mp4", "o.mp4.jsonl"]
    assert sorted(os.listdir(tmp_path / "labels")) == [f"{i:06}.png" for i in range(6)]
    maps = [np.asarray(Image.open(tmp_path / f"labels/{i:06}.png")) for i in range(6)]
    np.testing.assert_array_equal(maps[0], clip)
    assert set(np.unique(maps)) <= {0, 3, 5}
    assert cv2.VideoCapture(str(tmp_path / "o.mp4")).get(cv2.CAP_PROP_FPS) == 10
    assert count_frames(tmp_path / "o.mp4") == 6
    rows = lines(tmp_path / "o.mp4.jsonl")
    assert [(row["frame"], row["class"]) for row in rows] == [(i, name) for i in range(6) for name in "35"]
    assert [row["time"] for row in rows[::2]] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    for row in rows:
        mask = maps[row["frame"]] == row["number"]
        assert row["area"] == mask.sum()
        assert row["present"] == mask.any()
        np.testing.assert_array_equal(coco.decode(row["segmentation"]), mask)
        if row["present"]:
            y, x = np.nonzero(mask)
            assert row["box"] == [x.min(), y.min(), x.max() + 1, y.max() + 1]

    # The tracker is that of the benchmarks, which crop a frame's mask on the canvas.
    video = cv2.VideoCapture(str(Path("clip.avi")))
    frames = [video.read()[1][..., ::-1] for _ in range(6)]
    bundle = Segmenter.load("tiny.safetensors").bundle
    expected = list(track_annotations(Engine(bundle), frames, {0: clip}, semantics="repaired", prompt=""))
    assert np.mean(np.array(expected) == np.array(maps)) > 0.99


def test_a_folder_of_frames_is_searched_for_a_reference(segic, files, clip, tmp_path, capsys):
    damaged = files / "frames" / "9.png"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-50])
    code = segic("video", "frames", *REF, "--out", tmp_path / "labels", *WEIGHTS)
    damaged.write_bytes(content)
    assert code == 2
    assert "9.png is cut off" in capsys.readouterr().err
    names = ["7", "8", "10", "11", "12"]
    assert sorted(os.listdir(tmp_path / "labels")) == sorted(f"{name}.png" for name in names)
    assert [row["name"] for row in lines(tmp_path / "labels.jsonl")] == names


def test_a_stopped_video_resumes(segic, clip, tmp_path, capsys, monkeypatch):
    from segic_jax.inference.video_io import VideoOutputs

    add, tracked = VideoOutputs.add, []
    arguments = ("clip.avi", "--mask", "first.png", *WEIGHTS, "--out")
    outs = (tmp_path / "o.avi", "--out", tmp_path / "labels")
    start = Segmenter.start_result
    monkeypatch.setattr(
        Segmenter, "start_result", lambda *a, **options: tracked.append(1) or start(*a, **options)
    )
    assert segic("video", *arguments, tmp_path / "whole.avi") == 0
    assert len(tracked) == 5  # the first frame has a mask

    def stopped(self, *arguments):
        if self._count == 3:
            raise KeyboardInterrupt
        add(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(VideoOutputs, "add", stopped)
        assert segic("video", *arguments, *outs) == 130
    assert "3 of 6 frames are done: repeat the command" in capsys.readouterr().err
    assert not (tmp_path / "o.avi").exists()
    with (tmp_path / "o.avi.jsonl.part").open("a") as part:  # as if killed while writing
        part.write('{"frame": 3, "cla')
    tracked.clear()
    assert segic("video", *arguments, *outs) == 0
    assert 3 <= len(tracked) <= 4
    assert (tmp_path / "o.avi.jsonl").read_text() == (tmp_path / "whole.avi.jsonl").read_text()
    assert (tmp_path / "o.avi").read_bytes() == (tmp_path / "whole.avi").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["labels", "o.avi", "o.avi.jsonl", "whole.avi", "whole.avi.jsonl"]
    # A finished video is not tracked again, and a missing overlay is drawn without the model.
    tracked.clear()
    assert segic("video", *arguments, *outs) == 0
    assert "6 frames were done before" in capsys.readouterr().out
    (tmp_path / "o.avi").unlink()
    assert segic("video", *arguments, *outs) == 0
    assert count_frames(tmp_path / "o.avi") == 6
    assert tracked == []


def test_absence_and_negatives_are_considered_in_videos(segic, clip, tmp_path, capsys, monkeypatch):
    def rows(name, *options):
        assert segic("video", "clip.avi", *REF, *options, "--out", tmp_path / name, *WEIGHTS) == 0
        return lines(tmp_path / f"{name}.jsonl")

    expected = rows("positive")
    with monkeypatch.context() as patch:  # every pixel of a negative is removed
        patch.setattr("segic_jax.inference.presence.MARGIN", -100)
        negative = rows("negative", "--negative", "ref.png", "mask.png")
    assert sum(row["area"] for row in negative) < sum(row["area"] for row in expected)
    capsys.readouterr()
    emptied = rows("none", "--threshold", "0.999999")
    assert sum(row["area"] for row in emptied) == 0
    assert [row["present"] for row in emptied] == [row["present"] for row in expected]
    present = sum(row["present"] for row in expected)
    assert f"object: no pixel above the threshold on {present} frames" in capsys.readouterr().out


def test_a_full_disk_is_reported_for_a_video(segic, clip, tmp_path, capsys, monkeypatch):
    """Simulate a full disk, on which OpenCV continues without an error."""
    rooms = iter([10**6, 10**6, 100])
    usage = type("Usage", (), {"free": property(lambda _: next(rooms))})
    monkeypatch.setattr("segic_jax.inference.video_io.shutil.disk_usage", lambda _: usage())
    assert segic("video", "clip.avi", "--mask", "first.png", "--out", tmp_path / "o.avi", *WEIGHTS) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert not (tmp_path / "o.avi").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("none.mp4", *REF), "no such video"),
        (("mask.png:", *REF), "no such video"),
        (("tiny.safetensors", *REF), "cannot be read as a video"),
        (("clip.avi",), "Say what to track"),
        (("clip.avi", *REF, "--mask", "first.png"), "not both"),
        (("clip.avi", *REF, "--out", "x.gif"), "the suffix of a video must be one of .mp4"),
        (("clip.avi", *REF, "--out", "clip.avi"), "the input itself"),
        (("clip.avi", "--mask", "targets/b.png"), "colours, which mark no object"),
        (("clip.avi", *REF, "--threshold", "2"), "between 0 and 1"),
        (("clip.avi", *REF, "--fps", "0"), "--fps 0 must be above 0"),
    ],
)
def test_invalid_videos_are_reported_in_one_sentence(segic, clip, tmp_path, capsys, arguments, sentence):
    out = () if "--out" in arguments else ("--out", tmp_path / "out.mp4")
    assert segic("video", *arguments, *out, *WEIGHTS) == 2
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if not line.startswith("reference: ")]
    assert sentence in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [".avi", ".mp4", ".webm"])
def test_a_truncated_video_is_reported(tmp_path, ending):
    """Limit files to two kilobytes, which OpenCV does not report."""
    Image.fromarray(IMAGE).save(tmp_path / "1.png")
    out, frame = tmp_path / f"o{ending}", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    videos = VideoOutputs([out], open_video(tmp_path, 25.0, SkippedInputs()), {1: "a"})
    for _ in range(9):
        videos._write(out, frame)
        videos._written += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        videos._writers[out].release()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(DataError, match=rf"o{ending} cannot be written to: only \d+ of its 9 frames"):
        videos.__exit__(None)
    assert os.listdir(tmp_path) == ["1.png"]


def test_a_mask_of_negative_numbers_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(command_files(tmp_path))
    labels = np.where(MASK, -3, 0).astype(np.int32)
    labels[:5] = 2
    Image.fromarray(labels).save("first.tif")
    with pytest.raises(SystemExit) as stopped:
        main(["video", "targets", "--mask", "first.tif", "--out", "o", "--weights", "tiny.safetensors"])
    assert stopped.value.code == 2
    assert "first.tif numbers an object -3" in capsys.readouterr().err


def test_a_phone_held_upright_gives_upright_frames(tmp_path):
    """Turn a video by the matrix of its header, as phones do."""
    video = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:16, :16] = 255
    for _ in range(3):
        video.write(frame)
    video.release()
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = content.index(b"tkhd") + 44
    one = 1 << 16
    content[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 48 * one, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(content)
    first = next(open_video(tmp_path / "a.mp4", 25.0, SkippedInputs()).frames)
    assert first.shape == (64, 48, 3)
    assert first[:12, -12:].mean() > 240
    assert first[:12, :12].mean() < 15


def test_a_codec_that_cannot_be_decoded_is_named(tmp_path):
    video = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(3):
        video.write(np.zeros((48, 64, 3), np.uint8))
    video.release()
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content.replace(b"mp4v", b"av01").replace(b"esds", b"free"))
    with pytest.raises(DataError, match=r"a\.mp4 is encoded as AV1, .* ffmpeg -i a\.mp4 -c:v libx264"):
        open_video(tmp_path / "a.mp4", 25.0, SkippedInputs())


def test_hevc_is_read(tmp_path):
    av = pytest.importorskip("av")  # which brings an encoder
    if "libx265" not in av.codecs_available:
        pytest.skip("PyAV was built without x265")
    with av.open(str(tmp_path / "a.mp4"), "w") as video:
        stream = video.add_stream("libx265", rate=10, options={"x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:, 32:] = 255
        for _ in range(3):
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode())
    frames = list(open_video(tmp_path / "a.mp4", 25.0, SkippedInputs()).frames)
    assert len(frames) == 3
    assert frames[0][:, 40:].mean() > 240
    assert frames[0][:, :24].mean() < 15


def test_a_varying_frame_rate_keeps_its_times(tmp_path):
    """Write a video whose frames were shown at 0, 0.1, 0.2, 0.6 and 1.1 seconds."""
    Image.fromarray(IMAGE).save(tmp_path / "1.png")
    times = (0.0, 0.1, 0.2, 0.6, 1.1)
    assert video_io._varying_times([3 + time for time in times]) == pytest.approx(times)
    assert video_io._varying_times([0, 0.04, 0.08, 0.121]) == ()
    assert video_io._varying_times([0, 0, 0]) == ()
    video = replace(open_video(tmp_path, 10.0, SkippedInputs()), times=times)
    assert [video.time(number) for number in range(6)] == [*times, 0.5]
    record = FrameRecord(np.zeros(MASK.shape, np.uint8), [])
    with VideoOutputs([tmp_path / "o.avi"], video, {1: "a"}) as outputs:
        outputs._objects = {}
        for _ in times:
            outputs.add(IMAGE, record)
    assert video_io._count_frames(tmp_path / "o.avi") == 12
