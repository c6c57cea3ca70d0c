"""Tells an MQTT broker, and through it Home Assistant."""

from __future__ import annotations

import contextlib
import hashlib
import json
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import cv2
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edgecnn import __version__
from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction
from edgecnn.errors import RecipeError
from edgecnn.watch.config import MqttConfig
from edgecnn.watch.sinks.feed import Undelivered
from edgecnn.watch.sinks.payload import describe

ANSWER_S: Final = 5.0
"""How long a broker may take to confirm an event before it counts as gone."""

_KEEP_ALIVE_S: Final = 10
"""A broker that says nothing for one and a half times as long is gone; MQTT 3.1.1, 3.1.2.10."""

_RECONNECT_S: Final = 4
_CONNECT_S: Final = 3.0
_GOODBYE_S: Final = 0.3
_PICTURE_PX: Final = 640
_PICTURE_WITHIN_S: Final = 2.0
"""A frame so long after the one that raised an alarm still shows it."""

Standing = Callable[[], tuple[Mapping[str, str], Mapping[str, str]]]
"""Gives the incident that lasts by label, of the alarms and of the camera's faults."""


class MqttSink:
    """Publishes every event, how things stand, and the picture of an alarm.

    ==========================================  ==================================================
    ``<prefix>/<device>/available``             ``online``, or by last will ``offline``; retained
    ``<prefix>/<device>/events``                every event once confirmed, in order; QoS 1
    ``<prefix>/<device>/state``                 how things stand now; retained
    ``<prefix>/<device>/snapshot``              JPEG of the last alarm; retained
    ``homeassistant/.../config``                discovery of the alarms, the camera and its faults; retained
    ==========================================  ==================================================

    Args:
        config: Which broker.
        device: Which camera.
        labels: Those with an alarm.
        password: For ``config.username``; None for none.
        standing: What lasts now.

    Raises:
        RecipeError: If the certificates cannot be used.
    """

    def __init__(
        self,
        config: MqttConfig,
        device: str,
        labels: Sequence[str],
        password: str | None,
        standing: Standing,
    ) -> None:
        self._config, self._device, self._labels, self._standing = config, device, labels, standing
        self._topic = f"{config.topic_prefix}/{device}"
        self._frame: Frame | None = None
        self._problem = "no connection yet"
        self._in_flight: tuple[str, paho.MQTTMessageInfo] | None = None
        self._client = _client(config, device, password)
        self._client.will_set(f"{self._topic}/available", "offline", qos=1, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.connect_async(config.host, config.port, keepalive=_KEEP_ALIVE_S)
        self._client.loop_start()
        self._is_closed = False

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        """Keep the newest frame, for the picture of an alarm."""
        self._frame = frame

    def on_event(self, event: Event) -> None:
        """Publish one event and wait until the broker has it.

        Raises:
            Undelivered: If it has not confirmed; the event is asked for again, not sent again.
        """
        if not self._client.is_connected():
            raise self._undelivered(self._problem)
        if self._in_flight is None or self._in_flight[0] != event.event_id:
            said = json.dumps(describe(event, self._device))
            self._in_flight = event.event_id, self._client.publish(f"{self._topic}/events", said, qos=1)
        info = self._in_flight[1]
        try:
            info.wait_for_publish(ANSWER_S)
            is_there = info.is_published()
        except (RuntimeError, ValueError) as error:  # paho dropped it
            self._in_flight = None
            raise self._undelivered(str(error)) from error
        if not is_there:
            raise self._undelivered(f"it did not confirm within {ANSWER_S:g} s")
        self._in_flight = None
        self._publish_state()
        if event.kind in ("started", "updated"):
            self._publish_picture(event)

    def close(self) -> None:
        """Say goodbye and let go; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._client.is_connected():
            goodbye = self._client.publish(f"{self._topic}/available", "offline", qos=1, retain=True)
            with contextlib.suppress(RuntimeError, ValueError):  # then the last will says it
                goodbye.wait_for_publish(_GOODBYE_S)
        self._client.disconnect()
        # The thread may be waiting for an address that does not answer: nobody waits for that.
        ending = threading.Thread(target=self._client.loop_stop, name="mqtt-end", daemon=True)
        ending.start()
        ending.join(_GOODBYE_S)

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._problem = f"it answered '{reason}'"
            return
        for topic, said in discovery(self._config.topic_prefix, self._device, self._labels).items():
            client.publish(topic, json.dumps(said), qos=1, retain=True)
        self._publish_state()
        client.publish(f"{self._topic}/available", "online", qos=1, retain=True)

    def _on_connect_fail(self, _client: paho.Client, _data: Any) -> None:
        self._problem = "it was not reached"

    def _on_disconnect(
        self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if not self._problem.startswith("it answered") or not reason.is_failure:
            self._problem = f"the connection is gone ({reason})"

    def _publish_state(self) -> None:
        said = state(self._labels, *self._standing())
        self._client.publish(f"{self._topic}/state", json.dumps(said), qos=1, retain=True)

    def _publish_picture(self, event: Event) -> None:
        """Show the alarm; of an event that waited for the broker no picture is better than another one."""
        if self._frame is not None and 0 <= self._frame.captured_at_s - event.at_s < _PICTURE_WITHIN_S:
            self._client.publish(f"{self._topic}/snapshot", _jpeg(self._frame), qos=0, retain=True)

    def _undelivered(self, why: str) -> Undelivered:
        return Undelivered(
            f"The broker {self._config.host}:{self._config.port} does not take events: {why}.",
            fix="Check [mqtt] and the broker; events wait in the journal.",
        )


def state(
    labels: Sequence[str], alarms: Mapping[str, str], camera_faults: Mapping[str, str]
) -> dict[str, Any]:
    """Say how things stand, in the words of Home Assistant's binary sensors.

    Example:
        >>> state(["fire", "smoke"], {"fire": "a1"}, {})["alarms"]
        {'fire': 'ON', 'smoke': 'OFF'}
    """
    return {
        "alarms": {label: "ON" if label in alarms else "OFF" for label in labels},
        "incidents": dict(alarms),
        "camera": "ON" if camera_faults else "OFF",
        "camera_faults": sorted(camera_faults),
    }


def discovery(prefix: str, device: str, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Describe the camera so that Home Assistant shows it by itself.

    Source:
        Home Assistant, "MQTT discovery": ``<prefix>/<component>/<object_id>/config``; components
        ``binary_sensor`` (device classes ``smoke``, ``problem``) and ``camera``; an ``object_id`` is made
        of ``[a-zA-Z0-9_-]``.

    Returns:
        What to publish, by topic.
    """
    base, camera = f"{prefix}/{device}", f"edgecnn_{_slug(device)}"
    common = {
        "availability_topic": f"{base}/available",
        "device": {
            "identifiers": [f"edgecnn_{device}"],
            "name": device,
            "manufacturer": "edgecnn",
            "sw_version": __version__,
        },
    }

    def sensor(name: str, template: str, kind: str) -> dict[str, Any]:
        return {
            **common,
            "name": name,
            "unique_id": f"edgecnn_{device}_{_slug(name)}",
            "device_class": kind,
            "state_topic": f"{base}/state",
            "value_template": template,
            "json_attributes_topic": f"{base}/state",
        }

    said = {
        f"homeassistant/binary_sensor/{camera}_{_slug(label)}/config": sensor(
            label, f"{{{{ value_json.alarms[{json.dumps(label)}] }}}}", "smoke"
        )
        for label in labels
    }
    said[f"homeassistant/binary_sensor/{camera}_camera_fault/config"] = sensor(
        "camera fault", "{{ value_json.camera }}", "problem"
    )
    said[f"homeassistant/camera/{camera}_snapshot/config"] = {
        **common,
        "name": "snapshot",
        "unique_id": f"edgecnn_{device}_snapshot",
        "topic": f"{base}/snapshot",
    }
    return said


def _client(config: MqttConfig, device: str, password: str | None) -> paho.Client:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"edgecnn-{device}")
    client.connect_timeout = _CONNECT_S
    client.reconnect_delay_set(1, _RECONNECT_S)
    if config.username:
        client.username_pw_set(config.username, password)
    if config.tls:
        try:
            client.tls_set_context(ssl.create_default_context(cafile=config.ca_file))
        except (OSError, ssl.SSLError) as error:
            raise RecipeError(
                f"The certificates in '{config.ca_file}' cannot be used: {error}.",
                fix="Set mqtt.ca_file to a PEM file, or leave it out to trust the system's.",
            ) from error
    return client


def _slug(text: str) -> str:
    """Keep what Home Assistant allows in an id: letters, digits, ``_`` and ``-``.

    Example:
        >>> _slug("yard.2"), _slug("küche")
        ('yard_2', 'k_che_d4b04d03')
    """
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in text)
    # Of a name in another script nothing would tell it from the next one of the same length.
    return kept if text.isascii() else f"{kept}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _jpeg(frame: Frame) -> bytes:
    pixels = frame.pixels_rgb
    height, width = pixels.shape[:2]
    if width > _PICTURE_PX:
        size = (_PICTURE_PX, max(1, round(height * _PICTURE_PX / width)))
        resized = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    else:
        resized = pixels
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(resized, cv2.COLOR_RGB2BGR))[1].tobytes())
