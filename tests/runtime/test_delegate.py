"""A delegate that is missing, fails at loading or in flight; and the model that looks meanwhile."""

from __future__ import annotations

import ctypes.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orange
import pytest
import tiny_models
from accelerator import Stick, build, needs_gcc

from edgecnn.core.frame import Frame
from edgecnn.errors import BundleError, EdgecnnError, RecipeError, RuntimeFault
from edgecnn.runtime.predictor import TflitePredictor, load
from edgecnn.runtime.standby import FIRST_WAIT_S, LONGEST_WAIT_S, Standby
from edgecnn.watch.config import ModelConfig
from edgecnn.watch.loop import load_model

pytestmark = needs_gcc

FIRE = Frame(np.broadcast_to(np.uint8([245, 120, 10]), (48, 64, 3)).copy(), 0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return orange.write_model(tmp_path_factory.mktemp("model") / "orange.tflite").path


@pytest.fixture
def stick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stick:
    built = build(tmp_path)
    monkeypatch.setenv("TEST_DELEGATE", str(built.state))
    return built


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Box:
    """A model on the stick and one on the CPU, with a clock of the test's own."""

    open_first: Callable[[], TflitePredictor]
    second: TflitePredictor
    tries_count: int = 0

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.standby = Standby(self._open, self.second, self.clock)

    def _open(self) -> TflitePredictor:
        self.tries_count += 1
        return self.open_first()

    def fire(self) -> float:
        return float(self.standby.predict(FIRE).heads["colour"][1])


def box(model: Path, stick: Stick) -> Box:
    return Box(lambda: load(model, None, 1, str(stick.library)), load(model, None, 1))


def test_what_the_delegate_computes_is_what_the_cpu_computes(model: Path, stick: Stick) -> None:
    on_stick, on_cpu = load(model, None, 1, str(stick.library)), load(model, None, 1)

    same = [on_stick.scores(row)["colour"].tolist() for row in tiny_models.pictures(4)]

    assert same == [on_cpu.scores(row)["colour"].tolist() for row in tiny_models.pictures(4)]
    assert stick.runs_count == 4


def test_a_delegate_that_is_no_file_a_library_that_is_no_delegate_and_a_stick_that_is_out_are_told_apart(
    model: Path, stick: Stick
) -> None:
    stick.is_pulled()
    other = ctypes.util.find_library("c") or "libc.so.6"
    said = []
    for library in ("libnowhere.so.1", other, str(stick.library)):
        with pytest.raises(RuntimeFault) as caught:
            load(model, None, 1, library)
        said.append(caught.value.message)

    assert "cannot open shared object file" in said[0]
    assert "no TFLite delegate" in said[1]
    assert "no device is attached" in said[2]


def test_a_stick_that_is_pulled_in_flight_loses_no_frame_and_is_told_with_its_own_words(
    model: Path, stick: Stick
) -> None:
    stick.computes(2)
    two = box(model, stick)
    before = [two.fire(), two.fire()]
    well = two.standby.fault
    stick.is_pulled()

    after = [two.fire(), two.fire()]

    assert (well, set(before + after)) == ("", {two.fire()})
    assert before[0] > 0.9
    assert "the transfer failed" in two.standby.fault
    assert "cable" in two.standby.fault
    assert stick.runs_count == 2


def test_a_box_that_starts_without_its_stick_looks_by_the_cpu(model: Path, stick: Stick) -> None:
    stick.is_pulled()

    two = box(model, stick)

    assert two.fire() > 0.9
    assert "no device is attached" in two.standby.fault


def test_a_stick_that_is_back_is_taken_again(model: Path, stick: Stick) -> None:
    stick.is_pulled()
    two = box(model, stick)
    stick.computes()

    two.clock.now = FIRST_WAIT_S - 0.1
    two.fire()
    early = stick.runs_count
    two.clock.now = FIRST_WAIT_S
    two.fire()

    assert (early, stick.runs_count, two.standby.fault) == (0, 1, "")


def test_the_waits_before_a_stick_is_tried_again_grow_and_end_growing(model: Path, stick: Stick) -> None:
    stick.is_pulled()
    two = box(model, stick)

    for second in range(3600):
        two.clock.now = float(second)
        two.standby.predict(FIRE)

    # At 0, 2, 6, 14, 30, 62, 126, 254 and 510 s, and every 300 s from then on.
    assert two.tries_count == 9 + (3599 - 510) // round(LONGEST_WAIT_S)


def test_a_stick_that_fails_at_every_second_call_is_not_tried_at_every_second_frame(
    model: Path, stick: Stick
) -> None:
    stick.computes(1)
    two = box(model, stick)

    for frame in range(600):
        two.clock.now = frame * 0.1
        two.standby.predict(FIRE)

    assert two.tries_count <= 6


def test_a_stick_that_was_well_for_long_is_tried_again_soon_when_it_fails(model: Path, stick: Stick) -> None:
    stick.computes(0)
    two = box(model, stick)
    for _ in range(9):  # the wait has grown to the longest
        two.fire()
        two.clock.now += LONGEST_WAIT_S
    stick.computes(2)
    two.fire()
    two.clock.now += LONGEST_WAIT_S + 1
    two.fire()
    stick.computes()
    two.fire()
    failed = two.standby.fault

    two.clock.now += FIRST_WAIT_S
    two.fire()

    assert "transfer failed" in failed
    assert two.standby.fault == ""


def test_a_model_with_other_answers_cannot_stand_in(model: Path, stick: Stick, tmp_path: Path) -> None:
    other = tiny_models.write(tmp_path / "other.tflite").path

    with pytest.raises(RecipeError, match="different answers"):
        Box(lambda: load(model, None, 1, str(stick.library)), load(other, None, 1))


def test_a_first_file_that_is_damaged_is_refused_at_the_start(
    model: Path, stick: Stick, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(model.read_bytes()[:-100])

    with pytest.raises(BundleError):
        load_model(ModelConfig(damaged, 1, str(stick.library), fallback=model))


def test_a_stick_that_computes_something_else_than_its_file_says_is_not_trusted(
    model: Path, stick: Stick, tmp_path: Path
) -> None:
    from edgecnn.bundle import file

    made = file.read(model)
    assert made.manifest is not None
    assert made.golden is not None
    wrong = replace(made.golden, outputs=(made.golden.outputs[0] + np.uint8(100),))
    first = tmp_path / "first.tflite"
    file.write(first, made.model, replace(made.manifest, golden_tolerance_codes=32), wrong)

    loaded = load_model(ModelConfig(first, 1, str(stick.library), fallback=model))

    assert isinstance(loaded, Standby)
    assert "gives other results here" in loaded.fault
    assert loaded.sha256 == load(model).sha256


@pytest.mark.parametrize(("codes", "passes"), [(32, True), (33, False)])
def test_a_compiled_file_may_be_as_far_off_as_it_says(
    model: Path, stick: Stick, tmp_path: Path, codes: int, passes: bool
) -> None:
    from edgecnn.bundle import file

    made = file.read(model)
    assert made.manifest is not None
    assert made.golden is not None
    off = replace(made.golden, outputs=(made.golden.outputs[0] + np.uint8(codes),))
    path = tmp_path / "off.tflite"
    file.write(path, made.model, replace(made.manifest, golden_tolerance_codes=32), off)
    said: EdgecnnError | None = None

    try:
        load_model(ModelConfig(path, 1, str(stick.library)))
    except RuntimeFault as error:
        said = error

    assert (said is None) == passes
