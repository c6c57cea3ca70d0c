"""What a TFLite flatbuffer holds, read without trusting it, and how metadata is added to one."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle.schema import (
    AT_LEAST_ONE,
    ENUMS,
    NUMPY_TYPES,
    OPERATORS,
    OPTIONS,
    STRIDED,
    TENSOR_TYPES,
    TYPE_BITS,
)
from edgecnn.bundle.tables import Buffer, Table, damaged
from edgecnn.errors import BundleError

MAX_TENSOR_BYTES: Final = 1 << 31
"""No device of ours holds a larger tensor; a damaged dimension easily asks for one."""

MAX_RANK: Final = 16
"""TFLite's own kernels take 8 at most."""

Option = str | int | float | bool | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Quantization:
    """What a tensor's codes mean; empty where it is not quantized.

    Attributes:
        scales: Real units per code: none, one, or one per index along ``axis``.
        zero_points: The codes that mean 0.0, as many as scales.
        axis: The dimension that several scales belong to.
    """

    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    axis: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a graph.

    Attributes:
        index: Its number in the subgraph.
        name: As the converter named it.
        shape: Its dimensions; () for a scalar.
        dtype: numpy's name, or TFLite's where numpy has none: ``float32``, ``int8``, ``string`` ...
        quantization: What its codes mean.
        buffer: Number of the buffer with its values; an empty buffer where it has none yet.
        is_variable: Whether it keeps its value from one invocation to the next.
        is_sparse: Whether the buffer holds only what is not zero.
        is_constant: Whether its values are in the file.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization
    buffer: int
    is_variable: bool = False
    is_sparse: bool = False
    is_constant: bool = False

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Operator:
    """One step of a graph.

    Attributes:
        index: Its number in the subgraph, which is the order of execution.
        op: ``CONV_2D`` ...; of a custom operator, its own name, ``edgetpu-custom-op`` for instance.
        version: Version of the operator.
        inputs: Numbers of tensors; -1 for an optional one that is left out.
        outputs: Numbers of tensors.
        options: By name, of those in ``edgecnn.bundle.schema.OPTIONS``: ``stride_h`` ...
        is_custom: Whether it is none of TFLite's own.
    """

    index: int
    op: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Option]
    is_custom: bool = False


@dataclass(frozen=True, slots=True)
class Subgraph:
    """One graph; a model without control flow has exactly one."""

    name: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A whole flatbuffer.

    Attributes:
        version: Of the schema; 3 everywhere.
        description: As the converter wrote it.
        subgraphs: The first is the one that is invoked.
        buffers: Bytes of the values, by number; views into the file.
        metadata: Entries by name.
    """

    version: int
    description: str
    subgraphs: tuple[Subgraph, ...]
    buffers: tuple[memoryview, ...]
    metadata: Mapping[str, bytes]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensors of the main graph."""
        return self.subgraphs[0].tensors

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Operators of the main graph, in the order of execution."""
        return self.subgraphs[0].operators

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Input tensors of the main graph."""
        return tuple(self.tensors[index] for index in self.subgraphs[0].inputs)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """Output tensors of the main graph."""
        return tuple(self.tensors[index] for index in self.subgraphs[0].outputs)

    @property
    def custom_operators(self) -> tuple[str, ...]:
        """Names of the operators that are none of TFLite's own, sorted."""
        return tuple(sorted({o.op for graph in self.subgraphs for o in graph.operators if o.is_custom}))

    def values(self, tensor: Tensor) -> NDArray[Any] | None:
        """Read a constant tensor as it is stored: codes, not real numbers.

        Args:
            tensor: Of any subgraph.

        Returns:
            An array of ``tensor.shape``, a view into the file; None for a tensor that has no values
            in the file, is sparse, or has a type that numpy does not know.
        """
        if not tensor.is_constant or tensor.is_sparse or tensor.dtype not in NUMPY_TYPES:
            return None
        return np.frombuffer(self.buffers[tensor.buffer], tensor.dtype).reshape(tensor.shape)


def parse(model: bytes) -> Model:
    """Read a flatbuffer, and refuse one that an interpreter could stumble over.

    Every offset, vector, string, enum and index that is used is checked before it is followed, and so
    is that every operator reads what exists by then: ``tflite-runtime`` checks little of that and dies
    by SIGSEGV on damaged files.

    Args:
        model: The bytes of a ``.tflite`` file; what follows the flatbuffer does not matter.

    Returns:
        Its graphs, tensors and metadata; buffers are views into ``model``.

    Raises:
        BundleError: If it is no TFLite file, or a damaged one.
    """
    if len(model) < 8 or model[4:8] != b"TFL3":
        raise BundleError(
            "This is not a TFLite model: the mark 'TFL3' at byte 4 is missing.",
            fix="Give a .tflite file, or convert the model with 'edgecnn convert'.",
        )
    root = Buffer(model).root()
    version = root.scalar(0, "u32")
    if version != 3:
        raise damaged(f"its schema has version {version}, and every TFLite file has 3")
    buffers = tuple(_buffer(table) for table in root.tables(4))
    codes = tuple(_operator_code(table) for table in root.tables(1))
    subgraphs = tuple(_subgraph(table, codes, buffers) for table in root.tables(2))
    if not subgraphs or not subgraphs[0].operators:
        raise damaged("it holds no operator")
    for graph in subgraphs:
        _check_calls(graph, len(subgraphs))
    _check_signatures(root, subgraphs)
    root.numbers(5, "i32")
    return Model(version, root.string(3), subgraphs, buffers, dict(_metadata(root, buffers)))


def _buffer(table: Table) -> memoryview:
    offset = table.scalar(1, "u64")
    if offset > 1:  # 0 and 1 are placeholders; else the values lie behind the flatbuffer
        size = table.scalar(2, "u64")
        table.buffer.check(offset, size)
        return memoryview(table.buffer.data)[offset : offset + size]
    view = table.blob(0)
    return memoryview(b"") if view is None else view


def _operator_code(table: Table) -> tuple[str, int, bool]:
    # Numbers beyond 127 came later: the old field is a byte, and holds 127 for all of them.
    number = max(table.scalar(0, "i8"), table.scalar(3, "i32"))
    custom = table.string(1)
    if not 0 <= number < len(OPERATORS):
        raise damaged(f"it uses operator number {number}, and only 0 to {len(OPERATORS) - 1} are known")
    is_custom = OPERATORS[number] == "CUSTOM"
    if is_custom and not custom:
        raise damaged("it uses a custom operator without a name")
    return custom if is_custom else OPERATORS[number], table.scalar(2, "i32", 1), is_custom


def _subgraph(
    table: Table, codes: tuple[tuple[str, int, bool], ...], buffers: tuple[memoryview, ...]
) -> Subgraph:
    tensors = tuple(_tensor(index, t, buffers) for index, t in enumerate(table.tables(0)))
    operators = tuple(_operator(index, t, codes, len(tensors)) for index, t in enumerate(table.tables(3)))
    inputs, outputs = table.numbers(1, "i32"), table.numbers(2, "i32")
    _check_indices((*inputs, *outputs), len(tensors), "the graph")
    graph = Subgraph(table.string(4), tensors, operators, inputs, outputs)
    _check_flow(graph)
    return graph


def _tensor(index: int, table: Table, buffers: tuple[memoryview, ...]) -> Tensor:
    name = table.string(3)
    number = table.scalar(1, "i8")
    if not 0 <= number < len(TENSOR_TYPES):
        raise damaged(f"tensor {index} '{name}' has the unknown type {number}")
    shape = table.numbers(0, "i32")
    table.numbers(7, "i32")
    buffer = table.scalar(2, "u32")
    if buffer > 0 and buffer >= len(buffers):  # 0 means none, even where the list is empty
        raise damaged(f"tensor {index} '{name}' has buffer {buffer}, and there are {len(buffers)}")
    sparsity = table.table(6)
    if sparsity is not None:
        _check_sparsity(sparsity, len(shape))
    tensor = Tensor(
        index,
        name,
        shape,
        TENSOR_TYPES[number],
        _quantization(table.table(4), shape, f"tensor {index} '{name}'"),
        buffer,
        table.scalar(5, "bool", False),
        sparsity is not None,
        # Buffer 0 is empty by convention, in every file.
        buffer > 0 and len(buffers[buffer]) > 0,
    )
    _check_size(tensor, buffers)
    return tensor


def _quantization(table: Table | None, shape: tuple[int, ...], owner: str) -> Quantization:
    if table is None:
        return Quantization()
    scales, zero_points = table.numbers(2, "f32"), table.numbers(3, "i64")
    axis = table.scalar(6, "i32")
    for slot in (0, 1):
        table.vector(slot, "f32")
    if table.scalar(4, "u8") == 1:
        details = table.table(5)
        if details is not None:
            details.blob(0)
    if not scales:  # converters note the range of float tensors in the same table
        return Quantization()
    if len(zero_points) not in (0, len(scales)):
        raise damaged(f"{owner} has {len(scales)} scales and {len(zero_points)} zero points")
    if not all(math.isfinite(scale) and scale >= 0 for scale in scales):
        raise damaged(f"{owner} has a scale that is negative or no number")
    if len(scales) > 1 and not (0 <= axis < len(shape) and shape[axis] == len(scales)):
        raise damaged(f"{owner} of shape {shape} has {len(scales)} scales along axis {axis}")
    return Quantization(scales, zero_points or (0,) * len(scales), axis)


def _check_sparsity(table: Table, rank: int) -> None:
    order, blocks = table.numbers(0, "i32"), table.numbers(1, "i32")
    dimensions = tuple(table.tables(2))
    if len(order) != len(dimensions) or not rank <= len(dimensions) <= 2 * rank:
        raise damaged("a sparse tensor describes other dimensions than it has")
    if sorted(order) != list(range(len(order))) or any(not 0 <= block < rank for block in blocks):
        raise damaged("a sparse tensor names dimensions that it has not got")
    for dimension in dimensions:
        for kind_slot, slot in ((2, 3), (4, 5)):
            kind = dimension.scalar(kind_slot, "u8")
            numbers = dimension.table(slot)
            if kind > 3 or (kind and numbers is None):
                raise damaged("a sparse tensor lists its elements in an unknown way")
            if kind and numbers is not None:
                numbers.vector(0, ("i32", "u16", "u8")[kind - 1])


def _check_size(tensor: Tensor, buffers: tuple[memoryview, ...]) -> None:
    owner = f"tensor {tensor.index} '{tensor.name}'"
    if len(tensor.shape) > MAX_RANK or any(size < 0 for size in tensor.shape):
        raise damaged(f"{owner} has the impossible shape {tensor.shape}")
    bits = TYPE_BITS.get(tensor.dtype)
    if bits is None:
        return
    expected = (tensor.size * bits + 7) // 8
    if expected > MAX_TENSOR_BYTES:
        raise damaged(f"{owner} of shape {tensor.shape} would need {expected} bytes")
    found = len(buffers[tensor.buffer]) if tensor.is_constant else 0
    if tensor.is_constant and not tensor.is_sparse and found != expected:
        raise damaged(f"{owner} of shape {tensor.shape} needs {expected} bytes of values; found {found}")


def _operator(
    index: int, table: Table, codes: tuple[tuple[str, int, bool], ...], tensor_count: int
) -> Operator:
    code = table.scalar(0, "u32")
    if code >= len(codes):
        raise damaged(f"operator {index} has code {code}, and there are {len(codes)}")
    op, version, is_custom = codes[code]
    inputs, outputs = table.numbers(1, "i32"), table.numbers(2, "i32")
    owner = f"operator {index} ({op})"
    _check_indices((*inputs, *outputs, *table.numbers(8, "i32")), tensor_count, owner, lowest=-1)
    # An LSTM may leave out its second input; nothing else leaves out one of its first two.
    needed = inputs[: 1 if "LSTM" in op or is_custom else 2]
    if -1 in needed or -1 in outputs:
        raise damaged(f"{owner} leaves out a tensor that it cannot do without")
    table.blob(5)
    table.blob(7)
    table.buffer.check(table.scalar(9, "u64"), table.scalar(10, "u64"))
    options = {} if is_custom else _options(op, table, owner)
    return Operator(index, op, version, inputs, outputs, options, is_custom)


def _options(op: str, table: Table, owner: str) -> dict[str, Option]:
    number, found = table.scalar(3, "u8"), table.table(4)
    expected, fields = OPTIONS.get(op, (None, ()))
    table.table(12)
    if expected is None or (number == 0 and op not in STRIDED):
        return {}
    if number != expected or found is None:
        raise damaged(f"{owner} has the options of another operator")
    options = {name: _option(found, slot, kind, default) for name, slot, kind, default in fields}
    for name, value in options.items():
        if name in AT_LEAST_ONE and isinstance(value, int) and value < 1:
            raise damaged(f"{owner} has {name} = {value}")
    return options


def _option(table: Table, slot: int, kind: str, default: float) -> Option:
    if kind in ENUMS:
        number: int = table.scalar(slot, "i8", default)
        if not 0 <= number < len(ENUMS[kind]):
            raise damaged(f"an operator has the unknown {kind} {number}")
        return ENUMS[kind][number]
    if kind == "text":
        return table.string(slot)
    if kind.startswith("["):
        numbers: Option = table.numbers(slot, kind[1:-1])
        return numbers
    value: Option = table.scalar(slot, kind, bool(default) if kind == "bool" else default)
    return value


def _check_indices(indices: tuple[int, ...], count: int, owner: str, lowest: int = 0) -> None:
    for index in indices:
        if not lowest <= index < count:
            raise damaged(f"{owner} uses tensor {index}, and there are {count}")


def _check_flow(graph: Subgraph) -> None:
    """Refuse a graph that reads what was never written, or writes on constants.

    An interpreter gives such a tensor no memory, or memory that belongs to the file.
    """
    known = set(graph.inputs) | {t.index for t in graph.tensors if t.is_constant or t.is_variable}
    # Empty tensors hold nothing that could be read; a shape of none stands for a scalar.
    known |= {t.index for t in graph.tensors if t.size == 0}
    for index in graph.inputs:
        _check_writable(graph, index, "the caller")
    for operator in graph.operators:
        for index in operator.inputs:
            if index >= 0 and index not in known and not _is_unused(operator, index):
                raise damaged(
                    f"operator {operator.index} ({operator.op}) reads tensor {index}, which nothing wrote"
                )
        for index in operator.outputs:
            _check_writable(graph, index, f"operator {operator.index} ({operator.op})")
        known.update(operator.outputs)
    for index in graph.outputs:
        if index not in known:
            raise damaged(f"the graph gives tensor {index} as a result, and nothing wrote it")


def _is_unused(operator: Operator, index: int) -> bool:
    """Whether an interpreter ignores this input: a reshape whose options say the shape."""
    return operator.op == "RESHAPE" and operator.inputs.index(index) == 1 and "new_shape" in operator.options


def _check_writable(graph: Subgraph, index: int, writer: str) -> None:
    tensor = graph.tensors[index]
    if tensor.is_constant and not tensor.is_variable:
        raise damaged(f"{writer} writes on the constant tensor {index} '{tensor.name}'")


def _check_calls(graph: Subgraph, count: int) -> None:
    for operator in graph.operators:
        for name, value in operator.options.items():
            if name.endswith("_subgraph") and isinstance(value, int) and not 0 < value < count:
                raise damaged(f"operator {operator.index} ({operator.op}) calls graph {value} of {count}")


def _check_signatures(root: Table, subgraphs: tuple[Subgraph, ...]) -> None:
    for signature in root.tables(7):
        number = signature.scalar(4, "u32")
        if number >= len(subgraphs):
            raise damaged(f"a signature names graph {number} of {len(subgraphs)}")
        signature.string(2)
        for slot in (0, 1):
            for entry in signature.tables(slot):
                entry.string(0)
                _check_indices((entry.scalar(1, "u32"),), len(subgraphs[number].tensors), "a signature")


def _metadata(root: Table, buffers: tuple[memoryview, ...]) -> Iterator[tuple[str, bytes]]:
    for entry in root.tables(6):
        number = entry.scalar(1, "u32")
        if number >= len(buffers):
            raise damaged(f"a metadata entry has buffer {number}, and there are {len(buffers)}")
        yield entry.string(0), bytes(buffers[number])


def with_metadata(model: bytes, metadata: Mapping[str, bytes]) -> bytes:
    """Add metadata entries to a flatbuffer, in place of those of the same names.

    A new root is put before the old bytes, which stay as they are: its vectors point forward into
    them. So nothing is packed anew, no converter's detail is lost, and the values stay aligned.

    Args:
        model: A flatbuffer.
        metadata: Entries by name.

    Returns:
        The new flatbuffer; the same input gives the same bytes.

    Raises:
        BundleError: If ``model`` is damaged, or keeps values outside of the flatbuffer.
    """
    parse(model)
    root = Buffer(model).root()
    refuse_outside_values(root)
    # The prefix is laid out twice: its own length decides where the old bytes begin.
    length = len(_prefix(root, metadata, 0))
    return _prefix(root, metadata, length) + model


def refuse_outside_values(root: Table) -> None:
    """Refuse a model that cannot move within its file, because some values lie at fixed places of it."""
    if any(table.scalar(1, "u64") > 1 for table in root.tables(4)):
        raise BundleError(
            "This model keeps its weights behind the flatbuffer, as models above 2 GB do.",
            fix="Use a smaller model: edgecnn is for those that fit a small device.",
        )


def _prefix(root: Table, metadata: Mapping[str, bytes], length: int) -> bytes:
    out = Prefix(length)
    slots = [0, *(root.where(slot) for slot in range(1, 10))]
    vtable = out.append(struct.pack("<12H", 24, 44, *range(4, 44, 4)))
    table = out.append(struct.pack("<iI", 0, root.scalar(0, "u32")) + bytes(36), 4)
    out.put(table, table - vtable)
    out.put(0, table)
    for slot in (1, 2, 3, 5, 7, 8, 9):
        field = table + 4 + 4 * slot
        position = slots[slot]
        if position is None:
            out.leave_out(vtable, slot)
        else:
            out.point(field, length + root.buffer.follow(position))
    old_buffers = list(root.positions(4))
    old_entries = [t.position for t in root.tables(6) if t.string(0) not in metadata]
    buffers = out.vector([length + p for p in old_buffers], len(metadata))
    entries = out.vector([length + p for p in old_entries], len(metadata))
    out.point(table + 4 + 4 * 4, buffers)
    out.point(table + 4 + 4 * 6, entries)
    for number, name in enumerate(sorted(metadata)):
        _entry(out, buffers + 4 + 4 * (len(old_buffers) + number), metadata[name])
        _named(out, entries + 4 + 4 * (len(old_entries) + number), name, len(old_buffers) + number)
    return out.finish()


def _entry(out: Prefix, pointer: int, data: bytes) -> None:
    """Write a ``Buffer`` table with its data, and point at it."""
    vtable = out.append(struct.pack("<3H", 6, 8, 4))
    table = out.append(struct.pack("<iI", 0, 0), 4)
    out.put(table, table - vtable)
    out.point(pointer, table)
    # schema.fbs: Buffer.data is (force_align: 16); its length stands in the 4 bytes before it.
    out.pad(16, 4)
    out.point(table + 4, out.append(struct.pack("<I", len(data)) + data, 4))


def _named(out: Prefix, pointer: int, name: str, buffer: int) -> None:
    """Write a ``Metadata`` table with its name, and point at it."""
    vtable = out.append(struct.pack("<4H", 8, 12, 4, 8))
    table = out.append(struct.pack("<iII", 0, 0, buffer), 4)
    out.put(table, table - vtable)
    out.point(pointer, table)
    text = name.encode()
    out.point(table + 4, out.append(struct.pack("<I", len(text)) + text + b"\0", 4))


class Prefix:
    """Bytes under construction, in the order in which they will lie; offsets only point forward."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._bytes = bytearray(struct.pack("<I4s", 0, b"TFL3"))

    def append(self, data: bytes, alignment: int = 2) -> int:
        """Write bytes at the next multiple of ``alignment``; give where they begin."""
        self.pad(alignment)
        position = len(self._bytes)
        self._bytes += data
        return position

    def pad(self, alignment: int, ahead: int = 0) -> None:
        """Fill up so that ``ahead`` bytes further a multiple of ``alignment`` is reached."""
        self._bytes += bytes(-(len(self._bytes) + ahead) % alignment)

    def put(self, position: int, value: int) -> None:
        """Write a number over what is there."""
        struct.pack_into("<I", self._bytes, position, value)

    def point(self, position: int, target: int) -> None:
        """Write an offset that leads to ``target``."""
        # While the length is still unknown, targets in the old bytes seem to lie behind.
        self.put(position, max(0, target - position))

    def leave_out(self, vtable: int, slot: int) -> None:
        """Say in a table's list of fields that it has not this one."""
        struct.pack_into("<H", self._bytes, vtable + 4 + 2 * slot, 0)

    def vector(self, targets: list[int], further: int) -> int:
        """Write a vector of offsets, with room for ``further`` ones; give where it begins."""
        start = self.append(struct.pack("<I", len(targets) + further), 4)
        for target in targets:
            self._bytes += bytes(4)
            self.point(len(self._bytes) - 4, target)
        self._bytes += bytes(4 * further)
        return start

    def finish(self) -> bytes:
        """Give all bytes, padded so that what follows stays aligned."""
        # 64: XNNPACK and the Edge TPU like their weights at the boundary of a cache line.
        self.pad(64)
        return bytes(self._bytes)
