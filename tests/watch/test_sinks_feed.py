"""A feed tells one sink of every event, in order, until the sink has taken it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import until

from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction
from edgecnn.watch.sinks.feed import Feed, Refused, Undelivered
from edgecnn.watch.sinks.journal import Journal


class Ear:
    """A sink that fails when it is asked to."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.tries: list[str] = []
        self.is_away = threading.Event()
        self.refused: set[str] = set()

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        pass

    def on_event(self, event: Event) -> None:
        self.tries.append(event.incident_id)
        if event.incident_id in self.refused:
            raise Refused("It does not like that one.", fix="Send another.")
        if self.is_away.is_set():
            raise Undelivered("Nobody is there.", fix="Wait.")
        self.heard.append(event.incident_id)

    def close(self) -> None:
        pass


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path)
    with contextlib.closing(journal):
        yield journal


def tell(journal: Journal, *names: str) -> None:
    for name in names:
        journal.on_event(Event("ended", "fire", 5.0, 0.8, 50, name))


def test_events_wait_while_nobody_is_there_and_arrive_once_and_in_order(journal: Journal) -> None:
    ear = Ear()
    ear.is_away.set()
    with contextlib.closing(Feed("ear", ear, journal)) as feed:
        tell(journal, "a", "b", "c")
        assert until(lambda: len(ear.tries) >= 3)
        fault = feed.fault()
        ear.is_away.clear()

        assert until(lambda: feed.is_caught_up)
        assert ear.heard == ["a", "b", "c"]
        assert fault is not None
        assert (fault.name, fault.detail) == ("ear", "Nobody is there. Wait.")
        assert feed.fault() is None


def test_an_event_that_will_never_be_taken_holds_up_no_other(journal: Journal) -> None:
    ear = Ear()
    ear.refused.add("b")
    with contextlib.closing(Feed("ear", ear, journal)) as feed:
        tell(journal, "a", "b", "c")

        assert until(lambda: feed.is_caught_up)
        assert ear.tries == ["a", "b", "c"]
        assert ear.heard == ["a", "c"]


def test_a_sink_goes_on_where_it_was_when_the_program_ended(tmp_path: Path) -> None:
    ear = Ear()
    with contextlib.closing(Journal(tmp_path)) as journal:
        with contextlib.closing(Feed("ear", ear, journal)) as feed:
            tell(journal, "a")
            assert until(lambda: feed.is_caught_up)
            ear.is_away.set()
            tell(journal, "b")
            assert until(lambda: "b" in ear.tries)
        tell(journal, "c")
    ear.is_away.clear()

    with (
        contextlib.closing(Journal(tmp_path)) as journal,
        contextlib.closing(Feed("ear", ear, journal)) as feed,
    ):
        assert until(lambda: feed.is_caught_up)

    assert ear.heard == ["a", "b", "c"]


def test_a_new_sink_is_not_told_what_happened_before_it_was_there(journal: Journal) -> None:
    ear = Ear()
    tell(journal, "yesterday")
    with contextlib.closing(Feed("ear", ear, journal)) as feed:
        tell(journal, "today")

        assert until(lambda: feed.is_caught_up)

    assert ear.heard == ["today"]


def test_a_live_sink_is_told_nothing_that_happened_while_it_was_away(journal: Journal) -> None:
    ear = Ear()
    with contextlib.closing(Feed("siren", ear, journal, is_live=True)) as feed:
        tell(journal, "a")
        assert until(lambda: feed.is_caught_up)
    tell(journal, "b")

    with contextlib.closing(Feed("siren", ear, journal, is_live=True)) as feed:
        tell(journal, "c")
        assert until(lambda: feed.is_caught_up)

    assert ear.heard == ["a", "c"]
