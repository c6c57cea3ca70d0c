"""How things lie on the device, and what a power cut leaves of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgecnn.deploy.device.layout import PROVING, SETTLED, Layout, intact
from edgecnn.deploy.device.refused import Refused
from edgecnn.deploy.device.session import Session
from edgecnn.deploy.release import sha256

DATA = bytes(range(256)) * 40


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path))


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(str(tmp_path), b"agent")


def test_a_device_that_never_saw_a_release_has_settled_on_none(layout: Layout) -> None:
    assert (layout.state()["phase"], layout.current, layout.release(layout.current)) == (SETTLED, None, None)


def test_current_names_the_old_slot_until_it_names_the_new_one(layout: Layout) -> None:
    layout.point_to("a")
    # What a power cut leaves between the two system calls of a switch.
    Path(layout.path(".current.part")).symlink_to("slots/b")

    before = layout.current
    layout.point_to("b")

    assert (before, layout.current) == ("a", "b")


def test_a_state_that_was_torn_while_it_was_written_leaves_the_one_before(layout: Layout) -> None:
    layout.set_state({"phase": PROVING})
    Path(layout.path("state.json.part")).write_text('{"pha')

    assert layout.state() == {"phase": PROVING}


def test_a_line_of_the_history_that_was_torn_costs_no_other(layout: Layout) -> None:
    layout.note({"action": "deployed", "deploy": "1"})
    with Path(layout.path("history.jsonl")).open("a") as file:
        file.write('\n{"action": "depl')
    layout.note({"action": "deployed", "deploy": "2"})

    assert [entry["deploy"] for entry in layout.history()] == ["1", "2"]


def test_a_step_that_is_done_twice_stands_in_the_history_once(layout: Layout) -> None:
    layout.note({"action": "deployed", "deploy": "1"})
    layout.note({"action": "deployed", "deploy": "1"})

    assert len(layout.history()) == 1


def test_a_second_deploy_finds_the_lock_taken_until_the_first_ends(layout: Layout) -> None:
    code = (
        "import sys; from edgecnn.deploy.device.layout import Layout;"
        f"print(Layout({layout.root!r}).lock(wait=False) is not None, flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "True\n"

    second = layout.lock(wait=False)
    first.kill()
    first.communicate()

    assert second is None
    assert layout.lock(wait=False) is not None


def test_a_file_that_was_cut_is_gone_on_with(session: Session, tmp_path: Path) -> None:
    digest = sha256(DATA)
    session.do_append("slots/staging/x", digest, 0, DATA[:5000])

    offset = session.do_offset("slots/staging/x", digest)["offset"]
    session.do_append("slots/staging/x", digest, offset, DATA[offset:])
    session.do_finish("slots/staging/x", digest)

    assert offset == 5000
    assert (tmp_path / "slots/staging/x").read_bytes() == DATA
    assert session.do_offset("slots/staging/x", digest)["offset"] == -1


def test_a_file_that_changed_on_its_way_is_thrown_away(session: Session, tmp_path: Path) -> None:
    session.do_append("x", sha256(DATA), 0, DATA[:-1])

    with pytest.raises(Refused):
        session.do_finish("x", sha256(DATA))

    assert [p for p in tmp_path.iterdir() if p.name.startswith("x")] == []


def test_what_was_begun_of_another_file_is_not_gone_on_with(session: Session) -> None:
    session.do_append("x", sha256(b"other"), 0, b"oth")

    assert session.do_offset("x", sha256(DATA))["offset"] == 0


def test_nothing_is_written_outside_of_the_root(session: Session) -> None:
    with pytest.raises(Refused):
        session.do_append("../x", sha256(DATA), 0, DATA)


def test_a_slot_whose_model_rotted_is_not_switched_to(tmp_path: Path) -> None:
    (tmp_path / "fire.tflite").write_bytes(DATA)
    release = {"files": {"fire.tflite": sha256(DATA)}}
    intact(str(tmp_path), release)
    (tmp_path / "fire.tflite").write_bytes(DATA[:-1])

    with pytest.raises(Refused):
        intact(str(tmp_path), release)


def test_the_device_side_imports_nothing_but_what_python_brings() -> None:
    code = (
        "import importlib, json, pkgutil, sys\n"
        "import edgecnn.deploy.device as room\n"
        "for found in pkgutil.iter_modules(room.__path__):\n"
        "    importlib.import_module(f'{room.__name__}.{found.name}')\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(json.dumps(sorted(names - set(sys.stdlib_module_names))))"
    )

    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)

    assert [n for n in json.loads(done.stdout) if not n.startswith("_")] == ["edgecnn"]
