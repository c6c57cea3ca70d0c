"""Of every alarm a picture and a clip are kept, with the seconds before it."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from broker import until

from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction, StageTimes
from edgecnn.watch.config import ClipConfig
from edgecnn.watch.sinks import video
from edgecnn.watch.sinks.clips import ClipSink, Ring, decode, encode

PREDICTION = Prediction({}, 0, 0.0, StageTimes(0, 0, 0))
NEWEST_FIRST = itertools.count()


def grey(at_s: float, height: int = 48, width: int = 64) -> Frame:
    """A frame whose brightness tells its moment: 10 a second."""
    return Frame(np.full((height, width, 3), round(at_s * 10), np.uint8), at_s, round(at_s * 10))


def feed(sink: ClipSink, from_s: float, until_s: float, step_s: float = 0.1) -> None:
    """Hand over frames as fast as they are taken."""
    for number in range(round((until_s - from_s) / step_s)):
        while not sink._queue.empty():
            until(sink._queue.empty)
        sink.on_prediction(grey(from_s + number * step_s), PREDICTION)
    assert until(sink._queue.empty)


def moments(path: Path) -> list[float]:
    """Read the moments back that the brightness of a clip's pictures tells."""
    capture = cv2.VideoCapture(str(path))
    found = []
    while True:
        is_there, pixels = capture.read()
        if not is_there:
            capture.release()
            return found
        found.append(float(pixels.mean()) / 10)


@contextlib.contextmanager
def keeping(folder: Path, **settings: float) -> Iterator[ClipSink]:
    config = ClipConfig(**{"pre_roll_s": 2.0, "post_roll_s": 3.0, **settings})
    sink = ClipSink(
        config, folder, order=lambda incident_id: int(incident_id[1:]) if incident_id[1:].isdigit() else 0
    )
    with contextlib.closing(sink):
        yield sink


def started(incident_id: str, at_s: float) -> Event:
    return Event("started", "fire", at_s, 0.9, 50, incident_id)


def test_a_clip_shows_the_seconds_before_the_alarm_and_after_it(tmp_path: Path) -> None:
    with keeping(tmp_path) as sink:
        feed(sink, 0.0, 10.0)
        sink.on_event(started("a1", 9.5))
        feed(sink, 10.0, 14.0)
        assert until(lambda: sink.clip("a1"))
        snapshot, clip = sink.snapshot("a1"), sink.clip("a1")

        assert snapshot is not None
        assert clip is not None
        assert float(cv2.imread(str(snapshot)).mean()) == pytest.approx(95, abs=2)
        seen = moments(clip)
        assert (seen[0], seen[-1]) == (pytest.approx(7.5, abs=0.25), pytest.approx(12.5, abs=0.25))
        assert len(seen) == pytest.approx(51, abs=2)
        assert sink.fault() is None


def test_an_encoder_is_let_go_of_when_its_clip_is_whole_and_not_at_the_next_alarm(tmp_path: Path) -> None:
    pytest.importorskip("av")

    def encoders() -> list[object]:
        return [found for found in gc.get_objects() if type(found).__name__ == "VideoCodecContext"]

    with keeping(tmp_path) as sink:
        feed(sink, 0.0, 5.0)
        sink.on_event(started("a1", 4.5))
        feed(sink, 5.0, 6.0)
        at_work = len(encoders())
        feed(sink, 6.0, 9.0)
        assert until(lambda: sink.clip("a1"))

        assert (at_work, until(lambda: not encoders())) == (1, True)


def test_a_clip_has_the_colours_of_the_camera(tmp_path: Path) -> None:
    colours = np.uint8([[220, 60, 20], [20, 60, 220], [30, 180, 40], [240, 240, 240]])
    stripes = np.repeat(np.repeat(colours[None], 48, axis=0), 16, axis=1)
    writer = video.open_video(tmp_path / "clip.mp4", 10.0)
    for number in range(10):
        writer.write(stripes, number / 10)
    writer.close()

    capture = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    pixels_rgb = capture.read()[1][..., ::-1]
    capture.release()

    assert np.abs(pixels_rgb[24, 8::16].astype(int) - colours).max() <= 8


def test_a_clip_plays_as_long_as_it_took_at_any_frame_rate_of_the_camera(tmp_path: Path) -> None:
    with keeping(tmp_path) as sink:
        feed(sink, 0.0, 5.0, step_s=0.5)
        sink.on_event(started("a1", 4.5))
        feed(sink, 5.0, 9.0, step_s=0.5)
        assert until(lambda: sink.clip("a1"))
        capture = cv2.VideoCapture(str(sink.clip("a1")))
        while capture.grab():
            last_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
        capture.release()

    assert last_ms == pytest.approx(5000, abs=10)


def test_a_clip_that_a_killed_program_was_writing_plays_as_far_as_it_went(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "import test_sinks_clips as t\n"
        "with t.keeping(Path(sys.argv[1])) as sink:\n"
        "    t.feed(sink, 0.0, 4.0); sink.on_event(t.started('a1', 3.9)); t.feed(sink, 4.0, 6.0)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(tests.parent)}
    child = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(tests)], check=False, env=environment
    )

    with keeping(tmp_path) as sink:
        clip = sink.clip("a1")

        assert child.returncode == -signal.SIGKILL
        assert clip is not None
        assert moments(clip)[-1] > 4.5
        assert list(tmp_path.glob("*.part")) == []


def test_an_alarm_of_before_a_restart_is_not_shown_with_pictures_of_now(tmp_path: Path) -> None:
    with keeping(tmp_path) as sink:
        feed(sink, 0.0, 3.0)
        sink.on_event(started("a1", 86400.0))

        assert sink.snapshot("a1") is None


def test_the_oldest_alarms_make_room_whatever_the_clock_said(tmp_path: Path) -> None:
    with keeping(tmp_path, quota_mb=0.01, post_roll_s=0.1) as sink:
        for number in range(1, 8):
            feed(sink, number * 1.0, number + 0.5)
            sink.on_event(started(f"a{number}", number + 0.4))
            feed(sink, number + 0.5, number + 1.0)
            for file in tmp_path.glob(f"a{number}.*"):
                os.utime(file, (0, 2_000_000_000 - number))  # a clock that runs backwards
        size = sum(file.stat().st_size for file in tmp_path.iterdir())

        assert size <= 10_000
        assert sink.clip("a7") is not None
        assert sink.clip("a1") is None


def test_a_clip_that_is_being_written_makes_no_room_for_others(tmp_path: Path) -> None:
    with keeping(tmp_path, quota_mb=0.01, post_roll_s=0.1) as sink:
        written = tmp_path / "now.part.mp4"
        written.write_bytes(bytes(20_000))
        feed(sink, 1.0, 1.5)
        sink.on_event(started("a1", 1.4))
        feed(sink, 1.5, 2.0)

        assert written.exists()


def test_a_kept_picture_is_given_back_with_red_first() -> None:
    picture = np.full((32, 32, 3), (220, 90, 30), np.uint8)

    np.testing.assert_allclose(decode(encode(picture)), picture, atol=6)


def test_memory_for_the_seconds_before_is_bounded_however_large_the_pictures_are() -> None:
    random = np.random.default_rng(1)
    ring = Ring(seconds=60, limit_bytes=1e6)

    for number in range(20):
        ring.append(number / 10, encode(random.integers(0, 256, (480, 640, 3), np.uint8)))
        assert ring.size_bytes <= 1e6
        assert sum(len(jpeg) for _, jpeg in ring.since(0)) == ring.size_bytes

    assert ring.nearest(1.9) is not None


def test_a_folder_that_cannot_be_written_is_named_and_the_next_alarm_is_kept_again(tmp_path: Path) -> None:
    folder = tmp_path / "incidents"
    with keeping(folder) as sink:
        feed(sink, 0.0, 3.0)
        folder.rmdir()
        sink.on_event(started("a1", 2.9))
        fault = sink.fault()
        folder.mkdir()
        sink.on_event(started("a2", 2.9))

        assert fault is not None
        assert "Free some space" in fault.detail
        assert sink.fault() is None
        assert sink.snapshot("a2") is not None


def test_a_name_from_outside_reaches_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_text("")
    with keeping(tmp_path / "incidents") as sink:
        assert sink.snapshot("../secret") is None


def test_without_pyav_a_clip_is_still_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    writer = video.open_video(tmp_path / "clip.part", 10)
    for number in range(20):
        writer.write(grey(number / 10).pixels_rgb, number / 10)
    writer.close()

    assert len(moments(tmp_path / "clip.part")) == 20
