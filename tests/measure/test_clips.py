"""The alarm on clips: rendered ones, a model that knows orange, and the list that names them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import orange
import pytest
from click.testing import CliRunner
from fakes import FakePredictor

from edgecnn.bundle.manifest import Manifest
from edgecnn.cli.main import edgecnn
from edgecnn.core.alarm import AlarmPolicy
from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head
from edgecnn.errors import DataError
from edgecnn.measure.clips import watch_clips
from edgecnn.measure.watched import Clip, alarm_in_words, watched
from edgecnn.runtime.clip import frames
from edgecnn.runtime.predictor import load
from edgecnn.watch.box import quick
from edgecnn.watch.decision import Decider, Rules
from edgecnn.workstation.data.boxes import clips_of
from edgecnn.workstation.data.catalog import open_dataset

CALM_S, FIRE_S, RATE = 2.0, 4.0, 10.0
FIRE_BOX = [0, 80, 320, 160]


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of four pictures a split, with a fire clip of known boxes and a calm one."""
    root = tmp_path_factory.mktemp("yard")
    rng = np.random.default_rng(2)
    images, annotations = [], []
    for split in ("train", "test"):
        for number in range(4):
            for label in ("fire", "no_fire"):
                path = root / f"images/{split}/{label}/{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(90, 130, (96, 128, 3), dtype=np.uint8)
                if label == "fire":
                    pixels[16:56, 24:64] = (0, 110, 255)
                    images.append({"id": len(images), "file_name": str(path.relative_to(root)), "height": 96})
                    images[-1]["width"] = 128
                    annotations.append(
                        {"image_id": len(images) - 1, "category_id": 1, "bbox": [24, 16, 40, 40]}
                    )
                cv2.imwrite(str(path), pixels)
    boxes = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fire"}]}
    (root / "boxes.json").write_text(json.dumps(boxes))
    (root / "videos").mkdir()
    orange.write_clip(root / "videos/burns.avi", CALM_S, FIRE_S, RATE)
    orange.write_clip(root / "videos/calm.avi", 3.0, 0.0, RATE)
    frames = range(round(CALM_S * RATE), round((CALM_S + FIRE_S) * RATE))
    listed = [
        {
            "file": "videos/burns.avi", "split": "test", "label": "fire", "width": 320, "height": 240,
            "boxes_xywh_px": {str(frame): [FIRE_BOX] for frame in frames},
        },
        {"file": "videos/calm.avi", "split": "test", "label": "no_fire"},
    ]  # fmt: skip
    (root / "videos.json").write_text(json.dumps(listed))
    return root


@pytest.fixture(scope="module")
def heat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("heat") / "heat.tflite"
    orange.write_heat_model(path)
    return path


def clips_in(root: Path) -> tuple[Clip, ...]:
    return clips_of(open_dataset(root).split("test"), "test", root.name)


def test_the_alarm_comes_soon_after_the_first_box_and_never_where_nothing_burns(
    yard: Path, heat: Path
) -> None:
    burns, calm = watch_clips([load(heat, threads=1)], ["heat"], clips_in(yard)).clips
    seen = burns.watched[0]

    assert (burns.frame_count, burns.boxed_count, burns.seconds) == (60, 40, 6.0)
    assert seen.delay_s is not None
    assert 0.5 <= seen.delay_s <= 1.5
    assert seen.alarms_s == [pytest.approx(CALM_S + seen.delay_s)]
    assert calm.watched[0].alarms_s == []
    assert (calm.watched[0].shows, calm.watched[0].place) == (False, None)


def test_the_peak_is_held_against_the_boxes_of_its_frame(yard: Path, heat: Path) -> None:
    burns, _ = clips_in(yard)
    upper = dict.fromkeys(burns.boxes, ((0.0, 0.0, 1.0, 0.3),))
    clips = [burns, Clip("upper", burns.path, "fire", upper)]
    right, wrong = (
        clip.watched[0].place for clip in watch_clips([load(heat, threads=1)], ["heat"], clips).clips
    )

    assert right is not None
    assert wrong is not None
    assert (right.inside_count, right.count, right.trial_count) == (40, 40, 4)
    assert wrong.inside_count == 0


def test_whether_an_alarm_for_something_else_is_false_is_known_only_if_the_manifest_says_it(
    yard: Path, tmp_path: Path
) -> None:
    head = Head("danger", "sigmoid", ("fire", "smoke"), independent=True)
    negatives = {"fire": ("smoke", "no_fire"), "smoke": ("no_fire",)}
    (tmp_path / "m.tflite").write_bytes(b"m")

    def shown(manifest: Manifest) -> list[list[bool | None]]:
        model = FakePredictor(tmp_path / "m.tflite", [head], {"danger": [(0.9, 0.9)]}, manifest=manifest)
        report = watch_clips([model], ["m"], clips_in(yard))
        return [[seen.shows for seen in clip.watched] for clip in report.clips]

    silent = Manifest("m", "int8", InputSpec(8, 8), (head,))
    telling = replace(silent, negatives=negatives)

    assert shown(telling) == [[True, None], [False, False]]
    assert shown(silent) == [[True, False], [False, False]]


def test_the_alarm_is_the_one_that_watch_would_raise(yard: Path, heat: Path) -> None:
    burns = clips_in(yard)[0]
    model = load(heat, threads=1)
    config, _ = quick(heat, str(burns.path), (), 0, realtime=False)
    decider = Decider(Rules.of(config, model.heads, model.input, is_live=False))
    events = [e for f in frames(burns.path) for e in decider.decide(f, model.predict(f), 0.0)]
    seen = watch_clips([model], ["heat"], [burns]).clips[0].watched[0]

    assert [event.at_s for event in events if event.kind == "started"] == seen.alarms_s


def test_bench_puts_place_and_clips_into_every_report(yard: Path, heat: Path, tmp_path: Path) -> None:
    options = ["--data", str(yard), "--clips", "--calls", "10", "--warmup", "0", "--out", str(tmp_path)]
    done = CliRunner().invoke(edgecnn, ["bench", str(heat), *options], catch_exceptions=False)
    report = json.loads((tmp_path / "report.json").read_text())
    page = (tmp_path / "report.html").read_text()

    assert done.exit_code == 0
    assert report["models"][0]["place"]["where"]["fire"]["inside_count"] == 4
    assert [clip["clip"] for clip in report["clips"]["clips"]] == ["burns", "calm"]
    assert len(report["clips"]["clips"][0]["watched"][0]["scores"]) == 60
    assert report["clips"]["on_score"] == AlarmPolicy("").on_score
    assert "where: fire in a box" in done.stdout
    assert "0 false alarms" in done.stdout
    assert "| burns | fire | 60 in 6.0 s |" in (tmp_path / "report.md").read_text()
    assert len(re.findall(r'aria-label="Scores over the clip', page)) == 2
    assert "NaN" not in page


def test_without_asking_no_clip_is_looked_at(yard: Path, heat: Path, tmp_path: Path) -> None:
    options = ["--data", str(yard), "--calls", "10", "--warmup", "0", "--out", str(tmp_path)]
    CliRunner().invoke(edgecnn, ["bench", str(heat), *options], catch_exceptions=False)

    assert json.loads((tmp_path / "report.json").read_text())["clips"] is None


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("videos.json", "{", "cannot be read"),
        ("videos.json", '[{"file": "videos/burns.avi"}]', "cannot be read"),
        ("videos.json", '[["test"]]', "cannot be read"),
        ("videos.json", '[{"file": "a.avi", "split": "test", "label": "fire"}]', "is not there"),
        ("videos.json", '[{"file": "a.avi", "split": "train", "label": "fire"}]', "no clip in the split"),
        (
            "videos.json",
            '[{"file": "a", "split": "test", "label": "fire", "boxes_xywh_px": {"0": [[1, 2, 3]]},'
            ' "width": 4, "height": 4}]',
            "cannot be read",
        ),
        ("boxes.json", '{"images": [], "annotations": [{"image_id": 1}], "categories": []}', "boxes"),
    ],
)
def test_a_list_that_is_wrong_is_refused_before_anything_is_measured(
    yard: Path, heat: Path, tmp_path: Path, name: str, text: str, said: str
) -> None:
    root = tmp_path / "yard"
    for path in yard.rglob("*.*"):
        (root / path.relative_to(yard)).parent.mkdir(parents=True, exist_ok=True)
        (root / path.relative_to(yard)).write_bytes(path.read_bytes())
    (root / name).write_text(text)
    options = ["--data", str(root), "--clips", "--calls", "10", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(edgecnn, ["bench", str(heat), *options])

    assert isinstance(done.exception, DataError)
    assert said in done.exception.message
    assert not (tmp_path / "out").exists()


def test_data_without_clips_say_what_to_write(heat: Path, tmp_path: Path, yard: Path) -> None:
    with pytest.raises(DataError, match=r"no videos\.json"):
        clips_of(open_dataset(yard / "images").split("test")[:0], "test", "yard")


def test_a_clip_that_is_no_video_is_named(yard: Path, heat: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.avi").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"cut\.avi"):
        watch_clips([load(heat, threads=1)], ["heat"], [Clip("cut", tmp_path / "cut.avi", "fire", {})])


@pytest.mark.parametrize("options", [["FILE", "--clips"], ["--zoo", "--clips", "--data", "yard"]])
def test_clips_without_a_model_or_without_data_are_refused(options: list[str]) -> None:
    done = CliRunner().invoke(edgecnn, ["bench", *options])

    assert done.exit_code == 2
    assert "--data" in done.stderr


def test_words_tell_a_false_alarm_from_a_late_and_an_early_one() -> None:
    times = [float(second) for second in range(10)]
    policy = AlarmPolicy("fire", minimum_s=0)
    high, late = [0.9] * 10, [0.1] * 6 + [0.9] * 4

    def words(shows: bool | None, scores: list[float], seen_from_s: float) -> str:
        return alarm_in_words(watched("m", policy, shows, times, scores, seen_from_s, None))

    assert words(True, late, 2.0) == "after 4.00 s"
    assert words(True, high, 3.0) == "3.00 s before it was to be seen"
    assert words(True, [0.1] * 10, 0.0) == "no alarm"
    assert words(False, high, 0.0) == "1 false alarm, at 0.00 s"
    assert words(False, [0.1] * 10, 0.0) == "0 false alarms"
    assert "unknown whether rightly" in words(None, high, 0.0)
