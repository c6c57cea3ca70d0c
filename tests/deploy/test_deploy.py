"""A deploy over a real ssh to a device on this machine, whose camera shows a rendered clip."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import free_port, until
from deploy_faults import (
    FAULTS,
    MOMENTS,
    UNTIL_IT_DIES_S,
    Field,
    break_at,
    field_of,
    options,
    write_other,
)
from pi_box import wait_settled

from edgecnn.bundle import signature
from edgecnn.cli.deploy import Transcript
from edgecnn.deploy import flow
from edgecnn.deploy.device.layout import digest
from edgecnn.deploy.remote import Link, LinkLost, Target

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("deploy"),
    pytest.mark.skipif(
        shutil.which("sshd", path="/usr/sbin") is None, reason="needs sshd: apt-get install openssh-server"
    ),
]

BROKEN = [
    ("send", "cut_the_link"),
    ("prove", "truncate_the_model"),
    ("hand over to the device", "kill_the_workstation"),
    ("proving", "fill_the_disk"),
    ("probation", "reboot"),
]
"""Some of each kind; ``make deploy-faults`` breaks in at every step in every way."""


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with field_of(tmp_path_factory.mktemp("field")) as found:
        yield found


def deploy(field: Field, model: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return field.box.deploy(
        "--model", model, "--config", field.box.config(field.clip), *options(field), *words
    )


def go_back(field: Field) -> flow.Outcome:
    box, words = field.box, field.box.command()
    target = Target(box.name, ssh_config=box.ssh_config, root=str(box.root))
    return flow.roll_back(target, words[words.index("--systemctl") + 1], 1, Transcript())


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cut the link at the first hand-over: the device goes on, and nobody here has heard of it."""
    deploys: list[str] = []
    ask = Link.ask

    def cut(link: Link, do: str, *body: bytes, **words: Any) -> dict[str, Any]:
        answer = ask(link, do, *body, **words)
        if do == "commit" and not deploys:
            deploys.append(answer["deploy"])
            raise link._lost()
        return answer

    monkeypatch.setattr(Link, "ask", cut)
    return deploys


def test_what_is_deployed_watches_and_the_history_says_who_and_what_and_when(field: Field) -> None:
    running = field.box.watching()

    entry = field.box.history()[-1]

    assert running in [digest(str(model)) for model in field.models]
    assert entry["files"]["fire.tflite"] == running
    assert (entry["action"], "@" in entry["who"], entry["at"][-1]) == ("deployed", True, "Z")


def test_the_same_deploy_once_more_changes_nothing(field: Field) -> None:
    box = field.box
    running, history, pid = box.watching(), box.history(), box.control("show", "edgecnn.service")
    model = next(m for m in field.models if digest(str(m)) == running)

    done = deploy(field, model, "--json")

    said = json.loads(done.stdout)
    assert (said["state"], said["files"]["fire.tflite"]) == ("unchanged", running)
    assert said["slot"] == (box.root / "current").resolve().name
    assert list(said["seconds"]) == ["look at the device", "pack", "take the device"]
    assert (box.history(), box.control("show", "edgecnn.service")) == (history, pid)


def test_a_look_says_what_the_device_is_and_leaves_nothing_there(field: Field) -> None:
    fresh = field.box.folder / "fresh"

    done = field.box.deploy("--dry-run", "--json", "--root", fresh)

    said = json.loads(done.stdout)
    assert said["facts"]["python"] == ".".join(map(str, sys.version_info[:2]))
    assert said["refusals"] == []
    assert not fresh.exists()


def test_an_unknown_host_key_stops_it_and_says_what_to_do(field: Field) -> None:
    known = field.box.known_hosts.read_text()
    field.box.known_hosts.write_text("")

    done = field.box.deploy("--status")
    field.box.known_hosts.write_text(known)

    assert done.returncode == 1
    assert "host key" in done.stderr
    assert "compare the fingerprint" in done.stderr


def test_a_device_that_is_switched_off_is_named_within_seconds(field: Field) -> None:
    done = field.box.deploy("--status", "--port", str(free_port()))

    assert done.returncode == 1
    assert "cannot be reached" in done.stderr


def test_a_model_that_computes_something_else_on_the_device_never_disturbs_the_one_that_runs(
    field: Field, tmp_path: Path
) -> None:
    box = field.box
    running, pid = box.watching(), box.control("show", "edgecnn.service")
    write_other(field.models[0], tmp_path / "bad.tflite", golden_off_by=1)

    done = deploy(field, tmp_path / "bad.tflite")

    assert done.returncode == 1
    assert "gives other results here" in done.stderr
    assert (box.watching(), box.control("show", "edgecnn.service")) == (running, pid)


def test_a_camera_that_is_not_there_costs_nothing_but_a_refusal(field: Field) -> None:
    running, model = field.box.watching(), field.new_model()
    config = field.box.config(field.box.folder / "unplugged.avi")

    done = field.box.deploy("--model", model, "--config", config, *options(field))

    assert done.returncode == 3
    assert "no clip, folder or camera" in done.stderr
    assert until(lambda: field.box.watching() == running, 30)


def test_a_watch_that_dies_on_probation_gives_way_to_the_one_before(field: Field) -> None:
    running, model = field.box.watching(), field.new_model()
    config = field.box.config(field.short_clip)

    done = field.box.deploy("--model", model, "--config", config, *options(field, UNTIL_IT_DIES_S))

    assert done.returncode == 3
    assert "took the release back" in done.stderr
    assert until(lambda: field.box.watching() == running, 30)
    assert field.box.history()[-1]["action"] == "taken back"
    assert field.box.history()[-1]["files"]["fire.tflite"] == digest(str(model))


def test_a_release_that_was_taken_back_can_be_deployed_again_but_not_gone_back_to(field: Field) -> None:
    field.need_new_environment()
    model, config = field.new_model(), field.box.config(field.short_clip)
    words = ("--model", model, "--config", config, *options(field, UNTIL_IT_DIES_S))

    first, again = field.box.deploy(*words), field.box.deploy(*words, "--json")
    back = field.box.deploy("--rollback", "--probation", "1")

    assert (first.returncode, again.returncode) == (3, 3), again.stderr
    assert "installed from the wheelhouse" in first.stderr
    assert "0.0 of" in again.stderr
    assert "is there already" in again.stderr
    assert [entry["action"] for entry in field.box.history()[-2:]] == ["taken back", "taken back"]
    said = json.loads(again.stdout)
    assert (said["state"], said["files"]["fire.tflite"]) == ("taken back", digest(str(model)))
    assert "died" in said["reason"]
    assert (back.returncode, "holds no other release" in back.stderr) == (1, True), back.stderr


def test_a_person_can_go_back_to_the_release_before(field: Field) -> None:
    before = field.box.watching()
    assert deploy(field, field.new_model()).returncode == 0

    done = field.box.deploy("--rollback", "--probation", "1", "--json")

    assert done.returncode == 0, done.stdout + done.stderr
    assert field.box.watching() == before
    said = json.loads(done.stdout)
    assert (said["state"], said["files"]["fire.tflite"]) == ("rolled back", before)
    assert field.box.history()[-1]["action"] == "rolled back"


def test_a_way_back_whose_link_was_cut_at_the_hand_over_is_gone_once(field: Field, lost: list[str]) -> None:
    before = field.box.watching()
    assert deploy(field, field.new_model()).returncode == 0

    outcome = go_back(field)

    assert (outcome.state, field.box.watching()) == ("rolled back", before)
    assert [entry["deploy"] for entry in field.box.history() if entry["action"] == "rolled back"][-1:] == lost


def test_whoever_did_not_see_the_end_of_a_way_back_is_told_to_ask_what_runs_before_the_next(
    field: Field, lost: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deploy(field, field.new_model()).returncode == 0
    monkeypatch.setattr(flow, "ATTEMPTS", 1)

    with pytest.raises(LinkLost) as caught:
        go_back(field)
    assert wait_settled(field.box)

    assert "--status" in caught.value.fix


@pytest.mark.parametrize(("moment", "fault"), BROKEN)
def test_a_deploy_that_is_broken_leaves_the_old_model_or_the_new_one_whole(
    field: Field, moment: str, fault: str
) -> None:
    assert moment in MOMENTS

    outcome = break_at(field, moment, next(f for f in FAULTS if f.__name__ == fault))

    assert outcome.is_whole, outcome


def test_a_fallback_that_has_changed_alone_is_deployed_with_the_model_it_stands_in_for(
    field: Field, tmp_path: Path
) -> None:
    model, spare = tmp_path / "coral.tflite", tmp_path / "spare.tflite"
    write_other(field.models[0], model)
    write_other(field.models[0], spare)
    config = field.box.config(field.clip)
    pair = 'delegate = "/no/stick.so"\nfallback = "spare.tflite"\nthreads = 1'
    config.write_text(config.read_text().replace("threads = 1", pair))
    words = ("--model", model, "--config", config, *options(field), "--json")

    first = field.box.deploy(*words)
    same = field.box.deploy(*words)
    write_other(field.models[0], tmp_path / "other.tflite")
    shutil.copy(tmp_path / "other.tflite", spare)
    second = field.box.deploy(*words)

    assert first.returncode == 0, first.stderr
    assert "The CPU looks meanwhile" in first.stderr
    assert [json.loads(done.stdout)["state"] for done in (same, second)] == ["unchanged", "deployed"]
    assert until(lambda: field.box.watching() == digest(str(spare)), 30)


# The last of all: from here on the device trusts a key.


def test_a_device_that_trusts_a_key_takes_only_what_it_has_signed_and_nothing_older(
    field: Field, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    key, public = signature.new_keys(tmp_path / "maker")
    old, new = tmp_path / "old.tflite", tmp_path / "new.tflite"
    shutil.copy(field.new_model(), old)
    shutil.copy(field.new_model(), new)
    signature.sign(old, key, 1)
    signature.sign(new, key, 2)

    unsigned = deploy(field, field.new_model(), "--trust", public)
    signed = deploy(field, new)
    older = deploy(field, old)
    by_name = deploy(field, old, "--allow-downgrade", "1")
    history = field.box.history()
    again = deploy(field, old, "--trust", public)

    assert (unsigned.returncode, "is not signed" in unsigned.stderr) == (1, True), unsigned.stderr
    assert signed.returncode == 0, signed.stdout + signed.stderr
    assert (older.returncode, "--allow-downgrade 1" in older.stderr) == (1, True), older.stderr
    assert by_name.returncode == 0, by_name.stderr
    assert (again.returncode, "unchanged" in again.stdout) == (0, True), again.stdout + again.stderr
    assert field.box.history() == history
    assert field.box.watching() == digest(str(old))
