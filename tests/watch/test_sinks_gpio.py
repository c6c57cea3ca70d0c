"""The siren and the LED, through gpiozero's own mock pins."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import pytest
from broker import until

from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction, StageTimes
from edgecnn.errors import MissingPackageError, RuntimeFault
from edgecnn.watch.config import GpioConfig
from edgecnn.watch.mute import Mute
from edgecnn.watch.sinks.gpio import GpioSink

gpiozero = pytest.importorskip("gpiozero")
FRAME = Frame(np.zeros((2, 2, 3), np.uint8), 0.0)
PREDICTION = Prediction({}, 0, 0.0, StageTimes(0, 0, 0))


@pytest.fixture
def pins(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    from gpiozero.pins.mock import MockFactory

    factory = MockFactory()
    monkeypatch.setattr(gpiozero.Device, "pin_factory", factory)
    yield factory
    factory.reset()


def event(kind: str, incident_id: str = "a1", detail: str = "") -> Event:
    return Event(kind, "fire", 5.0, 0.9, 50, incident_id, detail)  # type: ignore[arg-type]


def test_the_siren_sounds_until_the_last_alarm_has_ended(pins) -> None:
    with contextlib.closing(GpioSink(GpioConfig(siren_pin=17))) as sink:
        siren = pins.pin(17)
        states = []
        for one in (event("started"), event("started", "a2"), event("ended"), event("ended", "a2")):
            sink.on_event(one)
            states.append(siren.state)

    assert states == [1, 1, 1, 0]


def test_the_siren_is_silent_for_an_alarm_that_was_acknowledged_and_sounds_for_the_next(pins) -> None:
    with contextlib.closing(GpioSink(GpioConfig(siren_pin=17))) as sink:
        siren = pins.pin(17)
        states = []
        for one in (
            event("started"),
            event("updated", detail="acknowledged"),
            event("updated"),
            event("started", "a2"),
        ):
            sink.on_event(one)
            states.append(siren.state)

    assert states == [1, 0, 0, 1]


def test_a_muted_siren_sounds_again_when_the_time_is_over(pins) -> None:
    mute = Mute()
    with contextlib.closing(GpioSink(GpioConfig(siren_pin=17), lambda: bool(mute))) as sink:
        siren = pins.pin(17)
        sink.on_event(event("started"))
        mute.mute(0.6)

        assert until(lambda: siren.state == 0, 1)
        assert until(lambda: siren.state == 1, 2)


def test_a_camera_that_cannot_be_trusted_sounds_no_siren(pins) -> None:
    with contextlib.closing(GpioSink(GpioConfig(siren_pin=17))) as sink:
        sink.on_event(Event("camera", "dark", 5.0, 1.0, 50, "c1"))

        assert pins.pin(17).state == 0


def test_the_light_shines_while_frames_are_looked_at_and_blinks_in_an_alarm(pins) -> None:
    with contextlib.closing(GpioSink(GpioConfig(led_pin=27))) as sink:
        light = pins.pin(27)
        before = light.state
        sink.on_prediction(FRAME, PREDICTION)
        assert until(lambda: light.state == 1, 2)
        sink.on_event(event("started"))

        assert before == 0
        assert until(lambda: light.state == 0, 2)
        assert until(lambda: light.state == 1, 2)


def test_the_light_goes_out_when_no_frame_comes(pins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.watch.sinks.gpio.DARK_AFTER_S", 0.3)
    with contextlib.closing(GpioSink(GpioConfig(led_pin=27))) as sink:
        light = pins.pin(27)
        sink.on_prediction(FRAME, PREDICTION)
        assert until(lambda: light.state == 1, 1)

        assert until(lambda: light.state == 0, 2)


def test_everything_is_off_when_the_watch_ends(pins) -> None:
    sink = GpioSink(GpioConfig(siren_pin=17, led_pin=27))
    siren, light = pins.pin(17), pins.pin(27)
    sink.on_event(event("started"))
    sink.close()
    sink.close()
    time.sleep(0.3)

    # A pin that was let go is an input again: nothing drives the siren.
    assert (siren.function, light.function) == ("input", "input")


def test_a_machine_without_pins_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        contextlib.closing(gpiozero.OutputDevice(17, pin_factory=_factory(monkeypatch))),
        pytest.raises(RuntimeFault, match="17"),
    ):
        GpioSink(GpioConfig(siren_pin=17))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gpiozero", None)

    with pytest.raises(MissingPackageError, match="gpiozero"):
        GpioSink(GpioConfig(siren_pin=17))


def _factory(monkeypatch: pytest.MonkeyPatch) -> object:
    from gpiozero.pins.mock import MockFactory

    factory = MockFactory()
    monkeypatch.setattr(gpiozero.Device, "pin_factory", factory)
    return factory
