"""What glitters far away at night: fireworks and the lights of a city."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.workstation.data.decoys.style import Painter, Style, make_night, pick, shine, somewhere
from edgecnn.workstation.data.paint import Canvas, add_glow, f32, filled, noise, paint

_SPARKS = ((255, 190, 90), (255, 225, 160), (255, 245, 225), (255, 60, 45), (120, 255, 130), (200, 120, 255))
_GOLD = _SPARKS[:3]


def _fireworks(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    make_night(rng, canvas, 0.25)
    height, width = canvas.shape[:2]
    if rng.random() < 0.6:
        _light_up(rng, canvas, style, height * float(rng.uniform(0.6, 0.9)))
    count = int(rng.integers(1, 6))
    middle, spread = float(rng.uniform(0.2, 0.8)) * width, float(rng.uniform(0.05, 0.3)) * width
    for _ in range(count):
        x, y = float(rng.normal(middle, spread)), height * float(rng.uniform(0.08, 0.6))
        size = height * style.draw_size(rng) * float(rng.uniform(0.4, 0.9))
        colour = pick(rng, _SPARKS)
        # Smoke of earlier ones, lit by this one.
        smoke = noise(rng, height, width, 5, 3)[..., None] * float(rng.uniform(0, 0.25))
        glow = np.zeros_like(canvas)
        add_glow(glow, x, y, size * 1.5, tuple(colour), 1.0)
        canvas += glow * smoke
        kind = rng.random()
        if kind < 0.5:
            angles = rng.uniform(0, 2 * np.pi, int(rng.integers(25, 140)))
            _rays(rng, canvas, x, y, size, angles, colour, falls=float(rng.uniform(0.05, 0.4)))
        elif kind < 0.75:  # a willow: gold that hangs down
            angles = rng.uniform(0, 2 * np.pi, int(rng.integers(30, 120)))
            _rays(rng, canvas, x, y, size, angles, pick(rng, _GOLD), falls=float(rng.uniform(0.6, 1.6)))
        else:  # a fountain from the ground
            foot = height * float(rng.uniform(0.6, 0.95))
            angles = rng.normal(-np.pi / 2, float(rng.uniform(0.1, 0.4)), int(rng.integers(30, 140)))
            _rays(rng, canvas, x, foot, size, angles, pick(rng, _GOLD), falls=float(rng.uniform(0.2, 0.8)))
            shine(canvas, x, foot, max(0.8, size * 0.04), pick(rng, _GOLD), float(rng.uniform(1, 3)))
    if rng.random() < 0.3:
        _mirror(rng, canvas, height * float(rng.uniform(0.65, 0.85)))


def _rays(
    rng: np.random.Generator,
    canvas: Canvas,
    x: float,
    y: float,
    size: float,
    angles: NDArray[np.float64],
    colour: NDArray[np.float32],
    falls: float,
) -> None:
    """Add the trails of sparks that fly from a point and fall."""
    light = np.zeros(canvas.shape[:2], np.uint8)
    begins = float(rng.choice([0.0, 0.0, 0.3, 0.6]))
    times = np.linspace(begins, 1, 7)
    for angle in angles:
        far = size * float(rng.uniform(0.5, 1.05))
        trail = np.stack(
            [x + far * times * np.cos(angle), y + far * (times * np.sin(angle) + falls * times**2)], 1
        )
        fixed = np.round(trail * 16).astype(np.int32)
        cv2.polylines(light, [fixed], False, int(rng.integers(60, 256)), 1, cv2.LINE_AA, 4)
    trails = f32(light / 255)
    power = float(rng.uniform(0.6, 1.8))
    canvas += trails[..., None] * (colour * 0.8 + 50) * power
    canvas += cv2.GaussianBlur(trails, (0, 0), 1.0 + size * 0.03)[..., None] * colour * power
    if begins == 0 and rng.random() < 0.5:
        shine(canvas, x, y, max(0.8, size * 0.06), colour * 0.5 + 120, float(rng.uniform(0.5, 2)))


def _city_at_night(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    make_night(rng, canvas, 0.3)
    height = canvas.shape[0]
    horizon = height * float(rng.uniform(0.05, 0.6))
    if rng.random() < 0.5:  # the sky that a city lights, or what is left of the evening
        low = pick(rng, [sky[2] for sky in style.skies]) * float(rng.uniform(0.15, 0.6))
        rows = np.arange(height, dtype=np.float32)[:, None]
        near = np.exp(-np.clip(horizon - rows, 0, None) / (height * float(rng.uniform(0.05, 0.2))))
        canvas += (near * (rows < horizon))[..., None] * low
    _light_up(rng, canvas, style, horizon)
    if rng.random() < 0.3:
        _mirror(rng, canvas, height * float(rng.uniform(0.6, 0.85)))


def _light_up(rng: np.random.Generator, canvas: Canvas, style: Style, horizon: float) -> None:
    """Add the lights of streets and windows below a horizon, denser and smaller towards it."""
    height, width = canvas.shape[:2]
    colour = pick(rng, style.lights)
    light = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(60, 700))):
        depth = float(rng.random()) ** 1.7
        y, x = int(horizon + depth * (height - 1 - horizon)), int(rng.integers(width))
        half = int(rng.random() < 0.25 * depth)
        light[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1] = float(rng.uniform(0.1, 1))
    for _ in range(int(rng.integers(0, 6))):  # streets
        start, end = somewhere(rng, canvas, horizon / height, 1), somewhere(rng, canvas, horizon / height, 1)
        for along in np.linspace(0, 1, int(rng.integers(10, 60))):
            y, x = (int(a + along * (b - a)) for a, b in zip(start[::-1], end[::-1], strict=True))
            if 0 <= y < height and 0 <= x < width:
                light[y, x] = float(rng.uniform(0.4, 1))
    tints = 1 + (noise(rng, height, width, 12, 2)[..., None] - 0.5) * f32([0.1, 0.5, 1.0])
    canvas += light[..., None] * colour * tints * float(rng.uniform(0.7, 1.6))
    canvas += cv2.GaussianBlur(light, (0, 0), float(rng.uniform(1, 3)))[..., None] * colour * 1.2


def _mirror(rng: np.random.Generator, canvas: Canvas, shore: float) -> None:
    """Let water below a shore repeat what is above it, drawn out and dimmer."""
    height, width = canvas.shape[:2]
    row = int(shore)
    above = canvas[max(0, 2 * row - height) : row][::-1]
    drawn_out = cv2.GaussianBlur(above, (0, 0), sigmaX=0.8, sigmaY=height * 0.03)
    water = np.zeros((height, width, 3), np.float32)
    water[row : row + len(above)] = drawn_out * float(rng.uniform(0.3, 0.8))
    corners = [
        (0.0, float(row)),
        (float(width), float(row)),
        (float(width), float(height)),
        (0.0, float(height)),
    ]
    paint(canvas, water, filled(canvas, corners))


NIGHTS: dict[str, Painter] = {"fireworks": _fireworks, "city at night": _city_at_night}
