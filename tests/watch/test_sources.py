"""Sources: real servers, real clips, and a picamera2 that speaks like the real one."""

from __future__ import annotations

import base64
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from streams import MjpegServer, free_port, rtsp_server, why_no_rtsp

from edgecnn.core.frame import Frame
from edgecnn.errors import MissingPackageError, RecipeError, RuntimeFault
from edgecnn.watch.config import SourceConfig
from edgecnn.watch.sinks.video import load, open_video
from edgecnn.watch.sources.open import open_source

ORANGE = (220, 120, 30)


@pytest.fixture
def camera() -> Iterator[MjpegServer]:
    server = MjpegServer()
    yield server
    server.close()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A second of a brightening square, 10 frames a second."""
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for index in range(10):
        writer.write(
            np.full((48, 64, 3), ORANGE[::-1], np.uint8) if index else np.zeros((48, 64, 3), np.uint8)
        )
    writer.release()
    return path


def frames(uri: str | Path, count: int = 1000, **settings: Any) -> list[Frame]:
    source = open_source(SourceConfig(str(uri), **settings))
    found = list(islice(source, count))
    source.close()
    return found


def test_a_clip_that_is_played_fast_keeps_its_own_time_and_its_colours(clip: Path) -> None:
    found = frames(clip, realtime=False)

    assert [round(f.captured_at_s, 3) for f in found] == [round(i / 10, 3) for i in range(10)]
    assert found[5].pixels_rgb[24, 32].tolist() == pytest.approx(ORANGE, abs=8)


@pytest.mark.parametrize("has_av", [True, False], ids=["h264", "mpeg4"])
def test_the_clip_of_a_camera_that_grew_slower_has_the_times_of_its_frames(
    has_av: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_av:
        monkeypatch.setitem(sys.modules, "av", None)
    elif load() is None:
        pytest.skip("needs PyAV")
    times_s = [*(n / 10 for n in range(10)), *(1 + n / 2 for n in range(6))]
    writer = open_video(tmp_path / "clip.mp4", 10)
    for number, at_s in enumerate(times_s):
        writer.write(np.full((48, 64, 3), 10 * number, np.uint8), at_s)
    writer.close()

    found = frames(tmp_path / "clip.mp4", realtime=False)

    # Of MPEG-4 a picture is shown again and again; the brightness tells which one it is.
    first_s = {round(float(f.pixels_rgb.mean()) / 10): f.captured_at_s for f in reversed(found)}
    assert [first_s[number] for number in range(16)] == pytest.approx(times_s, abs=0.01)


def test_a_clip_in_real_time_takes_as_long_as_it_took_to_record(clip: Path) -> None:
    began_s = time.monotonic()

    found = frames(f"replay:{clip}")

    assert 0.9 <= time.monotonic() - began_s < 3
    assert found[9].captured_at_s - found[0].captured_at_s == pytest.approx(0.9, abs=0.01)


def test_a_folder_is_played_in_the_order_of_its_names(tmp_path: Path) -> None:
    for number, value in ((2, 200), (1, 100)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8, 3), value, np.uint8))

    found = frames(tmp_path, frames_per_second=4.0, realtime=False)

    assert [(f.captured_at_s, int(f.pixels_rgb.mean())) for f in found] == [(0.0, 100), (0.25, 200)]


def test_a_stream_over_http_gives_frames_with_red_first(camera: MjpegServer) -> None:
    found = frames(camera.url, 3)

    red, _, blue = found[-1].pixels_rgb[5, 5].astype(int)
    assert red - blue > 80
    assert found[2].captured_at_s > found[0].captured_at_s


def test_a_clip_that_is_opened_after_a_stream_still_has_its_first_frame(
    camera: MjpegServer, clip: Path
) -> None:
    frames(camera.url, 2)

    assert len(frames(clip, realtime=False)) == 10


def test_a_stream_that_stalls_without_hanging_up_is_given_up_in_time(camera: MjpegServer) -> None:
    source = iter(open_source(SourceConfig(camera.url, stalled_after_s=1.0)))
    next(source)
    camera.stalled.set()
    began_s = time.monotonic()

    with pytest.raises(RuntimeFault, match="gives no more frames"):
        list(source)

    assert time.monotonic() - began_s < 3


def test_user_and_password_open_a_stream_and_appear_in_no_frame_and_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "p/ss@word")
    server = MjpegServer(user=base64.b64encode(b"me:p/ss@word").decode())
    settings = {"username": "me", "password_env": "CAMERA_PASSWORD"}

    found = frames(server.url, 1, **settings)
    server.close()
    with pytest.raises(RuntimeFault) as caught:
        frames(server.url, 1, **settings)

    assert found[0].source_id == server.url
    assert "ss@" not in caught.value.message + caught.value.fix
    assert "%2F" not in caught.value.message + caught.value.fix


def test_a_password_that_is_not_where_the_configuration_says_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CAMERA_PASSWORD", raising=False)

    with pytest.raises(RecipeError, match="CAMERA_PASSWORD, which holds nothing"):
        open_source(SourceConfig("rtsp://cam/1", username="me", password_env="CAMERA_PASSWORD"))


def test_a_stream_over_rtsp_gives_frames() -> None:
    if reason := why_no_rtsp():
        pytest.skip(reason)
    with rtsp_server(free_port()) as url:
        found = frames(url, 5, stalled_after_s=8.0)

    assert [f.pixels_rgb.shape for f in found] == [(240, 320, 3)] * 5
    assert found[-1].pixels_rgb.max() > 150  # the ball


@pytest.mark.parametrize("uri", ["/dev/video97", "97"])
def test_a_camera_that_is_not_plugged_in_is_named(uri: str) -> None:
    with pytest.raises(RuntimeFault, match=f"'{uri}' cannot be opened"):
        frames(uri)


def test_a_clip_that_does_not_exist_or_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no clip")

    with pytest.raises(RuntimeFault, match="There is no clip, folder or camera"):
        open_source(SourceConfig(str(tmp_path / "nothing.mp4")))
    with pytest.raises(RuntimeFault, match="No frame of"):
        frames(tmp_path / "text.mp4", realtime=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeFault, match="holds no picture"):
        frames(tmp_path / "empty", realtime=False)


@pytest.mark.parametrize("uri", ["~no-such-user/clip.mp4", "replay:~no-such-user/clip.mp4"])
def test_a_clip_in_the_home_of_nobody_is_named(uri: str) -> None:
    with pytest.raises(RecipeError, match=r"'~no-such-user/clip\.mp4' begins in a home folder"):
        frames(uri)


def test_an_incident_is_replayed_by_its_id(clip: Path, tmp_path: Path) -> None:
    incidents = tmp_path / "incidents"
    incidents.mkdir()
    clip.rename(incidents / "018bcfe56800-abc.mp4")

    source = open_source(SourceConfig("replay:018bcfe56800-abc", realtime=False), incidents)

    assert len(list(source)) == 10


def test_an_incident_that_is_not_known_is_refused_with_the_names_of_those_that_are(tmp_path: Path) -> None:
    for name in ("018bcfe56800-abc.mp4", "018bcfe56900-def.mp4", "018bcfe57000-aaa.part.mp4"):
        (tmp_path / name).touch()

    with pytest.raises(RuntimeFault, match="no clip 'yesterday'") as caught:
        open_source(SourceConfig("replay:yesterday"), tmp_path)
    with pytest.raises(RuntimeFault) as nothing:
        open_source(SourceConfig("replay:yesterday"), tmp_path / "none")

    assert "newest first: 018bcfe56900-def, 018bcfe56800-abc." in caught.value.fix
    assert "holds none" in nothing.value.fix


class StandInJob:
    """As picamera2.job.Job: ``get_result`` waits for the camera's thread."""

    def __init__(self) -> None:
        self.future: Future[Any] = Future()

    def get_result(self, timeout: float | None = None) -> Any:
        return self.future.result(timeout=timeout)


class StandInRequest:
    """As picamera2.request.CompletedRequest, with padded rows as libcamera pads them."""

    def __init__(self, owner: StandInPicamera2) -> None:
        self.owner = owner
        self.config = {"main": owner.main}
        self.stamp_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 30_000_000

    def make_buffer(self, name: str) -> np.ndarray:
        main = self.config[name]
        width, height = main["size"]
        channels = 4 if main["format"].startswith("X") else 3
        red, green, blue = ORANGE
        order = {"RGB888": (blue, green, red), "BGR888": (red, green, blue)}
        order |= {"XRGB8888": (blue, green, red, 255), "XBGR8888": (red, green, blue, 255)}
        rows = np.zeros((height, main["stride"]), np.uint8)
        rows[:, : width * channels] = np.tile(order[main["format"]], width)
        return rows.reshape(-1)

    def get_metadata(self) -> dict[str, Any]:
        return {"SensorTimestamp": self.stamp_ns, "ExposureTime": 10_000}

    def release(self) -> None:
        self.owner.out -= 1


class StandInPicamera2:
    """As picamera2.Picamera2, for what a watch calls of it."""

    made: list[StandInPicamera2] = []  # noqa: RUF012  a list that the test reads
    gives_after: Callable[[int], bool] = staticmethod(lambda _: True)

    def __init__(self, camera_num: int = 0) -> None:
        if camera_num > 1:
            raise IndexError("list index out of range")
        self.calls: list[str] = []
        self.out = 0
        self.count = 0
        StandInPicamera2.made.append(self)

    def create_video_configuration(self, main: dict[str, Any], controls: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(f"rate {controls.get('FrameRate')}")
        return {"main": {"size": (640, 480), "format": "XBGR8888"} | main}

    def configure(self, config: dict[str, Any]) -> None:
        width = config["main"]["size"][0]
        channels = 4 if config["main"]["format"].startswith("X") else 3
        self.main = config["main"] | {"stride": -(-width * channels // 64) * 64}

    def start(self) -> None:
        self.calls.append("start")

    def capture_request(self, wait: bool | None = None) -> StandInJob:
        assert wait is False
        job = StandInJob()
        self.count += 1
        if StandInPicamera2.gives_after(self.count):
            self.out += 1
            threading.Timer(0.005, lambda: job.future.set_result(StandInRequest(self))).start()
        return job

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def picamera2(monkeypatch: pytest.MonkeyPatch) -> type[StandInPicamera2]:
    module = types.ModuleType("picamera2")
    module.Picamera2 = StandInPicamera2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picamera2", module)
    monkeypatch.setattr(StandInPicamera2, "made", [])
    return StandInPicamera2


@pytest.mark.parametrize("name", ["RGB888", "BGR888", "XRGB8888", "XBGR8888"])
def test_every_format_of_a_pi_camera_gives_the_same_colours_without_the_padding_of_its_rows(
    picamera2: type[StandInPicamera2], name: str
) -> None:
    found = frames("picamera", 2, format=name, width_px=100, height_px=20, frames_per_second=15.0)

    assert found[1].pixels_rgb.shape == (20, 100, 3)
    assert (found[1].pixels_rgb == ORANGE).all()
    assert picamera2.made[0].calls[:2] == ["rate 15.0", "start"]


def test_a_pi_camera_is_stopped_and_closed_and_gets_every_buffer_back(
    picamera2: type[StandInPicamera2],
) -> None:
    source = iter(open_source(SourceConfig("picamera:1")))
    frame = next(source)
    source.close()  # type: ignore[attr-defined]

    made = picamera2.made[0]
    assert (made.out, made.calls[-2:]) == (0, ["stop", "close"])
    assert time.monotonic() - frame.captured_at_s >= 0.03  # the sensor's time, not that of the copy


def test_a_pi_camera_that_stops_is_given_up_in_time(
    picamera2: type[StandInPicamera2], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picamera2, "gives_after", staticmethod(lambda count: count < 3))

    with pytest.raises(RuntimeFault, match="gives no more frames"):
        frames("picamera", stalled_after_s=0.2)

    assert picamera2.made[0].calls[-1] == "close"


def test_a_pi_camera_that_is_not_there_is_named(picamera2: type[StandInPicamera2]) -> None:
    with pytest.raises(RuntimeFault, match="'picamera:5' cannot be opened"):
        frames("picamera:5")


def test_without_picamera2_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picamera2", None)

    with pytest.raises(MissingPackageError) as caught:
        frames("picamera")

    assert "apt install python3-picamera2" in caught.value.fix


def test_a_picamera2_that_was_built_for_another_numpy_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Bookworm's picamera2 meets on its first line, before a name of its own is defined.
    found = "numpy.dtype size changed, may indicate binary incompatibility"
    (tmp_path / "simplejpeg.py").write_text(f"raise ValueError({found!r})\n")
    (tmp_path / "picamera2.py").write_text("import simplejpeg\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("picamera2", "simplejpeg"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    with pytest.raises(MissingPackageError, match=r"numpy\.dtype size changed") as caught:
        frames("picamera")

    assert "--no-deps simplejpeg" in caught.value.fix
