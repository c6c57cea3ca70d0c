"""The shelf of trained models, and what puts a model on it."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import blobs
import click
import pytest
import tiny_models
from click.testing import CliRunner, Result

from edgecnn.bundle import file as files
from edgecnn.bundle.manifest import Provenance
from edgecnn.cli.main import edgecnn
from edgecnn.errors import BundleError, CheckFailed, DataError
from edgecnn.measure import bench, report
from edgecnn.measure.evaluate import Pictures
from edgecnn.measure.latency import NOT_MEASURED
from edgecnn.runtime.host import host_facts
from edgecnn.runtime.predictor import load
from edgecnn.watch.config import parse
from edgecnn.workstation import calibration, failures, publish, recipe
from edgecnn.workstation.card import card
from edgecnn.workstation.channels.shrink import shrink
from edgecnn.workstation.convert import convert
from edgecnn.workstation.data.catalog import LEFT_OUT, Dataset, open_dataset
from edgecnn.workstation.train import train
from edgecnn.zoo import figures as measured
from edgecnn.zoo import shelf
from edgecnn.zoo.figures import Figure, Figures, HeadFigures, LabelFigures, PictureSet, Training

QUICK = bench.Settings(calls=10, warmup_calls=0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blobs.write_blobs(tmp_path_factory.mktemp("data") / "blobs")


@pytest.fixture(scope="module")
def data(pictures: Path) -> Dataset:
    return open_dataset(pictures)


@pytest.fixture(scope="module")
def folder(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What train, convert and bench leave."""
    out = tmp_path_factory.mktemp("out")
    _make(blobs.RECIPE, data, out)
    return out


def _make(text: str, data: Dataset, out: Path, split: str = "test") -> None:
    train(recipe.parse(text), text, data, out)
    calibration.write(calibration.draw(data, 30, 1), out / "calibration.txt")
    convert(out / "model.h5", out / "int8.tflite", "int8", data, out / "calibration.txt")
    convert(out / "model.h5", out / "float32.tflite", "float32", data)
    _bench(out, data, split)


def _bench(out: Path, data: Dataset, split: str = "test", below: str = "") -> None:
    models = [load(out / "int8.tflite"), load(out / "float32.tflite")]
    found, thumbnails = bench.run(
        models, host_facts(), Pictures(data.name, split, data.split(split)), QUICK, [None, None]
    )
    report.write(found, out / below, thumbnails)


@pytest.fixture(scope="module")
def published(folder: Path, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf_folder = tmp_path_factory.mktemp("shelf")
    publish.publish("blobs", folder, data, folder / "calibration.txt", shelf_folder)
    return shelf_folder


def test_a_published_model_stands_on_the_shelf_with_the_figures_that_bench_found(
    published: Path, folder: Path
) -> None:
    found = json.loads((folder / "report.json").read_text())["models"][0]

    (resident,) = shelf.models(published)

    (pictures,) = resident.figures.sets
    assert (resident.name, resident.figures.sha256, pictures.split) == ("blobs", found["sha256"], "test")
    assert pictures.heads[0].accuracy.value == found["accuracy"]["colour"]["top1"]
    assert resident.figures.speed.p50_ms == found["latency"]["p50_ms"]


def test_the_card_names_data_figures_recipe_and_seed(published: Path, folder: Path) -> None:
    found = json.loads((folder / "report.json").read_text())["models"][0]["accuracy"]["colour"]

    card = (published / "blobs" / "card.md").read_text(encoding="utf-8")

    assert (
        f"{100 * found['top1']:.1f} % ({100 * found['low']:.1f} to {100 * found['high']:.1f}) of 60" in card
    )
    assert "| train | 60 | 60 | 60 | 180 |" in card
    assert 'name = "blobs"' in card
    assert "from the seed 1." in card
    assert str(folder) not in card


def test_the_card_says_how_often_a_label_is_seen_where_no_folder_tells(published: Path) -> None:
    resident = shelf.resident("blobs", published)
    (pictures, *_) = resident.figures.sets
    (head,) = pictures.heads
    smoke = LabelFigures("smoke", unknown=Figure(0.86, 0.74, 0.93, 50))
    figures = replace(
        resident.figures, sets=(replace(pictures, heads=(replace(head, labels=(*head.labels, smoke)),)),)
    )

    written = card("blobs", files.read(resident.path), figures)

    assert (
        "Of 50 pictures whose folder does not say whether they show smoke, colour says smoke of "
        "86.0 % (74.0 to 93.0)." in written
    )
    assert "folder does not say" not in (published / "blobs" / "card.md").read_text(encoding="utf-8")


def test_what_a_card_says_goes_into_markdown_without_loose_ends(published: Path) -> None:
    lines = (published / "blobs" / "card.md").read_text(encoding="utf-8").splitlines()

    tables = [line for line in lines if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert not any(line == after == "" for line, after in itertools.pairwise(lines))


def test_publishing_again_replaces_the_model_and_leaves_nothing_beside_it(
    published: Path, folder: Path, data: Dataset
) -> None:
    before = {p.name: p.read_bytes() for p in (published / "blobs").iterdir()}

    publish.publish("blobs", folder, data, folder / "calibration.txt", published)

    assert {p.name: p.read_bytes() for p in (published / "blobs").iterdir()} == before
    assert [p.name for p in published.iterdir()] == ["blobs"]


def test_a_model_that_was_trained_on_other_pictures_is_not_published(
    folder: Path, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="was not trained on"):
        publish.publish(
            "blobs", folder, replace(data, pictures=data.pictures[:-1]), folder / "calibration.txt", tmp_path
        )
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_was_calibrated_with_another_list_is_not_published(
    folder: Path, data: Dataset, tmp_path: Path
) -> None:
    calibration.write(calibration.draw(data, 6, 2), tmp_path / "other.txt")

    with pytest.raises(DataError, match="was not calibrated with"):
        publish.publish("blobs", folder, data, tmp_path / "other.txt", tmp_path / "shelf")


def test_a_report_about_the_file_of_an_earlier_run_is_not_published(
    folder: Path, data: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "out")
    text = (folder / "report.json").read_text()
    (tmp_path / "out" / "report.json").write_text(text.replace(text.split('"sha256": "')[1][:64], "0" * 64))

    with pytest.raises(DataError, match="is about another file"):
        publish.publish("blobs", tmp_path / "out", data, folder / "calibration.txt", tmp_path / "shelf")


def test_further_pictures_stand_on_the_card_too(folder: Path, data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    _bench(out, data, "val", "further")

    publish.publish("blobs", out, data, out / "calibration.txt", tmp_path / "shelf")

    (resident,) = shelf.models(tmp_path / "shelf")
    assert [(s.split, s.count) for s in resident.figures.sets] == [("test", 60), ("val", 60)]


@pytest.fixture(scope="module")
def without_ones(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What train, convert and bench leave of the same recipe without a source."""
    out = tmp_path_factory.mktemp("without-ones")
    kept = open_dataset(pictures, leave_out=["1?.png"])
    _make('leave_out = ["1?.png"]\n' + blobs.RECIPE, kept, out, LEFT_OUT)
    return out


def test_a_source_that_a_model_never_saw_stands_on_the_card_once(
    published: Path, without_ones: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(published, tmp_path / "shelf"))
    before = {p.name: p.read_bytes() for p in (mine / "blobs").iterdir()}

    for _ in range(2):
        _run("zoo", "left-out", "blobs", without_ones, "--into", mine)

    after = {p.name: p.read_bytes() for p in (mine / "blobs").iterdir()}
    sets = [(s.split, s.count, s.left_out) for s in shelf.resident("blobs", mine).figures.sets]
    assert sets == [("test", 60, ()), ("left_out", 60, ("1?.png",))]
    assert "| `1?.png` | 60 | colour |" in after["card.md"].decode()
    changed = {name for name in before if before[name] != after[name]}
    assert (changed, before.keys()) == ({"card.md", "figures.json"}, after.keys())
    was, now = (one["card.md"].decode().splitlines() for one in (before, after))
    splits = ("| train |", "| val |", "| test |")
    assert [line for line in now if line.startswith(splits)] == [
        line for line in was if line.startswith(splits)
    ]
    assert set(was) <= set(now)


def test_what_another_recipe_never_saw_is_not_taken_for_what_this_one_never_saw(
    published: Path, pictures: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(published, tmp_path / "shelf"))
    before = (mine / "blobs" / "card.md").read_bytes()
    shorter = 'leave_out = ["1?.png"]\n' + blobs.RECIPE.replace("epochs = 8", "epochs = 1")
    _make(shorter, open_dataset(pictures, leave_out=["1?.png"]), tmp_path / "out", LEFT_OUT)

    with pytest.raises(DataError, match=r"1\?\.png in .* is of another recipe than 'blobs'"):
        publish.add_left_out("blobs", tmp_path / "out", mine)
    assert (mine / "blobs" / "card.md").read_bytes() == before


def test_what_learned_from_other_boxes_is_of_another_recipe(
    published: Path, pictures: Path, tmp_path: Path
) -> None:
    table = {
        "images": [{"id": 1, "file_name": "train/blue/20.png", "width": 16, "height": 16}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [4, 4, 8, 8]}],
        "categories": [{"id": 1, "name": "blue"}],
    }
    boxes = tmp_path / "marks.json"
    boxes.write_text(json.dumps(table), encoding="utf-8")
    data = open_dataset(pictures, leave_out=["1?.png"], boxes=[boxes])
    _make('leave_out = ["1?.png"]\n' + blobs.RECIPE, data, tmp_path / "out", LEFT_OUT)

    with pytest.raises(DataError, match="of another recipe than 'blobs'"):
        publish.add_left_out("blobs", tmp_path / "out", Path(shutil.copytree(published, tmp_path / "shelf")))


def test_the_card_of_a_pruned_network_says_how_and_what_never_saw_a_source_must_be_pruned_alike(
    folder: Path, data: Dataset, pictures: Path, without_ones: Path, tmp_path: Path
) -> None:
    out, mine = Path(shutil.copytree(folder, tmp_path / "out")), tmp_path / "shelf"
    shrink(out / "model.h5", data, out / "pruned.h5", 0.2, epochs=1)
    convert(out / "pruned.h5", out / "int8.tflite", "int8", data, out / "calibration.txt")
    _bench(out, data)

    path = publish.publish("blobs", out, data, out / "calibration.txt", mine)

    text = (path / "card.md").read_text(encoding="utf-8")
    options = "--channels 0.2 --cost macs --epochs 1 --learning-rate 0.005"
    assert f"Then `edgecnn prune {options}` pruned it" in text
    assert ", prunes, converts and benches it" in text
    assert "| layers, pruned, " in text
    told = " ".join(_run("inspect", path / "blobs.tflite").stdout.split())
    assert f"pruned by 'edgecnn prune {options}'" in told
    with pytest.raises(DataError, match="of another recipe than 'blobs'"):
        publish.add_left_out("blobs", without_ones, mine)
    alike, kept = tmp_path / "alike", open_dataset(pictures, leave_out=["1?.png"])
    shrink(without_ones / "model.h5", kept, alike / "pruned.h5", 0.2, epochs=1)
    convert(alike / "pruned.h5", alike / "int8.tflite", "int8", kept, without_ones / "calibration.txt")
    convert(alike / "pruned.h5", alike / "float32.tflite", "float32", kept)
    _bench(alike, kept, LEFT_OUT)
    publish.add_left_out("blobs", alike, mine)
    text = (path / "card.md").read_text(encoding="utf-8")
    assert "The same recipe trained and pruned without the files named here" in text


def test_a_report_on_pictures_that_a_model_has_seen_is_no_source_that_it_never_saw(
    published: Path, folder: Path
) -> None:
    with pytest.raises(DataError, match="not about what a model was trained without"):
        publish.add_left_out("blobs", folder, published)


def test_a_network_that_stayed_as_it_was_has_seen_what_the_one_that_ships_has_seen(
    published: Path, without_ones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (published / "blobs" / "card.md").read_bytes()
    monkeypatch.setattr(publish, "keeps_its_start", lambda _: True)

    with pytest.raises(DataError, match="has seen these pictures"):
        publish.add_left_out("blobs", without_ones, published)
    assert (published / "blobs" / "card.md").read_bytes() == before


def test_a_model_whose_heatmap_learned_alone_keeps_what_it_started_from() -> None:
    recipes = {name: recipe.load(name)[1] for name in ("sentinel", "sentinel-alarm")}

    kept = {name: publish.keeps_its_start(Provenance(recipe=text)) for name, text in recipes.items()}
    assert kept == {"sentinel": True, "sentinel-alarm": False}


def test_a_report_on_more_than_the_source_that_was_left_out_is_not_taken(
    published: Path, without_ones: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(without_ones, tmp_path / "out"))
    told = json.loads((other / "report.json").read_text())
    told["data"]["only"] = ["1?.png", "20.png"]
    (other / "report.json").write_text(json.dumps(told))

    with pytest.raises(DataError, match="only that"):
        publish.add_left_out("blobs", other, published)


def test_pictures_of_some_names_alone_are_measured_and_do_not_stand_for_their_split_on_a_card(
    folder: Path, pictures: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    arguments = ["bench", out / "int8.tflite", "--data", pictures, "--calls", 10, "--out", out / "some"]

    _run(*arguments, "--only", "1?.png", "--only", "2.png")

    told = json.loads((out / "some" / "report.json").read_text())["data"]
    assert (told["split"], told["count"], told["only"]) == ("test", 33, ["1?.png", "2.png"])
    assert [s.count for s in publish.sets_of(out)] == [60]
    with pytest.raises(DataError, match=r"No picture of .*, test, is named like none\.png"):
        _run(*arguments, "--only", "none.png")


def test_bench_says_that_splits_drawn_of_other_pictures_may_be_others(
    folder: Path, pictures: Path, tmp_path: Path
) -> None:
    for label in ("blue", "green", "red"):
        shutil.copytree(pictures / "test" / label, tmp_path / "mine" / label)
    arguments = ["bench", folder / "int8.tflite", "--calls", 10, "--out", tmp_path / "report", "--data"]

    assert "may have been in train there" in _run(*arguments, tmp_path / "mine").stderr
    assert "may have been in train there" not in _run(*arguments, pictures).stderr


def test_a_model_that_is_not_there_is_refused_with_those_that_are(published: Path) -> None:
    assert shelf.path("blobs", published) == published / "blobs" / "blobs.tflite"
    with pytest.raises(BundleError) as refusal:
        shelf.path("blob", published)
    assert refusal.value.fix == "Name one of: blobs."


def test_figures_of_another_file_are_refused(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "blobs", tmp_path / "blobs")
    tiny_models.write(tmp_path / "blobs" / "blobs.tflite")

    with pytest.raises(BundleError, match="belong to another file"):
        shelf.models(tmp_path)


def test_figures_that_are_none_are_refused(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "blobs", tmp_path / "blobs")
    (tmp_path / "blobs" / "figures.json").write_text("{}")

    with pytest.raises(BundleError, match=r"figures\.json cannot be read"):
        shelf.models(tmp_path)


@pytest.mark.parametrize(
    ("found", "missed_pp", "is_beyond_chance"),
    [(0.95, 0.0, False), (0.94, 0.0, False), (0.93, 1.0, False), (0.90, 4.0, True)],
)
def test_a_model_below_the_card_misses_it_and_below_its_interval_by_more_than_chance(
    found: float, missed_pp: float, is_beyond_chance: bool
) -> None:
    def pictures(value: float, low: float) -> PictureSet:
        return PictureSet("d", "test", 9, (HeadFigures("h", Figure(value, low, 1.0, 9)),))

    promised = Figures("ab", (pictures(0.94, 0.92),), Training(("d",), {}))

    (verdict,) = publish.compare(promised, [pictures(found, 0.8)])

    assert verdict.missed_pp == pytest.approx(missed_pp)
    assert verdict.is_beyond_chance is is_beyond_chance


def test_a_model_that_was_measured_on_other_pictures_is_not_held_against_the_card(
    published: Path,
) -> None:
    figures = shelf.resident("blobs", published).figures

    with pytest.raises(DataError, match="not measured on any"):
        publish.compare(figures, [replace(figures.sets[0], data="others")])


def test_zoo_list_prints_every_model_of_the_shelf_that_ships() -> None:
    told = CliRunner().invoke(edgecnn, ["zoo", "list", "--json"], catch_exceptions=False)

    assert [row["name"] for row in json.loads(told.stdout)] == [r.name for r in shelf.models()]


@pytest.mark.parametrize("resident", shelf.models(), ids=lambda r: r.name)
def test_every_model_that_ships_is_listed_found_and_answers_as_when_it_was_made(
    resident: shelf.Resident,
) -> None:
    told = CliRunner().invoke(edgecnn, ["zoo", "path", resident.name], catch_exceptions=False)
    table = CliRunner().invoke(edgecnn, ["zoo", "list"], catch_exceptions=False)

    assert Path(told.stdout.strip()) == resident.path
    assert resident.name in table.stdout
    verified = CliRunner().invoke(edgecnn, ["verify", str(resident.path)], catch_exceptions=False)
    assert verified.exit_code == 0


def test_the_figures_of_a_model_are_the_same_after_writing_and_reading(published: Path) -> None:
    (resident,) = shelf.models(published)

    assert measured.from_json(measured.to_json(resident.figures)) == resident.figures


@pytest.mark.parametrize(("threshold", "wrong_count"), [(0.0, 12), (1.01, 0)])
def test_false_alarms_on_rendered_look_alikes_are_those_at_or_above_the_threshold(
    tmp_path: Path, threshold: float, wrong_count: int
) -> None:
    model = tmp_path / "fire.tflite"
    kind = {"labels": ("no_fire", "fire"), "kind": "sigmoid", "thresholds": {"fire": threshold}}
    tiny_models.write(model, tiny_models.flat(neurons=1, activation="sigmoid"), **kind)

    found = failures.failures(model, count=12)

    assert found is not None
    assert (found.count, found.wrong_count, len(found.worst)) == (12, wrong_count, min(6, wrong_count))
    assert [a.score for a in found.worst] == sorted((a.score for a in found.worst), reverse=True)


def test_a_model_that_knows_neither_fire_nor_smoke_is_shown_no_look_alikes(published: Path) -> None:
    assert failures.failures(shelf.path("blobs", published)) is None


def test_where_no_model_is_named_the_first_that_can_watch_does(tmp_path: Path) -> None:
    for name in ("fire", "sentinel"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.tflite").touch()

    assert shelf.for_watching(tmp_path).name == "sentinel.tflite"
    (tmp_path / "sentinel" / "sentinel.tflite").unlink()
    assert shelf.for_watching(tmp_path).name == "fire.tflite"
    (tmp_path / "fire" / "fire.tflite").unlink()
    with pytest.raises(BundleError, match="No model was named"):
        shelf.for_watching(tmp_path)


@pytest.mark.parametrize("table", ["", "[model]\nthreads = 1\n"])
def test_a_watch_toml_that_names_no_model_watches_with_the_one_that_ships(table: str) -> None:
    text = f'device = "x"\n{table}[source]\nuri = "0"\n[[alarm]]\nlabel = "fire"\n'

    try:
        shipped = shelf.for_watching()
    except BundleError as missing:
        with pytest.raises(BundleError, match=missing.message):
            parse(text)
    else:
        assert parse(text).model.path == shipped


@pytest.fixture
def shelved(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands look at the shelf of this test."""
    for function in (shelf.models, shelf.resident, shelf.path):
        monkeypatch.setattr(function, "__defaults__", (published,))


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(edgecnn, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.mark.usefixtures("shelved")
def test_a_model_that_reaches_its_card_is_told_so(folder: Path) -> None:
    told = _run("zoo", "compare", "blobs", folder)

    assert told.stdout.startswith("reached: colour on blobs, test: ")


@pytest.mark.usefixtures("shelved")
def test_a_model_below_the_interval_on_its_card_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "out")
    text = json.loads((folder / "report.json").read_text())
    text["models"][0]["accuracy"]["colour"]["top1"] = 0.2
    (tmp_path / "out" / "report.json").write_text(json.dumps(text))

    with pytest.raises(CheckFailed, match="Below the interval on the card of 'blobs': colour on blobs, test"):
        _run("zoo", "compare", "blobs", tmp_path / "out")


@pytest.mark.usefixtures("shelved")
def test_the_list_has_answers_size_accuracy_and_time_of_each_model() -> None:
    (row,) = [line for line in _run("zoo", "list").stdout.splitlines() if "blobs" in line]

    assert "colour: blue, green, red" in row
    assert "60 of blobs, test" in row
    assert re.search(r"colour \d+\.\d % \(\d+\.\d to \d+\.\d\)", row)
    assert " ms " in row


@pytest.mark.usefixtures("shelved")
def test_every_model_is_benched_beside_the_float_model_of_the_same_weights_on_pictures_that_it_knows(
    folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / "any").mkdir(parents=True)
    shutil.copy(folder / "float32.tflite", tmp_path / "out" / "any" / "float32.tflite")
    foreign = blobs.write_blobs(tmp_path / "animals", labels=("cat", "dog"), per_class=3)
    monkeypatch.chdir(tmp_path)

    told = _run("bench", "--zoo", "--data", pictures, "--data", foreign, "--calls", 10, "--out", "report")

    (row,) = [line for line in told.stdout.splitlines() if line.startswith("| blobs ")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["blobs", "60 of blobs, test", "colour"]
    assert all(re.search(r"\d", cell) for cell in cells[3:])
    assert "not on animals" in told.stderr
    assert (tmp_path / "report" / "zoo.md").read_text(encoding="utf-8") in told.stdout
    assert (tmp_path / "report" / "blobs" / "blobs" / "report.html").is_file()


@pytest.mark.usefixtures("shelved")
def test_without_pictures_only_the_time_of_each_model_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    told = _run("bench", "--zoo", "--calls", 10)

    (row,) = [line for line in told.stdout.splitlines() if line.startswith("| blobs ")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:7] == [NOT_MEASURED] * 6
    assert cells[7].endswith(" ms")


@pytest.mark.parametrize(
    "arguments",
    [["bench"], ["bench", "a.tflite", "--zoo"], ["bench", "--zoo", "--against", "a.tflite"]],
)
def test_a_file_and_the_zoo_are_not_benched_at_once(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        CliRunner().invoke(edgecnn, arguments, standalone_mode=False, catch_exceptions=False)
