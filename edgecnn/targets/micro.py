"""What TensorFlow Lite Micro runs of a model, and how much working memory it needs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgecnn.bundle.flatbuffer import Model
from edgecnn.bundle.schema import TYPE_BITS
from edgecnn.targets.graph import WEIGHTS, Check, Node, Obstacle, OpVerdict, nodes, operators, summary

_F8: Final = ("float32", "int8")
_F816: Final = ("float32", "int8", "int16")
_ANY: Final = tuple(TYPE_BITS)

KERNELS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "AVERAGE_POOL_2D",
         "MAX_POOL_2D", "SUB", "SOFTMAX", "LOGISTIC", "TANH", "LEAKY_RELU", "MEAN", "SUM", "RELU", "RELU6",
         "RESIZE_NEAREST_NEIGHBOR", "BATCH_MATMUL", "SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM", "TRANSPOSE",
         "SQUARED_DIFFERENCE", "PRELU"), _F816,
    ),
    **dict.fromkeys(
        ("ELU", "HARD_SWISH", "RESIZE_BILINEAR", "REDUCE_MAX", "REDUCE_MIN", "SPACE_TO_DEPTH", "ADD_N",
         "DEPTH_TO_SPACE", "L2_NORMALIZATION", "LOG_SOFTMAX", "CUMSUM", "DIV", "BATCH_TO_SPACE_ND",
         "SPACE_TO_BATCH_ND"), _F8,
    ),
    **dict.fromkeys(
        ("ADD", "MUL", "PAD", "PADV2", "SPLIT", "SPLIT_V", "PACK", "UNPACK", "STRIDED_SLICE", "SLICE",
         "MIRROR_PAD", "CONCATENATION"), (*_F816, "int32", "int64", "bool"),
    ),
    **dict.fromkeys(
        ("L2_POOL_2D", "CEIL", "FLOOR", "ROUND", "SIN", "COS", "LOG", "SQRT", "SQUARE"), ("float32",),
    ),
    **dict.fromkeys(
        ("ABS", "ARG_MAX", "ARG_MIN", "ASSIGN_VARIABLE", "BROADCAST_ARGS", "BROADCAST_TO", "CALL_ONCE",
         "CAST", "DEQUANTIZE", "DYNAMIC_UPDATE_SLICE", "EMBEDDING_LOOKUP", "EQUAL", "EXP", "EXPAND_DIMS",
         "FILL", "FLOOR_DIV", "FLOOR_MOD", "GATHER", "GATHER_ND", "GREATER", "GREATER_EQUAL", "IF", "LESS",
         "LESS_EQUAL", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR", "MAXIMUM", "MINIMUM", "NEG", "NOT_EQUAL",
         "QUANTIZE", "READ_VARIABLE", "REDUCE_ALL", "RESHAPE", "REVERSE_V2", "RSQRT", "SELECT_V2", "SHAPE",
         "SQUEEZE", "VAR_HANDLE", "WHILE", "ZEROS_LIKE"), _ANY,
    ),
}  # fmt: skip
"""Operators that TensorFlow Lite Micro has, with the types that their kernels take; all types where
they only move data or where we did not look.

Source: the kernels that tflite-micro 0.dev20261023182759 (g8f6596d) registers in
tensorflow/lite/micro/micro_mutable_op_resolver.h, and the types in tensorflow/lite/micro/kernels.
"""

CUSTOM: Final = ("TFLite_Detection_PostProcess", "ethos-u", "CIRCULAR_BUFFER")
"""Custom operators that it brings; besides those of its signal library, whose names begin with Signal."""

_ARENA_BYTES: Final = 64 << 20
"""Room to measure in: far more than any microcontroller has."""

_TIMEOUT_S: Final = 120.0

_NOT_INSTALLED: Final = (
    "The arena was not measured: install tflite-micro (pip install 'edgecnn[micro]', Linux on x86-64)."
)


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of running a model in tflite-micro.

    Attributes:
        arena_bytes: Working memory that it took; None if it did not run.
        version: Of tflite-micro.
        failure: What went wrong; None if it ran.
        op: Operator that failed, if it said which.
        index: Number of that operator.
    """

    arena_bytes: int | None
    version: str
    failure: str | None = None
    op: str | None = None
    index: int | None = None


def check(model: Model, flat: bytes) -> Check:
    """Say which operators TensorFlow Lite Micro has kernels for, and measure the arena where it is installed.

    All must be there: it has no other processor to leave one to.

    Args:
        model: A model.
        flat: The bytes of its flatbuffer.

    Returns:
        A verdict for every operator; ``arena_bytes`` is None where it was not measured.
    """
    ops = tuple(_verdict(node) for node in nodes(model))
    trial = measure(flat, len(model.inputs))
    if trial and trial.arena_bytes is not None:
        # It ran: whatever our list lacks, the kernel is there.
        ops = tuple(OpVerdict(op.index, op.op, True) for op in ops)
    elif trial and trial.index is not None and trial.index < len(ops):
        ops = tuple(_overruled(op, trial) if op.index == trial.index else op for op in ops)
    elif trial and trial.op:
        ops = tuple(_overruled(op, trial) if op.op == trial.op else op for op in ops)
    first = next((op for op in ops if not op.mapped), None)
    arena = trial.arena_bytes if trial else None
    return summary(
        model,
        "micro",
        ops,
        first,
        "prediction",
        _sentence(ops, first, arena),
        arena_bytes=arena,
        notes=_notes(trial),
    )


def _verdict(node: Node) -> OpVerdict:
    found = obstacle(node)
    if found:
        return OpVerdict(node.operator.index, node.op, False, found.reason, found.fix)
    return OpVerdict(node.operator.index, node.op, True)


def obstacle(node: Node) -> Obstacle | None:
    """Say why TensorFlow Lite Micro cannot run an operator; None where it can."""
    if node.operator.is_custom:
        if node.op in CUSTOM or node.op.startswith("Signal"):
            return None
        return Obstacle(
            f"'{node.op}' is a custom operator, which TensorFlow Lite Micro does not bring",
            "Build the network from TFLite's own operators, or register a kernel in the firmware.",
        )
    types = KERNELS.get(node.op)
    if types is None:
        return Obstacle(f"TensorFlow Lite Micro has no {node.op}", "Replace it by an operator that it has.")
    wide = next((t.dtype for t in node.outputs if t.dtype != "int32"), None)
    if node.op in ("ARG_MAX", "ARG_MIN") and wide:
        return Obstacle(
            f"it gives {wide}; its kernel gives int32 only",
            "Take the largest with output_type=tf.int32, or in the firmware.",
        )
    activations = node.activations
    wrong = next((t.dtype for t in activations if t.dtype not in types), None)
    if wrong:
        return Obstacle(
            f"its kernel does not take {wrong}",
            "Convert with int8 inputs and outputs: TensorFlow Lite Micro has no uint8 arithmetic."
            if wrong == "uint8"
            else "Convert to full integers: 'edgecnn convert --precision int8'.",
        )
    weights = node.given(WEIGHTS.get(node.op, 99))
    if weights and weights.dtype != "float32" and any(t.dtype == "float32" for t in activations):
        return Obstacle(
            "its weights are integers and its input is float32 (dynamic range), which it cannot mix",
            "Convert to full integers with calibration pictures: 'edgecnn convert --precision int8'.",
        )
    return None


def _overruled(op: OpVerdict, trial: Trial) -> OpVerdict:
    """Believe tflite-micro rather than our list."""
    if not op.mapped:
        return op
    return OpVerdict(
        op.index, op.op, False, f"tflite-micro {trial.version} refuses it: {trial.failure}", op.fix
    )


def measure(flat: bytes, input_count: int) -> Trial | None:
    """Run a model once in tflite-micro, in a child, since it aborts the process on some valid models.

    Args:
        flat: The bytes of a flatbuffer.
        input_count: How many inputs it has; they are fed with zeros.

    Returns:
        What came of it; None where tflite-micro is not installed.
    """
    if importlib.util.find_spec("tflite_micro") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.tflite")
        file.write_bytes(flat)
        command = [
            sys.executable,
            "-m",
            "edgecnn.targets.arena",
            str(file),
            str(_ARENA_BYTES),
            str(input_count),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return Trial(None, "", f"it did not end within {_TIMEOUT_S:.0f} s")
    return read_trial(done.returncode, f"{done.stdout}\n{done.stderr}")


def read_trial(code: int, text: str) -> Trial:
    r"""Read what ``edgecnn.targets.arena`` printed.

    Args:
        code: Exit status; negative if a signal ended it.
        text: Standard output and standard error.

    Returns:
        The arena, or why there is none.

    Example:
        >>> read_trial(0, "version 0.dev1\n[RecordingMicroAllocator] Arena allocation total 103680 bytes")
        Trial(arena_bytes=103680, version='0.dev1', failure=None, op=None, index=None)
    """
    version = re.search(r"^version (\S+)$", text, re.MULTILINE)
    trial = Trial(None, version[1] if version else "")
    arena = re.search(r"Arena allocation total (\d+) bytes", text)
    if code == 0 and arena:
        return replace(trial, arena_bytes=int(arena[1]))
    node = re.search(r"Node (\S+) \(number (\d+)\) (failed .*?)(?: with status \d+)?$", text, re.MULTILINE)
    if node:
        # Custom operators are called CUSTOM there, so that only the number tells which.
        return replace(trial, failure=_said(text) or node[3], index=int(node[2]))
    missing = re.search(r"Didn't find op for builtin opcode '(\w+)'", text)
    if missing:
        return replace(trial, failure="it has no such kernel", op=missing[1])
    if code < 0:
        return replace(trial, failure=f"it crashed with signal {-code}")
    return replace(trial, failure=_said(text) or f"it ended with status {code}")


def _said(text: str) -> str | None:
    """Find the line in which a kernel says what it does not take."""
    found = re.search(
        r"^(?:\S+\.cc\S* )?(.*(?:not (?:currently )?supported|Failed to).*)$", text, re.MULTILINE
    )
    return found[1].strip().rstrip(".") if found else None


def _sentence(ops: tuple[OpVerdict, ...], first: OpVerdict | None, arena: int | None) -> str:
    if first:
        return f"TensorFlow Lite Micro cannot run operator {first.index} ({first.op}): {first.reason}."
    measured = f"; the arena takes {arena:,} bytes" if arena else ""
    return f"TensorFlow Lite Micro has a kernel for the whole network, {operators(len(ops))}{measured}."


def _notes(trial: Trial | None) -> tuple[str, ...]:
    if trial is None:
        return (_NOT_INSTALLED,)
    if trial.arena_bytes is None:
        failed = f"tflite-micro {trial.version} did not run the model: {trial.failure}"
        return (f"The arena was not measured: {failed}.",)
    return (
        f"The arena was measured with tflite-micro {trial.version} on this 64-bit machine; a 32-bit "
        "microcontroller has smaller pointers and needs a little less.",
    )
