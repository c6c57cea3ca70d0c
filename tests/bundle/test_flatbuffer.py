from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import tiny_models

from edgecnn.bundle import flatbuffer
from edgecnn.bundle import tables as flatbuffer_tables
from edgecnn.bundle.schema import ENUMS, OPERATORS, OPTIONS, TENSOR_TYPES
from edgecnn.errors import BundleError
from edgecnn.runtime.interpreter import open_interpreter

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ai_edge_litert import schema_py_generated as schema


def names_of(enum: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if not name.startswith("_")}


def outputs_of(model: bytes, interpreter: Any = None) -> list[Any]:
    opened = interpreter or open_interpreter(model, threads=1)
    random = np.random.default_rng(0)
    return list(opened.invoke(*(random.integers(0, 100, s.shape).astype(s.dtype) for s in opened.inputs)))


def test_numbers_mean_what_tensorflows_own_schema_says() -> None:
    assert dict(enumerate(OPERATORS)) == names_of(schema.BuiltinOperator)
    assert dict(enumerate(TENSOR_TYPES)) == {
        number: name.lower() for number, name in names_of(schema.TensorType).items()
    }
    assert dict(enumerate(ENUMS["activation"])) == names_of(schema.ActivationFunctionType)
    assert dict(enumerate(ENUMS["padding"])) == names_of(schema.Padding)


def test_options_belong_to_the_union_member_of_tensorflows_own_schema() -> None:
    members = {name: number for number, name in names_of(schema.BuiltinOptions).items()}
    odd = {
        "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "CONV_3D": "Conv3DOptions",
        "L2_NORMALIZATION": "L2NormOptions", "SPLIT_V": "SplitVOptions", "BATCH_MATMUL": "BatchMatMulOptions",
        **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"), "Pool2DOptions"),
        **dict.fromkeys((o for o in OPTIONS if o in ("MEAN", "SUM") or o.startswith("REDUCE_")),
                        "ReducerOptions"),
    }  # fmt: skip
    for op, (number, _) in OPTIONS.items():
        member = odd.get(op, "".join(word.capitalize() for word in op.split("_")) + "Options")
        assert members[member] == number, op


def test_every_reference_model_reads_as_tensorflows_own_schema_reads_it(shared: Path) -> None:
    paths = sorted((shared / "reference_models").glob("*.tflite"))
    assert len(paths) == 15
    for path in paths:
        data = path.read_bytes()
        ours, theirs = flatbuffer.parse(data), schema.ModelT.InitFromPackedBuf(data, 0)
        graph = theirs.subgraphs[0]
        assert [t.name for t in ours.tensors] == [(t.name or b"").decode() for t in graph.tensors]
        assert [list(t.shape) for t in ours.tensors] == [
            [] if t.shape is None else list(t.shape) for t in graph.tensors
        ]
        assert [TENSOR_TYPES.index(t.dtype) for t in ours.tensors] == [t.type for t in graph.tensors]
        for mine, its in zip(ours.tensors, graph.tensors, strict=True):
            scales = its.quantization.scale if its.quantization else None
            assert list(mine.quantization.scales) == ([] if scales is None else list(scales))
        for buffer, its in zip(ours.buffers, theirs.buffers, strict=True):
            assert bytes(buffer) == (b"" if its.data is None else bytes(its.data))
        for operator, its in zip(ours.operators, graph.operators, strict=True):
            assert list(operator.inputs) == list(its.inputs)
            assert list(operator.outputs) == list(its.outputs)
            if operator.op in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                options = its.builtinOptions
                assert operator.options["stride_h"] == options.strideH
                assert operator.options["padding"] == ENUMS["padding"][options.padding]
                assert operator.options["dilation_w"] == options.dilationWFactor
        custom = {c.customCode.decode() for c in theirs.operatorCodes if c.customCode}
        assert set(ours.custom_operators) == custom


def test_metadata_is_added_without_touching_a_byte_of_the_model() -> None:
    before = tiny_models.flat()
    after = flatbuffer.with_metadata(before, {"NOTE": b"hello", "OTHER": b""})
    assert after.endswith(before)
    assert (len(after) - len(before)) % 64 == 0
    assert flatbuffer.parse(after).metadata["NOTE"] == b"hello"
    assert flatbuffer.parse(after).tensors == flatbuffer.parse(before).tensors


def test_metadata_of_the_same_name_is_replaced_and_the_rest_stays() -> None:
    first = flatbuffer.with_metadata(tiny_models.flat(), {"A": b"1", "B": b"2"})
    second = flatbuffer.parse(flatbuffer.with_metadata(first, {"A": b"3"})).metadata
    assert (second["A"], second["B"]) == (b"3", b"2")
    assert "min_runtime_version" in second


def test_every_reference_model_computes_the_same_with_metadata_added(shared: Path) -> None:
    for path in sorted((shared / "reference_models").glob("*.tflite")):
        data = path.read_bytes()
        added = flatbuffer.with_metadata(data, {"NOTE": b"x" * 1000})
        theirs = schema.ModelT.InitFromPackedBuf(added, 0)
        assert b"NOTE" in [entry.name for entry in theirs.metadata]
        if flatbuffer.parse(data).custom_operators or "deeplab" in path.name:
            continue  # only an Edge TPU runs the first; the second takes seconds
        for old, new in zip(outputs_of(data), outputs_of(added), strict=True):
            np.testing.assert_array_equal(old, new)


def test_tensorflows_interpreter_opens_a_model_with_metadata_added() -> None:
    from edgecnn.workstation.backend import tf

    model = flatbuffer.with_metadata(tiny_models.flat(), {"NOTE": b"x"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf.lite announces that it moved to ai-edge-litert
        interpreter = tf.lite.Interpreter(model_content=model)
    interpreter.allocate_tensors()
    entry, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    picture = tiny_models.pictures(1)
    interpreter.set_tensor(entry, picture)
    interpreter.invoke()
    (ours,) = open_interpreter(tiny_models.flat(), threads=1).invoke(picture)
    np.testing.assert_array_equal(interpreter.get_tensor(out), ours)


def test_constant_values_are_read_as_they_are_stored() -> None:
    model = flatbuffer.parse(tiny_models.flat())
    convolution = next(o for o in model.operators if o.op == "CONV_2D")
    weights = model.values(model.tensors[convolution.inputs[1]])
    assert weights is not None
    assert weights.shape == (4, 3, 3, 3)
    assert weights.dtype == np.int8
    assert model.values(model.inputs[0]) is None


def test_a_text_file_is_no_model() -> None:
    with pytest.raises(BundleError, match="not a TFLite model"):
        flatbuffer.parse(b"<html>404 not found</html>")


@pytest.mark.parametrize("value", [0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF])
def test_a_wild_number_in_any_word_is_read_or_refused_and_never_a_traceback(value: int) -> None:
    original = tiny_models.flat()
    refused = 0
    for place in range(0, len(original) - 4, 4):
        model = bytearray(original)
        model[place : place + 4] = struct.pack("<I", value)
        refused += is_refused(bytes(model))
    assert 0 < refused < len(original) // 4


def is_refused(model: bytes) -> bool:
    try:
        flatbuffer.parse(model)
    except BundleError:
        return True
    return False


def test_a_model_cut_anywhere_before_its_last_values_is_refused() -> None:
    original = tiny_models.flat()
    for length in range(0, len(original) - 64, 8):
        with pytest.raises(BundleError):
            flatbuffer.parse(original[:length])


def test_a_file_whose_tables_unfold_without_end_is_refused_at_once() -> None:
    # Its list of graphs names the same table over and over.
    count = flatbuffer_tables.MAX_TABLES + 1
    root = struct.pack("<I4s", 20, b"TFL3") + struct.pack("<5H", 10, 12, 4, 0, 8) + b"\0\0"
    table = struct.pack("<iII", 12, 3, 4)
    vector = struct.pack("<I", count) + b"".join(
        struct.pack("<I", 4 * (count - index)) for index in range(count)
    )
    graph = struct.pack("<i2H", -4, 4, 4)
    with pytest.raises(BundleError, match="more than 200000 tables"):
        flatbuffer.parse(root + table + vector + graph)


def changed(change: Callable[[Any], None]) -> bytes:
    """Pack the small model anew after a change that keeps it a valid flatbuffer."""
    model = schema.ModelT.InitFromPackedBuf(tiny_models.flat("signed"), 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_a_model_that_was_packed_anew_without_a_change_is_read() -> None:
    assert outputs_of(changed(lambda _: None))


def convolution(model: Any) -> Any:
    number = next(
        o.index for o in flatbuffer.parse(tiny_models.flat("signed")).operators if o.op == "CONV_2D"
    )
    return model.subgraphs[0].operators[number]


def read_the_result_first(model: Any) -> None:
    operator = convolution(model)
    operator.inputs = [model.subgraphs[0].outputs[0], *operator.inputs[1:]]


def write_on_weights(model: Any) -> None:
    operator = convolution(model)
    operator.outputs = [operator.inputs[1]]


def stride_of_nothing(model: Any) -> None:
    convolution(model).builtinOptions.strideH = 0


def options_of_another(model: Any) -> None:
    convolution(model).builtinOptionsType = schema.BuiltinOptions.Pool2DOptions
    convolution(model).builtinOptions = schema.Pool2DOptionsT()


def weights_too_short(model: Any) -> None:
    buffer = model.buffers[model.subgraphs[0].tensors[convolution(model).inputs[1]].buffer]
    buffer.data = buffer.data[:-1]


def a_terabyte(model: Any) -> None:
    model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shape = [1 << 14, 1 << 14, 1 << 14, 3]


def a_negative_size(model: Any) -> None:
    model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shape = [1, -16, 16, 3]


def a_scale_that_is_no_number(model: Any) -> None:
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].quantization.scale = [float("nan")]


def a_tensor_that_is_not_there(model: Any) -> None:
    model.subgraphs[0].outputs = [10_000]


def an_operator_of_the_future(model: Any) -> None:
    model.operatorCodes[0].builtinCode = 9_999


def a_schema_of_the_future(model: Any) -> None:
    model.version = 4


def nothing_to_compute(model: Any) -> None:
    model.subgraphs[0].operators = []
    model.subgraphs[0].outputs = []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (read_the_result_first, "which nothing wrote"),
        (write_on_weights, "writes on the constant"),
        (stride_of_nothing, "stride_h = 0"),
        (options_of_another, "options of another operator"),
        (weights_too_short, "bytes of values"),
        (a_terabyte, "would need"),
        (a_negative_size, "impossible shape"),
        (a_scale_that_is_no_number, "no number"),
        (a_tensor_that_is_not_there, "uses tensor 10000"),
        (an_operator_of_the_future, "operator number 9999"),
        (a_schema_of_the_future, "version 4"),
        (nothing_to_compute, "no operator"),
    ],
)
def test_a_sound_flatbuffer_that_makes_no_sense_is_refused_with_the_reason(
    damage: Callable[[Any], None], words: str
) -> None:
    model = changed(damage)
    with pytest.raises(BundleError, match=words):
        flatbuffer.parse(model)
