"""Float islands: the layers that lose most by int8 stay float."""

from __future__ import annotations

from collections.abc import Iterator

from edgecnn.workstation.ladder.activations import Disagreement
from edgecnn.workstation.ladder.network import Network, quantized

_MOVE_ONLY = ("CONCATENATION", "DEQUANTIZE", "MAX_POOL_2D", "PAD", "QUANTIZE", "RESHAPE", "SQUEEZE")
"""Operators that round nothing; the quantizer keeps them in int8."""

MOST = 0.5
"""Share of the operators that may become float; beyond, a float16 file is smaller trouble."""


def islands(network: Network, disagreement: Disagreement) -> Iterator[tuple[str, ...]]:
    """Propose which operators stay float: 1, 2, 4 ... of those that help most when they alone do.

    Args:
        network: With the ranges and weights of the rungs before.
        disagreement: Judges a file.

    Yields:
        Names of the tensors that they give, the most helpful first.
    """
    names = [
        network.model.tensors[operator.outputs[0]].name
        for operator in network.model.operators
        if operator.op not in _MOVE_ONLY and operator.outputs
    ]
    gain = {name: disagreement(quantized(network, {name})) for name in dict.fromkeys(names)}
    ranked = sorted(gain, key=gain.__getitem__)
    count = 1
    while count <= max(1, int(MOST * len(ranked))):
        yield tuple(ranked[:count])
        count *= 2
