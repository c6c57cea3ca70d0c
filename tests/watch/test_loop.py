"""The loop: newest frame only, lost sources come back, sinks cannot stop it, a reload is all or nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from streams import MjpegServer

from edgecnn.bundle import file, signature
from edgecnn.core.alarm import AlarmPolicy, Event
from edgecnn.core.frame import Frame, InputSpec, Pixels
from edgecnn.core.prediction import Head, Prediction, StageTimes
from edgecnn.errors import (
    BundleError,
    EdgecnnError,
    MissingPackageError,
    RecipeError,
    RuntimeFault,
    SignatureError,
)
from edgecnn.watch.config import Config, ModelConfig, SourceConfig
from edgecnn.watch.loop import Watch, load_model
from edgecnn.watch.sources.open import open_source
from edgecnn.watch.status import Fault

QUICK = AlarmPolicy("fire", half_life_s=0.0, minimum_s=0.0, cooldown_s=0.0)


def grey(value: int) -> Pixels:
    return np.full((12, 16, 3), value, np.uint8)


@dataclass
class BrightModel:
    """Sees as much fire as the picture is bright, after a while."""

    takes_s: float = 0.0
    fails: bool = False
    name: str = "bright"
    sha256: str = "ab" * 32
    heads: tuple[Head, ...] = (Head("fire", "sigmoid", ("no_fire", "fire")),)
    input: InputSpec = field(default=InputSpec(8, 8))
    seen: list[int] = field(default_factory=list)

    def predict(self, frame: Frame) -> Prediction:
        if self.fails:
            raise RuntimeFault("It fell over.", fix="Help it up.")
        time.sleep(self.takes_s)
        self.seen.append(frame.index)
        score = float(frame.pixels_rgb.mean()) / 255
        scores = {"fire": np.array([1 - score, score], np.float32)}
        return Prediction(scores, frame.index, frame.captured_at_s, StageTimes(0.0, self.takes_s * 1e3, 0.0))


@dataclass
class FakeSource:
    """Plays what it is told to; each of ``plays`` is one opening."""

    plays: list[Callable[[], Iterator[Pixels]]]
    period_s: float = 0.01
    is_live: bool = True
    is_realtime: bool = True
    name: str = "fake"
    opened_count: int = 0
    closed: threading.Event = field(default_factory=threading.Event)

    def __iter__(self) -> Iterator[Frame]:
        play = self.plays[min(self.opened_count, len(self.plays) - 1)]
        self.opened_count += 1
        for index, pixels in enumerate(play()):
            if self.is_realtime and self.closed.wait(self.period_s):
                return
            yield Frame(pixels, time.monotonic() if self.is_realtime else index * 0.1, index, self.name)

    def close(self) -> None:
        self.closed.set()


@dataclass
class FakeSink:
    """Remembers what it was told; refuses the first so many events."""

    refuses: int = 0
    events: list[Event] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)
    closed_count: int = 0

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        assert prediction.frame_index == frame.index
        self.ages_s.append(time.monotonic() - frame.captured_at_s)

    def on_event(self, event: Event) -> None:
        if self.refuses:
            self.refuses -= 1
            raise OSError(28, "No space left on device")
        self.events.append(event)

    def close(self) -> None:
        self.closed_count += 1


def forever(value: int = 0) -> Callable[[], Iterator[Pixels]]:
    def play() -> Iterator[Pixels]:
        while True:
            yield grey(value)

    return play


def times(count: int, value: int = 0) -> Callable[[], Iterator[Pixels]]:
    return lambda: iter([grey(value)] * count)


def refused() -> Iterator[Pixels]:
    raise RuntimeFault("It is not plugged in.", fix="Plug it in.")


def config(uri: str = "fake", **source: object) -> Config:
    settings = SourceConfig(uri, **({"self_test": False} | source))  # type: ignore[arg-type]
    return Config("yard", ModelConfig(Path("bright.tflite")), settings, (QUICK,))


@dataclass
class Running:
    """A watch on a thread of its own."""

    watch: Watch
    stop: threading.Event = field(default_factory=threading.Event)
    failures: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Running:
        def work() -> None:
            try:
                self.watch.run(self.stop)
            except EdgecnnError as error:
                self.failures.append(error)

        self.thread = threading.Thread(target=work)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(5)
        assert not self.thread.is_alive()

    def until(self, holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
        ends_s = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < ends_s, self.watch.status()
            time.sleep(0.005)


def test_a_model_slower_than_the_camera_sees_the_newest_frames_and_the_rest_is_counted() -> None:
    source, model, sink = FakeSource([forever()], period_s=0.02), BrightModel(takes_s=0.05), FakeSink()
    with Running(Watch(config(), model, source, [sink])) as running:
        running.until(lambda: len(sink.ages_s) >= 40)
        status = running.watch.status()

    gaps = np.diff(model.seen)
    assert status.skipped_count == pytest.approx(sum(gaps - 1), abs=3)
    assert gaps.mean() > 1.5
    # An age at decision of at most two periods and one invoke; the median, as others use this machine too.
    assert np.median(sink.ages_s) <= 2 * 0.02 + 0.05 + 0.01


def test_a_clip_played_fast_loses_no_frame_however_slow_the_model() -> None:
    source = FakeSource([times(50)], is_live=False, is_realtime=False)
    model = BrightModel(takes_s=0.002)
    watch = Watch(config(), model, source, [])

    watch.run(threading.Event())

    assert model.seen == list(range(50))
    assert (watch.status().state, watch.status().skipped_count, watch.status().age_ms) == ("ended", 0, None)


def test_a_fire_is_told_to_every_sink_with_one_id_and_the_wall_clock() -> None:
    sinks = [FakeSink(), FakeSink()]
    source = FakeSource([lambda: iter([grey(0)] * 3 + [grey(255)] * 3 + [grey(0)] * 3)], is_live=False)

    watch = Watch(config(), BrightModel(), source, sinks)
    watch.run(threading.Event())

    kinds = [(e.kind, e.incident_id) for e in sinks[0].events]
    assert [kind for kind, _ in kinds] == ["started", "ended"]
    assert len({one for _, one in kinds}) == 1
    assert sinks[0].events == sinks[1].events
    assert sinks[0].events[0].at_utc_s == pytest.approx(time.time(), abs=5)
    assert (watch.status().incidents_count, sinks[0].closed_count) == (1, 1)


def test_a_lost_source_is_told_once_and_comes_back_by_itself() -> None:
    sink = FakeSink()
    source = FakeSource([times(5), refused, refused, refused, refused, refused, forever()], period_s=0.005)
    with Running(Watch(config(), BrightModel(), source, [sink])) as running:
        running.until(lambda: running.watch.status().state == "source lost")
        lost = running.watch.status()
        running.until(lambda: running.watch.status().state == "watching")
        running.until(lambda: len(sink.events) == 2)
        found = running.watch.status()

    assert [(e.kind, e.label, e.score) for e in sink.events] == [
        ("camera", "lost", 1.0),
        ("camera", "lost", 0.0),
    ]
    assert len({e.incident_id for e in sink.events}) == 1
    assert [fault.name for fault in lost.faults] == ["source"]
    assert "Plug it in." in lost.faults[0].detail
    assert found.faults == ()


def test_a_blink_of_a_source_is_told_to_nobody() -> None:
    sink = FakeSink()
    source = FakeSource([times(5), refused, forever()], period_s=0.005)
    with Running(Watch(config(), BrightModel(), source, [sink])) as running:
        running.until(lambda: source.opened_count == 3 and running.watch.status().frames_count > 20)

    assert sink.events == []


def test_frame_numbers_go_on_rising_when_a_source_is_opened_again() -> None:
    model = BrightModel()
    source = FakeSource([times(5), forever()], period_s=0.005)
    with Running(Watch(config(), model, source, [])) as running:
        running.until(lambda: len(model.seen) > 20)

    assert (np.diff(model.seen) > 0).all()


def test_a_camera_that_never_was_there_is_waited_for() -> None:
    source = FakeSource([refused, refused, refused, forever()], period_s=0.005)
    with Running(Watch(config(), BrightModel(), source, [])) as running:
        running.until(lambda: running.watch.status().state == "watching")


def test_a_package_that_is_missing_is_not_waited_for() -> None:
    def missing() -> Iterator[Pixels]:
        raise MissingPackageError("There is no picamera2.", fix="Install it.")

    with pytest.raises(MissingPackageError):
        Watch(config(), BrightModel(), FakeSource([missing]), []).run(threading.Event())


def test_a_stream_that_stalls_and_one_that_dies_are_both_survived() -> None:
    camera, sink = MjpegServer(), FakeSink()
    settings = config(camera.url, stalled_after_s=1.0)
    with Running(Watch(settings, BrightModel(), open_source(settings.source), [sink])) as running:
        running.until(lambda: running.watch.status().frames_count > 3)
        camera.stalled.set()
        running.until(lambda: running.watch.status().state == "source lost")
        camera.stalled.clear()
        running.until(lambda: running.watch.status().state == "watching")
        camera.close()
        running.until(lambda: running.watch.status().state == "source lost")
        camera = MjpegServer(camera.port)
        running.until(lambda: running.watch.status().state == "watching")
    camera.close()

    assert [e.score for e in sink.events if e.label == "lost"] == [1.0, 0.0, 1.0, 0.0]


def test_a_sink_that_fails_gets_every_event_later_in_order_and_holds_up_nobody() -> None:
    bad, good = FakeSink(refuses=2), FakeSink()
    blinks = [grey(255 * (index // 3 % 2)) for index in range(18)]
    source = FakeSource([lambda: iter(blinks), forever()], period_s=0.01)
    with Running(Watch(config(), BrightModel(), source, [bad, good])) as running:
        running.until(lambda: running.watch.status().faults != ())
        fault = running.watch.status().faults[0]
        running.until(lambda: len(good.events) >= 4 and bad.events == good.events)
        after = running.watch.status().faults

    assert (fault.name, "No space left" in fault.detail) == ("fakesink", True)
    assert after == ()


def test_faults_that_a_sink_names_itself_are_shown() -> None:
    class Ill(FakeSink):
        def faults(self) -> tuple[Fault, ...]:
            return (Fault("mqtt", 5.0, "The broker is away."),)

    watch = Watch(config(), BrightModel(), FakeSource([times(1)], is_live=False), [Ill()])

    assert watch.status().faults == (Fault("mqtt", 5.0, "The broker is away."),)


def test_a_model_that_fails_on_a_frame_is_named_and_the_next_frame_is_tried() -> None:
    model = BrightModel(fails=True)
    with Running(Watch(config(), model, FakeSource([forever()]), [])) as running:
        running.until(lambda: [f.name for f in running.watch.status().faults] == ["camera degraded"])
        model.fails = False
        running.until(lambda: running.watch.status().frames_count > 0)
        assert running.watch.status().faults == ()


@pytest.mark.parametrize("how", ["raises", "gives no number"])
def test_people_are_told_of_a_model_that_fails_and_not_of_a_camera_that_is_lost(how: str) -> None:
    class Broken(BrightModel):
        def predict(self, frame: Frame) -> Prediction:
            found = super().predict(frame)
            return replace(found, heads={"fire": np.float32([0, np.nan])})

    sink = FakeSink()
    model = BrightModel(fails=True) if how == "raises" else Broken()
    with Running(
        Watch(config(stalled_after_s=0.4), model, FakeSource([forever()], period_s=0.2), [sink])
    ) as running:
        running.until(lambda: len(sink.events) > 0)
        time.sleep(1.0)
        assert running.watch.status().state != "source lost"

    assert [(e.kind, e.label) for e in sink.events] == [("camera", "degraded")]
    assert ("fell over" if how == "raises" else "no number") in sink.events[0].detail


def test_a_covered_lens_raises_an_event_of_its_own_and_no_fire_alarm() -> None:
    sink = FakeSink()
    watched = config(self_test=True)
    with Running(Watch(watched, BrightModel(), FakeSource([forever(255)], period_s=0.02), [sink])) as running:
        running.until(lambda: sink.events != [])
        fault = running.watch.status().faults[0].name

    assert [(e.kind, e.label) for e in sink.events] == [("camera", "over-exposed")]
    assert fault == "camera over-exposed"


def test_a_stop_ends_within_a_second_although_the_camera_hangs() -> None:
    def hangs() -> Iterator[Pixels]:
        yield grey(0)
        time.sleep(5)

    sink = FakeSink()
    with Running(Watch(config(), BrightModel(), FakeSource([hangs]), [sink])) as running:
        running.until(lambda: running.watch.status().frames_count == 1)
        running.stop.set()
        began_s = time.monotonic()
        running.thread.join(5)

    assert time.monotonic() - began_s < 1.5
    assert sink.closed_count == 1


def test_a_reload_changes_the_thresholds_and_keeps_the_alarm_that_lasts() -> None:
    sink = FakeSink()
    with Running(Watch(config(), BrightModel(), FakeSource([forever(200)]), [sink])) as running:
        running.until(lambda: len(sink.events) == 1)
        running.watch._is_other_model = lambda _: False  # type: ignore[method-assign]
        running.watch.reload(replace(config(), alarm=(replace(QUICK, on_score=0.9, off_score=0.85),)))
        running.until(lambda: len(sink.events) == 2)

    assert [e.kind for e in sink.events] == ["started", "ended"]
    assert len({e.incident_id for e in sink.events}) == 1


def test_a_reload_with_a_damaged_model_or_a_label_that_it_lacks_is_refused_and_the_old_one_goes_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tiny.tflite"
    tiny_models.write(path)
    red = AlarmPolicy("red")
    good = replace(config(), model=ModelConfig(path), alarm=(red,))
    model = load_model(good.model)
    with Running(Watch(good, model, FakeSource([forever(200)]), [])) as running:
        running.until(lambda: running.watch.status().frames_count > 0)
        with pytest.raises(RecipeError):
            running.watch.reload(replace(good, alarm=(AlarmPolicy("rad"),)))
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        with pytest.raises(BundleError):
            running.watch.reload(good)
        refused_status = running.watch.status()
        count = refused_status.frames_count
        running.until(lambda: running.watch.status().frames_count > count + 5)
        path.write_bytes(whole)
        running.watch.reload(good)

        assert running.watch.config == good
        assert [fault.name for fault in refused_status.faults] == ["reload"]
        assert running.watch.status().faults == ()


def test_a_box_with_a_trusted_key_watches_with_a_signed_model_only(tmp_path: Path) -> None:
    signature.new_keys(tmp_path / "maker")
    path = tiny_models.write(tmp_path / "tiny.tflite").path
    trusting = replace(ModelConfig(path), trusted_keys=tmp_path / "maker.pub")

    with pytest.raises(SignatureError, match="is not signed"):
        load_model(trusting)
    signature.sign(path, tmp_path / "maker.key", 1)

    assert load_model(trusting).sha256 == file.read(path).sha256


def test_a_reload_to_another_source_lets_go_of_the_first(tmp_path: Path) -> None:
    camera = MjpegServer()
    first, model = FakeSource([forever()]), BrightModel()
    with Running(Watch(config(), model, first, [])) as running:
        running.watch._is_other_model = lambda _: False  # type: ignore[method-assign]
        running.until(lambda: running.watch.status().frames_count > 0)
        running.watch.reload(config(camera.url))
        running.until(lambda: (running.watch.latest() or (None,))[0].source_id == camera.url)  # type: ignore[union-attr]
    camera.close()

    assert first.closed.is_set()


def test_the_rate_falls_when_frames_stop() -> None:
    source = FakeSource([times(40), hang_for_good])
    with Running(Watch(config(), BrightModel(), source, [])) as running:
        running.until(lambda: source.opened_count == 2)
        fast = running.watch.status().fps
        time.sleep(0.8)
        slow = running.watch.status().fps

    assert slow < 0.7 * fast


def hang_for_good() -> Iterator[Pixels]:
    time.sleep(2)
    yield grey(0)
