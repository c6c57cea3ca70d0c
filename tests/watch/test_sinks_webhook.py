"""A web server, a real one, is told of every event and can tell who said it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webhook_receiver
from broker import free_port, until
from webhook_receiver import Receiver

from edgecnn.core.alarm import Event
from edgecnn.errors import RecipeError
from edgecnn.watch.config import WebhookConfig
from edgecnn.watch.sinks.feed import Feed
from edgecnn.watch.sinks.journal import Journal
from edgecnn.watch.sinks.webhook import WebhookSink

SECRET = "whsec_" + base64.b64encode(b"a key of some length").decode()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path)
    with contextlib.closing(journal):
        yield journal


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver.running() as receiver:
        yield receiver


@contextlib.contextmanager
def telling(journal: Journal, url: str, timeout_s: float = 5.0) -> Iterator[Feed]:
    sink = WebhookSink(WebhookConfig(url, timeout_s=timeout_s), "yard", SECRET)
    with contextlib.closing(Feed("webhook", sink, journal)) as feed:
        yield feed


def fire(incident_id: str) -> Event:
    return Event("started", "fire", 5.0, 0.9, 50, incident_id, box=(0.1, 0.2, 0.3, 0.4))


def test_the_receiver_can_check_that_nobody_changed_the_message(journal: Journal, receiver: Receiver) -> None:
    with telling(journal, receiver.url) as feed:
        journal.on_event(fire("a1"))
        assert until(lambda: feed.is_caught_up)

    request = receiver.requests[0]
    event_id, moment = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    signed = f"{event_id}.{moment}.".encode() + request.body
    expected = base64.b64encode(hmac.digest(b"a key of some length", signed, hashlib.sha256)).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert request.json["id"] == event_id
    assert (request.json["incident_id"], request.json["box"]) == ("a1", [0.1, 0.2, 0.3, 0.4])


def test_the_lines_in_the_docs_know_a_genuine_message_from_a_forged_one(
    journal: Journal, receiver: Receiver
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sinks.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(lines, names)
    with telling(journal, receiver.url) as feed:
        journal.on_event(fire("a1"))
        assert until(lambda: feed.is_caught_up)
    request = receiver.requests[0]

    genuine = names["is_genuine"](request.headers, request.body, b"a key of some length")
    forged = names["is_genuine"](request.headers, request.body + b" ", b"a key of some length")

    assert (genuine, forged) == (True, False)


def test_an_event_is_sent_again_until_the_server_takes_it(journal: Journal, receiver: Receiver) -> None:
    receiver.answers[:] = [500, 429, 302]
    with telling(journal, receiver.url) as feed:
        journal.on_event(fire("a1"))
        journal.on_event(fire("a2"))
        assert until(lambda: feed.is_caught_up)

    assert [r.json["incident_id"] for r in receiver.requests] == ["a1", "a1", "a1", "a1", "a2"]
    assert len({r.headers["webhook-id"] for r in receiver.requests}) == 2


def test_an_event_that_the_server_will_never_take_holds_up_no_other_and_is_named(
    journal: Journal, receiver: Receiver
) -> None:
    receiver.answers[:] = [422]
    with telling(journal, receiver.url) as feed:
        journal.on_event(fire("a1"))
        assert until(lambda: feed.is_caught_up)
        fault = feed.fault()
        journal.on_event(fire("a2"))
        assert until(lambda: feed.is_caught_up)

    assert fault is not None
    assert "422" in fault.detail
    assert [r.json["incident_id"] for r in receiver.requests] == ["a1", "a2"]


def test_a_server_that_is_not_there_is_named_and_told_later(journal: Journal) -> None:
    port = free_port()
    with telling(journal, f"http://127.0.0.1:{port}/alarm") as feed:
        journal.on_event(fire("a1"))
        assert until(lambda: feed.fault() is not None)
        fault = feed.fault()
        with webhook_receiver.running(port) as receiver:
            assert until(lambda: feed.is_caught_up)

    assert fault is not None
    assert f"127.0.0.1:{port}" in fault.detail
    assert [r.json["incident_id"] for r in receiver.requests] == ["a1"]


@pytest.mark.parametrize("url", ["", "fire.example/alarm", "file:///etc/passwd", "https://"])
def test_what_is_no_address_of_a_web_server_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(RecipeError, match=r"webhook\.url"):
        WebhookSink(WebhookConfig(url), "yard", "")


def test_a_key_that_was_copied_badly_is_refused_at_the_start() -> None:
    with pytest.raises(RecipeError, match="whsec_"):
        WebhookSink(WebhookConfig("https://fire.example/"), "yard", "whsec_???")
