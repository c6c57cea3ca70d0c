"""How often the peak of a heatmap lies where something is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecnn.measure.accuracy import wilson


@dataclass(frozen=True, slots=True)
class Place:
    """Of the pictures or frames with boxes of a label, how many have the heatmap's peak in one.

    Attributes:
        share: Of those with boxes.
        low: Lower end of the 95 % Wilson interval.
        high: Upper end of it.
        count: Pictures or frames with a box.
        inside_count: Those of which the peak lies in a box.
        trial_count: What the interval counts as tried: pictures, but of a clip its seconds.
    """

    share: float
    low: float
    high: float
    count: int
    inside_count: int
    trial_count: int


def place_of(hits: Sequence[bool], times_s: Sequence[float] | None = None) -> Place | None:
    """Sum up where the peaks lie; None where nothing has a box.

    Frames of a clip are no experiments of their own: the next one shows the same fire. The interval
    counts all frames of one second as one, which is right if they agree and too careful if they do not.

    Args:
        hits: Of each picture or frame with a box, whether the peak lies in one.
        times_s: When each frame is shown, for frames of one clip.

    Source:
        With blocks that agree in themselves the effective number of trials is that of the blocks:
        L. Kish, Survey Sampling (1965), section 5.4, with an intraclass correlation of 1.

    Example:
        >>> found = place_of([True] * 30 + [False] * 10, [frame / 10 for frame in range(40)])
        >>> found.share, found.trial_count, round(found.low, 2), round(found.high, 2)
        (0.75, 4, 0.3, 0.95)
    """
    if not hits:
        return None
    trials = len(hits) if times_s is None else len({int(at_s) for at_s in times_s})
    share = sum(hits) / len(hits)
    low, high = wilson(share * trials, trials)
    return Place(share, low, high, len(hits), sum(hits), trials)
