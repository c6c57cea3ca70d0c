"""``edgecnn bench`` on real reference models and real pictures."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_models
from click.testing import CliRunner

from edgecnn.bundle import file
from edgecnn.bundle.manifest import Provenance
from edgecnn.cli.bench_pictures import pictures_for
from edgecnn.cli.main import edgecnn
from edgecnn.runtime.predictor import TflitePredictor, load
from edgecnn.workstation.data.catalog import open_dataset

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PER_CLASS = 12


@pytest.fixture(scope="module")
def cifar(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first test pictures of each class, taken out of the archive without unpacking it all."""
    folder, counts = tmp_path_factory.mktemp("cifar"), dict.fromkeys(CIFAR, 0)
    with tarfile.open(shared / "data" / "cifar10.tar.xz") as archive:
        for member in archive:
            _, split, *rest = Path(member.name).parts
            if not member.isfile() or split != "test" or counts[rest[0]] >= PER_CLASS:
                continue
            counts[rest[0]] += 1
            target = folder / "test" / rest[0] / rest[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.extractfile(member).read())
            if set(counts.values()) == {PER_CLASS}:
                break
    return folder


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "cifar.txt"
    path.write_text("\n".join(CIFAR) + "\n")
    return path


def _bench(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgecnn", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def resnets(shared: Path, cifar: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("out")
    models = shared / "reference_models"
    done = _bench(
        models / "pretrainedResnet_quant.tflite", "--against", models / "pretrainedResnet.tflite",
        "--data", cifar, "--labels", labels, "--normalization", 0, 1, "--calls", 40, "--warmup", 5,
        "--threads", 1, "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, json.loads((out / "report.json").read_text()), out


def test_the_reference_resnet_sees_what_it_was_trained_to_see(resnets) -> None:
    _, report, _ = resnets
    for model in report["models"]:
        assert model["accuracy"]["label"]["count"] == 10 * PER_CLASS
        assert model["accuracy"]["label"]["top1"] > 0.6


def test_the_quantized_resnet_decides_nearly_as_its_float_parent(resnets) -> None:
    row = resnets[1]["comparison"][0]
    assert row["flipped_count"] == len(row["flipped"]) <= 12
    assert row["drop_low_pp"] <= row["accuracy_drop_pp"] <= row["drop_high_pp"]
    assert row["parity"]["mean_abs"] < 0.05


def test_latency_comes_with_its_conditions(resnets) -> None:
    for model in resnets[1]["models"]:
        found = model["latency"]
        assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"]
        assert (found["calls"], found["warmup_calls"], found["threads"]) == (40, 5, 1)
        assert sum(stage["p50_ms"] for stage in found["stages"].values()) == pytest.approx(
            found["p50_ms"], rel=0.5
        )


def test_sizes_and_memory_are_those_of_the_files(resnets, shared: Path) -> None:
    for model in resnets[1]["models"]:
        file = shared / "reference_models" / model["file"]
        assert model["gzip_size_bytes"] < model["size_bytes"] == file.stat().st_size
        assert 20e6 < model["peak_memory_bytes"] < 400e6


def test_the_terminal_shows_the_table_the_verdict_and_the_path(resnets) -> None:
    done, report, out = resnets
    assert report["verdict"] in done.stdout
    assert str(out / "report.html") in done.stdout
    assert "pretrainedResnet_quant" in done.stdout


def test_the_report_tells_nothing_of_the_folders_of_this_machine(resnets, cifar: Path) -> None:
    _, _, out = resnets
    for name in ("report.json", "report.md", "report.html"):
        assert str(cifar.parent) not in (out / name).read_text()


def test_without_data_the_latency_is_measured_on_noise_and_that_is_said(shared: Path, tmp_path: Path) -> None:
    models = shared / "reference_models"
    done = _bench(
        models / "vww_96_int8.tflite", "--against", models / "vww_96_float.tflite",
        "--normalization", 0, 255, "--calls", 20, "--warmup", 2, cwd=tmp_path,
    )  # fmt: skip
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert "random noise" in done.stderr
    assert report["data"] is None
    assert report["comparison"][0]["speedup_p50"] > 0


def _refused(done: subprocess.CompletedProcess[str], out: Path) -> bool:
    return (
        done.returncode == 1
        and "Error: " in done.stderr
        and "Fix: " in done.stderr
        and "Traceback" not in done.stderr
        and not out.exists()
    )


def test_data_with_labels_that_the_model_does_not_know_is_refused(
    shared: Path, cifar: Path, tmp_path: Path
) -> None:
    model = shared / "reference_models" / "vww_96_int8.tflite"
    done = _bench(model, "--data", cifar, "--calls", 10, "--out", tmp_path / "out")
    assert _refused(done, tmp_path / "out")
    assert "airplane" in done.stderr


def test_a_split_that_does_not_exist_is_refused(
    shared: Path, cifar: Path, labels: Path, tmp_path: Path
) -> None:
    model = shared / "reference_models" / "pretrainedResnet_quant.tflite"
    done = _bench(model, "--data", cifar, "--labels", labels, "--split", "exam", "--out", tmp_path / "out")
    assert _refused(done, tmp_path / "out")


def test_a_float_file_without_normalisation_asks_for_it(shared: Path, tmp_path: Path) -> None:
    model = shared / "reference_models" / "vww_96_float.tflite"
    done = _bench(model, "--out", tmp_path / "out")
    assert _refused(done, tmp_path / "out")
    assert "--normalization" in done.stderr


def test_a_model_that_computes_otherwise_than_where_it_was_made_is_not_measured(tmp_path: Path) -> None:
    flat = tiny_models.flat()
    golden = tiny_models.golden(flat)
    golden.outputs[0][1, 2] ^= 2
    file.write(tmp_path / "m.tflite", flat, tiny_models.manifest(), golden)
    done = _bench(tmp_path / "m.tflite", "--calls", 10, "--out", tmp_path / "out")
    assert _refused(done, tmp_path / "out")
    assert "gives other results here than where it was made" in done.stderr


def _taught_by(data: Path, leave_out: tuple[str, ...], path: Path) -> TflitePredictor:
    """Write a model that says that it learned from these pictures."""
    recipe = (
        f'leave_out = {json.dumps(leave_out)}\nname = "tiny"\n[input]\nheight_px = 28\nwidth_px = 28\n'
        '[model]\ntopology = "lenet"\n'
    )
    digest = open_dataset(data, leave_out=leave_out).digest()
    tiny_models.write(path, provenance=Provenance(recipe=recipe, data_sha256=digest))
    return load(path)


@pytest.mark.parametrize(
    ("folders", "split", "learned_from", "is_told"),
    [
        (("",), "test", "same", False),
        (("",), "test", "other", True),
        (("train/", "test/"), "test", "other", False),
        (("train/", "test/"), "val", "other", True),
        (("train/", "test/"), "val", "same", False),
    ],
)
def test_pictures_that_may_have_been_trained_on_are_told_of_where_their_split_was_drawn(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    folders: tuple[str, ...],
    split: str,
    learned_from: str,
    is_told: bool,
) -> None:
    rng = np.random.default_rng(1)
    for data, folder, label in itertools.product(("same", "other"), folders, tiny_models.LABELS):
        for number in range(20):
            path = tmp_path / data / f"{folder}{label}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.integers(0, 256, (8, 8, 3), np.uint8))
    model = _taught_by(tmp_path / learned_from, ("1?.png",), tmp_path / "m.tflite")

    pictures_for([model], [tmp_path / "same"], split)

    assert (f"has no {split} of its own" in capsys.readouterr().err) == is_told


@pytest.mark.parametrize("command", ["bench", "predict"])
def test_threads_by_the_thousand_are_refused_before_anything_is_loaded(command: str, tmp_path: Path) -> None:
    arguments = [command, "absent.tflite", *(["a.png"] if command == "predict" else [])]
    done = CliRunner().invoke(edgecnn, [*arguments, "--threads", "100000"])
    assert done.exit_code == 2
    assert "1<=x<=64" in done.stderr


@pytest.mark.parametrize("text", ["", "no model at all"])
def test_a_file_that_is_no_model_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_text(text)
    assert _refused(_bench(tmp_path / "a.tflite", "--out", tmp_path / "out"), tmp_path / "out")


def test_a_model_that_loads_and_fails_leaves_no_report(shared: Path, tmp_path: Path) -> None:
    model = shared / "reference_models" / "model_invoking_error.tflite"
    assert _refused(_bench(model, "--out", tmp_path / "out"), tmp_path / "out")


def test_bench_with_data_runs_where_only_the_device_side_is_installed(
    shared: Path, cifar: Path, labels: Path, tmp_path: Path
) -> None:
    for package in ("tensorflow", "tf_keras", "tensorflow_model_optimization", "sklearn", "scipy"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('not on a device')\n")
    model = shared / "reference_models" / "pretrainedResnet_quant.tflite"
    arguments = ["--data", cifar, "--labels", labels, "--calls", 10, "--out", tmp_path / "out"]
    command = [sys.executable, "-m", "edgecnn", "bench", str(model), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr
