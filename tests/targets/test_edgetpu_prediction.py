"""What the Edge TPU maps, foretold from the file, held against what Google's compiler did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from graphs import Graph

from edgecnn.bundle.flatbuffer import Model, Quantization, parse
from edgecnn.bundle.layers import layers
from edgecnn.targets import compiler, edgetpu
from edgecnn.targets.graph import OpVerdict

PAIRS = [
    "deeplabv3_mnv2_dm05_pascal_quant",
    "mobilenet_v1_0.25_128_quant",
    "mobilenet_v1_0.5_160_quant",
    "split_concat",
]


def load(shared: Path, name: str) -> Model:
    return parse((shared / "reference_models" / f"{name}.tflite").read_bytes())


def left(ops: tuple[OpVerdict, ...]) -> list[int]:
    return [op.index for op in ops if not op.mapped]


def test_every_model_that_lies_beside_its_compiled_file_is_tested(shared: Path) -> None:
    compiled = (shared / "reference_models").glob("*_edgetpu.tflite")

    assert sorted(path.stem.removesuffix("_edgetpu") for path in compiled) == PAIRS


@pytest.mark.parametrize("name", PAIRS)
def test_the_prediction_agrees_with_the_compiler_on_every_operator(shared: Path, name: str) -> None:
    source, compiled = load(shared, name), load(shared, f"{name}_edgetpu")

    on_cpu = [o for o in compiled.operators if o.op != compiler.COMPILED_OP]
    check = edgetpu.predict(source)

    # First that the comparison sees every operator which the compiler left, then that we foretold them.
    assert len(compiler.left_on_cpu(source, compiled)) == len(on_cpu)
    assert left(check.ops) == sorted(compiler.left_on_cpu(source, compiled))


@pytest.mark.parametrize("name", PAIRS)
def test_what_leaves_the_mapped_part_is_what_leaves_the_compilers_custom_operator(
    shared: Path, name: str
) -> None:
    source, compiled = load(shared, name), load(shared, f"{name}_edgetpu")
    check = edgetpu.predict(source)

    mapped = [source.operators[op.index] for op in check.ops if op.mapped]
    given = {index for o in mapped for index in o.outputs}
    read = {i for op in check.ops if not op.mapped for i in source.operators[op.index].inputs}
    leaving = given & (read | set(source.subgraphs[0].outputs))
    custom = next(o for o in compiled.operators if o.op == compiler.COMPILED_OP)

    assert {source.tensors[i].name for i in leaving} == {compiled.tensors[i].name for i in custom.outputs}


def test_deeplabs_first_upsampling_sends_the_rest_to_the_cpu_with_a_sixth_of_the_arithmetic(
    shared: Path,
) -> None:
    model = load(shared, PAIRS[0])

    check = edgetpu.predict(model)

    assert check.first_blocking_op is not None
    assert (check.first_blocking_op.index, check.first_blocking_op.op) == (64, "RESIZE_BILINEAR")
    # Behind it are two 1x1 convolutions at 33 x 33 positions, of 512 to 256 and 256 to 21 channels.
    behind = 33 * 33 * (512 * 256 + 256 * 21)
    total = sum(row.macs or 0 for row in layers(model))
    assert check.mapped_macs_share == pytest.approx(1 - behind / total)


def test_a_compiled_file_shows_what_the_compiler_left(shared: Path) -> None:
    model = load(shared, "deeplabv3_mnv2_dm05_pascal_quant_edgetpu")

    check = edgetpu.check(model, b"")

    assert (check.basis, left(check.ops), check.mapped_macs_share) == ("compiler", list(range(1, 9)), None)


def test_a_network_of_supported_operators_maps_as_a_whole() -> None:
    graph = Graph()
    fed = graph.conv(graph.input((1, 8, 8, 3)), activation="RELU6")
    graph.op("MEAN", (fed, graph.constant(np.int32([1, 2]))), (1, 8))

    check = edgetpu.predict(graph.model())

    assert (check.passed, check.first_blocking_op, check.mapped_macs_share) == (True, None, 1.0)


def test_a_branch_beside_the_unsupported_operator_is_mapped_and_what_joins_them_is_not() -> None:
    graph = Graph()
    trunk = graph.conv(graph.input((1, 8, 8, 8)))
    blocked = graph.op("HARD_SWISH", (trunk,), (1, 8, 8, 8))
    behind = graph.conv(blocked)
    beside = graph.conv(trunk)
    graph.op("ADD", (behind, beside), (1, 8, 8, 8))

    check = edgetpu.predict(graph.model())

    assert [op.mapped for op in check.ops] == [True, False, False, True, False]
    assert check.first_blocking_op is check.ops[1]
    assert "ReLU6" in (check.ops[1].fix or "")
    assert check.mapped_macs_share == pytest.approx(2 / 3)


def test_the_conversion_of_a_float_input_stays_on_the_cpu_and_takes_nothing_with_it() -> None:
    graph = Graph()
    quantized = graph.op("QUANTIZE", (graph.input((1, 8, 8, 3), "float32"),), (1, 8, 8, 3))
    graph.op("DEQUANTIZE", (graph.conv(quantized),), (1, 8, 8, 8), "float32")

    check = edgetpu.predict(graph.model())

    assert [op.mapped for op in check.ops] == [False, True, False]
    assert check.first_blocking_op is check.ops[2]


def test_a_float_island_names_the_layer_that_is_to_blame() -> None:
    graph = Graph()
    floats = graph.op("DEQUANTIZE", (graph.conv(graph.input((1, 8, 8, 3))),), (1, 8, 8, 8), "float32")
    graph.op("QUANTIZE", (graph.op("ELU", (floats,), (1, 8, 8, 8), "float32"),), (1, 8, 8, 8))

    blocking = edgetpu.predict(graph.model()).first_blocking_op

    assert blocking is not None
    assert ("ELU" in (blocking.reason or ""), "ReLU6" in (blocking.fix or "")) == (True, True)


def test_an_operator_that_the_compiler_cannot_read_makes_it_refuse_the_whole_file() -> None:
    graph = Graph()
    first = graph.conv(graph.input((1, 8, 8, 8)))
    graph.conv(first, version=6)

    check = edgetpu.predict(graph.model())

    assert left(check.ops) == [0, 1]
    assert check.first_blocking_op is check.ops[1]


def test_a_shape_that_is_computed_makes_the_compiler_refuse_the_whole_file() -> None:
    graph = Graph()
    fed = graph.input((1, 8, 8, 8))
    graph.op("RESHAPE", (fed, graph.op("SHAPE", (fed,), (4,), "int32")), (1, 512))

    check = edgetpu.predict(graph.model())

    assert check.verdict.startswith("Compiler 16 is expected to refuse")


def test_parameters_that_do_not_fit_on_the_chip_are_announced() -> None:
    graph = Graph()
    weights = graph.constant(np.ones((1000, 9000), np.int8))
    bias = graph.constant(np.zeros(1000, np.int32), Quantization((1.0,), (0,)))
    graph.op("FULLY_CONNECTED", (graph.input((1, 9000)), weights, bias), (1, 1000))

    check = edgetpu.predict(graph.model())

    assert (check.parameter_bytes, check.on_chip_bytes) == (9_004_000, 8_388_608)
    assert "streamed" in check.notes[0]


def one(
    op: str, shape: tuple[int, ...], given: tuple[int, ...], *constants: object, **options: object
) -> Model:
    """Give a graph of one operator with constant inputs behind the first."""
    dtype = str(options.pop("dtype", "int8"))
    graph = Graph()
    fed = graph.input(shape, dtype)
    further = [graph.constant(np.asarray(value)) for value in constants]
    graph.op(op, (fed, *further), given, dtype, **options)
    return graph.model()


def computed_weights() -> Model:
    graph = Graph()
    fed = graph.input((1, 4, 4, 8))
    bias = graph.constant(np.zeros(8, np.int32), Quantization((1.0,), (0,)))
    graph.op("CONV_2D", (fed, graph.input((8, 1, 1, 8)), bias), (1, 4, 4, 8))
    return graph.model()


def dilated(across: int, down: int) -> Model:
    graph = Graph()
    graph.conv(graph.input((1, 8, 8, 8)), dilation_w=across, dilation_h=down)
    return graph.model()


def concatenated(value: int) -> Model:
    graph = Graph()
    fed, zeros = graph.input((1, 4, 4, 8)), graph.constant(np.full((1, 4, 4, 8), value, np.int8))
    graph.op("CONCATENATION", (fed, zeros), (1, 4, 4, 16), axis=3, activation="NONE")
    return graph.model()


def unquantized() -> Model:
    graph = Graph()
    fed = graph.tensor((1, 4, 4, 8), "int8", Quantization())
    graph.inputs.append(fed)
    graph.op("RELU", (fed,), (1, 4, 4, 8))
    return graph.model()


I32, I8 = np.int32, np.int8
LIMITS: dict[str, tuple[Callable[[], Model], Callable[[], Model]]] = {
    "8-bit integers": (
        lambda: one("RELU", (1, 4, 4, 8), (1, 4, 4, 8)),
        lambda: one("RELU", (1, 4, 4, 8), (1, 4, 4, 8), dtype="int16"),
    ),
    "has no scale": (lambda: one("RELU", (1, 4, 4, 8), (1, 4, 4, 8)), unquantized),
    "innermost dimensions": (
        lambda: one("RELU", (1, 4, 4, 8), (1, 4, 4, 8)),
        lambda: one("RELU", (2, 4, 4, 8), (2, 4, 4, 8)),
    ),
    "must be constants": (lambda: dilated(1, 1), computed_weights),
    "both must be the same": (lambda: dilated(2, 2), lambda: dilated(2, 1)),
    "is fused into it": (
        lambda: one("MAX_POOL_2D", (1, 4, 4, 8), (1, 2, 2, 8), activation="NONE"),
        lambda: one("MAX_POOL_2D", (1, 4, 4, 8), (1, 2, 2, 8), activation="RELU"),
    ),
    "appends a constant": (lambda: concatenated(0), lambda: concatenated(1)),
    "one dimension only": (
        lambda: one("FULLY_CONNECTED", (1, 8), (1, 4), np.ones((4, 8), I8), np.zeros(4, I32)),
        lambda: one("FULLY_CONNECTED", (1, 3, 8), (1, 3, 4), np.ones((4, 8), I8), np.zeros(4, I32)),
    ),
    "multiple of 4": (
        lambda: one("MEAN", (1, 4, 4, 8), (1, 4, 4), I32([3])),
        lambda: one("MEAN", (1, 4, 4, 6), (1, 4, 4), I32([3])),
    ),
    "it averages": (
        lambda: one("MEAN", (1, 64, 128, 3), (1, 3), I32([1, 2])),
        lambda: one("MEAN", (1, 256, 128, 3), (1, 3), I32([1, 2])),
    ),
    "along the batch dimension": (
        lambda: one("SUM", (1, 4, 4, 8), (1, 8), I32([1, 2])),
        lambda: one("SUM", (1, 4, 4, 8), (4, 4, 8), I32([0])),
    ),
    "pads the batch": (
        lambda: one("PAD", (1, 4, 4, 8), (1, 6, 6, 8), I32([[0, 0], [1, 1], [1, 1], [0, 0]])),
        lambda: one("PAD", (1, 1, 4, 8), (1, 1, 4, 8), I32([[0, 1], [0, 0], [0, 0], [0, 0]])),
    ),
    "its alpha is": (
        lambda: one("PRELU", (1, 4, 4, 8), (1, 4, 4, 8), np.ones((1, 1, 8), I8)),
        lambda: one("PRELU", (1, 4, 4, 8), (1, 4, 4, 8), np.ones((4, 4, 8), I8)),
    ),
    "it resizes 256x256": (
        lambda: one("RESIZE_BILINEAR", (1, 64, 64, 8), (1, 128, 128, 8), I32([128, 128])),
        lambda: one("RESIZE_BILINEAR", (1, 256, 256, 8), (1, 512, 512, 8), I32([512, 512])),
    ),
    "only whole factors": (
        lambda: one("RESIZE_NEAREST_NEIGHBOR", (1, 40, 40, 8), (1, 80, 80, 8), I32([80, 80])),
        lambda: one("RESIZE_NEAREST_NEIGHBOR", (1, 40, 40, 8), (1, 50, 50, 8), I32([50, 50])),
    ),
    "16000 elements": (
        lambda: one("SOFTMAX", (1, 16_000), (1, 16_000)),
        lambda: one("SOFTMAX", (1, 16_001), (1, 16_001)),
    ),
    "all must be 1": (
        lambda: one("STRIDED_SLICE", (1, 4, 8), (1, 2, 8), *(I32([v] * 3) for v in (0, 2, 1))),
        lambda: one("STRIDED_SLICE", (1, 4, 8), (1, 2, 4), *(I32([v] * 3) for v in (0, 2, 2))),
    ),
    "moves the batch": (
        lambda: one("TRANSPOSE", (1, 4, 4, 8), (1, 8, 4, 4), I32([0, 3, 1, 2])),
        lambda: one("TRANSPOSE", (1, 1, 4, 8), (1, 1, 4, 8), I32([1, 0, 2, 3])),
    ),
    "Edge TPU has no": (
        lambda: one("RELU6", (1, 4, 4, 8), (1, 4, 4, 8)),
        lambda: one("LEAKY_RELU", (1, 4, 4, 8), (1, 4, 4, 8)),
    ),
    "custom operator": (
        lambda: one("RELU6", (1, 4, 4, 8), (1, 4, 4, 8)),
        lambda: one("MyOp", (1, 4, 4, 8), (1, 4, 4, 8), is_custom=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", LIMITS)
def test_each_limit_of_the_edge_tpu_is_seen_where_it_is_crossed_and_only_there(reason: str) -> None:
    within, beyond = (edgetpu.predict(make()) for make in LIMITS[reason])

    assert within.passed
    blocking = beyond.first_blocking_op
    assert blocking is not None
    assert reason in (blocking.reason or "")
    assert blocking.fix
