"""Whether the picture can be trusted: frozen, covered, dark, over-exposed, or in wrong colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import Pixels

DETAILS: Final = {
    "frozen": "The picture does not change at all, not even by noise. Restart the camera.",
    "covered": "The picture shows almost no detail. Look whether something hangs or grows over the lens.",
    "dark": "The picture is black. Look at the lens cap, the light and the exposure.",
    "over-exposed": "Most of the picture is white. Look at the exposure, or turn the lens from the light.",
    "swapped": "Red and blue are exchanged against the last hour. Set the format of the source.",
}

LOOK_EVERY_S: Final = 0.1
"""Faults are told after seconds; a fast camera need not be tested at each frame to see them."""

_SIDE: Final = 96
"""A frame is judged by about so many rows of it; noise survives that, time does not matter."""

_DARK_LUMA: Final = 20
_LIGHT_SHARE: Final = 0.01
"""A black picture has fewer pixels than this that are not dark: a lamp far away, hot pixels."""
_LAMP_LUMA: Final = 64
"""By so much a far flame outshines the night: 12 painted ones, in pictures that are dark but for them, by 106
to 207; hot pixels behind a cap by 31 at most."""
_WHITE_LUMA: Final = 250
_WHITE_SHARE: Final = 0.7
_DETAIL: Final = 2.0
"""Mean absolute Laplacian of a 16 x 12 picture, in byte values. Smooth shade with the noise of a dark room
(a deviation of 4) has up to 1.5; of 900 photographs of scenes and fires all have more than 8, of 100
rendered scenes, moonless nights among them, all more than 3.5."""

_HOUR_HALF_LIFE_S: Final = 1200.0
"""What the last hour looked like: after 20 minutes an old picture counts half, after an hour an eighth."""
_LEARNS_FOR_S: Final = 60.0
_CHROMA: Final = 0.02
"""Below this mean difference of red and blue, as a share of the light, a scene is grey: nothing to swap."""
_ALIKE: Final = 0.8
"""How alike (cosine) two pictures are that show the same scene."""

_BEGINS_AFTER_S: Final = 2.0
_ENDS_AFTER_S: Final = 1.0

Map = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Look:
    """What is kept of one frame.

    Attributes:
        sample: Every so many pixels of it, to see whether anything changes.
        luma: Shape (12, 16), brightness less its mean.
        chroma: Shape (12, 16), red less blue as a share of the light.
    """

    sample: NDArray[np.uint8]
    luma: Map
    chroma: Map


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What the self-test remembers from one frame to the next.

    Attributes:
        before: The last frame.
        hour: The last good hour, as one mean picture; None before the first good frame.
        learned_s: How much of it has been seen.
        at_s: When the last frame was taken.
        since: By suspicion, since when every frame has it.
        gone_since: By fault, since when no frame has it.
        told: The faults that people have been told of and that last.
    """

    before: Look | None = None
    hour: Look | None = None
    learned_s: float = 0.0
    at_s: float = 0.0
    since: Mapping[str, float] = field(default_factory=dict)
    gone_since: Mapping[str, float] = field(default_factory=dict)
    told: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the self-test says of one frame.

    Attributes:
        suspicions: What is wrong with this frame; its scores must raise no alarm.
        began: Faults that have lasted long enough to tell people.
        ended: Faults that people were told of and that are over.
    """

    suspicions: frozenset[str] = frozenset()
    began: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()


def judge(
    state: SelfTest, pixels_rgb: Pixels, at_s: float, frozen_after_s: float = 10.0
) -> tuple[SelfTest, Verdict]:
    """Look at one more frame.

    Args:
        state: What the call before left; ``SelfTest()`` at the start.
        pixels_rgb: Shape (height, width, 3), uint8.
        at_s: When it was taken.
        frozen_after_s: How long a picture must not change at all before it counts as frozen.

    Returns:
        The new state, and what is wrong.

    Example:
        >>> black = np.zeros((48, 64, 3), np.uint8)
        >>> state, verdict = judge(SelfTest(), black, 0.0)
        >>> judge(state, black, 2.0)[1].began
        ('dark',)
    """
    look, luma = _look(pixels_rgb)
    suspicions = _suspicions(state, look, luma, pixels_rgb)
    since = {name: state.since.get(name, at_s) for name in suspicions}
    gone = {name: state.gone_since.get(name, at_s) for name in state.told - suspicions}
    began = tuple(
        name
        for name in sorted(suspicions - state.told)
        if at_s - since[name] >= (frozen_after_s if name == "frozen" else _BEGINS_AFTER_S)
    )
    ended = tuple(name for name in sorted(gone) if at_s - gone[name] >= _ENDS_AFTER_S)
    told = (state.told | set(began)) - set(ended)
    hour, learned_s = (state.hour, state.learned_s) if suspicions else _learn(state, look, at_s)
    new = SelfTest(look, hour, learned_s, at_s, since, gone, told)
    return new, Verdict(suspicions, began, ended)


def forget_frame(state: SelfTest) -> SelfTest:
    """Forget the last frame, and keep the hour: after a gap nothing can be said about a change."""
    return replace(state, before=None, since={}, gone_since={})


def _look(pixels_rgb: Pixels) -> tuple[Look, NDArray[np.uint8]]:
    # Single pixels, because a mean would swallow the noise; five times as fast as a slice with steps.
    sample = _reduced(pixels_rgb, cv2.INTER_NEAREST)
    small = cv2.resize(sample, (16, 12), interpolation=cv2.INTER_AREA).astype(np.float32)
    light = small.sum(axis=2)
    chroma = (small[..., 0] - small[..., 2]) / np.maximum(light, 1)
    brightness = small @ np.array([0.299, 0.587, 0.114], np.float32)
    luma = np.asarray(cv2.cvtColor(sample, cv2.COLOR_RGB2GRAY), np.uint8)
    return Look(sample, brightness - brightness.mean(), chroma), luma


def _suspicions(state: SelfTest, look: Look, luma: NDArray[np.uint8], pixels_rgb: Pixels) -> frozenset[str]:
    found = set()
    if np.count_nonzero(luma >= _WHITE_LUMA) > _WHITE_SHARE * luma.size:
        found.add("over-exposed")
    elif np.count_nonzero(luma >= _DARK_LUMA) < _LIGHT_SHARE * luma.size:
        found.add("dark")
    elif _detail(look) < _DETAIL:
        found.add("covered")
    if found & {"dark", "covered"} and _shines(pixels_rgb):
        found.clear()
    if state.before is not None and np.array_equal(state.before.sample, look.sample):
        found.add("frozen")
    if state.hour is not None and state.learned_s >= _LEARNS_FOR_S and _is_swapped(state.hour, look):
        found.add("swapped")
    return frozenset(found)


def _shines(pixels_rgb: Pixels) -> bool:
    """Say whether a small light stands out of the picture, as a far flame does at night.

    Behind a cap there is none, and behind a cloth or a hand what is lit is large. The mean of each cell, in
    which a hot pixel drowns.
    """
    light = cv2.cvtColor(_reduced(pixels_rgb, cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    share = np.count_nonzero(light >= float(np.median(light)) + _LAMP_LUMA) / light.size
    return bool(0 < share < _LIGHT_SHARE)


def _reduced(pixels_rgb: Pixels, interpolation: int) -> Pixels:
    """Reduce a frame to about ``_SIDE`` rows."""
    height, width = pixels_rgb.shape[:2]
    step = max(1, min(height, width) // _SIDE)
    return np.asarray(
        cv2.resize(pixels_rgb, (width // step, height // step), interpolation=interpolation), np.uint8
    )


def _detail(look: Look) -> float:
    # Without the border, where a mere slope would count.
    return float(np.abs(cv2.Laplacian(look.luma, cv2.CV_32F)[1:-1, 1:-1]).mean())


def _is_swapped(hour: Look, look: Look) -> bool:
    """Say whether a frame shows the scene of the hour with red and blue exchanged.

    Exchanging them turns the sign of the chroma everywhere and leaves the shapes; a sunset or a fire
    changes the chroma in places, and the shapes with it.
    """
    if np.abs(hour.chroma).mean() < _CHROMA:
        return False
    return _alike(hour.chroma, look.chroma) < -_ALIKE and _alike(hour.luma, look.luma) > _ALIKE


def _alike(one: Map, other: Map) -> float:
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float((one * other).sum()) / length if length else 0.0


def _learn(state: SelfTest, look: Look, at_s: float) -> tuple[Look, float]:
    """Mix a good frame into the hour, by the time that it stands for."""
    if state.hour is None:
        return look, 0.0
    elapsed_s = min(max(0.0, at_s - state.at_s), 1.0)
    learned_s = min(state.learned_s + elapsed_s, 3600.0)
    # A plain mean at first; an old picture is forgotten once there are many.
    kept = np.float32(min(0.5 ** (elapsed_s / _HOUR_HALF_LIFE_S), 1 - elapsed_s / max(learned_s, 1.0)))
    mixed = Look(
        look.sample,
        kept * state.hour.luma + (1 - kept) * look.luma,
        kept * state.hour.chroma + (1 - kept) * look.chroma,
    )
    return mixed, learned_s
