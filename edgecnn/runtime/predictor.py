"""From pixels to scores with one model file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle import file, flatbuffer
from edgecnn.bundle.file import Bundle, Golden
from edgecnn.bundle.flatbuffer import Model, Tensor
from edgecnn.bundle.layers import activation_of
from edgecnn.bundle.manifest import Manifest
from edgecnn.bundle.metadata import Normalization, normalization_of
from edgecnn.core.frame import Frame, InputSpec, resize
from edgecnn.core.prediction import Head, Prediction, Scores, StageTimes, decode
from edgecnn.core.tensor import TensorSpec, dequantize, quantize
from edgecnn.errors import BundleError, DataError
from edgecnn.runtime.interpreter import Interpreter, Write, open_interpreter

FLOAT_TOLERANCE: Final = 1e-4
"""How far a float output may lie from the one that was recorded: another processor adds in another
order. Integer outputs must be equal to the last bit, but for what ``codes_apart`` allows."""

_SCORE_TYPES: Final = ("float32", "uint8", "int8", "int16")


class TflitePredictor:
    """One model, loaded; satisfies ``core.ports.Predictor``.

    Attributes:
        name: Of the manifest, or of the file.
        path: Where the file lies.
        sha256: Digest of the whole file.
        size_bytes: Of the whole file.
        precision: Of the manifest; of a foreign file, the type of its input.
        input: What the one resize makes of a picture.
        heads: The answers.
        manifest: What the file says about itself; None for a foreign one.
        golden: Pictures to replay; None where there are none.
        notes: What a person should know before he trusts the scores.
        interpreter: What computes.
    """

    def __init__(
        self,
        bundle: Bundle,
        interpreter: Interpreter,
        spec: InputSpec,
        heads: tuple[Head, ...],
        write: Write | None,
        raw_heads: frozenset[str] = frozenset(),
    ) -> None:
        manifest = bundle.manifest
        self.name = manifest.name if manifest else bundle.path.stem
        self.path = bundle.path
        self.sha256 = bundle.sha256
        self.size_bytes = bundle.size_bytes
        self.precision: str = manifest.precision if manifest else interpreter.inputs[0].dtype
        self.input = spec
        self.heads = heads
        self.manifest: Manifest | None = manifest
        self.golden: Golden | None = bundle.golden
        self.interpreter = interpreter
        self.notes = tuple(
            f"Nothing at the end of the model says that '{name}' gives scores from 0 to 1: "
            "its outputs are shown as they are."
            for name in sorted(raw_heads)
        )
        self._write = write
        self._decoders = tuple(
            (head.name, head.output_index, _decoder(interpreter, head, head.name in raw_heads))
            for head in heads
        )

    def predict(self, frame: Frame) -> Prediction:
        """Give the scores of one frame, and where the milliseconds went.

        Args:
            frame: Of any size.

        Raises:
            RuntimeFault: If the interpreter cannot compute.
        """
        began = perf_counter()
        codes = resize(frame.pixels_rgb, self.input)
        resized = perf_counter()
        outputs = self.interpreter.invoke_bytes(codes, self._write)
        invoked = perf_counter()
        scores = self._decode(outputs)
        decoded = perf_counter()
        times = StageTimes((resized - began) * 1e3, (invoked - resized) * 1e3, (decoded - invoked) * 1e3)
        return Prediction(scores, frame.index, frame.captured_at_s, times)

    def scores(self, codes: NDArray[np.uint8]) -> dict[str, Scores]:
        """Give the scores of one picture that was resized already.

        Args:
            codes: Shape (height_px, width_px, channels), uint8, as ``core.frame.resize`` makes it.

        Returns:
            Scores by name of the head.

        Raises:
            BundleError: If ``codes`` has another shape.
        """
        return self._decode(self.outputs(codes))

    def outputs(self, codes: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
        """Give what comes out for one resized picture, not yet decoded: one array an output.

        Raises:
            BundleError: If ``codes`` has another shape than the model eats.
        """
        return self.interpreter.invoke_bytes(codes, self._write)

    def decoded(self, outputs: tuple[NDArray[Any], ...]) -> dict[str, Scores]:
        """Give the scores, by name of the head, that ``outputs`` of one picture mean."""
        return self._decode(outputs)

    def fed(self, codes: NDArray[np.uint8]) -> NDArray[Any]:
        """Give what the interpreter reads for one picture that was resized already.

        Args:
            codes: Shape (height_px, width_px, channels), uint8.

        Returns:
            Shape (1, height_px, width_px, channels), in the input's own type.
        """
        if self._write is None:
            return codes[None]
        memory = np.empty(codes.shape, self.interpreter.inputs[0].dtype)
        self._write(memory, codes)
        return memory[None]

    def _decode(self, outputs: tuple[NDArray[Any], ...]) -> dict[str, Scores]:
        return {name: decode_codes(outputs[index]) for name, index, decode_codes in self._decoders}


def _decoder(interpreter: Interpreter, head: Head, is_raw: bool) -> Callable[[NDArray[Any]], Scores]:
    """Choose how a head's output becomes scores.

    A byte has 256 values, so what ``core.prediction.decode`` makes of each is computed once: after an
    invocation the caches are cold, and its dozen small steps then cost 5 % of a small network.
    """
    spec = interpreter.outputs[head.output_index]
    if is_raw:
        return lambda codes: dequantize(codes, spec)[0]
    if spec.dtype not in ("uint8", "int8"):
        return lambda codes: decode(codes, spec, head)
    # A signed code, seen as an unsigned byte, is its own index.
    every = np.arange(256, dtype=np.uint8).view(spec.dtype)
    one = Head(
        head.name, head.kind if head.is_binary else "softmax", head.labels if head.is_binary else ("",)
    )
    table = decode(every[None, :, None], spec, one)
    if head.is_binary:
        return lambda codes: table.take(codes[0, ..., 0].view(np.uint8), axis=0)
    flat = table[:, 0].copy()
    return lambda codes: flat.take(codes[0].view(np.uint8))


def load(
    path: Path,
    labels: Path | None = None,
    threads: int | None = None,
    delegate: str | None = None,
    normalization: tuple[float, float] | None = None,
) -> TflitePredictor:
    """Read, verify and open a model file, ours or another's.

    Args:
        path: The ``.tflite`` file.
        labels: For a foreign file: its labels, one a line.
        threads: How many may compute; None for all cores, up to 4.
        delegate: ``edgetpu``, or the path of a delegate's library.
        normalization: For a foreign file: mean and deviation, so that the network reads
            ``(byte - mean) / deviation``.

    Returns:
        A predictor.

    Raises:
        BundleError: If the file is damaged, is no picture classifier, does not say what it must, or
            the labels do not fit it.
        DataError: If the label file cannot be read.
        RuntimeFault: If the interpreter or the delegate fails.
    """
    bundle = file.read(path)
    if bundle.manifest is not None:
        _refuse_flags(path, labels, normalization)
        interpreter = open_interpreter(bundle.model, threads, delegate)
        write = byte_writer(interpreter.inputs[0], normalization_of(interpreter.inputs[0]))
        return TflitePredictor(bundle, interpreter, bundle.manifest.input, bundle.manifest.heads, write)
    model = flatbuffer.parse(bundle.model)
    spec = _foreign_input(path, model)
    given = Normalization((normalization[0],), (normalization[1],)) if normalization else None
    known = given or (bundle.metadata.normalization if bundle.metadata else None)
    write = _foreign_writer(path, model.inputs[0], known)
    heads, raw = _foreign_heads(path, model, _read_labels(labels) if labels else bundle.labels)
    return TflitePredictor(bundle, open_interpreter(bundle.model, threads, delegate), spec, heads, write, raw)


def codes_apart(predictor: TflitePredictor, output_index: int) -> int:
    """Say by how many codes an integer output may differ between two machines that are both right.

    Logits are equal to the last bit. Behind them the interpreter computes a softmax by a table of 16-bit
    integers on 64-bit ARM and of floats elsewhere, and rounds one code apart now and then.

    Source:
        TensorFlow Lite, ``optimized_ops.h``: ``TFLITE_SOFTMAX_USE_UINT16_LUT``. Seen on an emulated Pi: 1 of
        40 scores of a LeNet, with equal logits.
    """
    known = predictor.manifest.golden_tolerance_codes if predictor.manifest else 0
    kinds = {head.kind for head in predictor.heads if head.output_index == output_index}
    return max(known, int("softmax" in kinds))


def agreement(tolerance: float, codes: int) -> str:
    """Say in words how near to the recorded results a replay had to come.

    Args:
        tolerance: Of float outputs, in their own unit; 0 where there are none.
        codes: Of integer outputs, the largest that ``codes_apart`` gives.

    Example:
        >>> agreement(0.0, 0), agreement(0.0, 1), agreement(0.0, 32), agreement(1e-4, 0)
        ('equal to the last bit', 'equal within 1 code', 'equal within 32 codes', 'equal within 0.0001')
    """
    if tolerance:
        return f"equal within {tolerance:g}"
    return f"equal within {codes} code{'s' if codes > 1 else ''}" if codes else "equal to the last bit"


def verify_golden(predictor: TflitePredictor) -> None:
    """Replay the recorded pictures, to see that this machine computes what the maker's did.

    Args:
        predictor: A model; one without recorded pictures passes.

    Raises:
        BundleError: If an integer output differs by more than the manifest's ``golden_tolerance_codes``,
            or a float one by more than ``FLOAT_TOLERANCE``.
    """
    if predictor.golden is None:
        return
    codes_allowed = [codes_apart(predictor, index) for index in range(len(predictor.interpreter.outputs))]
    for number, codes in enumerate(predictor.golden.inputs):
        for index, output in enumerate(predictor.outputs(codes)):
            expected = predictor.golden.outputs[index][number]
            distance = float(np.abs(output[0].astype(np.float64) - expected.astype(np.float64)).max())
            allowed = FLOAT_TOLERANCE if output.dtype.kind == "f" else codes_allowed[index]
            if not distance <= allowed:  # a NaN is no agreement
                raise BundleError(
                    f"'{predictor.path.name}' gives other results here than where it was made: output "
                    f"{index} of recorded picture {number} differs by {distance:g} "
                    f"({predictor.interpreter.runtime}).",
                    fix="Use the version of ai-edge-litert that edgecnn pins, with its XNNPACK kernels on.",
                )


def byte_table(spec: TensorSpec, normalization: Normalization | None) -> NDArray[Any]:
    """Say what a model reads for each byte of a picture.

    Args:
        spec: The input.
        normalization: How bytes become real numbers; None takes the byte as the code, and the byte
            minus 128 where codes are signed.

    Returns:
        Shape (channels, 256), or (1, 256) where all channels are read alike, in the input's type.

    Source:
        TFLite metadata, NormalizationOptions: ``(byte - mean) / std``, then "for quantized models, the
        image data should be further quantized according to the quantization parameters".

    Example:
        >>> byte_table(TensorSpec((1, 8, 8, 3), "int8", 1.0, -128), None)[0, [0, 255]].tolist()
        [-128, 127]
    """
    bytes_ = np.arange(256, dtype=np.float32)[None]
    if normalization is None:
        return (bytes_ - 128 if spec.dtype == "int8" else bytes_).astype(spec.dtype)
    mean, std = _column(normalization.mean), _column(normalization.std)
    table = quantize((bytes_ - mean) / std, spec)
    return table[:1] if (table == table[0]).all() else table


def _column(values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(values, np.float32)[:, None]


def byte_writer(spec: TensorSpec, normalization: Normalization | None) -> Write | None:
    """Find the fastest way to write what ``byte_table`` says.

    Looking up 76,800 bytes takes 100 microseconds, the arithmetic that most tables stand for 1 to 15:
    a tenth of what a small network takes in all.

    Returns:
        A function of the input's memory and the picture, both (height, width, channels); None where
        the bytes are written as they are.
    """
    table = byte_table(spec, normalization)
    bytes_ = np.arange(256)
    # Metadata says 127.5 where the quantization says 128: such a byte is its own code to within the
    # rounding that training has simulated.
    if spec.dtype == "uint8" and np.abs(table - bytes_).max() <= 1:
        return None
    if spec.dtype == "int8" and (table == bytes_ - 128).all():
        return _write_signed
    if spec.dtype == "float32":
        if (table == bytes_).all():
            return np.copyto
        known = normalization or Normalization((0.0,), (1.0,))
        return _write_normalized(_column(known.mean)[:, 0], _column(known.std)[:, 0])
    return _write_looked_up(table)


def _write_signed(memory: NDArray[Any], pixels: NDArray[np.uint8]) -> None:
    """Subtract 128: in two's complement that turns over the highest bit."""
    np.bitwise_xor(pixels, np.uint8(128), out=memory.view(np.uint8))


def _write_normalized(mean: NDArray[np.float32], std: NDArray[np.float32]) -> Write:
    def write(memory: NDArray[Any], pixels: NDArray[np.uint8]) -> None:
        np.subtract(pixels, mean, out=memory)
        np.divide(memory, std, out=memory)

    return write


def _write_looked_up(table: NDArray[Any]) -> Write:
    def write(memory: NDArray[Any], pixels: NDArray[np.uint8]) -> None:
        if len(table) == 1:
            # "clip" keeps numpy from taking a copy in between; a byte is never beyond 255.
            table[0].take(pixels, out=memory, mode="clip")
            return
        for channel, row in enumerate(table):
            memory[..., channel] = row[pixels[..., channel]]

    return write


def _refuse_flags(path: Path, labels: Path | None, normalization: tuple[float, float] | None) -> None:
    flags = [n for n, v in (("--labels", labels), ("--normalization", normalization)) if v is not None]
    if flags:
        raise BundleError(
            f"'{path.name}' brings its own labels and normalisation, which no option changes.",
            fix=f"Leave out {' and '.join(flags)}.",
        )


def _foreign_input(path: Path, model: Model) -> InputSpec:
    shapes = [tensor.shape for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 1 or shapes[0][3] not in (1, 3):
        raise BundleError(
            f"'{path.name}' is no picture classifier: it eats {_named(shapes)}, not one picture of shape "
            "(1, height, width, 1 or 3).",
            fix="Give a model with one picture as input; 'edgecnn inspect' shows what a model eats.",
        )
    _, height_px, width_px, channels = shapes[0]
    if height_px < 1 or width_px < 1:
        raise BundleError(
            f"'{path.name}' eats pictures of {height_px} x {width_px} pixels.",
            fix="Convert the model with a fixed input size.",
        )
    return InputSpec(height_px, width_px, 3 if channels == 3 else 1)


def _named(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes)) or "nothing"


def _foreign_writer(path: Path, tensor: Tensor, normalization: Normalization | None) -> Write | None:
    spec = file.spec_of(tensor)
    if spec.dtype not in _SCORE_TYPES:
        raise BundleError(
            f"'{path.name}' eats pictures of type {spec.dtype}; edgecnn feeds {', '.join(_SCORE_TYPES)}.",
            fix="Convert the model with an input of one of these types.",
        )
    if normalization is None and spec.dtype not in ("uint8", "int8"):
        raise BundleError(
            f"'{path.name}' eats {spec.dtype} numbers and does not say how bytes become them.",
            fix="Pass --normalization MEAN STD, the way it was trained: 0 255 for values from 0 to 1, "
            "127.5 127.5 for -1 to 1, 0 1 for bytes.",
        )
    if normalization is not None:
        _check_normalization(path, normalization, tensor.shape[3])
    return byte_writer(spec, normalization)


def _check_normalization(path: Path, normalization: Normalization, channels: int) -> None:
    numbers = normalization.mean + normalization.std
    if 0.0 in normalization.std or not np.isfinite(numbers).all():
        raise BundleError(
            f"A normalisation by mean {normalization.mean} and deviation {normalization.std} is none.",
            fix="Give two finite numbers, the second not 0.",
        )
    if len(normalization.mean) not in (1, channels):
        raise BundleError(
            f"The metadata of '{path.name}' normalises {len(normalization.mean)} channels of {channels}.",
            fix="Pass --normalization MEAN STD.",
        )


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        labels = file.labels_of(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The label file '{path}' cannot be read: {error}.",
            fix="Give a UTF-8 text file with one label a line.",
        ) from error
    if "" in labels:
        raise DataError(
            f"Line {labels.index('') + 1} of the label file '{path}' is empty.", fix="Give one label a line."
        )
    return labels


def _foreign_heads(
    path: Path, model: Model, labels: tuple[str, ...]
) -> tuple[tuple[Head, ...], frozenset[str]]:
    """Make a head of every output, from what the graph says; name those that say too little."""
    heads, raw = [], set()
    for index, tensor in enumerate(model.outputs):
        name = "label" if len(model.outputs) == 1 else f"output_{index}"
        head, is_raw = _foreign_head(path, model, index, name, labels if index == 0 else ())
        heads.append(head)
        if is_raw:
            raw.add(name)
        if tensor.dtype not in _SCORE_TYPES:
            raise BundleError(
                f"'{path.name}' gives {tensor.dtype} numbers of shape {tensor.shape}, which are no scores.",
                fix="Give a classifier; edgecnn does not read the outputs of other networks.",
            )
    if not heads:
        raise BundleError(f"'{path.name}' gives no output.", fix="Give a classifier.")
    return tuple(heads), frozenset(raw)


def _foreign_head(
    path: Path, model: Model, index: int, name: str, labels: tuple[str, ...]
) -> tuple[Head, bool]:
    tensor = model.outputs[index]
    count = tensor.shape[-1] if tensor.shape else 0
    if len(tensor.shape) < 2 or tensor.shape[0] != 1 or count < 1:
        raise BundleError(
            f"'{path.name}' gives an output of shape {tensor.shape}, not one score per label.",
            fix="Give a classifier with outputs of shape (1, labels).",
        )
    activation = activation_of(model, tensor)
    # One sigmoid neuron answers for two labels; without names they are "0" and "1".
    is_binary = activation == "LOGISTIC" and count == 1 and len(tensor.shape) == 2
    expected = 2 if is_binary else count
    if labels and len(labels) != expected:
        raise BundleError(
            f"'{path.name}' needs {expected} labels; found {len(labels)}.",
            fix="Pass --labels with a file that has one line for each output.",
        )
    names = _unique(labels) if labels else tuple(map(str, range(expected)))
    if len(tensor.shape) > 2:
        return Head(name, "heatmap", names, index), activation is None
    if activation == "LOGISTIC" and count != 2:
        return Head(name, "sigmoid", names, index), False
    # Two sigmoids are no single neuron between two labels; what is left decodes like a softmax.
    return Head(name, "softmax", names, index), activation is None


def _unique(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Number the labels that a foreign file uses twice, as ImageNet's list does with 'crane'.

    Example:
        >>> _unique(("crane", "dog", "crane"))
        ('crane', 'dog', 'crane (2)')
    """
    seen: dict[str, int] = {}
    names = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        names.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return tuple(names)
