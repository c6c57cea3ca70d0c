"""The manifest: what a model file says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head
from edgecnn.errors import BundleError

FORMAT = 1

Precision = Literal["int8", "int16x8", "float16", "float32"]


@dataclass(frozen=True, slots=True)
class Measured:
    """An accuracy that was measured, and on what."""

    head: str
    metric: str
    value: float
    low: float
    high: float
    count: int
    data: str


@dataclass(frozen=True, slots=True)
class OperatingPoints:
    """Scores from which a label could count as seen; the file itself found them on val.

    Where its recipe trains with rendered look-alikes, others are among the pictures without the label.

    Attributes:
        low_false_alarms: The lowest that at most 1 % of the pictures without the label reach.
        high_recall: The highest that at least 95 % of the pictures with the label reach.
    """

    low_false_alarms: float
    high_recall: float


@dataclass(frozen=True, slots=True)
class Budget:
    """What rounding was allowed to cost, and what it did.

    Attributes:
        rung: The step of the quantization ladder that made the file.
        metric: What was counted, ``top1`` for instance.
        max_drop_pp: What the upper end of the interval was allowed to be, percentage points.
        drop_pp: From the model to the file, on val.
        low_pp: Lower end of the 95 % interval.
        high_pp: Upper end of it.
    """

    rung: str
    metric: str
    max_drop_pp: float
    drop_pp: float
    low_pp: float
    high_pp: float


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a model comes from; holds no dates and no paths, so that the same input gives the same file.

    Attributes:
        recipe: The recipe, as TOML text; empty for a model that edgecnn did not train.
        parent_sha256: Digest of the Keras model's weights that were converted.
        data_sha256: Digest of the pictures that it was trained on; empty where not known.
        calibration_sha256: Digest of the calibration list; empty for a float model.
        tools: Versions of what made it, by package name.
        budget: Of the quantization ladder; None for a file that was converted without one.
        teachers_sha256: By name, digests of the models whose answers it learned from too: of a Keras
            model's weights, of a file's flatbuffer.
        averaged_sha256: By name, digests of the weights of other trainings, where the parent's are the mean
            of them and its own.
        init_sha256: By its recipe's or its own name, the digest of the file whose weights it started from.
        pruned: What was taken out of the trained network, each time as the options of ``edgecnn prune``.
        boxes_sha256: By name, digests of the files that said where training pictures show something, beside
            those that lie with the pictures.
    """

    recipe: str = ""
    parent_sha256: str = ""
    data_sha256: str = ""
    calibration_sha256: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    budget: Budget | None = None
    teachers_sha256: Mapping[str, str] = field(default_factory=dict)
    averaged_sha256: Mapping[str, str] = field(default_factory=dict)
    init_sha256: Mapping[str, str] = field(default_factory=dict)
    pruned: tuple[str, ...] = ()
    boxes_sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that a device must know to use a model, and a person to trust it.

    Attributes:
        name: Short name, for instance ``fire``.
        precision: What the weights and activations are.
        input: What the one resize must make of a picture.
        heads: The answers.
        classes: Label -> folders of the data that it was trained from; empty where they are the same.
        thresholds: By label, the score from which it counts as seen; a softmax has none. Of labels that do
            not exclude each other it is the operating point of few false alarms, since an alarm that cries
            wolf is switched off, or half way up to that of high recall where that lies higher.
        provenance: Where it comes from.
        measured: Accuracies that were measured on this very file's parent or on itself.
        model_sha256: Digest of the flatbuffer that the other files are appended to.
        description: One sentence for people.
        licence: Of the model.
        format: Version of this layout.
        operating_points: By label of a sigmoid, where else the threshold could lie.
        negatives: Label -> folders that do not show it, for labels that do not exclude each other.
        golden_tolerance_codes: How far an integer output may lie from the one that was recorded; above 0
            only for a file that another processor computes than the one that recorded it.
        temperatures: By head, what makes its scores probabilities (``core.prediction.tempered``), found on
            val by the file itself. For whoever reads a score as one: decisions do not need it, and the
            thresholds belong to the scores as the file gives them.
    """

    name: str
    precision: Precision
    input: InputSpec
    heads: tuple[Head, ...]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    measured: tuple[Measured, ...] = ()
    model_sha256: str = ""
    description: str = ""
    licence: str = ""
    format: int = FORMAT
    operating_points: Mapping[str, OperatingPoints] = field(default_factory=dict)
    negatives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    golden_tolerance_codes: int = 0
    temperatures: Mapping[str, float] = field(default_factory=dict)


def to_json(manifest: Manifest) -> bytes:
    """Write a manifest as JSON; the same manifest gives the same bytes.

    Example:
        >>> m = Manifest("x", "int8", InputSpec(8, 8), (Head("label", "softmax", ("a", "b", "c")),))
        >>> from_json(to_json(m)) == m
        True
    """
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1)


def from_json(text: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        BundleError: If it is no manifest, or one of a later format.
    """
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BundleError(
            f"The manifest edgecnn.json cannot be read: {error}.",
            fix="Convert the model again with 'edgecnn convert', or copy the file again.",
        ) from error
    if manifest.format > FORMAT:
        raise BundleError(
            f"The manifest has format {manifest.format}; this edgecnn reads up to {FORMAT}.",
            fix="Install a newer edgecnn on this machine: pip install --upgrade edgecnn.",
        )
    return manifest
