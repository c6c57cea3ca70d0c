"""Where a heatmap says that something is, held against boxes of where it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.alarm import Box
from edgecnn.core.zones import Window, strongest_cell

Point = tuple[float, float]
"""From the left and from the top, as shares of the picture."""

_WHOLE: Final = Window()


def peak_of(heat: NDArray[np.float32], window: Window = _WHOLE) -> Point:
    """Say where in the picture the centre of a heatmap's strongest cell lies.

    Args:
        heat: Of one label, shape (rows, columns).
        window: Where the picture lies in the heatmap.

    Returns:
        The place, outside of [0, 1] where the cell lies on a black border.

    Example:
        >>> peak_of(np.float32([[0, 0], [0, 0.9]]))
        (0.75, 0.75)
        >>> peak_of(np.float32([[0], [0.9]]), Window(top=0.5, height=0.5))
        (0.5, 0.5)
    """
    rows, columns = heat.shape
    row, column = strongest_cell(heat)
    x = ((column + 0.5) / columns - window.left) / window.width
    y = ((row + 0.5) / rows - window.top) / window.height
    return x, y


def lies_in(place: Point, boxes: Iterable[Box]) -> bool:
    """Say whether a place lies in one of several boxes; the right and lower edges are not part of a box.

    Example:
        >>> lies_in((0.5, 0.5), [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]), lies_in((0.5, 0.5), [])
        (True, False)
    """
    x, y = place
    return any(left <= x < right and top <= y < bottom for left, top, right, bottom in boxes)
