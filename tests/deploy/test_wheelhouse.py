"""A folder of wheels for another machine: complete, the installed versions, and unchanged by a second run.

The index of these tests is a folder of empty wheels that say they need what the installed packages need.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from edgecnn.cli.main import COMMANDS
from edgecnn.cli.provision import CPUS as CLI_CPUS
from edgecnn.cli.provision import TARGETS as CLI_TARGETS
from edgecnn.deploy import emulator, wheelhouse
from edgecnn.deploy.wheel import own_wheel
from edgecnn.errors import DeployError

ARM64 = wheelhouse.TARGETS["bookworm-arm64"]
ARMHF = wheelhouse.TARGETS["bookworm-armhf"]
SIMPLEJPEG = "1.9.0"
Ran = list[list[str]]


def empty_wheel(folder: Path, name: str, version: str, needs: list[str], tag: str = "py3-none-any") -> Path:
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", "\n".join(lines + [f"Requires-Dist: {need}" for need in needs]))
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    for installed in metadata.distributions():
        name = canonicalize_name(installed.metadata["Name"]).replace("-", "_")
        if name != "edgecnn":
            empty_wheel(folder, name, installed.version, installed.requires or [])
    empty_wheel(folder, "simplejpeg", SIMPLEJPEG, ["numpy"])
    return folder


@pytest.fixture(scope="module", autouse=True)
def code_at_rest() -> Iterator[None]:
    """Others may edit the code while this runs."""
    packed = own_wheel()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wheelhouse, "own_wheel", lambda: packed)
        yield


@pytest.fixture(autouse=True)
def only_this_index(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


@pytest.fixture(scope="module")
def built(index: Path, code_at_rest: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(index))
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        wheelhouse.build(ARM64, folder, lambda _: None)
    return folder


@pytest.fixture
def house(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "house")
    return tmp_path / "house"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """What was downloaded; the rest of each run is pip's own."""
    ran: Ran = []
    real = subprocess.run

    def run(command: list[str], **options: object) -> object:
        ran.append(command)
        return real(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", run)
    return ran


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.iterdir()
    }


def names(house: wheelhouse.Wheelhouse) -> set[str]:
    return {wheel.name.split("-")[0] for wheel in house.files}


def test_a_wheelhouse_holds_edgecnn_its_interpreter_and_what_those_need_and_no_tensorflow(
    house: Path,
) -> None:
    found = wheelhouse.read(house)

    needed = {
        "edgecnn",
        "ai_edge_litert",
        "numpy",
        "opencv_python_headless",
        "msgspec",
        "anyio",
        "cryptography",
        "simplejpeg",
    }
    assert needed <= names(found)
    assert not {"tensorflow", "tf_keras", "pytest", "tflite_runtime"} & names(found)
    assert (found.target, found.python) == ("bookworm-arm64", "3.11")


def test_a_device_gets_the_very_versions_that_are_installed_here(house: Path) -> None:
    found = {w.name.split("-")[0]: w.name.split("-")[1] for w in wheelhouse.read(house).files}

    assert found.pop("simplejpeg") == SIMPLEJPEG  # of picamera2, which nobody can install here
    assert found == {name: metadata.version(name) for name in found}


def test_pip_finds_everything_in_the_wheelhouse_without_an_index(house: Path, tmp_path: Path) -> None:
    """For this machine, whose packages are the same here: the empty wheels fit everywhere."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-index",
         "--find-links", str(house), "--target", str(tmp_path / "x"), "edgecnn[gpio,signing]"],
        capture_output=True, text=True, check=False, env={"PIP_CONFIG_FILE": "/dev/null", "PATH": "/usr/bin"},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


def test_a_second_run_changes_nothing_and_downloads_nothing(house: Path, downloads: Ran) -> None:
    before = contents(house)

    wheelhouse.build(ARM64, house, lambda _: None)

    assert contents(house) == before
    assert downloads == []


def test_a_run_that_was_stopped_goes_on_and_fetches_only_what_is_missing(house: Path, downloads: Ran) -> None:
    before = contents(house)
    (house / wheelhouse.INDEX).unlink()
    lost = next(house.glob("anyio-*.whl"))
    lost.unlink()

    wheelhouse.build(ARM64, house, lambda _: None)

    assert [word.split("==")[0] for command in downloads for word in command if "==" in word] == ["anyio"]
    assert {n: digest for n, (digest, _) in contents(house).items()} == {n: d for n, (d, _) in before.items()}


def test_a_wheel_that_was_changed_is_noticed_and_mended(house: Path) -> None:
    wheel = next(house.glob("idna-*.whl"))
    good = wheel.read_bytes()
    wheel.write_bytes(good[:-1] + b"?")

    with pytest.raises(DeployError, match="idna"):
        wheelhouse.read(house)
    wheelhouse.build(ARM64, house, lambda _: None)

    assert wheel.read_bytes() == good
    wheelhouse.read(house)


def test_a_wheel_that_is_needed_no_more_goes_and_a_file_of_the_user_stays(house: Path) -> None:
    (house / "notes.txt").write_text("mine")
    path = house / wheelhouse.INDEX
    old = empty_wheel(house, "edgecnn", "0.0.1", [])
    digest = hashlib.sha256(old.read_bytes()).hexdigest()
    entry = f'{{"name": "{old.name}", "sha256": "{digest}", "size_bytes": 1}}'
    path.write_text(path.read_text().replace('"files": [', f'"files": [{entry},', 1))

    wheelhouse.build(ARM64, house, lambda _: None)

    assert not old.exists()
    assert (house / "notes.txt").read_text() == "mine"


def test_a_wheelhouse_that_is_not_complete_is_none(house: Path) -> None:
    (house / wheelhouse.INDEX).unlink()

    with pytest.raises(DeployError, match="no complete wheelhouse"):
        wheelhouse.read(house)


def test_a_folder_for_one_kind_of_device_is_not_filled_for_another(house: Path) -> None:
    with pytest.raises(DeployError, match="bookworm-arm64"):
        wheelhouse.build(wheelhouse.TARGETS["trixie-arm64"], house, lambda _: None)


def test_where_the_index_has_no_wheel_all_that_is_missing_is_named_and_nothing_is_called_complete(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poorer = shutil.copytree(index, tmp_path / "index")
    for name in ("msgspec", "cffi"):
        next(poorer.glob(f"{name}-*.whl")).unlink()
    monkeypatch.setenv("PIP_FIND_LINKS", str(poorer))

    with pytest.raises(DeployError, match=r"msgspec==.*for edgecnn.*cffi==.*for cryptography") as caught:
        wheelhouse.build(ARM64, tmp_path / "house", lambda _: None)

    assert "PIP_EXTRA_INDEX_URL" in caught.value.fix
    assert not (tmp_path / "house" / wheelhouse.INDEX).exists()


def test_a_32_bit_device_gets_the_old_interpreter_and_its_numpy_from_debian(tmp_path: Path) -> None:
    wheel = tmp_path / own_wheel()[0]
    wheel.write_bytes(own_wheel()[1])

    needed = {r.name: r for r in wheelhouse.requirements_of(wheel, ARMHF)}

    assert "tflite-runtime" in needed
    assert "ai-edge-litert" not in needed
    (numpy,) = (p for p in ARMHF.apt if p.distribution == "numpy")
    assert needed["numpy"].specifier.contains(numpy.version)


def test_a_condition_is_asked_of_the_device_and_not_of_this_machine(tmp_path: Path) -> None:
    conditions = {
        "on_arm": "platform_machine == 'aarch64'",
        "on_13": "python_version >= '3.13'",
        "on_windows": "sys_platform == 'win32'",
        "for_siren": "extra == 'siren'",
    }
    wheel = empty_wheel(
        tmp_path, "x", "1", [f"{name}; {condition}" for name, condition in conditions.items()]
    )

    def found(target: str, *extras: str) -> list[str]:
        return [r.name for r in wheelhouse.requirements_of(wheel, wheelhouse.TARGETS[target], extras)]

    assert found("bookworm-arm64") == ["on_arm"]
    assert found("trixie-arm64", "siren") == ["on_arm", "on_13", "for_siren"]
    assert found("bookworm-armhf") == []


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("cp311-cp311-manylinux_2_17_aarch64", True),
        ("cp39-abi3-manylinux_2_34_aarch64", True),
        ("py3-none-any", True),
        ("cp311-cp311-manylinux_2_41_aarch64", False),  # needs a later C library
        ("cp313-cp313-manylinux_2_17_aarch64", False),
        ("cp311-cp311-manylinux_2_17_x86_64", False),
        ("cp311-cp311-musllinux_1_2_aarch64", False),
    ],
)
def test_only_wheels_that_run_there_are_taken(tmp_path: Path, tag: str, fits: bool) -> None:
    path = empty_wheel(tmp_path, "x", "1", [], tag)

    found = wheelhouse._on_disk(tmp_path, wheelhouse.Requirement("x==1"), ARM64)

    assert found == (path if fits else None)


def test_the_own_wheel_installs_and_runs(tmp_path: Path) -> None:
    name, content = own_wheel()
    (tmp_path / name).write_bytes(content)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]

    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(tmp_path / name)], check=True)
    code = (
        "import edgecnn, sys; from edgecnn.cli.main import main; sys.argv = ['edgecnn', '--version']; main()"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=True
    )

    assert (tmp_path / "site/bin/edgecnn").is_file()
    assert said.stdout.split()[-1] == metadata.version("edgecnn")


def test_the_same_code_packs_into_the_same_wheel() -> None:
    assert own_wheel() == own_wheel()


def test_the_command_line_offers_what_the_room_knows() -> None:
    assert (set(CLI_TARGETS), CLI_CPUS) == (set(wheelhouse.TARGETS), emulator.CPUS)
    assert {"keys", "sign", "wheelhouse", "emulate"} <= set(COMMANDS)
