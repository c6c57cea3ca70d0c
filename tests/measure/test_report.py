"""The report: JSON for machines, Markdown for a commit, one HTML file for people."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fakes import FakePicture, FakePredictor

from edgecnn.bundle.manifest import Manifest, Measured, Provenance
from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head, StageTimes
from edgecnn.errors import DataError
from edgecnn.measure import bench, charts
from edgecnn.measure.report import Comparison, Report, to_html, to_json, to_markdown, verdict, write
from edgecnn.runtime.host import host_facts

PET = Head("pet", "softmax", ("cat", "dog", "eel"))
FIRE = Head("fire", "sigmoid", ("no_fire", "fire"))
CAT, DOG, EEL = (0.9, 0.1, 0.0), (0.2, 0.7, 0.1), (0.0, 0.1, 0.9)
QUICK = bench.Settings(calls=12, warmup_calls=2)


@pytest.fixture
def two(tmp_path: Path) -> list[FakePredictor]:
    """An int8 model that takes picture 2 for a cat, and its float parent that does not, at half the speed."""
    (tmp_path / "pet.int8.tflite").write_bytes(b"\0" * 900)
    (tmp_path / "pet.float.tflite").write_bytes(bytes(range(256)) * 14)
    return [
        FakePredictor(tmp_path / "pet.int8.tflite", [PET], {"pet": [CAT, DOG, CAT, EEL]}),
        FakePredictor(
            tmp_path / "pet.float.tflite", [PET], {"pet": [CAT, DOG, DOG, EEL]},
            precision="float32", times=StageTimes(0.1, 4.2, 0.1),
        ),
    ]  # fmt: skip


@pytest.fixture
def pictures() -> bench.Pictures:
    shown = [("cat", 0), ("dog", 1), ("dog", 2), ("eel", 3)]
    items = [FakePicture(f"test/{label}/{i}.png", label, i) for label, i in shown]
    return bench.Pictures("pets", "test", items)


@pytest.fixture
def report(two: list[FakePredictor], pictures: bench.Pictures) -> Report:
    return bench.run(two, host_facts(), pictures, QUICK)[0]


def test_the_json_has_every_key_that_readers_rely_on(report: Report) -> None:
    found = json.loads(to_json(report))
    model, row = found["models"][0], found["comparison"][0]
    assert model.keys() >= {"name", "file", "sha256", "precision", "size_bytes", "gzip_size_bytes"}
    assert model["accuracy"]["pet"].keys() >= {"top1", "low", "high", "count", "per_label"}
    assert model["latency"].keys() >= {
        "p50_ms",
        "p90_ms",
        "p99_ms",
        "calls",
        "warmup_calls",
        "threads",
        "stages",
    }
    assert row.keys() >= {"model", "against", "head", "accuracy_drop_pp", "drop_low_pp", "drop_high_pp"}
    assert row.keys() >= {"speedup_p50", "flipped_count"}
    assert found["host"].keys() >= {
        "board",
        "cpu",
        "os",
        "python",
        "runtime",
        "governor",
        "temperature_celsius",
    }


def test_the_figures_are_those_of_the_models(report: Report) -> None:
    model, parent = report.models
    row = report.comparison[0]
    assert (model.accuracy["pet"].top1, parent.accuracy["pet"].top1) == (0.75, 1.0)
    assert (row.accuracy_drop_pp, row.flipped_count) == (25.0, 1)
    assert row.speedup_p50 == pytest.approx(2.0)
    assert (model.size_bytes, parent.size_bytes) == (900, 3584)


def test_a_changed_decision_is_told_with_both_scores_and_the_truth(report: Report) -> None:
    flip = report.comparison[0].flipped[0]
    assert (flip.picture, flip.truth) == ("test/dog/2.png", "dog")
    assert (flip.model_label, flip.model_score, flip.against_label, flip.against_score) == (
        "cat",
        0.9,
        "dog",
        0.7,
    )


def test_what_was_not_measured_is_null_and_never_a_number(two: list[FakePredictor]) -> None:
    found = json.loads(to_json(bench.run(two, host_facts(), None, QUICK)[0]))
    row = found["comparison"][0]
    assert found["models"][0]["accuracy"] == {}
    assert found["models"][0]["peak_memory_bytes"] is None
    assert [row[key] for key in ("head", "accuracy_drop_pp", "drop_low_pp", "flipped_count", "parity")] == [
        None
    ] * 5


def test_without_pictures_the_report_says_that_it_was_timed_on_noise(two: list[FakePredictor]) -> None:
    report, _ = bench.run(two, host_facts(), None, QUICK)
    assert "random noise" in report.frames
    assert "random noise" in to_markdown(report)


def test_the_verdict_says_speed_drop_interval_and_changed_decisions_in_words() -> None:
    row = Comparison(
        "int8", "float", "pet", 0.2, -0.1, 0.5, 0.3,
        speedup_pairwise=2.1, speedup_low=2.0, speedup_high=2.2, flipped_count=12,
    )  # fmt: skip
    assert verdict([], [row]) == (
        "int8 is 2.10x faster than float (95 % interval 2.00x to 2.20x) and 0.20 pp less accurate "
        "(95 % interval \N{MINUS SIGN}0.10 to 0.50 pp), 12 decisions changed."
    )


def test_a_gain_turns_the_interval_around() -> None:
    row = Comparison("a", "b", "pet", -0.2, -0.5, 0.1, 0.3, flipped_count=1)
    assert verdict([], [row]) == (
        "a is 0.20 pp more accurate than b (95 % interval \N{MINUS SIGN}0.10 to 0.50 pp), 1 decision changed."
    )


def test_a_difference_in_speed_that_the_noise_hides_is_not_called_one() -> None:
    row = Comparison("a", "b", speedup_pairwise=1.02, speedup_low=0.98, speedup_high=1.05)
    assert verdict([], [row]) == "a is as fast as b (95 % interval 0.98x to 1.05x)."


def test_a_slower_model_is_called_slower() -> None:
    row = Comparison("a", "b", speedup_pairwise=0.5, speedup_low=0.4, speedup_high=0.625)
    assert verdict([], [row]) == "a is 2.00x slower than b (95 % interval 1.60x to 2.50x)."


def test_the_speed_of_the_headline_lies_within_the_interval_that_it_is_told_with(report: Report) -> None:
    # p50 apart say "slower", neighbouring calls say "faster" with an interval that leaves no doubt.
    row = replace(
        report.comparison[0], speedup_p50=0.9, speedup_pairwise=1.9, speedup_low=1.82, speedup_high=2.05
    )
    told = verdict(report.models, [row], report.data)
    shown = replace(report, verdict=told, comparison=(row,))
    assert "1.90x faster than pet.float (95 % interval 1.82x to 2.05x)" in told
    assert '<dt>Speed</dt><dd class="figure">1.90x</dd>' in to_html(shown)
    assert "| 0.90x | 1.90x (1.82x to 2.05x) |" in to_markdown(shown)
    assert json.loads(to_json(shown))["comparison"][0]["speedup_p50"] == 0.9


def test_the_report_says_how_the_interval_of_the_drop_was_found(report: Report) -> None:
    row = report.comparison[0]
    assert row.drop_method == "Tango's score interval"
    assert "Intervals of the drop by Tango's score interval." in to_markdown(report)
    assert "on the same pictures, by Tango&#39;s score interval." in to_html(report)


def test_one_model_alone_gets_a_report_too(two: list[FakePredictor], pictures: bench.Pictures) -> None:
    report, thumbnails = bench.run(two[:1], host_facts(), pictures, QUICK)
    assert "decides 75.0 % of 4 pictures right" in report.verdict
    assert report.verdict in to_html(report, thumbnails)


def test_a_class_that_no_picture_shows_is_named_with_the_result(two: list[FakePredictor]) -> None:
    cats = [FakePicture(f"test/cat/{number}.png", "cat", number) for number in range(2)]
    pictures = bench.Pictures("pets", "test", cats)

    for models in (two[:1], two):
        report, _ = bench.run(models, host_facts(), pictures, QUICK)
        assert report.verdict.endswith("No picture shows 'dog' or 'eel', so that this was not measured.")


def test_a_busy_machine_is_named_in_the_report_and_an_idle_one_is_not(report: Report) -> None:
    model = report.models[0]
    assert model.latency is not None
    busy = replace(model, latency=replace(model.latency, p90_ms=3 * model.latency.p50_ms))
    assert "The machine was busy" not in to_markdown(report)
    assert "The machine was busy" in to_markdown(replace(report, models=(busy, report.models[1])))


class _Page(HTMLParser):
    """Collects tags, addresses and ids, and checks that tags close in order."""

    VOID = frozenset({"meta", "img", "br", "path", "use", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.note(attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, _tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.note(attrs)

    def note(self, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture
def page(two: list[FakePredictor], pictures: bench.Pictures) -> str:
    return to_html(*bench.run(two, host_facts(), pictures, QUICK))


def test_the_page_loads_nothing_from_anywhere(page: str) -> None:
    addresses = _Page(page).addresses
    assert addresses
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in addresses)
    assert not re.search(r"@import|url\((?!#)|<script", page)


def test_every_tag_of_the_page_is_closed_and_every_id_is_unique(page: str) -> None:
    found = _Page(page)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))


def test_the_page_shows_the_picture_whose_decision_changed(page: str) -> None:
    assert _Page(page).tags.count("img") == 1
    assert "test/dog/2.png" in page


def test_names_of_models_and_labels_cannot_break_the_page(two: list[FakePredictor]) -> None:
    evil = '<script>alert("$x_1$")</script>'
    head = Head("pet", "softmax", (evil, "dog_$a$", "eel"))
    for model in two:
        model.heads = [head]
    items = [
        FakePicture(f"test/{evil}/{i}.png", label, i) for i, label in enumerate([evil, "eel", "eel", "eel"])
    ]
    report, thumbnails = bench.run(two, host_facts(), bench.Pictures(evil, "test", items), QUICK)
    page = to_html(report, thumbnails)
    assert "<script" not in page
    assert _Page(page).open == []


def test_labels_in_any_script_are_drawn_without_a_warning() -> None:
    svg = charts.confusion(["火", "煙", "ничего"], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert "火" in svg


def test_the_same_report_gives_the_same_bytes(report: Report) -> None:
    assert to_html(report) == to_html(report)


def test_charts_are_drawn_in_the_colours_of_the_page(report: Report) -> None:
    for _, svg, _ in charts.draw(report.models):
        ET.fromstring(svg)
        assert "var(--ink)" in svg
        assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_at_most_24_flipped_pictures_are_shown_and_the_rest_is_counted(two: list[FakePredictor]) -> None:
    for model, scores in zip(two, (CAT, DOG), strict=True):
        model.table = {"pet": [scores] * 40}
    items = [FakePicture(f"test/cat/{i:02}.png", "cat", i) for i in range(40)]
    page = to_html(*bench.run(two, host_facts(), bench.Pictures("pets", "test", items), QUICK))
    assert _Page(page).tags.count("img") == 24
    assert "16 more" in page


def test_the_manifests_promise_stands_beside_what_was_measured(
    two: list[FakePredictor], pictures: bench.Pictures
) -> None:
    promise = Measured("pet", "top1", 0.9123, 0.9, 0.92, 3000, "pets test")
    two[0].manifest = Manifest(
        "pet", "int8", InputSpec(8, 8), (PET,), measured=(promise,),
        provenance=Provenance(recipe='name = "pet"', parent_sha256="ab" * 32, tools={"tensorflow": "2.21.0"}),
    )  # fmt: skip
    page = to_html(*bench.run(two, host_facts(), pictures, QUICK))
    assert "0.9123" in page
    assert "here 0.7500" in page
    assert "tensorflow 2.21.0" in page


def test_markdown_tables_have_as_many_cells_in_every_row(report: Report) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", to_markdown(report), flags=re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_what_nobody_knows_is_told_beside_the_labels_and_only_where_there_is_such(report: Report) -> None:
    model = report.models[0]
    found = model.accuracy["pet"]
    cat = replace(found.per_label["cat"], unknown_rate=0.5, unknown_count=4)
    taught = replace(found, per_label={**found.per_label, "cat": cat})
    unsure = replace(report, models=(replace(model, accuracy={"pet": taught}), *report.models[1:]))

    for text in (to_markdown, lambda one: to_html(one, {})):
        assert "Of 4 pictures the folder does not say whether there is cat" in text(unsure)
        assert f"{model.name} sees it in 50.0 %" in text(unsure)
        assert "does not say whether" not in text(report)


def test_three_files_are_written_and_nothing_else_stays(report: Report, tmp_path: Path) -> None:
    html = write(report, tmp_path / "a" / "b")
    assert sorted(p.name for p in html.parent.iterdir()) == ["report.html", "report.json", "report.md"]


def test_a_report_that_cannot_be_made_leaves_the_one_before_untouched(report: Report, tmp_path: Path) -> None:
    write(report, tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(AttributeError):
        write(replace(report, models=(None,)), tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert len(list(tmp_path.glob("*"))) == len(list(tmp_path.glob("report.*"))) + 2


def test_a_file_in_place_of_the_folder_is_refused_by_name(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        write(report, tmp_path / "report")
