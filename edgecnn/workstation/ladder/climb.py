"""Up the ladder, rung by rung, until the budget holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction, StageTimes
from edgecnn.measure.accuracy import Drop
from edgecnn.measure.latency import interleave
from edgecnn.runtime.interpreter import open_interpreter
from edgecnn.workstation.ladder.activations import disagreement_with, observe
from edgecnn.workstation.ladder.equalize import equalize
from edgecnn.workstation.ladder.islands import islands
from edgecnn.workstation.ladder.network import Floats, Network, quantized, read_network
from edgecnn.workstation.ladder.ranges import choose_ranges
from edgecnn.workstation.ladder.rounding import adaround, correct_biases

TIMED_CALLS = 100
WARMUP_CALLS = 10

RETRAINED: Final = "quantization-aware training"
WIDENED: Final = "int16x8"

Step = tuple[str, bytes]
"""The name of a rung, and its file."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One file that was tried.

    Attributes:
        name: Of the step that made it.
        flat: The flatbuffer.
        drop: From the float network to it, on val.
        seconds: What making it took.
        p50_ms: Of a call, timed by turns with the other rungs on this machine; None until then.
    """

    name: str
    flat: bytes
    drop: Drop
    seconds: float
    p50_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Climb:
    """What was tried, in order.

    Attributes:
        rungs: At least one.
        budget_pp: What the drop may be, percentage points.
    """

    rungs: tuple[Rung, ...]
    budget_pp: float

    @property
    def best(self) -> Rung:
        """The rung whose upper bound is lowest, the earlier of two alike; the one that held, if one did."""
        return min(self.rungs, key=lambda rung: rung.drop.high_pp)

    @property
    def has_held(self) -> bool:
        """Whether the upper bound of the drop keeps to the budget."""
        return self.best.drop.high_pp <= self.budget_pp


def climb(
    steps: Iterable[Step],
    judge: Callable[[bytes], Drop],
    budget_pp: float,
    on_rung: Callable[[Rung], None] = lambda _: None,
) -> Climb:
    """Take one step after the other until the upper bound of the drop keeps to the budget.

    Args:
        steps: At least one, the cheapest first; the next is asked for only if it is needed.
        judge: Measures the drop of a file on val.
        budget_pp: What the drop may be at most, percentage points.
        on_rung: Told of each.
    """
    rungs: list[Rung] = []
    began = time.perf_counter()
    for name, flat in steps:
        took = time.perf_counter() - began
        rungs.append(Rung(name, flat, judge(flat), took))
        on_rung(rungs[-1])
        if rungs[-1].drop.high_pp <= budget_pp:
            break
        began = time.perf_counter()
    return Climb(tuple(rungs), budget_pp)


def ladder(
    calibrate: Callable[[], tuple[bytes, Floats]],
    codes: NDArray[np.uint8],
    retrain: Callable[[], bytes | None],
    widen: Callable[[], bytes | None],
    integer_only: bool = False,
    on_note: Callable[[str], None] = lambda _: None,
) -> Iterator[Step]:
    """Make one file after the other, each when it is asked for.

    A rung builds on those before it that brought the scores nearer to the float network's on the
    calibration pictures; one that did not is left behind.

    Args:
        calibrate: Makes the calibrated float flatbuffer, and the calibration pictures as it eats them.
        codes: Calibration pictures as bytes, shape (count, height, width, channels).
        retrain: Makes a file by quantization-aware training; gives None where it cannot.
        widen: Makes a file with activations of 16 bits; likewise.
        integer_only: Whether the target runs int8 alone: then there are no islands and no 16 bits.
        on_note: Told what takes long.
    """
    calibrated, pictures = calibrate()
    network = read_network(calibrated)
    best = _Best(network, network, quantized(network), 0.0)
    yield "calibration", best.flat
    disagreement = disagreement_with(network, pictures, codes)
    best = replace(best, error=disagreement(best.flat))

    def tried(base: Network, new: Network) -> bytes:
        nonlocal best
        flat = quantized(new)
        if (error := disagreement(flat)) < best.error:
            best = _Best(base, new, flat, error)
        return flat

    def on_layer(number: int, count: int) -> None:
        if number % 10 == 1:
            on_note(f"Learning how to round: layer {number} of {count}")

    seen = observe(network, pictures)
    yield "ranges", tried(network, choose_ranges(network, seen, disagreement))
    even = equalize(network, seen)
    seen_even = observe(even, pictures)
    yield "equalization", tried(even, choose_ranges(even, seen_even, disagreement))
    if best.base is even:
        seen = seen_even
    yield "bias correction", tried(best.base, correct_biases(best.network, seen))
    rounded = adaround(best.base, pictures, on_layer)
    yield "adaround", tried(best.base, replace(rounded, ranges=best.network.ranges))
    if retrained := retrain():
        yield RETRAINED, retrained
    if integer_only:
        return
    for names in islands(best.network, disagreement):
        yield f"{len(names)} in float", quantized(best.network, names)
    if widened := widen():
        yield WIDENED, widened


@dataclass(frozen=True, slots=True)
class _Best:
    """The int8 file nearest to the float network so far.

    Attributes:
        base: The network before its weights were rounded or its biases corrected.
        network: The network that it was made of.
        flat: The file.
        error: Its disagreement with the float network.
    """

    base: Network
    network: Network
    flat: bytes
    error: float


def timed(climbed: Climb, codes: NDArray[np.uint8]) -> Climb:
    """Time the files of all rungs by turns, on one thread.

    Args:
        climbed: The rungs.
        codes: Pictures as bytes.
    """
    runners = [_Runner(rung.flat) for rung in climbed.rungs]
    frames = [Frame(picture, 0.0) for picture in codes[:8]]
    times = interleave(runners, frames, TIMED_CALLS, WARMUP_CALLS)
    medians: Sequence[float] = np.median(times.sum(axis=-1), axis=1).tolist()
    rungs = (replace(rung, p50_ms=p50) for rung, p50 in zip(climbed.rungs, medians, strict=True))
    return replace(climbed, rungs=tuple(rungs))


class _Runner:
    """A flatbuffer that is timed; satisfies ``core.ports.Predictor``."""

    def __init__(self, flat: bytes) -> None:
        self._interpreter = open_interpreter(flat, threads=1)
        self._dtype = self._interpreter.inputs[0].dtype

    def predict(self, frame: Frame) -> Prediction:
        codes = frame.pixels_rgb[None].astype(self._dtype)
        began = time.perf_counter()
        self._interpreter.invoke(codes)
        times = StageTimes(0.0, (time.perf_counter() - began) * 1e3, 0.0)
        return Prediction({}, frame.index, frame.captured_at_s, times)
