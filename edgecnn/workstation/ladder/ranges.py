"""The range of each activation: all that was seen, or less with finer steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgecnn.workstation.ladder.activations import Disagreement, Observed
from edgecnn.workstation.ladder.network import Floats, Network, Range, quantized

PERCENTILES = (99.99, 99.9, 99.0)
"""Shares of the values that a range holds. NVIDIA's calibration study finds the best of 99.9 to 99.9999 by
network; our samples do not reach further than 99.99. 99 is for calibration sets with a few extreme pictures.

Source: H. Wu et al., "Integer Quantization for Deep Learning Inference", arXiv:2004.09602, section 3.4.
"""

LEVELS = 255
"""Steps of int8 between the ends of a range."""

WORTH_TRYING = 1.1
"""A candidate whose range is less than a tenth narrower moves the step by less than a tenth."""

TRIALS = 80
"""Candidates that are tried tensor by tensor; the widest differences first. A MobileNetV2 at 128 pixels
takes 0.3 s each on two cores."""


def choose_ranges(network: Network, seen: Mapping[int, Observed], disagreement: Disagreement) -> Network:
    """Choose the range of each activation among minimum to maximum, percentiles and least squared error.

    First the best rule for all tensors, then tensor by tensor, the most doubtful first; a candidate is
    kept where it brings the scores nearer to the float network's.

    Args:
        network: With any ranges.
        seen: Its activations.
        disagreement: Judges a quantized file.

    Returns:
        The network with other ranges.
    """
    # The input keeps its range, in which a raw byte is its own code.
    inputs = {tensor.index for tensor in network.model.inputs}
    candidates = {index: candidates_of(row) for index, row in seen.items() if index not in inputs}
    rules = {rule for found in candidates.values() for rule in found}
    tried = [
        replace(network, ranges={**network.ranges, **{i: found[rule] for i, found in candidates.items()}})
        for rule in sorted(rules)
    ]
    errors = [disagreement(quantized(trial)) for trial in tried]
    least = int(np.argmin(errors))
    best, error = tried[least], errors[least]
    for index, limits in _doubtful(best, candidates):
        trial = replace(best, ranges={**best.ranges, index: limits})
        found = disagreement(quantized(trial))
        if found < error:
            best, error = trial, found
    return best


def candidates_of(seen: Observed) -> dict[str, Range]:
    """Give the ranges that an activation could have, by the rule that makes them.

    Example:
        >>> ones = np.append(np.ones(9999, np.float32), np.float32(100))[None]
        >>> found = candidates_of(Observed((0.0, 100.0), ones, ones[0], ones[0], ones[0]))
        >>> found["min-max"], found["percentile 99.9"]
        ((0.0, 100.0), (0.0, 1.0))
    """
    found = {"min-max": seen.range, "mse": least_squares(seen.sample, seen.range)}
    for share in PERCENTILES:
        low, high = np.percentile(seen.sample, [100 - share, share]).tolist()
        # A value that is always positive or always negative needs 0 in its range all the same.
        found[f"percentile {share}"] = min(low, 0.0), max(high, 0.0)
    return {rule: limits if limits[1] > limits[0] else seen.range for rule, limits in found.items()}


def least_squares(sample: Floats, widest: Range) -> Range:
    """Narrow a range until the squared error of rounding and clipping together is least.

    Args:
        sample: Values of the activation.
        widest: All that it can be.

    Returns:
        The best of 50 shares of the widest.

    Example:
        >>> least_squares(np.linspace(0, 1, 1000, dtype=np.float32), (0.0, 1.0))
        (0.0, 1.0)
    """
    shares = np.linspace(1, 0.02, 50)
    low, high = min(widest[0], 0.0), max(widest[1], 0.0)
    values = sample.reshape(-1)[:: max(1, sample.size // 20_000)]
    best = shares[int(np.argmin([_squared_error(values, low * s, high * s) for s in shares]))]
    return float(low * best), float(high * best)


def _squared_error(values: Floats, low: float, high: float) -> float:
    step = (high - low) / LEVELS or 1.0
    rounded = np.round(np.clip(values, low, high) / step) * step
    return float(np.square(rounded - values).mean())


def _doubtful(best: Network, candidates: Mapping[int, Mapping[str, Range]]) -> list[tuple[int, Range]]:
    """List other ranges than the chosen ones, those that differ most first."""
    rows = [
        (_ratio(best.ranges[index], limits), index, limits)
        for index, found in candidates.items()
        for limits in dict.fromkeys(found.values())
    ]
    worth = sorted((row for row in rows if row[0] > WORTH_TRYING), reverse=True)
    return [(index, limits) for _, index, limits in worth[:TRIALS]]


def _ratio(first: Range, second: Range) -> float:
    widths = first[1] - first[0], second[1] - second[0]
    return max(widths) / max(min(widths), 1e-30)
