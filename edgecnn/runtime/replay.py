"""What a model gives for a folder of pictures, byte by byte, to compare one machine with another.

Runs as a program of its own on the other machine: ``python -m edgecnn.runtime.replay MODEL FOLDER``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import resize
from edgecnn.runtime.predictor import TflitePredictor, load

RESULT: Final = "result.npz"
SAME: Final = "same.npy"
_LISTS: Final = ("recorded", "same", "outputs")


@dataclass(frozen=True, slots=True)
class Replay:
    """What one machine made of the recorded pictures of a model, and of others.

    Attributes:
        runtime: The interpreter and its version.
        resized: What the resize made of the others: shape (n, height, width, channels), uint8.
        recorded: For each output what the model gave for its recorded pictures; no rows where it has none.
        same: For each output what it gave for the others as the first machine had resized them.
        outputs: For each output what it gave for ``resized``: shape (n, ...), in its own type.
    """

    runtime: str
    resized: NDArray[np.uint8]
    recorded: tuple[NDArray[Any], ...]
    same: tuple[NDArray[Any], ...]
    outputs: tuple[NDArray[Any], ...]


def write_pictures(folder: Path, pictures: Sequence[NDArray[np.uint8]]) -> None:
    """Put pictures of shape (height, width, 3), red first, where ``replay`` finds them."""
    for number, pixels in enumerate(pictures):
        np.save(folder / f"{number:05d}.npy", pixels)


def replay(model: Path, folder: Path) -> Replay:
    """Resize each picture of a folder and run it through a model, after those that the model brings.

    The first machine leaves its resized pictures in the folder, for the next one.

    Args:
        model: The ``.tflite`` file.
        folder: Of ``write_pictures``.

    Raises:
        BundleError: If the file is damaged, or no picture classifier.
        RuntimeFault: If the interpreter fails.
    """
    predictor = load(model)
    spec = predictor.input
    paths = sorted(folder.glob("[0-9]*.npy"))
    empty = np.empty((0, spec.height_px, spec.width_px, spec.channels), np.uint8)
    own = np.stack([resize(np.load(path), spec) for path in paths]) if paths else empty
    if not (folder / SAME).is_file():
        np.save(folder / SAME, own)
    recorded = empty if predictor.golden is None else predictor.golden.inputs
    return Replay(
        predictor.interpreter.runtime,
        own,
        _outputs(predictor, recorded),
        _outputs(predictor, np.load(folder / SAME)),
        _outputs(predictor, own),
    )


def save(path: Path, made: Replay) -> None:
    """Write what ``read`` reads."""
    arrays = {
        f"{name}_{number}": array for name in _LISTS for number, array in enumerate(getattr(made, name))
    }
    np.savez(path, runtime=np.array(made.runtime), resized=made.resized, **arrays)


def read(path: Path) -> Replay:
    """Read what ``save`` has written, perhaps on another machine."""
    with np.load(path, allow_pickle=False) as arrays:
        count = sum(name.startswith("outputs_") for name in arrays.files)
        recorded, same, outputs = (tuple(arrays[f"{name}_{n}"] for n in range(count)) for name in _LISTS)
        return Replay(str(arrays["runtime"]), arrays["resized"], recorded, same, outputs)


def _outputs(predictor: TflitePredictor, resized: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
    """Run the pictures; the number of outputs does not depend on how many there are."""
    rows = [predictor.outputs(codes) for codes in resized]
    specs = predictor.interpreter.outputs
    return tuple(
        np.concatenate([row[index] for row in rows])
        if rows
        else np.empty((0, *spec.shape[1:]), np.dtype(spec.dtype))
        for index, spec in enumerate(specs)
    )


if __name__ == "__main__":
    save(Path(sys.argv[2]) / RESULT, replay(Path(sys.argv[1]), Path(sys.argv[2])))
