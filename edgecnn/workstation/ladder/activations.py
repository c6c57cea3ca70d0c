"""What the activations of a network were on the calibration pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.tensor import dequantize
from edgecnn.runtime.interpreter import open_interpreter
from edgecnn.workstation.ladder.network import Floats, Network, Range

SAMPLE_COUNT = 512
"""Values of each activation that are kept of each picture: 100,000 of 200 pictures, enough for the 99.99th
percentile to rest on ten of them."""

JUDGE_COUNT = 64
"""Calibration pictures on which a candidate is held against the float network."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One activation on the calibration pictures.

    Attributes:
        range: Least and greatest value.
        sample: Values drawn from every picture, shape (picture_count, up to ``SAMPLE_COUNT``).
        channel_peak: Greatest absolute value of each channel, shape (channels,).
        channel_high: Greatest value of each channel.
        channel_mean: Mean of each channel.
    """

    range: Range
    sample: Floats
    channel_peak: Floats
    channel_high: Floats
    channel_mean: Floats


def observe(network: Network, pictures: Floats) -> dict[int, Observed]:
    """Run the float network and look at every activation.

    Args:
        network: What to run.
        pictures: As it eats them, shape (count, height, width, channels).

    Returns:
        By number of the tensor, of each that has a range.
    """
    interpreter = open_interpreter(network.flat, keep_all=True)
    model, rng = network.model, np.random.default_rng(0)
    made = [tensor.index for tensor in model.inputs]
    made += [index for operator in model.operators for index in operator.outputs]
    watched = [index for index in made if index in network.ranges and model.tensors[index].shape]
    places = {
        i: rng.integers(0, model.tensors[i].size, min(SAMPLE_COUNT, model.tensors[i].size)) for i in watched
    }
    rows: dict[int, list[tuple[Floats, Floats, Floats, Floats]]] = {index: [] for index in watched}
    for picture in pictures:
        interpreter.invoke(picture[None])
        for index in watched:
            found = interpreter.tensor(index)
            flat = found.reshape(-1, found.shape[-1])
            rows[index].append(
                (flat.min(axis=0), flat.max(axis=0), flat.mean(axis=0), found.reshape(-1)[places[index]])
            )
    return {index: _observed(rows[index]) for index in watched}


def _observed(rows: list[tuple[Floats, Floats, Floats, Floats]]) -> Observed:
    lows, highs, means, samples = (np.stack(column) for column in zip(*rows, strict=True))
    low, high = lows.min(axis=0), highs.max(axis=0)
    return Observed(
        range=(float(low.min()), float(high.max())),
        sample=samples,
        channel_peak=np.maximum(np.abs(low), np.abs(high)),
        channel_high=high,
        channel_mean=means.mean(axis=0),
    )


def scores_of(flat: bytes, pictures: NDArray[Any]) -> tuple[Floats, ...]:
    """Run a flatbuffer on pictures.

    Args:
        flat: Float or integer, with scores for outputs.
        pictures: As it eats them.

    Returns:
        Of each output, the scores as real numbers, shape (count, ...).
    """
    interpreter = open_interpreter(flat)
    dtype = interpreter.inputs[0].dtype
    rows = [interpreter.invoke(picture[None].astype(dtype, copy=False)) for picture in pictures]
    return tuple(
        np.concatenate([np.asarray(dequantize(codes, spec), np.float32) for codes in column])
        for spec, column in zip(interpreter.outputs, zip(*rows, strict=True), strict=True)
    )


Disagreement = Callable[[bytes], float]
"""How far an int8 file's scores are from the float network's: 0 for none, 1 for all on another label."""


def disagreement_with(network: Network, pictures: Floats, codes: NDArray[np.uint8]) -> Disagreement:
    """Make what holds candidates against the float network, on calibration pictures alone.

    Measured at the end and not tensor by tensor: a huge activation that the next layer ignores has a
    strong signal, and rounding it costs nothing.

    Args:
        network: The float network.
        pictures: As it eats them.
        codes: The same as bytes, as the int8 file eats them.

    Returns:
        The mean total variation distance between the scores.
    """
    chosen = np.linspace(0, len(codes) - 1, min(JUDGE_COUNT, len(codes))).astype(int)
    wanted, seen = scores_of(network.flat, pictures[chosen]), codes[chosen]

    def disagreement(flat: bytes) -> float:
        found = scores_of(flat, seen)
        distances = [
            # One neuron stands for two labels; several share what they differ by.
            np.abs(a - b).sum(axis=-1).mean() / (1 if a.shape[-1] == 1 else 2)
            for a, b in zip(wanted, found, strict=True)
        ]
        return float(np.mean(distances))

    return disagreement
