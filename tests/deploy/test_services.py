"""What the guard believes of a program that answers for systemd, and now and then does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.deploy.device.services import TRIES, WATCH, Services

SYSTEMCTL = """#!/bin/sh
echo . >> {folder}/asked
if [ "$(wc -l < {folder}/asked)" -le {failing_count} ]; then
    echo 'Failed to get properties: Connection timed out' >&2
    exit 1
fi
[ "$1" = show ] && echo 42 || echo active
"""


def services(folder: Path, failing_count: int) -> Services:
    program = folder / "systemctl"
    program.write_text(SYSTEMCTL.format(folder=folder, failing_count=failing_count))
    program.chmod(0o755)
    return Services([str(program)], str(folder))


def test_a_question_that_fails_once_is_not_the_death_of_a_service(tmp_path: Path) -> None:
    assert services(tmp_path, 1).main_pid(WATCH) == 42


def test_a_question_that_fails_once_does_not_make_a_service_inactive(tmp_path: Path) -> None:
    assert services(tmp_path, 1).is_active(WATCH)


@pytest.mark.parametrize(("failing_count", "pid"), [(TRIES - 1, 42), (TRIES, 0)])
def test_a_manager_that_never_answers_is_believed_after_some_tries(
    tmp_path: Path, failing_count: int, pid: int
) -> None:
    assert services(tmp_path, failing_count).main_pid(WATCH) == pid
    assert len((tmp_path / "asked").read_text().splitlines()) == TRIES
