"""The bench: which pictures test which head, and what becomes of bad ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import FakePicture, FakePredictor

from edgecnn.bundle.manifest import Manifest
from edgecnn.core.frame import InputSpec, Pixels
from edgecnn.core.prediction import Head
from edgecnn.errors import DataError
from edgecnn.measure import bench
from edgecnn.runtime.host import host_facts

FIRE = Head("fire", "sigmoid", ("no_fire", "fire"))
SCENE = Head("scene", "softmax", ("sea", "street", "forest"))
SEEN = Head("seen", "sigmoid", ("fire", "smoke", "person"))
QUICK = bench.Settings(calls=10, warmup_calls=0)


def _model(
    folder: Path, heads: list[Head], table: dict, name: str = "model", **more: object
) -> FakePredictor:
    path = folder / f"{name}.tflite"
    path.write_bytes(name.encode())
    return FakePredictor(path, heads, table, **more)


def _pictures(*labels: str) -> bench.Pictures:
    return bench.Pictures(
        "data", "test", [FakePicture(f"test/{s}/{i}.png", s, i) for i, s in enumerate(labels)]
    )


def test_of_a_model_with_two_heads_only_the_one_that_knows_the_labels_is_tested(tmp_path: Path) -> None:
    table = {"fire": [(0.9, 0.1), (0.2, 0.8)], "scene": [(1, 0, 0), (1, 0, 0)]}
    report, _ = bench.run(
        [_model(tmp_path, [SCENE, FIRE], table)], host_facts(), _pictures("no_fire", "fire"), QUICK
    )
    assert list(report.models[0].accuracy) == ["fire"]
    assert report.models[0].accuracy["fire"].auc == 1.0


def test_pictures_with_foreign_labels_are_refused_with_both_lists(tmp_path: Path) -> None:
    model = _model(tmp_path, [SCENE], {"scene": [(1, 0, 0)] * 2})
    with pytest.raises(DataError, match=r"cat, dog.*forest, sea, street"):
        bench.run([model], host_facts(), _pictures("cat", "dog"), QUICK)


def test_a_picture_of_none_of_its_labels_tests_a_head_of_several_sigmoids(tmp_path: Path) -> None:
    model = _model(tmp_path, [SEEN], {"seen": [(0.9, 0.1, 0.1), (0.1, 0.1, 0.1)]})
    report, _ = bench.run([model], host_facts(), _pictures("fire", "meadow"), QUICK)
    assert report.models[0].accuracy["seen"].top1 == 1.0


def test_the_threshold_of_the_manifest_decides(tmp_path: Path) -> None:
    manifest = Manifest("fire", "int8", InputSpec(8, 8), (FIRE,), thresholds={"fire": 0.9})
    model = _model(tmp_path, [FIRE], {"fire": [(0.2, 0.8), (0.05, 0.95)]}, manifest=manifest)
    report, _ = bench.run([model], host_facts(), _pictures("no_fire", "fire"), QUICK)
    assert report.models[0].accuracy["fire"].top1 == 1.0


def test_a_broken_picture_is_left_out_and_named(tmp_path: Path) -> None:
    items = [FakePicture("test/fire/0.png", "fire", 0), FakePicture("test/fire/cut.png", "fire", -1)]
    model = _model(tmp_path, [FIRE], {"fire": [(0.1, 0.9)]})
    report, _ = bench.run([model], host_facts(), bench.Pictures("data", "test", items), QUICK)
    assert report.data is not None
    assert (report.data.count, report.data.skipped[0].picture) == (1, "test/fire/cut.png")


def test_data_of_broken_pictures_only_is_refused(tmp_path: Path) -> None:
    items = [FakePicture("test/fire/cut.png", "fire", -1)]
    with pytest.raises(DataError, match="None of the 1 pictures"):
        bench.evaluate([_model(tmp_path, [FIRE], {"fire": []})], bench.Pictures("data", "test", items))


def test_each_picture_is_read_once_and_its_order_is_kept(tmp_path: Path) -> None:
    reads: list[int] = []

    class Counted(FakePicture):
        def read(self) -> Pixels:
            reads.append(self.value)
            return super().read()

    items = [Counted(f"{i}.png", "fire", i) for i in range(100)]
    table = {"fire": [(1 - i / 100, i / 100) for i in range(100)]}
    models = [
        _model(tmp_path, [FIRE], table, n, input=InputSpec(s, s)) for n, s in (("a", 8), ("b", 4), ("c", 8))
    ]
    found = bench.evaluate(models, bench.Pictures("data", "test", items))
    assert sorted(reads) == list(range(100))
    assert all(np.allclose(found.scores[m]["fire"][:, 1], np.arange(100) / 100) for m in range(3))


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    manifest = Manifest("fire", "int8", InputSpec(8, 8), (FIRE,))
    one = _model(tmp_path, [FIRE], {}, "a", manifest=manifest)
    other = _model(tmp_path, [FIRE], {}, "b", manifest=manifest, precision="float32")
    assert bench.unique_names([one, other]) == ["fire int8", "fire float32"]
    assert bench.unique_names([one, one]) == ["a 1", "a 2"]


def test_a_heatmap_speaks_for_the_picture_by_its_strongest_cell(tmp_path: Path) -> None:
    smoke = Head("smoke", "heatmap", ("smoke", "fire"))
    cells = np.zeros((4, 5, 2))
    cells[3, 1] = (0.9, 0.2)
    model = _model(tmp_path, [smoke], {"smoke": [cells]})
    assert bench.evaluate([model], _pictures("smoke")).scores[0]["smoke"] == pytest.approx(
        np.array([[0.9, 0.2]])
    )


def test_two_heads_of_one_name_and_other_labels_are_not_compared(tmp_path: Path) -> None:
    one = _model(tmp_path, [FIRE], {"fire": [(0.9, 0.1)] * 2}, "a")
    other_head = Head("fire", "softmax", ("fire", "no_fire", "smoke"))
    other = _model(tmp_path, [other_head], {"fire": [(0.1, 0.9, 0)] * 2}, "b")
    report, _ = bench.run([one, other], host_facts(), _pictures("no_fire", "fire"), QUICK)
    assert [(row.head, row.accuracy_drop_pp) for row in report.comparison] == [(None, None)]
    assert report.comparison[0].speedup_p50 is not None


def test_frames_for_timing_stay_within_the_memory_of_a_small_board(tmp_path: Path) -> None:
    class Wide(FakePicture):
        def read(self) -> Pixels:
            return np.zeros((3000, 4000, 3), np.uint8)

    items = [Wide(f"{i}.png", "fire", 0) for i in range(4)]
    model = _model(tmp_path, [FIRE], {"fire": [(0.1, 0.9)]})
    report, _ = bench.run([model], host_facts(), bench.Pictures("data", "test", items), QUICK)
    assert report.frames == "1 picture of the data, 3000 x 4000"
