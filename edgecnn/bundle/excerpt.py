"""A part of a model as a model of its own: some operators, fed and read at tensors of choice."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from edgecnn.bundle.flatbuffer import Prefix, refuse_outside_values
from edgecnn.bundle.tables import Buffer, Table


def excerpt(model: bytes, operators: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
    """Cut some operators out of the main graph of a model.

    A new root and a new graph are put before the old bytes; their vectors point forward at the old
    tensors and operators, so kernels, weights and scales are those of the model itself.

    Args:
        model: A flatbuffer that ``flatbuffer.parse`` accepts.
        operators: Numbers of the operators to keep, in the order of execution.
        inputs: Numbers of the tensors that the caller will write.
        outputs: Numbers of the tensors that the caller will read.

    Returns:
        A flatbuffer, without metadata and signatures, which speak of the whole.

    Raises:
        BundleError: If the model keeps values outside of the flatbuffer.
    """
    root = Buffer(model).root()
    refuse_outside_values(root)
    # Laid out twice: the length of the prefix decides where the old bytes begin.
    length = len(_prefix(root, operators, inputs, outputs, 0))
    return _prefix(root, operators, inputs, outputs, length) + model


def _prefix(
    root: Table, operators: Sequence[int], inputs: Sequence[int], outputs: Sequence[int], length: int
) -> bytes:
    out = Prefix(length)
    whole, *others = root.tables(2)
    # schema.fbs, Model: version, operator_codes, subgraphs, description, buffers.
    model = _table(out, root, 5, (1, 3, 4))
    out.put(0, model)
    out.put(model + 4, root.scalar(0, "u32"))
    graphs = out.vector([0, *(length + graph.position for graph in others)], 0)
    out.point(model + 4 + 4 * 2, graphs)
    # SubGraph: tensors, inputs, outputs, operators.
    graph = _table(out, whole, 4, (0,))
    out.point(graphs + 4, graph)
    for slot, tensors in ((1, inputs), (2, outputs)):
        numbers = struct.pack(f"<{1 + len(tensors)}i", len(tensors), *tensors)
        out.point(graph + 4 + 4 * slot, out.append(numbers, 4))
    positions = list(whole.positions(3))
    out.point(graph + 4 + 4 * 3, out.vector([length + positions[number] for number in operators], 0))
    return out.finish()


def _table(out: Prefix, old: Table, count: int, kept: Sequence[int]) -> int:
    """Write a table of four bytes a field, some of which point where the old one does; give its position."""
    fields = range(4, 4 + 4 * count, 4)
    vtable = out.append(struct.pack(f"<{2 + count}H", 4 + 2 * count, 4 + 4 * count, *fields))
    table = out.append(bytes(4 + 4 * count), 4)
    out.put(table, table - vtable)
    for slot in kept:
        position = old.where(slot)
        if position is None:
            out.leave_out(vtable, slot)
        else:
            out.point(table + 4 + 4 * slot, out.length + old.buffer.follow(position))
    return table
