from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_models
from click.testing import CliRunner, Result

from edgecnn.bundle import file
from edgecnn.cli.device import _text_line
from edgecnn.cli.main import edgecnn
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Head, Prediction, StageTimes
from edgecnn.errors import EdgecnnError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> file.Bundle:
    return tiny_models.write(tmp_path_factory.mktemp("made") / "tiny.int8.tflite")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return save_picture(tmp_path / "noise.png")


def save_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8))
    return path


def save_clip(path: Path, count: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for index in range(count):
        writer.write(np.full((48, 64, 3), 40 * index, np.uint8))
    writer.release()
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(edgecnn, [str(word) for word in words])


def lines_of(result: Result) -> list[dict[str, Any]]:
    assert result.exception is None, result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_picture_gives_one_json_line_with_a_score_for_every_label(made: file.Bundle, picture: Path) -> None:
    (line,) = lines_of(run("predict", made.path, picture, "--json"))
    assert list(line) == ["file", "heads", "invoke_ms"]
    assert line["file"] == str(picture)
    assert list(line["heads"]) == ["colour"]
    assert list(line["heads"]["colour"]) == ["red", "green", "blue"]
    assert sum(line["heads"]["colour"].values()) == pytest.approx(1, abs=0.02)
    assert line["invoke_ms"] > 0


def test_a_folder_is_searched_to_its_depths_in_sorted_order(made: file.Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for name in ("b.png", "a/z.PNG", "a/c/d.jpg"):
        save_picture(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    lines = lines_of(run("predict", made.path, folder, "--json"))
    assert [Path(line["file"]).relative_to(folder).as_posix() for line in lines] == [
        "a/c/d.jpg",
        "a/z.PNG",
        "b.png",
    ]


def test_a_clip_gives_a_line_for_every_frame_with_its_time(made: file.Bundle, tmp_path: Path) -> None:
    lines = lines_of(run("predict", made.path, save_clip(tmp_path / "clip.avi", 5), "--json"))
    assert [line["frame"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["at_s"] for line in lines] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=0.01)


def test_a_bad_picture_among_good_ones_is_named_and_the_rest_goes_on(
    made: file.Bundle, tmp_path: Path
) -> None:
    paths = [save_picture(tmp_path / f"{number}.png") for number in range(3)]
    paths[1].write_text("this is no picture")
    done = subprocess.run(
        [sys.executable, "-m", "edgecnn", "predict", str(made.path), *map(str, paths), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert [json.loads(line)["file"] for line in done.stdout.splitlines()] == [str(paths[0]), str(paths[2])]
    assert str(paths[1]) in done.stderr
    assert "Fix: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_picture_whose_name_is_no_text_is_printed_with_the_bytes_that_its_name_has(
    made: file.Bundle, picture: Path
) -> None:
    picture.rename(picture.with_name(os.fsdecode(b"caf\xe9.png")))
    done = subprocess.run(
        [sys.executable, "-m", "edgecnn", "predict", str(made.path), str(picture.parent), "--json"],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"caf\xe9.png" in done.stdout


@pytest.mark.parametrize("name", ["empty", "missing.png", "broken.mp4"])
def test_what_holds_no_picture_is_an_error_of_the_user(made: file.Bundle, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    result = run("predict", made.path, tmp_path / name)
    assert isinstance(result.exception, EdgecnnError)
    assert result.stdout == ""


def test_people_read_the_best_labels_first(made: file.Bundle, picture: Path) -> None:
    result = run("predict", made.path, picture)
    scores = [float(word) for word in result.stdout.replace(",", " ").split() if word.startswith("0.")]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_a_model_with_two_heads_names_both() -> None:
    heads = (tiny_models.manifest().heads[0], Head("fire", "sigmoid", ("no", "yes"), 1))
    two: Any = SimpleNamespace(heads=heads)
    scores = {"colour": np.float32([0.1, 0.7, 0.2]), "fire": np.float32([0.9, 0.1])}
    prediction = Prediction(scores, 0, 1.5, StageTimes(0.1, 2.0, 0.1))
    frame = Frame(np.zeros((1, 1, 3), np.uint8), 1.5, 0, "clip.mp4")
    assert _text_line(two, frame, prediction, is_clip=True) == (
        "clip.mp4 at 1.50 s: colour: green 0.700, blue 0.200, red 0.100; fire: no 0.900, yes 0.100 (2.0 ms)"
    )


def test_a_foreign_model_takes_labels_and_normalization_from_the_command_line(
    tmp_path: Path, picture: Path
) -> None:
    model = tmp_path / "foreign.tflite"
    model.write_bytes(tiny_models.flat("float32"))
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    refused = run("predict", model, picture)
    assert isinstance(refused.exception, EdgecnnError)
    options = ("--labels", tmp_path / "names.txt", "--normalization", 0, 1, "--threads", 1, "--json")
    (line,) = lines_of(run("predict", model, picture, *options))
    assert list(line["heads"]["label"]) == ["x", "y", "z"]


def test_a_model_that_computes_something_else_here_is_not_trusted(tmp_path: Path, picture: Path) -> None:
    golden = tiny_models.golden(tiny_models.flat())
    golden.outputs[0][0, 0] ^= 2
    path = tmp_path / "m.tflite"
    file.write(path, tiny_models.flat(), tiny_models.manifest(), golden)
    result = run("predict", path, picture)
    assert isinstance(result.exception, EdgecnnError)
    assert "gives other results here" in result.exception.message


def test_inspect_gives_layers_and_manifest_as_json(made: file.Bundle) -> None:
    found = json.loads(run("inspect", made.path, "--json").stdout)
    assert {"layers", "inputs", "outputs", "manifest"} <= set(found)
    assert set(found["layers"][0]) == {
        "index", "op", "name", "input_shape", "output_shape", "dtype", "parameters", "macs"
    }  # fmt: skip
    convolution = next(row for row in found["layers"] if row["op"] == "CONV_2D")
    assert convolution["macs"] == 8 * 8 * 4 * 27
    assert found["inputs"][0]["shape"] == [1, 16, 16, 3]
    assert found["inputs"][0]["dtype"] == "uint8"
    assert found["manifest"]["heads"][0]["labels"] == ["red", "green", "blue"]
    assert found["manifest"]["provenance"]["tools"] == {"tensorflow": "2.21.0"}
    assert found["metadata"]["licence"] == "Apache-2.0"
    assert found["sha256"] == made.sha256


def test_inspect_prints_what_a_person_asks_of_a_model(made: file.Bundle) -> None:
    text = run("inspect", made.path).stdout
    expected = [
        "CONV_2D", "1x16x16x3", "parameters", "zero point", "Head: colour, softmax: red, green, blue",
        "Provenance: made with tensorflow 2.21.0", f"sha256 {made.sha256}",
    ]  # fmt: skip
    assert [words for words in expected if words not in text] == []


def test_inspect_reads_every_reference_model(shared: Path) -> None:
    for path in sorted((shared / "reference_models").glob("*.tflite")):
        found = json.loads(run("inspect", path, "--json").stdout)
        assert found["manifest"] is None
        assert found["layers"]
        assert found["outputs"]


def test_inspect_refuses_a_damaged_file_in_two_lines(made: file.Bundle, tmp_path: Path) -> None:
    path = tmp_path / "damaged.tflite"
    path.write_bytes(made.path.read_bytes()[:-5])
    done = subprocess.run(
        [sys.executable, "-m", "edgecnn", "inspect", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["Error", "Fix"]


def test_wrong_arguments_end_with_2() -> None:
    assert run("predict", "model.tflite").exit_code == 2
    assert run("predict", "model.tflite", "x.png", "--threads", "0").exit_code == 2
