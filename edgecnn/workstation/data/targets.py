"""What each head should answer for each picture, and what nobody knows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.alarm import Box
from edgecnn.core.frame import InputSpec, resize
from edgecnn.core.prediction import Head
from edgecnn.core.zones import Window
from edgecnn.errors import DataError
from edgecnn.workstation.data.boxes import boxes_of
from edgecnn.workstation.data.picture import Picture
from edgecnn.workstation.recipe import HeadSpec

Values = NDArray[np.float32]
Mask = NDArray[np.uint8]

SOMEWHERE = -1.0
"""In all cells of a heatmap: the picture shows the label, but nobody said where."""

FINE = 4
"""Rows and columns of a mask for one of the heatmap: fine enough to be turned and cut like the picture."""

FULL_SHARE = 0.25
"""A cell of which this much is covered is wholly positive; a smaller share counts by its part of this."""

GENERATED = ("fire", "smoke")
"""Labels of which a rendered picture is known to show them or not."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What one head should answer.

    Attributes:
        values: Shape (count, neurons), in [0, 1]; NaN where it is not known.
        grid: Rows and columns of a heatmap; none for other heads.
        masks: Where the labels are seen, shape (mask_count, rows * FINE, columns * FINE, labels), 0 to 255.
        mask_of: Position of each picture's mask, shape (count,); -1 for none.
        boxes: Of each mask and label the boxes that it was drawn from, as shares of the network's input;
            none of a mask that was drawn otherwise.
    """

    values: Values
    grid: tuple[int, int] | None = None
    masks: Mask = field(default_factory=lambda: np.zeros((0, 0, 0, 0), np.uint8))
    mask_of: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    boxes: tuple[tuple[tuple[Box, ...], ...], ...] = ()

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.values)

    def first(self, count: int) -> Targets:
        """Give those of the first so many pictures."""
        return replace(self, values=self.values[:count], mask_of=self.mask_of[:count])

    def mask(self, row: int) -> Mask | None:
        """Give the mask of a picture, if there is one."""
        return self.masks[self.mask_of[row]] if self.grid and self.mask_of[row] >= 0 else None

    def answer(self, row: int, mask: Mask | None = None) -> Values:
        """Give what the network should say: shape (neurons,), or (rows, columns, labels).

        Args:
            row: Of the picture.
            mask: The picture's mask, moved as the picture was.
        """
        return cells(self.values[row], mask, self.grid) if self.grid else self.values[row]

    def all(self) -> Values:
        """Give the answers to all pictures as they are, one a row."""
        if not self.grid:
            return self.values
        shape = (0, *self.grid, self.values.shape[1])
        return np.array([self.answer(row, self.mask(row)) for row in range(len(self))], np.float32).reshape(
            -1, *shape[1:]
        )


def cells(values: Values, mask: Mask | None, grid: tuple[int, int]) -> Values:
    """Say what the cells of a heatmap should be.

    Args:
        values: Whether the picture shows each label, shape (labels,); NaN where it is not known.
        mask: Where, shape (rows * FINE, columns * FINE, labels).
        grid: Rows and columns.

    Returns:
        Shape (rows, columns, labels): in [0, 1]; NaN where not known; ``SOMEWHERE`` in all cells where
        only the picture as a whole is known.

    Example:
        >>> cells(np.float32([1, 0, np.nan]), None, (1, 1)).ravel().tolist()
        [-1.0, 0.0, nan]
    """
    answer = np.broadcast_to(np.where(values > 0, SOMEWHERE, values), (*grid, len(values)))
    if mask is None:
        return np.array(answer, np.float32)
    covered = cv2.resize(mask, grid[::-1], interpolation=cv2.INTER_AREA).reshape(answer.shape) / np.float32(
        255
    )
    largest = covered.max(axis=(0, 1))
    # The cell with most of a far flame is positive, however little of it the flame fills.
    share = np.minimum(covered / np.clip(largest, 1e-6, FULL_SHARE), 1)
    return np.where(largest > 0, share, answer).astype(np.float32)


def join(parts: Sequence[Targets]) -> Targets:
    """Put the targets of several sets of pictures one after the other."""
    first = parts[0]
    if not first.grid:
        return Targets(np.concatenate([part.values for part in parts]))
    starts = np.cumsum([0, *(len(part.masks) for part in parts)])
    return Targets(
        np.concatenate([part.values for part in parts]),
        first.grid,
        np.concatenate([part.masks for part in parts]),
        np.concatenate(
            [
                np.where(part.mask_of < 0, -1, part.mask_of + start)
                for part, start in zip(parts, starts[:-1], strict=True)
            ]
        ),
        tuple(boxes for part in parts for boxes in part.boxes),
    )


def targets_of(
    pictures: Sequence[Picture],
    head: Head,
    spec: HeadSpec | None = None,
    grid: tuple[int, int] | None = None,
    input: InputSpec | None = None,
) -> Targets:
    """Say what one head should answer for pictures, from their folders and boxes.

    Args:
        pictures: In the order of the result.
        head: Which one.
        spec: What folders say about it; without it a picture's label is the head's.
        grid: Rows and columns of a heatmap.
        input: How a heatmap's pictures are resized.

    Raises:
        DataError: If a picture has a label that the head does not know, or boxes cannot be read.
    """
    rows = {label: _row(label, head, spec) for label in {picture.label for picture in pictures}}
    values = np.array([rows[picture.label] for picture in pictures], np.float32)
    values = values.reshape(len(pictures), head.neuron_count)
    if spec is None or head.kind == "softmax":
        return Targets(values)
    boxes = boxes_of(pictures)
    for position, picture in enumerate(pictures):
        for column, label in enumerate(head.labels):
            # A fire picture's folder says nothing about smoke; a box of smoke does.
            boxed = boxes.get(picture.path)
            if np.isnan(values[position, column]) and boxed and label in boxed.by_label_px:
                values[position, column] = 1
    if grid is None or input is None:
        return Targets(values)
    mask_of = np.full(len(pictures), -1, np.int64)
    masks: list[Mask] = []
    seen = []
    for position, picture in enumerate(pictures):
        if found := boxes.get(picture.path):
            mask_of[position] = len(masks)
            masks.append(mask_for(found.masks(), head.labels, grid, input))
            window = Window.of(input, found.height_px, found.width_px)
            shares = found.shares()
            seen.append(tuple(tuple(map(window.in_input, shares.get(x, ()))) for x in head.labels))
    return Targets(values, grid, _stacked(masks, grid, head), mask_of, tuple(seen))


def targets_of_generated(
    shown: Sequence[Collection[str]],
    masks: Sequence[Mapping[str, NDArray[np.bool_]]],
    head: Head,
    grid: tuple[int, int] | None,
    input: InputSpec,
) -> Targets:
    """Say what one head should answer for rendered pictures, of which fire and smoke are known.

    Args:
        shown: Labels that each picture shows; of ``GENERATED``, what is not there is not shown.
        masks: Where, by label, shape (height, width).
        head: Which one.
        grid: Rows and columns of a heatmap.
        input: How the pictures are resized.
    """
    columns = head.labels[1:] if head.is_binary else head.labels
    values = np.full((len(shown), head.neuron_count), np.nan, np.float32)
    if head.kind != "softmax":
        for column, label in enumerate(columns):
            if label in GENERATED:
                values[:, column] = [label in labels for labels in shown]
    if grid is None:
        return Targets(values)
    drawn = [mask_for(by_label, head.labels, grid, input) for by_label in masks if by_label]
    has_mask = np.array([bool(by_label) for by_label in masks], bool)
    mask_of = np.where(has_mask, np.cumsum(has_mask) - 1, -1).astype(np.int64)
    return Targets(
        values, grid, _stacked(drawn, grid, head), mask_of, (((),) * len(head.labels),) * len(drawn)
    )


def mask_for(
    by_label: Mapping[str, NDArray[np.bool_]], labels: Sequence[str], grid: tuple[int, int], input: InputSpec
) -> Mask:
    """Bring masks of a picture to the grid: shape (rows * FINE, columns * FINE, labels), 0 to 255.

    Args:
        by_label: Masks of the picture's own size, at least one.
        labels: In the order of the result; what has no mask is nowhere.
        grid: Rows and columns.
        input: How the picture is resized; its mask goes the same way.
    """
    rows, columns = grid
    spec = InputSpec(rows * FINE, columns * FINE, 3, input.resize)
    fine = np.zeros((rows * FINE, columns * FINE, len(labels)), np.uint8)
    for column, label in enumerate(labels):
        if label in by_label:
            white = np.repeat(by_label[label][..., None], 3, axis=2).astype(np.uint8) * np.uint8(255)
            fine[..., column] = resize(white, spec)[..., 0]
    return fine


def _row(label: str, head: Head, spec: HeadSpec | None) -> Values:
    if spec is None:
        if label not in head.labels:
            raise DataError(
                f"The data have a label '{label}'; the model knows {', '.join(head.labels)}.",
                fix="Pass the data that the model was made for, or map folders to labels by [classes].",
            )
        place = head.labels.index(label)
        return np.array([place] if head.is_binary else np.eye(len(head.labels))[place], np.float32)
    shows = np.array([label in spec.classes[name] for name in head.labels])
    if head.kind == "softmax":
        return shows.astype(np.float32) if shows.any() else np.full(len(shows), np.nan, np.float32)
    lacks = np.array([label in spec.negatives.get(name, ()) for name in head.labels])
    return np.where(shows, 1, np.where(lacks, 0, np.nan)).astype(np.float32)


def _stacked(masks: Sequence[Mask], grid: tuple[int, int], head: Head) -> Mask:
    shape = (-1, grid[0] * FINE, grid[1] * FINE, len(head.labels))
    return np.array(masks, np.uint8).reshape(shape) if masks else np.zeros((0, *shape[1:]), np.uint8)
