"""The device side in an environment of its own, with what ``pip install edgecnn`` brings and no more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_models
from blobs import write_blobs

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the programs of a fresh environment."""
    folder = tmp_path_factory.mktemp("device")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    constraints = ["--constraint", ROOT / "constraints.txt"]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([folder / "bin" / "pip", "install", *quiet, *constraints, ROOT], check=True, cwd=folder)
    return folder / "bin"


def run(device: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [device / "edgecnn", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=device)


def test_there_is_no_tensorflow(device: Path) -> None:
    done = subprocess.run(
        [device / "python", "-c", "import tensorflow"], capture_output=True, text=True, check=False
    )
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("command", [(), ("inspect",), ("predict",), ("bench",)])
def test_help_is_given_without_tensorflow(device: Path, command: tuple[str, ...]) -> None:
    done = run(device, *command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Example:" in done.stdout


def test_a_model_is_inspected_and_sees_a_picture_without_tensorflow(device: Path, tmp_path: Path) -> None:
    model, picture = tmp_path / "tiny.tflite", tmp_path / "noise.png"
    bundle = tiny_models.write(model)
    cv2.imwrite(str(picture), tiny_models.pictures(1)[0][..., ::-1])
    inspected = run(device, "inspect", model, "--json")
    assert json.loads(inspected.stdout)["sha256"] == bundle.sha256
    predicted = run(device, "predict", model, picture, "--json")
    assert predicted.returncode == 0, predicted.stderr
    scores = list(json.loads(predicted.stdout)["heads"]["colour"].values())
    (expected,) = tiny_models.golden(tiny_models.flat(), 1).outputs
    np.testing.assert_allclose(scores, expected[0] / 256, atol=1e-6)


def test_what_needs_tensorflow_says_how_to_install_it(device: Path, tmp_path: Path) -> None:
    pictures = write_blobs(tmp_path / "pictures")
    done = run(device, "train", "digits", "--data", pictures, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "pip install 'edgecnn[workstation]'" in done.stderr
    assert "Traceback" not in done.stderr
