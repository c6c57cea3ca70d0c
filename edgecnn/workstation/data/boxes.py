"""Where pictures and clips show something, as people marked it: ``boxes.json`` and ``videos.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from edgecnn.core.alarm import Box
from edgecnn.errors import DataError
from edgecnn.measure.watched import Clip
from edgecnn.workstation.data.archive import file_sha256
from edgecnn.workstation.data.picture import Boxed, Picture, listed, share_of

_FOLDERS_ABOVE: Final = 5
"""So many folders above a picture may hold what is known of it: <root>/images/<split>/<class> are four."""

_WRONG: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What a file of JSON that holds something else than expected raises while it is read."""


@dataclass(frozen=True, slots=True)
class BoxFile:
    """A file of boxes that lies elsewhere than above the pictures.

    Attributes:
        name: Of the file.
        sha256: Digest of its bytes.
        picture_count: Pictures of the data that it has boxes of.
        unknown: Those that it names and the data lack.
    """

    name: str
    sha256: str
    picture_count: int
    unknown: tuple[str, ...]


def boxes_of(pictures: Collection[Picture]) -> dict[str, Boxed]:
    """Read where pictures show something, from a ``boxes.json`` above them and from what was given with them.

    Returns:
        By the picture's path; a picture without boxes is not there.

    Raises:
        DataError: If a ``boxes.json`` is not what COCO describes.

    Source:
        T.-Y. Lin et al., "Microsoft COCO", ECCV 2014: ``bbox`` is left, top, width, height in pixels.
    """
    roots: dict[Path, Path | None] = {}
    known: dict[Path, dict[str, Boxed]] = {}
    found = {picture.path: picture.boxed for picture in pictures if picture.boxed}
    for picture in pictures:
        if not isinstance(picture.source, Path):
            continue
        folder = picture.source.parent
        if folder not in roots:
            roots[folder] = _root_of(folder, "boxes.json")
        root = roots[folder]
        if root is None:
            continue
        if root not in known:
            known[root] = _read_boxes(root / "boxes.json")
        if above := known[root].get(picture.source.relative_to(root).as_posix()):
            found[picture.path] = picture.boxed.over(above) if picture.boxed else above
    return found


def with_boxes(
    pictures: Sequence[Picture], files: Sequence[Path]
) -> tuple[tuple[Picture, ...], tuple[BoxFile, ...]]:
    """Say where pictures show something by files, which for labels of theirs count in place of those above.

    A file names a picture by the end of its path, ``a.jpg`` or ``train/fire/a.jpg``.

    Returns:
        The pictures in their order, and what each file knows of them.

    Raises:
        DataError: If a file is not what COCO describes, knows none of the pictures, has a name of two, or
            boxes of a label in a picture in which that label has some already.
    """
    if not files:
        return tuple(pictures), ()
    by_name: dict[str, list[Picture]] = {}
    for picture in pictures:
        by_name.setdefault(PurePosixPath(picture.path).name, []).append(picture)
    found: dict[str, Boxed] = {}
    known = []
    for file in files:
        boxes = _read_boxes(file)
        paths = {name: path for name in boxes if (path := _path_of(name, by_name, file))}
        unknown = tuple(name for name in boxes if name not in paths)
        if not paths:
            raise DataError(
                f"The boxes '{file}' are of none of the pictures; the first is of '{unknown[0]}'."
                if unknown
                else f"'{file}' holds no boxes.",
                fix="Give the end of each picture's path as file_name, for instance train/fire/a.jpg.",
            )
        for name, path in paths.items():
            before = found.get(path)
            if before and (twice := before.by_label_px.keys() & boxes[name].by_label_px.keys()):
                raise DataError(
                    f"'{name}' in the boxes '{file}' has boxes of {listed(sorted(twice))} in '{path}', "
                    "of which some were given already.",
                    fix="Say in one place only where a picture shows a label.",
                )
            found[path] = boxes[name].over(before)
        known.append(BoxFile(file.name, file_sha256(file), len(paths), unknown))
    boxed_ones = (replace(p, boxed=found[p.path]) if p.path in found else p for p in pictures)
    return tuple(boxed_ones), tuple(known)


def _path_of(name: str, by_name: Mapping[str, Sequence[Picture]], file: Path) -> str | None:
    parts = PurePosixPath(name).parts
    named = [picture.path for picture in by_name.get(parts[-1], ()) if _ends_with(picture, parts)]
    if len(named) > 1:
        raise DataError(
            f"'{name}' in the boxes '{file}' may be each of {listed(named)}.",
            fix=f"Write more of its path as file_name: '{named[0]}'.",
        )
    return named[0] if named else None


def _ends_with(picture: Picture, parts: tuple[str, ...]) -> bool:
    own = [PurePosixPath(picture.path).parts]
    if isinstance(picture.source, Path):  # its folders may be more than what the data set calls it by
        own.append(picture.source.parts)
    return any(one[-len(parts) :] == parts for one in own)


def clips_of(pictures: Sequence[Picture], split: str, name: str) -> tuple[Clip, ...]:
    """List the clips of a split, from a ``videos.json`` that lies above the pictures of a data set.

    It is a list of ``{"file", "split", "label"}``, each with, where that is known, ``width``, ``height`` and
    ``boxes_xywh_px``: by number of the frame, counted from 0, where the label is seen.

    Args:
        pictures: Any of the data set.
        split: Which one.
        name: Of the data, for errors.

    Raises:
        DataError: If there is no such file, it is not what it should be, or a clip is not there.
    """
    folders = dict.fromkeys(p.source.parent for p in pictures if isinstance(p.source, Path))
    roots = dict.fromkeys(root for folder in folders if (root := _root_of(folder, "videos.json")))
    if not roots:
        raise DataError(
            f"'{name}' has no clips: no videos.json lies above its pictures.",
            fix="Write one as docs/data.md says, or leave out --clips.",
        )
    every = [entry for root in roots for entry in _read_clips(root / "videos.json")]
    clips = tuple(clip for clip_split, clip in every if clip_split == split)
    if not clips:
        splits = sorted({clip_split for clip_split, _ in every})
        raise DataError(
            f"'{name}' has no clip in the split '{split}'; it has some in {listed(splits)}.",
            fix="Name one of those with --split, or leave out --clips.",
        )
    for clip in clips:
        if not clip.path.is_file():
            raise DataError(
                f"The clip '{clip.name}', which videos.json names, is not there.",
                fix="Put it back, or take it out of videos.json.",
            )
    return clips


def _root_of(folder: Path, name: str) -> Path | None:
    above = (folder, *folder.parents[: _FOLDERS_ABOVE - 1])
    return next((place for place in above if (place / name).is_file()), None)


def _read_boxes(file: Path) -> dict[str, Boxed]:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in table["categories"]}
        images = {image["id"]: image for image in table["images"]}
        boxes: dict[Any, dict[str, list[Box]]] = {}
        for annotation in table["annotations"]:
            by_label = boxes.setdefault(annotation["image_id"], {})
            by_label.setdefault(names[annotation["category_id"]], []).append(_box(annotation["bbox"]))
        known: dict[str, Boxed] = {}
        for number, by_label in boxes.items():
            image = images[number]
            if (name := _file_name(image["file_name"])) in known:
                raise ValueError(f"two images are called '{name}'")
            found = {label: tuple(every) for label, every in by_label.items()}
            known[name] = Boxed(_size(image["height"]), _size(image["width"]), found)
        return known
    except _WRONG as error:
        raise DataError(
            f"The boxes '{file}' cannot be read: {type(error).__name__}: {error}.",
            fix="Write them as COCO does (images, annotations, categories), or remove the file.",
        ) from error


def _read_clips(file: Path) -> list[tuple[str, Clip]]:
    """Read every clip with its split."""
    try:
        return [(entry["split"], _clip(file.parent, entry)) for entry in json.loads(file.read_text("utf-8"))]
    except _WRONG as error:
        raise DataError(
            f"The list of clips '{file}' cannot be read: {type(error).__name__}: {error}.",
            fix="Write it as docs/data.md says: a list of file, split and label.",
        ) from error


def _clip(root: Path, entry: Mapping[str, Any]) -> Clip:
    frames = entry.get("boxes_xywh_px") or {}
    size = (_size(entry["height"]), _size(entry["width"])) if frames else (1, 1)
    boxes = {
        int(number): tuple(share_of(_box(box), *size) for box in found) for number, found in frames.items()
    }
    return Clip(Path(entry["file"]).stem, root / entry["file"], str(entry["label"]), boxes)


def _box(xywh: Sequence[float]) -> Box:
    left, top, width, height = map(float, xywh)
    box = (left, top, left + width, top + height)
    if not all(map(math.isfinite, box)):
        raise ValueError(f"{xywh} is no box")
    return box


def _file_name(name: Any) -> str:
    if not isinstance(name, str) or not PurePosixPath(name).name:
        raise ValueError(f"{name!r} is no file_name")
    return name


def _size(length_px: Any) -> int:
    if int(length_px) < 1:
        raise ValueError(f"a picture of {length_px} pixels")
    return int(length_px)
