"""Feeds training: codes made once and kept, pictures varied in parallel, the same on every run."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import InputSpec, resize
from edgecnn.errors import DataError
from edgecnn.workstation.backend import tf
from edgecnn.workstation.data.archive import cache_folder, sweep
from edgecnn.workstation.data.augment import augment_picture
from edgecnn.workstation.data.catalog import Picture, in_threads, refuse_broken
from edgecnn.workstation.recipe import Augment

Codes = NDArray[np.uint8]
"""Count x height x width x channels: the bytes that the network sees."""

_T = TypeVar("_T")
# Counts up when decoding or resizing changes, so that codes made in another way are not taken.
_MADE_BY = f"codes-1 opencv-{cv2.__version__}"


def codes_of(pictures: Sequence[Picture], spec: InputSpec, cache: Path | None = None) -> Codes:
    """Decode and resize pictures on all cores, once: the result is kept and found again by content.

    Args:
        pictures: In the order of the result.
        spec: What the model eats.
        cache: Folder to keep the codes in; ``archive.cache_folder()`` where not given.

    Returns:
        Shape (count, height_px, width_px, channels), uint8; read-only, mapped from a file, so that a
        set larger than the memory works too.

    Raises:
        DataError: Names the broken pictures, if there are any.
    """
    shape = (len(pictures), spec.height_px, spec.width_px, spec.channels)
    folder = (cache or cache_folder()) / "codes"
    place = folder / f"{_key(pictures, spec)}.npy"
    with suppress(OSError, ValueError):  # not there yet, or damaged: made anew
        codes: Codes = np.load(place, mmap_mode="r")
        if codes.shape == shape and codes.dtype == np.uint8:
            return codes
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder, ".making-*")
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as draft:
            _make(pictures, spec, shape, Path(draft, "codes.npy"))
            os.replace(Path(draft, "codes.npy"), place)  # noqa: PTH105 - the step that makes it whole
        kept: Codes = np.load(place, mmap_mode="r")
        return kept
    except OSError as error:
        raise DataError(
            f"{np.prod(shape) / 2**20:,.0f} MB of pixels cannot be kept in '{folder}': {error.strerror}.",
            fix="Free some space, or name another folder in the environment variable EDGECNN_CACHE.",
        ) from error


def _key(pictures: Sequence[Picture], spec: InputSpec) -> str:
    errors: list[DataError] = []

    def digest(picture: Picture) -> str:
        try:
            # Of a file the bytes tell the shape; pixels of an .npz do not.
            shape = "" if isinstance(picture.source, Path) else f" {picture.source.shape}"
            return picture.sha256() + shape
        except DataError as error:
            errors.append(error)
            return ""

    lines = [_MADE_BY, repr(spec), *in_threads(digest, pictures)]
    refuse_broken(sorted(errors, key=lambda error: error.message))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _make(pictures: Sequence[Picture], spec: InputSpec, shape: tuple[int, ...], place: Path) -> None:
    # numpy refuses to map an empty array; nothing needs mapping there.
    if not pictures:
        np.save(place, np.zeros(shape, np.uint8))
        return
    codes = np.lib.format.open_memmap(place, "w+", np.uint8, shape)
    _reserve(place)

    def make(position: int) -> DataError | None:
        try:
            codes[position] = resize(pictures[position].read(), spec)
        except DataError as error:
            return error
        return None

    refuse_broken([error for error in in_threads(make, range(len(pictures))) if error])
    codes.flush()


def _reserve(place: Path) -> None:
    """Take all of a file's space now: a mapped page that finds the disk full later kills the process.

    Raises:
        OSError: If the disk is too small.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS and Windows
        return
    with place.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, place.stat().st_size)


def labels_of(pictures: Sequence[Picture], labels: Sequence[str]) -> NDArray[np.int64]:
    """Number the labels of pictures.

    Returns:
        Shape (count,): positions in ``labels``.

    Raises:
        DataError: If a picture has a label that is none of them.

    Example:
        >>> cat = Picture("train/cat/1.jpg", "train", "cat", "cat", Path("1.jpg"))
        >>> labels_of([cat], ["ant", "cat"]).tolist()
        [1]
    """
    position = {label: number for number, label in enumerate(labels)}
    strange = sorted({picture.label for picture in pictures} - set(position))
    if strange:
        raise DataError(
            f"The data have a label '{strange[0]}'; the model knows {', '.join(labels)}.",
            fix="Pass the data that the model was made for, or map folders to labels by [classes].",
        )
    return np.array([position[picture.label] for picture in pictures], np.int64)


def training_batches(
    codes: Codes, targets: NDArray[Any], batch_size: int, augment: Augment, seed: int, epoch: int
) -> Any:
    """Give one epoch of shuffled, varied pictures, made on all cores while the network trains.

    What a picture looks like depends on seed, epoch and its position in ``codes`` alone, and the order
    on seed and epoch: a run that is resumed sees what an unbroken one sees, on any number of cores.

    Args:
        codes: Shape (count, height, width, channels), uint8.
        targets: One row for each picture.
        batch_size: Pictures a step; the last batch may be smaller.
        augment: How far pictures are varied.
        seed: Of the run.
        epoch: Counted from 0.

    Returns:
        A ``tf.data.Dataset`` of (float32 bytes of shape (batch, height, width, channels), targets), of
        known length.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(codes))
    batch_count = -(-len(codes) // batch_size)

    def make(number: int) -> tuple[Codes, NDArray[Any]]:
        rows = order[number * batch_size : (number + 1) * batch_size]
        return _varied(codes, rows, augment, seed, epoch), targets[rows]

    def load(number: Any) -> tuple[Any, Any]:
        pixels, target = tf.numpy_function(
            make, [number], [tf.uint8, tf.as_dtype(targets.dtype)], stateful=False
        )
        pixels.set_shape((None, *codes.shape[1:]))
        target.set_shape((None, *targets.shape[1:]))
        return tf.cast(pixels, tf.float32), target

    batches = tf.data.Dataset.range(batch_count)
    return batches.map(load, num_parallel_calls=os.cpu_count(), deterministic=True).prefetch(2)


def _varied(codes: Codes, rows: NDArray[np.int64], augment: Augment, seed: int, epoch: int) -> Codes:
    if augment == Augment():
        return np.asarray(codes[rows])
    batch = np.empty((len(rows), *codes.shape[1:]), np.uint8)
    for place, row in enumerate(rows.tolist()):
        rng = np.random.default_rng([seed, epoch, row])
        batch[place] = augment_picture(np.asarray(codes[row]), augment, rng)
    return batch


class WaitMeter(Generic[_T]):
    """Measures for which share of the time a training step waits for its input.

    Args:
        batches: What is iterated.

    Attributes:
        waited_s: Time spent in getting the next item.
        total_s: Time from the first request to the end of the last step.

    Example:
        >>> meter = WaitMeter([1, 2])
        >>> list(meter), 0 <= meter.share <= 1
        ([1, 2], True)
    """

    def __init__(self, batches: Iterable[_T]) -> None:
        self._batches = batches
        self.waited_s = 0.0
        self.total_s = 0.0

    @property
    def share(self) -> float:
        """Waiting over all time, in [0, 1]; 0 before anything was measured."""
        return self.waited_s / self.total_s if self.total_s else 0.0

    def __iter__(self) -> Iterator[_T]:
        began_s = time.perf_counter()
        items = iter(self._batches)
        while True:
            asked_s = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                now_s = time.perf_counter()
                self.waited_s += now_s - asked_s
                self.total_s += now_s - began_s
                began_s = now_s
            yield item
