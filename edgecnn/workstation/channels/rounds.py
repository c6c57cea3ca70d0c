"""The rounds of a channel pruning, kept on disk so that it can be killed at any moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.workstation import model_file
from edgecnn.workstation.checkpoint import damaged, remove, restore, room_for, start, write
from edgecnn.workstation.quality import evaluate
from edgecnn.workstation.recipe import Recipe
from edgecnn.workstation.split import Split
from edgecnn.workstation.train import Progress

MOST_ROUNDS = 4
"""Cuts; each is judged on what the network became after the one before."""


def rounds_of(epochs: int) -> tuple[int, ...]:
    """Divide epochs into rounds: one cut for every three epochs, one epoch after each but the last.

    Example:
        >>> rounds_of(2), rounds_of(8), rounds_of(30)
        ((2,), (1, 7), (1, 1, 1, 27))
    """
    count = max(1, min(MOST_ROUNDS, epochs // 3))
    return (*[1] * (count - 1), epochs - count + 1)


@dataclass(frozen=True, slots=True)
class CutState:
    """How far a pruning is.

    Attributes:
        parent_sha256: Digest of the weights that it started from.
        data_sha256: Of the pictures.
        options: Of ``edgecnn prune``.
        cut: Number of the last cut; 0 before the first.
        epochs: Of fine-tuning since that cut.
        best: The one of these that goes on.
        top1: What it had on val.
        boxes_sha256: By name, digests of the files of boxes that it learns from.
    """

    parent_sha256: str
    data_sha256: str
    options: str
    cut: int = 0
    epochs: int = 0
    best: int = 0
    top1: float = -1.0
    boxes_sha256: Mapping[str, str] = field(default_factory=dict)
    made_of: ClassVar[str] = "another model, other data or other options"

    def anew(self) -> CutState:
        """Give the state of the same pruning before it began."""
        return replace(self, cut=0, epochs=0, best=0, top1=-1.0)


class Rounds:
    """Keeps the network on disk after each cut and epoch, and which epoch since the last cut goes on.

    Args:
        folder: Where; it is removed by ``finish``.
        fresh: The state of a pruning that has not begun.
        resume: Whether to go on with one that was killed.
        recipe: Of the network: says whether the ``best`` epoch on val goes on or the ``last``.
        heads: Its answers.
        validation: What it is measured on.
        progress: Whom to tell.

    Raises:
        ModelError: If a pruning was not finished there and is not to go on, or is another one. Every method
            raises it if its files are damaged, or the disk takes no more.
    """

    def __init__(
        self,
        folder: Path,
        fresh: CutState,
        resume: bool,
        recipe: Recipe,
        heads: Sequence[Head],
        validation: Split,
        progress: Progress,
    ) -> None:
        self.folder, self.which, self.progress = folder, recipe.train.keep, progress
        self.heads, self.validation = heads, validation
        self.state = start(folder, fresh, resume)

    def begin(self, number: int, network: Any, card: model_file.Card) -> None:
        """Keep the network that a cut has made, with its parent's card."""
        with room_for(f"Cut {number}", self.folder):
            # What trains is what a killed run reads again, so that both are the same to the last bit.
            model_file.save(network, self.folder / f"cut-{number}.h5", card)
            self._write(replace(self.state.anew(), cut=number))

    def network(self) -> Any:
        """Read the network that the last cut has made."""
        file = self.folder / f"cut-{self.state.cut}.h5"
        try:
            return model_file.load(file)[0]
        except ModelError as error:
            raise damaged(file, error) from error

    def restore(self, tracker: Any) -> int:
        """Bring network and optimizer to where they stood after the last epoch, and give its number."""
        if self.state.epochs:
            restore(tracker, self.folder / self._named("epoch", self.state.epochs))
        return self.state.epochs

    def keep(self, tracker: Any, epoch: int) -> None:
        """Measure and keep an epoch; ties go to the later one, which has seen the lower learning rate."""
        network = tracker.model
        found = evaluate(network, self.heads, self.validation)
        self.progress.on_note(
            f"epoch {epoch}: val loss {found.loss:.4f}, val accuracy {100 * found.top1:.2f} %"
        )
        state = replace(self.state, epochs=epoch)
        with room_for(f"Epoch {epoch}", self.folder):
            if self.which == "last" or found.top1 >= state.top1:
                state = replace(state, best=epoch, top1=found.top1)
                network.save_weights(self._weights(epoch))
            tracker.write(str(self.folder / self._named("epoch", epoch)))
            self._write(state)

    def restore_best(self, network: Any) -> None:
        """Give the network the weights of the epoch since the last cut that goes on."""
        file = self._weights(self.state.best)
        try:
            network.load_weights(file)
        except (OSError, KeyError, ValueError) as error:
            raise damaged(file, error) from error

    def finish(self) -> None:
        """Clear all away."""
        remove(self.folder)

    def _named(self, what: str, epoch: int) -> str:
        return f"cut-{self.state.cut}-{what}-{epoch:04d}"

    def _weights(self, epoch: int) -> Path:
        return self.folder / f"{self._named('best', epoch)}.weights.h5"

    def _write(self, state: CutState) -> None:
        self.state = state
        kept = (self._named("epoch", state.epochs), self._named("best", state.best))
        write(state, self.folder, f"cut-{state.cut}.h5", *(f"{name}." for name in kept))
