"""What a device must be, before anything is changed on it."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from typing import Any

import pytest

from edgecnn.deploy.device.facts import facts as look
from edgecnn.deploy.fitness import Facts, described, facts_from, of_wheels, python_of, refusals, refuse
from edgecnn.deploy.wheelhouse import Wheelhouse
from edgecnn.errors import DeployError

PI_4 = Facts(
    board="Raspberry Pi 4 Model B Rev 1.5",
    os="Debian GNU/Linux 12 (bookworm)",
    codename="bookworm",
    machine="aarch64",
    bits=64,
    glibc="2.36",
    python="3.11",
    pythons={"3.11": "/usr/bin/python3"},
    has_venv=True,
    has_opencv=False,
    has_picamera2=True,
    disk_free_bytes=20 << 30,
    memory_bytes=4 << 30,
    memory_available_bytes=3 << 30,
    cameras=("picamera:0 (imx708)",),
    coral=None,
    throttled=0x50000,
    clock_utc_s=0.0,
    has_systemd=True,
    user="pi",
    hostname="porch",
    is_root=False,
    has_sudo=True,
    may_write_root=False,
)


def found(skew_s: float = 0.0, needs_systemd: bool = True, **changes: Any) -> str:
    facts = replace(PI_4, **changes)
    return " ".join(r.found for r in refusals(facts, skew_s, None, needs_systemd, has_environment=False))


def test_a_raspberry_pi_4_with_bookworm_carries_a_release() -> None:
    assert found() == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"glibc": None}, "not glibc"),
        ({"glibc": "2.27"}, "glibc 2.27 is older"),
        ({"machine": "armv6l", "bits": 32, "has_opencv": True}, "ARMv6"),
        ({"bits": 32}, "32-bit programs under a 64-bit kernel"),
        ({"machine": "armv7l", "bits": 32}, "no wheel of OpenCV"),
        (
            {"machine": "armv7l", "bits": 32, "has_opencv": True, "python": "3.13", "pythons": {"3.13": "p"}},
            "ends with Python 3.11",
        ),
        ({"python": "3.9", "pythons": {"3.9": "p"}}, "Python 3.9 is none of 3.10 to 3.13"),
        ({"has_venv": False}, "cannot make environments"),
        ({"disk_free_bytes": 100 << 20}, "100 MB free of the 700 MB"),
        ({"memory_bytes": 256 << 20}, "256 MB of memory"),
        ({"skew_s": -4000.0}, "4000 s behind"),
        ({"has_systemd": False}, "systemd does not run"),
        ({"has_sudo": False}, "may not call sudo"),
        ({"needs_systemd": False}, "may not write there"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_device_that_cannot_work_is_refused_with_the_reason(change: dict[str, Any], words: str) -> None:
    assert words in found(**change)


def test_a_wheelhouse_for_another_python_is_refused() -> None:
    facts = replace(PI_4, pythons={"3.11": "p"})

    (refusal,) = refusals(facts, 0.0, "3.13", needs_systemd=True, has_environment=False)

    assert "for Python 3.13" in refusal.found
    assert "edgecnn wheelhouse" in refusal.fix


def test_a_wheelhouse_for_another_processor_is_refused_with_the_one_to_take() -> None:
    (refusal,) = of_wheels(PI_4, Wheelhouse("bookworm-armhf", "3.11", ()))

    assert "for armv7l; it is aarch64" in refusal.found
    assert "--for bookworm-arm64" in refusal.fix
    assert of_wheels(PI_4, Wheelhouse("bookworm-arm64", "3.11", ())) == ()


def test_a_32_bit_system_with_debians_opencv_carries_a_release() -> None:
    assert found(machine="armv7l", bits=32, has_opencv=True) == ""


def test_a_system_whose_python_is_too_new_is_served_by_an_older_one_beside_it() -> None:
    facts = replace(PI_4, python="3.14", pythons={"3.14": "p", "3.12": "q", "3.11": "r"})

    assert python_of(facts, None) == "3.12"


def test_a_second_release_needs_little_disk() -> None:
    facts = replace(PI_4, disk_free_bytes=100 << 20)

    assert refusals(facts, 0.0, None, needs_systemd=True, has_environment=True) == ()


def test_everything_that_stands_in_the_way_is_named_at_once() -> None:
    facts = replace(PI_4, has_venv=False, memory_bytes=1)

    with pytest.raises(DeployError) as error:
        refuse("porch", refusals(facts, 0.0, None, needs_systemd=True, has_environment=False))

    assert "environments" in error.value.message
    assert "memory" in error.value.message


def test_the_facts_of_this_machine_are_its_own(tmp_path: Any) -> None:
    facts = facts_from(look(str(tmp_path / "not" / "there")))

    assert facts.machine == platform.machine()
    assert facts.python == ".".join(platform.python_version_tuple()[:2])
    assert facts.is_root == (os.getuid() == 0)
    assert not (tmp_path / "not").exists()
    assert refusals(replace(facts, disk_free_bytes=1 << 40), 0.0, None, False, False) == ()


def test_a_person_is_told_that_the_power_was_too_low_in_the_past() -> None:
    assert described(PI_4, -2.0)["power"] == "since the start: under-voltage, throttled"
