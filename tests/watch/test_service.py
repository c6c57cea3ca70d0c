"""What systemd is told, by a socket as systemd has one, and what signals do."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction, StageTimes
from edgecnn.errors import RecipeError
from edgecnn.watch.service import STOP_WITHIN_S, LifeSign, Notifier, supervise

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "firmware_examples" / "raspberry_pi_camera" / "edgecnn.service"


class Manager:
    """Listens as systemd does."""

    def __init__(self, address: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listener.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._listener.settimeout(0.05)
        self.address = address

    def heard(self) -> list[str]:
        """Give every line so far."""
        lines: list[str] = []
        while True:
            try:
                lines += self._listener.recv(4096).decode().split("\n")
            except TimeoutError:  # noqa: PERF203  silence is how it ends
                return lines

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    found = Manager(str(tmp_path / "notify") if request.param == "file" else f"@edgecnn-{tmp_path}")
    yield found
    found.close()


def look(sign: LifeSign, index: int) -> None:
    frame = Frame(np.zeros((2, 2, 3), np.uint8), index * 0.1, index, "camera")
    sign.on_prediction(frame, Prediction({}, index, index * 0.1, StageTimes(0, 0, 0)))


def test_systemd_hears_that_the_service_is_ready_reloads_lives_and_stops(manager: Manager) -> None:
    notifier = Notifier(manager.address)

    notifier.ready("Watching.")
    notifier.reloading()
    notifier.pet()
    notifier.stopping()
    heard = manager.heard()

    assert heard[:3] == ["READY=1", "STATUS=Watching.", "RELOADING=1"]
    assert heard[3].startswith("MONOTONIC_USEC=")
    assert heard[4:] == ["WATCHDOG=1", "STOPPING=1"]


def test_an_error_of_two_lines_cannot_pass_for_a_life_sign(manager: Manager) -> None:
    Notifier(manager.address).status("Bad.\nWATCHDOG=1")

    assert manager.heard() == ["STATUS=Bad. WATCHDOG=1"]


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@nobody-listens-here"])
def test_a_manager_that_is_not_there_stops_nothing(address: str) -> None:
    Notifier(address).ready("Watching.")


def test_a_child_that_inherits_the_environment_has_no_watchdog() -> None:
    meant = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "2000000"}

    assert Notifier.from_environment(meant | {"WATCHDOG_PID": str(os.getpid())}).watchdog_s == 2.0
    assert Notifier.from_environment(meant | {"WATCHDOG_PID": "1"}).watchdog_s == 0.0
    assert Notifier.from_environment(meant | {"WATCHDOG_USEC": "soon"}).watchdog_s == 0.0


def test_the_watchdog_is_petted_after_fresh_frames_only(manager: Manager) -> None:
    sign = LifeSign(Notifier(manager.address, watchdog_s=0.2))

    look(sign, 1)
    alive = manager.heard()
    for _ in range(4):
        time.sleep(0.06)
        look(sign, 1)  # a source that hangs gives the same frame again

    assert alive == ["WATCHDOG=1"]
    assert manager.heard() == []


def test_a_fast_camera_pets_the_watchdog_four_times_a_period_and_not_more(manager: Manager) -> None:
    sign = LifeSign(Notifier(manager.address, watchdog_s=60.0))

    for index in range(200):
        look(sign, index)

    assert manager.heard() == ["WATCHDOG=1"]


def test_without_a_watchdog_nobody_is_petted(manager: Manager) -> None:
    look(LifeSign(Notifier(manager.address)), 1)

    assert manager.heard() == []


# Signals ------------------------------------------------------------------------------------------------


def send(number: signal.Signals, after_s: float) -> None:
    threading.Timer(after_s, lambda: os.kill(os.getpid(), number)).start()


def waiting(stop: threading.Event) -> None:
    stop.wait(20)


def supervised(
    run: Callable[[threading.Event], None] = waiting,
    reload: Callable[[], None] = lambda: None,
    notifier: Notifier | None = None,
) -> tuple[bool, list[Exception]]:
    refused: list[Exception] = []
    return supervise(run, reload, notifier or Notifier(), refused.append), refused


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_ends_the_watch_at_once(number: signal.Signals) -> None:
    send(number, 0.1)
    began_s = time.monotonic()

    in_time, _ = supervised()

    assert in_time
    assert time.monotonic() - began_s < 1.0


def test_a_watch_that_hangs_is_left_behind_within_two_seconds() -> None:
    hangs = threading.Event()
    send(signal.SIGTERM, 0.1)
    began_s = time.monotonic()

    in_time, _ = supervised(lambda _: (hangs.wait(20), None)[1])
    took_s = time.monotonic() - began_s
    hangs.set()

    assert not in_time
    assert STOP_WITHIN_S <= took_s < 2.0


def test_a_reload_is_told_to_systemd_from_its_beginning_to_its_end(manager: Manager) -> None:
    reloads: list[int] = []
    send(signal.SIGHUP, 0.1)
    send(signal.SIGTERM, 0.4)

    supervised(reload=lambda: reloads.append(1), notifier=Notifier(manager.address))
    heard = [line for line in manager.heard() if not line.startswith("MONOTONIC_USEC")]

    assert reloads == [1]
    assert heard == [
        *("READY=1", "STATUS=Watching."),
        *("RELOADING=1", "READY=1", "STATUS=Watching with the new configuration."),
        "STOPPING=1",
    ]


@pytest.mark.parametrize("error", [RecipeError("There is no [[alarm]].", fix="Write one."), ValueError("?")])
def test_a_configuration_that_is_refused_leaves_the_old_one_watching(
    manager: Manager, error: Exception
) -> None:
    def refuse() -> None:
        raise error

    send(signal.SIGHUP, 0.1)
    send(signal.SIGTERM, 0.4)

    in_time, refused = supervised(reload=refuse, notifier=Notifier(manager.address))

    assert in_time
    assert refused == [error]
    assert any(line.startswith("STATUS=Watching with the old") for line in manager.heard())


def test_what_breaks_the_watch_breaks_the_service_so_that_systemd_starts_it_again() -> None:
    def broken(_: threading.Event) -> None:
        raise RecipeError("The camera cannot be read.", fix="Look at it.")

    with pytest.raises(RecipeError):
        supervised(broken)


def test_a_clip_that_ends_ends_the_service() -> None:
    assert supervised(lambda _: None) == (True, [])


def test_signals_mean_what_they_meant_before_when_the_watch_is_over() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]

    supervised(lambda _: None)

    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


# The unit -----------------------------------------------------------------------------------------------

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd"
)


@needs_systemd
def test_the_unit_is_exposed_to_no_more_than_two_of_ten() -> None:
    analyzed = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert analyzed.returncode == 0, analyzed.stdout[-600:] + analyzed.stderr


@needs_systemd
def test_systemd_finds_no_mistake_in_the_unit(tmp_path: Path) -> None:
    # The program itself is not installed here; all else is as it will be.
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/edgecnn/bin/edgecnn", "/bin/true"))

    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )

    assert verified.returncode == 0, verified.stderr
    assert UNIT.name not in verified.stderr
