"""Feeds training: codes made once and kept, pictures varied in parallel, the same on every run."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import InputSpec, resize
from edgecnn.errors import DataError
from edgecnn.runtime.host import cache_folder
from edgecnn.workstation.backend import tf
from edgecnn.workstation.data.archive import sweep
from edgecnn.workstation.data.augment import augment_with
from edgecnn.workstation.data.catalog import Picture, in_threads, refuse_broken
from edgecnn.workstation.data.targets import Targets
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
        cache: Folder to keep the codes in; ``runtime.host.cache_folder()`` where not given.

    Returns:
        Shape (count, height_px, width_px, channels), uint8; read-only, mapped from a file, so that a
        set larger than the memory works too.

    Raises:
        DataError: Names the broken pictures, if there are any.
    """
    shape = (len(pictures), spec.height_px, spec.width_px, spec.channels)
    return _kept(_key(pictures, spec), shape, lambda codes: _make(pictures, spec, codes), cache)


def _kept(key: str, shape: tuple[int, ...], fill: Callable[[Codes], None], cache: Path | None) -> Codes:
    folder = (cache or cache_folder()) / "codes"
    place = folder / f"{key}.npy"
    with suppress(OSError, ValueError):  # not there yet, or damaged: made anew
        codes: Codes = np.load(place, mmap_mode="r")
        if codes.shape == shape and codes.dtype == np.uint8:
            return codes
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder, ".making-*")
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as draft:
            _write(Path(draft, "codes.npy"), shape, fill)
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


def _write(place: Path, shape: tuple[int, ...], fill: Callable[[Codes], None]) -> None:
    # numpy refuses to map an empty array; nothing needs mapping there.
    if not shape[0]:
        np.save(place, np.zeros(shape, np.uint8))
        return
    codes = np.lib.format.open_memmap(place, "w+", np.uint8, shape)
    _reserve(place)
    fill(codes)
    codes.flush()


def _make(pictures: Sequence[Picture], spec: InputSpec, codes: Codes) -> None:
    def make(position: int) -> DataError | None:
        try:
            codes[position] = resize(pictures[position].read(), spec)
        except DataError as error:
            return error
        return None

    refuse_broken([error for error in in_threads(make, range(len(pictures))) if error])


def _reserve(place: Path) -> None:
    """Take all of a file's space now: a mapped page that finds the disk full later kills the process.

    Raises:
        OSError: If the disk is too small.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS and Windows
        return
    with place.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, place.stat().st_size)


class Stack:
    """Several arrays of pictures that read as one, without being copied.

    Args:
        parts: Of one shape but for their length.

    Example:
        >>> stack = Stack(np.zeros((2, 1), np.uint8), np.ones((3, 1), np.uint8))
        >>> len(stack), stack[np.array([0, 4])].ravel().tolist(), stack[1:3].ravel().tolist()
        (5, [0, 1], [0, 1])
    """

    def __init__(self, *parts: Codes) -> None:
        self.parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def picture(self, row: int) -> NDArray[np.uint8]:
        """Give one picture."""
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return np.asarray(self.parts[part][row - self._starts[part]])

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Codes:
        every = range(*rows.indices(len(self))) if isinstance(rows, slice) else rows.tolist()
        return np.array([self.picture(row) for row in every], np.uint8).reshape(-1, *self.shape[1:])


def training_batches(
    codes: Codes | Stack,
    targets: Sequence[Targets],
    batch_size: int,
    augment: Augment,
    seed: int,
    epoch: int,
) -> Any:
    """Give one epoch of shuffled, varied pictures, made on all cores while the network trains.

    What a picture looks like depends on seed, epoch and its position in ``codes`` alone, and the order
    on seed and epoch: a run that is resumed sees what an unbroken one sees, on any number of cores.

    Args:
        codes: Shape (count, height, width, channels), uint8.
        targets: Of each head, one row for each picture.
        batch_size: Pictures a step; the last batch may be smaller.
        augment: How far pictures are varied.
        seed: Of the run.
        epoch: Counted from 0.

    Returns:
        A ``tf.data.Dataset`` of (float32 bytes of shape (batch, height, width, channels), a tuple of each
        head's targets), of known length.
    """
    stack = codes if isinstance(codes, Stack) else Stack(codes)
    order = np.random.default_rng([seed, epoch]).permutation(len(stack))
    batch_count = -(-len(stack) // batch_size)

    def make(number: int) -> tuple[NDArray[Any], ...]:
        rows = order[number * batch_size : (number + 1) * batch_size]
        return _varied(stack, targets, rows, augment, seed, epoch)

    def load(number: Any) -> tuple[Any, tuple[Any, ...]]:
        types = [tf.uint8, *[tf.float32] * len(targets)]
        pixels, *answers = tf.numpy_function(make, [number], types, stateful=False)
        pixels.set_shape((None, *stack.shape[1:]))
        for answer, target in zip(answers, targets, strict=True):
            answer.set_shape((None, *(target.grid or ()), target.values.shape[1]))
        return tf.cast(pixels, tf.float32), tuple(answers)

    batches = tf.data.Dataset.range(batch_count)
    return batches.map(load, num_parallel_calls=os.cpu_count(), deterministic=True).prefetch(2)


def _varied(
    codes: Stack, targets: Sequence[Targets], rows: NDArray[np.int64], augment: Augment, seed: int, epoch: int
) -> tuple[NDArray[Any], ...]:
    batch = np.empty((len(rows), *codes.shape[1:]), np.uint8)
    answers: list[list[NDArray[np.float32]]] = [[] for _ in targets]
    is_plain = augment == Augment()
    for place, row in enumerate(rows.tolist()):
        masks = [target.mask(row) for target in targets]
        moved = tuple(mask for mask in masks if mask is not None)
        batch[place] = codes.picture(row)
        if not is_plain:
            rng = np.random.default_rng([seed, epoch, row])
            batch[place], moved = augment_with(batch[place], moved, augment, rng)
        following = iter(moved)
        for column, target, mask in zip(answers, targets, masks, strict=True):
            column.append(target.answer(row, None if mask is None else next(following)))
    return batch, *(np.array(column, np.float32) for column in answers)


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
