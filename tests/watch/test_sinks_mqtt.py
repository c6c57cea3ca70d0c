"""A broker, a real one, is told of everything."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import broker as brokers
import cv2
import numpy as np
import pytest
from broker import Broker, Listener, until

from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction, StageTimes
from edgecnn.errors import RecipeError
from edgecnn.watch.config import MqttConfig
from edgecnn.watch.sinks.feed import Feed
from edgecnn.watch.sinks.journal import Journal
from edgecnn.watch.sinks.mqtt import MqttSink, discovery


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with brokers.running(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    listener = Listener(broker.port)
    yield listener
    listener.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "state")
    yield journal
    journal.close()


@contextlib.contextmanager
def telling(journal: Journal, config: MqttConfig, password: str | None = None) -> Iterator[Feed]:
    def standing() -> tuple[dict[str, str], dict[str, str]]:
        return journal.open_alarms(), journal.open_camera_faults()

    sink = MqttSink(config, "yard", ["fire", "smoke"], password, standing)
    with contextlib.closing(Feed("mqtt", sink, journal)) as feed:
        yield feed


def here(port: int, **settings: object) -> MqttConfig:
    return MqttConfig("127.0.0.1", port, **settings)  # type: ignore[arg-type]


def shown(at_s: float, rgb: tuple[int, int, int]) -> tuple[Frame, Prediction]:
    frame = Frame(np.full((480, 1280, 3), rgb, np.uint8), at_s)
    return frame, Prediction({}, 0, at_s, StageTimes(0, 0, 0))


def fire(kind: str, incident_id: str = "a1") -> Event:
    return Event(kind, "fire", 5.0, 0.9, 50, incident_id)  # type: ignore[arg-type]


def test_events_arrive_in_order_and_the_state_follows_them(
    broker: Broker, listener: Listener, journal: Journal
) -> None:
    with telling(journal, here(broker.port)) as feed:
        journal.on_event(fire("started"))
        assert until(lambda: feed.is_caught_up)
        assert until(lambda: b'"fire": "ON"' in listener.last("/state"))
        journal.on_event(fire("ended"))

        assert until(lambda: b'"fire": "OFF"' in listener.last("/state"))
        assert until(lambda: len(listener.of("yard/events")) == 2)

    events = [message.json for message in listener.of("edgecnn/yard/events")]
    assert [event["kind"] for event in events] == ["started", "ended"]
    assert [event["id"] for event in events] == [entry.event.event_id for entry in journal.after(0)]


def test_the_picture_of_an_alarm_is_a_jpeg_that_stays(
    broker: Broker, listener: Listener, journal: Journal
) -> None:
    with telling(journal, here(broker.port)) as feed:
        feed.on_prediction(*shown(5.0, (200, 10, 10)))
        journal.on_event(fire("started"))
        assert until(lambda: listener.of("/snapshot"))
        # An hour later the broker hears of a fire of then: what is to be seen now is no picture of it.
        feed.on_prediction(*shown(3605.0, (10, 10, 200)))
        journal.on_event(fire("started", "a2"))
        assert until(lambda: feed.is_caught_up and len(listener.of("/events")) == 2)

    late = Listener(broker.port, "+/yard/snapshot", name="late")
    with contextlib.closing(late):
        assert until(lambda: late.messages)
        pixels = cv2.imdecode(np.frombuffer(late.messages[0].payload, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert late.messages[0].is_retained
    assert pixels.shape == (240, 640, 3)
    assert np.abs(pixels[120, 320].astype(int) - (200, 10, 10)).max() < 8


def test_home_assistant_finds_an_alarm_for_each_label_a_camera_and_its_faults(
    broker: Broker, listener: Listener, journal: Journal
) -> None:
    with telling(journal, here(broker.port)):
        assert until(lambda: len(listener.of("/config")) == 4)

    said = {message.topic: message.json for message in listener.of("/config")}
    smoke = said["homeassistant/binary_sensor/edgecnn_yard_smoke/config"]
    assert smoke["device_class"] == "smoke"
    assert smoke["value_template"] == '{{ value_json.alarms["smoke"] }}'
    assert smoke["state_topic"] == "edgecnn/yard/state"
    assert said["homeassistant/camera/edgecnn_yard_snapshot/config"]["topic"] == "edgecnn/yard/snapshot"
    assert len({one["unique_id"] for one in said.values()}) == 4


@pytest.mark.parametrize("device", ["yard.2", "küche"])
def test_home_assistant_takes_every_topic_whatever_a_camera_is_called(device: str) -> None:
    topics = discovery("edgecnn", device, ["fire", "open flame"])

    refused = [t for t in topics if not re.fullmatch(r"homeassistant/\w+/[a-zA-Z0-9_-]+/config", t)]
    assert refused == []


def test_cameras_and_labels_in_another_script_are_told_apart_in_home_assistant() -> None:
    topics = [
        topic for device in ("厨房", "花园") for topic in discovery("edgecnn", device, ["火灾", "烟雾"])
    ]

    assert len(set(topics)) == 2 * 4


def test_events_of_a_time_without_broker_arrive_in_order_when_it_is_back(
    broker: Broker, listener: Listener, journal: Journal
) -> None:
    with telling(journal, here(broker.port)) as feed:
        journal.on_event(fire("started", "before"))
        assert until(lambda: listener.of("/events"))
        broker.stop()
        for number in range(20):
            journal.on_event(fire("ended", f"a{number}"))
        assert until(lambda: feed.fault() is not None)
        fault = feed.fault()
        broker.start()
        began_s = time.monotonic()
        assert until(lambda: feed.is_caught_up, 15)
        took_s = time.monotonic() - began_s
        assert until(lambda: len(listener.of("/events")) >= 21)

    heard = [message.json["incident_id"] for message in listener.of("/events")]
    assert list(dict.fromkeys(heard)) == ["before", *(f"a{n}" for n in range(20))]
    assert fault is not None
    assert f"127.0.0.1:{broker.port}" in fault.detail
    assert took_s < 10


def test_a_killed_watch_is_said_to_be_offline_and_a_stopped_one_too(
    broker: Broker, listener: Listener, journal: Journal
) -> None:
    program = (
        "import sys, time; from edgecnn.watch.config import MqttConfig\n"
        "from edgecnn.watch.sinks.mqtt import MqttSink\n"
        "sink = MqttSink(MqttConfig('127.0.0.1', int(sys.argv[1])), 'shed', [], None, lambda: ({}, {}))\n"
        "time.sleep(60)\n"
    )
    with telling(journal, here(broker.port)):
        assert until(lambda: listener.last("yard/available") == b"online")
    child = subprocess.Popen([sys.executable, "-c", program, str(broker.port)])
    assert until(lambda: listener.last("shed/available") == b"online", 30)

    os.kill(child.pid, signal.SIGKILL)
    child.wait()

    assert until(lambda: listener.last("yard/available") == b"offline")
    assert until(lambda: listener.last("shed/available") == b"offline")


def test_a_wrong_password_is_named_and_a_right_one_over_tls_is_taken(
    tmp_path: Path, journal: Journal
) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    certificate, key, passwords = folder / "c.pem", folder / "k.pem", folder / "passwords"
    for command in (
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        ["mosquitto_passwd", "-b", "-c", str(passwords), "camera", "right"],
    ):  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
    for file in (certificate, key, passwords):
        file.chmod(0o644)
    settings = f"allow_anonymous false\npassword_file {passwords}\ncertfile {certificate}\nkeyfile {key}\n"
    with brokers.running(folder, settings) as broker:
        config = here(broker.port, username="camera", tls=True, ca_file=certificate)
        journal.register("mqtt")
        journal.on_event(fire("started"))
        with telling(journal, config, "wrong") as feed:
            assert until(lambda: feed.fault() is not None and "authori" in feed.fault().detail)  # type: ignore[union-attr]
        with telling(journal, config, "right") as feed:
            assert until(lambda: feed.is_caught_up)
            assert feed.fault() is None


def test_certificates_that_are_none_are_refused_at_the_start(tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")

    with (
        pytest.raises(RecipeError, match=r"ca\.pem"),
        telling(journal, here(1, tls=True, ca_file=tmp_path / "ca.pem")),
    ):
        pass


def test_a_broker_that_does_not_answer_holds_up_no_end_of_the_program(journal: Journal) -> None:
    with brokers.mute_server() as port, telling(journal, here(port)):
        journal.on_event(fire("started"))
        time.sleep(0.3)
        began_s = time.monotonic()

    assert time.monotonic() - began_s < 2
