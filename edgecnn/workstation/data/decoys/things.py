"""Things that are as red and orange as fire."""

from __future__ import annotations

import numpy as np

from edgecnn.workstation.data.decoys.style import (
    Painter,
    Style,
    box,
    brightness,
    pick,
    somewhere,
)
from edgecnn.workstation.data.paint import Canvas, add_disc, f32, filled, noise, paint


def _cloth(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    height, width = canvas.shape[:2]
    light = brightness(canvas)
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    for _ in range(int(rng.integers(1, 4))):
        x, y = somewhere(rng, canvas, 0.1, 0.9)
        size = height * style.draw_size(rng)
        corners = np.asarray(box(x, y, size * float(rng.uniform(0.3, 1)), size * 0.5))
        corners = np.concatenate([corners, [[x - size * 0.6, y]]]) + rng.normal(0, 0.12, (5, 2)) * size
        across = columns * float(rng.uniform(-1, 1)) + rows * float(rng.uniform(-0.5, 0.5))
        bent = across + 0.4 * size * noise(rng, height, width, float(np.clip(height / size, 1, 10)), 2)
        folds = 0.72 + 0.3 * np.sin(bent * 2 * np.pi / max(3.0, size * float(rng.uniform(0.15, 0.6))))
        paint(canvas, f32(pick(rng, style.warm) * folds[..., None] * light), filled(canvas, corners))


def _car(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    height = canvas.shape[0]
    light = brightness(canvas)
    for _ in range(int(rng.integers(1, 4))):
        x, y = somewhere(rng, canvas, 0.5, 0.92)
        size = height * max(0.06, style.draw_size(rng)) * 0.7
        colour = pick(rng, style.warm) * light
        long, front = size * float(rng.uniform(0.9, 1.4)), float(rng.choice([-1.0, 1.0]))
        cabin = [(-0.7, -0.12), (-0.45, -0.5), (0.25, -0.5), (0.55, -0.12)]
        paint(
            canvas,
            tuple(colour * 0.85),
            filled(canvas, [(x + front * a * long, y + b * size) for a, b in cabin]),
        )
        glass = [(-0.58, -0.14), (-0.4, -0.44), (0.2, -0.44), (0.44, -0.14)]
        paint(
            canvas,
            (50 * light, 60 * light, 70 * light),
            filled(canvas, [(x + front * a * long, y + b * size) for a, b in glass]),
        )
        body = [(-1, -0.12), (0.6, -0.14), (1, -0.02), (1, 0.22), (-1, 0.22)]
        paint(canvas, tuple(colour), filled(canvas, [(x + front * a * long, y + b * size) for a, b in body]))
        shine = [(-0.95, -0.08), (0.9, -0.04), (0.9, 0.0), (-0.95, -0.03)]
        paint(
            canvas,
            tuple(colour * 0.5 + 120 * light),
            filled(canvas, [(x + front * a * long, y + b * size) for a, b in shine]),
        )
        for wheel in (-0.6, 0.6):
            add_disc(canvas, x + wheel * long, y + size * 0.22, size * 0.16, (18, 18, 20))


def _autumn(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    height, width = canvas.shape[:2]
    light = brightness(canvas) * float(rng.uniform(0.7, 1.1))
    leaves = noise(rng, height, width, float(rng.uniform(8, 30)), 3)
    tones = noise(rng, height, width, float(rng.uniform(2, 8)), 3)[..., None]
    first, second = pick(rng, style.warm), pick(rng, (*style.warm, (120, 120, 40)))
    colours = (
        (first + (second - first) * np.clip(tones * 3 - 1, 0, 1)) * (0.35 + 1.1 * leaves[..., None]) * light
    )
    gaps = np.clip((leaves - float(rng.uniform(0.25, 0.42))) * 12, 0, 1)
    if rng.random() < 0.4:  # all around
        crowns = np.clip((noise(rng, height, width, 2, 3) - float(rng.uniform(0.1, 0.5))) * 8, 0, 1)
    else:
        crowns = np.zeros((height, width), np.float32)
        for _ in style.draw_many(rng):
            x, y = somewhere(rng, canvas, 0.1, 0.8)
            size = height * max(0.08, style.draw_size(rng)) * 0.5
            trunk = filled(canvas, box(x, y + size, max(0.6, size * 0.07), size))
            paint(canvas, (60 * light, 45 * light, 35 * light), trunk)
            rough = size * (1 + 0.2 * rng.standard_normal(24))
            angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            crown = np.stack([x + rough * np.cos(angles), y + rough * np.sin(angles)], 1)
            crowns = np.maximum(crowns, filled(canvas, crown))
    paint(canvas, f32(colours), f32(crowns * gaps))


def _safety_orange(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    """Cones, vests, barriers and walls in the orange that is to be seen from afar."""
    height, width = canvas.shape[:2]
    light = brightness(canvas)
    for _ in style.draw_many(rng):
        x, y = somewhere(rng, canvas, 0.3, 0.95)
        size = height * style.draw_size(rng)
        colour = pick(rng, (style.warm[0], style.warm[2], (255, 95, 15))) * light
        stripe = (225 * light, 225 * light, 215 * light)
        kind = rng.random()
        if kind < 0.5:
            paint(
                canvas,
                tuple(colour),
                filled(
                    canvas,
                    [
                        (x - size * 0.06, y - size),
                        (x + size * 0.06, y - size),
                        (x + size * 0.32, y),
                        (x - size * 0.32, y),
                    ],
                ),
            )
            paint(
                canvas,
                stripe,
                filled(
                    canvas,
                    [
                        (x - size * 0.14, y - size * 0.68),
                        (x + size * 0.14, y - size * 0.68),
                        (x + size * 0.2, y - size * 0.45),
                        (x - size * 0.2, y - size * 0.45),
                    ],
                ),
            )
            paint(canvas, tuple(colour * 0.7), filled(canvas, box(x, y, size * 0.42, size * 0.05)))
        elif kind < 0.75:
            paint(
                canvas,
                (40 * light, 42 * light, 60 * light),
                filled(canvas, box(x, y, size * 0.22, size * 0.5)),
            )
            add_disc(canvas, x, y - size * 0.75, size * 0.15, (190 * light, 150 * light, 125 * light))
            paint(canvas, tuple(colour), filled(canvas, box(x, y - size * 0.3, size * 0.27, size * 0.32)))
            for row in (-0.4, -0.15):
                paint(canvas, stripe, filled(canvas, box(x, y + row * size, size * 0.27, size * 0.04)))
        else:
            grain = 0.85 + 0.3 * noise(rng, height, width, cells=12, octaves=3)[..., None]
            paint(
                canvas,
                f32(colour * grain),
                filled(canvas, box(x, y, size * float(rng.uniform(0.5, 2)), size * 0.4)),
            )


THINGS: dict[str, Painter] = {
    "cloth": _cloth,
    "car": _car,
    "autumn": _autumn,
    "safety orange": _safety_orange,
}
