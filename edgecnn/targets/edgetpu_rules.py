"""Which operators the Edge TPU runs, and under which conditions.

Source of every rule without another one: Coral, "TensorFlow models on the Edge TPU", sections "Model
requirements" and "Supported operations" (https://coral.ai/docs/edgetpu/models-intro), for runtime 14,
the last one. Numbers after "issue" are those of https://github.com/google-coral/edgetpu/issues.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from edgecnn.bundle.schema import OPERATORS
from edgecnn.targets.graph import BIASES, SETTINGS, WEIGHTS, Node, Obstacle, shape_text

SUPPORTED: Final[dict[str, int]] = {
    "ADD": 4, "AVERAGE_POOL_2D": 3, "CONCATENATION": 3, "CONV_2D": 5, "DEPTHWISE_CONV_2D": 6,
    "EXPAND_DIMS": 1, "FULLY_CONNECTED": 9, "L2_NORMALIZATION": 2, "LOGISTIC": 3,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 3, "LSTM": 4, "MAXIMUM": 4, "MAX_POOL_2D": 3, "MEAN": 3, "MINIMUM": 4,
    "MUL": 5, "PACK": 3, "PAD": 4, "PRELU": 1, "QUANTIZE": 2, "REDUCE_MAX": 3, "REDUCE_MIN": 3, "RELU": 3,
    "RELU6": 3, "RELU_N1_TO_1": 1, "RESHAPE": 1, "RESIZE_BILINEAR": 4, "RESIZE_NEAREST_NEIGHBOR": 4,
    "RSQRT": 2, "SLICE": 5, "SOFTMAX": 3, "SPACE_TO_DEPTH": 2, "SPLIT": 4, "SQUARED_DIFFERENCE": 2,
    "SQUEEZE": 2, "STRIDED_SLICE": 6, "SUB": 5, "SUM": 2, "TANH": 3, "TRANSPOSE": 5, "TRANSPOSE_CONV": 3,
}  # fmt: skip
"""Operators that can be mapped, with the newest version that compiler 16 can read.

The compiler holds a TensorFlow Lite of July 2021 (its version, 16.0.384591198, is a change of that
month), so it reads what TensorFlow 2.6 could; which versions those are is in TensorFlow's
tools/versioning/runtime_version.cc. Issues 631 (CONV_2D 6) and 845 (TRANSPOSE_CONV 4) confirm it: a
newer version of any operator, and the compiler refuses the whole file.
"""

NEWEST_VERSIONS: Final[dict[str, int]] = {
    **SUPPORTED, "ARG_MAX": 2, "ARG_MIN": 2, "BATCH_MATMUL": 4, "BATCH_TO_SPACE_ND": 3, "CAST": 1,
    "DEPTH_TO_SPACE": 2, "DEQUANTIZE": 4, "DIV": 2, "GATHER": 5, "GATHER_ND": 3, "HARD_SWISH": 1,
    "LEAKY_RELU": 2, "LOG_SOFTMAX": 2, "MIRROR_PAD": 2, "PADV2": 4, "SPACE_TO_BATCH_ND": 3, "SPLIT_V": 2,
    "TILE": 2, "TOPK_V2": 2, "UNPACK": 4,
}  # fmt: skip
"""The same of operators that stay on the CPU: the compiler must read those as well."""

_NEWEST_OPERATOR: Final = "BROADCAST_ARGS"
"""The last operator that TensorFlow 2.6 added to the schema."""

_OTHER_OPS: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("HARD_SWISH", "LEAKY_RELU", "ELU", "GELU", "RELU_0_TO_1"),
        "Train the network with ReLU6 (or ReLU) in its place.",
    ),
    "DEQUANTIZE": "Convert with uint8 inputs and outputs, as 'edgecnn convert' does, and scale on the host.",
    "ARG_MAX": "Let the network end with its scores, and take the largest on the host.",
    "ARG_MIN": "Let the network end with its scores, and take the smallest on the host.",
    "DIV": "Multiply by the reciprocal.",
    "SQUARE": "Multiply the tensor by itself (MUL).",
    "POW": "Multiply the tensor by itself (MUL).",
    "BATCH_MATMUL": "Use a dense layer with constant weights (FULLY_CONNECTED) or a 1x1 convolution.",
    "SPLIT_V": "Split into equal parts (SPLIT).",
    "PADV2": "Pad with zeros (PAD).",
    "MIRROR_PAD": "Pad with zeros (PAD).",
    "L2_POOL_2D": "Use average pooling.",
    "LOCAL_RESPONSE_NORMALIZATION": "Use batch normalisation, which disappears into the convolution.",
    "DEPTH_TO_SPACE": "Use a transposed convolution.",
    "CONV_3D": "Use CONV_2D on each slice.",
    "CAST": "Keep the whole graph in one type.",
    "SHAPE": "Convert with a fixed batch of 1, so that shapes are constants.",
    "TOPK_V2": "Let the network end with its scores, and sort on the host.",
}
"""What to do instead of an operator that is never mapped."""

_ELSEWHERE: Final = "Replace it by operators that the Edge TPU has, or move it to the end of the network."

_INT8: Final = "Convert to full integers: 'edgecnn convert --precision int8' with calibration pictures."

MAX_SOFTMAX: Final = 16_000
"""Elements that SOFTMAX takes."""

MAX_MEAN_POSITIONS: Final = 64 * 128
"""Positions that MEAN is known to reduce: 64 x 128 was mapped, 256 x 128 was not (issue 461)."""

MAX_BILINEAR_PX: Final = 128
"""Largest side that RESIZE_BILINEAR is known to give: 128 was mapped, 512 was not (issue 31)."""

_ALIGNED_ACTIVATIONS: Final = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")


def refusal(node: Node) -> Obstacle | None:
    """Say why the compiler would refuse the whole file because of this operator.

    Returns:
        The obstacle; None where the compiler can read the operator.
    """
    if not node.operator.is_custom and OPERATORS.index(node.op) > OPERATORS.index(_NEWEST_OPERATOR):
        return Obstacle(
            f"{node.op} is newer than compiler 16, so it refuses the whole file",
            _OTHER_OPS.get(node.op, _ELSEWHERE),
        )
    newest = NEWEST_VERSIONS.get(node.op)
    if newest is not None and node.operator.version > newest:
        return Obstacle(
            f"version {node.operator.version} of {node.op} is newer than compiler 16 can read ({newest}), "
            "so it refuses the whole file",
            _version_fix(node),
        )
    moving = [p for p in SETTINGS.get(node.op, ()) if _is_dynamic(node, p)]
    if moving:
        return Obstacle(
            f"input {moving[0]} of {node.op} is computed while the model runs, so its output has no fixed "
            "size, and the compiler refuses the whole file",
            "Convert with a fixed batch of 1, and write shapes and axes as constants.",
        )
    return None


def _version_fix(node: Node) -> str:
    weights = node.given(WEIGHTS.get(node.op, 99))
    if node.op == "FULLY_CONNECTED" and weights and len(weights.quantization.scales) > 1:
        return "Quantize dense layers with one scale per tensor, or use a 1x1 convolution instead."
    if node.op == "CONV_2D":
        return "Use a convolution without groups, or split it into several."
    if node.op == "TRANSPOSE_CONV":
        return "Keep the activation apart from the transposed convolution."
    return "Convert with an older TensorFlow (2.6), or replace the operator."


def _is_dynamic(node: Node, position: int) -> bool:
    tensor = node.given(position)
    if tensor is None or tensor.is_constant or tensor.size == 0 or node.op == "GATHER":
        return False
    return not (node.op == "RESHAPE" and node.operator.options.get("new_shape"))


def obstacle(node: Node) -> Obstacle | None:
    """Say why the Edge TPU cannot run an operator, wherever it stands in the graph.

    Returns:
        The first obstacle that was found; None where nothing speaks against mapping it.
    """
    if node.operator.is_custom:
        return _custom(node)
    if node.op == "DEQUANTIZE" and (reader := _reader(node)):
        return Obstacle(
            f"it converts to float32 for {reader}, and the Edge TPU computes with 8-bit integers only",
            _OTHER_OPS.get(reader, _ELSEWHERE),
        )
    if node.op not in SUPPORTED:
        return Obstacle(f"the Edge TPU has no {node.op}", _OTHER_OPS.get(node.op, _ELSEWHERE))
    if not node.outputs or node.given(0) is None:
        return Obstacle("it lacks an input or an output", "Convert the network again.")
    for rule in (_types, _constants, _rank, _activation):
        found = rule(node)
        if found:
            return found
    special = _SPECIAL.get(node.op)
    return special(node) if special else None


def is_conversion_at_the_edge(node: Node) -> bool:
    """Whether this is the QUANTIZE of a float input, which stays on the CPU and takes nothing with it.

    Source: compiler logs of models with float inputs: QUANTIZE is "otherwise supported, but not
    mapped", and what follows it is mapped (issues 342 and 317).
    """
    fed = node.given(0)
    is_float = fed is not None and fed.dtype == "float32"
    return node.op == "QUANTIZE" and is_float and fed in node.model.inputs


def _custom(node: Node) -> Obstacle:
    if node.op == "TFLite_Detection_PostProcess":
        return Obstacle(
            "the sorting of boxes always runs on the CPU",
            "Nothing: it stands at the end and costs little.",
        )
    return Obstacle(
        f"'{node.op}' is a custom operator, which the compiler does not know",
        "Build the network from TFLite's own operators.",
    )


def _reader(node: Node) -> str | None:
    """Name the operator that a tensor is converted for; None at the end of the network."""
    given = {tensor.index for tensor in node.outputs}
    if given & {tensor.index for tensor in node.model.outputs}:
        return None
    return next((o.op for o in node.model.operators if given & set(o.inputs)), None)


def _types(node: Node) -> Obstacle | None:
    for tensor in node.data:
        if tensor.dtype not in ("int8", "uint8"):
            return _wrong_type(node, tensor.dtype)
        if not tensor.quantization.scales:
            return Obstacle(f"'{tensor.name}' is {tensor.dtype} but has no scale", _INT8)
    bias = node.given(BIASES.get(node.op, 99))
    if bias is not None and bias.dtype != "int32":
        return _wrong_type(node, bias.dtype)
    return None


def _wrong_type(node: Node, dtype: str) -> Obstacle:
    fix = _INT8
    if node.op == "QUANTIZE" and not is_conversion_at_the_edge(node):
        fix = "Give the float operator before it a substitute that computes in integers."
    elif node.op == "QUANTIZE":
        fix = "Convert with uint8 inputs, as 'edgecnn convert' does, and scale on the host."
    elif dtype == "int16":
        fix = "Convert with 8-bit activations: 'edgecnn convert --precision int8'."
    elif dtype in ("int32", "int64", "bool"):
        fix = "Compute indices and shapes before the conversion, or on the host."
    return Obstacle(f"it works on {dtype}; the Edge TPU computes with 8-bit integers only", fix)


def _constants(node: Node) -> Obstacle | None:
    for position in (WEIGHTS.get(node.op), BIASES.get(node.op)):
        tensor = None if position is None else node.given(position)
        if tensor is not None and not tensor.is_constant:
            kind = "weights" if position == WEIGHTS.get(node.op) else "bias"
            return Obstacle(
                f"its {kind} '{tensor.name}' are computed while the model runs; they must be constants",
                "Freeze the weights before the conversion.",
            )
    return None


def _rank(node: Node) -> Obstacle | None:
    """Check the rank; this also keeps PACK and SPLIT from working along a batch."""
    for tensor in node.activations:
        if any(size > 1 for size in tensor.shape[:-3]):
            return Obstacle(
                f"'{tensor.name}' is {shape_text(tensor.shape)}; only the three innermost dimensions may "
                "exceed 1",
                "Convert with a batch of 1, and reshape so that no fourth dimension is used.",
            )
    return None


def _activation(node: Node) -> Obstacle | None:
    fused = node.operator.options.get("activation", "NONE")
    allowed = (
        ("NONE",) if node.op in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION") else _ALIGNED_ACTIVATIONS
    )
    if fused in allowed:
        return None
    return Obstacle(
        f"the activation {fused} is fused into it, and only {', '.join(allowed)} may be",
        "Put the activation before it, into the convolution.",
    )


def _concatenation(node: Node) -> Obstacle | None:
    constants = [t for t in node.inputs if t is not None and t.is_constant]
    if not constants:
        return None
    values = node.model.values(constants[0])
    zero = constants[0].quantization.zero_points[0] if constants[0].quantization.zero_points else 0
    if len(node.inputs) == 2 and len(constants) == 1 and values is not None and np.all(values == zero):
        return None
    return Obstacle(
        "it appends a constant; it may do so only to one other input, and only zeros",
        "Pad with zeros (PAD), or compute the constant on the host.",
    )


def _dilation(node: Node) -> Obstacle | None:
    width, height = (node.operator.options.get(f"dilation_{side}", 1) for side in "wh")
    if width == height:
        return None
    return Obstacle(
        f"its dilation is {width} across and {height} down; both must be the same",
        "Use one dilation for both directions.",
    )


def _fully_connected(node: Node) -> Obstacle | None:
    if node.operator.options.get("weights_format", "DEFAULT") != "DEFAULT":
        return Obstacle("its weights are shuffled; only the default format is read", "Convert it again.")
    given = node.outputs[0].shape
    if given and node.outputs[0].size != given[-1]:
        return Obstacle(
            f"its output is {shape_text(given)}; it must have one dimension only",
            "Use a 1x1 convolution on a tensor of several positions.",
        )
    return None


def _mean(node: Node) -> Obstacle | None:
    fed, axes = node.inputs[0], node.axes()
    if fed is None:
        return None
    pooling = "Use average pooling (AVERAGE_POOL_2D) with a window as large as the map."
    if batch := _reduction(node):
        return batch
    channels = len(fed.shape) - 1
    if channels in axes and fed.shape[channels] % 4:
        return Obstacle(
            f"it reduces {fed.shape[channels]} channels; their number must be a multiple of 4",
            "Use a number of channels that is a multiple of 4.",
        )
    positions = int(np.prod([fed.shape[axis] for axis in axes if axis != channels] or [1]))
    if positions > MAX_MEAN_POSITIONS:
        return Obstacle(
            f"it averages {positions} positions; more than {MAX_MEAN_POSITIONS} were never seen mapped",
            pooling,
        )
    return None


def _reduction(node: Node) -> Obstacle | None:
    fed = node.inputs[0]
    if fed is None or len(fed.shape) < 4 or 0 not in node.axes():
        return None
    return Obstacle("it works along the batch dimension", "Reduce height, width or channels only.")


def _pad(node: Node) -> Obstacle | None:
    values = node.constant(1)
    if values is None or values.ndim != 2 or len(values) < 4 or not values[0].any():
        return None
    return Obstacle("it pads the batch dimension", "Pad height, width or channels only.")


def _prelu(node: Node) -> Obstacle | None:
    alpha = node.given(1)
    if alpha is None or all(size == 1 for size in alpha.shape[:-1]):
        return None
    return Obstacle(
        f"its alpha is {shape_text(alpha.shape)}; only the innermost dimension may exceed 1",
        "Give PReLU shared_axes=[1, 2].",
    )


def _resize_bilinear(node: Node) -> Obstacle | None:
    """Predict with care: Coral only says that some sizes are not mapped "to avoid loss in precision".

    Known to be mapped: 64 to 128 pixels. Known not to be: 256 to 512 (issue 31), and 1 to 33
    (Coral's deeplabv3_mnv2_dm05_pascal). Weights of factors 1, 2 and 4 are exact in 8 bits.
    """
    given = node.outputs[0].shape
    factors = _factors(node)
    if max(given[1:3], default=0) <= MAX_BILINEAR_PX and factors <= {1.0, 2.0, 4.0}:
        return None
    return Obstacle(
        f"it resizes {_sizes(node)}; only factors of 1, 2 and 4 up to {MAX_BILINEAR_PX} pixels are expected "
        "to be mapped, others would lose precision",
        "Use a transposed convolution, or end the network before it and resize on the host.",
    )


def _resize_nearest(node: Node) -> Obstacle | None:
    if all(factor.is_integer() for factor in _factors(node)):
        return None
    return Obstacle(
        f"it resizes {_sizes(node)}; only whole factors are expected to be mapped, others would lose "
        "precision",
        "Resize by a whole factor.",
    )


def _factors(node: Node) -> set[float]:
    fed, given = node.inputs[0], node.outputs[0]
    if fed is None:
        return set()
    return {new / old for old, new in zip(fed.shape[1:3], given.shape[1:3], strict=False) if old}


def _sizes(node: Node) -> str:
    fed = node.inputs[0]
    return f"{shape_text(fed.shape[1:3] if fed else ())} to {shape_text(node.outputs[0].shape[1:3])}"


def _softmax(node: Node) -> Obstacle | None:
    given = node.outputs[0].shape
    if given and node.outputs[0].size == given[-1] <= MAX_SOFTMAX:
        return None
    return Obstacle(
        f"it works on {shape_text(given)}; one dimension of at most {MAX_SOFTMAX} elements is possible",
        "End the network before it, and take the softmax on the host.",
    )


def _strided_slice(node: Node) -> Obstacle | None:
    strides, options = node.constant(3), node.operator.options
    if strides is not None and not np.all(strides == 1):
        return Obstacle(
            f"its strides are {tuple(np.ravel(strides).tolist())}; all must be 1",
            "Use a convolution or pooling with that stride.",
        )
    if options.get("ellipsis_mask", 0) or options.get("new_axis_mask", 0):
        return Obstacle("it uses an ellipsis or a new axis", "Write every dimension of the slice.")
    return None


def _transpose(node: Node) -> Obstacle | None:
    values = node.constant(1)
    order = np.ravel([] if values is None else values)
    if len(order) < 4 or int(order[0]) == 0:
        return None
    return Obstacle("it moves the batch dimension", "Keep the layout batch, height, width, channels.")


_SPECIAL: Final[dict[str, Callable[[Node], Obstacle | None]]] = {
    "CONCATENATION": _concatenation,
    "CONV_2D": _dilation,
    "DEPTHWISE_CONV_2D": _dilation,
    "FULLY_CONNECTED": _fully_connected,
    "MEAN": _mean,
    "SUM": _reduction,
    "REDUCE_MAX": _reduction,
    "REDUCE_MIN": _reduction,
    "PAD": _pad,
    "PRELU": _prelu,
    "RESIZE_BILINEAR": _resize_bilinear,
    "RESIZE_NEAREST_NEIGHBOR": _resize_nearest,
    "SOFTMAX": _softmax,
    "STRIDED_SLICE": _strided_slice,
    "TRANSPOSE": _transpose,
}
"""Conditions of one operator each."""
