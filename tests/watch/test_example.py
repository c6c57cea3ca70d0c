"""What lies in firmware_examples/raspberry_pi_camera runs, as it lies there."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orange
import pytest

from edgecnn.watch import config as configs
from edgecnn.watch.config import Config
from edgecnn.watch.sinks.journal import Journal

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "firmware_examples" / "raspberry_pi_camera"
TOML = (FOLDER / "watch.toml").read_text(encoding="utf-8")
UNIT = (FOLDER / "edgecnn.service").read_text(encoding="utf-8")
README = (FOLDER / "README.md").read_text(encoding="utf-8")
EDGECNN = Path(sys.executable).parent / "edgecnn"

pytestmark = pytest.mark.xdist_group("example")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "fire.tflite"
    orange.write_model(path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return orange.write_clip(tmp_path_factory.mktemp("clip") / "fire.mp4")


def environment(clip: Path, **more: str) -> dict[str, str]:
    """A Pi's, with a stand-in for what only a Pi has."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests" / "pi"),
        "EDGECNN_TEST_CLIP": str(clip),
        "PYTHONUNBUFFERED": "1",
        **more,
    }


# watch.toml ---------------------------------------------------------------------------------------------


def uncommented(text: str) -> str:
    """Take the # off every line that is a key or a section."""
    return re.sub(r"(?m)^#(?=\[|\w+ = )", "", text)


def test_the_watch_toml_is_valid_as_it_is_and_with_every_line_uncommented() -> None:
    plain, full = configs.parse(TOML), configs.parse(uncommented(TOML))

    assert (plain.mqtt, plain.webhook, plain.gpio) == (None, None, None)
    assert full.mqtt is not None
    assert full.webhook is not None
    assert full.gpio is not None


def test_the_page_of_the_example_is_seen_by_this_machine_only() -> None:
    assert configs.parse(TOML).web.is_local


def test_the_secrets_of_the_example_stand_in_no_file_that_others_read() -> None:
    full = configs.parse(uncommented(TOML))

    assert re.findall(r"(?m)^#?\w*(?:password|secret|token) *=", TOML) == []
    assert full.mqtt is not None
    assert full.mqtt.password_env
    assert "EnvironmentFile=-/etc/edgecnn/environment" in UNIT


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Service:
    """The program as the unit starts it: its socket, its watchdog, memory that is never code."""

    def __init__(self, folder: Path, model: Path, clip: Path, more: str = "", **known: str) -> None:
        self.port = free_port()
        self.toml = folder / "watch.toml"
        self.journal = folder / "state"
        text = TOML.replace("/opt/edgecnn/fire.tflite", str(model)).replace("8080", str(self.port))
        self.toml.write_text(text.replace("/var/lib/edgecnn", str(self.journal)) + more, encoding="utf-8")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listener.bind(str(folder / "notify"))
        self._listener.settimeout(0.1)
        self.heard: list[str] = []
        (start,) = re.findall(r"(?m)^ExecStart=/opt/edgecnn/bin/edgecnn (.+)$", UNIT)
        arguments = start.replace("/etc/edgecnn/watch.toml", str(self.toml)).split()
        self.out = (folder / "out").open("w+")
        self.process = subprocess.Popen(
            [str(EDGECNN), *arguments],
            env=environment(clip, NOTIFY_SOCKET=str(folder / "notify"), WATCHDOG_USEC="1000000", **known),
            stdout=self.out,
            stderr=subprocess.STDOUT,
            preexec_fn=deny_write_execute,
        )

    def config(self) -> Config:
        return configs.load(self.toml)

    def said(self) -> str:
        self.out.flush()
        return Path(self.out.name).read_text(encoding="utf-8")

    def hear(self) -> None:
        """Take the next datagram."""
        self.heard += self._listener.recv(4096).decode().split("\n")

    def listen(self, line: str, seconds: float = 20.0) -> None:
        """Wait until systemd would have heard a line."""
        end_s = time.monotonic() + seconds
        while not any(heard.startswith(line) for heard in self.heard):
            assert time.monotonic() < end_s, (self.heard, self.said())
            assert self.process.poll() is None, self.said()
            with contextlib.suppress(TimeoutError):
                self.hear()

    def ask(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._listener.close()
        self.out.close()


def deny_write_execute() -> None:
    """Do what MemoryDenyWriteExecute=yes does, on kernels that can (6.3 and later)."""
    ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN


@contextlib.contextmanager
def started(folder: Path, model: Path, clip: Path, more: str = "", **known: str) -> Iterator[Service]:
    service = Service(folder, model, clip, more, **known)
    try:
        yield service
    finally:
        service.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, model: Path, clip: Path) -> Iterator[Service]:
    with started(tmp_path_factory.mktemp("service"), model, clip) as found:
        yield found


def wait_for(holds: Any, seconds: float = 15.0) -> Any:
    end_s = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end_s
        time.sleep(0.1)
    return found


def took_to_end_s(service: Service) -> float:
    began_s = time.monotonic()
    service.process.terminate()
    assert service.process.wait(10) == 0, service.said()
    return time.monotonic() - began_s


def test_the_service_starts_and_pets_the_watchdog_because_it_looks_at_frames(service: Service) -> None:
    service.listen("READY=1")
    service.listen("WATCHDOG=1")

    assert wait_for(lambda: service.ask("healthz")["healthy"])


def test_a_fire_before_the_picamera_becomes_an_incident_with_a_picture(service: Service) -> None:
    found = wait_for(lambda: [i for i in service.ask("api/state")["incidents"] if i["snapshot"]])

    assert found[0]["label"] == "fire"
    picture = urllib.request.urlopen(
        f"http://127.0.0.1:{service.port}/incidents/{found[0]['id']}/snapshot.jpg", timeout=5
    )
    with picture:
        assert picture.read(2) == b"\xff\xd8"


def test_a_configuration_with_a_mistake_is_refused_at_reload_and_the_old_one_goes_on(
    service: Service,
) -> None:
    before = service.toml.read_text(encoding="utf-8")
    service.listen("WATCHDOG=1")
    service.toml.write_text(before.replace("on_score", "on_scor"), encoding="utf-8")

    service.process.send_signal(signal.SIGHUP)
    service.listen("STATUS=Watching with the old configuration")
    service.toml.write_text(before, encoding="utf-8")
    service.heard.clear()
    service.listen("WATCHDOG=1")

    assert "Did you mean 'alarm.on_score'?" in re.sub(r"\[\d*\]", "", service.said())


def test_a_configuration_that_changed_is_in_force_after_a_reload(service: Service) -> None:
    changed = service.toml.read_text(encoding="utf-8").replace("on_score = 0.7", "on_score = 0.65")
    service.toml.write_text(changed, encoding="utf-8")

    service.process.send_signal(signal.SIGHUP)
    service.listen("STATUS=Watching with the new configuration")

    assert service.ask("api/state")["policies"][0]["on_score"] == 0.65


def test_sigterm_is_done_within_two_seconds_and_the_journal_is_whole(service: Service) -> None:
    service.listen("READY=1")
    wait_for(lambda: service.ask("api/state")["incidents"])

    assert took_to_end_s(service) < 2.0
    assert "Traceback" not in service.said()
    journal = Journal(service.journal)
    try:
        assert [incident.label for incident in journal.incidents(1)] == ["fire"]
        assert journal.faults() == ()
    finally:
        journal.close()


def test_a_camera_that_hangs_is_petted_by_nobody_and_ends_within_two_seconds(
    tmp_path: Path, model: Path, clip: Path
) -> None:
    with started(tmp_path, model, clip, EDGECNN_TEST_HANGS_AFTER_S="2") as service:
        service.listen("WATCHDOG=1")
        wait_for(lambda: service.ask("healthz")["state"] == "source lost")
        with contextlib.suppress(TimeoutError):
            while True:  # what was said before it hung
                service.hear()
        time.sleep(1.5)  # more than the watchdog's period

        with pytest.raises(TimeoutError):
            service.hear()
        assert took_to_end_s(service) < 2.0


def test_a_broker_and_a_webhook_that_never_answer_do_not_hold_up_the_end(
    tmp_path: Path, model: Path, clip: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        more = f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n[webhook]\nurl = "http://127.0.0.1:{port}/"\n'
        with started(tmp_path, model, clip, more) as service:
            service.listen("WATCHDOG=1")
            wait_for(lambda: service.ask("api/state")["incidents"])

            assert took_to_end_s(service) < 2.0


# example.py ---------------------------------------------------------------------------------------------


def test_the_python_example_rings_when_it_burns(tmp_path: Path, model: Path, clip: Path) -> None:
    shutil.copy(FOLDER / "example.py", tmp_path)
    example = subprocess.Popen(
        [sys.executable, "example.py", str(model), "picamera"],
        cwd=tmp_path,
        env=environment(clip),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert example.stdout is not None
        assert example.stdout.readline().startswith("started fire 0.")
    finally:
        example.terminate()
        example.communicate(timeout=10)


def test_the_python_example_has_ten_lines_that_do_something() -> None:
    text = (FOLDER / "example.py").read_text(encoding="utf-8")
    body = re.sub(r'""".*?"""', "", text.partition("class Doorbell")[2], flags=re.DOTALL)

    assert len([line for line in body.splitlines() if line.strip()]) <= 13


# README.md ----------------------------------------------------------------------------------------------


def commands() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def test_every_command_of_the_readme_is_one_that_bash_understands() -> None:
    for block in commands():
        checked = subprocess.run(["bash", "-n", "-c", block], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, (block, checked.stderr)


def test_readme_unit_and_watch_toml_agree_on_every_path_and_name() -> None:
    said = "\n".join(commands())

    assert "/opt/edgecnn/bin/edgecnn watch /etc/edgecnn/watch.toml" in UNIT
    assert "User=edgecnn\n" in UNIT
    assert "useradd --system --home-dir /var/lib/edgecnn" in said
    assert "StateDirectory=edgecnn\n" in UNIT
    assert configs.parse(TOML).journal.folder == Path("/var/lib/edgecnn")
    assert configs.parse(TOML).model.path == Path("/opt/edgecnn/fire.tflite")
    for path in re.findall(r"/(?:etc|opt)/edgecnn/[\w./]+", UNIT + uncommented(TOML)):
        assert path.startswith("/opt/edgecnn/bin/") or path in said, path


def test_every_file_and_option_that_the_readme_names_exists() -> None:
    help_text = subprocess.run([str(EDGECNN), "watch", "--help"], capture_output=True, text=True, check=True)

    assert [link for link in re.findall(r"\]\(([^)#:]+)\)", README) if not (FOLDER / link).is_file()] == []
    for option in re.findall(r"edgecnn watch (--\w+) \S+ (--\w+)", README)[0]:
        assert option in help_text.stdout


def test_the_webhook_of_the_example_is_an_address_with_a_template_of_what_events_hold() -> None:
    from urllib.parse import parse_qs, urlsplit

    from edgecnn.core.alarm import Event
    from edgecnn.watch.sinks.payload import describe

    webhook = configs.parse(uncommented(TOML)).webhook
    assert webhook is not None
    query = parse_qs(urlsplit(webhook.url).query)
    told = describe(Event("started", "fire", 1.0, 0.9, 3, "a1", at_utc_s=0.0, event_id="e1"), "porch")

    fields = re.findall(r"{{\.(\w+)}}", query["title"][0] + query["message"][0])
    assert fields == ["device", "label", "kind", "time"]
    assert set(fields) <= set(told)
