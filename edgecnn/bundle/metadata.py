"""``TFLITE_METADATA``: what every TFLite tool can read about a model.

Source: tensorflow_lite_support/metadata/metadata_schema.fbs 1.1.0; the numbers of its fields stand
beside the names below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgecnn.bundle.manifest import Manifest
from edgecnn.bundle.tables import Buffer, Table, damaged
from edgecnn.core.tensor import TensorSpec
from edgecnn.errors import MissingPackageError

ENTRY: Final = "TFLITE_METADATA"
"""Name of the metadata entry in the model."""

# ModelMetadata, SubGraphMetadata, TensorMetadata, AssociatedFile.
_NAME, _DESCRIPTION = 0, 1
_MODEL_VERSION, _MODEL_SUBGRAPHS, _MODEL_AUTHOR, _MODEL_LICENCE = 2, 3, 4, 5
_MODEL_FILES, _MODEL_PARSER = 6, 7
_GRAPH_INPUTS, _GRAPH_OUTPUTS = 2, 3
_TENSOR_CONTENT, _TENSOR_UNITS, _TENSOR_FILES = 3, 4, 6
_FILE_TYPE = 2
# Content.content_properties and ProcessUnit.options are unions: a type and a table.
_UNION_TYPE, _UNION = 0, 1
_IMAGE_PROPERTIES, _NORMALIZATION_OPTIONS = 2, 1
_DESCRIPTIONS, _TENSOR_AXIS_LABELS = 1, 2
_RGB, _GREYSCALE = 1, 2


@dataclass(frozen=True, slots=True)
class Normalization:
    """How bytes become the real numbers that a network was trained on: ``(byte - mean) / std``.

    Attributes:
        mean: One for all channels, or one per channel.
        std: As many as ``mean``; none is 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """The part of the standard metadata that edgecnn uses.

    Attributes:
        name: Of the model.
        description: One sentence for people.
        version: Of the model, as its maker counts.
        author: Who made it.
        licence: Of the model.
        normalization: Of the first input; None where nothing is said.
        label_files: For each output, the associated file with the names of its last axis; "" for none.
        min_parser_version: Which reader understands all of it.
    """

    name: str = ""
    description: str = ""
    version: str = ""
    author: str = ""
    licence: str = ""
    normalization: Normalization | None = None
    label_files: tuple[str, ...] = ()
    min_parser_version: str = ""


def read(entry: bytes) -> ModelMetadata:
    """Read a metadata entry, checked like a model.

    Raises:
        BundleError: If it is damaged.
    """
    if len(entry) < 8 or entry[4:8] != b"M001":
        raise damaged("the mark 'M001' of its TFLITE_METADATA is missing")
    root = Buffer(entry).root()
    graph = next(root.tables(_MODEL_SUBGRAPHS), None)
    inputs = tuple(graph.tables(_GRAPH_INPUTS)) if graph else ()
    outputs = tuple(graph.tables(_GRAPH_OUTPUTS)) if graph else ()
    return ModelMetadata(
        root.string(_NAME),
        root.string(_DESCRIPTION),
        root.string(_MODEL_VERSION),
        root.string(_MODEL_AUTHOR),
        root.string(_MODEL_LICENCE),
        _normalization(inputs[0]) if inputs else None,
        tuple(_label_file(tensor) for tensor in outputs),
        root.string(_MODEL_PARSER),
    )


def _normalization(tensor: Table) -> Normalization | None:
    for unit in tensor.tables(_TENSOR_UNITS):
        options = unit.table(_UNION)
        if unit.scalar(_UNION_TYPE, "u8") != _NORMALIZATION_OPTIONS or options is None:
            continue
        mean, std = options.numbers(0, "f32"), options.numbers(1, "f32")
        count = max(len(mean), len(std))
        if not (mean and std) or {len(mean), len(std)} - {1, count}:
            raise damaged(f"its normalisation has {len(mean)} means and {len(std)} deviations")
        if not all(map(math.isfinite, mean + std)) or 0.0 in std:
            raise damaged("its normalisation has a deviation of 0 or a value that is no number")
        return Normalization(mean * (count // len(mean)), std * (count // len(std)))
    return None


def _label_file(tensor: Table) -> str:
    for file in tensor.tables(_TENSOR_FILES):
        if file.scalar(_FILE_TYPE, "i8") == _TENSOR_AXIS_LABELS:
            return file.string(_NAME)
    return ""


def normalization_of(spec: TensorSpec) -> Normalization:
    """Say how the input of one of our models reads a raw byte, in the words of the standard.

    The network itself normalises, so the byte is the code of a quantized input (minus 128 where it is
    signed), and the value of a float one.

    Example:
        >>> normalization_of(TensorSpec((1, 8, 8, 3), "uint8", scale=1 / 128, zero_point=128))
        Normalization(mean=(128.0,), std=(128.0,))
    """
    if spec.dtype not in ("uint8", "int8") or not spec.is_quantized:
        return Normalization((0.0,), (1.0,))
    shift = 128 if spec.dtype == "int8" else 0
    return Normalization((float(spec.zero_point + shift),), (1 / spec.scale,))


def label_file(head_index: int) -> str:
    """Name the associated file with the labels of a head: ``labels.txt`` for the first.

    Example:
        >>> label_file(0), label_file(1)
        ('labels.txt', 'labels_1.txt')
    """
    return f"labels_{head_index}.txt" if head_index else "labels.txt"


def write(manifest: Manifest, spec: TensorSpec, output_count: int) -> bytes:
    """Write the metadata entry of one of our models.

    Args:
        manifest: What the model says about itself.
        spec: Its input.
        output_count: How many outputs it has.

    Returns:
        A flatbuffer with the identifier ``M001``; the same input gives the same bytes.

    Raises:
        MissingPackageError: If ``flatbuffers`` is not installed; a device only reads.
    """
    try:
        import flatbuffers
    except ImportError as error:
        raise MissingPackageError(
            f"Writing a model file needs the package flatbuffers, which is not installed: {error}.",
            fix="Install the workstation side: pip install 'edgecnn[workstation]'.",
        ) from error
    builder = flatbuffers.Builder(1024)
    outputs = [_output(builder, manifest, index) for index in range(output_count)]
    inputs = _vector(builder, [_input(builder, manifest, spec)])
    graph = _table(builder, 7, {_GRAPH_INPUTS: inputs, _GRAPH_OUTPUTS: _vector(builder, outputs)})
    files = [
        _file(builder, "edgecnn.json", "The manifest: heads, provenance, measured accuracy.", _DESCRIPTIONS)
    ]
    fields = {
        _NAME: builder.CreateString(manifest.name),
        _DESCRIPTION: builder.CreateString(manifest.description),
        # The weights are what a version of a model is a version of.
        _MODEL_VERSION: builder.CreateString(manifest.provenance.parent_sha256[:12]),
        _MODEL_SUBGRAPHS: _vector(builder, [graph]),
        _MODEL_AUTHOR: builder.CreateString("edgecnn"),
        _MODEL_LICENCE: builder.CreateString(manifest.licence),
        _MODEL_FILES: _vector(builder, files),
        _MODEL_PARSER: builder.CreateString("1.0.0"),
    }
    builder.Finish(_table(builder, 8, fields), file_identifier=b"M001")
    return bytes(builder.Output())


def _input(builder: Any, manifest: Manifest, spec: TensorSpec) -> int:
    normalization = normalization_of(spec)
    options = _table(
        builder, 2, {0: _floats(builder, normalization.mean), 1: _floats(builder, normalization.std)}
    )
    unit = _union(builder, _NORMALIZATION_OPTIONS, options)
    colours = _RGB if manifest.input.channels == 3 else _GREYSCALE
    image = _table(builder, 2, {}, {0: colours})
    fields = {
        _NAME: builder.CreateString("image"),
        _DESCRIPTION: builder.CreateString(f"{manifest.input} bytes, resize: {manifest.input.resize}."),
        _TENSOR_CONTENT: _union(builder, _IMAGE_PROPERTIES, image),
        _TENSOR_UNITS: _vector(builder, [unit]),
    }
    return _table(builder, 7, fields)


def _output(builder: Any, manifest: Manifest, output_index: int) -> int:
    for number, head in enumerate(manifest.heads):
        if head.output_index != output_index:
            continue
        # Tools expect as many axis labels as neurons; one neuron between two labels has none to give.
        kind, text = _TENSOR_AXIS_LABELS, "One label a line, in the order of the output."
        if head.is_binary:
            kind, text = _DESCRIPTIONS, "Two labels; the one neuron is the score of the second."
        file = _file(builder, label_file(number), text, kind)
        fields = {
            _NAME: builder.CreateString(head.name),
            _DESCRIPTION: builder.CreateString(f"Scores, {head.kind}."),
            _TENSOR_FILES: _vector(builder, [file]),
        }
        return _table(builder, 7, fields)
    return _table(builder, 7, {})


def _file(builder: Any, name: str, text: str, kind: int) -> int:
    fields = {_NAME: builder.CreateString(name), _DESCRIPTION: builder.CreateString(text)}
    return _table(builder, 4, fields, {_FILE_TYPE: kind})


def _union(builder: Any, kind: int, table: int) -> int:
    builder.StartObject(2)
    builder.PrependUint8Slot(_UNION_TYPE, kind, 0)
    builder.PrependUOffsetTRelativeSlot(_UNION, table, 0)
    return int(builder.EndObject())


def _table(builder: Any, slots: int, offsets: dict[int, int], bytes_: dict[int, int] | None = None) -> int:
    builder.StartObject(slots)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in (bytes_ or {}).items():
        builder.PrependInt8Slot(slot, value, 0)
    return int(builder.EndObject())


def _vector(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: Any, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())
