"""A folder of wheels for a device without internet: edgecnn and all that it needs there.

pip evaluates the conditions of a requirement (``platform_machine != 'armv7l'``) for the machine that it
runs on, so it cannot collect for another one. Here they are evaluated for the device, wheel by wheel, from
what each wheel says that it needs; pip downloads. A package that is installed here too goes out in the very
version that is installed here: what was measured with is what the device gets.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from edgecnn.deploy.wheel import own_wheel
from edgecnn.errors import DeployError

INDEX: Final = "wheelhouse.json"
"""Names every file of a folder that is complete; written last."""

EXTRAS: Final = ("gpio", "signing")
"""What a camera may turn out to need on its hill, beside what every device installs."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AptPackage:
    """A Debian package that stands for a wheel which does not exist.

    Attributes:
        name: For ``apt install``.
        distribution: What Python calls it.
        version: Of the release that the target names.
    """

    name: str
    distribution: str
    version: str


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of device.

    Attributes:
        name: Release of the operating system and architecture, as Debian names them.
        python: Its Python, major and minor.
        machine: What ``platform.machine()`` says there.
        glibc_minor: The 36 of glibc 2.36.
        apt: What comes from Debian instead.
        mends: Requirements of Debian's own packages that its versions do not meet beside ours.
    """

    name: str
    python: str
    machine: str
    glibc_minor: int
    apt: tuple[AptPackage, ...] = ()
    mends: tuple[str, ...] = ()

    @property
    def platforms(self) -> tuple[str, ...]:
        """Platform tags of the wheels that run there, best first."""
        # aarch64 wheels begin with glibc 2.17 (PEP 599).
        manylinux = [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc_minor, 16, -1)]
        return (*manylinux, f"manylinux2014_{self.machine}", f"linux_{self.machine}")

    @property
    def tags(self) -> frozenset[Tag]:
        """All tags of the wheels that run there."""
        major, minor = map(int, self.python.split("."))
        own = cpython_tags((major, minor), platforms=self.platforms)
        pure = compatible_tags((major, minor), f"cp{major}{minor}", self.platforms)
        return frozenset([*own, *pure])

    @property
    def environment(self) -> dict[str, str]:
        """What the conditions of a requirement are evaluated in (PEP 508)."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


TARGETS: Final[Mapping[str, Target]] = {
    target.name: target
    for target in (
        # Bookworm's simplejpeg was built for numpy 1, and its picamera2 imports it; 1.8.1 is the oldest that
        # its encoders take (github.com/raspberrypi/picamera2/issues/1211).
        Target("bookworm-arm64", "3.11", "aarch64", 36, mends=("simplejpeg>=1.8.1",)),
        # The index of Python packages has neither numpy nor OpenCV for 32-bit ARM.
        Target(
            "bookworm-armhf", "3.11", "armv7l", 36,
            (
                AptPackage("python3-numpy", "numpy", "1.24.2"),
                AptPackage("python3-opencv", "opencv-python-headless", "4.6.0"),
            ),
        ),
        Target("trixie-arm64", "3.13", "aarch64", 41),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file of a wheelhouse."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Wheelhouse:
    """What ``wheelhouse.json`` says.

    Attributes:
        target: Name of the kind of device.
        python: Its Python, major and minor.
        files: All wheels, by name.
        apt: Debian packages that the device needs beside them.
    """

    target: str
    python: str
    files: tuple[Wheel, ...]
    apt: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of all wheels together."""
        return sum(wheel.size_bytes for wheel in self.files)


@dataclass(slots=True)
class _Collection:
    """Wheels that were found so far, by name of the package; what was not found, with why it is needed."""

    folder: Path
    target: Target
    say: Say
    wheels: dict[str, Path] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def read(folder: Path) -> Wheelhouse:
    """Read a wheelhouse, and make sure that each of its wheels is there, whole.

    Raises:
        DeployError: If it is none, is not complete, or a wheel was changed.
    """
    house = _index(folder)
    if house is None:
        raise DeployError(
            f"'{folder}' is no complete wheelhouse: {INDEX} is missing.",
            fix="Build it, or finish it: edgecnn wheelhouse --for TARGET --out FOLDER.",
        )
    for wheel in house.files:
        if _digest(folder / wheel.name) != wheel.sha256:
            raise DeployError(
                f"'{wheel.name}' in the wheelhouse '{folder}' is missing or was changed.",
                fix=f"Mend it: edgecnn wheelhouse --for {house.target} --out {folder}.",
            )
    return house


def build(target: Target, folder: Path, say: Say) -> Wheelhouse:
    """Collect every wheel that a kind of device needs; what is there already is kept.

    Args:
        target: The kind of device.
        folder: Where to; made if it is missing. A run that was stopped goes on there.
        say: Is given one sentence a wheel that is fetched.

    Returns:
        What ``read`` then reads.

    Raises:
        DeployError: If a wheel does not exist or cannot be fetched; what was fetched is kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = _index(folder)
        if before is not None and before.target != target.name:
            raise DeployError(
                f"'{folder}' is a wheelhouse for {before.target}, not for {target.name}.",
                fix="Name another folder with --out.",
            )
        _drop_changed(folder, before)
        collection = _Collection(folder, target, say)
        _collect(collection)
        _refuse_missing(collection)
        return _finish(collection, before)
    except OSError as error:
        raise DeployError(
            f"The wheelhouse '{folder}' cannot be written: {error.strerror or error}.",
            fix="Check the path, the permissions and the free space.",
        ) from error


def _collect(collection: _Collection) -> None:
    """Follow requirements from edgecnn's own wheel to the last."""
    name, content = own_wheel()
    own = collection.folder / name
    if not own.is_file() or own.read_bytes() != content:
        _write(own, content)
    collection.wheels["edgecnn"] = own
    mends = [(Requirement(text), "picamera2") for text in collection.target.mends]
    todo, seen = [(Requirement(f"edgecnn[{','.join(EXTRAS)}]"), "edgecnn"), *mends], set[str]()
    while todo:
        new = {
            str(requirement): (requirement, by) for requirement, by in todo if str(requirement) not in seen
        }
        seen |= set(new)
        _fetch_missing(collection, new.values())
        todo = [
            (needed, requirement.name)
            for requirement, by in new.values()
            if (wheel := _wheel_for(collection, requirement, by)) is not None
            for needed in requirements_of(wheel, collection.target, requirement.extras)
        ]


def _fetch_missing(collection: _Collection, asked: Iterable[tuple[Requirement, str]]) -> None:
    """Look for the wheels of requirements in the folder, and fetch the others in one go."""
    wanted: dict[str, str] = {}
    for requirement, by in asked:
        name = canonicalize_name(requirement.name)
        if name in collection.wheels or _comes_from_apt(collection.target, requirement):
            continue
        pinned = _pinned(requirement)
        found = _on_disk(collection.folder, pinned, collection.target)
        if found is not None:
            collection.wheels[name] = found
        else:
            wanted[str(pinned)] = by
    while wanted:
        absent = _fetch(collection, tuple(wanted))
        if absent is None:
            break
        collection.missing[absent] = wanted.pop(absent)


def _comes_from_apt(target: Target, requirement: Requirement) -> bool:
    name = canonicalize_name(requirement.name)
    return any(p.distribution == name and requirement.specifier.contains(p.version) for p in target.apt)


def requirements_of(wheel: Path, target: Target, extras: Iterable[str] = ()) -> tuple[Requirement, ...]:
    """Say what a wheel needs beside it on a kind of device.

    Args:
        wheel: The file.
        target: The kind of device.
        extras: Which of its extras are asked for.

    Returns:
        Requirements without conditions: those whose conditions hold there.

    Raises:
        DeployError: If the file is no wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
            text = archive.read(name).decode("utf-8")
        lines = HeaderParser().parsestr(text).get_all("Requires-Dist") or []
        found = [Requirement(line) for line in lines]
    except (zipfile.BadZipFile, StopIteration, UnicodeDecodeError, InvalidRequirement) as error:
        raise DeployError(f"'{wheel.name}' is no whole wheel.", fix=f"Remove '{wheel}'.") from error
    environments = [target.environment | {"extra": extra} for extra in ("", *sorted(extras))]
    needed = [r for r in found if r.marker is None or any(map(r.marker.evaluate, environments))]
    for requirement in needed:
        requirement.marker = None
    return tuple(needed)


def _wheel_for(collection: _Collection, requirement: Requirement, asked_by: str) -> Path | None:
    """Give the wheel of a requirement; None where apt provides it or there is none."""
    wheel = collection.wheels.get(canonicalize_name(requirement.name))
    if wheel is None or requirement.specifier.contains(parse_wheel_filename(wheel.name)[1], prereleases=True):
        return wheel
    raise DeployError(
        f"{asked_by} needs {requirement}; '{wheel.name}' was chosen before.",
        fix=f"Install versions here that go together: pip install '{requirement}'.",
    )


def _pinned(requirement: Requirement) -> Requirement:
    """Choose the version that is installed here, where there is one and it fits."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        version = ""
    if version and requirement.specifier.contains(version, prereleases=True):
        return Requirement(f"{requirement.name}=={version}")
    return Requirement(f"{requirement.name}{requirement.specifier}")


def _on_disk(folder: Path, requirement: Requirement, target: Target) -> Path | None:
    tags = target.tags
    for path in sorted(folder.glob("*.whl")):
        try:
            name, version, _, found = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        fits = requirement.specifier.contains(version, prereleases=True) and tags & found
        if name == canonicalize_name(requirement.name) and fits:
            return path
    return None


def _fetch(collection: _Collection, pinned: Sequence[str]) -> str | None:
    """Download wheels, all or none; give the first that the index has not for this kind of device."""
    target, part = collection.target, collection.folder / f".{os.getpid()}.part"
    kinds = [f"cp{target.python.replace('.', '')}", "abi3", "none"]
    options = [f"--platform={name}" for name in target.platforms] + [f"--abi={kind}" for kind in kinds]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check",
        "--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={target.python}",
        *options, f"--dest={part}", *pinned,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            absent = next((one for one in pinned if f"distribution found for {one}\n" in done.stderr), None)
            if absent is not None:
                return absent
            raise DeployError(
                f"The wheels cannot be fetched: {_last_error(done.stderr)}",
                fix="Check the network and try again; it goes on where it stopped.",
            )
        for wheel in sorted(part.glob("*.whl")):
            collection.say(f"{wheel.name}, {wheel.stat().st_size:,} bytes")
            name = parse_wheel_filename(wheel.name)[0]
            collection.wheels[name] = wheel.replace(collection.folder / wheel.name)
        return None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _last_error(text: str) -> str:
    r"""Give the last thing that pip calls an error.

    Example:
        >>> _last_error("WARNING: slow\nERROR: No space left on device\n")
        'No space left on device'
    """
    lines = text.strip().splitlines() or ["pip says nothing."]
    errors = [line for line in lines if line.startswith("ERROR: ")] or lines[-1:]
    return errors[-1].removeprefix("ERROR: ")


def _refuse_missing(collection: _Collection) -> None:
    if not collection.missing:
        return
    found = ", ".join(f"{name} (for {by})" for name, by in collection.missing.items())
    raise DeployError(
        f"The index has no wheel for {collection.target.name} of: {found}.",
        fix="Add an index that has them, by PIP_EXTRA_INDEX_URL; for 32-bit Pi OS that is piwheels.",
    )


def _finish(collection: _Collection, before: Wheelhouse | None) -> Wheelhouse:
    target, folder = collection.target, collection.folder
    paths = sorted(collection.wheels.values())
    wheels = tuple(Wheel(p.name, _digest(p) or "", p.stat().st_size) for p in paths)
    house = Wheelhouse(target.name, target.python, wheels, tuple(p.name for p in target.apt))
    if house != before:
        _write(folder / INDEX, msgspec.json.format(msgspec.json.encode(house), indent=1))
    kept = {wheel.name for wheel in wheels}
    for wheel in before.files if before else ():
        if wheel.name not in kept:
            (folder / wheel.name).unlink(missing_ok=True)
    return house


def _drop_changed(folder: Path, house: Wheelhouse | None) -> None:
    for wheel in house.files if house else ():
        path = folder / wheel.name
        if path.is_file() and _digest(path) != wheel.sha256:
            path.unlink()


def _index(folder: Path) -> Wheelhouse | None:
    try:
        return msgspec.json.decode((folder / INDEX).read_bytes(), type=Wheelhouse)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise DeployError(
            f"'{folder / INDEX}' cannot be read: {error}.", fix="Remove that file and build it again."
        ) from error


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
