"""What a training run leaves on disk, so that it can be killed at any moment."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgecnn.bundle.whole import whole_file
from edgecnn.errors import ModelError
from edgecnn.workstation.averages import Averages
from edgecnn.workstation.backend import tf


@dataclass(frozen=True, slots=True)
class Epoch:
    """One row of the history.

    Attributes:
        number: Counted from 1; 0 is the head on the frozen trunk.
        loss: Mean over the training pictures of the epoch, as augmented, with what mosaics of them add.
        val_loss: On the val split.
        val_top1: The mean of ``heads``, heatmaps left out where there are others. The best epoch is chosen
            by it.
        seconds: Of the epoch.
        waiting_share: Share of that time in which the training step waited for pictures.
        heads: By head, how good it is on val: the share of right labels; of labels that do not exclude
            each other the mean area under the ROC curve; of a heatmap the share of pictures with boxes
            whose peak lies in one, or without any boxes that area, of its strongest cell.
    """

    number: int
    loss: float
    val_loss: float
    val_top1: float
    seconds: float
    waiting_share: float
    heads: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunState:
    """What a killed run needs to go on."""

    recipe: str
    data_sha256: str
    init_sha256: Mapping[str, str]
    teachers_sha256: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Epoch, ...] = ()
    best: int = 0
    weights: str = ""

    @property
    def next_epoch(self) -> int:
        """Number of the epoch that comes next."""
        return self.history[-1].number + 1 if self.history else 0


def start(out: Path, fresh: RunState, resume: bool) -> RunState:
    """Find the run to go on with, or make room for a new one."""
    file = out / "checkpoint" / "state.json"
    if not resume:
        if file.exists():
            raise ModelError(
                f"'{out}' holds a run that was not finished.",
                fix="Go on with it by --resume, or choose another --out, or remove that folder.",
            )
        return fresh
    if not file.exists():
        return fresh
    try:
        state = msgspec.json.decode(file.read_bytes(), type=RunState)
    except msgspec.MsgspecError as error:
        raise damaged(file, error) from error
    if state != replace(fresh, history=state.history, best=state.best, weights=state.weights):
        raise ModelError(
            f"The run in '{out}' was started with another recipe, other data, another --init or --teacher.",
            fix="Give the same ones, or choose another --out.",
        )
    return state


def keep(
    checkpoint: Path,
    tracker: Any,
    model: Any,
    averages: Averages,
    state: RunState,
    row: Epoch,
    which: Literal["best", "last"] = "best",
) -> RunState:
    """Put everything on disk; the state file comes last and names the rest, so a kill leaves no mixture.

    Raises:
        ModelError: If the disk takes no checkpoint.
    """
    checkpoint.mkdir(parents=True, exist_ok=True)
    weights = f"epoch-{row.number:04d}"
    try:
        tracker.write(str(checkpoint / weights))
    except tf.errors.OpError as error:
        raise ModelError(
            f"Epoch {row.number} cannot be kept in '{checkpoint}': {first_line(error)}.",
            fix="Free some space there, then go on from the epoch before with --resume.",
        ) from error
    tops = {e.number: e.val_top1 for e in (*state.history, row)}
    # Ties go to the later epoch, which has seen the lower learning rate.
    best = row.number if which == "last" else max(tops, key=lambda number: (tops[number], number))
    if best == row.number:
        with averages.applied():
            model.save_weights(str(checkpoint / f"best-{best:04d}.weights.h5"))
    new = replace(state, history=(*state.history, row), best=best, weights=weights)
    with whole_file(checkpoint / "state.json") as draft:
        draft.write_bytes(msgspec.json.encode(new))
    for old in _obsolete(checkpoint, new):
        with contextlib.suppress(OSError):
            old.unlink()
    return new


def restore(tracker: Any, weights: Path) -> None:
    """Bring model and optimizer to where the run stood.

    Raises:
        ModelError: If the checkpoint is incomplete.
    """
    try:
        tracker.read(str(weights)).assert_existing_objects_matched()
    except (tf.errors.OpError, AssertionError) as error:
        raise damaged(weights, error) from error


def remove(checkpoint: Path) -> None:
    """Clear a finished run away; a kill in between leaves nothing that looks like a run."""
    gone = checkpoint.with_name(f"{checkpoint.name}.old")
    shutil.rmtree(gone, ignore_errors=True)
    if checkpoint.exists():
        checkpoint.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def damaged(file: Path, error: Exception) -> ModelError:
    """Make the error that says that a killed run cannot go on."""
    return ModelError(
        f"The run cannot go on: '{file}' is damaged: {first_line(error)}.",
        fix=f"Remove '{file.parent}' and start anew.",
    )


def first_line(error: Exception) -> str:
    """Shorten what another library says; TensorFlow adds pages."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _obsolete(checkpoint: Path, state: RunState) -> Iterator[Path]:
    for file in checkpoint.iterdir():
        kept = (f"{state.weights}.", f"best-{state.best:04d}.", "state.json")
        if not file.name.startswith(kept):
            yield file
