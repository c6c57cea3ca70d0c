"""What the numbers in a TFLite flatbuffer stand for.

Source: tensorflow/lite/schema/schema.fbs of TensorFlow 2.21 and LiteRT 2.1; it only ever grows.
"""

from __future__ import annotations

from typing import Final

OPERATORS: Final = (  # noqa: SIM905 - as a list it would fill 210 lines
    """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP
    FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION
    LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN
    SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD
    UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE
    UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX
    DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER
    GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL
    NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR
    ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD
    RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL
    REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG
    ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY
    SEGMENT_SUM BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D
    IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL
    CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL
    BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD
    UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR
    RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM
    STABLEHLO_RESHAPE STABLEHLO_CLAMP STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM
    STABLEHLO_CONVOLUTION STABLEHLO_SLICE STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS
    STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM
    STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT STABLEHLO_SELECT
    STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT
    STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA
    STABLEHLO_DOT_GENERAL STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE STABLEHLO_GATHER
    STABLEHLO_TRANSPOSE DILATE STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE
    STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE
    """
).split()
"""Names of ``BuiltinOperator``, by number."""

TENSOR_TYPES: Final = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8",
    "float64", "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4", "bfloat16",
    "int2", "uint4", "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip
"""Names of ``TensorType``, by number; numpy's names where numpy has the type."""

TYPE_BITS: Final = {
    "float32": 32, "float16": 16, "int32": 32, "uint8": 8, "int64": 64, "bool": 8, "int16": 16,
    "complex64": 64, "int8": 8, "float64": 64, "complex128": 128, "uint64": 64, "uint32": 32,
    "uint16": 16, "int4": 4, "bfloat16": 16, "int2": 2, "uint4": 4,
    "float8_e4m3fn": 8, "float8_e5m2": 8,
}  # fmt: skip
"""Bits of one element; the types without a fixed size are left out."""

NUMPY_TYPES: Final = frozenset(TYPE_BITS) - {
    "bfloat16", "int4", "int2", "uint4", "float8_e4m3fn", "float8_e5m2",
}  # fmt: skip
"""Types that numpy reads as they are stored."""

ENUMS: Final[dict[str, tuple[str, ...]]] = {
    "padding": ("SAME", "VALID"),
    "activation": ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT"),
    "mirror": ("REFLECT", "SYMMETRIC"),
    "weights": ("DEFAULT", "SHUFFLED4x16INT8"),
}
"""Names of the smaller enums, by number."""

_WINDOW: Final = (("padding", 0, "padding", 0), ("stride_w", 1, "i32", 0), ("stride_h", 2, "i32", 0))
_ACTIVATION: Final = (("activation", 0, "activation", 0),)

OPTIONS: Final[dict[str, tuple[int, tuple[tuple[str, int, str, float], ...]]]] = {
    "CONV_2D": (
        1,
        (
            *_WINDOW,
            ("activation", 3, "activation", 0),
            ("dilation_w", 4, "i32", 1),
            ("dilation_h", 5, "i32", 1),
        ),
    ),
    "DEPTHWISE_CONV_2D": (
        2,
        (
            *_WINDOW,
            ("depth_multiplier", 3, "i32", 0),
            ("activation", 4, "activation", 0),
            ("dilation_w", 5, "i32", 1),
            ("dilation_h", 6, "i32", 1),
        ),
    ),
    "TRANSPOSE_CONV": (49, (*_WINDOW, ("activation", 3, "activation", 0))),
    "CONV_3D": (
        106,
        (
            ("padding", 0, "padding", 0),
            ("stride_d", 1, "i32", 0),
            ("stride_w", 2, "i32", 0),
            ("stride_h", 3, "i32", 0),
            ("activation", 4, "activation", 0),
        ),
    ),
    **dict.fromkeys(
        ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"),
        (
            5,
            (
                *_WINDOW,
                ("filter_w", 3, "i32", 0),
                ("filter_h", 4, "i32", 0),
                ("activation", 5, "activation", 0),
            ),
        ),
    ),
    "FULLY_CONNECTED": (
        8,
        (*_ACTIVATION, ("weights_format", 1, "weights", 0), ("keep_num_dims", 2, "bool", 0)),
    ),
    "SOFTMAX": (9, (("beta", 0, "f32", 0.0),)),
    "CONCATENATION": (10, (("axis", 0, "i32", 0), ("activation", 1, "activation", 0))),
    "ADD": (11, _ACTIVATION),
    "SUB": (28, _ACTIVATION),
    "MUL": (21, _ACTIVATION),
    "DIV": (29, _ACTIVATION),
    "L2_NORMALIZATION": (12, _ACTIVATION),
    "LOCAL_RESPONSE_NORMALIZATION": (
        13,
        (("radius", 0, "i32", 0), ("bias", 1, "f32", 0.0), ("alpha", 2, "f32", 0.0), ("beta", 3, "f32", 0.0)),
    ),
    "RESIZE_BILINEAR": (15, (("align_corners", 2, "bool", 0), ("half_pixel_centers", 3, "bool", 0))),
    "RESIZE_NEAREST_NEIGHBOR": (
        74,
        (("align_corners", 0, "bool", 0), ("half_pixel_centers", 1, "bool", 0)),
    ),
    "RESHAPE": (17, (("new_shape", 0, "[i32]", 0),)),
    "SQUEEZE": (30, (("squeeze_dims", 0, "[i32]", 0),)),
    "SPACE_TO_DEPTH": (19, (("block_size", 0, "i32", 0),)),
    "DEPTH_TO_SPACE": (94, (("block_size", 0, "i32", 0),)),
    **dict.fromkeys(
        ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL"),
        (27, (("keep_dims", 0, "bool", 0),)),
    ),
    "STRIDED_SLICE": (
        32,
        (
            ("begin_mask", 0, "i32", 0),
            ("end_mask", 1, "i32", 0),
            ("ellipsis_mask", 2, "i32", 0),
            ("new_axis_mask", 3, "i32", 0),
            ("shrink_axis_mask", 4, "i32", 0),
        ),
    ),
    "GATHER": (23, (("axis", 0, "i32", 0), ("batch_dims", 1, "i32", 0))),
    "SPLIT": (35, (("num_splits", 0, "i32", 0),)),
    "SPLIT_V": (79, (("num_splits", 0, "i32", 0),)),
    "PACK": (59, (("values_count", 0, "i32", 0), ("axis", 1, "i32", 0))),
    "UNPACK": (64, (("num", 0, "i32", 0), ("axis", 1, "i32", 0))),
    "LEAKY_RELU": (75, (("alpha", 0, "f32", 0.0),)),
    "MIRROR_PAD": (77, (("mode", 0, "mirror", 0),)),
    "BATCH_MATMUL": (101, (("adj_x", 0, "bool", 0), ("adj_y", 1, "bool", 0))),
    "GELU": (116, (("approximate", 0, "bool", 0),)),
    "CALL_ONCE": (103, (("init_subgraph", 0, "i32", 0),)),
    "IF": (92, (("then_subgraph", 0, "i32", 0), ("else_subgraph", 1, "i32", 0))),
    "WHILE": (93, (("cond_subgraph", 0, "i32", 0), ("body_subgraph", 1, "i32", 0))),
    "CONCAT_EMBEDDINGS": (3, (("columns", 1, "[i32]", 0), ("embedding_dims", 2, "[i32]", 0))),
    "BUCKETIZE": (115, (("boundaries", 0, "[f32]", 0),)),
    "VAR_HANDLE": (111, (("container", 0, "text", 0), ("shared_name", 1, "text", 0))),
}
"""By operator: the number of its options in the union ``BuiltinOptions``, and of each option its
name, slot, kind and default. An operator that is not here has no options that edgecnn uses, nor
any that points elsewhere in the file."""

AT_LEAST_ONE: Final = frozenset(
    {"stride_w", "stride_h", "stride_d", "dilation_w", "dilation_h", "filter_w", "filter_h", "block_size"}
)
"""Options by which interpreters divide."""

STRIDED: Final = frozenset(
    {
        "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D",
        "AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE",
    }
)  # fmt: skip
"""Operators that mean nothing without their options."""
