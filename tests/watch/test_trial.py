"""What is looked at before a model and its configuration are trusted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
from accelerator import Stick, build, needs_gcc
from click.testing import CliRunner
from pi_box import write_clip

from edgecnn.bundle import file, signature
from edgecnn.cli.device import verify
from edgecnn.errors import BundleError, RecipeError, RuntimeFault, SignatureError
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
    assert proof.tolerance_codes == 1  # a softmax
    assert proof.frame is not None
    assert (proof.frame.width_px, proof.frame.height_px) == (48, 32)
    assert proof.web is not None
    assert (proof.web.url, proof.web.token_file) == ("http://127.0.0.1:9", str(tmp_path / "t"))


@pytest.mark.parametrize(
    ("host", "url"),
    [("::1", "http://[::1]:9"), ("::", "http://[::1]:9"), ("fd00::7", "http://[fd00::7]:9")],
)
def test_a_page_on_an_ipv6_address_is_asked_where_it_is(
    model: Path, tmp_path: Path, host: str, url: str
) -> None:
    path = config(tmp_path)
    path.write_text(path.read_text().replace("0.0.0.0", host))

    proof = prove(model, path)

    assert proof.web is not None
    assert proof.web.url == url


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
    assert "Recorded pictures: 2, equal within 1 code" in as_text.stdout


# A model for an accelerator, and the one for the CPU beside it ------------------------------------------


@pytest.fixture
def stick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stick:
    built = build(tmp_path)
    monkeypatch.setenv("TEST_DELEGATE", str(built.state))
    return built


def pair(folder: Path, model: Path, stick: Stick) -> Path:
    """Write a first file whose results may lie 32 codes apart, and a configuration of both."""
    made = file.read(model)
    assert made.manifest is not None
    file.write(
        folder / "first.tflite", made.model, replace(made.manifest, golden_tolerance_codes=32), made.golden
    )
    path = config(folder, model=f'first.tflite"\ndelegate = "{stick.library}"\nfallback = "{model.name}')
    write_clip(folder / "clip.avi", 1)
    return path


@needs_gcc
@pytest.mark.parametrize(("is_there", "golden_count"), [(True, 4), (False, 2)])
def test_both_files_of_a_pair_are_replayed_and_the_compiled_one_only_where_its_stick_is(
    model: Path, stick: Stick, tmp_path: Path, is_there: bool, golden_count: int
) -> None:
    settings = pair(tmp_path, model, stick)
    if not is_there:
        stick.is_pulled()

    proof = prove(tmp_path / "first.tflite", settings, frame=True)

    assert (proof.golden_count, proof.fault == "") == (golden_count, is_there)
    assert proof.sha256 == file.read(tmp_path / "first.tflite").sha256
    assert proof.frame is not None


@needs_gcc
@pytest.mark.parametrize("is_there", [True, False])
def test_a_fallback_that_computes_something_else_is_refused_whether_its_stick_is_there_or_not(
    model: Path, stick: Stick, tmp_path: Path, is_there: bool
) -> None:
    settings, made = pair(tmp_path, model, stick), file.read(model)
    assert made.manifest is not None
    assert made.golden is not None
    wrong = replace(made.golden, outputs=tuple(output ^ 64 for output in made.golden.outputs))
    file.write(model, made.model, made.manifest, wrong)
    if not is_there:
        stick.is_pulled()

    with pytest.raises(BundleError, match="gives other results here"):
        prove(tmp_path / "first.tflite", settings)


@needs_gcc
def test_a_fallback_that_nobody_has_signed_is_refused_with_the_model(
    model: Path, stick: Stick, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    settings = pair(tmp_path, model, stick)
    key, public = signature.new_keys(tmp_path / "maker")
    signature.sign(tmp_path / "first.tflite", key, 1)

    with pytest.raises(SignatureError, match=model.name):
        prove(tmp_path / "first.tflite", settings, public)
    signature.sign(model, key, 1)

    assert prove(tmp_path / "first.tflite", settings, public).signer == "maker"
