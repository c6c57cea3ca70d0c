"""Suns, evenings, clouds, fog and steam."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.workstation.data.decoys.style import (
    Painter,
    Style,
    ellipse,
    flare,
    pick,
    shine,
    somewhere,
    stretched_noise,
)
from edgecnn.workstation.data.paint import Canvas, add_glow, f32, noise, paint


def _sunset(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    height, width = canvas.shape[:2]
    horizon = height * float(rng.uniform(0.4, 0.9))
    top, middle, low = (f32(colour) for colour in style.skies[int(rng.integers(len(style.skies)))])
    t = np.clip(np.arange(height, dtype=np.float32) / horizon, 0, 1)[:, None, None] ** float(
        rng.uniform(0.7, 2)
    )
    sky: NDArray[Any] = np.where(t < 0.5, top + (middle - top) * 2 * t, middle + (low - middle) * (2 * t - 1))
    clouds = stretched_noise(rng, height, width, float(rng.uniform(1.5, 5)))
    dark = np.clip((clouds - float(rng.uniform(0.4, 0.6))) * 5, 0, 1)[..., None]
    lit = f32(style.skies[0][2]) * (0.6 + 0.5 * t)
    sky = sky * (1 - 0.7 * dark) + (lit if rng.random() < 0.5 else middle * 0.45) * 0.7 * dark
    ridge = horizon - height * float(rng.uniform(0, 0.2)) * noise(rng, 2, width, 0.05, 5)[0]
    above = np.clip(ridge[None] - np.arange(height, dtype=np.float32)[:, None], 0, 1)
    canvas *= float(rng.uniform(0.08, 0.5))
    paint(canvas, f32(sky * np.ones((1, width, 1), np.float32)), f32(above * float(rng.uniform(0.75, 1))))
    x, y = float(rng.uniform(0, width)), horizon - height * float(rng.uniform(-0.02, 0.3))
    if rng.random() < 0.7:
        light = canvas.copy()
        shine(light, x, y, height * float(rng.uniform(0.02, 0.09)), low, float(rng.uniform(0.8, 2)))
        add_glow(
            light, x, y, height * float(rng.uniform(0.3, 1)), tuple(middle), float(rng.uniform(0.2, 0.8))
        )
        paint(canvas, light, f32(above))
    if rng.random() < 0.5:  # the sea gives it back
        rows = np.arange(height, dtype=np.float32)[:, None]
        path = np.exp(
            -(((np.arange(width) - x) / (2 + 0.25 * np.clip(rows - horizon, 0, None) + 0.04 * width)) ** 2)
        )
        waves = stretched_noise(rng, height, width, 9) ** 2 * 2
        canvas += (path * waves * (1 - above))[..., None] * low * float(rng.uniform(0.4, 1))


def _sun(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    height = canvas.shape[0]
    x, y = somewhere(rng, canvas, 0, 0.6)
    colour = pick(rng, ((255, 250, 235), (255, 225, 160), style.lights[0]))
    canvas *= float(rng.uniform(0.4, 1))
    shine(canvas, x, y, height * style.draw_size(rng) * 0.2, colour, float(rng.uniform(1, 3)))
    add_glow(canvas, x, y, height * float(rng.uniform(0.4, 1.5)), tuple(colour), float(rng.uniform(0.2, 0.8)))
    if rng.random() < 0.5:
        flare(rng, canvas, x, y, height * float(rng.uniform(0.1, 0.5)), colour)
    for _ in range(int(rng.integers(0, 4))):  # ghosts that lenses draw on the line through the middle
        t = float(rng.uniform(0.6, 2))
        ghost = (x + (canvas.shape[1] / 2 - x) * t, y + (height / 2 - y) * t)
        radius = height * float(rng.uniform(0.01, 0.06))
        canvas += ellipse(canvas, *ghost, radius, radius)[..., None] * pick(rng, style.warm) * 0.3


def _clouds(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    height, width = canvas.shape[:2]
    billows = noise(rng, height, width, float(rng.uniform(1.5, 5)), 5)
    floor = float(rng.uniform(0.35, 0.9))
    fade = np.clip((floor - np.linspace(0, 1, height)[:, None]) * 6, 0, 1)
    body = np.clip((billows - float(rng.uniform(0.35, 0.5))) * float(rng.uniform(3, 8)), 0, 1) * fade
    relief = billows - cv2.GaussianBlur(np.roll(billows, -5, axis=0), (0, 0), 2)
    grey = float(rng.choice([70, 130, 190, 235])) * min(1.0, 0.3 + float(canvas.mean()) / 128)
    cast = f32([1, 1, 1]) if rng.random() < 0.7 else 0.5 + pick(rng, style.warm) / 400
    paint(canvas, f32(grey * (1 + 1.2 * relief)[..., None] * cast), f32(body * float(rng.uniform(0.6, 1))))


def _fog(rng: np.random.Generator, canvas: Canvas, _style: Style) -> None:
    height, width = canvas.shape[:2]
    bank = float(rng.uniform(0.2, 0.8))
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    layer = np.exp(-(((rows - bank) / float(rng.uniform(0.1, 0.9))) ** 2))
    drift = 0.6 + 0.6 * stretched_noise(rng, height, width, float(rng.uniform(1, 3)))
    grey = float(rng.uniform(120, 235)) * min(1.0, 0.25 + float(canvas.mean()) / 128)
    thick = np.clip(layer * drift * float(rng.uniform(0.6, 1.3)), 0, 0.97)
    paint(canvas, (grey, grey, grey * float(rng.uniform(1, 1.06))), f32(thick))


def _steam(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    """White wisps low over something, gone before they gather."""
    height, width = canvas.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(int(rng.integers(1, 4))):
        x, y = somewhere(rng, canvas, 0.4, 1)
        size = height * float(rng.uniform(0.5, 1)) * min(0.3, style.draw_size(rng))
        wisps = noise(rng, height, width, float(np.clip(height / size, 2, 12)), 3)
        squared = ((columns - x) / size) ** 2 + ((rows - y + size * 0.5) / (size * 0.7)) ** 2
        body = np.exp(-squared) * np.clip((wisps - 0.3) * 1.6, 0, 1) * float(rng.uniform(0.4, 0.9))
        paint(canvas, (235, 238, 240), f32(body * min(1.0, 0.3 + float(canvas.mean()) / 128)))


SKY: dict[str, Painter] = {
    "sunset": _sunset,
    "sun": _sun,
    "clouds": _clouds,
    "fog": _fog,
    "steam": _steam,
}
