"""How long models take, pixels to scores, measured side by side; and the memory that each needs."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import Frame, InputSpec
from edgecnn.core.ports import Predictor

STAGES = ("resize", "invoke", "decode")

Times = NDArray[np.float64]
"""Milliseconds, shape (model_count, call_count, 3): resize, invoke, decode."""

NOISE_FRAME_COUNT = 8

NOT_MEASURED = "\N{EN DASH}"
"""What a table says where a figure is absent."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """What half, nine in ten and ninety-nine in a hundred calls stay below."""

    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Latency:
    """How long one model takes from pixels to scores, with the conditions.

    Attributes:
        p50_ms: Half of the calls took at most this long.
        p90_ms: Nine in ten.
        p99_ms: Ninety-nine in a hundred.
        calls: That were timed.
        warmup_calls: That went before and were not.
        threads: Of the interpreter.
        stages: Where the time went: ``resize``, ``invoke`` and ``decode``.
        percentiles_ms: From p0 to p100 in whole steps, for the curve.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    calls: int
    warmup_calls: int
    threads: int
    stages: dict[str, Percentiles]
    percentiles_ms: list[float]


@dataclass(frozen=True, slots=True)
class Speedup:
    """How much faster one model is than another.

    Attributes:
        of_p50: p50 of the slow one over p50 of the fast one.
        pairwise: Median of the ratios of neighbouring calls on the same frame.
        low: Lower end of the 95 % interval of ``pairwise``.
        high: Upper end of it.
    """

    of_p50: float
    pairwise: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ModelFile:
    """How a model is loaded; the last two are for files without a manifest.

    Attributes:
        path: The file.
        threads: Of the interpreter.
        labels: File of labels.
        normalization: Mean and deviation.
    """

    path: Path
    threads: int = 2
    labels: Path | None = None
    normalization: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak memory of a fresh process that loads one model and predicts with it.

    Attributes:
        peak_bytes: Of the whole process, Python and libraries included.
        before_load_bytes: The part that was there before the model was loaded.
    """

    peak_bytes: int
    before_load_bytes: int


def noise_frames(height_px: int, width_px: int, seed: int = 1) -> tuple[Frame, ...]:
    """Make frames of random noise, for timing where there are no pictures.

    Example:
        >>> noise_frames(4, 6)[0].pixels_rgb.shape
        (4, 6, 3)
    """
    random = np.random.default_rng(seed)
    shape = (height_px, width_px, 3)
    return tuple(
        Frame(random.integers(0, 256, shape, dtype=np.uint8), 0.0, index, "noise")
        for index in range(NOISE_FRAME_COUNT)
    )


def order_of(call: int, model_count: int) -> tuple[int, ...]:
    """Say in which order the models take their turn in one round.

    Every model stands equally often in every place, and before as often as after each other one, so
    that a machine that warms up, throttles or is interrupted hits all of them alike.

    Example:
        >>> [order_of(call, 2) for call in range(4)]
        [(0, 1), (1, 0), (1, 0), (0, 1)]
    """
    turn = tuple((call + place) % model_count for place in range(model_count))
    return turn if (call // model_count) % 2 == 0 else turn[::-1]


def frame_of(call: int, model_count: int, frame_count: int) -> int:
    """Say which frame the models see in one round.

    Frames go round in a circle, as the orders of ``order_of`` do. Where the one circle fits into the other,
    each picture would meet one order for ever, and what the order costs would count as the picture's. So
    the frames move on by one whenever both circles are back at their start: after
    ``2 * model_count * frame_count`` rounds, every picture has met every order once.

    Example:
        >>> [frame_of(call, model_count=2, frame_count=4) for call in range(8)]
        [0, 1, 2, 3, 1, 2, 3, 0]
    """
    return (call + call // math.lcm(2 * model_count, frame_count)) % frame_count


def interleave(
    models: Sequence[Predictor],
    frames: Sequence[Frame],
    calls: int,
    warmup_calls: int,
    on_round: Callable[[], None] = lambda: None,
) -> Times:
    """Time models by turns on the same frames.

    Args:
        models: At least one.
        frames: At least one; every one meets every order of the models.
        calls: Rounds that are timed, at least 1.
        warmup_calls: Rounds that go before and are not.
        on_round: Called after each round, outside of what is timed.

    Returns:
        Milliseconds of every call, shape (model_count, calls, 3).
    """
    times = np.empty((len(models), calls, len(STAGES)))
    with _no_garbage_collection():
        for round_index in range(-warmup_calls, calls):
            frame = frames[frame_of(round_index, len(models), len(frames))]
            for model_index in order_of(round_index, len(models)):
                took = models[model_index].predict(frame).times
                if round_index >= 0:
                    times[model_index, round_index] = took.resize_ms, took.invoke_ms, took.decode_ms
            on_round()
    return times


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python's collector from running inside of one model's call and not of the other's."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def summarize(times: NDArray[np.float64], warmup_calls: int, threads: int) -> Latency:
    """Sum up the calls of one model.

    Args:
        times: Milliseconds, shape (calls, 3).
        warmup_calls: That went before.
        threads: Of the interpreter.

    Returns:
        The latency with its conditions.

    Example:
        >>> summarize(np.array([[1.0, 2.0, 0.0], [1.0, 4.0, 0.0]]), warmup_calls=0, threads=1).p50_ms
        4.0
    """
    total = times.sum(axis=1)
    whole = _percentiles(total)
    return Latency(
        p50_ms=whole.p50_ms,
        p90_ms=whole.p90_ms,
        p99_ms=whole.p99_ms,
        calls=len(times),
        warmup_calls=warmup_calls,
        threads=threads,
        stages={name: _percentiles(times[:, column]) for column, name in enumerate(STAGES)},
        percentiles_ms=[round(ms, 5) for ms in np.percentile(total, np.arange(101)).tolist()],
    )


def _percentiles(ms: NDArray[np.float64]) -> Percentiles:
    p50, p90, p99 = np.percentile(ms, [50, 90, 99]).tolist()
    return Percentiles(p50, p90, p99)


def ms(value: float | None) -> str:
    """Write milliseconds with three digits that mean something.

    Example:
        >>> ms(4.123), ms(0.22341), ms(181.7)
        ('4.12 ms', '0.223 ms', '182 ms')
    """
    if value is None:
        return NOT_MEASURED
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f} ms"


def speedup(model_ms: NDArray[np.float64], against_ms: NDArray[np.float64]) -> Speedup:
    """Say how much faster ``model`` is than ``against``; below 1 where it is slower.

    Neighbouring calls share the state of the machine, so their ratio is steadier than that of two
    medians taken apart.

    Args:
        model_ms: Whole calls, shape (calls,).
        against_ms: The calls of the same rounds.

    Returns:
        The ratio of the medians, and the median ratio with its interval.

    Source:
        Interval of a median by order statistics, whatever the distribution: G. J. Hahn and
        W. Q. Meeker, Statistical Intervals (1991), section 5.2; ranks by the normal approximation.

    Example:
        >>> speedup(np.array([1.0, 1.0, 2.0]), np.array([2.0, 2.0, 4.0])).of_p50
        2.0
    """
    ratios = np.sort(against_ms / model_ms)
    reach = NormalDist().inv_cdf(0.975) * math.sqrt(len(ratios)) / 2
    first = max(0, math.floor(len(ratios) / 2 - reach) - 1)
    last = min(len(ratios) - 1, math.ceil(len(ratios) / 2 + reach))
    return Speedup(
        of_p50=float(np.median(against_ms) / np.median(model_ms)),
        pairwise=float(np.median(ratios)),
        low=float(ratios[first]),
        high=float(ratios[last]),
    )


def peak_memory(file: ModelFile, frame_px: tuple[int, int] = (480, 640)) -> Memory | None:
    """Measure the peak memory of one model in a process of its own, so that models do not mix.

    Args:
        file: The model.
        frame_px: Height and width of the frame that it predicts.

    Returns:
        The peak, or ``None`` where this machine does not tell it.
    """
    labels = str(file.labels) if file.labels else None
    settings = json.dumps([str(file.path), labels, file.threads, file.normalization, frame_px])
    # A fresh interpreter, not a fork: a forked child starts with its parent's memory.
    code = "from edgecnn.measure.latency import memory_child; memory_child()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=settings,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        peak, before = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return None if peak is None or before is None else Memory(peak, before)


def memory_child() -> None:
    """Load the model named on standard input, predict twice, and print peak and starting memory."""
    from edgecnn.runtime import host, predictor

    path, labels, threads, normalization, (height_px, width_px) = json.loads(sys.stdin.read())
    frame = noise_frames(height_px, width_px)[0]
    before = host.peak_memory_bytes()
    normalized = None if normalization is None else (normalization[0], normalization[1])
    model = predictor.load(Path(path), labels and Path(labels), threads, None, normalized)
    for _ in range(2):
        model.predict(frame)
    print(json.dumps([host.peak_memory_bytes(), before]))


def input_size(inputs: Sequence[InputSpec]) -> tuple[int, int]:
    """Choose the size of a noise frame: what a small camera gives, and no smaller than any input.

    Example:
        >>> input_size([InputSpec(96, 96), InputSpec(513, 700)])
        (513, 700)
    """
    return max(480, *(i.height_px for i in inputs)), max(640, *(i.width_px for i in inputs))
