"""The journal loses nothing, counts nothing twice, and survives its disk."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import disks
import pytest
from broker import until

from edgecnn.core.alarm import Event
from edgecnn.errors import RuntimeFault
from edgecnn.watch.sinks.journal import NAME, Journal


def started(incident_id: str, score: float = 0.8) -> Event:
    return Event("started", "fire", 5.0, score, 50, incident_id)


def ended(incident_id: str) -> Event:
    return Event("ended", "fire", 9.0, 0.3, 90, incident_id)


@contextlib.contextmanager
def opened(folder: Path, **settings: float) -> Iterator[Journal]:
    journal = Journal(folder, **settings)  # type: ignore[arg-type]
    try:
        yield journal
    finally:
        journal.close()


def test_events_are_read_again_in_order_with_the_ids_that_they_were_given(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        for number in range(5):
            journal.on_event(started(f"a{number}"))
            journal.on_event(ended(f"a{number}"))
        before = journal.after(0)

    with opened(tmp_path) as journal:
        assert journal.after(0) == before
        assert [entry.event.incident_id for entry in before] == [f"a{n // 2}" for n in range(10)]
        assert len({entry.event.event_id for entry in before}) == 10


def test_an_event_that_was_taken_is_there_after_the_program_was_killed(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from edgecnn.core.alarm import Event; from edgecnn.watch.sinks.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.on_event(Event('started', 'fire', 5.0, 0.8, 50, 'a1'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)

    with opened(tmp_path) as journal:
        assert journal.after(0)[0].event.incident_id == "a1"


def test_an_alarm_that_a_killed_program_left_open_is_ended_at_the_next_start(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.on_event(started("a1"))
        journal.on_event(Event("camera", "dark", 6.0, 1.0, 60, "c1"))

    with opened(tmp_path) as journal:
        kinds = [(entry.event.kind, entry.event.label, entry.event.score) for entry in journal.after(2)]
        assert kinds == [("ended", "fire", 0.8), ("camera", "dark", 0.0)]
        assert (journal.open_alarms(), journal.open_camera_faults()) == ({}, {})


def test_two_watches_cannot_keep_one_journal(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(RuntimeFault, match="Another watch"):
        Journal(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(RuntimeFault, match="file"):
        Journal(tmp_path / "file" / "state")


def test_a_damaged_journal_is_set_aside_and_said_so(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(os.urandom(8192))

    with opened(tmp_path) as journal:
        journal.on_event(started("a1"))

        assert [fault.name for fault in journal.faults()] == ["journal"]
        assert (tmp_path / f"{NAME}.damaged-1").exists()
        assert [entry.event.incident_id for entry in journal.after(0)] == ["a1"]


def test_incidents_are_told_newest_first_with_their_highest_score(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.on_event(started("a1", 0.8))
        journal.on_event(Event("updated", "fire", 7.0, 0.95, 70, "a1"))
        journal.on_event(ended("a1"))
        journal.on_event(started("a2"))
        journal.on_event(Event("camera", "dark", 6.0, 1.0, 60, "c1"))

        found = journal.incidents(10)

        assert [(i.id, i.score, i.ended_utc_s is None) for i in found] == [
            ("a2", 0.8, True),
            ("a1", 0.95, False),
        ]
        assert journal.incident("a1") == found[1]
        assert journal.incident("c1") is None


def test_order_of_incidents_is_that_of_the_journal_even_if_the_clock_is_set_back(tmp_path: Path) -> None:
    moments = iter([2_000_000_000.0, 0.0])
    journal = Journal(tmp_path, utc_s=lambda: next(moments))
    with contextlib.closing(journal):
        journal.on_event(started("a1"))
        journal.on_event(started("a2"))

        assert journal.order("unknown") < journal.order("a1") < journal.order("a2")
        assert [incident.id for incident in journal.incidents(2)] == ["a2", "a1"]


def test_an_acknowledged_alarm_is_told_to_every_sink_once(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.on_event(started("a1"))

        known = [journal.acknowledge("a1"), journal.acknowledge("a1"), journal.acknowledge("never")]

        assert known == [True, True, False]
        assert [(e.event.kind, e.event.detail) for e in journal.after(1)] == [("updated", "acknowledged")]
        assert journal.incidents(1)[0].acknowledged


def test_an_alarm_that_is_over_is_acknowledged_without_a_word_and_a_camera_fault_never(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as journal:
        journal.on_event(started("a1"))
        journal.on_event(ended("a1"))
        journal.on_event(Event("camera", "dark", 9.0, 1.0, 90, "c1"))

        known = [journal.acknowledge("a1"), journal.acknowledge("c1")]

        assert known == [True, False]
        assert journal.incidents(1)[0].acknowledged
        assert journal.last == 3


def test_what_lasts_is_known_on_a_disk_that_cannot_be_read_any_more(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.on_event(started("a1"))
        journal._reader.close()
        journal._writer.close()
        journal.on_event(Event("camera", "dark", 9.0, 1.0, 90, "c1"))

        assert (journal.open_alarms(), journal.open_camera_faults()) == ({"fire": "a1"}, {"dark": "c1"})
        assert journal.acknowledge("a1")


def test_oldest_events_go_when_the_journal_reaches_its_quota_and_those_unheard_are_named(
    tmp_path: Path,
) -> None:
    with opened(tmp_path, quota_mb=0.2) as journal:
        journal.register("mqtt")
        for number in range(600):
            journal.on_event(started(f"a{number}"))
            journal.on_event(ended(f"a{number}"))

        first = journal.after(0, 1)[0]
        size = (tmp_path / NAME).stat().st_size
        faults = journal.faults()

    assert first.sequence > 300
    assert size < 0.5e6
    assert "mqtt" in faults[0].detail


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.small_disk(tmp_path / "disk", "512k") as folder:
        yield folder


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))


def test_a_watch_that_starts_on_a_full_disk_goes_on_where_it_was(small_disk: Path) -> None:
    with opened(small_disk) as journal:
        journal.register("mqtt")
        journal.on_event(ended("a0"))
    fill(small_disk / "ballast")

    with opened(small_disk) as journal:
        taken = journal.register("mqtt")
        for number in range(1, 100):
            journal.on_event(ended(f"a{number}"))
        told = [entry.event.incident_id for entry in journal.after(taken, 500)]
        is_named = bool(journal.faults())
        (small_disk / "ballast").unlink()

        assert until(lambda: not journal.faults(), 5)
    with opened(small_disk) as journal:
        assert [entry.event.incident_id for entry in journal.after(0, 500)] == told
    assert told == [f"a{number}" for number in range(100)]
    assert is_named


def test_a_watch_that_starts_where_nothing_can_be_written_tells_everyone_and_says_so(
    small_disk: Path,
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    with opened(small_disk / "state") as journal:
        journal.on_event(started("a1"))

        assert [entry.event.incident_id for entry in journal.after(0)] == ["a1"]
        assert journal.open_alarms() == {"fire": "a1"}
        assert "kept in memory" in journal.faults()[0].detail


def test_on_a_full_disk_events_are_told_all_the_same_and_written_when_there_is_space(
    small_disk: Path,
) -> None:
    journal = Journal(small_disk)
    journal.on_event(started("a0"))
    fill(small_disk / "ballast")
    with contextlib.suppress(sqlite3.Error):
        for number in range(1, 200):
            journal.on_event(started(f"a{number}"))
    told = [entry.event.incident_id for entry in journal.after(0, 500)]
    faults = journal.faults()
    last = journal.open_alarms()
    known = [journal.acknowledge("a199"), journal.acknowledge("a199")]
    (small_disk / "ballast").unlink()

    recovered = until(lambda: not journal.faults(), 5)
    acknowledged = [incident.id for incident in journal.incidents(500) if incident.acknowledged]
    journal.close()

    assert told == [f"a{number}" for number in range(200)]
    assert (last, known, acknowledged) == ({"fire": "a199"}, [True, True], ["a199"])
    assert "Free some space" in faults[0].detail
    assert recovered
    with opened(small_disk) as again:
        assert [entry.event.incident_id for entry in again.after(0, 201)] == [*told, "a199"]
