"""Finds the pictures of a data set, whatever it comes as, and says which split and label each has."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import Pixels
from edgecnn.errors import DataError
from edgecnn.workstation.data.archive import MAX_UNPACKED_BYTES, is_archive, unpack
from edgecnn.workstation.data.images import (
    FOREIGN_SUFFIXES,
    PICTURE_SUFFIXES,
    decode_picture,
    read_bytes,
)
from edgecnn.workstation.data.leakage import FINGERPRINT_LENGTH, fingerprint, near_duplicates

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Folders that are splits, and what edgecnn calls them."""

VAL_SHARE = 0.1
TEST_SHARE = 0.1
UNSPLIT = "all"
_NAMED_AT_MOST = 10

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Picture:
    """One labelled picture, not yet read.

    Attributes:
        path: Relative to the root of the data, with ``/``: ``train/fire/a.jpg``, or ``x_train/00012``.
        split: ``train``, ``val``, ``test``, or the folder's own name where it is none of those.
        label: What it shows.
        folder: The class folder that it lies in; the label's own name where labels are folders.
        source: The file, or the pixels in an ``.npz``.
    """

    path: str
    split: str
    label: str
    folder: str
    source: Path | NDArray[np.uint8] = field(repr=False, compare=False)

    def data(self) -> bytes:
        """Read the file's bytes, or the array's.

        Raises:
            DataError: If the file cannot be read.
        """
        return read_bytes(self.source) if isinstance(self.source, Path) else self.source.tobytes()

    def read(self) -> Pixels:
        """Decode the picture.

        Returns:
            Shape (height, width, 3), uint8, red first.

        Raises:
            DataError: If it is broken; named by its path in the data.
        """
        if isinstance(self.source, Path):
            return decode_picture(self.data(), self.path)
        pixels = self.source.reshape(*self.source.shape[:2], -1)
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))

    def sha256(self) -> str:
        """Give the digest of the file's bytes, or of the array's."""
        return hashlib.sha256(self.data()).hexdigest()


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled pictures in splits.

    Attributes:
        name: Of the folder or file that it was read from.
        labels: In the order of a model's output.
        pictures: Sorted by path.
        left_out: Class folders that belong to no label.
        unread: Picture files of formats that are not read, and pictures outside of any class folder.
    """

    name: str
    labels: tuple[str, ...]
    pictures: tuple[Picture, ...]
    left_out: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    def splits(self) -> tuple[str, ...]:
        """Name the splits: train, val and test first, then the others, sorted."""
        return _in_order({picture.split for picture in self.pictures})

    def split(self, name: str) -> tuple[Picture, ...]:
        """Give the pictures of one split.

        Raises:
            DataError: If there is no such split; names those that there are.
        """
        found = tuple(picture for picture in self.pictures if picture.split == name)
        if not found:
            raise DataError(
                f"'{self.name}' has no split '{name}'; it has {_listed(self.splits())}.",
                fix=f"Add a folder '{name}/<class>/', or name one of those.",
            )
        return found

    def digest(self) -> str:
        """Sum up what a model is trained on: SHA-256 of the sorted ``<sha256>  <path>`` lines of train."""
        pictures = self.split("train")
        digests = in_threads(Picture.sha256, pictures)
        lines = sorted(
            f"{digest}  {picture.path}\n" for digest, picture in zip(digests, pictures, strict=True)
        )
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies in a data set, before anything is asked of it.

    Attributes:
        pictures: Each with its folder for a label; in the split ``all`` where there are no splits.
        empty: Class folders without a picture, as ``<split>/<class>``.
        unread: Files that look like pictures and are not taken.
    """

    pictures: tuple[Picture, ...]
    empty: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def in_threads(function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Apply a function to all items on all cores; OpenCV, numpy and hashlib let go of the GIL."""

    def run(start: int) -> list[_R]:
        return [function(item) for item in items[start : start + _CHUNK]]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [result for chunk in pool.map(run, range(0, len(items), _CHUNK)) for result in chunk]


_CHUNK = 32


def refuse_broken(errors: Sequence[DataError]) -> None:
    """Turn the errors of many pictures into one that names the first ten.

    Raises:
        DataError: If there are any.
    """
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    named = "\n  ".join(error.message for error in errors[:_NAMED_AT_MOST])
    more = len(errors) - _NAMED_AT_MOST
    rest = f"\n  and {more:,} more." if more > 0 else ""
    raise DataError(
        f"{len(errors):,} pictures cannot be used:\n  {named}{rest}",
        fix="Remove or replace them; 'edgecnn data check PATH' lists all.",
    )


def open_dataset(path: Path, classes: Mapping[str, Sequence[str]] | None = None, seed: int = 1) -> Dataset:
    """Open labelled pictures: a folder, a ``.tar[.gz|.xz]`` or ``.zip`` of one, or a Keras ``.npz``.

    A folder holds ``<split>/<class>/*``, or ``<class>/*``, which is then split 80 : 10 : 10 by class and
    seed so that near-duplicates stay together; wrapping folders are looked through. An ``.npz`` holds
    ``x_train``, ``y_train``, ``x_test`` and ``y_test``. Where there is train and no val, a tenth of train,
    drawn by class and seed, becomes val.

    Args:
        path: The folder or file.
        classes: Label -> class folders that belong to it, in the order of the labels; folders in no label
            are left out. Without it every folder is a label, sorted.
        seed: Of the splits that are drawn.

    Raises:
        DataError: If it is no such data; if a class is missing or has no picture to train on; if there is
            only one class; if a picture is broken and the splits have to be drawn.
    """
    listing = list_pictures(path)
    labels, label_of = _labels(listing, classes, path)
    kept = tuple(
        replace(picture, label=label_of[picture.folder])
        for picture in listing.pictures
        if picture.folder in label_of
    )
    if any(picture.split == UNSPLIT for picture in kept):
        kept = split_by_group(kept, seed)
    elif {"train", "val"} & {picture.split for picture in kept} == {"train"}:
        kept = _draw_val(kept, seed)
    _refuse_empty(kept, labels, listing, path)
    folders = {picture.folder for picture in listing.pictures}
    left_out = tuple(sorted(folders - set(label_of)))
    return Dataset(path.name, labels, kept, left_out, listing.unread)


def list_pictures(path: Path) -> Listing:
    """Find the pictures of a data set without judging it.

    Raises:
        DataError: If the path is no folder, archive or ``.npz``, or holds no pictures in class folders.
    """
    if path.is_dir():
        return _list_folder(path, str(path))
    if not path.exists():
        raise DataError(
            f"There is no '{path}'.",
            fix="Pass a folder <split>/<class>/*, an archive of one, or an .npz; "
            "'edgecnn data fetch NAME' gets a public set.",
        )
    if path.suffix.lower() == ".npz":
        return _list_npz(path)
    if is_archive(path):
        return _list_folder(unpack(path), str(path))
    raise DataError(
        f"'{path}' is neither a folder, nor a .tar, .tar.gz, .tar.xz, .zip or .npz.",
        fix="Pass a folder <split>/<class>/*, or pack it into one of those.",
    )


def _labels(
    listing: Listing, classes: Mapping[str, Sequence[str]] | None, path: Path
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Say which labels there are, and which each folder has."""
    empty = {name.rsplit("/", 1)[-1] for name in listing.empty}
    folders = _sorted_folders({picture.folder for picture in listing.pictures} | empty)
    if not classes:
        return folders, {folder: folder for folder in folders}
    label_of: dict[str, str] = {}
    for label, members in classes.items():
        for folder in members:
            if folder not in folders:
                raise DataError(
                    f"Label '{label}' needs the folder '{folder}', which '{path}' has not; "
                    f"it has {_listed(folders)}.",
                    fix="Correct [classes] in the recipe, or add the folder.",
                )
            if folder in label_of:
                raise DataError(
                    f"The folder '{folder}' belongs to two labels, '{label_of[folder]}' and '{label}'.",
                    fix="Name it once in [classes] of the recipe.",
                )
            label_of[folder] = label
    return tuple(classes), label_of


def _refuse_empty(pictures: Sequence[Picture], labels: Sequence[str], listing: Listing, path: Path) -> None:
    if len(labels) < 2:
        raise DataError(
            f"'{path}' holds one class only, '{labels[0]}'; telling apart needs at least two.",
            fix="Add a folder of pictures that show something else.",
        )
    split = "train" if any(picture.split == "train" for picture in pictures) else None
    present = {picture.label for picture in pictures if split in (None, picture.split)}
    missing = [label for label in labels if label not in present]
    if missing:
        where = f" in '{split}'" if split else ""
        empty = f" (empty: {_listed(listing.empty)})" if listing.empty else ""
        raise DataError(
            f"'{path}' has no picture of {_listed(missing)}{where}{empty}.",
            fix="Add pictures, or remove the folder.",
        )


def _sorted_folders(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names; numbers by value, so that the digits and the 100 classes of CIFAR keep their order."""
    names = list(names)
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _in_order(splits: Iterable[str]) -> tuple[str, ...]:
    first = ("train", "val", "test")
    return tuple(sorted(splits, key=lambda name: (first.index(name) if name in first else 3, name)))


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    quoted = ", ".join(f"'{name}'" for name in names[:_NAMED_AT_MOST])
    more = len(names) - _NAMED_AT_MOST
    return (quoted + (f" and {more} more" if more > 0 else "")) or "none"


# --- folders ---------------------------------------------------------------------------------------


def _list_folder(path: Path, name: str) -> Listing:
    tree = _walk(path)
    if not any(_is_picture(file) for file in tree):
        raise DataError(
            f"'{name}' holds no JPEG, PNG, BMP or WebP picture.",
            fix="Pass a folder <split>/<class>/*, or <class>/*, with pictures in it.",
        )
    root, has_splits = _find_root(tree, name)
    depth = len(root)
    pictures: list[Picture] = []
    unread: list[str] = []
    folders: set[tuple[str, ...]] = set()
    for file, on_disk in sorted(tree.items()):
        inner = file[depth:]
        if file[:depth] != root or (has_splits and len(inner) < 2) or not inner:
            if _looks_like_picture(file):
                unread.append("/".join(file))
            continue
        at = 2 if has_splits else 1
        if len(inner) > at:
            folders.add(inner[:at])
        if _is_picture(file) and len(inner) > at:
            split = SPLIT_NAMES.get(inner[0].lower(), inner[0]) if has_splits else UNSPLIT
            pictures.append(Picture("/".join(inner), split, inner[at - 1], inner[at - 1], on_disk))
        elif _looks_like_picture(file):
            unread.append("/".join(inner))
    if not pictures:
        raise DataError(
            f"The pictures of '{name}' lie in no class folders.",
            fix="Sort them into <split>/<class>/, or <class>/: the folder's name is the label.",
        )
    filled = {tuple(picture.path.split("/")[:at]) for picture in pictures}
    # Folders of other things, videos beside images for instance, are no classes: only look in splits.
    taken = {folder[0] for folder in filled}
    empty = (f for f in folders - filled if not has_splits or f[0] in taken)
    return Listing(tuple(pictures), tuple(sorted("/".join(f) for f in empty)), tuple(unread))


def _walk(path: Path) -> dict[tuple[str, ...], Path]:
    """Find all files below a folder, by their parts; an empty folder counts as a file without a name.

    Raises:
        DataError: If a folder cannot be listed: pictures would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"The folder '{error.filename}' cannot be read: {error.strerror}.",
            fix="Give yourself the right to read it, or leave it out of the data.",
        ) from error

    found: dict[tuple[str, ...], Path] = {}
    seen: set[str] = set()
    for folder, folders, files in os.walk(path, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        # Class folders may be links; one that leads back up would never end.
        folders[:] = [] if real in seen else sorted(f for f in folders if not _is_hidden(f))
        if real in seen:
            continue
        seen.add(real)
        parts = Path(folder).relative_to(path).parts
        visible = [file for file in files if not _is_hidden(file)]
        found.update({(*parts, file): Path(folder, file) for file in visible})
        if not visible and not folders:
            found[(*parts, "")] = Path(folder)
    return found


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "@eaDir", "Thumbs.db")


def _is_picture(file: tuple[str, ...]) -> bool:
    return os.path.splitext(file[-1])[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122 - a Path each is slow


def _looks_like_picture(file: tuple[str, ...]) -> bool:
    return os.path.splitext(file[-1])[1].lower() in PICTURE_SUFFIXES | FOREIGN_SUFFIXES  # noqa: PTH122


def _find_root(tree: Mapping[tuple[str, ...], Path], name: str) -> tuple[tuple[str, ...], bool]:
    """Look through wrapping folders: for the one that holds splits, else the first that branches."""
    parents = sorted(
        {
            file[:depth]
            for file in tree
            if _is_picture(file)
            for depth in range(len(file) - 2)
            if file[depth].lower() in SPLIT_NAMES
        },
        key=lambda parts: (len(parts), parts),
    )
    outermost = [parts for parts in parents if len(parts) == len(parents[0])]
    if len(outermost) > 1:
        raise DataError(
            f"'{name}' holds several data sets: {_listed('/'.join(parts) for parts in outermost)}.",
            fix="Pass one of those folders.",
        )
    if outermost:
        return outermost[0], True
    root: tuple[str, ...] = ()
    while True:
        below = [f[len(root) :] for f in tree if f[: len(root)] == root and _is_picture(f)]
        heads = {inner[0] for inner in below if len(inner) > 1}
        deep = all(len(inner) > 2 for inner in below)
        if len(heads) != 1 or not deep:
            return root, False
        root = (*root, heads.pop())


# --- splits ----------------------------------------------------------------------------------------


def fingerprints_of(pictures: Sequence[Picture]) -> tuple[NDArray[np.float32], list[DataError]]:
    """Fingerprint pictures on all cores.

    Returns:
        Shape (count, 320), NaN in the rows of broken pictures; and their errors.
    """

    def run(picture: Picture) -> NDArray[np.float32] | DataError:
        try:
            return fingerprint(picture.read())
        except DataError as error:
            return error

    results = in_threads(run, pictures)
    nothing = np.full(FINGERPRINT_LENGTH, np.nan, np.float32)
    rows = [nothing if isinstance(result, DataError) else result for result in results]
    errors = [result for result in results if isinstance(result, DataError)]
    return np.stack(rows) if rows else np.zeros((0, FINGERPRINT_LENGTH), np.float32), errors


def split_by_group(pictures: Sequence[Picture], seed: int) -> tuple[Picture, ...]:
    """Draw train, val and test, class by class, so that no near-duplicate crosses.

    Groups of near-duplicates are dealt whole, in an order drawn by the seed: a tenth of the pictures of
    each label to val, a tenth to test, the rest to train.

    Raises:
        DataError: If pictures are broken; names them.
    """
    fingerprints, errors = fingerprints_of(pictures)
    refuse_broken(errors)
    groups = near_duplicates(fingerprints, in_threads(Picture.sha256, pictures))
    members: dict[int, list[int]] = defaultdict(list)
    for position, group in enumerate(groups.tolist()):
        members[group].append(position)
    by_label: dict[str, list[list[int]]] = defaultdict(list)
    for group, positions in members.items():
        by_label[pictures[group].label].append(positions)
    split_of: dict[int, str] = {}
    for label, label_groups in sorted(by_label.items()):
        split_of.update(_deal(label_groups, _generator(seed, label)))
    return tuple(replace(picture, split=split_of[at]) for at, picture in enumerate(pictures))


def _generator(seed: int, label: str) -> np.random.Generator:
    """Draw each label by itself, so that a further class leaves the splits of the others alone."""
    digest = hashlib.sha256(label.encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def _deal(groups: Sequence[list[int]], rng: np.random.Generator) -> dict[int, str]:
    total = sum(len(group) for group in groups)
    # At least one each, where there are enough groups that train keeps one too.
    quota = {split: max(1, round(total * share)) if len(groups) > 2 else 0
             for split, share in (("val", VAL_SHARE), ("test", TEST_SHARE))}  # fmt: skip
    given: Counter[str] = Counter()
    dealt: dict[int, str] = {}
    for number in rng.permutation(len(groups)).tolist():
        size = len(groups[number])
        split = next((s for s in quota if size <= quota[s] - given[s]), "train")
        given[split] += size
        dealt.update(dict.fromkeys(groups[number], split))
    return dealt


# --- npz -------------------------------------------------------------------------------------------


def _list_npz(path: Path) -> Listing:
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
    labels = [str(number) if names is None else str(names[number]) for number in numbers]
    return [
        Picture(f"x_{split}/{index:05d}", split, label, label, array)
        for index, (label, array) in enumerate(zip(labels, pixels, strict=True))
    ]


def _draw_val(pictures: Sequence[Picture], seed: int) -> tuple[Picture, ...]:
    train: dict[str, list[int]] = defaultdict(list)
    for position, picture in enumerate(pictures):
        if picture.split == "train":
            train[picture.label].append(position)
    chosen: set[int] = set()
    for label, positions in train.items():
        count = round(len(positions) * VAL_SHARE)
        chosen.update(_generator(seed, label).permutation(positions)[:count].tolist())
    return tuple(replace(p, split="val") if at in chosen else p for at, p in enumerate(pictures))


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
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
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
