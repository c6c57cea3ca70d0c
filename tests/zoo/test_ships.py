"""What ships: the wheel, the page and the command lines that know the models."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import models_page
import pytest

from edgecnn.zoo import shelf

ROOT = Path(__file__).resolve().parents[2]
WHEEL_BYTES = 12_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_model_with_its_card_and_its_figures(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    wanted = {
        f"edgecnn/zoo/{resident.name}/{file}"
        for resident in shelf.models()
        for file in (f"{resident.name}.tflite", "card.md", "figures.json", "calibration.txt")
    }
    assert wanted <= names
    assert "edgecnn/zoo/shelf.py" in names


def test_the_wheel_has_at_most_12_megabytes(wheel: Path) -> None:
    assert wheel.stat().st_size <= WHEEL_BYTES


def test_the_models_are_found_in_the_installed_wheel_without_tensorflow(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r});"
        "sys.modules.update(dict.fromkeys(['tensorflow', 'tf_keras', 'keras', 'h5py']));"
        "sys.argv = ['edgecnn', 'zoo', 'list', '--json'];"
        "from edgecnn.cli.main import main; main()"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.stderr == ""
    places = [Path(row["path"]) for row in json.loads(done.stdout)]
    assert places == [tmp_path / "edgecnn/zoo" / r.name / f"{r.name}.tflite" for r in shelf.models()]


def test_the_page_of_the_models_has_the_figures_of_their_cards() -> None:
    text = models_page.PAGE.read_text(encoding="utf-8")

    assert models_page.page(text) == text, "run 'make docs'"


@pytest.mark.parametrize("resident", shelf.models(), ids=lambda r: r.name)
def test_every_model_that_ships_is_int8_with_recorded_pictures_and_says_what_it_was_made_from(
    resident: shelf.Resident,
) -> None:
    from edgecnn.bundle import file
    from edgecnn.workstation import calibration

    bundle = file.read(resident.path)
    listed = calibration.read(resident.path.with_name("calibration.txt"))

    assert resident.manifest.precision == "int8"
    assert bundle.golden is not None
    assert calibration.digest(listed) == resident.manifest.provenance.calibration_sha256


@pytest.mark.parametrize("resident", shelf.models(), ids=lambda r: r.name)
def test_a_model_learned_from_the_very_model_that_ships_under_its_teachers_name(
    resident: shelf.Resident,
) -> None:
    ships = {other.name: other.manifest.model_sha256 for other in shelf.models()}
    taught = resident.manifest.provenance.teachers_sha256

    assert {name: digest for name, digest in taught.items() if ships.get(name, digest) != digest} == {}


@pytest.mark.parametrize("resident", shelf.models(), ids=lambda r: r.name)
def test_a_model_that_ships_is_made_again_by_the_recipe_of_today(resident: shelf.Resident) -> None:
    from edgecnn.workstation import recipe

    made_by = recipe.parse(resident.manifest.provenance.recipe)
    today = {own.name: own for own in (recipe.load(name)[0] for name in recipe.built_in())}

    assert replace(made_by, leave_out=()) == today[made_by.name]
