"""What the renderers paint with: noise, fills, discs and light, on a canvas whose values may run over."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

Canvas = NDArray[np.float32]
"""Height x width x 3, red first, in byte values, not yet rounded."""
Mask = NDArray[np.float32]
"""Height x width, 0 to 1."""


def f32(values: npt.ArrayLike) -> NDArray[np.float32]:
    """Give values as float32."""
    return np.asarray(values, np.float32)


def noise(rng: np.random.Generator, height: int, width: int, cells: float, octaves: int = 4) -> Mask:
    """Give fractal value noise, 0 to 1: each octave twice as fine and half as strong."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        rows = max(2, round(cells * 2**octave) + 1)
        columns = max(2, round(cells * 2**octave * width / height) + 1)
        lattice = rng.random((rows, columns), np.float32)
        total += cv2.resize(lattice, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return f32(np.clip(total / (2 - 0.5 ** (octaves - 1)), 0, 1))


def paint(canvas: Canvas, colour: NDArray[np.float32] | tuple[float, ...], mask: Mask) -> None:
    """Lay a colour, or a picture, over the canvas where the mask says so."""
    canvas += (np.asarray(colour, np.float32) - canvas) * mask[..., None]


def filled(canvas: Canvas, points: NDArray[np.float64] | list[tuple[float, float]]) -> Mask:
    """Fill a polygon of (x, y) in pixels, smoothly at the edge."""
    mask = np.zeros(canvas.shape[:2], np.uint8)
    fixed = np.round(np.asarray(points, np.float64) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, lineType=cv2.LINE_AA, shift=4)
    return f32(mask / 255)


def add_glow(
    canvas: Canvas, x: float, y: float, radius: float, colour: tuple[float, ...], power: float
) -> None:
    """Add light that falls off around a point."""
    rows, columns = np.ogrid[: canvas.shape[0], : canvas.shape[1]]
    squared = ((columns - x) ** 2 + (rows - y) ** 2) / max(radius, 1.0) ** 2
    canvas += (power / (1 + 4 * squared) ** 2)[..., None].astype(np.float32) * f32(colour)


def add_disc(canvas: Canvas, x: float, y: float, radius: float, colour: tuple[float, ...]) -> None:
    """Lay a round, smooth-edged spot over the canvas."""
    angles = np.linspace(0, 2 * np.pi, 40)
    paint(
        canvas,
        colour,
        filled(canvas, np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)),
    )


def noise_tile(rng: np.random.Generator, cells: int) -> Mask:
    """Make a tile of smooth noise that repeats both ways, 256 x 256."""
    lattice = rng.random((cells * 2, cells * 2), np.float32)
    tiled = np.tile(lattice, (3, 3))
    whole = cv2.resize(tiled, (768, 768), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(np.clip(whole[256:512, 256:512], 0, 1), np.float32)


def sample(tile: Mask, u: Mask, v: Mask) -> Mask:
    """Read a tile at places that may run on forever; one unit is one tile."""
    side = tile.shape[0]
    columns = np.mod(u * side, side).astype(np.float32)
    rows = np.mod(v * side, side).astype(np.float32)
    return np.asarray(
        cv2.remap(tile, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.float32
    )
