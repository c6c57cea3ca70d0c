"""One model on two machines, this one and an emulated Pi: what differs, and by how much."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.deploy import calls
from edgecnn.deploy.emulator import Emulator
from edgecnn.errors import DeployError
from edgecnn.runtime import replay
from edgecnn.runtime.replay import Replay

Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two machines lie apart on the same pictures.

    Attributes:
        count: Pictures.
        differing_count: Of them, those on which any number differs.
        largest: The largest difference: in codes for integers, else in the numbers' own unit.
    """

    count: int
    differing_count: int
    largest: float


def rehearse(emulator: Emulator, model: Path, pictures: Sequence[NDArray[np.uint8]]) -> tuple[Replay, Replay]:
    """Replay a model's recorded pictures, and others, here and on the emulated Pi.

    Args:
        emulator: The Pi.
        model: The ``.tflite`` file.
        pictures: Each of shape (height, width, 3), red first; every machine resizes them itself.

    Returns:
        What came out here, and what came out there.

    Raises:
        BundleError: If the file is damaged, or no picture classifier.
        DeployError: If it fails on the emulated Pi.
        RuntimeFault: If the interpreter fails here.
    """
    with tempfile.TemporaryDirectory(prefix="edgecnn-") as name:
        folder = Path(name)
        replay.write_pictures(folder, pictures)
        here = replay.replay(model, folder)
        # A copy, because not every folder of this machine is seen there.
        (folder / "model.tflite").write_bytes(model.read_bytes())
        words = ["python3", "-m", "edgecnn.runtime.replay", f"{folder}/model.tflite", str(folder)]
        done = subprocess.run(
            emulator.command(words, folder),
            capture_output=True, text=True, check=False, env=emulator.environment(), preexec_fn=calls.hide,
        )  # fmt: skip
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it says nothing"]
            raise DeployError(
                f"'{model.name}' does not run on the emulated Pi: {lines[-1]}",
                fix="See it whole: edgecnn emulate predict MODEL PICTURE.",
            )
        return here, replay.read(folder / replay.RESULT)


def difference(here: Arrays, there: Arrays) -> Difference:
    """Compare arrays picture by picture.

    Args:
        here: Of one machine, each of shape (n, ...).
        there: Of the other, alike.

    Example:
        >>> difference([np.uint8([[1, 2], [3, 4]])], [np.uint8([[1, 2], [3, 9]])])
        Difference(count=2, differing_count=1, largest=5.0)
    """
    count = len(here[0])
    pairs = [(a.reshape(count, -1), b.reshape(count, -1)) for a, b in zip(here, there, strict=True) if count]
    apart = [np.abs(a.astype(np.float64) - b.astype(np.float64)) for a, b in pairs]
    differing = np.zeros(count, bool)
    for rows in apart:
        differing |= ~(rows == 0).all(axis=1)  # a NaN is no agreement
    return Difference(count, int(differing.sum()), max((float(rows.max()) for rows in apart), default=0.0))
