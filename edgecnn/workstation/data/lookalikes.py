"""Pictures in which nothing burns and much looks like it: suns, lamps, red cloth, autumn leaves, fog.

The pictures to train with and the pictures to test with come from two styles: other palettes, sizes and
counts, and kinds of their own.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from edgecnn.core.frame import Pixels
from edgecnn.errors import DataError
from edgecnn.workstation.data.decoys.lamps import LAMPS
from edgecnn.workstation.data.decoys.nights import NIGHTS
from edgecnn.workstation.data.decoys.sky import SKY
from edgecnn.workstation.data.decoys.style import TESTING, TRAINING, Style
from edgecnn.workstation.data.decoys.things import THINGS
from edgecnn.workstation.data.decoys.unseen import UNSEEN
from edgecnn.workstation.data.flames import pasted
from edgecnn.workstation.data.procedural import render_background, write_png
from edgecnn.workstation.data.staging import photograph, set_stage

_BACKDROPS = 40  # rendering one takes as long as painting five look-alikes
_STRESS_SEEDS = 2**32  # where they begin; recipes count theirs from 0


def lookalikes(
    count: int,
    seed: int,
    height_px: int,
    width_px: int,
    over: Sequence[Pixels] = (),
    style: Style = TRAINING,
    *,
    nights: bool = False,
) -> Iterator[tuple[Pixels, str]]:
    """Paint pictures in which nothing burns, one kind after the other.

    Args:
        count: How many.
        seed: The same seed gives the same pictures.
        height_px: Of a picture, at least 16.
        width_px: Likewise.
        over: Pictures without fire and smoke to paint into; without any, scenery is rendered.
        style: TRAINING or TESTING, which has kinds of its own.
        nights: Whether fireworks and cities at night are among them.

    Yields:
        Pixels of shape (height_px, width_px, 3), and the kind, such as "sunset".

    Example:
        >>> [(pixels.shape, kind) for pixels, kind in lookalikes(2, seed=1, height_px=32, width_px=48)]
        [((32, 48, 3), 'sunset'), ((32, 48, 3), 'sun')]
    """
    painters = {
        **SKY,
        **LAMPS,
        **THINGS,
        **(UNSEEN if style is TESTING else {}),
        **(NIGHTS if nights else {}),
    }
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
