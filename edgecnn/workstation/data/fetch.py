"""Gets the public data sets as their users get them, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.errors import DataError, MissingPackageError
from edgecnn.workstation.data.images import PICTURE_SUFFIXES

_PATIENCE_S = 20.0
CIFAR10_LABELS = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PublicSet:
    """A data set that anyone can get.

    Attributes:
        name: What ``edgecnn data fetch`` calls it.
        content: What it shows.
        size: How much there is of it.
        licence: As its publishers state it.
        how: Where it comes from.
        result: What appears in the output folder.
        write: Puts it at a path that does not exist yet.
    """

    name: str
    content: str
    size: str
    licence: str
    how: str
    result: str
    write: Callable[[Path], None]


def fetch(name: str, folder: Path) -> Path:
    """Get a public data set.

    Args:
        name: One of ``PUBLIC_SETS``.
        folder: Where to put it; made if need be.

    Returns:
        What ``--data`` takes: ``FOLDER/digits.npz``, ``FOLDER/scenes`` ...; one that is there already
        is left alone.

    Raises:
        DataError: If there is no such set, the network is closed, or the folder cannot be written;
            nothing half-written is left.
        MissingPackageError: If it comes by a package that is not installed.
    """
    if name not in PUBLIC_SETS:
        raise DataError(f"There is no public set '{name}'.", fix=f"Name one of: {', '.join(PUBLIC_SETS)}.")
    public = PUBLIC_SETS[name]
    target = folder / public.result
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as temporary:
            draft = Path(temporary, public.result)
            with _bounded():
                public.write(draft)
            os.replace(draft, target)  # noqa: PTH105 - the step that makes it whole
    except OSError as error:
        raise DataError(
            f"'{name}' cannot be put into '{folder}': {error.strerror or error}.",
            fix="Check the path, the permissions and the free space.",
        ) from error
    return target


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Give up on a silent server: Keras's download waits forever by itself."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unreachable(name: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200]
    return DataError(
        f"'{name}' cannot be downloaded: {reason}.",
        fix="Check the network; or get the pictures by other means and pass their path: --data PATH "
        "(a folder <split>/<class>/*, an archive of one, or an .npz with x_train, y_train, x_test, y_test).",
    )


def _write_keras(name: str, load: Callable[[Any], Any], draft: Path, labels: tuple[str, ...]) -> None:
    from edgecnn.workstation.backend import keras

    try:
        # Its progress bar writes to stdout, where the result belongs.
        with contextlib.redirect_stdout(sys.stderr):
            (x_train, y_train), (x_test, y_test) = load(keras.datasets)
    except Exception as error:  # Keras raises a bare Exception where the network is closed
        raise _unreachable(name, error) from error
    np.savez_compressed(
        draft, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, label_names=np.array(labels)
    )


def _write_digits(draft: Path) -> None:
    digits = tuple(str(digit) for digit in range(10))
    _write_keras("digits", lambda datasets: datasets.mnist.load_data(), draft, digits)


def _write_cifar10(draft: Path) -> None:
    _write_keras("cifar10", lambda datasets: datasets.cifar10.load_data(), draft, CIFAR10_LABELS)


def _from_kaggle(name: str, handle: str) -> Path:
    try:
        import kagglehub
    except ImportError as error:
        raise MissingPackageError(
            f"'{name}' comes from Kaggle and needs the package kagglehub, which is not installed.",
            fix="Install it: pip install 'edgecnn[kaggle]'; or pass pictures that you have: --data PATH.",
        ) from error
    try:
        return Path(kagglehub.dataset_download(handle))
    except Exception as error:  # requests', urllib3's and kagglehub's own errors have no common base
        raise _unreachable(name, error) from error


def _write_scenes(draft: Path) -> None:
    arrange_scenes(_from_kaggle("scenes", "puneet6060/intel-image-classification"), draft)


def _write_fire(draft: Path) -> None:
    arrange_fire(_from_kaggle("fire", "phylake1337/fire-dataset"), draft)


def arrange_scenes(download: Path, draft: Path) -> None:
    """Copy ``seg_train/seg_train/<class>`` and ``seg_test/seg_test/<class>`` to ``<split>/<class>``.

    Raises:
        DataError: If the download has another layout.
    """
    for split in ("train", "test"):
        for folder in _class_folders(download / f"seg_{split}" / f"seg_{split}"):
            _copy_pictures(folder, draft / split / folder.name)


def arrange_fire(download: Path, draft: Path) -> None:
    """Copy ``fire_dataset/fire_images`` and ``non_fire_images`` to ``fire`` and ``no_fire``.

    Raises:
        DataError: If the download has another layout.
    """
    names = {"fire_images": "fire", "non_fire_images": "no_fire"}
    for folder in _class_folders(download / "fire_dataset"):
        if folder.name in names:
            _copy_pictures(folder, draft / names[folder.name])


def _class_folders(folder: Path) -> list[Path]:
    found = sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    if not found:
        raise DataError(
            f"The download has no folders in '{folder}'; its publisher must have changed its layout.",
            fix="Sort the downloaded pictures into <split>/<class>/ and pass their path: --data PATH.",
        )
    return found


def _copy_pictures(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if file.suffix.lower() in PICTURE_SUFFIXES:
            shutil.copyfile(file, target / file.name)


PUBLIC_SETS = {
    public.name: public
    for public in (
        PublicSet(
            "digits",
            "MNIST: handwritten digits, 28 x 28, grey, 10 classes",
            "60,000 train, 10,000 test; 11 MB",
            "CC BY-SA 3.0, as Keras states it",
            "Keras's own download",
            "digits.npz",
            _write_digits,
        ),
        PublicSet(
            "cifar10",
            "CIFAR-10: small photographs, 32 x 32, 10 classes",
            "50,000 train, 10,000 test; 170 MB",
            "none stated; cite A. Krizhevsky, 2009",
            "Keras's own download",
            "cifar10.npz",
            _write_cifar10,
        ),
        PublicSet(
            "scenes",
            "Intel's natural scenes around the world, 150 x 150, 6 classes",
            "14,034 train, 3,000 test; 360 MB with its unlabelled part",
            "none stated; research use",
            "Kaggle, puneet6060/intel-image-classification, by kagglehub",
            "scenes",
            _write_scenes,
        ),
        PublicSet(
            "fire",
            "FIRE Dataset: outdoor photographs with and without fire, 2 classes",
            "755 fire, 244 no fire; 390 MB",
            "see its page on Kaggle; rights in the single photographs are unclear",
            "Kaggle, phylake1337/fire-dataset, by kagglehub",
            "fire",
            _write_fire,
        ),
    )
}
"""What ``edgecnn data fetch`` knows, by name."""
