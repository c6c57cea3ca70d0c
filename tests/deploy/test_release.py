"""What is put together for a device."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import tiny_models
from test_fitness import PI_4

from edgecnn.deploy.device.services import GUARD, WATCH
from edgecnn.deploy.flow import units
from edgecnn.deploy.release import Environment, first_config, model_names, release
from edgecnn.errors import DeployError
from edgecnn.watch.config import parse

CONFIG = 'device = "x"\n[model]\npath = "{}"\n[source]\nuri = "0"\n[[alarm]]\nlabel = "fire"\n{}'
PAIR = CONFIG.replace('path = "{}"', 'path = "fire_edgetpu.tflite"\ndelegate = "edgetpu"\nfallback = "{}"')
ENVIRONMENT = Environment("e" * 16, "python3", {}, (), "", offline=False)


def test_the_model_gets_the_name_that_the_configuration_gives_it() -> None:
    assert model_names(CONFIG.format("fire.tflite", "").encode()) == ("fire.tflite",)


@pytest.mark.parametrize(
    ("path", "more", "words"),
    [
        ("/opt/edgecnn/fire.tflite", "", "lies beside watch.toml"),
        ("../fire.tflite", "", "lies beside watch.toml"),
        ("fire.tflite", '[journal]\nfolder = "state"\n', "lost with the next release"),
        ("fire.tflite", "[web]\nport = 0\n", "during the probation"),
        ("fire.tflite", "[web\n", "cannot be read"),
    ],
)
def test_a_configuration_that_cannot_live_in_a_slot_is_refused(path: str, more: str, words: str) -> None:
    with pytest.raises(DeployError, match=words):
        model_names(CONFIG.format(path, more).encode())


@pytest.mark.parametrize("table", ["", '[model]\ndelegate = "edgetpu"\nfallback = "cpu.tflite"\n'])
def test_a_configuration_that_names_no_model_is_refused(table: str) -> None:
    with pytest.raises(DeployError, match="does not say which file"):
        model_names(table.encode())


def test_a_fallback_in_another_folder_is_refused() -> None:
    with pytest.raises(DeployError, match="lies beside"):
        model_names(PAIR.format("/opt/fire.tflite", "").encode())


def test_the_fallback_travels_with_the_model_and_one_that_changed_alone_is_another_release(
    tmp_path: Path,
) -> None:
    model, spare, config = tmp_path / "m.tflite", tmp_path / "fire.tflite", PAIR.format("fire.tflite", "")
    tiny_models.write(model)
    tiny_models.write(spare)

    first = release(model, config.encode(), None, ENVIRONMENT)
    tiny_models.write(spare, thresholds={"red": 0.6})
    other = release(model, config.encode(), None, ENVIRONMENT)
    kept = release(model, None, {"model": first.model, "files": first.digests}, ENVIRONMENT)

    assert list(first.models) == ["fire_edgetpu.tflite", "fire.tflite"]
    assert first.models["fire_edgetpu.tflite"] == model.read_bytes()
    assert first.id != other.id == kept.id


def test_a_fallback_that_does_not_lie_beside_the_model_is_missed_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    tiny_models.write(tmp_path / "m.tflite")

    with pytest.raises(DeployError, match="falls back on 'fire"):
        release(tmp_path / "m.tflite", PAIR.format("fire.tflite", "").encode(), None, ENVIRONMENT)


def test_the_same_files_in_the_same_environment_are_the_same_release(tmp_path: Path) -> None:
    model, config = tmp_path / "m.tflite", CONFIG.format("fire.tflite", "").encode()
    tiny_models.write(model)

    first = release(model, config, None, ENVIRONMENT)
    kept = release(model, None, {"model": first.model, "files": first.digests}, ENVIRONMENT)
    other = release(model, config + b"\n", None, ENVIRONMENT)

    assert kept.id == first.id
    assert other.id != first.id


def test_a_first_release_without_a_configuration_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "m.tflite"
    tiny_models.write(model)

    with pytest.raises(DeployError, match=r"no watch\.toml"):
        release(model, None, None, ENVIRONMENT)


def test_a_configuration_that_is_made_watches_the_camera_for_all_that_the_model_has_a_threshold_for() -> None:
    manifest = tiny_models.manifest(thresholds={"red": 0.6})

    made = first_config(PI_4, manifest)

    config = parse(made.decode())
    assert config.source.uri == "picamera:0"
    assert [policy.label for policy in config.alarm] == ["red"]
    assert model_names(made) == ("model.tflite",)


def test_a_configuration_that_is_made_watches_for_fire_where_its_absence_has_the_threshold() -> None:
    manifest = tiny_models.manifest(("fire", "no_fire"), "sigmoid", thresholds={"no_fire": 0.5})

    config = parse(first_config(PI_4, manifest).decode())

    assert [policy.label for policy in config.alarm] == ["fire"]


def test_no_configuration_is_made_for_a_model_that_does_not_say_what_is_an_alarm() -> None:
    with pytest.raises(DeployError, match="what is an alarm"):
        first_config(PI_4, tiny_models.manifest())


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd"
)
@pytest.mark.parametrize("name", [WATCH, GUARD])
def test_systemd_finds_no_mistake_in_a_unit(tmp_path: Path, name: str) -> None:
    root = "/opt/edgecnn"
    text = units(root)[name]
    assert root in text
    # The programs are not installed here; all else is as it will be.
    (tmp_path / name).write_text(text.replace(f"{root}/current/env/bin/edgecnn", "/bin/true"))

    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (verified.returncode, name in verified.stderr) == (0, False), verified.stderr
