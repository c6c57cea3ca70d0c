"""What every picture that something is painted into goes through: its scenery, what hides a part, the camera.

Flames and look-alikes share all of it, so that the traces of pasting say nothing about fire.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgecnn.core.frame import Pixels
from edgecnn.workstation.data.paint import Canvas, Mask, f32, filled, noise, paint

_SMALLEST_CROP = 0.6


@dataclass(frozen=True, slots=True)
class Stage:
    """Scenery, before anything is painted into it.

    Attributes:
        canvas: Shape (height, width, 3).
        ambient: How bright it is, about 0.05 at night to 1 by day.
        seen: Shape (height, width); 1 where nothing stands in front of what will be painted.
        front: Likewise (height, width, 3): what stands in front.
    """

    canvas: Canvas
    ambient: float
    seen: Mask
    front: Canvas

    def behind(self, painted: Canvas) -> Canvas:
        """Put back what stands in front of the things that were painted."""
        return f32(self.front + (painted - self.front) * self.seen[..., None])


def set_stage(
    rng: np.random.Generator, scenery: Pixels, height_px: int, width_px: int, nights: float
) -> Stage:
    """Crop, flip, light and veil scenery by chance, and choose what hides a part of it.

    Args:
        rng: Where chance comes from.
        scenery: Any picture.
        height_px: Of the result.
        width_px: Likewise.
        nights: How many of the pictures are darkened to evening or night, 0 to 1.
    """
    canvas = _crop(rng, scenery, height_px, width_px)
    canvas, ambient = _darkened(rng, canvas, nights)
    if rng.random() < 0.3:
        _veil(rng, canvas, ambient)
    seen = _unhidden(rng, canvas) if rng.random() < 0.35 else np.ones(canvas.shape[:2], np.float32)
    darkening = float(rng.choice([0.15, 0.5, 0.8, 1.0]))
    return Stage(canvas, ambient, seen, f32(canvas * darkening))


def photograph(rng: np.random.Generator, canvas: Canvas) -> Pixels:
    """Do what a camera does: expose, soften, add noise, clip, compress.

    Args:
        rng: Where chance comes from.
        canvas: Shape (height, width, 3).

    Returns:
        Of the same shape.
    """
    seen = canvas * float(rng.uniform(0.85, 1.15))
    if (softness := float(rng.uniform(0, 1.1))) > 0.3:
        seen = f32(cv2.GaussianBlur(seen, (0, 0), softness))
    grain = float(rng.choice([0.0, 1.5, 3.0, 7.0]))
    if grain:
        seen = seen + rng.standard_normal(seen.shape, np.float32) * grain
    pixels = np.asarray(np.clip(np.rint(seen), 0, 255), np.uint8)
    if rng.random() < 0.7:
        quality = int(rng.integers(35, 96))
        _, code = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        pixels = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    return np.ascontiguousarray(pixels)


def _crop(rng: np.random.Generator, scenery: Pixels, height: int, width: int) -> Canvas:
    share = float(rng.uniform(_SMALLEST_CROP, 1))
    rows, columns = (max(1, round(side * share)) for side in scenery.shape[:2])
    top = int(rng.integers(scenery.shape[0] - rows + 1))
    left = int(rng.integers(scenery.shape[1] - columns + 1))
    part = scenery[top : top + rows, left : left + columns]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    shrinks = rows > height
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return f32(cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=how))


def _darkened(rng: np.random.Generator, canvas: Canvas, nights: float) -> tuple[Canvas, float]:
    """Turn a share of the pictures into evening and night: darker, bluer, with crushed shadows."""
    brightness = float(canvas.mean())
    if rng.random() > nights:
        return canvas, min(1.0, brightness / 110)
    night = canvas / 255
    night = night ** float(rng.uniform(1.0, 1.5))
    tint = f32([0.9, 0.95, 1.2]) if rng.random() < 0.6 else f32([1.1, 0.95, 0.8])
    wanted = float(np.exp(rng.uniform(np.log(8), np.log(70))))
    night *= tint * wanted / max(float(night.mean()), 0.01)
    return f32(night), min(1.0, wanted / 110)


def _veil(rng: np.random.Generator, canvas: Canvas, ambient: float) -> None:
    """Lay haze over it: grey, or the orange of a low sun and of a great fire alike."""
    colours = f32([[205, 205, 205], [150, 150, 155], [225, 130, 60], [200, 95, 40], [225, 175, 120]])
    height, width = canvas.shape[:2]
    thin = noise(rng, height, width, cells=1.5, octaves=2)
    colour = tuple(rng.choice(colours) * min(1.0, 0.25 + ambient))
    paint(canvas, colour, f32(float(rng.uniform(0.15, 0.75)) * (0.6 + 0.4 * thin)))


def _unhidden(rng: np.random.Generator, canvas: Canvas) -> Mask:
    """Give where nothing stands in front: between trunks, above a ridge or a wall, beside a bush."""
    height, width = canvas.shape[:2]
    kind = rng.random()
    if kind < 0.45:
        hidden = np.zeros((height, width), np.float32)
        for _ in range(int(rng.integers(1, 7))):
            x, half = float(rng.uniform(0, width)), width * float(rng.uniform(0.006, 0.04))
            lean = float(rng.normal(0, 0.04)) * height
            trunk = [
                (x - half, height),
                (x + half, height),
                (x + lean + half * 0.6, 0),
                (x + lean - half * 0.6, 0),
            ]
            hidden = np.maximum(hidden, filled(canvas, trunk))
        return f32(1 - hidden)
    if kind < 0.85:
        roughness = float(rng.uniform(0, 0.2)) * height
        ridge = height * float(rng.uniform(0.6, 0.95)) - roughness * noise(rng, 2, width, 0.05, 5)[0]
        return f32(np.clip(ridge[None] - np.arange(height, dtype=np.float32)[:, None], 0, 1))
    leaves = noise(rng, height, width, cells=float(rng.uniform(4, 14)), octaves=4)
    return f32(1 - np.clip((leaves - float(rng.uniform(0.52, 0.62))) * 14, 0, 1))
