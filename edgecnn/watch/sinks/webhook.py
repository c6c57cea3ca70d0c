"""Tells a web server of every event, signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from typing import IO, Final
from urllib.parse import urlsplit

from edgecnn import __version__
from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction
from edgecnn.errors import RecipeError
from edgecnn.watch.config import WebhookConfig
from edgecnn.watch.sinks.feed import Refused, Undelivered
from edgecnn.watch.sinks.payload import describe

_NEVER: Final = (400, 405, 406, 410, 411, 413, 414, 415, 422)
"""Answers after which the same request will never be taken; RFC 9110. All others may pass."""


class WebhookSink:
    """One POST an event, of JSON, until the server answers 2xx.

    Args:
        config: Where to.
        device: Who says it.
        secret: Key of the signature; empty for none.
        utc_s: The wall clock, for the time of the request.

    Raises:
        RecipeError: If the address is none.
    """

    def __init__(
        self, config: WebhookConfig, device: str, secret: str, utc_s: Callable[[], float] = time.time
    ) -> None:
        parts = urlsplit(config.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RecipeError(
                f"webhook.url is '{config.url}', not the address of a web server.",
                fix="Write it as https://host/path.",
            )
        self._config, self._device, self._key, self._utc_s = config, device, signing_key(secret), utc_s
        self._where = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
        self._opener = urllib.request.build_opener(_NoRedirect)

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        """Do nothing: only events are told."""

    def on_event(self, event: Event) -> None:
        """Tell one event.

        Raises:
            Undelivered: If the server was not reached or may take it later.
            Refused: If the server will never take it.
        """
        body = json.dumps(describe(event, self._device)).encode()
        moment = str(int(self._utc_s()))
        headers = {
            "content-type": "application/json",
            "user-agent": f"edgecnn/{__version__}",
            "webhook-id": event.event_id,
            "webhook-timestamp": moment,
        }
        if self._key:
            headers["webhook-signature"] = sign(self._key, event.event_id, moment, body)
        request = urllib.request.Request(self._config.url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._config.timeout_s):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            kind = Refused if error.code in _NEVER else Undelivered
            raise kind(
                f"The webhook at {self._where} answered {error.code} {error.reason}.",
                fix="Check webhook.url, its key, and the log of that server.",
            ) from error
        except (OSError, ValueError) as error:  # refused, no route, no name, too slow, no HTTP
            raise Undelivered(
                f"The webhook at {self._where} was not reached: {getattr(error, 'reason', error)}.",
                fix="Check webhook.url and the network; the event waits.",
            ) from error

    def close(self) -> None:
        """Do nothing: no connection is kept."""


def signing_key(secret: str) -> bytes:
    """Turn a secret into the key: ``whsec_`` and base64, or any other text as it is.

    Source:
        Standard Webhooks specification, "Signature scheme".

    Example:
        >>> signing_key("whsec_aGVsbG8="), signing_key("hello")
        (b'hello', b'hello')
    """
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret[len("whsec_") :], validate=True)
    except ValueError as error:
        raise RecipeError(
            "The secret of the webhook starts with 'whsec_' and goes on with what is no base64.",
            fix="Copy it again, whole.",
        ) from error


def sign(key: bytes, event_id: str, timestamp: str, body: bytes) -> str:
    """Sign a message so that its receiver knows who sent it, when, and that nobody changed it.

    Source:
        Standard Webhooks specification: ``v1,`` and the base64 of HMAC-SHA256 over
        ``id.timestamp.body``. The expected value of the example is the one of its reference tests.

    Example:
        >>> key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        >>> sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
        'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    digest = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is sent elsewhere becomes a GET without its body: better to say so."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None
