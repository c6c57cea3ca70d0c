"""What the service manager is told, and what it tells: readiness, life signs, reload and stop."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction

STOP_WITHIN_S: Final = 1.5
"""How long everything may take to end after SIGTERM; what is left of 2 s belongs to Python itself."""

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Notifier:
    """Tells systemd how the service is; silent where nobody asked.

    Attributes:
        address: The socket that systemd listens on; empty outside of a ``Type=notify`` service.
        watchdog_s: Within how many seconds a life sign is expected; 0 where none is.

    Source:
        sd_notify(3): datagrams of ``VARIABLE=value`` lines to the socket in ``NOTIFY_SOCKET``, where
        a leading ``@`` stands for an abstract address; sd_watchdog_enabled(3) for ``WATCHDOG_USEC``.
    """

    address: str = ""
    watchdog_s: float = 0.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """Read what systemd wrote into the environment.

        Example:
            >>> Notifier.from_environment({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000"})
            Notifier(address='@x', watchdog_s=30.0)
        """
        # WATCHDOG_PID names the process that is meant: a child inherits the environment, not the duty.
        is_meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        watchdog_s = int(microseconds) / 1e6 if is_meant and microseconds.isdigit() else 0.0
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog_s)

    def ready(self, status: str) -> None:
        """Say that the service has started, or that it has reloaded its configuration."""
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """Say that the configuration is being read anew."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self) -> None:
        """Say that the service is on its way out."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send(_status(text))

    def pet(self) -> None:
        """Give a life sign."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self.address:
            return
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        # A manager that has gone, or whose queue is full, must not stop the camera.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), address)


def _status(text: str) -> str:
    """Keep a text to one line: a second one would be read as another variable."""
    return f"STATUS={' '.join(text.split())}"


class LifeSign:
    """A sink that pets the watchdog after each freshly inferred frame, and at no other time.

    A thread that only lives would be petted too while the camera or the model hangs; so the sign
    follows from the work itself: a prediction of a frame that was taken later than the one before.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        # Four signs for each that is expected; a datagram a frame would be more than anyone reads.
        self._every_s = notifier.watchdog_s / 4
        self._last_at_s = float("-inf")
        self._last_frame: tuple[str, int, float] | None = None

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        """Give a sign if the frame is a new one and the last sign has grown old."""
        seen = (frame.source_id, prediction.frame_index, prediction.captured_at_s)
        if seen == self._last_frame:
            return
        self._last_frame = seen
        now_s = time.monotonic()
        if self._notifier.watchdog_s and now_s - self._last_at_s >= self._every_s:
            self._last_at_s = now_s
            self._notifier.pet()

    def on_event(self, event: Event) -> None:
        """Do nothing: an event proves no more than its frame did."""

    def close(self) -> None:
        """Do nothing."""


def supervise(
    run: Callable[[threading.Event], None],
    reload: Callable[[], None],
    notifier: Notifier,
    on_refused: Callable[[Exception], None],
) -> bool:
    """Run the watch on a thread of its own, and do meanwhile what signals ask for.

    SIGTERM and SIGINT stop it, SIGHUP reloads it. Call it from the main thread: only that one gets
    signals.

    Args:
        run: Works until the event is set, or until its source ends; may raise.
        reload: Reads the configuration anew and puts it in force, or raises and changes nothing.
        notifier: Who is told.
        on_refused: Is given the reason why a new configuration was refused.

    Returns:
        Whether all had ended within ``STOP_WITHIN_S`` of being asked to. If not, the process should
        leave without waiting for its threads: the journal is whole after each event.

    Raises:
        BaseException: What ``run`` raised.
    """
    stop, finished = threading.Event(), threading.Event()
    failures: list[BaseException] = []
    # SimpleQueue.put is reentrant, so that a handler may call it; Event.set is not.
    signals: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            run(stop)
        except BaseException as error:
            failures.append(error)
        finally:
            finished.set()
            signals.put(None)

    worker = threading.Thread(target=work, name="watch", daemon=True)
    with _delivered_to(signals):
        worker.start()
        notifier.ready("Watching.")
        while (number := signals.get()) is not None and number not in _STOPS:
            _reload(reload, notifier, on_refused)
        notifier.stopping()
        stop.set()
        in_time = finished.wait(STOP_WITHIN_S)
    if failures:
        raise failures[0]
    return in_time


def _reload(reload: Callable[[], None], notifier: Notifier, on_refused: Callable[[Exception], None]) -> None:
    notifier.reloading()
    try:
        reload()
    except Exception as error:  # whatever a new configuration does, the old one goes on watching
        on_refused(error)
        notifier.ready(f"Watching with the old configuration; the new one was refused: {error}")
    else:
        notifier.ready("Watching with the new configuration.")


@contextmanager
def _delivered_to(signals: queue.SimpleQueue[int | None]) -> Iterator[None]:
    """Put the numbers of signals into a queue, and give the old handlers back at the end."""

    def handle(number: int, _: FrameType | None) -> None:
        signals.put(number)

    old = {number: signal.signal(number, handle) for number in (*_STOPS, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
