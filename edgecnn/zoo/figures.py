"""What was measured of a model that ships, and on which pictures; ``figures.json`` beside it holds it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edgecnn.errors import BundleError


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with its 95 % interval.

    Attributes:
        value: A share in [0, 1], an area under a curve, or percentage points.
        low: Lower end of the interval.
        high: Upper end of it.
        count: Pictures that it comes from.
    """

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """How one label fares; None where no picture tells.

    Attributes:
        label: Its name.
        recall: Share of the pictures that show it that were decided for it.
        false_alarms: Share of the pictures that do not show it that were decided for it.
        accuracy: Share of all pictures of which is known whether they show it that were decided right; None
            for a softmax of three labels or more, which is right or wrong as a whole.
        auc: Area under its ROC curve; likewise.
        place: Of a heatmap, share of the pictures with boxes of the label whose peak lies in one.
        unknown: Share of the pictures of which nobody says whether they show it that were decided for it.
    """

    label: str
    recall: Figure | None = None
    false_alarms: Figure | None = None
    accuracy: Figure | None = None
    auc: Figure | None = None
    place: Figure | None = None
    unknown: Figure | None = None


@dataclass(frozen=True, slots=True)
class HeadFigures:
    """How one answer fares.

    Attributes:
        head: Its name.
        accuracy: Share of the pictures of which every label is right.
        labels: Each by itself.
        drop: Percentage points lost from the float model; None where that was not measured.
    """

    head: str
    accuracy: Figure
    labels: tuple[LabelFigures, ...] = ()
    drop: Figure | None = None


@dataclass(frozen=True, slots=True)
class PictureSet:
    """What was measured on one set of pictures.

    Attributes:
        data: Name of the folder or archive.
        split: For instance ``test``.
        count: Pictures.
        heads: By answer.
        left_out: Globs of the file names that a model like this one was trained without, and that it was
            then measured on; empty for the model itself.
    """

    data: str
    split: str
    count: int
    heads: tuple[HeadFigures, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Speed:
    """How long one call takes from pixels to scores, and under which conditions.

    Attributes:
        p50_ms: Half of the calls took at most this long.
        p90_ms: Nine in ten.
        p99_ms: Ninety-nine in a hundred.
        calls: That were timed.
        warmup_calls: That went before.
        threads: Of the interpreter.
        cpu: Of the machine.
        runtime: Name and version of the interpreter.
        float_p50_ms: Of the float model, by turns with this one; None where it was not measured.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    calls: int
    warmup_calls: int
    threads: int
    cpu: str
    runtime: str
    float_p50_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ClipFigures:
    """What a model that watched a clip for one label made of it.

    Attributes:
        clip: Name of the clip.
        label: What was watched for.
        shows: Whether the clip shows it; None where nobody says.
        seconds: How long the clip is.
        alarm: In words: when it came, and whether it should have.
        place: Share of the frames with boxes whose peak lies in one; None without.
    """

    clip: str
    label: str
    shows: bool | None
    seconds: float
    alarm: str
    place: Figure | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """How a model came to be.

    Attributes:
        data: Names of the sets that it was trained on, by the digest in its manifest.
        pictures: Split -> label -> pictures, of all sets together; folders where labels do not exclude
            each other.
        seconds: On the machine that trained it; None where no history tells.
        epochs: That were run; likewise.
    """

    data: tuple[str, ...]
    pictures: dict[str, dict[str, int]]
    seconds: float | None = None
    epochs: int | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that was measured of one model.

    Attributes:
        sha256: Of the file that was measured.
        sets: The pictures that say how good it is first.
        training: How it came to be.
        speed: None where it was not measured.
        float_size_bytes: Of the float file; None where there was none.
        arena_bytes: Working memory in tflite-micro; None where it was not measured.
        clips: What it saw in clips.
    """

    sha256: str
    sets: tuple[PictureSet, ...]
    training: Training
    speed: Speed | None = None
    float_size_bytes: int | None = None
    arena_bytes: int | None = None
    clips: tuple[ClipFigures, ...] = ()


def share(found: Figure | None) -> str:
    """Write a share with its interval, a digit more where 10,000 pictures or more carry it.

    Example:
        >>> share(Figure(0.9, 0.826, 0.945, 100))
        '90.0 % (82.6 to 94.5)'
    """
    if found is None:
        return "\N{EN DASH}"
    digits = 1 if found.count < 10_000 else 2
    value, low, high = (f"{100 * part:.{digits}f}" for part in (found.value, found.low, found.high))
    return f"{value} % ({low} to {high})"


def to_json(figures: Figures) -> bytes:
    """Write figures; the same figures give the same bytes.

    Example:
        >>> figures = Figures("ab", (), Training(("mnist.npz",), {"train": {"0": 5}}))
        >>> from_json(to_json(figures)) == figures
        True
    """
    return msgspec.json.format(msgspec.json.encode(figures, order="deterministic"), indent=1) + b"\n"


def from_json(text: bytes) -> Figures:
    """Read figures.

    Raises:
        BundleError: If they are none.
    """
    try:
        return msgspec.json.decode(text, type=Figures)
    except msgspec.MsgspecError as error:
        raise BundleError(
            f"figures.json cannot be read: {error}.",
            fix="Install edgecnn again, or put the model on the shelf again with 'edgecnn zoo publish'.",
        ) from error
