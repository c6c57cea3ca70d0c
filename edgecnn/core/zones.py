"""Which score an alarm follows, and where in the picture it comes from."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.alarm import AlarmPolicy, Box, Zone
from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head, Prediction
from edgecnn.errors import RecipeError

_PARTS: Final = 16
"""A cell is divided so often each way to see how much of it a polygon covers."""

_HALF: Final = 0.5

_DANGERS: Final = ("fire", "flame", "smoke")


@dataclass(frozen=True, slots=True)
class Window:
    """Where the picture lies in the network's input; all of it unless the resize leaves black borders.

    Attributes:
        left: Of the picture, as a share of the input's width.
        top: As a share of its height.
        width: Of the picture, as a share of the input's width.
        height: As a share of its height.
    """

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0

    @classmethod
    def of(cls, spec: InputSpec, picture_height_px: int, picture_width_px: int) -> Window:
        """Say where ``core.frame.resize`` puts a picture.

        Example:
            >>> Window.of(InputSpec(100, 100, resize="letterbox"), 240, 480)
            Window(left=0.0, top=0.25, width=1.0, height=0.5)
        """
        if spec.resize == "stretch":
            return cls()
        ratio = min(spec.height_px / picture_height_px, spec.width_px / picture_width_px)
        height_px, width_px = (
            max(1, round(picture_height_px * ratio)),
            max(1, round(picture_width_px * ratio)),
        )
        top_px, left_px = (spec.height_px - height_px) // 2, (spec.width_px - width_px) // 2
        return cls(
            left_px / spec.width_px,
            top_px / spec.height_px,
            width_px / spec.width_px,
            height_px / spec.height_px,
        )

    def in_picture(self, box: Box) -> Box:
        """Say where a box of the input lies in the picture; what reaches over the border is cut off.

        Example:
            >>> Window(top=0.25, height=0.5).in_picture((0.0, 0.0, 0.5, 0.5))
            (0.0, 0.0, 0.5, 0.5)
        """
        left, top, right, bottom = box
        return (
            _share(left, self.left, self.width),
            _share(top, self.top, self.height),
            _share(right, self.left, self.width),
            _share(bottom, self.top, self.height),
        )

    def in_input(self, box: Box) -> Box:
        """Say where a box of the picture lies in the input.

        Example:
            >>> Window(top=0.25, height=0.5).in_input((0.0, 0.0, 0.5, 1.0))
            (0.0, 0.25, 0.5, 0.75)
        """
        left, top, right, bottom = box
        return (
            self.left + left * self.width,
            self.top + top * self.height,
            self.left + right * self.width,
            self.top + bottom * self.height,
        )


@dataclass(frozen=True, slots=True)
class Aim:
    """Which number of a prediction a policy follows.

    Attributes:
        policy: The policy.
        head: Gives the score.
        column: Of the label in that head.
        heatmap: Tells where; None if the model has no heatmap of the label.
        heatmap_column: Of the label in the heatmap.
    """

    policy: AlarmPolicy
    head: str
    column: int
    heatmap: str | None
    heatmap_column: int = 0


def dangers(heads: Sequence[Head], thresholds: Iterable[str] = ()) -> tuple[str, ...]:
    """Say what of a model is watched when nobody says what to watch.

    Args:
        heads: Its answers.
        thresholds: Labels of which its manifest has a threshold.

    Returns:
        Fire and smoke where it knows them, else what it has a threshold of; may be empty.

    Example:
        >>> dangers([Head("fire", "sigmoid", ("no_fire", "fire"))])
        ('fire',)
    """
    known = {label for head in heads for label in head.labels}
    return tuple(label for label in _DANGERS if label in known) or tuple(thresholds)


def aim(policy: AlarmPolicy, heads: Sequence[Head]) -> Aim:
    """Find what a policy follows in what a model gives.

    A policy with zones follows the heatmap of its label. One without follows the first other head that
    has the label, which saw the picture as a whole, and takes from the heatmap only where it burns.

    Raises:
        RecipeError: If the model has no such label, or no heatmap for the zones.

    Example:
        >>> aim(AlarmPolicy("fire"), [Head("fire", "sigmoid", ("no_fire", "fire"))]).column
        1
    """
    having = [head for head in heads if policy.label in head.labels]
    if not having:
        known = [label for head in heads for label in head.labels]
        near = difflib.get_close_matches(policy.label, known, n=1)
        raise RecipeError(
            f"The model has no label '{policy.label}'.",
            fix=f"Did you mean '{near[0]}'?" if near else f"Watch one of: {', '.join(known)}.",
        )
    heatmap = next((head for head in having if head.kind == "heatmap"), None)
    if policy.has_zones and heatmap is None:
        raise RecipeError(
            f"The alarm for '{policy.label}' has zones, and the model does not say where it sees that: "
            "it has no heatmap of it.",
            fix="Take a model with a heatmap head, or leave out include and exclude.",
        )
    whole = next((head for head in having if head.kind != "heatmap"), None)
    chosen = heatmap if heatmap is not None and (policy.has_zones or whole is None) else (whole or having[0])
    where = heatmap.labels.index(policy.label) if heatmap else 0
    name = heatmap.name if heatmap else None
    return Aim(policy, chosen.name, chosen.labels.index(policy.label), name, where)


def score_of(aim: Aim, prediction: Prediction, window: Window = Window()) -> float:
    """Read the score that a policy follows; of a heatmap, the highest of the cells that count."""
    scores = prediction.heads[aim.head][..., aim.column]
    if scores.ndim < 2:
        return float(scores)
    if aim.policy.has_zones:
        scores = scores[
            mask(aim.policy.include, aim.policy.exclude, scores.shape[0], scores.shape[1], window)
        ]
    return float(scores.max()) if scores.size else 0.0


def strongest_cell(heat: NDArray[np.float32]) -> tuple[int, int]:
    """Find the strongest cell of a heatmap, as (row, column).

    An int8 score has 256 values, so that several cells are often equally strong: of 73 photographs with
    boxes 11, with cells of 16 pixels. Then the one whose neighbours are strongest counts, and of these the
    first, row by row; the first alone would lean to the sky.

    Args:
        heat: Of one label, shape (rows, columns).

    Example:
        >>> strongest_cell(np.float32([[9, 0, 0], [0, 0, 0], [0, 9, 8]]))
        (2, 1)
    """
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    strongest = heat == heat[row, column]
    if np.count_nonzero(strongest) > 1:
        around = cv2.blur(heat, (3, 3), borderType=cv2.BORDER_CONSTANT)
        row, column = divmod(int(np.where(strongest, around, -np.inf).argmax()), heat.shape[1])
    return row, column


def box_of(aim: Aim, prediction: Prediction, window: Window = Window()) -> Box | None:
    """Find where a label is seen: the cells around the highest that are at or above ``off_score``.

    Returns:
        The box in the picture, in steps of one cell of the heatmap; None if the model has none, or if
        no cell that counts is so high.
    """
    if aim.heatmap is None:
        return None
    scores = prediction.heads[aim.heatmap][..., aim.heatmap_column]
    rows, columns = scores.shape
    counts = mask(aim.policy.include, aim.policy.exclude, rows, columns, window)
    inside = np.where(counts, scores, np.float32(0))
    peak = strongest_cell(inside)
    high = (inside >= aim.policy.off_score).astype(np.uint8)
    if not high[peak]:
        return None
    _, marks = cv2.connectedComponents(high, connectivity=8)
    found_rows, found_columns = np.nonzero(marks == marks[peak])
    left, right = found_columns.min() / columns, (found_columns.max() + 1) / columns
    top, bottom = found_rows.min() / rows, (found_rows.max() + 1) / rows
    return window.in_picture((left, top, right, bottom))


def _share(position: float, start: float, length: float) -> float:
    return float(min(max((position - start) / length, 0.0), 1.0))


@functools.lru_cache(maxsize=32)
def mask(
    include: tuple[Zone, ...], exclude: tuple[Zone, ...], rows: int, columns: int, window: Window = Window()
) -> NDArray[np.bool_]:
    """Say which cells of a heatmap count.

    A cell counts if any of it lies in an ``include`` zone, and if less than half of it lies in
    ``exclude`` zones; each of those takes at least the cell that it covers most.

    Args:
        include: Where to look; empty for everywhere.
        exclude: Where not to look.
        rows: Of the heatmap.
        columns: Of the heatmap.
        window: Where the picture lies in the heatmap.

    Returns:
        Shape (rows, columns); do not write into it, others read it too.

    Example:
        >>> mask((), (((0, 0), (0.5, 0), (0.5, 1), (0, 1)),), 1, 2).tolist()
        [[False, True]]
    """
    counts: NDArray[np.bool_] = np.full((rows, columns), not include)
    for zone in include:
        counts |= _covered(zone, rows, columns, window) > 0
    for zone in exclude:
        covered = _covered(zone, rows, columns, window)
        counts &= covered < min(_HALF, float(covered.max()) or _HALF)
    counts.setflags(write=False)
    return counts


def _covered(zone: Zone, rows: int, columns: int, window: Window) -> NDArray[np.float64]:
    """Measure which share of each cell a polygon covers, by the parts whose centre lies in it.

    Source:
        The even-odd rule: a point is inside if a ray from it crosses the border an odd number of times.
    """
    x = (np.arange(columns * _PARTS) + 0.5) / (columns * _PARTS)
    y = (np.arange(rows * _PARTS) + 0.5) / (rows * _PARTS)
    corners = np.array(zone, np.float64) * (window.width, window.height) + (window.left, window.top)
    inside: NDArray[np.bool_] = np.zeros((len(y), len(x)), np.bool_)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y1 == y2:
            continue
        crosses = (y1 > y) != (y2 > y)
        inside ^= crosses[:, None] & (x[None, :] < (x1 + (y - y1) * (x2 - x1) / (y2 - y1))[:, None])
    if not inside.any():  # smaller than a part: it covers the one that it lies in
        middle_x, middle_y = corners.mean(axis=0)
        inside[min(int(middle_y * len(y)), len(y) - 1), min(int(middle_x * len(x)), len(x) - 1)] = True
    return np.asarray(inside.reshape(rows, _PARTS, columns, _PARTS).mean(axis=(1, 3)), np.float64)
