"""The whole program, killed while the broker goes up and down; ``make faults`` does it 200 times."""

from __future__ import annotations

from pathlib import Path

import faults
import pytest

pytestmark = pytest.mark.xdist_group("faults")  # one worker makes the model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "red.tflite"
    faults.write_model(path)
    return path


@pytest.mark.slow
def test_no_event_is_lost_and_none_is_doubled_however_often_the_program_is_killed(
    tmp_path: Path, model: Path
) -> None:
    losses = faults.kill(4, tmp_path, model)

    assert losses.handed_over > 4
    assert (losses.lost, losses.doubled, losses.out_of_order) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["camera", "broker", "disk", "back", "model"])
def test_a_fault_is_survived_named_and_over_within_ten_seconds(
    tmp_path: Path, model: Path, fault: str
) -> None:
    row = faults.FAULTS[fault](tmp_path / fault, model)

    if row.note.startswith("NOT TRIED"):
        pytest.skip(row.note)
    assert row.is_good, row


def test_the_comparison_sees_a_lost_and_a_doubled_event(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from edgecnn.core.alarm import Event
    from edgecnn.watch.sinks.journal import Journal

    journal = Journal(tmp_path / "state")
    for number in range(3):
        journal.on_event(Event("ended", "fire", 1.0, 0.9, number, "a"))
    ids = [entry.event.event_id for entry in journal.after(0)]
    journal.close()
    box = faults.Box(tmp_path, "", 0)
    box.handed_over.write_text("a ended 0\na ended 1\na ended 2\na ended 3\n")
    heard = [(ids[1], 1), (ids[0], 0), (ids[0], 0), ("other", 0)]  # 2 never, 0 late, again and by another id
    messages = [
        SimpleNamespace(json={"id": one, "incident_id": "a", "kind": "ended", "frame_index": index})
        for one, index in heard
    ]

    losses = faults.compare(box, SimpleNamespace(messages=messages), 0, 0, 0.0)  # type: ignore[arg-type]

    assert (losses.lost, losses.doubled, losses.out_of_order, losses.told_again) == (2, 2, 1, 1)
