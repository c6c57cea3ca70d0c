"""A model as C source for TensorFlow Lite Micro, which reads no files: a header and an array."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from edgecnn.bundle.file import Bundle, replace_whole, spec_of
from edgecnn.bundle.flatbuffer import Model, parse
from edgecnn.bundle.manifest import Manifest
from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.targets.graph import Check, shape_text

ALIGNMENT_BYTES: Final = 16
"""Source: TFLite's schema.fbs, ``force_align: 16`` of a buffer's data; a flatbuffer is read in place."""

_METHODS: Final = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}
"""Operators whose method in tensorflow/lite/micro/micro_mutable_op_resolver.h is spelt in its own way."""

_PER_LINE: Final = 16
_PRINTABLE: Final = frozenset(range(0x20, 0x7F)) - set(b'"\\?')


def write(bundle: Bundle, check: Check) -> tuple[Path, Path]:
    """Write ``.h`` and ``.c`` beside a model file; each whole or not at all.

    Args:
        bundle: The model file.
        check: What ``micro.check`` said of it.

    Returns:
        The header and the array.

    Raises:
        ModelError: If the model is none that the C side can feed.
        BundleError: If they cannot be written.
    """
    paths = bundle.path.with_suffix(".h"), bundle.path.with_suffix(".c")
    texts = header(bundle, check), array(bundle, paths[0].name)
    for path, text in zip(paths, texts, strict=True):
        replace_whole(path, text.encode())
    return paths


def header(bundle: Bundle, check: Check) -> str:
    """Say what a program must know of a model, as C that C++ reads too.

    Without ``tflite-micro`` there is no ``MODEL_ARENA_BYTES``: a guess would be none.

    Raises:
        ModelError: As ``refuse_unfit``, or if the file does not say what its outputs mean.
    """
    model, manifest, head = _parts(bundle)
    eaten, given = spec_of(model.inputs[0]), spec_of(model.outputs[0])
    _, height_px, width_px, channels = eaten.shape
    methods = dict.fromkeys(method_of(operator.op) for operator in model.operators)
    numbers = {
        "NAME": _string(manifest.name),
        "BYTES": len(bundle.model),
        "SHA256": _string(manifest.model_sha256),
        "HEIGHT_PX": height_px,
        "WIDTH_PX": width_px,
        "CHANNELS": channels,
        "IS_LETTERBOXED": int(manifest.input.resize == "letterbox"),
        "INPUT_SCALE": _float(eaten.scale),
        "INPUT_ZERO_POINT": eaten.zero_point,
        "OUTPUT_COUNT": head.neuron_count,
        "OUTPUT_SCALE": _float(given.scale),
        "OUTPUT_ZERO_POINT": given.zero_point,
        "LABEL_COUNT": len(head.labels),
        "IS_SOFTMAX": int(head.kind == "softmax"),
        "OPERATOR_COUNT": len(methods),
    }
    lines = [
        "/* Written by 'edgecnn convert --target micro', which writes it again when the model changes.",
        " * Codes are bytes: real = scale * (code - zero point). A byte of a picture is its code. */",
        "#ifndef EDGECNN_MODEL_H",
        "#define EDGECNN_MODEL_H",
        "",
        "#include <stdint.h>",
        "",
        *(f"#define MODEL_{name} {value}" for name, value in numbers.items()),
        "",
        *_arena(check),
        "",
        "/* The kernels that it needs: ADD(Conv2D) stands for AddConv2D() of a MicroMutableOpResolver. */",
        "#define MODEL_OPERATORS(ADD) " + " ".join(f"ADD({method})" for method in methods),
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        f"/* The flatbuffer, {ALIGNMENT_BYTES}-byte aligned. */",
        "extern const uint8_t model_data[MODEL_BYTES];",
        "extern const char *const model_labels[MODEL_LABEL_COUNT];",
        "/* By label, the score from which it counts as seen; of a softmax the highest score counts. */",
        "extern const float model_thresholds[MODEL_LABEL_COUNT];",
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def array(bundle: Bundle, header_name: str) -> str:
    """Give the flatbuffer, the labels and the thresholds as C; the files behind a flatbuffer stay out.

    Raises:
        ModelError: As ``header``.
    """
    _, manifest, head = _parts(bundle)
    thresholds = (manifest.thresholds.get(label, 0.5) for label in head.labels)
    lines = [
        f"#include {_string(header_name)}",
        "",
        f"_Alignas({ALIGNMENT_BYTES}) const uint8_t model_data[MODEL_BYTES] = {{",
        *_rows(bundle.model),
        "};",
        "",
        f"const char *const model_labels[MODEL_LABEL_COUNT] = {{{_listed(map(_string, head.labels))}}};",
        "",
        f"const float model_thresholds[MODEL_LABEL_COUNT] = {{{_listed(map(_float, thresholds))}}};",
    ]
    return "\n".join(lines) + "\n"


def refuse_unfit(model: Model) -> None:
    """Refuse a model that the C side cannot feed or read.

    Raises:
        ModelError: If it is no classifier with one output that eats and gives bytes, or if it needs an
            operator that the resolver has no method for.
    """
    kinds = " and ".join(sorted({tensor.dtype for tensor in (*model.inputs, *model.outputs)}))
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2 or kinds != "uint8":
        shapes = " and ".join(shape_text(output.shape) for output in model.outputs)
        raise ModelError(
            "A C array is for a classifier with one row of scores, bytes in and out; this model gives "
            f"{shapes} and its ends are {kinds}.",
            fix="Convert a classifier with one head by --precision int8.",
        )
    if model.custom_operators:
        raise ModelError(
            f"The model needs the custom operator '{model.custom_operators[0]}'.",
            fix="Build the network from TFLite's own operators.",
        )


def _parts(bundle: Bundle) -> tuple[Model, Manifest, Head]:
    model = parse(bundle.model)
    refuse_unfit(model)
    if bundle.manifest is None:
        raise ModelError(
            f"'{bundle.path.name}' does not say what its outputs mean.",
            fix="Convert the Keras model with 'edgecnn convert --target micro'.",
        )
    return model, bundle.manifest, bundle.manifest.heads[0]


def method_of(op: str) -> str:
    """Say how the resolver calls an operator.

    Example:
        >>> method_of("DEPTHWISE_CONV_2D"), method_of("RESIZE_NEAREST_NEIGHBOR"), method_of("CUMSUM")
        ('DepthwiseConv2D', 'ResizeNearestNeighbor', 'CumSum')
    """
    return _METHODS.get(op, op.title().replace("_", ""))


def _arena(check: Check) -> list[str]:
    if check.arena_bytes is None:
        return [f"/* {note.replace('*/', '* /')} */" for note in check.notes]
    return [
        "/* Working memory, as tflite-micro took it on a 64-bit machine with its reference kernels. Kernels",
        " * made for one chip may ask for more: see what MicroInterpreter::arena_used_bytes() says there. */",
        f"#define MODEL_ARENA_BYTES {check.arena_bytes}",
    ]


def _rows(data: bytes) -> Iterable[str]:
    for start in range(0, len(data), _PER_LINE):
        yield "  " + ", ".join(f"0x{byte:02x}" for byte in data[start : start + _PER_LINE]) + ","


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items)


def _float(value: float) -> str:
    """Write a float32 with as many digits as bring it back.

    Source: C11, 5.2.4.2.2: FLT_DECIMAL_DIG is 9.

    Example:
        >>> _float(1 / 128), _float(1.0)
        ('0.0078125f', '1.0f')
    """
    digits = f"{value:.9g}"
    return f"{digits if set(digits) & set('.e') else digits + '.0'}f"


def _string(text: str) -> str:
    r"""Quote a text for C; what is not plain ASCII by octal numbers, which end after three digits.

    Example:
        >>> _string('a "b"?')
        '"a \\042b\\042\\077"'
    """
    return '"' + "".join(chr(b) if b in _PRINTABLE else f"\\{b:03o}" for b in text.encode()) + '"'
