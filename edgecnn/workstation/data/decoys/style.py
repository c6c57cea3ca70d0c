"""What decoys are drawn from, and the pieces that their painters share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.workstation.data.paint import Canvas, Mask, add_glow, f32, filled, noise

Colour: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Style:
    """What look-alikes are drawn from.

    Attributes:
        warm: Colours of red, orange and yellow things, in byte values.
        lights: Colours of lamps.
        skies: Overhead, half-way and at the horizon, of evenings.
        size: The least and greatest height of a thing, as a share of the picture's.
        many: The least and greatest number of things.
    """

    warm: tuple[Colour, ...]
    lights: tuple[Colour, ...]
    skies: tuple[tuple[Colour, Colour, Colour], ...]
    size: tuple[float, float]
    many: tuple[int, int]

    def draw_size(self, rng: np.random.Generator) -> float:
        """Draw a thing's height, each doubling as likely as the next."""
        return float(np.exp(rng.uniform(*np.log(self.size))))

    def draw_many(self, rng: np.random.Generator) -> range:
        """Draw how many things there are."""
        return range(int(rng.integers(self.many[0], self.many[1] + 1)))


TRAINING = Style(
    warm=((235, 90, 20), (215, 35, 25), (250, 140, 20), (190, 60, 30), (245, 190, 50), (170, 30, 40)),
    lights=((255, 175, 85), (255, 240, 215), (255, 205, 130), (235, 240, 255), (255, 120, 40)),
    skies=(
        ((50, 60, 120), (190, 95, 90), (255, 165, 70)),
        ((40, 25, 50), (200, 60, 30), (255, 190, 80)),
        ((105, 125, 175), (235, 170, 130), (255, 215, 150)),
        ((90, 20, 20), (225, 75, 20), (255, 205, 60)),
    ),
    size=(0.03, 0.6),
    many=(1, 7),
)
TESTING = Style(
    warm=((255, 110, 60), (200, 15, 55), (228, 120, 45), (150, 45, 15), (255, 205, 20), (240, 70, 70)),
    lights=((255, 150, 60), (255, 225, 170), (220, 255, 235), (255, 190, 190), (255, 90, 25)),
    skies=(
        ((20, 40, 90), (150, 60, 120), (255, 130, 105)),
        ((60, 15, 15), (180, 30, 15), (255, 120, 30)),
        ((150, 110, 70), (235, 150, 50), (255, 235, 140)),
    ),
    size=(0.05, 0.9),
    many=(2, 12),
)

Painter: TypeAlias = Callable[[np.random.Generator, Canvas, Style], None]
"""Paints one kind into a canvas."""


def pick(rng: np.random.Generator, colours: Sequence[Colour], spread: float = 0.12) -> NDArray[np.float32]:
    """Draw one of the colours and vary each of its channels a little."""
    colour = f32(colours[int(rng.integers(len(colours)))])
    return f32(colour * rng.uniform(1 - spread, 1 + spread, 3))


def somewhere(
    rng: np.random.Generator, canvas: Canvas, low: float = 0.0, high: float = 1.0
) -> tuple[float, float]:
    """Draw x, and y between two shares of the height, in pixels."""
    height, width = canvas.shape[:2]
    return float(rng.uniform(0, width)), float(rng.uniform(low, high)) * height


def make_night(rng: np.random.Generator, canvas: Canvas, to: float = 0.45) -> None:
    """Darken to what lamps stand out from, unless it is that dark already."""
    canvas *= min(1.0, float(rng.uniform(0.08, to)) * 110 / max(float(canvas.mean()), 1.0))


def shine(
    canvas: Canvas, x: float, y: float, radius: float, colour: NDArray[np.float32], power: float
) -> None:
    """Add a source that clips to white, and its halo, where they reach."""
    reach = radius * 12 + 4
    height, width = canvas.shape[:2]
    left, right = int(np.clip(x - reach, 0, width)), int(np.clip(x + reach, 0, width))
    top, bottom = int(np.clip(y - reach, 0, height)), int(np.clip(y + reach, 0, height))
    if left < right and top < bottom:
        part = canvas[top:bottom, left:right]
        add_glow(part, x - left, y - top, radius * 2, tuple(colour), 1.5 * power)
        add_glow(part, x - left, y - top, radius * 6, tuple(colour), 0.4 * power)


def flare(
    rng: np.random.Generator, canvas: Canvas, x: float, y: float, length: float, colour: NDArray[np.float32]
) -> None:
    """Add the star that a stopped-down lens draws around a lamp."""
    light = np.zeros(canvas.shape[:2], np.uint8)
    points = int(rng.choice([4, 6, 8]))
    for angle in float(rng.uniform(0, np.pi)) + np.arange(points) * 2 * np.pi / points:
        end = (round((x + length * np.cos(angle)) * 16), round((y + length * np.sin(angle)) * 16))
        cv2.line(light, (round(x * 16), round(y * 16)), end, 255, 1, cv2.LINE_AA, 4)
    canvas += cv2.GaussianBlur(light, (0, 0), 0.7)[..., None] / 255 * colour * float(rng.uniform(0.3, 0.9))


def box(x: float, y: float, half_width: float, half_height: float) -> list[tuple[float, float]]:
    """Give the corners of a rectangle around a point."""
    return [
        (x - half_width, y - half_height),
        (x + half_width, y - half_height),
        (x + half_width, y + half_height),
        (x - half_width, y + half_height),
    ]


def ellipse(canvas: Canvas, x: float, y: float, half_width: float, half_height: float) -> Mask:
    """Give where an ellipse around a point is."""
    angles = np.linspace(0, 2 * np.pi, 32)
    return filled(canvas, np.stack([x + half_width * np.cos(angles), y + half_height * np.sin(angles)], 1))


def stretched_noise(rng: np.random.Generator, height: int, width: int, cells: float) -> Mask:
    """Give noise that is drawn out sideways, as clouds and waves are."""
    narrow = noise(rng, height, max(2, width // 4), cells)
    return f32(cv2.resize(narrow, (width, height), interpolation=cv2.INTER_LINEAR))


def brightness(canvas: Canvas) -> float:
    """Give the light that falls on a thing in this scenery, 0.1 to 1."""
    return float(np.clip(canvas.mean() / 110, 0.1, 1))
