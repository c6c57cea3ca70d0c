"""Finds the pictures below a folder, ``<split>/<class>/*`` or ``<class>/*``, whatever wraps it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edgecnn.errors import DataError
from edgecnn.workstation.data.images import FOREIGN_SUFFIXES, PICTURE_SUFFIXES
from edgecnn.workstation.data.picture import UNSPLIT, Listing, Picture, listed

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Folders that are splits, and what edgecnn calls them."""


def list_folder(path: Path, name: str) -> Listing:
    """Find the pictures below a folder.

    Args:
        path: The folder.
        name: For errors: what the user gave, where the folder is an unpacked archive.

    Raises:
        DataError: If there are no pictures, or none in class folders; if several data sets lie there.
    """
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
        parts = tuple(map(_readable, Path(folder).relative_to(path).parts))
        visible = [file for file in files if not _is_hidden(file)]
        found.update({(*parts, _readable(file)): Path(folder, file) for file in visible})
        if not visible and not folders:
            found[(*parts, "")] = Path(folder)
    return found


def _readable(name: str) -> str:
    r"""Write the bytes of a name that are no UTF-8 as ``\xe9``: lists and reports name every picture."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


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
            f"'{name}' holds several data sets: {listed('/'.join(parts) for parts in outermost)}.",
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
