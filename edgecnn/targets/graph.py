"""What every target's check has in common: operators with their tensors, and the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle.flatbuffer import Model, Operator, Tensor
from edgecnn.bundle.layers import layers
from edgecnn.bundle.schema import TYPE_BITS

Basis = Literal["prediction", "compiler"]
Target = Literal["edgetpu", "cpu", "micro"]

SETTINGS: Final[dict[str, tuple[int, ...]]] = {
    "RESHAPE": (1,), "PAD": (1,), "PADV2": (1,), "MIRROR_PAD": (1,), "TRANSPOSE": (1,), "EXPAND_DIMS": (1,),
    "MEAN": (1,), "SUM": (1,), "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "REDUCE_PROD": (1,),
    "RESIZE_BILINEAR": (1,), "RESIZE_NEAREST_NEIGHBOR": (1,), "STRIDED_SLICE": (1, 2, 3), "SLICE": (1, 2),
    "SPLIT": (0,), "SPLIT_V": (1, 2), "TRANSPOSE_CONV": (0,), "ARG_MAX": (1,), "ARG_MIN": (1,),
    "TILE": (1,), "BROADCAST_TO": (1,), "FILL": (0,), "GATHER": (1,), "CUMSUM": (1,),
    "SPACE_TO_BATCH_ND": (1, 2), "BATCH_TO_SPACE_ND": (1, 2),
}  # fmt: skip
"""Which inputs of an operator are shapes, axes and indices, not data."""

BIASES: Final = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
"""Which input of an operator is its bias: 32 bits wide where the rest has 8."""

WEIGHTS: Final = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}
"""Which input of an operator is its weights."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an operator cannot run on a target.

    Attributes:
        reason: What was found, and what the target expects.
        fix: The change to make to the network or to its conversion.
    """

    reason: str
    fix: str


@dataclass(frozen=True, slots=True)
class OpVerdict:
    """What a target does with one operator.

    Attributes:
        index: Its number in the file, which is the order of execution.
        op: ``CONV_2D`` ...
        mapped: Whether the target runs it.
        reason: Why not; or, of a mapped one, what is worth knowing. None where there is nothing to say.
        fix: The change to make; None where none is needed.
    """

    index: int
    op: str
    mapped: bool
    reason: str | None = None
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """What a target does with a model.

    Attributes:
        target: ``edgetpu``, ``cpu`` or ``micro``.
        ops: One entry an operator of the main graph, in the order of execution.
        mapped_macs_share: Of the multiply-accumulates, the share that the target runs, in [0, 1]; None
            where the model has none, or hides them in a custom operator.
        first_blocking_op: The first operator that cannot run and takes others with it; None if all can.
        basis: Whether rules foretold this, or the target's own compiler decided it.
        verdict: One sentence for people.
        parameter_bytes: Weights and biases of the mapped operators.
        on_chip_bytes: Memory for parameters on the accelerator; None where the target has none.
        arena_bytes: Working memory, as measured; None where it was not measured.
        notes: What else to know, a sentence each.
    """

    target: Target
    ops: tuple[OpVerdict, ...]
    mapped_macs_share: float | None
    first_blocking_op: OpVerdict | None
    basis: Basis
    verdict: str
    parameter_bytes: int
    on_chip_bytes: int | None = None
    arena_bytes: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the target runs every operator."""
        return all(verdict.mapped for verdict in self.ops)


@dataclass(frozen=True, slots=True)
class Node:
    """An operator with its tensors at hand.

    Attributes:
        operator: As the file has it.
        inputs: Its inputs by position; None for one that is left out.
        outputs: Its outputs.
        model: Where the values of constants are.
    """

    operator: Operator
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    model: Model

    @property
    def op(self) -> str:
        """Name of the operator."""
        return self.operator.op

    @property
    def data(self) -> tuple[Tensor, ...]:
        """Inputs that are neither shapes nor axes nor a bias, then the outputs; weights included."""
        other = {*SETTINGS.get(self.op, ()), BIASES.get(self.op, -1)}
        fed = (t for position, t in enumerate(self.inputs) if t is not None and position not in other)
        return (*fed, *self.outputs)

    @property
    def activations(self) -> tuple[Tensor, ...]:
        """Data that is computed while the model runs."""
        return tuple(tensor for tensor in self.data if not tensor.is_constant)

    def given(self, position: int) -> Tensor | None:
        """Give an input; None where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def constant(self, position: int) -> NDArray[Any] | None:
        """Read the values of a constant input; None where they are not in the file."""
        tensor = self.given(position)
        return None if tensor is None else self.model.values(tensor)

    def axes(self) -> tuple[int, ...]:
        """Read the axes of a reduction, counted from 0."""
        values, rank = self.constant(1), len(self.inputs[0].shape if self.inputs[0] else ())
        if values is None or rank == 0:
            return ()
        return tuple(int(axis) % rank for axis in np.ravel(values))


def nodes(model: Model) -> Iterator[Node]:
    """Give the operators of the main graph with their tensors."""
    tensors = model.tensors
    for operator in model.operators:
        inputs = tuple(tensors[index] if index >= 0 else None for index in operator.inputs)
        yield Node(operator, inputs, tuple(tensors[index] for index in operator.outputs), model)


def macs_share(model: Model, mapped: Iterable[int]) -> float | None:
    """Give the share of the multiply-accumulates that some operators have.

    Args:
        model: A model.
        mapped: Numbers of the operators.

    Returns:
        A share in [0, 1]; None where there are no multiply-accumulates or a custom operator hides them.
    """
    rows, chosen = layers(model), set(mapped)
    if any(row.macs is None for row in rows):
        return None
    total = sum(row.macs or 0 for row in rows)
    return sum(row.macs or 0 for row in rows if row.index in chosen) / total if total else None


def parameter_bytes(model: Model, mapped: Iterable[int]) -> int:
    """Add up the bytes of weights, biases and other constants of some operators, each buffer once."""
    chosen, counted = set(mapped), {}
    for node in nodes(model):
        if node.operator.index in chosen:
            other = SETTINGS.get(node.op, ())
            for position, tensor in enumerate(node.inputs):
                if tensor is not None and tensor.is_constant and position not in other:
                    counted[tensor.buffer] = (tensor.size * TYPE_BITS.get(tensor.dtype, 0) + 7) // 8
    return sum(counted.values())


def summary(
    model: Model,
    target: Target,
    ops: tuple[OpVerdict, ...],
    blocking: OpVerdict | None,
    basis: Basis,
    verdict: str,
    **facts: Any,
) -> Check:
    """Put a check together from its verdicts."""
    mapped = [op.index for op in ops if op.mapped]
    return Check(
        target,
        ops,
        macs_share(model, mapped),
        blocking,
        basis,
        verdict,
        parameter_bytes(model, mapped),
        **facts,
    )


def operators(count: int) -> str:
    """Count operators in words.

    Example:
        >>> operators(1), operators(72)
        ('1 operator', '72 operators')
    """
    return f"{count} operator{'' if count == 1 else 's'}"


def shape_text(shape: tuple[int, ...]) -> str:
    """Write a shape as people do.

    Example:
        >>> shape_text((1, 224, 224, 3))
        '1x224x224x3'
    """
    return "x".join(map(str, shape)) or "scalar"
