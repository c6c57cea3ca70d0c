from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import pytest
import tiny_models
from click.testing import CliRunner, Result

from edgecnn.bundle import file
from edgecnn.cli.main import edgecnn
from edgecnn.errors import BundleError, DataError, EdgecnnError


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[file.Bundle, file.Bundle]:
    """An int8 file and its float twin, each with its recorded pictures."""
    folder = tmp_path_factory.mktemp("pair")
    real = tiny_models.flat("float32")
    return (
        tiny_models.write(folder / "tiny.int8.tflite"),
        tiny_models.write(folder / "tiny.float32.tflite", real, precision="float32"),
    )


def run(*words: object) -> Result:
    return CliRunner().invoke(edgecnn, ["inspect", *(str(word) for word in words)])


def found(*words: object) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exception is None, result.exception
    told: dict[str, Any] = json.loads(result.stdout)
    return told["fidelity"]


def refusal(kind: type[EdgecnnError], *words: object) -> str:
    result = run(*words)
    assert isinstance(result.exception, kind), result.exception
    return result.exception.message


def pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{index}.png" for index in range(count)]
    for path, pixels in zip(paths, tiny_models.pictures(count), strict=True):
        cv2.imwrite(str(path), pixels)
    return paths


def test_without_pictures_the_ones_that_travel_with_the_file_are_looked_at(
    pair: tuple[file.Bundle, file.Bundle],
) -> None:
    told = found(pair[0].path, "--against", pair[1].path)
    assert pair[0].golden is not None
    assert told["picture_count"] == len(pair[0].golden.inputs)


def test_pictures_may_be_given_by_name(pair: tuple[file.Bundle, file.Bundle], tmp_path: Path) -> None:
    told = found(pair[0].path, *pictures(tmp_path / "some", 3), "--against", pair[1].path)
    assert (told["picture_count"], told["pictures"]) == (3, "3 pictures given by name")


def test_sixteen_pictures_are_taken_from_all_over_a_split(
    pair: tuple[file.Bundle, file.Bundle], tmp_path: Path
) -> None:
    for label in tiny_models.LABELS:
        pictures(tmp_path / "set" / "val" / label, 12)
    told = found(pair[0].path, "--against", pair[1].path, "--data", tmp_path / "set")
    assert (told["picture_count"], told["pictures"]) == (16, "16 pictures of set, val")


def test_every_layer_of_the_file_is_told_with_its_figures(pair: tuple[file.Bundle, file.Bundle]) -> None:
    told = found(pair[0].path, "--against", pair[1].path)
    assert [layer["op"] for layer in told["layers"]] == [
        "MUL",
        "ADD",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "MEAN",
        "FULLY_CONNECTED",
        "SOFTMAX",
    ]
    assert all(layer["sqnr_db"] > 10 for layer in told["layers"])
    assert all(0 < layer["range_used"] <= 1 for layer in told["layers"])


def test_the_table_names_the_layer_that_costs_most_first(pair: tuple[file.Bundle, file.Bundle]) -> None:
    layers = found(pair[0].path, "--against", pair[1].path)["layers"]
    costs = {
        layer["index"]: layer["output_sqnr_db"] for layer in layers if layer["output_sqnr_db"] is not None
    }
    printed = run(pair[0].path, "--against", pair[1].path).stdout
    order = [int(number) for number in re.findall(r"^ *(\d+) +[A-Z_0-9]{3,} ", printed, re.MULTILINE)]
    assert order[: len(costs)] == sorted(costs, key=lambda index: costs[index])
    assert sorted(order) == [layer["index"] for layer in layers]


def test_a_report_holds_the_same_figures_as_json(
    pair: tuple[file.Bundle, file.Bundle], tmp_path: Path
) -> None:
    told = found(pair[0].path, "--against", pair[1].path, "--out", tmp_path / "report")
    report = json.loads((tmp_path / "report" / "fidelity.json").read_bytes())
    assert report["fidelity"]["layers"] == told["layers"]
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == [
        "fidelity.html",
        "fidelity.json",
        "fidelity.md",
    ]


def test_the_page_names_every_layer_and_loads_nothing_from_anywhere(
    pair: tuple[file.Bundle, file.Bundle], tmp_path: Path
) -> None:
    layers = found(pair[0].path, "--against", pair[1].path, "--out", tmp_path)["layers"]
    page = (tmp_path / "fidelity.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert all(f"{layer['index']} · {layer['op']}" in page for layer in layers)
    assert not re.search(r"@import|url\((?!#)|<script|(?:src|href)=\"(?!#)", page)


def test_a_file_of_another_size_is_refused(pair: tuple[file.Bundle, file.Bundle], shared: Path) -> None:
    other = shared / "reference_models" / "vww_96_float.tflite"
    message = refusal(DataError, pair[0].path, "--against", other, "--normalization", 0, 255)
    assert "96 x 96 RGB" in message


def foreign_pair(shared: Path) -> tuple[object, ...]:
    folder = shared / "reference_models"
    int8, float32 = folder / "vww_96_int8.tflite", folder / "vww_96_float.tflite"
    return (int8, "--against", float32, "--normalization", 0, 255)


def test_a_foreign_pair_without_pictures_says_that_none_were_given(shared: Path) -> None:
    assert "brings pictures" in refusal(DataError, *foreign_pair(shared))


def test_a_foreign_pair_is_held_together_once_its_normalisation_is_known(
    shared: Path, tmp_path: Path
) -> None:
    told = found(*foreign_pair(shared), *pictures(tmp_path / "some", 2))
    assert (len(told["layers"]), told["unpaired"]) == (30, [])


def test_a_picture_that_is_none_is_named(pair: tuple[file.Bundle, file.Bundle], tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("no picture")
    assert "note.png" in refusal(DataError, pair[0].path, tmp_path / "note.png", "--against", pair[1].path)


def test_files_the_wrong_way_round_are_told_apart(pair: tuple[file.Bundle, file.Bundle]) -> None:
    assert "quantized itself" in refusal(DataError, pair[1].path, "--against", pair[0].path)


def test_a_twin_that_is_no_model_is_refused(pair: tuple[file.Bundle, file.Bundle], tmp_path: Path) -> None:
    (tmp_path / "twin.tflite").write_bytes(b"no model at all")
    assert "twin.tflite" in refusal(BundleError, pair[0].path, "--against", tmp_path / "twin.tflite")


@pytest.mark.parametrize("words", [("some.png",), ("--out", "report"), ("--data", "set")])
def test_options_of_a_comparison_need_something_to_compare_with(
    pair: tuple[file.Bundle, file.Bundle], words: tuple[str, ...]
) -> None:
    result = run(pair[0].path, *words)
    assert (result.exit_code, "--against" in result.stderr) == (2, True)
