"""Paints flames and smoke of all sizes into pictures that have none, and says where they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import Pixels
from edgecnn.errors import DataError
from edgecnn.workstation.data.paint import Canvas, Mask, add_glow, f32, noise, paint
from edgecnn.workstation.data.staging import Stage, photograph, set_stage

Cutout: TypeAlias = tuple[Pixels, Mask]
"""A patch of a real flame, and how much of each pixel is flame, 0 to 1."""

# How strongly red, green and blue shine: a camera clips them one after the other, so that one hue gives
# red rims, orange bodies, yellow and at last white cores.
_HUES = f32(
    [[1, 0.36, 0.05], [1, 0.33, 0.06], [1, 0.4, 0.08], [1, 0.27, 0.03], [1, 0.45, 0.12], [1, 0.3, 0.15]]
)
# Smoke is grey, bluish or brownish.
_CASTS: tuple[tuple[float, float, float], ...] = ((1, 1, 1), (0.95, 0.98, 1.05), (1.06, 0.99, 0.88))
_SMALLEST_HEIGHT = 0.03  # of the picture: 5 px of 160, about a candle at 10 m
_FLAME_FROM = 0.3  # opacity from which a pixel counts as flame
_SMOKE_FROM = 0.25
# Of a square picture of 160 pixels 4 and 205: less smoke than that is a cloud to anybody.
_LEAST_SHARE = {"fire": 1.5e-4, "smoke": 8e-3}
_LEAST_CONTRAST = 13  # byte values
_COPY_TRIES = 4


@dataclass(frozen=True, slots=True)
class Pasted:
    """A picture with something burning in it.

    Attributes:
        pixels: Shape (height, width, 3).
        labels: What is to be seen: "fire", "smoke" or both; never empty.
        masks: For "fire" and "smoke" each, shape (height, width): where it is.
    """

    pixels: Pixels
    labels: tuple[str, ...]
    masks: Mapping[str, NDArray[np.bool_]]


def pasted(
    backgrounds: Sequence[Pixels], count: int, seed: int, real_flames: Sequence[Cutout] = ()
) -> Iterator[Pasted]:
    """Set scenery on fire: from a point far away to a filled frame, by day and by night.

    Args:
        backgrounds: Pictures without fire and smoke, of any sizes.
        count: How many pictures to make.
        seed: The same seed gives the same pictures.
        real_flames: Flames from ``cut_flames``; where there are some, half of the fires are made of them.

    Yields:
        Pictures as large as the backgrounds that they were made of.

    Raises:
        DataError: If there is no background.

    Example:
        >>> meadow = np.full((64, 64, 3), 90, np.uint8)
        >>> [picture.pixels.shape for picture in pasted([meadow], count=1, seed=1)]
        [(64, 64, 3)]
    """
    if not backgrounds:
        raise DataError("There is no picture to paint flames into.", fix="Give at least one background.")
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        scenery = backgrounds[int(rng.integers(len(backgrounds)))]
        yield _set_fire(rng, scenery, real_flames)


def cut_flames(pixels: Pixels, box_xywh: tuple[float, float, float, float]) -> Cutout:
    """Cut what burns out of a box: its bright warm pixels and the white between them, softly.

    Args:
        pixels: Shape (height, width, 3).
        box_xywh: Left, top, width and height in pixels.

    Returns:
        The box's pixels and their opacity, which falls to 0 at the edge of the box.

    Raises:
        DataError: If no pixel of the picture lies in the box.
    """
    x, y, wide, high = box_xywh
    left, top = max(0, round(x)), max(0, round(y))
    patch = pixels[top : max(top, round(y + high)), left : max(left, round(x + wide))]
    if not patch.size:
        raise DataError(f"The box {box_xywh} holds no pixel of the picture.", fix="Correct the box.")
    red, green, blue = (patch[..., channel].astype(np.float32) for channel in range(3))
    warm = f32(np.clip((red - 170) / 50, 0, 1) * np.clip((red - blue - 30) / 60, 0, 1) * (red >= green))
    # The core of a flame clips to white; white far from anything warm is sky or a wall.
    reach = 2 * (min(patch.shape[:2]) // 8) + 1
    near_warm = cv2.blur(cv2.dilate(warm, np.ones((reach, reach), np.uint8)), (3, 3))
    white = np.clip((np.minimum(red, green) - 215) / 25, 0, 1) * near_warm
    alpha = cv2.GaussianBlur(f32(np.maximum(warm, white)), (0, 0), 0.8)
    return patch.copy(), f32(alpha * _feather(*patch.shape[:2]))


def _feather(height: int, width: int) -> Mask:
    """Fall off towards the sides and the top of a patch; flames may stand on its lower edge."""
    columns = np.minimum(np.arange(width), np.arange(width)[::-1]) + 0.5
    rows = np.minimum(np.arange(height), 2 * np.arange(height)[::-1]) + 0.5
    near = np.clip(rows / (0.25 * height), 0, 1)[:, None] * np.clip(columns / (0.25 * width), 0, 1)[None]
    return f32(near**2 * (3 - 2 * near))


def _set_fire(rng: np.random.Generator, scenery: Pixels, real_flames: Sequence[Cutout]) -> Pasted:
    kind = rng.random()
    has_fire, has_smoke = kind < 0.8, kind > 0.3
    # Nobody sees smoke at night that no fire lights.
    nights = 0.5 if has_fire else 0.1
    stage = set_stage(rng, scenery, scenery.shape[0], scenery.shape[1], nights)
    canvas = stage.canvas.copy()
    height, width = canvas.shape[:2]
    flame, smoke = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    hue, power = rng.choice(_HUES), float(np.exp(rng.uniform(np.log(3), np.log(25))))
    size = _draw_size(rng)
    # A near fire, which is large, has its foot low in the picture.
    x, y = float(rng.uniform(0.08, 0.92)), float(rng.uniform(max(0.4, min(0.95, 0.25 + 0.8 * size)), 1.1))
    if has_smoke:
        thick, shade = _plume(
            rng, x * width, y * height, float(np.clip(size, 0.05, 0.5)) * height, height, width
        )
        smoke = _lay_smoke(rng, canvas, stage, thick, shade, hue if has_fire else None, y * height)
    if has_fire:
        for place, share in _spread(rng, x, size):
            foot = (place * width, min(height * 1.1, (y + float(rng.normal(0, 0.02))) * height))
            lit = _light_one(rng, canvas, foot, share * height, hue, power, stage.ambient, real_flames)
            flame = np.maximum(flame, lit)
        smoke = f32(smoke * (1 - flame))
    seen = stage.seen
    masks = {"fire": flame * seen > _FLAME_FROM, "smoke": smoke * seen > _SMOKE_FROM}
    if _labels(masks):
        canvas = stage.behind(canvas)
    else:  # all of it would be hidden
        masks = {"fire": flame > _FLAME_FROM, "smoke": smoke > _SMOKE_FROM}
    labels = _labels(masks)
    if not labels:
        return _set_fire(rng, scenery, real_flames)
    # Specks that earn no label are no place either.
    masks = {name: mask & (name in labels) for name, mask in masks.items()}
    return Pasted(photograph(rng, canvas), labels, masks)


def _labels(masks: Mapping[str, NDArray[np.bool_]]) -> tuple[str, ...]:
    return tuple(name for name, mask in masks.items() if mask.mean() >= _LEAST_SHARE[name])


def _draw_size(rng: np.random.Generator) -> float:
    """Draw a flame's height as a share of the picture's: each doubling as likely as the next."""
    return float(np.exp(rng.uniform(np.log(_SMALLEST_HEIGHT), np.log(1.3))))


def _spread(rng: np.random.Generator, x: float, size: float) -> list[tuple[float, float]]:
    """Give place and height of each fire: mostly one, sometimes some of about a size side by side."""
    others = int(rng.integers(1, _COPY_TRIES)) if size < 0.4 and rng.random() < 0.35 else 0
    return [(x, size)] + [
        (x + float(rng.normal(0, 0.05 + size)), size * float(rng.uniform(0.4, 1.1))) for _ in range(others)
    ]


def _light_one(
    rng: np.random.Generator,
    canvas: Canvas,
    foot: tuple[float, float],
    tall: float,
    hue: NDArray[np.float32],
    power: float,
    ambient: float,
    real_flames: Sequence[Cutout],
) -> Mask:
    """Paint one fire and its light; return its opacity in the whole picture."""
    width = canvas.shape[1]
    glow = float(rng.uniform(0.15, 0.5)) + 0.7 * (1 - ambient) * float(rng.random())
    add_glow(
        canvas, foot[0], foot[1] - tall * 0.35, tall * float(rng.uniform(1.2, 3)), tuple(hue * 150), glow
    )
    rows = max(3, round(tall))
    aspect = (
        float(np.exp(rng.uniform(np.log(0.5), np.log(1.4))))
        if rng.random() < 0.65
        else float(rng.uniform(1.5, 6))
    )
    columns = int(np.clip(rows * aspect, 3, width * 1.5))
    if real_flames and rng.random() < 0.5:
        pixels, alpha = real_flames[int(rng.integers(len(real_flames)))]
        columns = max(3, round(rows * pixels.shape[1] / pixels.shape[0] * float(rng.uniform(0.75, 1.3))))
        colours, alpha = _resized(rng, pixels, alpha, rows, columns)
    else:
        heat = _heat(rng, rows, columns)
        colours = f32(255 * (1 - np.exp(-(heat**1.4)[..., None] * power * hue)))
        alpha = f32(np.clip(heat * float(rng.uniform(2.5, 5)), 0, 1) * float(rng.uniform(0.8, 1)))
        alpha = f32(
            alpha * np.clip(colours[..., 0] / 220, 0, 1)
        )  # a flame casts no shadow on what is behind it
        if rows > 40 and rng.random() < 0.5:
            _add_sparks(rng, canvas, foot, tall, hue)
    return _lay(canvas, colours, alpha, round(foot[0] - columns / 2), round(foot[1] - rows))


def _heat(rng: np.random.Generator, height: int, width: int) -> Mask:
    """Give how hot a patch of flames is, 0 to about 1: tongues on one foot, bent and torn as they rise."""
    columns = np.arange(width, dtype=np.float32)
    v = np.linspace(1, 0, height, dtype=np.float32)[:, None]
    across = np.abs(2 * (columns + 0.5) / width - 1)
    envelope = np.clip(1 - across ** float(rng.uniform(1.5, 4)), 0, 1) ** float(rng.uniform(0.5, 1.1))
    # Tongues stand about a third of the flame's height apart.
    tongues = noise(rng, 2, width, float(rng.uniform(2, 4)) * 2 / height, 3)[0]
    tongues = np.clip((tongues - 0.2) * 1.6, 0.1, 1)
    top = envelope * (0.35 + 0.65 * tongues)
    bend = (noise(rng, height, width, float(rng.uniform(2, 4)), 3) - 0.5) * 1.3 * height * (0.1 + 0.6 * v)
    where = np.clip(columns[None] + bend, 0, width - 1).astype(np.int32)
    reach = np.maximum(top[where], 1e-3)
    coarse = cv2.resize(
        noise(rng, max(2, height // 2), width, float(rng.uniform(3, 6)), 4),
        (width, height),
        interpolation=cv2.INTER_LINEAR,
    )
    torn = (coarse - 0.5) * (0.6 + 1.8 * v)
    body = np.clip((reach - v) / (0.25 + 0.5 * reach) + torn, 0, 1.2)
    # Sheets of flame with darker gas between them, drawn out upwards.
    sheets = np.clip(1.1 - np.abs(2 * coarse[::-1] - 1) * float(rng.uniform(0.3, 2.2)), 0.15, 1)
    foot = 0.3 * reach * noise(rng, 2, width, 6 * 2 / height, 3)[0]
    return f32(body * sheets * np.clip(envelope * 4, 0, 1) * np.clip((v - foot) * 6 + 0.4, 0, 1))


def _add_sparks(
    rng: np.random.Generator, canvas: Canvas, foot: tuple[float, float], tall: float, hue: NDArray[np.float32]
) -> None:
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(3, 25))):
        x = int(foot[0] + float(rng.normal(0, 0.5)) * tall)
        y = int(foot[1] - abs(float(rng.normal(0, 1))) * tall)
        if 0 <= x < width and 0 <= y < height:
            canvas[y, x] += hue * 220 + 20


def _resized(
    rng: np.random.Generator, pixels: Pixels, alpha: Mask, height: int, width: int
) -> tuple[Canvas, Mask]:
    how = cv2.INTER_AREA if pixels.shape[0] > height else cv2.INTER_LINEAR
    colours = cv2.resize(pixels.astype(np.float32), (width, height), interpolation=how)
    soft = cv2.resize(alpha, (width, height), interpolation=how)
    colours = colours * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    if rng.random() < 0.5:
        colours, soft = colours[:, ::-1], soft[:, ::-1]
    return f32(colours), f32(soft)


def _lay(canvas: Canvas, colours: Canvas, alpha: Mask, left: int, top: int) -> Mask:
    """Lay a patch over the part of the canvas that it meets; return its opacity there."""
    whole = np.zeros(canvas.shape[:2], np.float32)
    y, x = max(0, top), max(0, left)
    bottom, right = min(canvas.shape[0], top + alpha.shape[0]), min(canvas.shape[1], left + alpha.shape[1])
    if bottom <= y or right <= x:
        return whole
    part = (slice(y - top, bottom - top), slice(x - left, right - left))
    paint(canvas[y:bottom, x:right], colours[part], alpha[part])
    whole[y:bottom, x:right] = alpha[part]
    return whole


def _plume(
    rng: np.random.Generator, x: float, y: float, size: float, height: int, width: int
) -> tuple[Mask, Mask]:
    """Give how thick smoke is and how bright: a column that widens, leans and billows as it rises."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    scale = max(size, height * 0.06) * float(rng.uniform(0.8, 2))
    billows = noise(rng, height, width, float(np.clip(height / scale, 1.5, 10)), 5)
    up = np.clip((y - rows) / scale, 0, None)
    lean = float(rng.normal(0, 0.5))
    middle = x + scale * lean * up ** float(rng.uniform(0.9, 1.4))
    half = scale * (float(rng.uniform(0.25, 0.6)) + float(rng.uniform(0.1, 0.5)) * up)
    body = np.clip((1.1 - np.abs(columns - middle) / half + (billows - 0.5) * 3.2) * 1.6, 0, 1)
    fade = np.clip(1 - up / float(rng.uniform(2.5, 14)), 0, 1) ** 0.7
    # Smoke begins at an uneven height, not along a line.
    fade *= np.clip((y - rows + (billows - 0.6) * scale * 0.8) / (2 + 0.3 * scale), 0, 1)
    light_from_above = cv2.GaussianBlur(billows, (0, 0), 1.2) - cv2.GaussianBlur(
        np.roll(billows, 4, axis=0), (0, 0), 1.5
    )
    return f32(body * fade), f32(0.85 + 0.35 * billows + 0.9 * light_from_above)


def _lay_smoke(
    rng: np.random.Generator,
    canvas: Canvas,
    stage: Stage,
    thick: Mask,
    shade: Mask,
    hue: NDArray[np.float32] | None,
    foot: float,
) -> Mask:
    """Paint smoke, lit from below where there is fire; return its opacity where it is to be seen."""
    before, opacity = canvas.copy(), f32(thick * float(rng.uniform(0.45 if hue is not None else 0.65, 1)))
    grey = float(rng.choice([35.0, 85.0, 150.0, 205.0])) * (0.15 + 0.85 * stage.ambient)
    cast = rng.choice(f32(_CASTS))
    colour = grey * shade[..., None] * cast
    if hue is not None:
        height = canvas.shape[0]
        near = np.exp(
            -3 * np.clip(foot - np.arange(height), 0, None) / (height * float(rng.uniform(0.1, 0.8)))
        )
        colour = colour + near[:, None, None] * hue * float(rng.uniform(30, 150))
    paint(canvas, f32(colour), opacity)
    # Smoke that has the colour of what is behind it cannot be seen, however thick it is.
    contrast = cv2.blur(np.abs(canvas - before).mean(axis=2), (5, 5))
    return f32(opacity * (contrast > _LEAST_CONTRAST))
