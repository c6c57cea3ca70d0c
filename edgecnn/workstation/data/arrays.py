"""Finds the pictures in an ``.npz`` with the layout of Keras's MNIST and CIFAR."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError
from edgecnn.workstation.data.archive import MAX_UNPACKED_BYTES
from edgecnn.workstation.data.picture import Listing, Picture

# What zipfile, zlib and numpy's reader of headers say of a file that is cut or has wrong bytes.
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    SyntaxError,
    MemoryError,
    NotImplementedError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def list_npz(path: Path) -> Listing:
    """Find the pictures in ``x_train``, ``x_val`` and ``x_test``, labelled by ``y_train`` and so on.

    Raises:
        DataError: If the file cannot be read, or its arrays have other shapes or types.
    """
    arrays = _read_npz(path)
    names = arrays.get("label_names")
    pictures: list[Picture] = []
    for split in ("train", "val", "test"):
        if f"x_{split}" in arrays:
            pictures += _array_pictures(path, split, arrays, names)
    return Listing(tuple(pictures))


def _array_pictures(
    path: Path, split: str, arrays: Mapping[str, NDArray[Any]], names: NDArray[Any] | None
) -> list[Picture]:
    pixels, targets = arrays[f"x_{split}"], arrays.get(f"y_{split}")
    good = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] in (1, 3))
    if not good or pixels.dtype != np.uint8 or 0 in pixels.shape[1:]:
        raise DataError(
            f"'x_{split}' in '{path}' has shape {pixels.shape} and type {pixels.dtype}; "
            "expected (count, height, width[, 1 or 3]) and uint8.",
            fix="Save the pictures as bytes from 0 to 255, channels last.",
        )
    whole = targets is not None and targets.size == len(pixels) and targets.dtype.kind in "iu"
    if targets is None or not whole or not len(pixels) or targets.min() < 0:
        found = "is missing" if targets is None else f"has shape {targets.shape} and type {targets.dtype}"
        raise DataError(
            f"'y_{split}' in '{path}' {found}; expected one whole number from 0 for each of the "
            f"{len(pixels)} pictures.",
            fix=f"Save the class numbers as 'y_{split}'.",
        )
    if names is not None and int(targets.max()) >= len(names):
        raise DataError(
            f"'{path}' has {len(names)} label_names, and class number {targets.max()} in 'y_{split}'.",
            fix="Give one name for each class.",
        )
    numbers = targets.ravel().tolist()
    labels = [str(number if names is None else names[number].astype(str)) for number in numbers]
    return [
        Picture(f"x_{split}/{index:05d}", split, label, label, array)
        for index, (label, array) in enumerate(zip(labels, pixels, strict=True))
    ]


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    wanted = {f"{axis}_{split}" for axis in "xy" for split in ("train", "val", "test")} | {"label_names"}
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
            if size > min(MAX_UNPACKED_BYTES, max(2**30, 100 * path.stat().st_size)):
                raise DataError(
                    f"'{path}' unpacks to {size / 2**30:.1f} GiB, more than 100 times its size.",
                    fix="Do not use this file, or save it again.",
                )
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in wanted}
    except _DAMAGE as error:
        raise DataError(
            f"'{path}' cannot be read as an .npz: {error}.",
            fix="Copy or download it again; arrays of Python objects are not read.",
        ) from error
    if not any(f"x_{split}" in arrays for split in ("train", "test")):
        raise DataError(
            f"'{path}' has no 'x_train' or 'x_test'.",
            fix="Use the layout of Keras's mnist.npz: x_train, y_train, x_test, y_test.",
        )
    return arrays
