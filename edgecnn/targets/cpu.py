"""How TensorFlow Lite runs a model on a CPU: what computes in integers, and what has no kernel."""

from __future__ import annotations

from typing import Final

from edgecnn.bundle.flatbuffer import Model
from edgecnn.targets.graph import Check, Node, OpVerdict, nodes, operators, summary

XNNPACK_INT8: Final = frozenset(
    {
        "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE",
        "DEQUANTIZE", "ELU", "FULLY_CONNECTED", "LEAKY_RELU", "LOGISTIC", "MAX_POOL_2D", "MEAN", "MUL", "PAD",
        "QUANTIZE", "RESHAPE", "RESIZE_BILINEAR", "SLICE", "SPACE_TO_DEPTH", "SPLIT", "SUB", "TANH",
        "TRANSPOSE", "TRANSPOSE_CONV",
    }
)  # fmt: skip
"""Operators that XNNPACK computes in 8-bit integers.

Source: TensorFlow, lite/delegates/xnnpack/README.md, section "Quantized operators".
"""

_NO_KERNEL: Final = frozenset(
    {"CALL", "CONCAT_EMBEDDINGS", "DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES", "LSH_PROJECTION"}
)
"""Operators of the schema that TFLite's kernels/register.cc does not register, or never for pictures."""

_KNOWN_CUSTOM: Final = frozenset({"TFLite_Detection_PostProcess", "Mfcc", "AudioSpectrogram"})
"""Custom operators that TFLite registers itself (kernels/register.cc)."""

_MOVES: Final = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "QUANTIZE", "DEQUANTIZE", "SHAPE", "CAST"})
"""Operators that only move or convert: float there is no arithmetic in float."""

_COMPUTES: Final = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})


def check(model: Model) -> Check:
    """Say how a CPU runs a model; a model that runs slower than it could still passes.

    Args:
        model: A model.

    Returns:
        A verdict for every operator; ``mapped`` says whether there is a kernel.
    """
    steps = tuple(nodes(model))
    is_quantized = any(_is_quantized(node) for node in steps if node.op not in _MOVES)
    ops = tuple(_verdict(node, is_quantized) for node in steps)
    first = next((op for op in ops if not op.mapped), None)
    islands = [node.operator.index for node in steps if is_quantized and _is_island(node)]
    return summary(model, "cpu", ops, first, "prediction", _sentence(ops, first, islands))


def _verdict(node: Node, is_quantized: bool) -> OpVerdict:
    index, op = node.operator.index, node.op
    if node.operator.is_custom and op not in _KNOWN_CUSTOM:
        reason, fix = _custom(op)
        return OpVerdict(index, op, False, reason, fix)
    if op in _NO_KERNEL:
        fix = "Convert the network again, from TFLite's own operators."
        return OpVerdict(index, op, False, "TFLite has no kernel for it", fix)
    if is_quantized and _is_island(node):
        fix = "Calibrate again with this layer's range, or use an operator that has an integer kernel."
        return OpVerdict(index, op, True, "float32 in the middle of an integer network", fix)
    return OpVerdict(index, op, True, _remark(node))


def _custom(op: str) -> tuple[str, str]:
    if op.startswith("Flex"):
        return (
            f"'{op}' is an operator of TensorFlow itself, which needs the whole of it on the device",
            "Convert with TFLite's own operators only, and replace the layer that needs this one.",
        )
    if op == "edgetpu-custom-op":
        return (
            "it was compiled for the Edge TPU, and no CPU can run it",
            "Use the file that it was compiled from.",
        )
    return (
        f"'{op}' is a custom operator, and no common runtime has it",
        "Build the network from TFLite's own operators, or register a kernel.",
    )


def _is_quantized(node: Node) -> bool:
    return any(t.dtype in ("int8", "uint8", "int16") and t.quantization.scales for t in node.activations)


def _is_island(node: Node) -> bool:
    """Whether an operator computes in floats."""
    return node.op not in _MOVES and any(t.dtype == "float32" for t in node.outputs)


def _remark(node: Node) -> str | None:
    """Say what makes an operator slower than it could be."""
    kinds = {t.dtype for t in node.activations}
    if node.op in _COMPUTES and "float32" in kinds and any(t.dtype == "int8" for t in node.inputs if t):
        return "8-bit weights, computed in floats (dynamic range)"
    if "int16" in kinds and node.op not in _MOVES:
        return "16-bit activations: TFLite's own kernel, much slower than XNNPACK's 8-bit one"
    if kinds & {"int8", "uint8"} and node.op not in XNNPACK_INT8:
        return "TFLite's own integer kernel; XNNPACK has none"
    return None


def _sentence(ops: tuple[OpVerdict, ...], first: OpVerdict | None, islands: list[int]) -> str:
    if first:
        return f"A CPU cannot run operator {first.index} ({first.op}): {first.reason}."
    if islands:
        numbers = ", ".join(map(str, islands[:8])) + (" ..." if len(islands) > 8 else "")
        who = f"{len(islands)} of {operators(len(ops))}"
        return f"A CPU runs the whole network; {who} compute in float32: {numbers}."
    return f"A CPU runs the whole network: {operators(len(ops))}."
