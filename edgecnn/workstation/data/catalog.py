"""Opens a data set, whatever it comes as: pictures with a split and a label each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from edgecnn.errors import DataError
from edgecnn.workstation.data.archive import is_archive, unpack
from edgecnn.workstation.data.arrays import list_npz
from edgecnn.workstation.data.boxes import BoxFile, with_boxes
from edgecnn.workstation.data.folders import list_folder
from edgecnn.workstation.data.picture import Listing, Picture, in_threads, listed, refuse_broken
from edgecnn.workstation.data.splits import SEED, compared, draw_splits, drawn_from, group

__all__ = [
    "Dataset",
    "Listing",
    "Picture",
    "in_order",
    "in_threads",
    "list_pictures",
    "open_dataset",
    "refuse_broken",
]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled pictures in splits.

    Attributes:
        name: Of the folder or file that it was read from.
        labels: In the order of a model's output.
        pictures: Sorted by path.
        left_out: Class folders that belong to no label.
        unread: Picture files of formats that are not read, and pictures outside of any class folder.
        drawn_from: The split that those which were missing were drawn from, ``all`` or ``train``; None where
            none was. Together with other pictures, or with those of other classes, they come out differently.
        boxes: The files of boxes that were given with the data.
    """

    name: str
    labels: tuple[str, ...]
    pictures: tuple[Picture, ...]
    left_out: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    drawn_from: str | None = None
    boxes: tuple[BoxFile, ...] = ()

    def splits(self) -> tuple[str, ...]:
        """Name the splits: train, val and test first, then the others, sorted."""
        return in_order({picture.split for picture in self.pictures})

    def split(self, name: str) -> tuple[Picture, ...]:
        """Give the pictures of one split.

        Raises:
            DataError: If there is no such split; names those that there are.
        """
        found = tuple(picture for picture in self.pictures if picture.split == name)
        if not found:
            raise DataError(
                f"'{self.name}' has no split '{name}'; it has {listed(self.splits())}.",
                fix=f"Add a folder '{name}/<class>/', or name one of those.",
            )
        return found

    def digest(self) -> str:
        r"""Sum up what decides over a training: the pictures that teach, and those that choose the epoch.

        SHA-256 of the sorted ``<sha256>  <path>\n`` lines of train, an empty line, and those of val. The
        two stay apart because a val that is drawn from train keeps its paths. A path says the class folder;
        where there are none, in an ``.npz``, the label follows it: ``<sha256>  <path>  <label>\n``.

        Raises:
            DataError: If there is no train, or a picture cannot be read.
        """
        val = tuple(picture for picture in self.pictures if picture.split == "val")
        text = "\n".join(_digest_lines(pictures) for pictures in (self.split("train"), val))
        return hashlib.sha256(text.encode()).hexdigest()


def _digest_lines(pictures: Sequence[Picture]) -> str:
    names = [
        picture.path if isinstance(picture.source, Path) else f"{picture.path}  {picture.label}"
        for picture in pictures
    ]
    digests = in_threads(Picture.sha256, pictures)
    return "".join(sorted(f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True)))


LEFT_OUT = "left_out"
"""The split of pictures that are neither trained nor chosen on."""


def open_dataset(
    path: Path | Sequence[Path],
    classes: Mapping[str, Sequence[str]] | None = None,
    seed: int = SEED,
    leave_out: Sequence[str] = (),
    boxes: Sequence[Path] = (),
) -> Dataset:
    """Open labelled pictures: a folder, a ``.tar[.gz|.xz]`` or ``.zip`` of one, or a Keras ``.npz``.

    A folder holds ``<split>/<class>/*``, or ``<class>/*``, which is then split 80 : 10 : 10 by content and
    seed; wrapping folders are looked through. An ``.npz`` holds ``x_train``, ``y_train``, ``x_test`` and
    ``y_test``. Where there is train and no val, a tenth of train, drawn by class and seed, becomes val.
    Near-duplicates stay together, whatever is drawn.

    Args:
        path: The folder or file; several become one set, in which class folders of one name are one class,
            and each picture's path begins with the name of its set. A set of several may have only train.
        classes: Label -> class folders that belong to it, in the order of the labels; folders in no label
            are left out. Without it every folder is a label, sorted.
        seed: Of the splits that are drawn.
        leave_out: Globs on file names; pictures of train and val that match become the split ``left_out``.
        boxes: Files that say where pictures show something, in place of a ``boxes.json`` above these.

    Raises:
        DataError: If it is no such data; if a class is missing or has no picture to train on; if there is
            only one class; if a glob matches nothing; if a file of boxes is none, or not of these pictures;
            if a picture is broken and the splits have to be drawn.
    """
    paths = (path,) if isinstance(path, Path) else tuple(path)
    listing = list_pictures(*paths)
    name = "+".join(path.name for path in paths)
    where = str(paths[0]) if len(paths) == 1 else name
    labels, label_of = _labels(listing, classes, where)
    kept = tuple(
        replace(picture, label=label_of[picture.folder])
        for picture in listing.pictures
        if picture.folder in label_of
    )
    source = drawn_from(kept)
    if source:
        kept = draw_splits(kept, *group([kept[place] for place in compared(kept)]), seed)
    kept = _without(kept, leave_out, where)
    _refuse_empty(kept, labels, listing, where)
    folders = {picture.folder for picture in listing.pictures}
    left_out = tuple(sorted(folders - set(label_of)))
    kept, known = with_boxes(kept, boxes)
    return Dataset(name, labels, kept, left_out, listing.unread, source, known)


def _joined(paths: Sequence[Path]) -> Listing:
    """List several sets as one.

    Raises:
        DataError: If two of them have one name, so that their pictures could not be told apart.
    """
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        raise DataError(
            f"Two sets of pictures have one name: {', '.join(names)}.", fix="Rename one, or give it once."
        )
    listings = [_list_one(path) for path in paths]
    return Listing(
        tuple(
            replace(picture, path=f"{name}/{picture.path}")
            for name, listing in zip(names, listings, strict=True)
            for picture in listing.pictures
        ),
        tuple(empty for listing in listings for empty in listing.empty),
        tuple(
            f"{name}/{file}" for name, listing in zip(names, listings, strict=True) for file in listing.unread
        ),
    )


def _without(pictures: Sequence[Picture], globs: Sequence[str], where: str) -> tuple[Picture, ...]:
    """Move the pictures whose file names match out of train and val."""
    for glob in globs:
        if not any(is_named_like(picture, (glob,)) for picture in pictures):
            raise DataError(
                f"No picture of '{where}' is named like '{glob}'.", fix="Correct --leave-out or leave_out."
            )
    return tuple(
        replace(picture, split=LEFT_OUT)
        if picture.split in ("train", "val") and is_named_like(picture, globs)
        else picture
        for picture in pictures
    )


def is_named_like(picture: Picture, globs: Sequence[str]) -> bool:
    """Tell whether a picture's file name fits one of several globs."""
    return any(fnmatchcase(picture.path.rsplit("/", 1)[-1], glob) for glob in globs)


def list_pictures(*paths: Path) -> Listing:
    """Find the pictures of a data set, or of several together, without judging it.

    Raises:
        DataError: If a path is no folder, archive or ``.npz``, or holds no pictures in class folders, or two
            have one name.
    """
    return _list_one(paths[0]) if len(paths) == 1 else _joined(paths)


def _list_one(path: Path) -> Listing:
    if path.is_dir():
        return list_folder(path, str(path))
    if not path.exists():
        raise DataError(
            f"There is no '{path}'.",
            fix="Pass a folder <split>/<class>/*, an archive of one, or an .npz; "
            "'edgecnn data fetch NAME' gets a public set.",
        )
    if path.suffix.lower() == ".npz":
        return list_npz(path)
    if is_archive(path):
        return list_folder(unpack(path), str(path))
    raise DataError(
        f"'{path}' is neither a folder, nor a .tar, .tar.gz, .tar.xz, .zip or .npz.",
        fix="Pass a folder <split>/<class>/*, or pack it into one of those.",
    )


def _labels(
    listing: Listing, classes: Mapping[str, Sequence[str]] | None, where: str
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
                    f"Label '{label}' needs the folder '{folder}', which '{where}' has not; "
                    f"it has {listed(folders)}.",
                    fix="Correct [classes] in the recipe, or add the folder.",
                )
            if folder in label_of:
                raise DataError(
                    f"The folder '{folder}' belongs to two labels, '{label_of[folder]}' and '{label}'.",
                    fix="Name it once in [classes] of the recipe.",
                )
            label_of[folder] = label
    return tuple(classes), label_of


def _refuse_empty(pictures: Sequence[Picture], labels: Sequence[str], listing: Listing, name: str) -> None:
    if len(labels) < 2:
        raise DataError(
            f"'{name}' holds one class only, '{labels[0]}'; telling apart needs at least two.",
            fix="Add a folder of pictures that show something else.",
        )
    split = "train" if any(picture.split == "train" for picture in pictures) else None
    present = {picture.label for picture in pictures if split in (None, picture.split)}
    missing = [label for label in labels if label not in present]
    if missing:
        where = f" in '{split}'" if split else ""
        empty = f" (empty: {listed(listing.empty)})" if listing.empty else ""
        raise DataError(
            f"'{name}' has no picture of {listed(missing)}{where}{empty}.",
            fix="Add pictures, or remove the folder.",
        )


def _sorted_folders(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names; numbers by value, so that the digits and the 100 classes of CIFAR keep their order."""
    names = list(names)
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def in_order(splits: Iterable[str]) -> tuple[str, ...]:
    """Sort names of splits: train, val and test first."""
    first = ("train", "val", "test")
    return tuple(sorted(splits, key=lambda name: (first.index(name) if name in first else 3, name)))
