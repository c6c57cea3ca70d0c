"""What is looked at before a model and its configuration are trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models
from click.testing import CliRunner
from pi_box import write_clip

from edgecnn.bundle import file
from edgecnn.cli.device import verify
from edgecnn.errors import BundleError, RecipeError, RuntimeFault
from edgecnn.watch.trial import prove

CONFIG = """device = "x"
[model]
path = "{model}"
threads = 1
[source]
uri = "{uri}"
[[alarm]]
label = "{label}"
[web]
host = "0.0.0.0"
token_file = "{token}"
port = 9
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_models.write(tmp_path / "fire.tflite").path


def config(
    folder: Path, model: str = "fire.tflite", uri: str = "clip.avi", label: str = "red", token: str = "t"
) -> Path:
    path = folder / "watch.toml"
    (folder / "t").write_text("0123456789abcdef")
    at = folder / uri if uri == "clip.avi" else uri
    path.write_text(CONFIG.format(model=model, uri=at, label=label, token=token))
    return path


def test_a_whole_model_with_a_fitting_configuration_is_proven_with_one_frame(
    model: Path, tmp_path: Path
) -> None:
    write_clip(tmp_path / "clip.avi", 1)

    proof = prove(model, config(tmp_path), frame=True)

    assert (proof.golden_count, proof.tolerance, proof.precision) == (2, 0.0, "int8")
    assert proof.frame is not None
    assert (proof.frame.width_px, proof.frame.height_px) == (48, 32)
    assert proof.web is not None
    assert (proof.web.url, proof.web.token_file) == ("http://127.0.0.1:9", str(tmp_path / "t"))


def test_a_model_without_recorded_pictures_cannot_be_proven(tmp_path: Path) -> None:
    file.write(tmp_path / "m.tflite", tiny_models.flat(), tiny_models.manifest(), None)

    with pytest.raises(BundleError, match="no recorded pictures"):
        prove(tmp_path / "m.tflite")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "other.tflite"}, "watches with"),
        ({"label": "smoke"}, "the model knows blue, green, red"),
        ({"token": "nowhere"}, "token of the page"),
    ],
)
def test_a_configuration_of_another_model_or_of_missing_things_is_refused(
    model: Path, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        prove(model, config(tmp_path, **change))


def test_a_camera_that_is_not_there_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFault, match="no clip, folder or camera"):
        prove(model, config(tmp_path, uri="gone.avi"), frame=True)


def test_verify_prints_what_a_program_can_read_and_what_a_person_can(model: Path) -> None:
    as_json = CliRunner().invoke(verify, [str(model), "--json"])
    as_text = CliRunner().invoke(verify, [str(model)])

    said = json.loads(as_json.stdout)
    assert (said["sha256"], said["golden_count"]) == (file.read(model).sha256, 2)
    assert "Recorded pictures: 2, equal to the last bit" in as_text.stdout
