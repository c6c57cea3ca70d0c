"""Varies a training picture as another day, camera and transmission would."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import Pixels
from edgecnn.workstation.recipe import Augment

Matrix = NDArray[np.float64]

_NOISE_LENGTH = 2**20
_JPEG_WORST, _JPEG_BEST = 30, 95
_SMALLEST_BLUR_PX = 0.2
_GREY = 128


Mask = NDArray[np.uint8]
"""What belongs to places of a picture, on a coarser grid: rows x columns x labels."""


def augment_picture(pixels: Pixels, augment: Augment, rng: np.random.Generator) -> Pixels:
    """Vary one picture: place, then colour, then what lens, sensor and transmission add.

    Every number is drawn from ``rng`` in a fixed order, so the same generator gives the same picture.
    OpenCV lets go of the GIL, so that threads do this in parallel.

    Args:
        pixels: Shape (height, width, 1 or 3), uint8.
        augment: How far; zeros leave the picture alone.
        rng: Where chance comes from.

    Returns:
        The same shape, uint8.

    Example:
        >>> same = augment_picture(np.full((2, 2, 3), 7, np.uint8), Augment(), np.random.default_rng(1))
        >>> same.ravel().tolist()
        [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]
    """
    return augment_with(pixels, (), augment, rng)[0]


def augment_with(
    pixels: Pixels, masks: Sequence[Mask], augment: Augment, rng: np.random.Generator
) -> tuple[Pixels, tuple[Mask, ...]]:
    """Vary one picture as ``augment_picture`` does, and move its masks to where their places have gone."""
    shape = pixels.shape
    matrix = _placement(shape[0], shape[1], augment, rng)
    if matrix is not None:
        masks = tuple(_warp(mask, _on_grid(matrix, shape, mask.shape)).reshape(mask.shape) for mask in masks)
        pixels = _warp(pixels, matrix).reshape(shape)
    for change in (_recolour, _expose, _lose_colour, _shrink, _smear, _blur, _add_noise, _compress, _erase):
        pixels = change(pixels, augment, rng).reshape(shape)
    return pixels, tuple(masks)


def _between(rng: np.random.Generator, largest: float) -> float:
    return float(rng.uniform(-largest, largest)) if largest else 0.0


def _placement(height: int, width: int, augment: Augment, rng: np.random.Generator) -> Matrix | None:
    """Draw flip, turn, zoom, shift and crop as one map, so that pixels are interpolated once.

    Returns:
        From old to new places of pixel centres, shape (2, 3); none if nothing moves.
    """
    is_flipped = augment.flip and rng.random() < 0.5
    angle = np.deg2rad(_between(rng, augment.rotate_degrees))
    scale = 1 + _between(rng, augment.zoom)
    shift_x, shift_y = (_between(rng, augment.shift) * side for side in (width, height))
    window = _window(augment.crop, rng)
    if not (is_flipped or angle or scale != 1 or shift_x or shift_y or window):
        return None
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if is_flipped else 1.0, 1.0])
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.column_stack([turn, centre + np.array([shift_x, shift_y]) - turn @ centre])
    if window:
        left, top, across, down = window
        enlarge = np.diag([1 / across, 1 / down])
        matrix[:, 2] -= np.array([left * width - 0.5, top * height - 0.5])
        matrix = enlarge @ matrix
        matrix[:, 2] -= 0.5
    return matrix


def _window(least_share: float, rng: np.random.Generator) -> tuple[float, float, float, float] | None:
    """Draw a cut-out: left, top, width and height as shares of the sides.

    Source: C. Szegedy et al., "Going Deeper with Convolutions", CVPR 2015: area uniform, aspect 3/4 to 4/3.
    """
    if not least_share:
        return None
    area = float(rng.uniform(least_share, 1))
    aspect = float(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
    across, down = min(1.0, (area * aspect) ** 0.5), min(1.0, (area / aspect) ** 0.5)
    return float(rng.uniform(0, 1 - across)), float(rng.uniform(0, 1 - down)), across, down


def _warp(pixels: NDArray[np.uint8], matrix: Matrix) -> NDArray[np.uint8]:
    """Move pixels; mirrored borders, because black corners would be a mark that no camera leaves."""
    height, width = pixels.shape[:2]
    if np.array_equal(matrix, [[-1, 0, width - 1], [0, 1, 0]]):
        return np.asarray(cv2.flip(pixels, 1), np.uint8)
    return np.asarray(
        cv2.warpAffine(
            pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        ),
        np.uint8,
    )


def _on_grid(matrix: Matrix, shape: tuple[int, ...], grid: tuple[int, ...]) -> Matrix:
    """Change a map of a picture's pixels into that of the cells of a grid over it."""
    to_cells = np.array([grid[1] / shape[1], grid[0] / shape[0]])
    # The centre of the first pixel lies half a pixel from the corner, that of the first cell half a cell.
    to_pixels, half = 1 / to_cells, np.array([0.5, 0.5])
    linear = to_cells[:, None] * matrix[:, :2] * to_pixels[None, :]
    first = matrix[:, :2] @ (half * to_pixels - half) + matrix[:, 2]
    return np.column_stack([linear, (first + half) * to_cells - half])


def _recolour(pixels: Pixels, augment: Augment, rng: np.random.Generator) -> Pixels:
    """Change contrast, brightness, saturation and hue by one affine map of the colours."""
    brightness = 1 + _between(rng, augment.brightness)
    contrast = 1 + _between(rng, augment.contrast)
    saturation = 1 + _between(rng, augment.saturation)
    hue = np.deg2rad(_between(rng, augment.hue_degrees))
    if brightness == contrast == saturation == 1 and not hue:
        return pixels
    gain = brightness * contrast
    mean = float(np.mean(cv2.mean(pixels)[: pixels.shape[2]])) * brightness
    bias = mean * (1 - contrast)
    if pixels.shape[2] == 1 or (saturation == 1 and not hue):
        table = np.clip(np.arange(256) * gain + bias, 0, 255).round().astype(np.uint8)
        return np.asarray(cv2.LUT(pixels, table), np.uint8)
    matrix = np.column_stack([_turn_colours(saturation, hue) * gain, np.full(3, bias)])
    return np.asarray(cv2.transform(pixels, matrix), np.uint8)


def _turn_colours(saturation: float, hue: float) -> NDArray[np.float64]:
    """Scale and turn chroma in YIQ, leaving luma alone.

    Source: the NTSC's YIQ matrix, as in ITU-R BT.470 and Python's ``colorsys``.
    """
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    cos, sin = saturation * np.cos(hue), saturation * np.sin(hue)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return np.asarray(np.linalg.inv(to_yiq) @ turn @ to_yiq)


def _expose(pixels: Pixels, augment: Augment, rng: np.random.Generator) -> Pixels:
    """Change gamma and the gains of red and blue, as exposure and white balance do."""
    if not (augment.exposure or augment.white_balance):
        return pixels
    gamma = np.exp(_between(rng, augment.exposure))
    red, blue = (np.exp(_between(rng, augment.white_balance)) for _ in range(2))
    light = (np.arange(256) / 255) ** gamma * 255
    gains = np.array([red, 1.0, blue]) if pixels.shape[2] == 3 else np.ones(1)
    table = np.clip(light[:, None] * gains, 0, 255).round().astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, table[None]), np.uint8)


def _lose_colour(pixels: Pixels, augment: Augment, rng: np.random.Generator) -> Pixels:
    """Mix the channels into one, by chance: what a sensor sees of infrared light is not the luma."""
    if not augment.grey or pixels.shape[2] == 1 or rng.random() >= augment.grey:
        return pixels
    mix = np.tile(rng.dirichlet(np.ones(3)), (3, 1))
    return np.asarray(cv2.transform(pixels, mix), np.uint8)


def _shrink(pixels: Pixels, augment: Augment, rng: np.random.Generator) -> Pixels:
    if not augment.shrink:
        return pixels
    scale = 1 - float(rng.uniform(0, augment.shrink))
    height, width = pixels.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _smear(pixels: Pixels, augment: Augment, rng: np.random.Generator) -> Pixels:
    """Average along a straight way, as while the shutter is open."""
    length_px = float(rng.uniform(0, augment.motion_px)) if augment.motion_px else 0.0
    angle = float(rng.uniform(0, np.pi)) if augment.motion_px else 0.0
    if length_px < 1:
        return pixels
    radius = int(np.ceil(length_px / 2))
    along = np.linspace(-length_px / 2, length_px / 2, 4 * radius + 1)
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    rows = np.rint(radius + along * np.sin(angle)).astype(int)
    columns = np.rint(radius + along * np.cos(angle)).astype(int)
    np.add.at(kernel, (rows, columns), 1 / len(along))
    return np.asarray(cv2.filter2D(pixels, -1, kernel), np.uint8)


def _blur(pixels: Pixels, augment: Augment, rng: np.random.Generator) -> Pixels:
    sigma_px = float(rng.uniform(0, augment.blur_px)) if augment.blur_px else 0.0
    if sigma_px < _SMALLEST_BLUR_PX:  # below this the kernel is one pixel
        return pixels
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma_px), np.uint8)


def _add_noise(pixels: Pixels, augment: Augment, rng: np.random.Generator) -> Pixels:
    """Add a stretch, at a random place, of a long tape of noise: drawing it anew costs ten times as much."""
    if not augment.noise:
        return pixels
    sigma = float(rng.uniform(0, augment.noise))
    tape = _noise_tape(_NOISE_LENGTH + pixels.size)
    start = int(rng.integers(_NOISE_LENGTH))
    stretch = tape[start : start + pixels.size].reshape(pixels.shape)
    noisy = cv2.scaleAdd(stretch, sigma, pixels.astype(np.float32))
    return np.asarray(cv2.convertScaleAbs(np.maximum(noisy, 0, out=noisy)), np.uint8)


@functools.lru_cache(maxsize=4)
def _noise_tape(length: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(length, np.float32)


def _compress(pixels: Pixels, augment: Augment, rng: np.random.Generator) -> Pixels:
    if not augment.jpeg or rng.random() < 0.5:
        return pixels
    quality = int(rng.integers(_JPEG_WORST, _JPEG_BEST, endpoint=True))
    if pixels.shape[2] == 1:
        return _through_jpeg(pixels, quality, cv2.IMREAD_GRAYSCALE)
    # OpenCV takes blue first, and JPEG keeps less of blue than of red.
    blue_first = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
    decoded = _through_jpeg(blue_first, quality, cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def _through_jpeg(pixels: Pixels, quality: int, flag: int) -> Pixels:
    _, code = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(code, flag), np.uint8)


def _erase(pixels: Pixels, augment: Augment, rng: np.random.Generator) -> Pixels:
    """Cover a rectangle, as a leaf before the lens would.

    Source: Z. Zhong et al., Random Erasing Data Augmentation, AAAI 2020 (aspect ratio 0.3 to 3.3).
    """
    if not augment.erase:
        return pixels
    height, width = pixels.shape[:2]
    area = float(rng.uniform(0, augment.erase)) * height * width
    aspect = float(np.exp(rng.uniform(np.log(0.3), np.log(3.3))))
    box_height = min(height, round((area * aspect) ** 0.5))
    box_width = min(width, round((area / aspect) ** 0.5))
    top = int(rng.integers(height - box_height, endpoint=True))
    left = int(rng.integers(width - box_width, endpoint=True))
    pixels = pixels.copy()
    pixels[top : top + box_height, left : left + box_width] = _GREY
    return pixels
