"""A real model with a heatmap: rendered flames against zones, and on the page."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orange
import pytest
from numpy.typing import NDArray
from stage import StagedIncidents

from edgecnn.core.alarm import AlarmPolicy, Event, Zone
from edgecnn.core.frame import Frame, InputSpec
from edgecnn.core.prediction import Prediction
from edgecnn.runtime.predictor import TflitePredictor, load
from edgecnn.watch.config import Config, ModelConfig, SourceConfig, WebConfig
from edgecnn.watch.history import History, preview
from edgecnn.watch.loop import Watch
from edgecnn.watch.mute import Mute
from edgecnn.watch.web import WebServer, serve
from edgecnn.workstation.data.procedural import render_clip

IGNITES_S = 1.0
HEARTH: Zone = ((0.45, 0.4), (0.75, 0.4), (0.75, 0.95), (0.45, 0.95))
"""Where the flames of this clip stand."""
DOOR: Zone = ((0.0, 0.4), (0.35, 0.4), (0.35, 0.95), (0.0, 0.95))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TflitePredictor:
    path = tmp_path_factory.mktemp("heat") / "heat.tflite"
    orange.write_heat_model(path)
    return load(path, threads=1)


@pytest.fixture(scope="module")
def clip() -> list[Frame]:
    return list(render_clip(8, 5.0, 10.0, IGNITES_S, 240, 320))


@dataclass
class ClipSource:
    frames: list[Frame]
    is_live: bool = False
    is_realtime: bool = False
    name: str = "rendered"

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)

    def close(self) -> None:
        pass


@dataclass
class StillSource:
    """Shows one picture again and again, as a camera does in real time."""

    frame: Frame
    is_live: bool = True
    is_realtime: bool = True
    name: str = "still"
    closed: threading.Event = field(default_factory=threading.Event)

    def __iter__(self) -> Iterator[Frame]:
        for index in itertools.count():
            if self.closed.wait(0.1):
                return
            yield replace(self.frame, captured_at_s=time.monotonic(), index=index)

    def close(self) -> None:
        self.closed.set()


class Listener:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        pass

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


def watched(model: TflitePredictor, clip: list[Frame], **zones: tuple[Zone, ...]) -> list[Event]:
    policy = AlarmPolicy("fire", **zones)
    config = Config("yard", ModelConfig(model.path), SourceConfig("rendered", self_test=True), (policy,))
    listener = Listener()
    Watch(config, model, ClipSource(clip), [listener]).run(threading.Event())
    return listener.events


def test_flames_raise_an_alarm_that_says_where_they_are(model: TflitePredictor, clip: list[Frame]) -> None:
    events = watched(model, clip)

    assert [event.kind for event in events] == ["started"]
    assert IGNITES_S < events[0].at_s < IGNITES_S + 3
    left, top, right, bottom = events[0].box or (0, 0, 0, 0)
    assert HEARTH[0][0] <= left < right <= HEARTH[2][0]
    assert HEARTH[0][1] <= top < bottom <= HEARTH[2][1]


def test_flames_in_the_excluded_hearth_raise_none(model: TflitePredictor, clip: list[Frame]) -> None:
    assert watched(model, clip, exclude=(HEARTH,)) == []


def test_flames_beside_the_excluded_door_do(model: TflitePredictor, clip: list[Frame]) -> None:
    assert [event.kind for event in watched(model, clip, exclude=(DOOR,))] == ["started"]


@pytest.mark.parametrize(("zone", "kinds"), [(HEARTH, ["started"]), (DOOR, [])])
def test_only_the_included_zone_is_watched(
    model: TflitePredictor, clip: list[Frame], zone: Zone, kinds: list[str]
) -> None:
    assert [event.kind for event in watched(model, clip, include=(zone,))] == kinds


@pytest.mark.parametrize(("zone", "raises"), [(HEARTH, True), (DOOR, False)])
def test_other_thresholds_are_tried_on_the_score_of_the_zones(
    model: TflitePredictor, clip: list[Frame], zone: Zone, raises: bool
) -> None:
    policy = AlarmPolicy("fire", include=(zone,))
    watch = Watch(
        Config("yard", ModelConfig(model.path), SourceConfig("clip"), (policy,)), model, ClipSource(clip), []
    )
    history = History(watch.followed)
    for frame in clip:
        history.on_prediction(frame, model.predict(frame))

    series = history.series()
    found = preview(series.at_s.tolist(), series.followed["fire"].tolist(), policy)

    assert bool(found.alarms) is raises


@contextmanager
def page_of(model: TflitePredictor, frame: Frame) -> Iterator[WebServer]:
    """Serve the page of a watch that looks at one picture."""
    source = SourceConfig("still", self_test=False)
    config = Config("yard", ModelConfig(model.path), source, (AlarmPolicy("fire"),))
    history, stop = History(), threading.Event()
    watch = Watch(config, model, StillSource(frame), [history])
    thread = threading.Thread(target=watch.run, args=(stop,))
    thread.start()
    server = serve(WebConfig(port=0), "", watch, history, StagedIncidents(), Mute())
    try:
        yield server
    finally:
        server.close()
        stop.set()
        thread.join()


@pytest.mark.xdist_group("chromium")
def test_the_page_draws_the_heat_where_the_flames_are(model: TflitePredictor, clip: list[Frame]) -> None:
    changed = heat_on_page(model, clip[-1])

    rows, columns = np.nonzero(changed)
    height, width = changed.shape
    assert changed.mean() > 0.01
    assert HEARTH[0][0] < columns.mean() / width < HEARTH[2][0]
    assert HEARTH[0][1] < rows.mean() / height < HEARTH[2][1]
    assert not changed[:, : int(0.35 * width)].any()


@pytest.mark.xdist_group("chromium")
def test_the_page_draws_no_heat_for_the_black_borders_that_a_model_saw(tmp_path: Path) -> None:
    spec = InputSpec(96, 128, resize="letterbox")
    orange.write_heat_model(tmp_path / "heat.tflite", spec)
    pixels_rgb = np.full((120, 320, 3), 90, np.uint8)  # half of the model's input is border
    pixels_rgb[:60, :80] = (255, 100, 0)

    changed = heat_on_page(load(tmp_path / "heat.tflite", threads=1), Frame(pixels_rgb, 0.0, 0, "still"))

    assert changed.shape == (120, 320)
    assert changed[20:28, 4:60].mean() > 0.9  # below the name of the label, which hides the rest
    assert not changed[84:].any()


def heat_on_page(model: TflitePredictor, frame: Frame) -> NDArray[np.bool_]:
    """Say which pixels of the live picture look different with the heat; boxes are drawn both times."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the dev extra")
    if not (chromium := Path("/usr/bin/chromium")).exists():
        pytest.skip("needs a browser: apt-get install chromium")

    with page_of(model, frame) as server, playwright.sync_playwright() as driver:
        arguments = ["--headless", "--no-sandbox", "--disable-gpu"]
        browser = driver.chromium.launch(executable_path=str(chromium), args=arguments)
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        page.goto(server.url)
        page.wait_for_selector("#veil", state="hidden")
        with_heat = canvas_of(page)
        page.click("#overlay")
        page.wait_for_selector("#overlay[aria-pressed=false]")
        without_heat = canvas_of(page)
        browser.close()

    found: NDArray[np.bool_] = np.abs(with_heat - without_heat).max(axis=2) > 20
    return found


def canvas_of(page: Any) -> NDArray[np.int16]:
    """Give the pixels of the live picture, with what is drawn over it."""
    pen = "const c = document.getElementById('picture'), d = c.getContext('2d')"
    width, height, data = page.evaluate(
        f"() => {{ {pen}.getImageData(0, 0, c.width, c.height); return [c.width, c.height, [...d.data]]; }}"
    )
    return np.array(data, np.int16).reshape(height, width, 4)[..., :3]
