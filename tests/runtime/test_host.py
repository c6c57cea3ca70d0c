from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgecnn.runtime import host


def test_what_a_pi_tells_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {
        "_BOARD": b"Raspberry Pi 4 Model B Rev 1.5\0",
        "_TEMPERATURE": b"48312\n",
        "_GOVERNOR": b"ondemand\n",
    }
    for name, content in facts.items():
        path = tmp_path / name
        path.write_bytes(content)
        monkeypatch.setattr(host, name, path)
    found = host.host_facts()
    assert found.board == "Raspberry Pi 4 Model B Rev 1.5"
    assert found.temperature_celsius == 48.312
    assert found.governor == "ondemand"


def test_what_a_machine_does_not_tell_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BOARD", "_DMI", "_TEMPERATURE", "_GOVERNOR", "_STATUS"):
        monkeypatch.setattr(host, name, tmp_path / "missing")
    found = host.host_facts()
    assert (found.board, found.temperature_celsius, found.governor) == (None, None, None)
    assert host.peak_memory_bytes() is None


def test_peak_memory_grows_by_what_was_held_for_a_moment() -> None:
    code = (
        "from edgecnn.runtime.host import peak_memory_bytes as peak; before = peak();"
        "held = b'x' * (96 << 20); del held; print(peak() - before)"
    )
    if host.peak_memory_bytes() is None:
        pytest.skip("this kernel does not tell the peak memory of a process")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 90 << 20 <= int(done.stdout) <= 110 << 20
