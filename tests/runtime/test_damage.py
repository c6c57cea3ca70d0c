from __future__ import annotations

from pathlib import Path

import damage
import tiny_models


def test_damaged_copies_of_our_own_file_end_in_a_clear_error_and_never_run(tmp_path: Path) -> None:
    made = tiny_models.write(tmp_path / "m.tflite")
    ends = damage.trial([made.path.read_bytes()], 150, tmp_path)
    assert ends["refused digest"] + ends["clear error"] == 150, ends


def test_damaged_copies_of_a_foreign_file_crash_nothing(shared: Path, tmp_path: Path) -> None:
    model = (shared / "reference_models" / "vww_96_int8.tflite").read_bytes()
    ends = damage.trial([model], 150, tmp_path, seed=2)
    assert ends["crashed"] == ends["took too long"] == 0, ends
    assert ends["clear error"] > 50
