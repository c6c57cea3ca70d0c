"""The journal: every event is on the disk before anyone is told of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction
from edgecnn.errors import RuntimeFault
from edgecnn.watch.incident import Incident
from edgecnn.watch.status import Fault

NAME: Final = "journal.sqlite3"

ACKNOWLEDGED: Final = "acknowledged"
"""The detail of the ``updated`` event by which every sink learns that a person has taken note."""

_BROKEN_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_TRY_AGAIN_S: Final = 1.0
_LOOK_EVERY: Final = 50
"""Events between two looks at the quota: an event takes well under 1 KB."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, incident_id TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS incidents (
    id TEXT PRIMARY KEY, label TEXT NOT NULL, is_alarm INTEGER NOT NULL, sequence INTEGER NOT NULL,
    started_utc_s REAL NOT NULL, ended_utc_s REAL, score REAL NOT NULL,
    acknowledged INTEGER NOT NULL DEFAULT 0, last BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS incidents_by_sequence ON incidents (sequence);
CREATE TABLE IF NOT EXISTS cursors (sink TEXT PRIMARY KEY, sequence INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal.

    Attributes:
        sequence: Rises from entry to entry, whatever the clock does.
        event: What happened.
    """

    sequence: int
    event: Event


class Journal:
    """A sink that keeps every event in SQLite, and remembers how far each other sink has read.

    An event that ``on_event`` was given is on the disk when it returns (write-ahead log,
    ``synchronous = FULL``), unless the disk takes nothing: then it waits in memory, the other sinks are
    told all the same, and it is written as soon as the disk takes it. A disk that is full or broken at
    the start stops no alarm either.

    Args:
        folder: Made if it is not there; holds the journal.
        quota_mb: What the events may take; the oldest go first.
        utc_s: The wall clock, for events that bring no time.
        pictures: Gives the snapshot and the clip of an incident, where there are any.

    Raises:
        RuntimeFault: If the folder cannot be written, or another watch uses it.
    """

    def __init__(
        self,
        folder: Path,
        quota_mb: float = 100.0,
        utc_s: Callable[[], float] = time.time,
        pictures: Callable[[str], tuple[Path | None, Path | None]] = lambda _: (None, None),
    ) -> None:
        self.folder = folder
        self._quota_bytes, self._utc_s, self._pictures = quota_mb * 1e6, utc_s, pictures
        self._lock_file = _lock(folder)
        self._path = folder / NAME
        self._changed = threading.Condition(threading.RLock())
        self._reading: threading.RLock | threading.Condition = threading.RLock()
        self._pending: list[Entry] = []
        self._lasting: dict[str, Event] = {}
        self._registered: dict[str, int] = {}
        self._fault: Fault | None = None
        self._dropped: Fault | None = None
        self._since_look = 0
        self._is_closed = False
        self._retry: threading.Thread | None = None
        try:
            self._open_or_set_aside()
            self._end_interrupted()
        except BaseException:
            self._unlock()
            raise

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        """Do nothing: scores are no events."""

    def on_event(self, event: Event) -> None:
        """Write an event down, with an id of its own."""
        with self._changed:
            stamped = replace(
                event,
                event_id=event.event_id or uuid.uuid4().hex,
                at_utc_s=self._utc_s() if event.at_utc_s is None else event.at_utc_s,
            )
            self._pending.append(Entry(self._next, stamped))
            self._next += 1
            if _is_over(stamped):
                self._lasting.pop(stamped.incident_id, None)
            else:
                self._lasting[stamped.incident_id] = stamped
            self._write_pending()
            self._changed.notify_all()

    def register(self, sink: str) -> int:
        """Give a sink a place in the journal that outlives the program; a new one starts at its end.

        Returns:
            The last sequence that the sink has taken.
        """
        with self._changed:
            try:
                with self._writer:
                    self._writer.execute(
                        "INSERT OR IGNORE INTO cursors VALUES (?, ?)", (sink, self._next - 1)
                    )
            except sqlite3.Error as error:
                self._note(error)
            found = self._rows("SELECT sequence FROM cursors WHERE sink = ?", (sink,))
            self._registered[sink] = found[0][0] if found else self._next - 1
            return self._registered[sink]

    def forget(self, sink: str) -> None:
        """Wait no longer for a sink that is no more; its place stays, should it come back."""
        with self._changed:
            self._registered.pop(sink, None)

    def advance(self, sink: str, sequence: int) -> None:
        """Note that a sink has taken everything up to here."""
        with self._reading:
            self._registered[sink] = sequence
            # Not in the log before the power fails means told twice, by the same id; no more than that.
            with contextlib.suppress(sqlite3.Error), self._reader:
                self._reader.execute("UPDATE cursors SET sequence = ? WHERE sink = ?", (sequence, sink))

    def after(self, sequence: int, count: int = 50) -> list[Entry]:
        """Give the entries that follow, oldest first, those included that wait for the disk."""
        with self._changed:
            waiting = [entry for entry in self._pending if entry.sequence > sequence]
        query = "SELECT sequence, body FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?"
        try:
            rows = self._rows(query, (sequence, count))
        except sqlite3.Error:  # what lies between would be left out: only what surely comes next may pass
            return waiting if waiting and waiting[0].sequence == sequence + 1 else []
        kept = [Entry(number, _DECODER.decode(body)) for number, body in rows]
        last = kept[-1].sequence if kept else sequence
        # More rows may lie between the last one that was read and the first one that waits.
        return kept if len(kept) == count else kept + [entry for entry in waiting if entry.sequence > last]

    def wait(self, sequence: int, timeout_s: float) -> None:
        """Wait until there is something after ``sequence``, someone calls ``wake``, or the time is over."""
        with self._changed:
            if not self._is_closed and self._next - 1 <= sequence:
                self._changed.wait(timeout_s)

    def wake(self) -> None:
        """End every wait."""
        with self._changed:
            self._changed.notify_all()

    @property
    def last(self) -> int:
        """Sequence of the newest entry."""
        with self._changed:
            return self._next - 1

    def open_alarms(self) -> dict[str, str]:
        """Give the id of the incident that lasts, by label, whatever the disk takes."""
        return self._open(is_alarm=True)

    def open_camera_faults(self) -> dict[str, str]:
        """Give the id of the incident that lasts, by fault of the camera."""
        return self._open(is_alarm=False)

    def incidents(self, count: int) -> Sequence[Incident]:
        """Give the latest alarms, newest first."""
        where = "WHERE is_alarm ORDER BY sequence DESC LIMIT ?"
        return [
            self._incident(row) for row in self._rows(f"SELECT {_COLUMNS} FROM incidents {where}", (count,))
        ]

    def incident(self, incident_id: str) -> Incident | None:
        """Find an alarm."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM incidents WHERE is_alarm AND id = ?", (incident_id,))
        return self._incident(rows[0]) if rows else None

    def order(self, incident_id: str) -> int:
        """Say how old an incident is against others, whatever the clock said; 0 for an unknown one."""
        rows = self._rows("SELECT sequence FROM incidents WHERE id = ?", (incident_id,))
        return int(rows[0][0]) if rows else 0

    def acknowledge(self, incident_id: str) -> bool:
        """Note that a person has taken note, and tell every sink while the alarm lasts.

        Returns:
            Whether there is such an alarm.
        """
        with self._changed:
            last = self._lasting.get(incident_id)
            if last is not None and last.kind != "camera":
                if not self._is_acknowledged(incident_id):
                    told = replace(last, kind="updated", detail=ACKNOWLEDGED, event_id="", at_utc_s=None)
                    self.on_event(told)
                return True
            with contextlib.suppress(sqlite3.Error), self._writer:
                query = "UPDATE incidents SET acknowledged = 1 WHERE is_alarm AND id = ?"
                return self._writer.execute(query, (incident_id,)).rowcount > 0
            return False

    def _is_acknowledged(self, incident_id: str) -> bool:
        waiting = any(
            entry.event.incident_id == incident_id and entry.event.detail == ACKNOWLEDGED
            for entry in self._pending
        )
        with contextlib.suppress(sqlite3.Error):
            return (
                waiting
                or self._rows("SELECT 1 FROM incidents WHERE acknowledged AND id = ?", (incident_id,)) != []
            )
        return waiting

    def faults(self) -> tuple[Fault, ...]:
        """Say what is wrong with the journal now."""
        with self._changed:
            return tuple(fault for fault in (self._fault, self._dropped) if fault is not None)

    def close(self) -> None:
        """Write what waits and let go; may be called twice."""
        with self._changed:
            if self._is_closed:
                return
            self._write_pending()
            self._is_closed = True
            self._changed.notify_all()
            with self._reading:
                for connection in (self._reader, self._writer):
                    with contextlib.suppress(sqlite3.Error):
                        connection.close()
            self._unlock()

    def _unlock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)

    def _open_or_set_aside(self) -> None:
        try:
            self._open_database()
        except sqlite3.OperationalError as error:
            self._open_in_need(error)
        except sqlite3.DatabaseError as error:
            aside = _free_name(self._path)
            for tail in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self._path}{tail}").replace(f"{aside}{tail}")
            self._open_database()
            self._dropped = Fault(
                "journal", self._utc_s(), f"It was damaged ({error}); the old one lies in '{aside.name}'."
            )

    def _open_in_need(self, error: sqlite3.OperationalError) -> None:
        """Open what is there on a full disk, or else keep events in memory alone."""
        with contextlib.suppress(sqlite3.OperationalError):
            self._open_database(needs_space=False)
            return
        self._open_database(":memory:", needs_space=False)
        detail = f"It cannot be opened ({error}); events are kept in memory. Mend its disk, then restart."
        self._dropped = Fault("journal", self._utc_s(), detail)

    def _open_database(self, path: Path | str = "", needs_space: bool = True) -> None:
        # The shared memory of WAL is a file, too; one connection alone can do without it.
        # Source: SQLite, "Write-Ahead Logging", "Use of WAL Without Shared-Memory".
        self._writer = _connect(path or self._path, "FULL", is_alone=not needs_space)
        try:
            if needs_space or path:
                self._writer.executescript(_SCHEMA)
            ends = self._writer.execute(
                "SELECT max(coalesce((SELECT max(sequence) FROM events), 0),"
                " coalesce((SELECT max(sequence) FROM cursors), 0))"
            ).fetchone()
            self._next = int(ends[0]) + 1
        except BaseException:
            self._writer.close()
            raise
        # Cursors need no fsync of their own: in WAL mode NORMAL survives a killed process.
        self._reader = _connect(self._path, "NORMAL") if needs_space else self._writer
        if not needs_space:
            self._reading = self._changed

    def _end_interrupted(self) -> None:
        """End what a killed program left open: nobody else will."""
        for (last,) in self._rows("SELECT last FROM incidents WHERE ended_utc_s IS NULL ORDER BY sequence"):
            event: Event = _DECODER.decode(last)
            self.on_event(
                replace(
                    event,
                    kind="camera" if event.kind == "camera" else "ended",
                    score=0.0 if event.kind == "camera" else event.score,
                    detail="The watch was interrupted and has started again.",
                    event_id="",
                    at_utc_s=None,
                )
            )

    def _write_pending(self) -> None:
        if not self._pending:
            return
        try:
            with self._writer:
                for entry in self._pending:
                    _write(self._writer, entry)
        except sqlite3.Error as error:
            self._note(error)
            self._start_retry()
            return
        self._since_look += len(self._pending)
        self._pending.clear()
        self._fault = None
        if self._since_look >= _LOOK_EVERY:
            self._since_look = 0
            with contextlib.suppress(sqlite3.Error):
                self._keep_quota()

    def _note(self, error: sqlite3.Error) -> None:
        detail = f"It cannot be written ({error}); events wait in memory. Free some space on its disk."
        since_utc_s = self._fault.since_utc_s if self._fault else self._utc_s()
        self._fault = Fault("journal", since_utc_s, detail)

    def _start_retry(self) -> None:
        if self._retry is None or not self._retry.is_alive():
            self._retry = threading.Thread(target=self._try_again, name="journal", daemon=True)
            self._retry.start()

    def _try_again(self) -> None:
        while True:
            time.sleep(_TRY_AGAIN_S)
            with self._changed:
                if self._is_closed or not self._pending:
                    return
                self._write_pending()
                if not self._pending:
                    self._retry = None
                    return

    def _keep_quota(self) -> None:
        used = self._used_bytes()
        if used <= self._quota_bytes:
            return
        # A tenth at a time, so that this happens rarely.
        cut = self._writer.execute(
            "SELECT sequence FROM events ORDER BY sequence LIMIT 1 OFFSET (SELECT count(*) / 10 FROM events)"
        ).fetchone()[0]
        behind = [sink for sink, taken in self._registered.items() if taken < cut]
        with self._writer:
            self._writer.execute("DELETE FROM events WHERE sequence <= ?", (cut,))
            self._writer.execute(
                "DELETE FROM incidents WHERE ended_utc_s IS NOT NULL"
                " AND id NOT IN (SELECT incident_id FROM events)"
            )
        if behind:
            self._dropped = Fault(
                "journal",
                self._utc_s(),
                f"It is full: the oldest events went before {' and '.join(behind)} had taken them. "
                "Raise journal.quota_mb.",
            )

    def _used_bytes(self) -> float:
        pages, free, size = (
            int(self._writer.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return float((pages - free) * size)

    def _open(self, *, is_alarm: bool) -> dict[str, str]:
        with self._changed:
            lasting = self._lasting.values()
            return {one.label: one.incident_id for one in lasting if (one.kind != "camera") == is_alarm}

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple]:  # type: ignore[type-arg]
        with self._reading:
            return self._reader.execute(query, tuple(values)).fetchall()

    def _incident(self, row: tuple) -> Incident:  # type: ignore[type-arg]
        incident_id, label, started_utc_s, ended_utc_s, score, acknowledged = row
        snapshot, clip = self._pictures(incident_id)
        return Incident(
            incident_id, label, started_utc_s, ended_utc_s, score, bool(acknowledged), snapshot, clip
        )


_COLUMNS: Final = "id, label, started_utc_s, ended_utc_s, score, acknowledged"
_DECODER: Final = msgspec.json.Decoder(Event)


def _write(connection: sqlite3.Connection, entry: Entry) -> None:
    event, body = entry.event, msgspec.json.encode(entry.event)
    connection.execute(
        "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?)",
        (entry.sequence, event.event_id, event.incident_id, body),
    )
    is_alarm = event.kind != "camera"
    is_over = _is_over(event)
    if not is_over:
        connection.execute(
            "INSERT OR IGNORE INTO incidents VALUES (?, ?, ?, ?, ?, NULL, ?, 0, ?)",
            (event.incident_id, event.label, is_alarm, entry.sequence, event.at_utc_s, event.score, body),
        )
    connection.execute(
        "UPDATE incidents SET score = max(score, ?), ended_utc_s = ?, last = ?,"
        " acknowledged = max(acknowledged, ?) WHERE id = ?",
        (
            event.score,
            event.at_utc_s if is_over else None,
            body,
            event.detail == ACKNOWLEDGED,
            event.incident_id,
        ),
    )


def _is_over(event: Event) -> bool:
    return event.kind == "ended" or (event.kind == "camera" and event.score <= 0)


def _connect(path: Path | str, synchronous: str, is_alone: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    try:
        if is_alone:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
    except BaseException:
        connection.close()
        raise
    return connection


def _lock(folder: Path) -> int | None:
    """Keep two programs from writing one journal; the kernel lets go when the program dies.

    Returns:
        What holds the lock; None where a broken or full disk takes no file for it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _BROKEN_DISK:
            return None
        raise RuntimeFault(
            f"The journal cannot be kept in '{folder}': {error.strerror}.",
            fix="Set journal.folder to a folder that may be written.",
        ) from error
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(number)
        raise RuntimeFault(
            f"Another watch keeps its journal in '{folder}'.",
            fix="Stop it, or set journal.folder to another folder.",
        ) from error
    return number


def _free_name(path: Path) -> Path:
    return next(
        name for n in range(1, 1_000_000) if not (name := path.with_name(f"{path.name}.damaged-{n}")).exists()
    )
