"""``edgecnn check`` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DEEPLAB = "deeplabv3_mnv2_dm05_pascal_quant.tflite"


def check(*arguments: str | Path, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a Python of its own, after ``prelude``."""
    code = f"import sys\n{prelude}\nfrom edgecnn.cli.main import main\nsys.argv[0] = 'edgecnn'\nmain()"
    command = [sys.executable, "-c", code, "check", *map(str, arguments)]
    # On a machine that has the Edge TPU compiler, too, the prediction is what is tested here.
    environment = {**os.environ, "PATH": ""}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def deeplab(shared: Path) -> subprocess.CompletedProcess[str]:
    blocked = "sys.modules.update(dict.fromkeys(['tensorflow', 'tf_keras', 'keras', 'ai_edge_litert']))"
    return check(shared / "reference_models" / DEEPLAB, "--target", "edgetpu", "--json", prelude=blocked)


def test_the_json_has_the_keys_that_scripts_rely_on_without_tensorflow_or_an_interpreter(
    deeplab: subprocess.CompletedProcess[str],
) -> None:
    facts = json.loads(deeplab.stdout)

    assert {"target", "ops", "mapped_macs_share", "first_blocking_op", "basis"} <= set(facts)
    assert {"index", "op", "mapped", "reason"} <= set(facts["ops"][0])
    assert (facts["target"], facts["basis"], len(facts["ops"])) == ("edgetpu", "prediction", 72)
    assert facts["first_blocking_op"] == facts["ops"][64]


def test_a_check_that_fails_ends_with_status_3_and_the_way_out_apart_from_the_json(
    deeplab: subprocess.CompletedProcess[str],
) -> None:
    assert deeplab.returncode == 3
    assert [line.split(":")[0] for line in deeplab.stderr.splitlines()] == ["Error", "Fix"]


def test_a_check_that_passes_ends_with_status_0_and_a_verdict(shared: Path) -> None:
    done = check(shared / "reference_models" / "vww_96_int8.tflite", "--target", "edgetpu")

    assert (done.returncode, done.stderr) == (0, "")
    assert "All of the network is expected to be mapped to the Edge TPU: 31 operators." in done.stdout
    assert "Basis: prediction" in done.stdout


@pytest.mark.parametrize("target", ["cpu", "micro"])
def test_the_int8_resnet_runs_on_a_cpu_and_on_a_microcontroller(shared: Path, target: str) -> None:
    model = shared / "reference_models" / "pretrainedResnet_quant.tflite"

    done = check(model, "--target", target, "--json")

    assert (done.returncode, json.loads(done.stdout)["mapped_macs_share"]) == (0, 1.0)


def test_a_text_file_is_refused_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_text("not a model at all")

    done = check(tmp_path / "model.tflite", "--target", "edgetpu")

    assert (done.returncode, done.stderr.splitlines()[0][:6], done.stdout) == (1, "Error:", "")


def test_a_target_that_nobody_knows_is_a_wrong_argument(tmp_path: Path) -> None:
    assert check(tmp_path / "model.tflite", "--target", "toaster").returncode == 2
