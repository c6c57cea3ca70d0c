"""Renders outdoor scenes, with and without a fire, for the demo: seeded, and nobody's property.

A scene with flames and one without come from the same distribution of skies, hills, autumn trees, red
roofs, low suns, lamps and lit windows, so that "orange means fire" is not enough to tell them apart.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import Frame, Pixels
from edgecnn.errors import DataError
from edgecnn.workstation.data.catalog import in_threads
from edgecnn.workstation.data.paint import (
    Canvas,
    Mask,
    add_disc,
    add_glow,
    f32,
    filled,
    noise,
    noise_tile,
    paint,
    sample,
)

CLASSES = ("fire", "no_fire")
SPLITS = ("train", "val", "test")

_FULL_FIRE_AFTER_S = 1.5
_FLAME_SPEED = 1.1  # flame heights per second: a small open fire flickers at a few hertz
_SMOKE_SPEED = 0.12

# From the rim of a flame to its core.
_FLAME_COLOURS = np.array(
    [[90, 12, 4], [196, 40, 8], [245, 98, 14], [255, 160, 38], [255, 214, 96], [255, 246, 205]], np.float32
)


@dataclass(frozen=True, slots=True)
class Light:
    """A time of day.

    Attributes:
        top: Colour of the sky overhead.
        low: Colour of the sky at the horizon.
        ambient: How bright everything else is, 0 to 1.
        tint: What the light does to colours.
    """

    top: tuple[int, int, int]
    low: tuple[int, int, int]
    ambient: float
    tint: tuple[float, float, float]


_LIGHTS = {
    "day": Light((70, 130, 205), (190, 215, 235), 1.0, (1.0, 1.0, 0.97)),
    "overcast": Light((150, 158, 168), (205, 208, 210), 0.8, (0.96, 0.98, 1.0)),
    "dusk": Light((62, 66, 120), (250, 150, 70), 0.5, (1.1, 0.88, 0.8)),
    "night": Light((8, 11, 28), (30, 34, 58), 0.16, (0.85, 0.95, 1.25)),
}


@dataclass(frozen=True, slots=True)
class _Fire:
    """Where a fire stands and how it looks.

    Attributes:
        x: Of its foot, as a share of the width.
        y: Of its foot, as a share of the height.
        height: Of the flames, as a share of the picture's height.
        width: Likewise.
        tongues: For each: place across the fire, relative height, relative width.
        smoke: How thick the smoke is, 0 to 1.
        smoke_grey: How bright it is, in byte values.
        wind: How far the smoke leans, in flame heights; right is positive.
        seed: Of the flicker.
    """

    x: float
    y: float
    height: float
    width: float
    tongues: tuple[tuple[float, float, float], ...]
    smoke: float
    smoke_grey: float
    wind: float
    seed: int


def render_scene(rng: np.random.Generator, flames: bool, height_px: int, width_px: int) -> Pixels:
    """Render a still picture.

    Args:
        rng: Where chance comes from; the same generator gives the same picture.
        flames: Whether something burns.
        height_px: At least 16, to show anything.
        width_px: Likewise.

    Returns:
        Shape (height_px, width_px, 3), uint8, red first.

    Example:
        >>> render_scene(np.random.default_rng(1), flames=True, height_px=48, width_px=64).shape
        (48, 64, 3)
    """
    canvas, light = render_background(rng, height_px, width_px)
    # Drawn for a calm scene too: the same generator gives the same scene, with the fire and without.
    fire, at_s = _draw_fire(rng), float(rng.uniform(0, 60))
    if flames:
        canvas = _burn(canvas, fire, light.ambient, at_s, strength=1.0)
    return _expose(canvas, rng)


def render_clip(
    seed: int,
    seconds: float,
    frames_per_second: float,
    ignites_at_s: float,
    height_px: int,
    width_px: int,
) -> Iterator[Frame]:
    """Render what a steady camera sees while a fire starts.

    The fire depends on the time alone, so that a clip at 2 frames per second shows the same fire as one
    at 30.

    Args:
        seed: Of scene, fire and camera noise.
        seconds: Length of the clip.
        frames_per_second: Above 0.
        ignites_at_s: When the fire starts; it is full-grown 1.5 seconds later.
        height_px: Of a frame.
        width_px: Of a frame.

    Yields:
        Frames, the first at 0 seconds.

    Example:
        >>> [frame.captured_at_s for frame in render_clip(1, 1.0, 2.0, 0.5, 32, 32)]
        [0.0, 0.5]
    """
    rng = np.random.default_rng(seed)
    canvas, light = render_background(rng, height_px, width_px)
    fire = _draw_fire(rng)
    for index in range(round(seconds * frames_per_second)):
        at_s = index / frames_per_second
        strength = min(1.0, (at_s - ignites_at_s) / _FULL_FIRE_AFTER_S)
        burning = _burn(canvas, fire, light.ambient, at_s, strength) if strength > 0 else canvas
        pixels = _expose(burning, np.random.default_rng([seed, index]), exposure=1.0)
        yield Frame(pixels, at_s, index, f"rendered clip {seed}")


def write_pictures(
    folder: Path, per_class: int, seed: int, height_px: int = 128, width_px: int = 128
) -> None:
    """Render a data set ``<split>/<fire|no_fire>/NNNN.png``; it appears in one step, whole.

    Args:
        folder: Where to; pictures that an earlier call put there are replaced.
        per_class: Training pictures of each class; val and test get a quarter as many, at least one.
        seed: The same seed gives the same pictures; no split repeats another's.
        height_px: Of a picture.
        width_px: Likewise.

    Raises:
        DataError: If the folder holds other things, which would be lost, or cannot be written.
    """
    try:
        strange = sorted({entry.name for entry in folder.iterdir()} - set(SPLITS)) if folder.exists() else []
        if strange:
            raise DataError(
                f"'{folder}' holds '{strange[0]}', which is not of a rendered data set.",
                fix="Name a new or empty folder.",
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rendering-", dir=folder.parent) as temporary:
            draft = Path(temporary, "new")
            _write_splits(draft, per_class, seed, height_px, width_px)
            if folder.exists():
                os.replace(folder, Path(temporary, "old"))  # noqa: PTH105 - the pair of steps that swaps
            os.replace(draft, folder)  # noqa: PTH105
    except OSError as error:
        raise DataError(
            f"Pictures cannot be written to '{folder}': {error.strerror}.",
            fix="Check the path, the permissions and the free space.",
        ) from error


def _write_splits(folder: Path, per_class: int, seed: int, height_px: int, width_px: int) -> None:
    counts = {"train": per_class, "val": max(1, per_class // 4), "test": max(1, per_class // 4)}
    jobs = [
        (folder / split / name / f"{number:04d}.png", [seed, split_number, class_number, number])
        for split_number, split in enumerate(SPLITS)
        for class_number, name in enumerate(CLASSES)
        for number in range(counts[split])
    ]

    def write(job: tuple[Path, list[int]]) -> None:
        path, key = job
        has_flames = path.parent.name == CLASSES[0]
        pixels = render_scene(np.random.default_rng(key), has_flames, height_px, width_px)
        write_png(path, pixels)

    in_threads(write, jobs)


def write_png(path: Path, pixels: Pixels) -> None:
    """Write pixels, red first; the folder need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, code = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    path.write_bytes(code.tobytes())


# --- the scene -------------------------------------------------------------------------------------


def render_background(rng: np.random.Generator, height: int, width: int) -> tuple[Canvas, Light]:
    """Render scenery without camera and fire, and say at what time of day."""
    name = str(rng.choice(list(_LIGHTS), p=[0.35, 0.2, 0.2, 0.25]))
    light = _LIGHTS[name]
    horizon = height * float(rng.uniform(0.35, 0.65))
    canvas = _render_sky(rng, light, name, horizon, height, width)
    is_autumn = bool(rng.random() < 0.3)
    for layer in range(int(rng.integers(1, 4))):
        _add_hills(canvas, rng, light, horizon, distance=1 - layer / 3)
    _add_ground(canvas, rng, light, horizon, is_autumn)
    if rng.random() < 0.4:
        _add_road(canvas, rng, light, horizon)
    # Far things first, so that near ones cover them.
    things = [(float(rng.uniform(0.02, 0.55)), float(rng.random())) for _ in range(int(rng.integers(2, 9)))]
    for depth, kind in sorted(things):
        foot = horizon + depth * (height - horizon)
        size = height * (0.14 + 0.55 * depth)
        x = float(rng.uniform(0, width))
        if kind < 0.3:
            _add_house(canvas, rng, light, x, foot, size * 0.6)
        elif kind < 0.88:
            _add_tree(canvas, rng, light, x, foot, size, is_autumn)
        else:
            _add_lamp(canvas, rng, light, x, foot, size)
    return canvas, light


def _render_sky(
    rng: np.random.Generator, light: Light, name: str, horizon: float, height: int, width: int
) -> Canvas:
    t = np.clip(np.arange(height, dtype=np.float32) / max(horizon, 1), 0, 1)[:, None, None] ** 1.3
    shade = rng.uniform(0.85, 1.15, 3).astype(np.float32)
    sky = (f32(light.top) * (1 - t) + f32(light.low) * t) * shade
    canvas = np.ascontiguousarray(np.broadcast_to(sky, (height, width, 3)), np.float32)
    x, y = float(rng.uniform(0, width)), float(rng.uniform(0.05, 0.95) * horizon)
    radius = height * float(rng.uniform(0.02, 0.06))
    if name == "night":
        stars = (rng.random((height, width)) > 0.997).astype(np.float32) * rng.random(1).astype(np.float32)
        canvas += (stars * 120)[..., None]
        if rng.random() < 0.5:
            add_disc(canvas, x, y, radius, (225, 225, 210))
            add_glow(canvas, x, y, radius * 4, (90, 95, 110), 0.6)
    elif name != "overcast" and rng.random() < 0.6:
        y = y if name == "day" else horizon - radius * float(rng.uniform(-0.5, 4))
        colour = (255, 250, 225) if name == "day" else (255, 190, 90)
        add_glow(canvas, x, y, height * 0.5, (120, 100, 60) if name == "day" else (190, 80, 20), 0.8)
        add_disc(canvas, x, y, radius, colour)
    cover = float(rng.uniform(0.35, 0.75)) if name != "overcast" else 0.35
    clouds = np.clip((noise(rng, height, width, 3) - cover) * 4, 0, 1) * float(rng.uniform(0.3, 0.9))
    white = f32(light.low) * 0.5 + 127 * light.ambient
    paint(canvas, tuple(white * f32(light.tint)), clouds * (1 - 0.4 * t[..., 0]))
    return canvas


def _lit(light: Light, colour: tuple[float, ...] | NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(colour, np.float32) * f32(light.tint) * f32(light.ambient)


def _add_hills(
    canvas: Canvas, rng: np.random.Generator, light: Light, horizon: float, distance: float
) -> None:
    height, width = canvas.shape[:2]
    rise = height * float(rng.uniform(0.05, 0.3)) * (0.4 + 0.6 * distance)
    ridge = horizon + 2 - rise * noise(rng, 2, width, float(rng.uniform(0.02, 0.06)), 5)[0]
    rows = np.arange(height, dtype=np.float32)[:, None]
    mask = np.clip(rows - ridge[None], 0, 1).astype(np.float32)
    near = _lit(light, rng.choice(f32([[60, 85, 50], [95, 95, 70], [80, 75, 70]])))
    haze = f32(light.low) * 0.85  # air scatters the light of the horizon into far hills
    colour = near * (1 - 0.7 * distance) + haze * 0.7 * distance
    texture = 0.85 + 0.3 * noise(rng, height, width, 12, 3)
    paint(canvas, texture[..., None] * colour, mask)


def _add_ground(
    canvas: Canvas, rng: np.random.Generator, light: Light, horizon: float, is_autumn: bool
) -> None:
    height, width = canvas.shape[:2]
    choices = [[92, 118, 58], [128, 122, 72], [150, 132, 98], [112, 110, 106], [225, 228, 235]]
    base = f32(choices[int(rng.integers(len(choices)))])
    if is_autumn and rng.random() < 0.5:
        base = f32([158, 106, 52])
    rows = np.arange(height, dtype=np.float32)[:, None]
    texture = 0.65 + 0.7 * noise(rng, height, width, 10, 5)
    near = 0.8 + 0.3 * np.clip((rows - horizon) / max(height - horizon, 1), 0, 1)
    mask = np.broadcast_to(np.clip(rows - horizon, 0, 1), (height, width))
    paint(canvas, _lit(light, base) * (texture * near)[..., None], np.asarray(mask, np.float32))


def _add_road(canvas: Canvas, rng: np.random.Generator, light: Light, horizon: float) -> None:
    height, width = canvas.shape[:2]
    far, near = float(rng.uniform(0.2, 0.8)) * width, float(rng.uniform(0.1, 0.9)) * width
    half = float(rng.uniform(0.12, 0.3)) * width
    corners = [(far - 1, horizon), (far + 1, horizon), (near + half, height), (near - half, height)]
    grey = float(rng.uniform(70, 120))
    paint(canvas, tuple(_lit(light, (grey, grey, grey + 4))), filled(canvas, corners))


def _add_house(
    canvas: Canvas, rng: np.random.Generator, light: Light, x: float, foot: float, size: float
) -> None:
    wall = rng.choice(f32([[205, 195, 175], [160, 95, 75], [225, 225, 220], [150, 150, 150]]))
    roof = rng.choice(f32([[150, 62, 42], [85, 70, 62], [70, 75, 85]]))
    half, top = size * float(rng.uniform(0.5, 1.0)), foot - size * float(rng.uniform(0.5, 1.1))
    eaves = half * 1.12
    ridge = top - size * float(rng.uniform(0.2, 0.5))
    box = [(x - half, foot), (x - half, top), (x + half, top), (x + half, foot)]
    paint(canvas, tuple(_lit(light, wall)), filled(canvas, box))
    gable = float(rng.uniform(0, 0.6)) * half
    cap = [(x - eaves, top), (x - gable, ridge), (x + gable, ridge), (x + eaves, top)]
    paint(canvas, tuple(_lit(light, roof)), filled(canvas, cap))
    is_evening = light.ambient < 0.6
    pane = half * 0.16
    for row in range(1 + int(foot - top > size * 0.8)):
        for column in (-0.6, 0.0, 0.6):
            is_on = is_evening and rng.random() < 0.5
            colour = (255, 205, 120) if is_on else tuple(_lit(light, (70, 85, 105)))
            cx, cy = x + column * half, top + (foot - top) * (0.35 + 0.42 * row)
            corners = [
                (cx - pane, cy - pane),
                (cx + pane, cy - pane),
                (cx + pane, cy + pane),
                (cx - pane, cy + pane),
            ]
            paint(canvas, colour, filled(canvas, corners))
            if is_on:
                add_glow(canvas, cx, cy, pane * 5, (110, 75, 25), 0.5)


def _add_tree(
    canvas: Canvas,
    rng: np.random.Generator,
    light: Light,
    x: float,
    foot: float,
    size: float,
    is_autumn: bool,
) -> None:
    trunk = size * 0.04
    stem = [
        (x - trunk, foot),
        (x - trunk, foot - size * 0.5),
        (x + trunk, foot - size * 0.5),
        (x + trunk, foot),
    ]
    paint(canvas, tuple(_lit(light, (82, 62, 45))), filled(canvas, stem))
    greens = f32([[52, 88, 42], [70, 105, 50], [40, 70, 45]])
    autumn = f32([[205, 105, 30], [190, 70, 28], [215, 160, 45]])
    is_fir = not is_autumn and rng.random() < 0.5
    colour = rng.choice(autumn if is_autumn and rng.random() < 0.7 else greens)
    leaves = 0.55 + 0.8 * noise(rng, canvas.shape[0], canvas.shape[1], cells=22, octaves=2)
    foliage = _lit(light, colour) * leaves[..., None]
    if is_fir:
        for step in range(4):
            top, half = foot - size * (1 - 0.18 * step), size * (0.1 + 0.06 * step)
            tier = [(x, top), (x + half, top + size * 0.34), (x - half, top + size * 0.34)]
            paint(canvas, foliage, filled(canvas, tier))
        return
    angles = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    for _ in range(4):
        radius = size * float(rng.uniform(0.16, 0.26))
        cx, cy = x + size * float(rng.uniform(-0.16, 0.16)), foot - size * float(rng.uniform(0.55, 0.8))
        rough = radius * (1 + 0.18 * rng.standard_normal(angles.size))
        paint(
            canvas,
            foliage,
            filled(canvas, np.stack([cx + rough * np.cos(angles), cy + rough * np.sin(angles)], 1)),
        )


def _add_lamp(
    canvas: Canvas, rng: np.random.Generator, light: Light, x: float, foot: float, size: float
) -> None:
    thin = max(0.6, size * 0.015)
    top = foot - size
    pole = [(x - thin, foot), (x - thin, top), (x + thin, top), (x + thin, foot)]
    paint(canvas, tuple(_lit(light, (70, 72, 76))), filled(canvas, pole))
    if light.ambient < 0.6:
        is_sodium = rng.random() < 0.6
        colour = (255, 165, 60) if is_sodium else (235, 235, 255)
        add_glow(canvas, x, top, size * 0.35, colour, 0.9)
        add_disc(canvas, x, top, max(1.2, size * 0.035), colour)


# --- fire and smoke --------------------------------------------------------------------------------


def _draw_fire(rng: np.random.Generator) -> _Fire:
    height = float(rng.uniform(0.16, 0.5))
    count = int(rng.integers(2, 6))
    tongues = tuple(
        (float(rng.uniform(-0.75, 0.75)), float(rng.uniform(0.45, 1.0)), float(rng.uniform(0.3, 0.6)))
        for _ in range(count)
    )
    return _Fire(
        x=float(rng.uniform(0.15, 0.85)),
        y=float(rng.uniform(0.62, 0.95)),
        height=height,
        width=height * float(rng.uniform(0.5, 1.3)),
        tongues=((0.0, 1.0, 0.6), *tongues),
        smoke=float(rng.uniform(0.1, 0.95)),
        smoke_grey=float(rng.choice([45.0, 110.0, 190.0])),
        wind=float(rng.uniform(-1.2, 1.2)),
        seed=int(rng.integers(2**31)),
    )


def _burn(canvas: Canvas, fire: _Fire, ambient: float, at_s: float, strength: float) -> Canvas:
    """Lay smoke, then the light of the fire, then flames over a scene."""
    height, width = canvas.shape[:2]
    flame = _flame(fire, at_s, strength, height, width)
    burning = canvas.copy()
    smoke, shade = _smoke(fire, at_s, strength, height, width)
    grey = fire.smoke_grey * (0.35 + 0.65 * ambient)
    near = np.exp(-4 * np.clip(fire.y * height - np.arange(height), 0, None) / (fire.height * height))
    warm = near[:, None, None].astype(np.float32) * f32([120, 55, 15])
    paint(burning, grey * shade[..., None] + warm, smoke)
    # Fire lights its surroundings; by day the sun drowns that.
    spread = fire.height * height
    pulse = 0.85 + 0.15 * float(np.sin(at_s * 9.1) * np.sin(at_s * 5.3 + fire.seed % 7))
    power = strength * pulse * (0.35 + 0.5 * (1 - ambient))
    add_glow(burning, fire.x * width, fire.y * height - spread * 0.3, spread * 2.2, (150, 68, 16), power)
    position = np.clip(flame, 0, 1) * (len(_FLAME_COLOURS) - 1)
    lower = np.minimum(position.astype(np.int32), len(_FLAME_COLOURS) - 2)
    part = (position - lower)[..., None]
    colours = _FLAME_COLOURS[lower] * (1 - part) + _FLAME_COLOURS[lower + 1] * part
    paint(burning, colours, np.clip(flame * 3.5, 0, 1))
    return burning


def _flame(fire: _Fire, at_s: float, strength: float, height: int, width: int) -> Mask:
    """Give the heat of the flames: teardrops whose rims rising noise bends and tears, more so high up."""
    rng = np.random.default_rng(fire.seed)
    bend, tear = (noise_tile(rng, cells) for cells in (4, 9))
    tall = fire.height * height * (0.25 + 0.75 * strength)
    wide = fire.width * height * (0.4 + 0.6 * strength) / 2
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    v = (fire.y * height - rows) / tall
    u = (columns - fire.x * width) / wide
    rise = at_s * _FLAME_SPEED
    heat = np.zeros((height, width), np.float32)
    for number, (place, relative_height, relative_width) in enumerate(fire.tongues):
        up = v / relative_height
        sway = (sample(bend, u * 0.35 + number * 0.37, up - rise * 0.9) - 0.5) * 1.1 * np.clip(up, 0, 1)
        profile = relative_width * np.sqrt(np.clip(up + 0.12, 0, 1)) * np.clip(1 - up, 0, 1) ** 0.8 * 1.9
        across = np.abs(u - place + sway) / np.maximum(profile, 1e-3)
        torn = (sample(tear, u * 0.6 + number * 0.21, up * 0.8 - rise * 1.3) - 0.5) * (
            0.5 + 1.5 * np.clip(up, 0, 1)
        )
        body = np.clip(1.25 - across + torn, 0, 1) * np.clip(1.15 - up * 0.75, 0, 1)
        heat = np.maximum(heat, np.where((up > -0.1) & (up < 1), body, 0))
    foot = np.clip(1 + v * 14, 0, 1)  # flames leave the ground without an edge
    return np.asarray(heat * foot * min(1.0, 0.4 + strength), np.float32)


def _smoke(fire: _Fire, at_s: float, strength: float, height: int, width: int) -> tuple[Mask, Mask]:
    """Give how thick the smoke is, and how bright: a plume that widens, leans and billows."""
    rng = np.random.default_rng([fire.seed, 1])
    billows = noise_tile(rng, 5)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    up = (fire.y * height - rows) / (fire.height * height)
    middle = fire.x * width + fire.wind * fire.height * height * np.clip(up, 0, None) ** 1.4 * 0.5
    half = fire.width * height * (0.3 + 0.38 * np.clip(up, 0, None))
    across = (columns - middle) / half
    rise = at_s * _SMOKE_SPEED
    puffs = sample(billows, across * 0.22, up * 0.22 - rise) * 0.65
    puffs += sample(billows, across * 0.55 + 0.5, up * 0.55 - rise * 2) * 0.35
    body = np.clip(1.25 - np.abs(across) + (puffs - 0.5) * 2.2, 0, 1)
    thin = np.clip(1.25 - up / 4.5, 0, 1) * np.clip(up * 2.5, 0, 1)
    return np.asarray(body * thin * fire.smoke * strength, np.float32), np.asarray(
        0.7 + 0.6 * puffs, np.float32
    )


def _expose(canvas: Canvas, rng: np.random.Generator, exposure: float | None = None) -> Pixels:
    """Do what a small camera does: expose, vignette, soften, add noise, clip."""
    height, width = canvas.shape[:2]
    gain = float(rng.uniform(0.85, 1.15)) if exposure is None else exposure
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    vignette = f32((1 - 0.12 * (x**2 + y**2)) * gain)
    seen = f32(cv2.GaussianBlur(canvas * vignette[..., None], (0, 0), 0.5))
    seen += rng.standard_normal(seen.shape, np.float32) * 3
    return np.asarray(np.clip(np.rint(seen), 0, 255), np.uint8)
