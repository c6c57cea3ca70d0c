"""Where a heatmap's peak lies, held against boxes, by a real model whatever the shape of the picture."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orange
import pytest
from fakes import FakePicture, FakePredictor

from edgecnn.core.frame import InputSpec, Pixels
from edgecnn.core.place import lies_in, peak_of
from edgecnn.core.prediction import Head
from edgecnn.core.zones import Window, strongest_cell
from edgecnn.measure import bench
from edgecnn.measure.accuracy import wilson
from edgecnn.measure.place import place_of
from edgecnn.measure.report import to_html, to_json, to_markdown
from edgecnn.runtime.host import host_facts
from edgecnn.runtime.predictor import load

QUICK = bench.Settings(calls=10, warmup_calls=0)
SIDE_PX = 60
WHERE = Head("where", "heatmap", ("fire", "smoke"))


@dataclass(frozen=True)
class Flame(FakePicture):
    """A grey picture with an orange square, whose left top corner is known in pixels."""

    height_px: int
    width_px: int
    corner: tuple[int, int]

    def read(self) -> Pixels:
        pixels = np.full((self.height_px, self.width_px, 3), 90, np.uint8)
        left, top = self.corner
        pixels[top : top + SIDE_PX, left : left + SIDE_PX] = (255, 110, 0)
        return pixels


def flames(height_px: int, width_px: int, count: int = 12) -> list[Flame]:
    rng = np.random.default_rng(height_px)
    corners = rng.integers(0, (width_px - SIDE_PX, height_px - SIDE_PX), (count, 2)).tolist()
    return [
        Flame(f"test/fire/{number}.png", "fire", 1, height_px, width_px, (left, top))
        for number, (left, top) in enumerate(corners)
    ]


def boxes_of(flames: list[Flame]) -> dict[str, dict[str, tuple[tuple[float, float, float, float], ...]]]:
    def box(flame: Flame) -> tuple[float, float, float, float]:
        (left, top), height, width = flame.corner, flame.height_px, flame.width_px
        return left / width, top / height, (left + SIDE_PX) / width, (top + SIDE_PX) / height

    return {flame.path: {"fire": (box(flame),)} for flame in flames}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("heat")
    inputs = {
        "stretch": orange.HEAT_INPUT,
        "letterbox": replace(orange.HEAT_INPUT, resize="letterbox"),
    }
    for name, spec in inputs.items():
        orange.write_heat_model(folder / f"{name}.tflite", spec)
    return {name: folder / f"{name}.tflite" for name in inputs}


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize(("height_px", "width_px"), [(240, 320), (180, 640), (500, 200)])
def test_the_peak_lies_in_the_box_of_the_flame_in_pictures_of_any_shape(
    models: dict[str, Path], resize: str, height_px: int, width_px: int
) -> None:
    items = flames(height_px, width_px)
    pictures = bench.Pictures("d", "test", items, boxes=boxes_of(items))
    (hits,) = bench.evaluate([load(models[resize], threads=1)], pictures).hits
    elsewhere = {path: {"fire": ((0.0, 0.0, 0.01, 0.01),)} for path in pictures.boxes}
    (misses,) = bench.evaluate([load(models[resize], threads=1)], replace(pictures, boxes=elsewhere)).hits

    assert hits == {"where": {"fire": [True] * len(items)}}
    assert misses == {"where": {"fire": [False] * len(items)}}


def test_the_report_counts_boxed_pictures_only_and_compares_two_models_on_the_same_ones(
    tmp_path: Path,
) -> None:
    right, wrong = np.zeros((2, 4, 4, 2), np.float32)
    right[1, 1, 0] = wrong[3, 3, 0] = 0.9
    models = []
    for name, table in (("good", [right] * 4), ("half", [right, right, wrong, wrong])):
        (tmp_path / f"{name}.tflite").write_bytes(name.encode())
        models.append(FakePredictor(tmp_path / f"{name}.tflite", [WHERE], {"where": table}))
    items = [FakePicture(f"{number}.png", "fire", number) for number in range(4)]
    boxes = {f"{number}.png": {"fire": ((0.25, 0.25, 0.5, 0.5),)} for number in (0, 1, 2)}
    pictures = bench.Pictures("d", "test", items, boxes=boxes)
    report, _ = bench.run(models, host_facts(), pictures, QUICK)
    good, half = (model.place["where"] for model in report.models)
    drop = report.comparison[0].place["fire"]

    assert list(good) == ["fire"]
    assert (good["fire"].inside_count, half["fire"].inside_count, half["fire"].count) == (3, 2, 3)
    assert (half["fire"].low, half["fire"].high) == wilson(2, 3)
    assert (round(drop.drop_pp, 2), drop.only_first_count, drop.only_second_count) == (-33.33, 0, 1)
    assert "| where | fire | 3 | 100.0 % " in to_markdown(report)
    assert "Where</h2>" in to_html(report)
    assert json.loads(to_json(report))["models"][1]["place"]["where"]["fire"]["inside_count"] == 2


def test_data_without_boxes_say_nothing_of_where(models: dict[str, Path]) -> None:
    pictures = bench.Pictures("d", "test", flames(240, 320, 2))
    report, _ = bench.run([load(models["stretch"], threads=1)], host_facts(), pictures, QUICK)

    assert report.models[0].place == {}
    assert "## Where" not in to_markdown(report)


def test_a_peak_belongs_to_one_of_two_boxes_that_touch_and_never_to_a_border() -> None:
    heat = np.zeros((5, 5), np.float32)
    heat[2, 2] = 1
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)

    assert [lies_in(peak_of(heat), [box]) for box in (left, right)] == [False, True]


def test_a_peak_leans_towards_the_stronger_neighbours_of_its_cell() -> None:
    # Of a bell, cells hold the heights at their centres.
    place, width = (4.3, 3.9), 0.8
    columns, rows = np.arange(10) + 0.5, np.arange(8) + 0.5
    bell = np.exp(-((columns[None] - place[0]) ** 2 + (rows[:, None] - place[1]) ** 2) / (2 * width**2))
    heat = (0.9 * bell).astype(np.float32)
    heat[0, 9] = 0.5  # another one, far away

    assert peak_of(heat) == pytest.approx((place[0] / 10, place[1] / 8), abs=1e-6)


def test_a_peak_never_leaves_its_cell_whatever_burns_beside_it() -> None:
    rng = np.random.default_rng(5)
    for heat in rng.random((300, 5, 6), np.float32) ** 4:
        row, column = strongest_cell(heat)
        x, y = peak_of(heat)

        assert abs(6 * x - column - 0.5) <= 0.5
        assert abs(5 * y - row - 0.5) <= 0.5


def test_a_flat_heatmap_has_its_peak_in_the_middle_of_a_cell() -> None:
    assert peak_of(np.zeros((4, 4), np.float32)) == (0.125, 0.125)
    assert peak_of(np.ones((3, 3), np.float32)) == (0.5, 0.5)


def test_of_equally_strong_cells_the_one_in_the_warmest_place_counts() -> None:
    heat = np.zeros((6, 6), np.float32)
    heat[0, 5] = heat[4, 2] = heat[5, 0] = 0.125
    heat[3, 2] = heat[4, 3] = 0.12

    assert strongest_cell(heat) == (4, 2)
    assert strongest_cell(np.zeros((6, 6), np.float32) + 0.5) == (1, 1)


def test_a_cell_that_is_strongest_alone_counts_whatever_lies_around_it() -> None:
    heat = np.full((4, 4), 0.9, np.float32)
    heat[:2] = 0
    heat[0, 3] = 0.91

    assert strongest_cell(heat) == (0, 3)


def test_frames_that_agree_for_a_second_count_as_one() -> None:
    times_s = [frame / 25 for frame in range(250)]
    hits = [at_s < 8 for at_s in times_s]
    found = place_of(hits, times_s)

    assert found is not None
    assert (found.share, found.trial_count) == (0.8, 10)
    assert (found.low, found.high) == wilson(8, 10)


def test_the_interval_by_seconds_holds_the_truth_where_that_by_frames_does_not() -> None:
    rng = np.random.default_rng(7)
    times_s = [frame / 10 for frame in range(300)]
    truth, held, held_by_frame = 0.8, 0, 0
    for _ in range(300):
        hits = np.repeat(rng.random(30) < truth, 10).tolist()
        by_second, by_frame = place_of(hits, times_s), place_of(hits)
        assert by_second is not None
        assert by_frame is not None
        held += by_second.low <= truth <= by_second.high
        held_by_frame += by_frame.low <= truth <= by_frame.high

    assert held >= 0.92 * 300
    assert held_by_frame < 0.7 * 300


def test_one_input_of_two_shapes_maps_a_cell_back_to_each_of_them() -> None:
    spec = InputSpec(100, 100, resize="letterbox")
    heat = np.zeros((10, 10), np.float32)
    heat[5, 0] = 1

    assert peak_of(heat, Window.of(spec, 100, 200)) == pytest.approx((0.05, 0.6))
    assert peak_of(heat, Window.of(spec, 200, 100)) == pytest.approx((-0.4, 0.55))
