"""What Prometheus reads, read back by Prometheus's own parser."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgecnn.core.prediction import StageTimes
from edgecnn.watch.metrics import STATES, registry, render
from edgecnn.watch.status import Fault, Status

BUSY = Status(
    "watching",
    frames_count=1200,
    skipped_count=7,
    fps=29.9,
    age_ms=41.5,
    times=StageTimes(0.5, 12.0, 0.25),
    scores={"fire": {"no_fire": 0.9, "fire": 0.1}},
    incidents_count=3,
    model_name="fire",
    model_sha256="ab" * 32,
    started_utc_s=1.79e9,
    temperature_celsius=61.5,
    throttled=True,
)


def read(status: Status) -> dict[str, dict[tuple[str, ...], float]]:
    """Scrape once: by name of the sample, by the values of its labels."""
    text = render(registry(lambda: status)).decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_a_scrape_tells_rate_skips_age_stages_heat_throttling_incidents_and_model() -> None:
    found = read(BUSY)

    told = {name: found[name] for name in found if name.startswith("edgecnn_")}
    assert told == {
        "edgecnn_frames_total": {(): 1200.0},
        "edgecnn_frames_skipped_total": {(): 7.0},
        "edgecnn_incidents_total": {(): 3.0},
        "edgecnn_frames_per_second": {(): 29.9},
        "edgecnn_frame_age_seconds": {(): pytest.approx(0.0415)},
        "edgecnn_start_time_seconds": {(): 1.79e9},
        "edgecnn_temperature_celsius": {(): 61.5},
        "edgecnn_throttled": {(): 1.0},
        "edgecnn_stage_seconds": {("resize",): 0.0005, ("invoke",): 0.012, ("decode",): 0.00025},
        "edgecnn_score": {("fire", "no_fire"): 0.9, ("fire", "fire"): 0.1},
        "edgecnn_state": {(state,): float(state == "watching") for state in STATES},
        "edgecnn_model_info": {("fire", "ab" * 32): 1.0},
    }


def test_what_was_not_measured_has_no_sample() -> None:
    found = read(Status())

    absent = {"edgecnn_temperature_celsius", "edgecnn_throttled", "edgecnn_frame_age_seconds"}
    assert absent.isdisjoint(found)
    assert "edgecnn_stage_seconds" not in found


def test_a_fault_tells_since_when_it_lasts_and_is_gone_when_it_is_over() -> None:
    broken = replace(BUSY, faults=(Fault("mqtt", 1.7e9, "No answer."),))

    assert read(broken)["edgecnn_fault_start_time_seconds"] == {("mqtt",): 1.7e9}
    assert "edgecnn_fault_start_time_seconds" not in read(BUSY)


def test_the_docs_name_every_metric_and_no_other() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs" / "watch.md"
    section = docs.read_text(encoding="utf-8").partition("## Metrics")[2].partition("\n## ")[0]
    broken = replace(BUSY, faults=(Fault("mqtt", 1.7e9, "No answer."),))

    assert set(re.findall(r"edgecnn_\w+", section)) == {n for n in read(broken) if n.startswith("edgecnn_")}


@pytest.mark.parametrize("state", STATES)
def test_exactly_one_state_holds(state: str) -> None:
    states = read(replace(BUSY, state=state))["edgecnn_state"]

    assert [name for (name,), value in states.items() if value] == [state]


def test_a_label_may_hold_what_the_format_itself_uses() -> None:
    label = 'a "b" \\ c\nd{e="f"} ü'

    assert read(replace(BUSY, scores={"fire": {label: 0.5}}))["edgecnn_score"] == {("fire", label): 0.5}


def test_the_memory_and_the_descriptors_of_the_process_are_told() -> None:
    found = read(BUSY)

    assert found["process_resident_memory_bytes"][()] > 1e6
    assert found["process_open_fds"][()] > 3


def test_every_scrape_tells_the_status_of_its_moment() -> None:
    counted = iter(range(10))
    metrics = registry(lambda: replace(BUSY, frames_count=next(counted)))

    totals = [line for _ in range(3) for line in render(metrics).decode().splitlines()]

    assert [float(t.split()[1]) for t in totals if t.startswith("edgecnn_frames_total ")] == [0.0, 1.0, 2.0]


def test_a_scrape_costs_the_camera_less_than_a_frame() -> None:
    metrics = registry(lambda: BUSY)
    took_s = []
    for _ in range(20):
        began_s = time.perf_counter()
        render(metrics)
        took_s.append(time.perf_counter() - began_s)

    assert min(took_s) < 1 / 30
