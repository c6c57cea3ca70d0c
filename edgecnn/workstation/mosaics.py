"""Four pictures in one: a heatmap that answers for all of it has to say which of the four burns."""

from __future__ import annotations

from typing import Any

from edgecnn.workstation.backend import tf

SIDE = 2
"""Pictures side by side, and one below the other."""


def joined(pictures: Any) -> Any:
    """Make mosaics of a batch of pictures, each shrunk to a half by area averaging.

    Source: the mosaics of A. Bochkovskiy et al., "YOLOv4", arXiv 2004.10934, with equal parts.

    Args:
        pictures: Shape (batch, rows, columns, channels), of even sides; some come twice where the batch is
            no multiple of four.

    Returns:
        Shape (batch / 4, rounded up, rows, columns, channels).

    Example:
        >>> batch = tf.reshape(tf.range(4.0), (4, 1, 1, 1)) * tf.ones((4, 2, 2, 1))
        >>> joined(batch)[0, ..., 0].numpy().tolist()
        [[0.0, 1.0], [2.0, 3.0]]
    """
    small = tf.nn.avg_pool2d(_whole(pictures), SIDE, SIDE, "VALID")
    rows, columns, channels = small.shape[1:]
    grid = tf.reshape(small, (-1, SIDE, SIDE, rows, columns, channels))
    return tf.reshape(tf.transpose(grid, (0, 1, 3, 2, 4, 5)), (-1, SIDE * rows, SIDE * columns, channels))


def cut(maps: Any) -> Any:
    """Cut what a network says of mosaics into what it says of each picture.

    Args:
        maps: Shape (count, rows, columns, labels).

    Returns:
        Shape (4 * count, rows / 2, columns / 2, labels), in the order of the pictures.
    """
    _, rows, columns, labels = maps.shape
    grid = tf.reshape(maps, (-1, SIDE, rows // SIDE, SIDE, columns // SIDE, labels))
    return tf.reshape(tf.transpose(grid, (0, 1, 3, 2, 4, 5)), (-1, rows // SIDE, columns // SIDE, labels))


def shrunk(targets: Any) -> Any:
    """Give the targets of pictures that were joined: of four cells the one that is covered most.

    Args:
        targets: Of a heatmap, shape (batch, rows, columns, labels); as ``data.targets.cells`` makes them.

    Returns:
        Shape (batch, rounded up to a multiple of four, rows / 2, columns / 2, labels).
    """
    _, rows, columns, labels = targets.shape
    blocks = tf.reshape(_whole(targets), (-1, rows // SIDE, SIDE, columns // SIDE, SIDE, labels))
    return tf.reduce_max(blocks, (2, 4))  # a max pooling would take NaN for the lowest number


def any_of(targets: Any) -> Any:
    """Say which labels mosaics show, from what their pictures show.

    Args:
        targets: Shape (batch, labels), in [0, 1]; NaN where it is not known.

    Returns:
        Shape (batch / 4, rounded up, labels): 1 where one of the pictures shows it, 0 where none does.

    Example:
        >>> any_of(tf.constant([[0, 0.0], [1, 0], [float("nan"), float("nan")], [0, 0]])).numpy().tolist()
        [[1.0, nan]]
    """
    four = tf.reshape(_whole(targets), (-1, SIDE**2, targets.shape[-1]))
    known = tf.reduce_max(tf.where(tf.math.is_nan(four), -1.0, four), 1)
    return tf.where(known > 0, known, tf.reduce_max(four, 1))


def _whole(batch: Any) -> Any:
    """Fill a batch up to whole mosaics with pictures from its start."""
    count = tf.shape(batch)[0]
    return tf.gather(batch, tf.range(-(-count // SIDE**2) * SIDE**2) % count)
