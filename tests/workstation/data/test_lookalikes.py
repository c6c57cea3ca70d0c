from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgecnn.cli.data import data as command
from edgecnn.errors import DataError
from edgecnn.workstation.data.catalog import open_dataset
from edgecnn.workstation.data.lookalikes import lookalikes, stress_set, write_stress_set
from edgecnn.workstation.data.procedural import render_scene


def test_a_look_alike_depends_on_its_seed_and_number_alone() -> None:
    few, many = list(lookalikes(3, 7, 48, 64)), list(lookalikes(20, 7, 48, 64))
    for (one, kind), (again, same_kind) in zip(few, many, strict=False):
        assert kind == same_kind
        np.testing.assert_array_equal(one, again)


def test_every_kind_is_painted_over_real_scenery_of_another_size_and_leaves_it_as_it_is() -> None:
    scenery = [render_scene(np.random.default_rng(seed), False, 70, 50) for seed in range(3)]
    before = [picture.copy() for picture in scenery]
    painted = list(lookalikes(40, 1, 48, 64, over=scenery, nights=True))
    assert {pixels.shape for pixels, _ in painted} == {(48, 64, 3)}
    assert len({kind for _, kind in painted}) == 20
    for picture, was in zip(scenery, before, strict=True):
        np.testing.assert_array_equal(picture, was)


def test_the_same_kind_never_looks_the_same_twice() -> None:
    by_kind: dict[str, list[bytes]] = {}
    for pixels, kind in lookalikes(100, 2, 32, 32, nights=True):
        by_kind.setdefault(kind, []).append(pixels.tobytes())
    assert all(len(set(pictures)) == len(pictures) == 5 for pictures in by_kind.values())


def test_look_alikes_hold_as_much_orange_light_as_flames_do() -> None:
    hot = [
        ((pixels[..., 0] > 170) & (pixels[..., 0].astype(int) - pixels[..., 2] > 70)).mean() > 0.005
        for pixels, _ in lookalikes(200, 3, 64, 64)
    ]
    assert np.mean(hot) > 0.3


def test_fireworks_and_cities_are_dark_with_bright_spots() -> None:
    every = lookalikes(120, 4, 64, 64, nights=True)
    nights = [pixels for pixels, kind in every if kind in ("fireworks", "city at night")]
    assert len(nights) == 12
    assert np.median([np.median(pixels) for pixels in nights]) < 80
    assert np.mean([(pixels.max(axis=2) > 180).mean() > 0.002 for pixels in nights]) > 0.8


def test_the_stress_set_has_kinds_that_training_never_shows() -> None:
    trained = {kind for _, kind in lookalikes(60, 0, 16, 16, nights=True)}
    stressed = {kind for _, kind in stress_set(60, 0, 16, 16)}
    assert trained - stressed == {"fireworks", "city at night"}
    assert stressed - trained == {"lanterns", "heater", "glitter", "pumpkins"}


def test_no_picture_of_the_stress_set_is_one_of_training() -> None:
    trained = {pixels.tobytes() for pixels, _ in lookalikes(60, 0, 32, 32)}
    assert not trained & {pixels.tobytes() for pixels, _ in stress_set(60, 0, 32, 32)}


def test_a_rendered_stress_set_is_data_that_can_be_measured_on(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        command, ["render", "stress", "--out", str(tmp_path / "stress"), "--count", "22"]
    )
    assert result.exit_code == 0, result.output
    labels = [picture.label for picture in open_dataset(tmp_path / "stress").split("test")]
    assert {label: labels.count(label) for label in labels} == {"fire": 3, "no_fire": 22, "smoke": 3}
    assert [entry.name for entry in tmp_path.iterdir()] == ["stress"]


def test_what_a_folder_holds_already_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds something"):
        write_stress_set(tmp_path, count=1, seed=0)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_stress_set_cannot_be_written_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_stress_set(tmp_path / "file" / "set", count=1, seed=0)
