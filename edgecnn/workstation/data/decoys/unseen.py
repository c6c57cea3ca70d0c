"""Kinds that training never paints, so that a test shows something new."""

from __future__ import annotations

import cv2
import numpy as np

from edgecnn.workstation.data.decoys.style import (
    Painter,
    Style,
    box,
    brightness,
    ellipse,
    make_night,
    pick,
    somewhere,
)
from edgecnn.workstation.data.paint import Canvas, add_glow, f32, filled, paint


def _lanterns(rng: np.random.Generator, canvas: Canvas, _style: Style) -> None:
    """Paper lanterns on a string."""
    make_night(rng, canvas, 0.6)
    height, width = canvas.shape[:2]
    y, sag = height * float(rng.uniform(0.1, 0.5)), height * float(rng.uniform(0, 0.3))
    size = height * float(rng.uniform(0.03, 0.12))
    colour = pick(rng, ((255, 60, 30), (255, 150, 50), (255, 205, 120)))
    for place in np.linspace(0.05, 0.95, int(rng.integers(2, 9))):
        x, cy = width * place, y + sag * (1 - (2 * place - 1) ** 2)
        globe = ellipse(canvas, x, cy, size * 0.8, size)
        ribs = 0.85 + 0.15 * np.cos((np.arange(height) - cy) * 2 * np.pi / max(2.0, size * 0.3))
        paint(canvas, f32(np.ones((1, width, 1)) * ribs[:, None, None] * colour), globe)
        add_glow(canvas, x, cy, size * 3, tuple(colour), 0.3)


def _heater(rng: np.random.Generator, canvas: Canvas, _style: Style) -> None:
    """The glowing bars of an electric heater."""
    make_night(rng, canvas, 0.9)
    height = canvas.shape[0]
    x, y = somewhere(rng, canvas, 0.4, 0.85)
    size = height * float(rng.uniform(0.08, 0.35))
    paint(canvas, (45, 45, 48), filled(canvas, box(x, y, size * 1.2, size * 0.8)))
    orange = pick(rng, ((255, 95, 25), (255, 140, 50)))
    for bar in np.linspace(-0.55, 0.55, int(rng.integers(2, 5))):
        paint(
            canvas, tuple(orange * 1.1), filled(canvas, box(x, y + bar * size, size, max(0.7, size * 0.06)))
        )
    add_glow(canvas, x, y, size * 2.5, tuple(orange), 0.35)
    for wire in np.linspace(-1, 1, 9):
        paint(canvas, (60, 60, 62), filled(canvas, box(x + wire * size, y, 0.5, size * 0.8)))


def _glitter(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    """A low sun on water, broken into points."""
    height, width = canvas.shape[:2]
    canvas *= float(rng.uniform(0.2, 0.8))
    horizon = height * float(rng.uniform(0.1, 0.5))
    x, low = float(rng.uniform(0.2, 0.8)) * width, pick(rng, [sky[2] for sky in style.skies])
    rows = np.arange(height, dtype=np.float32)[:, None]
    spread = width * float(rng.uniform(0.04, 0.2)) + 0.5 * np.clip(rows - horizon, 0, None)
    path = np.exp(-(((np.arange(width) - x) / spread) ** 2)) * (rows > horizon)
    points = rng.random((height, width), np.float32) < path * 0.3
    wide = cv2.GaussianBlur(points.astype(np.float32), (0, 0), sigmaX=1.2, sigmaY=0.5)
    canvas += wide[..., None] * low * float(rng.uniform(1.5, 4))


def _pumpkins(rng: np.random.Generator, canvas: Canvas, _style: Style) -> None:
    """A heap of orange fruit."""
    height, width = canvas.shape[:2]
    light = brightness(canvas)
    size = height * float(rng.uniform(0.05, 0.2))
    top = float(rng.uniform(0.2, 0.8))
    colour = pick(rng, ((240, 125, 25), (250, 165, 40), (225, 60, 35)))
    places = np.stack([rng.uniform(0, width, 20), rng.uniform(top, 1.05, 20) * height], 1)
    for x, y in places[np.argsort(places[:, 1])]:
        shade = colour * light * float(rng.uniform(0.75, 1.1))
        paint(canvas, tuple(shade * 0.6), ellipse(canvas, x, y, size, size * 0.85))
        paint(canvas, tuple(shade), ellipse(canvas, x - size * 0.1, y - size * 0.12, size * 0.8, size * 0.65))


UNSEEN: dict[str, Painter] = {
    "lanterns": _lanterns,
    "heater": _heater,
    "glitter": _glitter,
    "pumpkins": _pumpkins,
}
