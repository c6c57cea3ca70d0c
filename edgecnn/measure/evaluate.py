"""Every model on every picture: which pictures test which head, and the scores that come of it."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle.manifest import Manifest
from edgecnn.core.alarm import Box
from edgecnn.core.frame import Frame, InputSpec, Pixels, resize
from edgecnn.core.place import lies_in, peak_of
from edgecnn.core.prediction import Head, Prediction, Scores, highest
from edgecnn.core.zones import Window
from edgecnn.errors import DataError
from edgecnn.measure.accuracy import Decisions, is_exclusive, truth
from edgecnn.measure.report import Skipped
from edgecnn.measure.watched import Clip

_READ_AHEAD = 32


class LabelledPicture(Protocol):
    """A picture of which the truth is known."""

    @property
    def path(self) -> str:
        """Where it lies within the data; names it in the report."""

    @property
    def label(self) -> str:
        """What it shows."""

    def read(self) -> Pixels:
        """Give its pixels, shape (height, width, 3), red first."""


class Threaded(Protocol):
    """What computes."""

    @property
    def threads(self) -> int:
        """How many threads."""


class Model(Protocol):
    """What the bench must know about a model and have it do."""

    @property
    def name(self) -> str:
        """Of the manifest, or of the file."""

    @property
    def path(self) -> Path:
        """Of the file."""

    @property
    def sha256(self) -> str:
        """Of the file."""

    @property
    def size_bytes(self) -> int:
        """Of the file."""

    @property
    def precision(self) -> str:
        """For instance ``int8``."""

    @property
    def input(self) -> InputSpec:
        """What it eats."""

    @property
    def heads(self) -> Sequence[Head]:
        """What it answers."""

    @property
    def manifest(self) -> Manifest | None:
        """What it says about itself; ``None`` for a foreign file."""

    @property
    def interpreter(self) -> Threaded:
        """What computes."""

    def predict(self, frame: Frame) -> Prediction:
        """Give the scores of one frame, with times."""

    def scores(self, codes: Pixels) -> Mapping[str, Scores]:
        """Give the scores of one picture that was resized already."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """What the accuracy is measured on.

    Attributes:
        name: Of the data, for the report.
        split: For instance ``test``.
        items: The pictures.
        by_folder: Whether a picture's label is its folder, of which each model's manifest says what it shows.
        boxes: By path and label, where pictures show something, as shares of the picture; of one that is
            not there nobody said where.
        clips: What is watched besides.
        only: Globs of the file names that were asked for; empty for the whole split.
    """

    name: str
    split: str
    items: Sequence[LabelledPicture]
    by_folder: bool = False
    boxes: Mapping[str, Mapping[str, tuple[Box, ...]]] = field(default_factory=dict)
    clips: tuple[Clip, ...] = ()
    only: tuple[str, ...] = ()


Hits = dict[str, dict[str, list[bool]]]
"""By heatmap and label: of each picture with a box of the label, in the order of the pictures, whether the
heatmap's peak lies in one."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of every model on every picture that could be read.

    Attributes:
        items: The pictures.
        scores: By model, by head: shape (picture_count, label_count).
        skipped: Pictures that could not be read, with the reason.
        by_folder: As of ``Pictures``.
        hits: By model.
    """

    items: tuple[LabelledPicture, ...]
    scores: tuple[dict[str, NDArray[np.float32]], ...]
    skipped: tuple[Skipped, ...]
    by_folder: bool = False
    hits: tuple[Hits, ...] = ()

    @property
    def labels(self) -> list[str]:
        """What each picture shows."""
        return [item.label for item in self.items]

    def truth(self, head: Head, model: Model) -> tuple[Decisions, Decisions]:
        """Say which labels of a head hold in each picture, and of which that is known."""
        return truth_for(self.labels, head, model.manifest, self.by_folder)


def truth_for(
    labels: Sequence[str], head: Head, manifest: Manifest | None, by_folder: bool
) -> tuple[Decisions, Decisions]:
    """Say which labels of a head hold in each picture, and of which that is known.

    Args:
        labels: Of the pictures.
        head: Which one.
        manifest: Says which folders show a label and which do not; of any other nobody knows. Without one,
            the folder of its name shows a label.
        by_folder: As of ``Pictures``.

    Returns:
        Both of shape (picture_count, label_count).
    """
    if not by_folder:
        holds = truth(labels, head)
        return holds, np.ones_like(holds)
    folders = np.array(labels, dtype=str)
    classes, negatives = (manifest.classes, manifest.negatives) if manifest else ({}, {})
    holds = np.stack([np.isin(folders, classes.get(label, (label,))) for label in head.labels], axis=1)
    if is_exclusive(head):
        return holds, np.repeat(holds.any(axis=1, keepdims=True), holds.shape[1], axis=1)
    absent = [np.isin(folders, negatives.get(label, ())) for label in head.labels]
    return holds, holds | np.stack(absent, axis=1)


Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def count(progress: Progress, what: str, total: int) -> Callable[[], None]:
    """Make what is called after each of ``total`` steps, and tells ``progress`` how far it is."""
    counter = itertools.count(1)
    return lambda: progress(what, next(counter), total)


def heads_that_fit(model: Model, pictures: Pictures) -> tuple[Head, ...]:
    """Choose the heads that pictures with these labels can test.

    A head that decides for exactly one label must know every label of the pictures. One of several
    sigmoids need not: a picture of something else shows none of its labels.

    Raises:
        DataError: If no head fits.
    """
    labels = {picture.label for picture in pictures.items}

    def fits(head: Head) -> bool:
        if pictures.by_folder:
            return bool(truth_for(sorted(labels), head, model.manifest, by_folder=True)[1].any())
        return labels <= set(head.labels) if is_exclusive(head) else bool(labels & set(head.labels))

    fitting = tuple(head for head in model.heads if fits(head))
    if not fitting:
        raise DataError(
            f"The labels of '{pictures.name}' ({_some(labels)}) do not fit those of "
            f"'{model.path.name}' ({'; '.join(_some(head.labels) for head in model.heads)}).",
            fix="Name the folders of the data like the labels, give a foreign file its labels with "
            "--labels, or leave out --data to measure the latency only.",
        )
    return fitting


def _some(labels: Iterable[str], shown: int = 8) -> str:
    names = sorted(labels)
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def evaluate(models: Sequence[Model], pictures: Pictures, progress: Progress = silent) -> Evaluation:
    """Run every model on every picture: read once, resized once for each distinct input.

    Args:
        models: At least one.
        pictures: One that cannot be read is left out and named.
        progress: Told how far it is.

    Returns:
        The scores.

    Raises:
        DataError: If not one picture can be read.
    """
    inputs = tuple(dict.fromkeys(model.input for model in models))
    kept: list[LabelledPicture] = []
    skipped: list[Skipped] = []
    rows: list[dict[str, list[NDArray[np.float32]]]] = [{h.name: [] for h in m.heads} for m in models]
    hits = tuple(_no_hits(model) for model in models)
    tick = count(progress, "Evaluating", len(pictures.items))
    with contextlib.closing(_read_ahead(pictures.items, inputs)) as read:
        for item, found in read:
            if isinstance(found, DataError):
                skipped.append(Skipped(item.path, found.message))
            else:
                kept.append(item)
                boxes = pictures.boxes.get(item.path, {})
                for model, columns, seen in zip(models, rows, hits, strict=True):
                    answers = model.scores(found.codes[model.input])
                    for head, scores in answers.items():
                        columns[head].append(highest(scores))
                    if boxes and seen:
                        _look_where(seen, answers, model, boxes, Window.of(model.input, *found.size_px))
            tick()
    if not kept:
        reason = f" The first: {skipped[0].reason}" if skipped else ""
        raise DataError(
            f"None of the {len(pictures.items)} pictures of '{pictures.name}' can be read.{reason}",
            fix="Look at the data with 'edgecnn data check'.",
        )
    stacked = tuple({head: np.stack(column) for head, column in columns.items()} for columns in rows)
    return Evaluation(tuple(kept), stacked, tuple(skipped), pictures.by_folder, hits)


def _no_hits(model: Model) -> Hits:
    return {head.name: {label: [] for label in head.labels} for head in model.heads if head.kind == "heatmap"}


def _look_where(
    hits: Hits,
    answers: Mapping[str, Scores],
    model: Model,
    boxes: Mapping[str, Sequence[Box]],
    window: Window,
) -> None:
    """Take note of whether the peaks of one picture's heatmaps lie in its boxes."""
    for head in model.heads:
        # Of a foreign file an output of two axes may pass for a heatmap; it has no place.
        if head.name in hits and answers[head.name].ndim == 3:
            for column, label in enumerate(head.labels):
                if label in boxes:
                    peak = peak_of(answers[head.name][..., column], window)
                    hits[head.name][label].append(lies_in(peak, boxes[label]))


@dataclass(frozen=True, slots=True)
class _Read:
    """A picture as each input wants it, and how large it was: height and width."""

    codes: dict[InputSpec, Pixels]
    size_px: tuple[int, int]


def _read_ahead(
    items: Sequence[LabelledPicture], inputs: Sequence[InputSpec]
) -> Generator[tuple[LabelledPicture, _Read | DataError], None, None]:
    """Decode the next pictures on another thread while the interpreter works on this one."""

    def prepare(item: LabelledPicture) -> _Read | DataError:
        try:
            pixels = item.read()
        except DataError as error:
            return error
        height_px, width_px = pixels.shape[:2]
        return _Read({spec: resize(pixels, spec) for spec in inputs}, (height_px, width_px))

    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting: deque[tuple[LabelledPicture, Future[_Read | DataError]]] = deque()
        rest = iter(items)
        for item in itertools.islice(rest, _READ_AHEAD):
            waiting.append((item, pool.submit(prepare, item)))
        try:
            while waiting:
                item, future = waiting.popleft()
                for coming in itertools.islice(rest, 1):
                    waiting.append((coming, pool.submit(prepare, coming)))
                yield item, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
