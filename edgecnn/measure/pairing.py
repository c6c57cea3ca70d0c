"""Which tensor of a quantized graph stands for which of its float twin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Final

from edgecnn.bundle.flatbuffer import Model

_PASSES_ON: Final = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS")
"""What converters put in and leave out as they like, and what computes nothing."""

_RECTIFIERS: Final = ("RELU", "RELU6", "RELU_N1_TO_1")
_SQUASHERS: Final = ("SOFTMAX", "LOGISTIC")
_REAL_TYPES: Final = ("float32", "int8", "uint8", "int16")


@dataclass(frozen=True, slots=True)
class Landmark:
    """A tensor that both files may have.

    Attributes:
        tensor: Its number.
        operator: Number of the operator that the layer is named after.
        op: Of that operator; a rectifier that follows alone counts as fused.
        activation: Fused or following: ``RELU6`` ...; ``NONE``.
        shape: Of the tensor.
        name: Of the tensor.
    """

    tensor: int
    operator: int
    op: str
    activation: str
    shape: tuple[int, ...]
    name: str

    @property
    def kind(self) -> tuple[str, str, tuple[int, ...]]:
        """What must be equal in two landmarks that are one."""
        return self.op, self.activation, self.shape


def landmarks(model: Model) -> tuple[Landmark, ...]:
    """List what the layers of a graph give, in the order of execution."""
    readers = Counter(index for operator in model.operators for index in operator.inputs)
    found: dict[int, Landmark] = {}
    for operator in model.operators:
        fed = operator.inputs[0] if operator.inputs else -1
        if operator.op in _RECTIFIERS and fed in found and readers[fed] == 1:
            before = found[fed]
            if before.activation == "NONE":
                given = model.tensors[operator.outputs[0]]
                del found[fed]
                found[given.index] = replace(
                    before, tensor=given.index, activation=operator.op, name=given.name
                )
                continue
        if operator.op in _PASSES_ON:
            continue
        activation = str(operator.options.get("activation", "NONE"))
        for index in operator.outputs:
            tensor = model.tensors[index]
            if tensor.dtype in _REAL_TYPES:
                found[index] = Landmark(
                    index, operator.index, operator.op, activation, tensor.shape, tensor.name
                )
    return tuple(found.values())


def pair(first: Sequence[Landmark], second: Sequence[Landmark]) -> tuple[tuple[Landmark, Landmark], ...]:
    """Find the layers that two graphs have in common.

    By the name that the converter kept, where only one layer of each has it; the rest by their order:
    the longest runs of layers of the same operator, activation and shape.

    Returns:
        Pairs in the order of ``first``.
    """
    names, other_names = _unique_names(first), _unique_names(second)
    matched = {
        mark.tensor: other_names[name]
        for name, mark in names.items()
        if name in other_names and mark.kind == other_names[name].kind
    }
    # Named pairs stay in both sequences as fixed points: the runs between them cannot slip.
    fixed = {other.tensor: tensor for tensor, other in matched.items()}
    matcher = SequenceMatcher(
        None,
        [mark.tensor if mark.tensor in matched else mark.kind for mark in first],
        [fixed.get(mark.tensor, mark.kind) for mark in second],
        autojunk=False,
    )
    for block in matcher.get_matching_blocks():
        for one, other in zip(first[block.a :], second[block.b : block.b + block.size], strict=False):
            matched[one.tensor] = other
    return tuple((mark, matched[mark.tensor]) for mark in first if mark.tensor in matched)


def _unique_names(marks: Sequence[Landmark]) -> dict[tuple[str, ...], Landmark]:
    names = Counter(_name(mark) for mark in marks)
    return {_name(mark): mark for mark in marks if names[_name(mark)] == 1}


def _name(mark: Landmark) -> tuple[str, ...]:
    """Take a name apart; the converter joins those of what it fused, each with its model's name in front.

    Example:
        >>> _name(Landmark(0, 0, "CONV_2D", "RELU", (1, 8), "net/a/Relu;net/a/BiasAdd"))
        ('a/BiasAdd', 'a/Relu')
    """
    return tuple(sorted(part.partition("/")[2] or part for part in mark.name.split(";")))


def upstream(
    model: Model, targets: Collection[int], known: Collection[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find what must run to compute tensors from known ones.

    Args:
        model: Whose main graph is walked.
        targets: Tensors to compute, even where they are known.
        known: Tensors whose values are at hand; constants and variables always are.

    Returns:
        The operators in the order of execution, and the known tensors that they read.

    Raises:
        KeyError: If a network's input is needed and not known.
    """
    makers = {index: operator for operator in model.operators for index in operator.outputs}
    operators: set[int] = set()
    boundary: dict[int, None] = {}
    waiting = list(targets)
    while waiting:
        operator = makers[waiting.pop()]
        if operator.index in operators:
            continue
        operators.add(operator.index)
        for index in operator.inputs:
            if index < 0 or model.tensors[index].is_constant or model.tensors[index].is_variable:
                continue
            if index in known:
                boundary[index] = None
            elif model.tensors[index].size:
                waiting.append(index)
    return tuple(sorted(operators)), tuple(boundary)


def downstream(model: Model, tensor: int) -> frozenset[int]:
    """List the tensors whose values depend on one."""
    found = {tensor}
    for operator in model.operators:
        if found.intersection(operator.inputs):
            found.update(operator.outputs)
    return frozenset(found - {tensor})


def scores_before_squashing(model: Model) -> tuple[int, ...]:
    """Name the tensors whose error a decision feels: of a softmax or sigmoid at the end, what it is fed.

    Behind it a sure answer hides the noise that would flip an unsure one.
    """
    makers = {index: operator for operator in model.operators for index in operator.outputs}
    found = []
    for tensor in model.outputs:
        index = tensor.index
        while index in makers and makers[index].op in (*_PASSES_ON, *_SQUASHERS):
            index = makers[index].inputs[0]
        found.append(index if index in makers else tensor.index)
    return tuple(dict.fromkeys(found))
