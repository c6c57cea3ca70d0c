"""The shelf: a folder for each model that ships, which holds ``NAME.tflite`` and ``figures.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecnn.bundle import file
from edgecnn.bundle.manifest import Manifest
from edgecnn.errors import BundleError
from edgecnn.zoo import figures as measured
from edgecnn.zoo.figures import Figures

SHELF: Final = Path(__file__).parent

WATCHERS: Final = ("sentinel", "fire")
"""What watches where nobody names a model; the first that there is."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that ships.

    Attributes:
        name: Of its folder; what ``edgecnn zoo path`` takes.
        path: Of the model file.
        manifest: What the file says about itself.
        size_bytes: Of the file.
        figures: What was measured of this very file.
    """

    name: str
    path: Path
    manifest: Manifest
    size_bytes: int
    figures: Figures


def models(shelf: Path = SHELF) -> tuple[Resident, ...]:
    """Open every model on the shelf, sorted by name.

    Raises:
        BundleError: If a file is damaged, or its figures are missing or belong to another file.
    """
    return tuple(resident(name, shelf) for name in _names(shelf))


def path(name: str, shelf: Path = SHELF) -> Path:
    """Find the file of a model by its name.

    Raises:
        BundleError: If there is none; names those that there are.
    """
    names = _names(shelf)
    if name not in names:
        raise BundleError(
            f"There is no model '{name}' in the zoo.",
            fix=f"Name one of: {', '.join(names)}." if names else "Install edgecnn again: its zoo is empty.",
        )
    return _file(name, shelf)


def resident(name: str, shelf: Path = SHELF) -> Resident:
    """Open one model.

    Raises:
        BundleError: If there is none, it is damaged, or its figures are missing or belong to another file.
    """
    bundle = file.read(path(name, shelf))
    try:
        text = (shelf / name / "figures.json").read_bytes()
    except OSError as error:
        raise BundleError(
            f"The figures of the model '{name}' cannot be read: {error.strerror or error}.",
            fix="Install edgecnn again, or put the model on the shelf again with 'edgecnn zoo publish'.",
        ) from error
    figures = measured.from_json(text)
    if bundle.manifest is None or figures.sha256 != bundle.sha256:
        raise BundleError(
            f"The figures of the model '{name}' belong to another file than lies beside them.",
            fix="Install edgecnn again, or put the model on the shelf again with 'edgecnn zoo publish'.",
        )
    return Resident(name, bundle.path, bundle.manifest, bundle.size_bytes, figures)


def for_watching(shelf: Path = SHELF) -> Path:
    """Find the model that watches where nobody names one.

    Raises:
        BundleError: If there is none.
    """
    found = next((name for name in WATCHERS if name in _names(shelf)), None)
    if found is None:
        raise BundleError(
            "No model was named, and none that ships can watch.",
            fix='Name one: --model FILE, or path = "FILE" under [model] of watch.toml.',
        )
    return _file(found, shelf)


def _names(shelf: Path) -> list[str]:
    return sorted(folder.name for folder in shelf.iterdir() if _file(folder.name, shelf).is_file())


def _file(name: str, shelf: Path) -> Path:
    return shelf / name / f"{name}.tflite"
