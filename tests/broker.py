"""A real MQTT broker on a free port, and someone who listens to it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def until(is_so: Callable[[], Any], seconds: float = 10.0) -> bool:
    """Wait for something that happens elsewhere."""
    ends_at_s = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > ends_at_s:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def mute_server() -> Iterator[int]:
    """Open a port at which someone listens and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


@dataclass
class Broker:
    """Mosquitto; what it was told to keep outlives a stop."""

    folder: Path
    port: int = field(default_factory=free_port)
    settings: str = "allow_anonymous true\n"
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.skip("needs the broker: apt install mosquitto")
        self.folder.mkdir(parents=True, exist_ok=True)
        text = f"listener {self.port} 127.0.0.1\npersistence true\npersistence_location {self.folder}/\n"
        # Started by root, mosquitto would become a user who may not read this folder; else it ignores this.
        text += "user root\nmax_queued_messages 0\n" + self.settings
        config = self.folder / "mosquitto.conf"
        config.write_text(text)
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
        if not until(self._listens, 20):
            self.stop()
            raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


@dataclass
class Message:
    topic: str
    payload: bytes
    is_retained: bool

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


class Listener:
    """A subscriber that the broker remembers, and that comes back after the broker does."""

    def __init__(self, port: int, topics: str = "#", name: str = "listener") -> None:
        self.messages: list[Message] = []
        self.is_ready = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda *_: self.client.subscribe(topics, qos=1)
        self.client.on_subscribe = lambda *_: self.is_ready.set()
        self.client.on_message = self._on_message
        self.client.connect_async("127.0.0.1", port, keepalive=5)
        self.client.loop_start()
        assert self.is_ready.wait(20)

    def of(self, ending: str) -> list[Message]:
        return [message for message in tuple(self.messages) if message.topic.endswith(ending)]

    def last(self, ending: str) -> bytes:
        found = self.of(ending)
        return found[-1].payload if found else b""

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.messages.append(Message(message.topic, bytes(message.payload), message.retain))


@contextlib.contextmanager
def running(folder: Path, settings: str = "allow_anonymous true\n") -> Iterator[Broker]:
    broker = Broker(folder, settings=settings)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
