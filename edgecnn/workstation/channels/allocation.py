"""Which channels go: the least important ones for each multiplication that they save, wherever they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import ModelError
from edgecnn.workstation.channels.graph import ChannelGraph, Keep

Cost = Literal["macs", "parameters"]
"""What is to become less: multiplications with accumulation for a picture, or weights."""

MULTIPLE = 8
"""Channel counts end as multiples of this; see docs/pruning.md for what that was measured to save."""

LEAST = 8
"""No layer gets narrower than this, unless it was."""


@dataclass(frozen=True, slots=True)
class Price:
    """The cost of a network as a function of the units that stay.

    Attributes:
        factor: Of each layer: cost for one input and one output channel.
        reads: How many input channels of a layer are of a unit, shape (layer_count, unit_count).
        writes: Likewise for its output channels; all ones in a layer that sees each channel alone.
    """

    factor: NDArray[np.float64]
    reads: NDArray[np.float32]
    writes: NDArray[np.float32]

    @classmethod
    def of(cls, graph: ChannelGraph, cost: Cost) -> Price:
        """Price the layers of a network."""
        layers = list(graph.couplings.values())
        factor = [c.positions if cost == "macs" else c.window for c in layers]
        writes = np.stack([np.bincount(c.writes, minlength=graph.unit_count) for c in layers])
        reads = np.stack([np.bincount(c.reads, minlength=graph.unit_count) for c in layers])
        alone = np.array([not c.is_dense for c in layers])
        # One more column, which never goes, turns the product into the number of channels alone.
        reads = np.column_stack([np.where(alone[:, None], 0, reads), alone])
        writes = np.column_stack([writes, np.zeros(len(layers))])
        return cls(np.array(factor, np.float64), reads.astype(np.float32), writes.astype(np.float32))

    def total(self, keep: Keep) -> float:
        """Price a network of which some units stay."""
        stays = np.append(keep, True).astype(np.float32)
        return float(self.factor @ ((self.reads @ stays).astype(np.float64) * (self.writes @ stays)))


def allocate(
    graph: ChannelGraph, importance: NDArray[np.float64], target_share: float, cost: Cost = "macs"
) -> Keep:
    """Choose the units that stay, greedily, until the cost has come down.

    Args:
        graph: The units of a network.
        importance: Of each unit, shape (unit_count,).
        target_share: Of the cost that may stay, in (0, 1).
        cost: What is to become less.

    Returns:
        Which units stay.

    Raises:
        ModelError: If no more can go and the cost is still higher.
    """
    price = Price.of(graph, cost)
    keep = np.ones(graph.unit_count, np.bool_)
    start = price.total(keep)
    goal = target_share * start
    order = [list(units[np.argsort(importance[units], kind="stable")]) for units in graph.families()]
    reads, writes = price.reads.sum(1).astype(np.float64), price.writes.sum(1).astype(np.float64)
    while price.factor @ (reads * writes) > goal:
        best = max(_bundles(order, importance, price, reads, writes), default=None)
        if best is None:
            raise ModelError(
                f"No more than {100 * (1 - price.total(keep) / start):.0f} % of the {cost} "
                f"can be cut: every layer is down to {LEAST} channels.",
                fix="Ask for a smaller --channels.",
            )
        _, family, count = best
        gone = [order[family].pop(0) for _ in range(count)]
        keep[gone] = False
        reads -= price.reads[:, gone].sum(1)
        writes -= price.writes[:, gone].sum(1)
    return keep


def _bundles(
    order: list[list[int]],
    importance: NDArray[np.float64],
    price: Price,
    reads: NDArray[np.float64],
    writes: NDArray[np.float64],
) -> Iterator[tuple[float, int, int]]:
    """Give, of each family, what the next channels to go save for what they are worth, and how many."""
    now = price.factor * reads * writes
    for family, units in enumerate(order):
        count = len(units) % MULTIPLE or MULTIPLE
        if len(units) - count < LEAST:
            continue
        gone = units[:count]
        after = price.factor * (reads - price.reads[:, gone].sum(1)) * (writes - price.writes[:, gone].sum(1))
        saved = float((now - after).sum())
        yield saved / (float(importance[gone].sum()) + 1e-12), family, count
