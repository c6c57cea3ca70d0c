"""Timing models by turns."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakePredictor

from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Head, Prediction, StageTimes
from edgecnn.errors import RuntimeFault
from edgecnn.measure.latency import (
    ModelFile,
    interleave,
    noise_frames,
    order_of,
    peak_memory,
    speedup,
    summarize,
)

PET = Head("pet", "softmax", ("cat", "dog", "eel"))


def _model(name: str, **more: object) -> FakePredictor:
    return FakePredictor(Path(f"{name}.tflite"), [PET], {"pet": [[1, 0, 0]] * 256}, **more)


@pytest.mark.parametrize("model_count", [1, 2, 3, 4])
def test_every_model_stands_equally_often_in_every_place(model_count: int) -> None:
    rounds = np.array([order_of(call, model_count) for call in range(4 * model_count)])
    for place in range(model_count):
        assert np.bincount(rounds[:, place]).tolist() == [4] * model_count


def test_of_two_models_each_goes_before_the_other_equally_often() -> None:
    log: list[str] = []
    models = [_model("a", log=log), _model("b", log=log)]
    interleave(models, noise_frames(8, 8), calls=40, warmup_calls=0)
    rounds = list(zip(log[::2], log[1::2], strict=True))
    assert rounds.count(("a", "b")) == rounds.count(("b", "a")) == 20


@pytest.mark.parametrize("model_count", [1, 2, 3, 4])
@pytest.mark.parametrize("frame_count", [1, 7, 8, 16])
def test_every_picture_meets_every_order_of_the_models_equally_often(
    model_count: int, frame_count: int
) -> None:
    log: list[str] = []
    models = [_model(name, log=log) for name in "abcd"[:model_count]]
    orders = len({order_of(call, model_count) for call in range(2 * model_count)})
    rounds = 2 * model_count * frame_count
    frames = [replace(noise_frames(8, 8)[0], index=index) for index in range(frame_count)]
    interleave(models, frames, rounds, warmup_calls=0)
    order = ["".join(log[at : at + model_count]) for at in range(0, len(log), model_count)]
    met = Counter(zip(models[0].calls, order, strict=True))
    assert (len(met), set(met.values())) == (frame_count * orders, {rounds // (frame_count * orders)})


def test_all_models_see_the_same_frames_in_the_same_order() -> None:
    models = [_model("a"), _model("b"), _model("c")]
    interleave(models, noise_frames(8, 8), calls=11, warmup_calls=3)
    assert models[0].calls == models[1].calls == models[2].calls


def test_warm_up_calls_are_made_and_not_counted() -> None:
    class Cold(FakePredictor):
        def predict(self, frame: Frame) -> Prediction:
            self.times = StageTimes(0, 100 if len(self.calls) < 5 else 1, 0)
            return super().predict(frame)

    model = Cold(Path("a.tflite"), [PET], {"pet": [[1, 0, 0]] * 256})
    times = interleave([model], noise_frames(8, 8), calls=20, warmup_calls=5)
    assert (len(model.calls), times.max()) == (25, 1.0)


def test_a_machine_that_slows_down_half_way_slows_both_models_alike() -> None:
    class Throttled(FakePredictor):
        def predict(self, frame: Frame) -> Prediction:
            base = 2.0 if self.name == "slow" else 1.0
            self.times = StageTimes(0, base * (3.0 if len(self.calls) >= 50 else 1.0), 0)
            return super().predict(frame)

    models = [Throttled(Path(f"{n}.tflite"), [PET], {"pet": [[1, 0, 0]] * 256}) for n in ("fast", "slow")]
    times = interleave(models, noise_frames(8, 8), calls=100, warmup_calls=0).sum(axis=2)
    found = speedup(times[0], times[1])
    assert (found.pairwise, found.low, found.high) == (2.0, 2.0, 2.0)


def test_the_collector_sleeps_while_models_are_timed_and_wakes_up_after_an_error() -> None:
    was_on: list[bool] = []

    class Failing(FakePredictor):
        def predict(self, frame: Frame) -> Prediction:
            was_on.append(gc.isenabled())
            raise RuntimeFault(f"Frame {frame.index} failed.", fix="Try again.")

    model = Failing(Path("a.tflite"), [PET], {"pet": []})
    with pytest.raises(RuntimeFault):
        interleave([model], noise_frames(8, 8), calls=1, warmup_calls=0)
    assert (was_on, gc.isenabled()) == ([False], True)


def test_the_whole_call_and_its_stages_have_percentiles_of_their_own() -> None:
    invoke = np.arange(1.0, 102.0)
    times = np.stack([np.full(101, 0.5), invoke, np.full(101, 0.25)], axis=1)
    found = summarize(times, warmup_calls=7, threads=2)
    assert (found.p50_ms, found.p90_ms, found.p99_ms) == pytest.approx((51.75, 91.75, 100.75))
    assert found.stages["invoke"].p90_ms == pytest.approx(91.0)
    assert (found.calls, found.warmup_calls, found.threads) == (101, 7, 2)
    assert found.percentiles_ms[50] == pytest.approx(found.p50_ms)


def test_the_interval_of_the_speed_up_holds_the_true_median_in_about_19_of_20_experiments() -> None:
    random, hits = np.random.default_rng(2), 0
    for _ in range(400):
        # A lognormal has its median at exp(mu): no normal distribution is needed for the interval.
        fast, ratio = random.lognormal(0, 0.3, 200), random.lognormal(np.log(1.5), 0.2, 200)
        found = speedup(fast, fast * ratio)
        hits += found.low <= 1.5 <= found.high
    assert 0.93 <= hits / 400 <= 0.99


def test_the_memory_of_a_file_that_cannot_be_loaded_is_not_known() -> None:
    assert peak_memory(ModelFile(Path("absent.tflite"))) is None


def test_a_bigger_model_needs_more_memory_and_each_has_a_process_of_its_own(shared: Path) -> None:
    models = shared / "reference_models"
    ballast = np.ones(2**27, np.uint8)  # 134 MB that this process holds and the children must not inherit
    small, big = (
        peak_memory(ModelFile(models / f"{name}.tflite"))
        for name in ("vww_96_int8", "mobilenet_v2_1.0_224_quant")
    )
    assert small is not None
    assert big is not None
    assert small.before_load_bytes < small.peak_bytes < big.peak_bytes
    assert small.before_load_bytes < ballast.nbytes
