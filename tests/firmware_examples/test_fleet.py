"""The playbook of the fleet example, over real ssh, to three devices on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faults
import pytest
from broker import Broker, Listener, free_port, until
from deploy_faults import write_other, write_wheelhouse
from pi_box import SUPERVISOR, PiBox, pi_box, write_clip

from edgecnn.deploy.device.layout import digest

EXAMPLE = Path(__file__).resolve().parents[2] / "firmware_examples" / "fleet"
NAMES = ("porch", "yard", "hill")
PROGRAMS = Path(sys.executable).parent

deploys = pytest.mark.skipif(
    not os.environ.get("EDGECNN_FLEET"), reason="three devices install for minutes: make fleet"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("fleet"),
    pytest.mark.skipif(not (PROGRAMS / "ansible-playbook").exists(), reason="needs ansible-core"),
    pytest.mark.skipif(
        shutil.which("sshd", path="/usr/sbin") is None, reason="needs sshd: apt-get install openssh-server"
    ),
]


@dataclass
class Fleet:
    """Three cameras, and what a roll-out to them needs.

    Attributes:
        folder: Holds everything.
        boxes: The canary first.
        models: Two files.
        clip: What a camera sees, for minutes.
        broker_port: Where they report.
    """

    folder: Path
    boxes: tuple[PiBox, ...]
    models: tuple[Path, Path]
    clip: Path
    broker_port: int

    def roll_out(self, model: Path, *words: str, unplugged: str = "") -> subprocess.CompletedProcess[str]:
        """Run the playbook as a person does; the lens of one device may be unplugged."""
        hosts = {box.name: self._host(box, box.name != unplugged) for box in self.boxes}
        inventory = self.folder / "inventory.json"
        inventory.write_text(json.dumps({"cameras": {"hosts": hosts}}))
        said = {
            "edgecnn_model": str(model),
            "edgecnn_rendered": str(self.folder / "rendered"),
            "broker": "127.0.0.1",
            "broker_port": self.broker_port,
        }
        return ansible(
            "ansible-playbook", "-i", str(inventory), "deploy.yml", "-e", json.dumps(said), *words,
            home=self.folder,
        )  # fmt: skip

    def _host(self, box: PiBox, has_camera: bool) -> dict[str, Any]:
        systemctl = shlex.join([sys.executable, str(SUPERVISOR), "ctl", str(box.units)])
        options = ["-F", box.ssh_config, "--root", box.root, "--systemctl", systemctl]
        options += ["--wheelhouse", self.folder / "wheels", "--probation", "2"]
        return {
            "edgecnn_target": box.name,
            "edgecnn_options": list(map(str, options)),
            "camera_source": str(self.clip if has_camera else self.folder / "unplugged.avi"),
            "journal_folder": str(box.folder / "journal"),
            "page_port": box.page_port,
        }

    def watching(self) -> list[str]:
        """Give the digests of the models that watch, of the canary first."""
        return [box.watching() for box in self.boxes]

    def new_model(self) -> Path:
        """Give the model that the canary does not watch with."""
        running = self.boxes[0].watching()
        return next(model for model in self.models if digest(str(model)) != running)


def ansible(program: str, *words: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(EXAMPLE / "ansible.cfg"),  # ignored in a folder that all may write to
        "ANSIBLE_HOME": str(home / "ansible"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "NO_COLOR": "1",
    }
    return subprocess.run(
        [str(PROGRAMS / program), *words], cwd=EXAMPLE, env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


def changed(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Read how much changed on each camera that was visited."""
    found = re.findall(r"^(\w+)\s+: ok=\d+\s+changed=(\d+)", done.stdout, re.MULTILINE)
    return {name: int(count) for name, count in found}


def histories(fleet: Fleet) -> list[int]:
    return [len(box.history()) for box in fleet.boxes]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    models = (folder / "one.tflite", folder / "two.tflite")
    faults.write_model(models[0])
    write_other(models[0], models[1])
    write_wheelhouse(folder / "wheels", "")
    clip = write_clip(folder / "clip.avi", 1800)
    with contextlib.ExitStack() as stack:
        boxes = []
        for name in NAMES:
            (folder / name).mkdir()
            boxes.append(stack.enter_context(pi_box(folder / name, name)))
        yield Fleet(folder, tuple(boxes), models, clip, free_port())


def test_the_example_is_what_ansible_lint_asks_of_production(tmp_path: Path) -> None:
    done = ansible("ansible-lint", "--strict", home=tmp_path)

    assert (done.returncode, "0 failure(s), 0 warning(s)" in done.stderr) == (0, True), (
        done.stdout + done.stderr
    )


def test_a_canary_that_is_switched_off_leaves_the_other_cameras_untouched(fleet: Fleet) -> None:
    fleet.boxes[0].power_off()

    done = fleet.roll_out(fleet.models[0])
    fleet.boxes[0].boot()

    assert done.returncode != 0
    assert "porch cannot be reached" in done.stdout + done.stderr
    assert list(changed(done)) == ["porch"]
    assert [list(box.root.iterdir()) for box in fleet.boxes[1:]] == [[box.units] for box in fleet.boxes[1:]]


def test_a_look_at_every_camera_changes_nothing(fleet: Fleet) -> None:
    done = fleet.roll_out(fleet.models[0], "--check")

    assert done.returncode == 0, done.stdout + done.stderr
    assert changed(done) == dict.fromkeys(NAMES, 0)
    assert not any((box.root / "slots").exists() for box in fleet.boxes)


@deploys
def test_a_roll_out_reaches_every_camera_and_a_second_one_changes_nothing(fleet: Fleet) -> None:
    first = fleet.roll_out(fleet.models[0])
    second = fleet.roll_out(fleet.models[0])

    assert first.returncode == 0, first.stdout + first.stderr
    assert all(changed(first)[name] for name in NAMES)
    assert fleet.watching() == [digest(str(fleet.models[0]))] * 3
    assert second.returncode == 0, second.stdout + second.stderr
    assert changed(second) == dict.fromkeys(NAMES, 0)


@deploys
def test_every_camera_reports_to_the_broker_under_its_own_name(fleet: Fleet) -> None:
    broker = Broker(fleet.folder / "broker", port=fleet.broker_port)
    broker.start()
    listener = Listener(broker.port, "edgecnn/+/available")
    try:
        wanted = {f"edgecnn/{name}/available" for name in NAMES}

        assert until(lambda: {m.topic for m in listener.messages if m.payload == b"online"} == wanted, 30)
    finally:
        listener.close()
        broker.stop()


@deploys
def test_a_canary_that_takes_its_model_back_stops_the_rest(fleet: Fleet) -> None:
    before, visited = fleet.watching(), histories(fleet)

    done = fleet.roll_out(fleet.new_model(), unplugged="porch")

    assert done.returncode != 0
    assert "porch took the release back" in done.stdout
    assert until(lambda: fleet.watching() == before, 30)
    assert histories(fleet) == [visited[0] + 1, *visited[1:]]


@deploys
def test_a_later_camera_that_takes_its_model_back_stops_those_after_it(fleet: Fleet) -> None:
    before, visited, model = fleet.watching(), histories(fleet), fleet.new_model()

    done = fleet.roll_out(model, unplugged="yard")

    assert done.returncode != 0
    assert "yard took the release back" in done.stdout
    assert until(lambda: fleet.watching() == [digest(str(model)), *before[1:]], 30)
    assert histories(fleet) == [visited[0] + 1, visited[1] + 1, visited[2]]


@deploys
def test_a_canary_that_has_the_model_but_hangs_stops_the_rest(fleet: Fleet) -> None:
    canary = fleet.boxes[0]
    running = next(model for model in fleet.models if digest(str(model)) == canary.watching())
    visited, watch = histories(fleet), canary.pids("bin/edgecnn", "watch.toml", "watch ")
    for pid in watch:
        os.kill(pid, signal.SIGSTOP)

    done = fleet.roll_out(running)
    for pid in watch:
        os.kill(pid, signal.SIGCONT)

    assert done.returncode != 0
    assert changed(done) == {"porch": 0}
    assert histories(fleet) == visited
