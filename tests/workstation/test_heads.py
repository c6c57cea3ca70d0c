"""Several heads over several sets: what is not known is not learned, and what is known is learned."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from blobs import RECIPE
from click.testing import CliRunner

from edgecnn.bundle.manifest import OperatingPoints
from edgecnn.cli.bench_pictures import pictures_for
from edgecnn.cli.measure import bench
from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head
from edgecnn.errors import DataError, ModelError, RecipeError
from edgecnn.measure.evaluate import evaluate, truth_for
from edgecnn.runtime.predictor import load
from edgecnn.workstation import model_file
from edgecnn.workstation.averages import Averages
from edgecnn.workstation.backend import keras, tf
from edgecnn.workstation.convert import convert
from edgecnn.workstation.data.augment import augment_with
from edgecnn.workstation.data.catalog import Dataset, open_dataset
from edgecnn.workstation.data.targets import FINE, SOMEWHERE, Targets, cells, join, mask_for, targets_of
from edgecnn.workstation.losses import NOWHERE_ODDS, PEAK_WEIGHT, loss_for, soft_loss_for
from edgecnn.workstation.models.zoo import build
from edgecnn.workstation.prune import prune
from edgecnn.workstation.quality import quality_of
from edgecnn.workstation.recipe import Augment, ModelSpec, TrainSpec, folders_of, parse, with_epochs
from edgecnn.workstation.thresholds import operating_points, thresholds_of
from edgecnn.workstation.train import Progress, freeze, train

SIDE = 32
Dying = Callable[[], contextlib.AbstractContextManager[None]]

RECIPE_HEADS = (
    RECIPE.replace('head = "colour"\n', "")
    .replace("16\nwidth_px = 16", f"{SIDE}\nwidth_px = {SIDE}")
    .replace("epochs = 8", "epochs = 10")
    .replace('kind = "flatten"', 'kind = "global_average_pool"')
    .replace('[[model.layers]]\nkind = "dropout"\nrate = 0.3\n', "")
    .replace("shift = 0.1\nnoise = 8", "")
    + """
[[heads]]
name = "ground"
kind = "softmax"
classes = { meadow = ["meadow"], sand = ["sand"] }

[[heads]]
name = "danger"
kind = "sigmoid"
classes = { fire = ["fire"], smoke = ["smoke"] }
negatives = { fire = ["meadow", "sand", "smoke"], smoke = ["meadow", "sand"] }

[[heads]]
name = "where"
kind = "heatmap"
classes = { fire = ["fire"], smoke = ["smoke"] }
negatives = { fire = ["meadow", "sand", "smoke"], smoke = ["meadow", "sand"] }
"""
)
FIRE = Head("danger", "sigmoid", ("fire", "smoke"), independent=True)
WHERE = Head("where", "heatmap", ("fire", "smoke"))


def write_world(folder: Path) -> tuple[Path, Path]:
    """Write grounds without dangers, and dangers with boxes for every second picture."""
    rng = np.random.default_rng(4)
    boxes, annotations = [], []
    for split, count in (("train", 40), ("val", 16), ("test", 8)):
        for name, colour in (("meadow", (60, 150, 60)), ("sand", (150, 150, 60))):
            for number in range(count):
                write(folder / "grounds" / split / name / f"{name}_{number}.png", ground(rng, colour))
        for category, (name, colour) in enumerate((("fire", (255, 90, 0)), ("smoke", (30, 30, 30))), 1):
            for number in range(count):
                pixels = ground(rng, (100, 100, 140))
                x, y = (int(corner) for corner in rng.integers(0, 20, 2))
                pixels[y : y + 12, x : x + 12] = colour
                path = f"images/{split}/{name}/{'a' if number % 4 else 'b'}_{number}.png"
                write(folder / "dangers" / path, pixels)
                if number % 2 == 0:
                    boxes.append({"id": len(boxes), "file_name": path, "width": SIDE, "height": SIDE})
                    annotations.append(
                        {"image_id": len(boxes) - 1, "category_id": category, "bbox": [x, y, 12, 12]}
                    )
    categories = [{"id": 1, "name": "fire"}, {"id": 2, "name": "smoke"}]
    table = {"images": boxes, "annotations": annotations, "categories": categories}
    (folder / "dangers/boxes.json").write_text(json.dumps(table), encoding="utf-8")
    return folder / "grounds", folder / "dangers"


def ground(rng: np.random.Generator, colour: tuple[int, int, int]) -> np.ndarray:
    return np.clip(rng.normal(colour, 12, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels[..., ::-1])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def dataset(world: tuple[Path, Path]) -> Dataset:
    return open_dataset(world, folders_of(parse(RECIPE_HEADS)))


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(parse(RECIPE_HEADS), RECIPE_HEADS, dataset, tmp_path_factory.mktemp("run")).path


def test_one_network_learns_all_its_heads_from_sets_that_each_know_a_part(trained: Path) -> None:
    card = model_file.read_card(trained)
    history = json.loads((trained.parent / "history.json").read_text(encoding="utf-8"))
    heads = history[-1]["heads"]

    assert [head.kind for head in card.heads] == ["softmax", "sigmoid", "heatmap"] if card else False
    assert heads["ground"] > 0.9
    assert heads["danger"] > 0.9
    assert heads["where"] > 0.9


def test_boxes_given_apart_teach_what_those_above_do_and_are_named_in_the_file(
    world: tuple[Path, Path], dataset: Dataset, tmp_path: Path
) -> None:
    marks = tmp_path / "marks.json"
    data = (world[0], shutil.copytree(world[1], tmp_path / "dangers"))
    (data[1] / "boxes.json").rename(marks)
    recipe, text = with_epochs(parse(RECIPE_HEADS), RECIPE_HEADS, 1)
    apart = open_dataset(data, folders_of(recipe), boxes=[marks])
    made = train(recipe, text, apart, tmp_path / "run")
    above = train(recipe, text, dataset, tmp_path / "above")

    pairs = zip(*(model_file.load(run.path)[0].get_weights() for run in (made, above)), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    digests = {"marks.json": hashlib.sha256(marks.read_bytes()).hexdigest()}
    notes: list[str] = []
    progress = Progress(on_note=notes.append)
    manifest = convert(made.path, tmp_path / "m.tflite", "float32", apart, progress=progress).bundle.manifest
    assert notes == []
    convert(made.path, tmp_path / "again.tflite", "float32", dataset, progress=progress)
    assert notes == ["Note: the model was trained with the boxes of marks.json; give them by --boxes."]
    assert manifest is not None
    assert manifest.provenance.boxes_sha256 == digests
    pruned = prune(above.path, apart, tmp_path / "pruned.h5", 0.5, 1, progress).path
    card = model_file.read_card(pruned)
    assert card is not None
    assert card.boxes_sha256 == digests
    with pytest.raises(ModelError, match="is there already"):
        train(recipe, text, open_dataset(data, folders_of(recipe)), tmp_path / "run", resume=True)


def test_the_int8_file_has_every_head_in_its_place_with_thresholds_found_on_val(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    made = convert(trained, tmp_path / "m.tflite", "int8", dataset)
    manifest = made.bundle.manifest
    predictor = load(made.bundle.path)
    scores = {
        folder: [predictor.scores(p.read()) for p in dataset.split("test") if p.folder == folder]
        for folder in ("fire", "smoke")
    }
    fire, smoke = (np.mean([row["danger"] for row in rows], axis=0) for rows in scores.values())

    assert manifest is not None
    assert {row.head for row in manifest.measured} == {"ground", "danger", "where"}
    assert set(manifest.operating_points) == {"fire", "smoke"}
    for label, found in manifest.operating_points.items():
        odds = [score / (1 - score) for score in (found.low_false_alarms, found.high_recall)]
        half_way = 1 / (1 + 1 / np.sqrt(np.prod(odds)))
        assert manifest.thresholds[label] == pytest.approx(max(found.low_false_alarms, half_way), abs=1e-5)
    assert fire[0] > smoke[0]
    assert smoke[1] > fire[1]
    assert scores["fire"][0]["where"].ndim == 3
    assert all(check.drop.drop_pp <= 10 for check in made.checks)


def test_a_model_of_several_heads_is_benched_on_one_of_its_sets(
    trained: Path, dataset: Dataset, world: tuple[Path, Path], tmp_path: Path
) -> None:
    path = convert(trained, tmp_path / "m.tflite", "int8", dataset).bundle.path
    options = ["--data", str(world[1]), "--out", str(tmp_path / "report"), "--calls", "10", "--warmup", "0"]
    result = CliRunner().invoke(bench, [str(path), *options], catch_exceptions=False)

    assert result.exit_code == 0
    row = json.loads((tmp_path / "report/report.json").read_text(encoding="utf-8"))["models"][0]
    assert set(row["accuracy"]) == {"danger", "where"}
    assert row["accuracy"]["danger"]["per_label"]["smoke"]["count"] == 8


def test_training_convert_and_bench_agree_on_how_often_the_peak_lies_in_a_box(
    trained: Path, dataset: Dataset, world: tuple[Path, Path]
) -> None:
    path = convert(trained, trained.parent / "agree.tflite", "float32", dataset).bundle.path
    model = load(path)
    assert model.manifest is not None
    (checked,) = (row for row in model.manifest.measured if row.head == "where")
    history = json.loads((trained.parent / "history.json").read_text(encoding="utf-8"))
    (hits,) = evaluate([model], pictures_for([model], [world[1]], "val")).hits
    every = [hit for by_label in hits["where"].values() for hit in by_label]

    assert len(every) == checked.count == 16
    assert np.mean(every) == pytest.approx(checked.value)
    assert np.mean(every) == pytest.approx(history[-1]["heads"]["where"])


def test_a_run_with_averaged_weights_and_heads_resumes_to_the_same_weights(
    dataset: Dataset, tmp_path: Path, dies_after_an_epoch: Dying
) -> None:
    text = RECIPE_HEADS.replace("epochs = 10", "epochs = 3\nema = 0.9")
    whole = train(parse(text), text, dataset, tmp_path / "whole").path
    with dies_after_an_epoch():
        train(parse(text), text, dataset, tmp_path / "broken")
    resumed = train(parse(text), text, dataset, tmp_path / "broken", resume=True).path

    pairs = zip(*(model_file.load(path)[0].get_weights() for path in (whole, resumed)), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_a_heatmap_that_learns_alone_leaves_every_other_answer_as_it_was(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    text = RECIPE_HEADS.replace("epochs = 10", 'epochs = 1\nfreeze = "all_but_heatmaps"')
    made = train(parse(text), text, dataset, tmp_path / "run", init=str(trained)).path
    before, after = (model_file.load(path)[0] for path in (trained, made))
    codes = np.stack([picture.read() for picture in dataset.split("test")])
    ground, danger, where = (
        [model.predict(codes, verbose=0)[place] for model in (before, after)] for place in range(3)
    )

    assert np.array_equal(*ground)
    # The logits of independent labels are moved and scaled anew on val.
    assert np.array_equal(*(np.argsort(scores, axis=0) for scores in danger))
    assert np.abs(where[0] - where[1]).max() > 0.01
    # Pruning and training for int8 find a model in which all can learn.
    assert all(layer.trainable for layer in after.layers if "norm" not in layer.name)


def test_nothing_is_frozen_that_was_never_learned(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    text = RECIPE_HEADS.replace("epochs = 10", 'epochs = 1\nfreeze = "all_but_heatmaps"')
    with pytest.raises(ModelError, match="no weights for everything but its heatmaps"):
        train(parse(text), text, dataset, tmp_path / "run")
    other = text.replace('name = "ground"', 'name = "soil"')
    with pytest.raises(ModelError, match="no weights for soil_logits"):
        train(parse(other), other, dataset, tmp_path / "run", init=str(trained))


def test_all_but_heatmaps_is_all_but_what_heatmaps_alone_read() -> None:
    alarm = Head("top_down_alarm", "sigmoid", ("fire", "smoke"))
    model = build(ModelSpec("mobilenet_v2", width=0.1, top_down=True), InputSpec(64, 64), [alarm, WHERE])
    freeze(model, [alarm, WHERE], TrainSpec(freeze="all_but_heatmaps"))

    learns = {layer.name for layer in model.layers if layer.trainable_weights}
    assert learns == {"where_logits", *(f"top_down_{level}" for level in (1, 2, 3, 4))}


def test_a_student_learns_from_a_teacher_what_its_labels_do_not_say(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    text = (
        RECIPE_HEADS.replace("epochs = 10", "epochs = 4") + "\n[distill]\nweight = 1.0\ntemperature = 1.0\n"
    )
    student = train(parse(text), text, dataset, tmp_path, teachers=[trained]).path
    alone = build(parse(text).model, parse(text).input, model_file.read_card(trained).heads)  # type: ignore[union-attr]
    codes = np.stack([picture.read() for picture in dataset.split("test")]).astype(np.float32)
    teacher, taught, untaught = (
        model(codes)[0].numpy() for model in (model_file.load(trained)[0], model_file.load(student)[0], alone)
    )

    assert np.abs(teacher - taught).mean() < 0.5 * np.abs(teacher - untaught).mean()


def test_a_teacher_of_other_labels_is_refused(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    text = RECIPE_HEADS.replace("fire = [", "flame = [")
    text = text.replace('name = "ground"', 'name = "soil"')

    with pytest.raises(ModelError, match="A teacher answers"):
        train(parse(text), text, dataset, tmp_path, teachers=[trained])


def test_what_a_folder_does_not_say_is_unknown_and_a_box_tells_more(dataset: Dataset) -> None:
    spec = parse(RECIPE_HEADS).heads[1]
    rows = {picture.folder: row for picture, row in zip(
        dataset.split("train"), targets_of(dataset.split("train"), FIRE, spec).values, strict=True
    )}  # fmt: skip

    assert rows["meadow"].tolist() == [0, 0]
    assert rows["smoke"].tolist() == [0, 1]
    assert rows["fire"][0] == 1
    assert np.isnan(rows["fire"][1])


def test_unknown_answers_change_neither_the_loss_nor_its_gradient() -> None:
    for head, width in ((Head("x", "softmax", ("a", "b", "c")), 3), (FIRE, 2)):
        scores = tf.constant(np.random.default_rng(1).dirichlet(np.ones(width), 4).astype(np.float32))
        targets = np.eye(width, dtype=np.float32)[[0, 1, 1, 0]]
        fewer = np.concatenate([targets[:2], np.full((2, width), np.nan, np.float32)])
        loss = loss_for(head, 0.1)
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = loss(fewer, scores)

        assert float(value) == pytest.approx(float(loss(targets[:2], scores[:2])), rel=1e-6)
        gradient = tape.gradient(value, scores).numpy()
        assert np.isfinite(gradient).all()
        assert (gradient[2:] == 0).all()


def test_the_loss_of_a_heatmap_wants_one_bright_spot_where_only_the_picture_is_known() -> None:
    loss = loss_for(WHERE, 0.0)
    dark = np.full((1, 10, 10, 2), 0.01, np.float32)
    spot = dark.copy()
    spot[0, 2:5, 2:5, 0] = 0.99
    somewhere = np.zeros((1, 10, 10, 2), np.float32)
    somewhere[..., 0] = SOMEWHERE
    nowhere = np.zeros((1, 10, 10, 2), np.float32)

    assert float(loss(somewhere, spot)) < float(loss(somewhere, dark))
    assert float(loss(nowhere, dark)) < float(loss(nowhere, spot))
    assert float(loss(np.full_like(dark, np.nan), spot)) == 0


def test_which_cell_is_ahead_counts_once_a_picture_for_far_flames_and_near_ones() -> None:
    loss = loss_for(Head("where", "heatmap", ("fire",)), 0.0)
    nowhere, far, near = np.zeros((3, 1, 10, 10, 1), np.float32)
    far[0, 3, 3] = near[0, :, :5] = 1
    level = np.full((1, 10, 10, 1), 0.2, np.float32)  # 100 cells of odds of 0.25 each
    ahead = level.copy()
    ahead[0, 3, 3] = 0.6  # odds of 1.5

    silent = 25 + NOWHERE_ODDS

    def beyond_the_cells(targets: np.ndarray, scores: np.ndarray) -> float:
        of_cells = -np.log(np.where(targets > 0, scores, 1 - scores)).mean()
        return (float(loss(targets, scores)) - float(of_cells)) / PEAK_WEIGHT

    assert beyond_the_cells(far, level) == pytest.approx(np.log(silent / 0.25), rel=1e-4)
    assert beyond_the_cells(far, ahead) == pytest.approx(np.log((silent + 1.25) / 1.5), rel=1e-4)
    assert beyond_the_cells(near, level) == pytest.approx(np.log(silent / 12.5), rel=1e-4)
    assert beyond_the_cells(nowhere, level) == pytest.approx(np.log(silent / NOWHERE_ODDS), rel=1e-4)
    assert float(loss(np.full_like(far, np.nan), ahead)) == 0


def test_a_flame_is_pulled_up_however_far_behind_it_is() -> None:
    loss = loss_for(Head("where", "heatmap", ("fire",)), 0.0)
    far = np.zeros((1, 20, 20, 1), np.float32)
    far[0, 3, 3] = 1
    for flame, elsewhere in ((-7, 9), (-12, 12), (-14, -14)):
        logits = np.full((1, 20, 20, 1), -8, np.float32)
        logits[0, 3, 3], logits[0, 9, 9] = flame, elsewhere
        logits = tf.constant(logits)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(far, tf.sigmoid(logits))
        gradient = tape.gradient(value, logits).numpy()
        assert gradient[0, 3, 3] == pytest.approx(-PEAK_WEIGHT, rel=0.02)
        assert np.isfinite(gradient).all()


def test_a_rare_label_weighs_more() -> None:
    head = Head("fire", "sigmoid", ("no", "yes"))
    scores = np.float32([[0.5]])
    plain, weighed = loss_for(head, 0.0), loss_for(head, 0.0, np.float32([[0.5, 4.0]]))

    assert float(weighed(np.float32([[1]]), scores)) == pytest.approx(
        4 * float(plain(np.float32([[1]]), scores))
    )
    assert float(weighed(np.float32([[0]]), scores)) == pytest.approx(
        float(plain(np.float32([[0]]), scores)) / 2
    )


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_student_that_answers_as_its_teacher_has_nothing_to_learn(kind: str) -> None:
    teacher = tf.constant([[0.7, 0.2, 0.1]])
    loss = soft_loss_for(Head("x", kind, ("a", "b", "c")), 3.0)  # type: ignore[arg-type]
    student = tf.Variable(teacher)
    with tf.GradientTape() as tape:
        value = loss(teacher, student)
    gradient = tape.gradient(value, student).numpy()

    # The scores of a softmax sum to 1: only what is left of the gradient along that plane could move them.
    along = gradient - gradient.mean() if kind == "sigmoid" else gradient - (gradient * teacher).numpy().sum()
    assert np.abs(along if kind == "softmax" else gradient).max() < 1e-4
    assert float(loss(teacher, tf.constant([[0.1, 0.2, 0.7]]))) > float(value)


def test_a_mask_moves_with_its_picture() -> None:
    augment = Augment(flip=True, rotate_degrees=20, zoom=0.2, shift=0.1, crop=0.5)
    picture = np.zeros((160, 160, 3), np.uint8)
    picture[30:70, 90:140] = 255
    mask = mask_for({"fire": picture[..., 0] > 0}, ("fire",), (10, 10), InputSpec(160, 160))
    for seed in range(20):
        moved, (moved_mask,) = augment_with(picture, (mask,), augment, np.random.default_rng(seed))
        seen = cv2.resize(moved[..., 0], (40, 40), interpolation=cv2.INTER_AREA).astype(int)

        assert np.abs(seen - moved_mask[..., 0]).mean() < 6


def test_a_flame_far_away_fills_its_cell_and_one_that_was_cut_out_leaves_none() -> None:
    mask = np.zeros((4 * FINE, 4 * FINE, 1), np.uint8)
    gone = cells(np.float32([1]), mask, (4, 4))
    mask[5, 5] = 255

    assert cells(np.float32([1]), mask, (4, 4))[1, 1, 0] == 1
    assert cells(np.float32([1]), mask, (4, 4)).sum() == 1
    assert (gone == SOMEWHERE).all()


def test_joined_targets_keep_the_masks_of_their_pictures() -> None:
    masks = np.arange(2 * 8 * 8).reshape(2, 8, 8, 1).astype(np.uint8)
    parts = [
        Targets(np.ones((2, 1), np.float32), (2, 2), masks[:1], np.array([-1, 0])),
        Targets(np.ones((2, 1), np.float32), (2, 2), masks[1:], np.array([0, -1])),
    ]
    both = join(parts)

    assert both.mask(0) is None
    assert both.mask(3) is None
    assert np.array_equal(both.mask(1), masks[0])  # type: ignore[arg-type]
    assert np.array_equal(both.mask(2), masks[1])  # type: ignore[arg-type]


def test_a_heatmap_is_judged_by_whether_its_peak_lies_in_a_box() -> None:
    mask = np.zeros((1, 8, 8, 1), np.uint8)
    mask[0, :4, :4] = 255
    box = (0.0, 0.0, 0.5, 0.5)
    targets = Targets(np.ones((1, 1), np.float32), (2, 2), mask, np.array([0]), (((box,),),))
    inside, outside = np.full((2, 1, 2, 2, 1), 0.1, np.float32)
    inside[0, 0, 0], outside[0, 1, 1] = 0.3, 0.3
    head = Head("where", "heatmap", ("fire",))

    assert (quality_of(inside, targets, head), quality_of(outside, targets, head)) == (1.0, 0.0)


def test_averaged_weights_are_lent_and_given_back() -> None:
    weight = tf.Variable([0.0])
    averages = Averages([weight], 0.5)
    weight.assign([1.0])
    averages.follow(tf.constant(100))
    with averages.applied():
        lent = weight.numpy().tolist()

    assert (lent, weight.numpy().tolist()) == ([0.5], [1.0])


@pytest.mark.parametrize(
    ("low_false_alarms", "high_recall", "default"),
    [(0.3, 0.2, 0.3), (0.1, 0.9, 0.5)],
    ids=["they exclude each other", "both can be kept"],
)
def test_the_default_threshold_raises_few_false_alarms_and_no_fewer_than_need_be(
    low_false_alarms: float, high_recall: float, default: float
) -> None:
    chosen = thresholds_of([FIRE], {"fire": OperatingPoints(low_false_alarms, high_recall)})

    assert chosen == pytest.approx({"fire": default, "smoke": 0.5})


def test_operating_points_keep_what_they_promise() -> None:
    rng = np.random.default_rng(2)
    scores = np.concatenate([rng.beta(2, 6, 1000), rng.beta(6, 2, 400)]).astype(np.float32)
    shown = np.arange(1400) >= 1000
    points = operating_points(scores, shown)

    assert 0.005 <= (scores[~shown] >= points.low_false_alarms).mean() <= 0.01
    assert 0.95 <= (scores[shown] >= points.high_recall).mean() <= 0.955


def test_a_source_that_is_left_out_is_neither_trained_nor_chosen_on(world: tuple[Path, Path]) -> None:
    data = open_dataset(world, folders_of(parse(RECIPE_HEADS)), leave_out=["b_*"])

    left_out = data.split("left_out")
    assert {picture.path.rsplit("/", 1)[-1][:2] for picture in left_out} == {"b_"}
    assert not any("/b_" in picture.path for split in ("train", "val") for picture in data.split(split))
    with pytest.raises(DataError, match="named like 'c_"):
        open_dataset(world, leave_out=["c_*"])


def test_a_further_set_of_training_pictures_leaves_val_as_it_was(
    tmp_path: Path, world: tuple[Path, Path]
) -> None:
    write(tmp_path / "more/train/fire/1.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    write(tmp_path / "more/train/smoke/1.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    before, after = open_dataset(world), open_dataset([*world, tmp_path / "more"])

    assert after.split("val") == before.split("val")
    assert len(after.split("train")) == len(before.split("train")) + 2
    assert after.digest() != before.digest()


def test_two_sets_of_one_name_are_refused(tmp_path: Path, world: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="one name"):
        open_dataset([world[0], tmp_path / world[0].name])


def test_a_picture_of_an_unnamed_folder_tests_nothing(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    manifest = convert(trained, tmp_path / "m.tflite", "float32", dataset).bundle.manifest

    holds, known = truth_for(["fire", "meadow", "cellar"], FIRE, manifest, by_folder=True)

    assert holds.tolist() == [[True, False], [False, False], [False, False]]
    assert known.tolist() == [[True, False], [True, True], [False, False]]


def test_a_foreign_file_beside_models_of_several_heads_is_tested_by_the_folders_that_it_names() -> None:
    foreign = Head("label", "softmax", ("fire", "meadow"))

    holds, known = truth_for(["fire", "meadow", "cellar"], foreign, None, by_folder=True)

    assert holds.tolist() == [[True, False], [False, True], [False, False]]
    assert known.tolist() == [[True, True], [True, True], [False, False]]


@pytest.mark.parametrize(("top_down", "side"), [(False, 4), (True, 8)])
def test_an_untrained_heatmap_pulls_at_no_trunk_and_has_cells_of_16_or_8_pixels(
    top_down: bool, side: int
) -> None:
    model = build(ModelSpec("mobilenet_v2", width=0.35, top_down=top_down), InputSpec(64, 64), [WHERE])
    trunk = [weight for weight in model.trainable_weights if "where" not in weight.name]
    with tf.GradientTape() as tape:
        value = loss_for(WHERE, 0.0)(
            np.zeros((1, side, side, 2), np.float32), model(np.full((1, 64, 64, 3), 90.0))
        )
    gradients = tape.gradient(value, trunk)

    assert model.output_shape == (None, side, side, 2)
    assert all(gradient is None or not np.any(gradient) for gradient in gradients)
    assert isinstance(model.get_layer("where"), keras.layers.Activation)


@pytest.mark.parametrize(
    "broken",
    [
        RECIPE_HEADS.replace('meadow = ["meadow"]', 'meadow = ["sand"]', 1),
        RECIPE_HEADS.replace('negatives = { fire = ["meadow"', 'negatives = { fire = ["fire"', 1),
        RECIPE_HEADS.replace('negatives = { fire = ["meadow"', 'negatives = { fog = ["meadow"', 1),
        RECIPE_HEADS.replace('kind = "softmax"', 'kind = "softmax"\nweight = -1', 1),
        'head = "x"\n' + RECIPE_HEADS,
        RECIPE_HEADS + "\n[pasted]\ncount = 3",
        RECIPE_HEADS.replace("epochs = 10", 'epochs = 1\nhead_epochs = 1\nfreeze = "all_but_heatmaps"'),
    ],
)
def test_heads_that_contradict_themselves_are_refused(broken: str) -> None:
    with pytest.raises(RecipeError):
        parse(broken)
