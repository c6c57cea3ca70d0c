"""An emulated Pi: whole or not there, and computing the integers that this machine computes.

Built once, in a minute, from the network: these tests run where it is in the cache or ``EDGECNN_EMULATE=1``
asks for it, as ``make emulate`` does.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import orange
import pytest
import tiny_models
from broker import free_port

from edgecnn.deploy import emulator
from edgecnn.deploy.rehearsal import difference, rehearse
from edgecnn.errors import DeployError
from edgecnn.runtime import replay

EDGECNN = [sys.executable, "-m", "edgecnn"]


@pytest.fixture(scope="module")
def pi() -> emulator.Emulator:
    if not (emulator.is_ready() or os.environ.get("EDGECNN_EMULATE")):
        pytest.skip("needs an emulated Pi in the cache; 'make emulate' builds it")
    return emulator.prepare(print)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write(tmp_path_factory.mktemp("model") / "tiny.tflite").path


def there(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EDGECNN, "emulate", *words], capture_output=True, text=True, check=False, timeout=120, **options
    )  # type: ignore[call-overload, no-any-return]


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that do nothing, in front of the real ones, and an empty cache."""
    folder = tmp_path / "bin"
    for name in emulator.PROGRAMS:
        program(folder, name, "exit 0")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_program_that_is_missing_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(emulator.PROGRAMS, "no-such-emulator", "qemu-that-is-not-there")

    with pytest.raises(DeployError) as caught:
        emulator.prepare(print)

    assert "sudo apt install" in caught.value.fix
    assert "qemu-that-is-not-there" in caught.value.fix


def test_a_root_whose_building_fails_leaves_nothing_that_could_be_taken_for_one(
    stand_ins: Path, tmp_path: Path
) -> None:
    program(
        stand_ins, "debootstrap", 'for last; do :; done; mkdir -p "$last/usr"; echo "E: no mirror"; exit 1'
    )

    with pytest.raises(DeployError, match="E: no mirror"):
        emulator.prepare(print)

    assert [path.name for path in (tmp_path / "cache/emulator").iterdir()] == [".lock"]
    assert not emulator.is_ready()


def test_what_a_killed_builder_has_left_is_cleared_away_by_the_next(stand_ins: Path, tmp_path: Path) -> None:
    draft = tmp_path / "cache/emulator/bookworm-0.part"
    (draft / "usr").mkdir(parents=True)
    program(stand_ins, "debootstrap", "exit 1")

    with pytest.raises(DeployError):
        emulator.prepare(print)

    assert not draft.exists()


def test_what_was_replayed_comes_back_from_the_disk_as_it_was(model: Path, tmp_path: Path) -> None:
    replay.write_pictures(tmp_path, [np.full((9, 20, 3), 200, np.uint8), np.zeros((40, 9, 3), np.uint8)])
    made = replay.replay(model, tmp_path)

    replay.save(tmp_path / replay.RESULT, made)
    found = replay.read(tmp_path / replay.RESULT)

    assert found.resized.shape == (2, tiny_models.SIDE, tiny_models.SIDE, 3)
    assert len(found.recorded[0]) == 2
    for name in ("recorded", "same", "outputs"):
        assert difference(getattr(made, name), getattr(found, name)).differing_count == 0


def test_a_number_that_is_none_counts_as_different() -> None:
    broken = [np.float32([[np.nan], [1.0]])]

    assert difference(broken, [np.float32([[0.0], [1.0]])]).differing_count == 1


def test_the_emulated_machine_is_arm_in_every_environment(pi: emulator.Emulator) -> None:
    assert there("uname", "-m").stdout == "aarch64\n"
    assert there("env", "-i", "/usr/bin/uname", "-m").stdout == "aarch64\n"


def test_a_program_there_is_shown_its_own_files_and_not_those_of_this_machine(pi: emulator.Emulator) -> None:
    done = there("ls", "-l", "/etc/passwd", "/opt")

    size = int(done.stdout.split()[4])
    assert (done.returncode, done.stderr) == (0, "")
    assert size == (pi.root / "etc/passwd").stat().st_size
    assert stat.S_ISREG((pi.root / "etc/passwd").stat().st_mode)


def test_the_status_of_a_program_there_is_the_status_here(pi: emulator.Emulator) -> None:
    assert there("sh", "-c", "exit 7").returncode == 7


def test_the_very_packages_that_are_installed_here_run_there(pi: emulator.Emulator) -> None:
    code = "import numpy, cv2, importlib.metadata as m; print(numpy.__version__, m.version('ai-edge-litert'))"

    here = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert there("python", "-c", code).stdout == here.stdout


@pytest.mark.parametrize("cpu", emulator.CPUS)
def test_an_int8_model_gives_on_arm_the_same_integers(pi: emulator.Emulator, model: Path, cpu: str) -> None:
    noise = list(np.random.default_rng(5).integers(0, 256, (8, 48, 64, 3), np.uint8))

    here, far = rehearse(emulator.Emulator(pi.root, pi.site, cpu), model, noise)

    assert difference(here.recorded, far.recorded).differing_count == 0
    assert difference(here.same, far.same).differing_count == 0
    assert difference(here.same, far.same).count == 8


def test_predict_says_the_same_here_and_there(pi: emulator.Emulator, model: Path, tmp_path: Path) -> None:
    import cv2

    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), tiny_models.pictures(1)[0])

    here = subprocess.run(
        [*EDGECNN, "predict", str(model), str(picture), "--json"], capture_output=True, text=True, check=True
    )
    far = there("predict", str(model), str(picture), "--json")

    assert far.returncode == 0, far.stderr
    assert json.loads(far.stdout)["heads"] == json.loads(here.stdout)["heads"]


def told(text: str) -> list[str]:
    """What a watch said, without the times and the names of incidents."""
    return [re.sub(r"^\d\d:\d\d:\d\d |, incident \S+", "", line) for line in text.splitlines()]


def test_a_clip_that_is_watched_there_raises_the_alarm_that_it_raises_here(
    pi: emulator.Emulator, tmp_path: Path
) -> None:
    model = orange.write_model(tmp_path / "fire.tflite").path
    clip = orange.write_clip(tmp_path / "clip.mp4", calm_s=1, fire_s=2)
    words = ["watch", "--model", str(model), "--source", str(clip), "--fast", "--port", "0"]

    here = subprocess.run([*EDGECNN, *words], capture_output=True, text=True, check=True)
    far = there(*words)

    assert far.returncode == 0, far.stderr
    assert any(line.startswith("fire: started") for line in told(far.stdout))
    assert told(far.stdout) == told(here.stdout)


def test_a_damaged_model_is_refused_there_without_a_traceback(
    pi: emulator.Emulator, model: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(model.read_bytes()[:-50])

    done = there("verify", str(cut))

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Fix:" in done.stderr


@contextmanager
def reachable(disk: Path) -> Iterator[list[str]]:
    """How to run a command on an emulated Pi over ssh, until it is ended."""
    process = subprocess.Popen(
        [*EDGECNN, "emulate", "sshd", "--disk", str(disk), "--port", str(free_port())],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    ssh = ["ssh", "-F", str(disk / "ssh_config"), "-o", "BatchMode=yes", "pi"]
    try:
        end_s = time.monotonic() + 60
        while subprocess.run([*ssh, "true"], capture_output=True, check=False).returncode:
            assert time.monotonic() < end_s, "it cannot be reached"
            assert process.poll() is None, "its sshd has ended"
            time.sleep(0.5)
        yield ssh
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def running(words: str) -> int:
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return sum(words.encode() in line.replace(b"\0", b" ") for line in lines)


def test_a_service_of_an_emulated_pi_outlives_its_session_and_ends_with_the_pi_whose_disk_stays(
    pi: emulator.Emulator, tmp_path: Path
) -> None:
    with reachable(tmp_path / "pi") as ssh:
        said = subprocess.run([*ssh, "uname -m"], capture_output=True, text=True, check=True)
        start = "nohup sleep 987654 > /dev/null 2>&1 < /dev/null & echo kept > ~/note"
        subprocess.run([*ssh, start], check=True)
        before = running("sleep 987654")

    assert said.stdout == "aarch64\n"
    assert (before > 0, running("sleep 987654")) == (True, 0)
    with reachable(tmp_path / "pi") as ssh:
        kept = subprocess.run([*ssh, "cat ~/note"], capture_output=True, text=True, check=True)
    assert kept.stdout == "kept\n"
