"""A whole camera box in a process of its own: from a clip to an alarm, signals, and mistakes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_models
from streams import MjpegServer, free_port

COMMAND = [sys.executable, "-m", "edgecnn", "watch"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.tflite"
    tiny_models.write(path)
    return path


@pytest.fixture
def camera() -> Iterator[MjpegServer]:
    server = MjpegServer()
    yield server
    server.close()


def write_config(folder: Path, model: Path, uri: str, more: str = "") -> Path:
    """Watch for a label that a network of random weights always sees a little of."""
    path = folder / "watch.toml"
    path.write_text(
        f'device = "yard"\n[model]\npath = "{model}"\n[source]\nuri = "{uri}"\n'
        '[[alarm]]\nlabel = "red"\non_score = 0.002\noff_score = 0.001\nminimum_s = 0\n'
        f'[journal]\nfolder = "state"\n[web]\nport = 0\n{more}',
        encoding="utf-8",
    )
    return path


class Child:
    """A box that runs."""

    def __init__(self, config: Path) -> None:
        self.output = config.parent / "output.txt"
        with self.output.open("w") as file:
            self.process = subprocess.Popen([*COMMAND, str(config)], stdout=file, stderr=subprocess.STDOUT)

    def until(self, text: str, timeout_s: float = 20.0) -> str:
        ends_s = time.monotonic() + timeout_s
        while text not in self.output.read_text():
            assert time.monotonic() < ends_s, self.output.read_text()
            time.sleep(0.02)
        return self.output.read_text()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def faults(port: int) -> dict[str, str]:
    """Give what the page says of each fault that lasts."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/state", timeout=5) as answer:
        return {fault["name"]: fault["detail"] for fault in json.load(answer)["status"]["faults"]}


def until(look: Callable[[], Any], but: tuple[Any, ...] = ()) -> Any:
    """Look until there is something, and something else than was there before."""
    ends_s = time.monotonic() + 10
    while not (found := look()) or found in but:
        assert time.monotonic() < ends_s, found
        time.sleep(0.05)
    return found


def events(config: Path) -> list[str]:
    database = sqlite3.connect(config.parent / "state" / "journal.sqlite3")
    try:
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return [row[0] for row in database.execute("SELECT incident_id FROM events ORDER BY sequence")]
    finally:
        database.close()


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HOME": str(home)}
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=60
    )


def test_sigterm_ends_the_box_within_two_seconds_with_the_journal_whole(
    tmp_path: Path, model: Path, camera: MjpegServer
) -> None:
    config = write_config(tmp_path, model, camera.url)
    with Child(config) as child:
        child.until("red: started")
        began_s = time.monotonic()
        child.process.send_signal(signal.SIGTERM)
        code = child.process.wait(10)

    assert time.monotonic() - began_s < 2.0
    assert (code, len(events(config))) == (0, 1)
    assert "Traceback" not in child.output.read_text()


def test_sighup_takes_a_good_configuration_and_refuses_a_bad_one(
    tmp_path: Path, model: Path, camera: MjpegServer
) -> None:
    config = write_config(tmp_path, model, camera.url)
    with Child(config) as child:
        child.until("red: started")
        good = config.read_text()
        config.write_text(good.replace("on_score", "onscore"))
        child.process.send_signal(signal.SIGHUP)
        said = child.until("The new configuration was refused")
        config.write_text(good.replace("0.002", "1.0").replace("0.001", "0.999"))
        child.process.send_signal(signal.SIGHUP)
        child.until("red: ended")

    assert "Did you mean 'alarm[0].on_score'?" in said


def test_a_configuration_that_is_refused_stands_on_the_page_until_a_good_one_comes(
    tmp_path: Path, model: Path, camera: MjpegServer
) -> None:
    config = write_config(tmp_path, model, camera.url)
    port = free_port()
    good = config.read_text().replace("port = 0", f"port = {port}")
    config.write_text(good)
    with Child(config) as child:
        child.until("red: started")
        before = faults(port)
        said = {}
        for mistake in (good.replace("on_score", "onscore"), f"{good}[gpio]\nsiren_pin = 999\n"):
            config.write_text(mistake)
            child.process.send_signal(signal.SIGHUP)
            said |= {until(lambda: faults(port).get("reload", ""), but=tuple(said)): mistake}
        config.write_text(good)
        child.process.send_signal(signal.SIGHUP)
        after = until(lambda: not faults(port))

    first, second = said
    assert (before, after) == ({}, True)
    assert first.startswith("The old configuration goes on: ")
    assert "Did you mean 'alarm[0].on_score'?" in first
    assert "999" in second


def test_a_section_that_cannot_change_while_it_runs_is_refused_by_name(
    tmp_path: Path, model: Path, camera: MjpegServer
) -> None:
    config = write_config(tmp_path, model, camera.url)
    with Child(config) as child:
        child.until("red: started")
        config.write_text(config.read_text().replace("port = 0", "port = 9"))
        child.process.send_signal(signal.SIGHUP)

        child.until("[web] cannot change while it runs")


def test_a_clip_is_watched_to_its_end_by_a_model_and_a_source_alone(tmp_path: Path, model: Path) -> None:
    clip = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for value in range(10):
        writer.write(np.full((48, 64, 3), value * 20, np.uint8))
    writer.release()

    done = run(
        "--model", str(model), "--source", str(clip), "--label", "red", "--fast", "--port", "0", home=tmp_path
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert f"Watching '{clip}' for red." in done.stdout
    assert "10 frames looked at, 0 skipped" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "Give a CONFIG.toml, or --source."),
        (["{folder}/none.toml"], 1, "cannot be read"),
        (["--model", "{model}", "--source", "0", "--label", "rad", "--port", "0"], 1, "Did you mean 'red'?"),
        (["--model", "{model}", "--source", "0", "--port", "0"], 1, "which of them is an alarm"),
        (
            ["--model", "{model}", "--source", "{folder}/no.mp4", "--label", "red", "--port", "0"],
            1,
            "no clip",
        ),
        (["--model", "{folder}/no.tflite", "--source", "0"], 1, "no.tflite"),
    ],
)
def test_a_mistake_ends_in_two_lines_that_say_the_way_out(
    tmp_path: Path, model: Path, arguments: list[str], code: int, said: str
) -> None:
    done = run(*[text.format(folder=tmp_path, model=model) for text in arguments], home=tmp_path)

    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
