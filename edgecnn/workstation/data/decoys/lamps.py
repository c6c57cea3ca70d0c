"""Lamps of all sorts, and what lenses and sensors make of them."""

from __future__ import annotations

import cv2
import numpy as np

from edgecnn.workstation.data.decoys.style import (
    Painter,
    Style,
    box,
    ellipse,
    flare,
    make_night,
    pick,
    shine,
    somewhere,
)
from edgecnn.workstation.data.paint import Canvas, f32, filled, noise, paint


def _headlights(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    make_night(rng, canvas)
    height = canvas.shape[0]
    for _ in style.draw_many(rng):
        x, y = somewhere(rng, canvas, 0.4, 0.9)
        size = height * style.draw_size(rng) * 0.35
        colour = pick(rng, style.lights[1:4])
        gap = size * float(rng.uniform(1.2, 2.5)) * (rng.random() < 0.85)
        for side in (-1, 1):
            shine(canvas, x + side * gap, y, max(0.8, size * 0.25), colour, float(rng.uniform(0.8, 2.5)))
        wet = ellipse(canvas, x, y + size * 1.8, gap + size, size * 0.8)
        canvas += (
            cv2.GaussianBlur(wet, (0, 0), max(1.0, size * 0.3))[..., None]
            * colour
            * float(rng.uniform(0, 0.6))
        )


def _brake_lights(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    if rng.random() < 0.7:
        make_night(rng, canvas, 0.7)
    height = canvas.shape[0]
    for _ in style.draw_many(rng):
        x, y = somewhere(rng, canvas, 0.4, 0.95)
        size = height * min(0.4, style.draw_size(rng))
        body = float(rng.uniform(10, 120))
        paint(canvas, (body, body, body * 1.05), filled(canvas, box(x, y, size * 0.9, size * 0.5)))
        red = pick(rng, ((255, 25, 20), (255, 60, 40), (255, 110, 30)))
        for side in (-1, 1):
            lamp = filled(canvas, box(x + side * size * 0.72, y, max(0.7, size * 0.12), max(0.7, size * 0.1)))
            paint(canvas, tuple(red * 1.1 + 25), lamp)
            shine(canvas, x + side * size * 0.72, y, max(0.7, size * 0.12), red, float(rng.uniform(0.2, 1.2)))


def _street_lamps(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    make_night(rng, canvas, 0.6)
    height, width = canvas.shape[:2]
    colour = pick(rng, style.lights)
    x, y = somewhere(rng, canvas, 0.1, 0.5)
    step_x, step_y = float(rng.normal(0, 0.16)) * width, float(rng.uniform(0, 0.05)) * height
    size = height * style.draw_size(rng) * 0.12
    has_flare = rng.random() < 0.4
    for number in style.draw_many(rng):
        place = (x + step_x * number, y + step_y * number)
        near = size * 0.8**number
        paint(
            canvas,
            (18, 18, 20),
            filled(canvas, box(place[0], place[1] + near * 8, max(0.5, near * 0.2), near * 8)),
        )
        shine(canvas, *place, max(0.8, near), colour, float(rng.uniform(0.8, 2.2)))
        if has_flare:
            flare(rng, canvas, *place, near * float(rng.uniform(3, 9)), colour)


def _lit_windows(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    make_night(rng, canvas)
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(1, 4))):
        x, half = float(rng.uniform(0, width)), width * float(rng.uniform(0.08, 0.4))
        top = height * float(rng.uniform(0.05, 0.6))
        wall = float(rng.uniform(6, 45))
        paint(
            canvas,
            (wall, wall, wall * 1.15),
            filled(canvas, [(x - half, height), (x - half, top), (x + half, top), (x + half, height)]),
        )
        pane = max(1.0, height * min(0.25, style.draw_size(rng)) * 0.4)
        step = pane * float(rng.uniform(2.4, 4))
        share, colour = float(rng.uniform(0.2, 0.8)), pick(rng, style.lights)
        glass = np.zeros((height, width), np.float32)
        for cy in np.arange(top + step, height, step * float(rng.uniform(1, 1.5)))[:12]:
            for cx in np.arange(x - half + step * 0.7, x + half - step * 0.5, step)[:12]:
                if rng.random() < share:
                    box = (
                        slice(max(0, round(cy - pane)), round(cy + pane)),
                        slice(max(0, round(cx - pane * 0.7)), max(0, round(cx + pane * 0.7))),
                    )
                    glass[box] = float(rng.uniform(0.4, 1))
        paint(canvas, tuple(colour), glass)
        canvas += cv2.GaussianBlur(glass, (0, 0), pane * 1.2 + 0.5)[..., None] * colour * 0.35


def _welding(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    make_night(rng, canvas, 0.8)
    height = canvas.shape[0]
    x, y = somewhere(rng, canvas, 0.3, 0.9)
    size = height * style.draw_size(rng) * 0.12
    blue = pick(rng, ((190, 215, 255), (225, 235, 255), (210, 255, 250)))
    light = np.zeros(canvas.shape[:2], np.uint8)
    for _ in range(int(rng.integers(10, 60))):
        angle, far = float(rng.uniform(-np.pi, 0.3)), size * float(rng.exponential(4))
        start = (x + np.cos(angle) * far, y + np.sin(angle) * far + far**2 / (size * 30 + 1))
        tail = float(rng.uniform(0.3, 1.5)) * size + 1
        ends = [
            (round(px * 16), round(py * 16))
            for px, py in (start, (start[0] + np.cos(angle) * tail, start[1] + (np.sin(angle) + 0.4) * tail))
        ]
        cv2.line(light, ends[0], ends[1], int(rng.integers(90, 256)), 1, cv2.LINE_AA, 4)
    canvas += light[..., None] / f32(255) * pick(rng, ((255, 190, 90), (255, 230, 180), (255, 140, 40))) * 1.2
    shine(canvas, x, y, max(1.0, size), blue, float(rng.uniform(1.5, 4)))
    if rng.random() < 0.5:
        flare(rng, canvas, x, y, size * float(rng.uniform(3, 10)), blue)


def _neon(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    make_night(rng, canvas)
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(1, 5))):
        light = np.zeros((height, width), np.uint8)
        x, y = somewhere(rng, canvas, 0.1, 0.8)
        size = height * style.draw_size(rng)
        bends = np.cumsum(rng.normal(0, 0.35, (int(rng.integers(3, 9)), 2)), axis=0) * size + (x, y)
        if rng.random() < 0.4:
            bends = np.asarray(box(x, y, size * 0.6, size * 0.35))
        thick = int(np.clip(size * 0.05, 1, 6))
        cv2.polylines(
            light,
            [np.round(bends * 16).astype(np.int32)],
            bool(rng.random() < 0.5),
            255,
            thick,
            cv2.LINE_AA,
            4,
        )
        colour = pick(rng, (*style.warm, (255, 40, 160), (60, 160, 255), (80, 255, 120)))
        tube = f32(light / 255)
        canvas += cv2.GaussianBlur(tube, (0, 0), 1.5 + size * 0.1)[..., None] * colour * 1.4
        paint(canvas, tuple(colour * 0.5 + 140), tube)


def _screen(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    make_night(rng, canvas, 0.9)
    height, width = canvas.shape[:2]
    x, y = somewhere(rng, canvas, 0.25, 0.75)
    size = height * max(0.08, style.draw_size(rng)) * 0.6
    shape = np.asarray(box(x, y, size * 0.9, size * 0.55)) + rng.normal(0, 0.04, (4, 2)) * size
    frame = filled(canvas, (shape - (x, y)) * 1.07 + (x, y))
    paint(canvas, (14, 14, 16), frame)
    show = noise(rng, height, width, float(np.clip(height / size, 1, 8)), 3)[..., None]
    colours = [
        pick(rng, (*style.warm, (60, 120, 230), (60, 170, 80), (240, 240, 240), (20, 20, 40)))
        for _ in range(2)
    ]
    glass = filled(canvas, shape)
    paint(canvas, f32(colours[0] + (colours[1] - colours[0]) * np.clip(show * 3 - 1, 0, 1)), glass)
    canvas += cv2.GaussianBlur(glass, (0, 0), size * 0.4 + 1)[..., None] * colours[0] * 0.3


def _rain_on_the_lens(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    make_night(rng, canvas, 0.7)
    height = canvas.shape[0]
    canvas[:] = cv2.GaussianBlur(canvas, (0, 0), height * float(rng.uniform(0.01, 0.04)) + 0.3)
    for _ in range(int(rng.integers(3, 16))):
        x, y = somewhere(rng, canvas, 0.1, 0.9)
        radius = height * float(rng.uniform(0.01, 0.07))
        colour = pick(rng, (*style.lights, *style.lights, (255, 30, 20), (60, 255, 120)))
        disc = cv2.GaussianBlur(ellipse(canvas, x, y, radius, radius), (0, 0), 0.8)
        canvas += disc[..., None] * colour * float(rng.uniform(0.2, 0.9))
    # A drop is a lens: it shows what lies behind it small and upside down.
    small = cv2.flip(canvas, -1)
    for _ in range(int(rng.integers(4, 20))):
        x, y = somewhere(rng, canvas)
        radius = height * float(rng.uniform(0.01, 0.05))
        drop = ellipse(canvas, x, y, radius, radius * float(rng.uniform(1, 1.6)))
        paint(canvas, f32(small * float(rng.uniform(0.6, 1.5)) + 8), f32(drop * 0.8))


def _infrared(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    height, width = canvas.shape[:2]
    grey = canvas.mean(axis=2, keepdims=True)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    beam = np.exp(-float(rng.uniform(0.5, 2)) * (x**2 + y**2))[..., None]
    canvas[:] = f32(np.clip(grey * 0.7, 0, 160) * beam)
    for _ in style.draw_many(rng):
        place = somewhere(rng, canvas, 0.2, 0.95)
        size = height * min(0.3, style.draw_size(rng))
        if rng.random() < 0.5:
            shine(canvas, *place, max(0.8, size * 0.2), f32([255, 255, 255]), float(rng.uniform(0.5, 2)))
        else:
            warm_body = ellipse(canvas, *place, size * float(rng.uniform(0.2, 0.9)), size * 0.6)
            bright = float(rng.uniform(150, 255))
            paint(canvas, (bright,) * 3, f32(cv2.GaussianBlur(warm_body, (0, 0), 1 + size * 0.06)))


LAMPS: dict[str, Painter] = {
    "headlights": _headlights,
    "brake lights": _brake_lights,
    "street lamps": _street_lamps,
    "lit windows": _lit_windows,
    "welding": _welding,
    "neon": _neon,
    "screen": _screen,
    "rain on the lens": _rain_on_the_lens,
    "infrared": _infrared,
}
