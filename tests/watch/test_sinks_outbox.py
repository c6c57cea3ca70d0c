"""All sinks together: the journal first, each of the others in its own time."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import broker as brokers
import numpy as np
import pytest
import webhook_receiver
from broker import Broker, Listener, until
from webhook_receiver import Receiver

from edgecnn.core.alarm import AlarmPolicy, Event
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction, StageTimes
from edgecnn.errors import RecipeError
from edgecnn.watch.config import (
    ClipConfig,
    Config,
    GpioConfig,
    JournalConfig,
    ModelConfig,
    MqttConfig,
    SourceConfig,
    WebhookConfig,
)
from edgecnn.watch.sinks.outbox import Outbox
from edgecnn.watch.sinks.terminal import TerminalSink

PREDICTION = Prediction({}, 0, 0.0, StageTimes(0, 0, 0))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        "yard",
        ModelConfig(tmp_path / "fire.tflite"),
        SourceConfig("0"),
        (AlarmPolicy("fire"),),
        JournalConfig(tmp_path / "state"),
    )


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with brokers.running(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver.running() as receiver:
        yield receiver


def fire(kind: str, incident_id: str = "a1", at_s: float = 1.0) -> Event:
    return Event(kind, "fire", at_s, 0.9, 50, incident_id)  # type: ignore[arg-type]


def test_broker_web_server_and_clip_are_told_by_the_same_ids(
    config: Config, broker: Broker, receiver: Receiver
) -> None:
    config = replace(
        config,
        mqtt=MqttConfig("127.0.0.1", broker.port),
        webhook=WebhookConfig(receiver.url),
        clips=ClipConfig(pre_roll_s=0.5, post_roll_s=0.5),
    )
    listener = Listener(broker.port)
    with contextlib.closing(listener), contextlib.closing(Outbox(config)) as outbox:
        for number in range(30):
            outbox.on_prediction(Frame(np.full((48, 64, 3), 90, np.uint8), number / 10, number), PREDICTION)
            time.sleep(0.01)
            if number == 10:
                outbox.on_event(fire("started"))
        outbox.on_event(fire("ended"))
        ids = [entry.event.event_id for entry in outbox.journal.after(0)]

        assert until(lambda: [m.json["id"] for m in listener.of("/events")] == ids)
        assert until(lambda: [r.json["id"] for r in receiver.requests] == ids)
        assert until(lambda: outbox.journal.incident("a1").snapshot is not None)  # type: ignore[union-attr]
        assert until(lambda: outbox.journal.incident("a1").clip is not None)  # type: ignore[union-attr]


def test_a_sink_that_is_stuck_holds_up_no_other(config: Config) -> None:
    with contextlib.ExitStack() as stack:
        stuck = WebhookConfig(
            f"http://127.0.0.1:{stack.enter_context(brokers.mute_server())}/", timeout_s=30.0
        )
        outbox = Outbox(replace(config, webhook=stuck), extra={"other": Ear()})
        stack.callback(outbox.close)
        began_s = time.monotonic()
        outbox.on_event(fire("started"))
        took_s = time.monotonic() - began_s
        ear = outbox._feeds["other"].sink

        assert until(lambda: ear.heard == ["started"], 2)  # type: ignore[attr-defined]
        assert took_s < 0.5
        ends_s = time.monotonic()
        outbox.close()

        assert time.monotonic() - ends_s < 2


def test_a_reload_tells_the_new_place_and_no_longer_the_old_one(config: Config, receiver: Receiver) -> None:
    with (
        webhook_receiver.running() as other,
        contextlib.closing(Outbox(replace(config, webhook=WebhookConfig(receiver.url)))) as outbox,
    ):
        outbox.on_event(fire("started"))
        assert until(lambda: len(receiver.requests) == 1)
        outbox.reload(replace(config, webhook=WebhookConfig(other.url)))
        outbox.on_event(fire("ended"))
        assert until(lambda: len(other.requests) == 1)
        outbox.reload(config)
        outbox.on_event(fire("started", "a2"))
        time.sleep(0.2)

    assert [r.json["kind"] for r in receiver.requests] == ["started"]
    assert [r.json["kind"] for r in other.requests] == ["ended"]


def test_a_camera_whose_labels_change_stays_available_to_the_broker(config: Config, broker: Broker) -> None:
    config = replace(config, mqtt=MqttConfig("127.0.0.1", broker.port))
    listener = Listener(broker.port)
    with contextlib.closing(listener), contextlib.closing(Outbox(config)) as outbox:
        assert until(lambda: listener.last("/available") == b"online")
        outbox.reload(replace(config, alarm=(AlarmPolicy("fire"), AlarmPolicy("smoke"))))
        assert until(lambda: b"smoke" in listener.last("/state"))
        time.sleep(0.5)

        assert listener.last("/available") == b"online"


def test_a_reload_that_is_wrong_changes_nothing(config: Config, receiver: Receiver) -> None:
    pytest.importorskip("gpiozero")
    good = replace(config, webhook=WebhookConfig(receiver.url), clips=ClipConfig())
    bad = replace(
        good,
        webhook=WebhookConfig(receiver.url + "/other"),
        clips=ClipConfig(pre_roll_s=1.0),
        gpio=GpioConfig(siren_pin=99),
    )
    with contextlib.closing(Outbox(good)) as outbox:
        with pytest.raises(Exception, match="99"):
            outbox.reload(bad)
        outbox.on_event(fire("started"))

        assert until(lambda: len(receiver.requests) == 1)
        assert outbox.faults() == ()
        assert set(outbox._feeds) == {"webhook", "clips"}


def test_who_cannot_be_brought_back_is_a_fault_until_a_reload_brings_him_back(
    config: Config, receiver: Receiver, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    good = replace(config, webhook=WebhookConfig(receiver.url, secret_file=key))
    with contextlib.closing(Outbox(good)) as outbox:
        key.unlink()
        with pytest.raises(RecipeError, match="misspelt"):
            outbox.reload(
                replace(config, webhook=WebhookConfig(receiver.url, secret_file=tmp_path / "misspelt"))
            )
        (fault,) = outbox.faults()
        key.write_text("secret")
        outbox.reload(good)
        outbox.on_event(fire("started"))

        assert (fault.name, "not told any more" in fault.detail) == ("webhook", True)
        assert until(lambda: len(receiver.requests) == 1)
        assert outbox.faults() == ()


def test_a_secret_that_is_not_where_it_should_be_is_named_at_the_start(config: Config) -> None:
    config = replace(config, webhook=WebhookConfig("https://fire.example/", secret_env="EDGECNN_NO_SUCH"))

    with pytest.raises(RecipeError, match="EDGECNN_NO_SUCH"):
        Outbox(config)

    with contextlib.closing(Outbox(replace(config, webhook=None))):
        pass  # the journal was let go


def test_the_terminal_shows_a_line_an_event(config: Config) -> None:
    stream = io.StringIO()
    with contextlib.closing(Outbox(config, extra={"terminal": TerminalSink(stream)})) as outbox:
        outbox.on_event(fire("started"))
        outbox.on_event(Event("camera", "dark", 2.0, 1.0, 60, "c1", "The picture is dark."))

        assert until(lambda: stream.getvalue().count("\n") == 2)

    first, second = stream.getvalue().splitlines()
    assert first.endswith("fire: started, score 0.90, incident a1")
    assert second.endswith("camera: dark, incident c1 (The picture is dark)")


class Ear:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        pass

    def on_event(self, event: Event) -> None:
        self.heard.append(event.kind)

    def close(self) -> None:
        pass
