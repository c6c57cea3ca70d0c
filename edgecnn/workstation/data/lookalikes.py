"""Paints what only looks like fire or smoke: suns, lamps, red cloth, autumn leaves, fog and their like.

The pictures to train with and the pictures to test with come from two styles: other palettes, sizes and
counts, and kinds that the training never sees.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import Pixels
from edgecnn.errors import DataError
from edgecnn.workstation.data.flames import pasted
from edgecnn.workstation.data.paint import Canvas, Mask, add_disc, add_glow, f32, filled, noise, paint
from edgecnn.workstation.data.procedural import render_background, write_png
from edgecnn.workstation.data.staging import photograph, set_stage

Colour: TypeAlias = tuple[float, float, float]

_BACKDROPS = 40  # rendering one takes as long as painting five look-alikes
_STRESS_SEEDS = 2**32  # where they begin; recipes count theirs from 0


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


def lookalikes(
    count: int,
    seed: int,
    height_px: int,
    width_px: int,
    over: Sequence[Pixels] = (),
    style: Style = TRAINING,
) -> Iterator[tuple[Pixels, str]]:
    """Paint pictures in which nothing burns, one kind after the other.

    Args:
        count: How many.
        seed: The same seed gives the same pictures.
        height_px: Of a picture, at least 16.
        width_px: Likewise.
        over: Pictures without fire and smoke to paint into; without any, scenery is rendered.
        style: TRAINING, or TESTING with its further kinds.

    Yields:
        Pixels of shape (height_px, width_px, 3), and the kind, such as "sunset".

    Example:
        >>> [(pixels.shape, kind) for pixels, kind in lookalikes(2, seed=1, height_px=32, width_px=48)]
        [((32, 48, 3), 'sunset'), ((32, 48, 3), 'sun')]
    """
    painters = {**_PAINTERS, **(_UNSEEN_IN_TRAINING if style is TESTING else {})}
    kinds = list(painters)
    backdrop = cache(_backdrop)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        kind = kinds[number % len(kinds)]
        scenery = (
            over[int(rng.integers(len(over)))]
            if over
            else backdrop(seed, int(rng.integers(_BACKDROPS)), height_px, width_px)
        )
        stage = set_stage(rng, scenery, height_px, width_px, nights=0.3)
        canvas = stage.canvas.copy()
        painters[kind](rng, canvas, style)
        yield photograph(rng, stage.behind(canvas)), kind


def stress_set(
    count: int, seed: int, height_px: int = 160, width_px: int = 160
) -> Iterator[tuple[Pixels, str]]:
    """Paint the look-alikes that a model is tested with: never a picture that it can have been trained on.

    Args:
        count: How many.
        seed: The same seed gives the same pictures; no seed gives one of ``lookalikes``.
        height_px: Of a picture, at least 16.
        width_px: Likewise.

    Returns:
        Pixels of shape (height_px, width_px, 3), and the kind.

    Example:
        >>> sum(1 for _ in stress_set(3, seed=1, height_px=16, width_px=16))
        3
    """
    return lookalikes(count, seed + _STRESS_SEEDS, height_px, width_px, style=TESTING)


def write_stress_set(folder: Path, count: int, seed: int) -> None:
    """Write look-alikes as ``test/no_fire/<kind>-NNNN.png``; the folder appears in one step, whole.

    Fires and smoke stand beside them, a sixth as many of each: whoever never gives an alarm would pass
    otherwise. They show rendered scenery that burns as in ``flames.pasted``, from other seeds.

    Args:
        folder: Where to; must be new or empty.
        count: How many look-alikes.
        seed: See ``stress_set``.

    Raises:
        DataError: If the folder holds something, or cannot be written.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            raise DataError(f"'{folder}' holds something already.", fix="Name a new or empty folder.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rendering-", dir=folder.parent) as temporary:
            draft = Path(temporary, "new")
            for number, (pixels, kind) in enumerate(stress_set(count, seed)):
                write_png(draft / "test" / "no_fire" / f"{kind.replace(' ', '_')}-{number:04d}.png", pixels)
            for label in ("fire", "smoke"):
                for number, pixels in enumerate(_burning(label, max(1, count // 6), seed)):
                    write_png(draft / "test" / label / f"{number:04d}.png", pixels)
            os.replace(draft, folder)  # noqa: PTH105 - the step that makes it whole
    except OSError as error:
        raise DataError(
            f"Pictures cannot be written to '{folder}': {error.strerror}.",
            fix="Check the path, the permissions and the free space.",
        ) from error


def _burning(label: str, count: int, seed: int) -> Iterator[Pixels]:
    """Give pictures that show fire, or smoke and no fire."""
    scenery = [_backdrop(seed + _STRESS_SEEDS, number, 160, 160) for number in range(_BACKDROPS)]
    endless = pasted(scenery, sys.maxsize, seed + _STRESS_SEEDS)
    return islice((picture.pixels for picture in endless if picture.labels[0] == label), count)


def _backdrop(seed: int, number: int, height: int, width: int) -> Pixels:
    canvas, _ = render_background(np.random.default_rng([seed, number, 1]), height, width)
    return np.asarray(np.clip(canvas, 0, 255), np.uint8)


def _pick(rng: np.random.Generator, colours: Sequence[Colour], spread: float = 0.12) -> NDArray[np.float32]:
    """Draw one of the colours and vary each of its channels a little."""
    colour = f32(colours[int(rng.integers(len(colours)))])
    return f32(colour * rng.uniform(1 - spread, 1 + spread, 3))


def _place(
    rng: np.random.Generator, canvas: Canvas, low: float = 0.0, high: float = 1.0
) -> tuple[float, float]:
    """Draw x, and y between two shares of the height, in pixels."""
    height, width = canvas.shape[:2]
    return float(rng.uniform(0, width)), float(rng.uniform(low, high)) * height


def _make_night(rng: np.random.Generator, canvas: Canvas, to: float = 0.45) -> None:
    """Darken to what lamps stand out from, unless it is that dark already."""
    canvas *= min(1.0, float(rng.uniform(0.08, to)) * 110 / max(float(canvas.mean()), 1.0))


def _shine(
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


def _flare(
    rng: np.random.Generator, canvas: Canvas, x: float, y: float, length: float, colour: NDArray[np.float32]
) -> None:
    """Add the star that a stopped-down lens draws around a lamp."""
    light = np.zeros(canvas.shape[:2], np.uint8)
    points = int(rng.choice([4, 6, 8]))
    for angle in float(rng.uniform(0, np.pi)) + np.arange(points) * 2 * np.pi / points:
        end = (round((x + length * np.cos(angle)) * 16), round((y + length * np.sin(angle)) * 16))
        cv2.line(light, (round(x * 16), round(y * 16)), end, 255, 1, cv2.LINE_AA, 4)
    canvas += cv2.GaussianBlur(light, (0, 0), 0.7)[..., None] / 255 * colour * float(rng.uniform(0.3, 0.9))


def _box(x: float, y: float, half_width: float, half_height: float) -> list[tuple[float, float]]:
    return [
        (x - half_width, y - half_height),
        (x + half_width, y - half_height),
        (x + half_width, y + half_height),
        (x - half_width, y + half_height),
    ]


def _ellipse(canvas: Canvas, x: float, y: float, half_width: float, half_height: float) -> Mask:
    angles = np.linspace(0, 2 * np.pi, 32)
    return filled(canvas, np.stack([x + half_width * np.cos(angles), y + half_height * np.sin(angles)], 1))


# --- the sky ---------------------------------------------------------------------------------------


def _sunset(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    height, width = canvas.shape[:2]
    horizon = height * float(rng.uniform(0.4, 0.9))
    top, middle, low = (f32(colour) for colour in style.skies[int(rng.integers(len(style.skies)))])
    t = np.clip(np.arange(height, dtype=np.float32) / horizon, 0, 1)[:, None, None] ** float(
        rng.uniform(0.7, 2)
    )
    sky: NDArray[Any] = np.where(t < 0.5, top + (middle - top) * 2 * t, middle + (low - middle) * (2 * t - 1))
    clouds = _stretched_noise(rng, height, width, float(rng.uniform(1.5, 5)))
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
        _shine(light, x, y, height * float(rng.uniform(0.02, 0.09)), low, float(rng.uniform(0.8, 2)))
        add_glow(
            light, x, y, height * float(rng.uniform(0.3, 1)), tuple(middle), float(rng.uniform(0.2, 0.8))
        )
        paint(canvas, light, f32(above))
    if rng.random() < 0.5:  # the sea gives it back
        rows = np.arange(height, dtype=np.float32)[:, None]
        path = np.exp(
            -(((np.arange(width) - x) / (2 + 0.25 * np.clip(rows - horizon, 0, None) + 0.04 * width)) ** 2)
        )
        waves = _stretched_noise(rng, height, width, 9) ** 2 * 2
        canvas += (path * waves * (1 - above))[..., None] * low * float(rng.uniform(0.4, 1))


def _stretched_noise(rng: np.random.Generator, height: int, width: int, cells: float) -> Mask:
    """Give noise that is drawn out sideways, as clouds and waves are."""
    narrow = noise(rng, height, max(2, width // 4), cells)
    return f32(cv2.resize(narrow, (width, height), interpolation=cv2.INTER_LINEAR))


def _sun(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    height = canvas.shape[0]
    x, y = _place(rng, canvas, 0, 0.6)
    colour = _pick(rng, ((255, 250, 235), (255, 225, 160), style.lights[0]))
    canvas *= float(rng.uniform(0.4, 1))
    _shine(canvas, x, y, height * style.draw_size(rng) * 0.2, colour, float(rng.uniform(1, 3)))
    add_glow(canvas, x, y, height * float(rng.uniform(0.4, 1.5)), tuple(colour), float(rng.uniform(0.2, 0.8)))
    if rng.random() < 0.5:
        _flare(rng, canvas, x, y, height * float(rng.uniform(0.1, 0.5)), colour)
    for _ in range(int(rng.integers(0, 4))):  # ghosts that lenses draw on the line through the middle
        t = float(rng.uniform(0.6, 2))
        ghost = (x + (canvas.shape[1] / 2 - x) * t, y + (height / 2 - y) * t)
        radius = height * float(rng.uniform(0.01, 0.06))
        canvas += _ellipse(canvas, *ghost, radius, radius)[..., None] * _pick(rng, style.warm) * 0.3


def _clouds(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    height, width = canvas.shape[:2]
    billows = noise(rng, height, width, float(rng.uniform(1.5, 5)), 5)
    floor = float(rng.uniform(0.35, 0.9))
    fade = np.clip((floor - np.linspace(0, 1, height)[:, None]) * 6, 0, 1)
    body = np.clip((billows - float(rng.uniform(0.35, 0.5))) * float(rng.uniform(3, 8)), 0, 1) * fade
    relief = billows - cv2.GaussianBlur(np.roll(billows, -5, axis=0), (0, 0), 2)
    grey = float(rng.choice([70, 130, 190, 235])) * min(1.0, 0.3 + float(canvas.mean()) / 128)
    cast = f32([1, 1, 1]) if rng.random() < 0.7 else 0.5 + _pick(rng, style.warm) / 400
    paint(canvas, f32(grey * (1 + 1.2 * relief)[..., None] * cast), f32(body * float(rng.uniform(0.6, 1))))


def _fog(rng: np.random.Generator, canvas: Canvas, _style: Style) -> None:
    height, width = canvas.shape[:2]
    bank = float(rng.uniform(0.2, 0.8))
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    layer = np.exp(-(((rows - bank) / float(rng.uniform(0.1, 0.9))) ** 2))
    drift = 0.6 + 0.6 * _stretched_noise(rng, height, width, float(rng.uniform(1, 3)))
    grey = float(rng.uniform(120, 235)) * min(1.0, 0.25 + float(canvas.mean()) / 128)
    thick = np.clip(layer * drift * float(rng.uniform(0.6, 1.3)), 0, 0.97)
    paint(canvas, (grey, grey, grey * float(rng.uniform(1, 1.06))), f32(thick))


def _steam(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    """White wisps low over something, gone before they gather."""
    height, width = canvas.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(int(rng.integers(1, 4))):
        x, y = _place(rng, canvas, 0.4, 1)
        size = height * float(rng.uniform(0.5, 1)) * min(0.3, style.draw_size(rng))
        wisps = noise(rng, height, width, float(np.clip(height / size, 2, 12)), 3)
        squared = ((columns - x) / size) ** 2 + ((rows - y + size * 0.5) / (size * 0.7)) ** 2
        body = np.exp(-squared) * np.clip((wisps - 0.3) * 1.6, 0, 1) * float(rng.uniform(0.4, 0.9))
        paint(canvas, (235, 238, 240), f32(body * min(1.0, 0.3 + float(canvas.mean()) / 128)))


# --- lamps -----------------------------------------------------------------------------------------


def _headlights(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    _make_night(rng, canvas)
    height = canvas.shape[0]
    for _ in style.draw_many(rng):
        x, y = _place(rng, canvas, 0.4, 0.9)
        size = height * style.draw_size(rng) * 0.35
        colour = _pick(rng, style.lights[1:4])
        gap = size * float(rng.uniform(1.2, 2.5)) * (rng.random() < 0.85)
        for side in (-1, 1):
            _shine(canvas, x + side * gap, y, max(0.8, size * 0.25), colour, float(rng.uniform(0.8, 2.5)))
        wet = _ellipse(canvas, x, y + size * 1.8, gap + size, size * 0.8)
        canvas += (
            cv2.GaussianBlur(wet, (0, 0), max(1.0, size * 0.3))[..., None]
            * colour
            * float(rng.uniform(0, 0.6))
        )


def _brake_lights(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    if rng.random() < 0.7:
        _make_night(rng, canvas, 0.7)
    height = canvas.shape[0]
    for _ in style.draw_many(rng):
        x, y = _place(rng, canvas, 0.4, 0.95)
        size = height * min(0.4, style.draw_size(rng))
        body = float(rng.uniform(10, 120))
        paint(canvas, (body, body, body * 1.05), filled(canvas, _box(x, y, size * 0.9, size * 0.5)))
        red = _pick(rng, ((255, 25, 20), (255, 60, 40), (255, 110, 30)))
        for side in (-1, 1):
            lamp = filled(
                canvas, _box(x + side * size * 0.72, y, max(0.7, size * 0.12), max(0.7, size * 0.1))
            )
            paint(canvas, tuple(red * 1.1 + 25), lamp)
            _shine(
                canvas, x + side * size * 0.72, y, max(0.7, size * 0.12), red, float(rng.uniform(0.2, 1.2))
            )


def _street_lamps(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    _make_night(rng, canvas, 0.6)
    height, width = canvas.shape[:2]
    colour = _pick(rng, style.lights)
    x, y = _place(rng, canvas, 0.1, 0.5)
    step_x, step_y = float(rng.normal(0, 0.16)) * width, float(rng.uniform(0, 0.05)) * height
    size = height * style.draw_size(rng) * 0.12
    has_flare = rng.random() < 0.4
    for number in style.draw_many(rng):
        place = (x + step_x * number, y + step_y * number)
        near = size * 0.8**number
        paint(
            canvas,
            (18, 18, 20),
            filled(canvas, _box(place[0], place[1] + near * 8, max(0.5, near * 0.2), near * 8)),
        )
        _shine(canvas, *place, max(0.8, near), colour, float(rng.uniform(0.8, 2.2)))
        if has_flare:
            _flare(rng, canvas, *place, near * float(rng.uniform(3, 9)), colour)


def _lit_windows(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    _make_night(rng, canvas)
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
        share, colour = float(rng.uniform(0.2, 0.8)), _pick(rng, style.lights)
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
    _make_night(rng, canvas, 0.8)
    height = canvas.shape[0]
    x, y = _place(rng, canvas, 0.3, 0.9)
    size = height * style.draw_size(rng) * 0.12
    blue = _pick(rng, ((190, 215, 255), (225, 235, 255), (210, 255, 250)))
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
    canvas += (
        light[..., None] / f32(255) * _pick(rng, ((255, 190, 90), (255, 230, 180), (255, 140, 40))) * 1.2
    )
    _shine(canvas, x, y, max(1.0, size), blue, float(rng.uniform(1.5, 4)))
    if rng.random() < 0.5:
        _flare(rng, canvas, x, y, size * float(rng.uniform(3, 10)), blue)


def _neon(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    _make_night(rng, canvas)
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(1, 5))):
        light = np.zeros((height, width), np.uint8)
        x, y = _place(rng, canvas, 0.1, 0.8)
        size = height * style.draw_size(rng)
        bends = np.cumsum(rng.normal(0, 0.35, (int(rng.integers(3, 9)), 2)), axis=0) * size + (x, y)
        if rng.random() < 0.4:
            bends = np.asarray(_box(x, y, size * 0.6, size * 0.35))
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
        colour = _pick(rng, (*style.warm, (255, 40, 160), (60, 160, 255), (80, 255, 120)))
        tube = f32(light / 255)
        canvas += cv2.GaussianBlur(tube, (0, 0), 1.5 + size * 0.1)[..., None] * colour * 1.4
        paint(canvas, tuple(colour * 0.5 + 140), tube)


def _screen(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    _make_night(rng, canvas, 0.9)
    height, width = canvas.shape[:2]
    x, y = _place(rng, canvas, 0.25, 0.75)
    size = height * max(0.08, style.draw_size(rng)) * 0.6
    shape = np.asarray(_box(x, y, size * 0.9, size * 0.55)) + rng.normal(0, 0.04, (4, 2)) * size
    frame = filled(canvas, (shape - (x, y)) * 1.07 + (x, y))
    paint(canvas, (14, 14, 16), frame)
    show = noise(rng, height, width, float(np.clip(height / size, 1, 8)), 3)[..., None]
    colours = [
        _pick(rng, (*style.warm, (60, 120, 230), (60, 170, 80), (240, 240, 240), (20, 20, 40)))
        for _ in range(2)
    ]
    glass = filled(canvas, shape)
    paint(canvas, f32(colours[0] + (colours[1] - colours[0]) * np.clip(show * 3 - 1, 0, 1)), glass)
    canvas += cv2.GaussianBlur(glass, (0, 0), size * 0.4 + 1)[..., None] * colours[0] * 0.3


def _rain_on_the_lens(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    _make_night(rng, canvas, 0.7)
    height = canvas.shape[0]
    canvas[:] = cv2.GaussianBlur(canvas, (0, 0), height * float(rng.uniform(0.01, 0.04)) + 0.3)
    for _ in range(int(rng.integers(3, 16))):
        x, y = _place(rng, canvas, 0.1, 0.9)
        radius = height * float(rng.uniform(0.01, 0.07))
        colour = _pick(rng, (*style.lights, *style.lights, (255, 30, 20), (60, 255, 120)))
        disc = cv2.GaussianBlur(_ellipse(canvas, x, y, radius, radius), (0, 0), 0.8)
        canvas += disc[..., None] * colour * float(rng.uniform(0.2, 0.9))
    # A drop is a lens: it shows what lies behind it small and upside down.
    small = cv2.flip(canvas, -1)
    for _ in range(int(rng.integers(4, 20))):
        x, y = _place(rng, canvas)
        radius = height * float(rng.uniform(0.01, 0.05))
        drop = _ellipse(canvas, x, y, radius, radius * float(rng.uniform(1, 1.6)))
        paint(canvas, f32(small * float(rng.uniform(0.6, 1.5)) + 8), f32(drop * 0.8))


def _infrared(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    height, width = canvas.shape[:2]
    grey = canvas.mean(axis=2, keepdims=True)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    beam = np.exp(-float(rng.uniform(0.5, 2)) * (x**2 + y**2))[..., None]
    canvas[:] = f32(np.clip(grey * 0.7, 0, 160) * beam)
    for _ in style.draw_many(rng):
        place = _place(rng, canvas, 0.2, 0.95)
        size = height * min(0.3, style.draw_size(rng))
        if rng.random() < 0.5:
            _shine(canvas, *place, max(0.8, size * 0.2), f32([255, 255, 255]), float(rng.uniform(0.5, 2)))
        else:
            warm_body = _ellipse(canvas, *place, size * float(rng.uniform(0.2, 0.9)), size * 0.6)
            bright = float(rng.uniform(150, 255))
            paint(canvas, (bright,) * 3, f32(cv2.GaussianBlur(warm_body, (0, 0), 1 + size * 0.06)))


# --- things ----------------------------------------------------------------------------------------


def _brightness(canvas: Canvas) -> float:
    """Give the light that falls on a thing in this scenery, 0.1 to 1."""
    return float(np.clip(canvas.mean() / 110, 0.1, 1))


def _cloth(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    height, width = canvas.shape[:2]
    light = _brightness(canvas)
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    for _ in range(int(rng.integers(1, 4))):
        x, y = _place(rng, canvas, 0.1, 0.9)
        size = height * style.draw_size(rng)
        corners = np.asarray(_box(x, y, size * float(rng.uniform(0.3, 1)), size * 0.5))
        corners = np.concatenate([corners, [[x - size * 0.6, y]]]) + rng.normal(0, 0.12, (5, 2)) * size
        across = columns * float(rng.uniform(-1, 1)) + rows * float(rng.uniform(-0.5, 0.5))
        bent = across + 0.4 * size * noise(rng, height, width, float(np.clip(height / size, 1, 10)), 2)
        folds = 0.72 + 0.3 * np.sin(bent * 2 * np.pi / max(3.0, size * float(rng.uniform(0.15, 0.6))))
        paint(canvas, f32(_pick(rng, style.warm) * folds[..., None] * light), filled(canvas, corners))


def _car(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    height = canvas.shape[0]
    light = _brightness(canvas)
    for _ in range(int(rng.integers(1, 4))):
        x, y = _place(rng, canvas, 0.5, 0.92)
        size = height * max(0.06, style.draw_size(rng)) * 0.7
        colour = _pick(rng, style.warm) * light
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
    light = _brightness(canvas) * float(rng.uniform(0.7, 1.1))
    leaves = noise(rng, height, width, float(rng.uniform(8, 30)), 3)
    tones = noise(rng, height, width, float(rng.uniform(2, 8)), 3)[..., None]
    first, second = _pick(rng, style.warm), _pick(rng, (*style.warm, (120, 120, 40)))
    colours = (
        (first + (second - first) * np.clip(tones * 3 - 1, 0, 1)) * (0.35 + 1.1 * leaves[..., None]) * light
    )
    gaps = np.clip((leaves - float(rng.uniform(0.25, 0.42))) * 12, 0, 1)
    if rng.random() < 0.4:  # all around
        crowns = np.clip((noise(rng, height, width, 2, 3) - float(rng.uniform(0.1, 0.5))) * 8, 0, 1)
    else:
        crowns = np.zeros((height, width), np.float32)
        for _ in style.draw_many(rng):
            x, y = _place(rng, canvas, 0.1, 0.8)
            size = height * max(0.08, style.draw_size(rng)) * 0.5
            trunk = filled(canvas, _box(x, y + size, max(0.6, size * 0.07), size))
            paint(canvas, (60 * light, 45 * light, 35 * light), trunk)
            rough = size * (1 + 0.2 * rng.standard_normal(24))
            angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            crown = np.stack([x + rough * np.cos(angles), y + rough * np.sin(angles)], 1)
            crowns = np.maximum(crowns, filled(canvas, crown))
    paint(canvas, f32(colours), f32(crowns * gaps))


def _safety_orange(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    """Cones, vests, barriers and walls in the orange that is to be seen from afar."""
    height, width = canvas.shape[:2]
    light = _brightness(canvas)
    for _ in style.draw_many(rng):
        x, y = _place(rng, canvas, 0.3, 0.95)
        size = height * style.draw_size(rng)
        colour = _pick(rng, (style.warm[0], style.warm[2], (255, 95, 15))) * light
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
            paint(canvas, tuple(colour * 0.7), filled(canvas, _box(x, y, size * 0.42, size * 0.05)))
        elif kind < 0.75:
            paint(
                canvas,
                (40 * light, 42 * light, 60 * light),
                filled(canvas, _box(x, y, size * 0.22, size * 0.5)),
            )
            add_disc(canvas, x, y - size * 0.75, size * 0.15, (190 * light, 150 * light, 125 * light))
            paint(canvas, tuple(colour), filled(canvas, _box(x, y - size * 0.3, size * 0.27, size * 0.32)))
            for row in (-0.4, -0.15):
                paint(canvas, stripe, filled(canvas, _box(x, y + row * size, size * 0.27, size * 0.04)))
        else:
            grain = 0.85 + 0.3 * noise(rng, height, width, cells=12, octaves=3)[..., None]
            paint(
                canvas,
                f32(colour * grain),
                filled(canvas, _box(x, y, size * float(rng.uniform(0.5, 2)), size * 0.4)),
            )


# --- what only the test shows ----------------------------------------------------------------------


def _lanterns(rng: np.random.Generator, canvas: Canvas, _style: Style) -> None:
    """Paper lanterns on a string."""
    _make_night(rng, canvas, 0.6)
    height, width = canvas.shape[:2]
    y, sag = height * float(rng.uniform(0.1, 0.5)), height * float(rng.uniform(0, 0.3))
    size = height * float(rng.uniform(0.03, 0.12))
    colour = _pick(rng, ((255, 60, 30), (255, 150, 50), (255, 205, 120)))
    for place in np.linspace(0.05, 0.95, int(rng.integers(2, 9))):
        x, cy = width * place, y + sag * (1 - (2 * place - 1) ** 2)
        globe = _ellipse(canvas, x, cy, size * 0.8, size)
        ribs = 0.85 + 0.15 * np.cos((np.arange(height) - cy) * 2 * np.pi / max(2.0, size * 0.3))
        paint(canvas, f32(np.ones((1, width, 1)) * ribs[:, None, None] * colour), globe)
        add_glow(canvas, x, cy, size * 3, tuple(colour), 0.3)


def _heater(rng: np.random.Generator, canvas: Canvas, _style: Style) -> None:
    """The glowing bars of an electric heater."""
    _make_night(rng, canvas, 0.9)
    height = canvas.shape[0]
    x, y = _place(rng, canvas, 0.4, 0.85)
    size = height * float(rng.uniform(0.08, 0.35))
    paint(canvas, (45, 45, 48), filled(canvas, _box(x, y, size * 1.2, size * 0.8)))
    orange = _pick(rng, ((255, 95, 25), (255, 140, 50)))
    for bar in np.linspace(-0.55, 0.55, int(rng.integers(2, 5))):
        paint(
            canvas, tuple(orange * 1.1), filled(canvas, _box(x, y + bar * size, size, max(0.7, size * 0.06)))
        )
    add_glow(canvas, x, y, size * 2.5, tuple(orange), 0.35)
    for wire in np.linspace(-1, 1, 9):
        paint(canvas, (60, 60, 62), filled(canvas, _box(x + wire * size, y, 0.5, size * 0.8)))


def _glitter(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    """A low sun on water, broken into points."""
    height, width = canvas.shape[:2]
    canvas *= float(rng.uniform(0.2, 0.8))
    horizon = height * float(rng.uniform(0.1, 0.5))
    x, low = float(rng.uniform(0.2, 0.8)) * width, _pick(rng, [sky[2] for sky in style.skies])
    rows = np.arange(height, dtype=np.float32)[:, None]
    spread = width * float(rng.uniform(0.04, 0.2)) + 0.5 * np.clip(rows - horizon, 0, None)
    path = np.exp(-(((np.arange(width) - x) / spread) ** 2)) * (rows > horizon)
    points = rng.random((height, width), np.float32) < path * 0.3
    wide = cv2.GaussianBlur(points.astype(np.float32), (0, 0), sigmaX=1.2, sigmaY=0.5)
    canvas += wide[..., None] * low * float(rng.uniform(1.5, 4))


def _pumpkins(rng: np.random.Generator, canvas: Canvas, _style: Style) -> None:
    """A heap of orange fruit."""
    height, width = canvas.shape[:2]
    light = _brightness(canvas)
    size = height * float(rng.uniform(0.05, 0.2))
    top = float(rng.uniform(0.2, 0.8))
    colour = _pick(rng, ((240, 125, 25), (250, 165, 40), (225, 60, 35)))
    places = np.stack([rng.uniform(0, width, 20), rng.uniform(top, 1.05, 20) * height], 1)
    for x, y in places[np.argsort(places[:, 1])]:
        shade = colour * light * float(rng.uniform(0.75, 1.1))
        paint(canvas, tuple(shade * 0.6), _ellipse(canvas, x, y, size, size * 0.85))
        paint(
            canvas, tuple(shade), _ellipse(canvas, x - size * 0.1, y - size * 0.12, size * 0.8, size * 0.65)
        )


_PAINTERS: dict[str, Painter] = {
    "sunset": _sunset,
    "sun": _sun,
    "clouds": _clouds,
    "fog": _fog,
    "steam": _steam,
    "headlights": _headlights,
    "brake lights": _brake_lights,
    "street lamps": _street_lamps,
    "lit windows": _lit_windows,
    "welding": _welding,
    "neon": _neon,
    "screen": _screen,
    "rain on the lens": _rain_on_the_lens,
    "infrared": _infrared,
    "cloth": _cloth,
    "car": _car,
    "autumn": _autumn,
    "safety orange": _safety_orange,
}
_UNSEEN_IN_TRAINING: dict[str, Painter] = {
    "lanterns": _lanterns,
    "heater": _heater,
    "glitter": _glitter,
    "pumpkins": _pumpkins,
}
