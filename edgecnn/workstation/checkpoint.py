"""What a training run leaves on disk, so that it can be killed at any moment."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import msgspec

from edgecnn.bundle.whole import whole_file
from edgecnn.errors import ModelError
from edgecnn.workstation.averages import Averages
from edgecnn.workstation.backend import tf

LONGEST = 200
"""Characters that are told of an error of another library; what went wrong stands at its end."""


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
    boxes_sha256: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Epoch, ...] = ()
    best: int = 0
    weights: str = ""
    made_of: ClassVar[str] = "another recipe, other data, another --init, --teacher or --boxes"

    @property
    def next_epoch(self) -> int:
        """Number of the epoch that comes next."""
        return self.history[-1].number + 1 if self.history else 0

    def anew(self) -> RunState:
        """Give the state of the same run before it began."""
        return replace(self, history=(), best=0, weights="")


S = TypeVar("S", bound="State")


class State(Protocol):
    """How far a run is, and of what."""

    made_of: ClassVar[str]
    """What must be the same for a run to go on."""

    def anew(self: S) -> S:
        """Give the state of the same run before it began."""


def start(checkpoint: Path, fresh: S, resume: bool) -> S:
    """Find the run to go on with, or make room for a new one.

    Raises:
        ModelError: If a run is not finished there and is not to go on, or is another one, or is damaged.
    """
    file = checkpoint / "state.json"
    if not file.exists():
        return fresh
    if not resume:
        raise ModelError(
            f"'{checkpoint}' holds a run that was not finished.",
            fix="Go on with it by --resume, or choose another --out, or remove that folder.",
        )
    try:
        state = msgspec.json.decode(file.read_bytes(), type=type(fresh))
    except msgspec.MsgspecError as error:
        raise damaged(file, error) from error
    if state.anew() != fresh:
        raise ModelError(
            f"The run in '{checkpoint}' was started with {fresh.made_of}.",
            fix="Give the same ones, or choose another --out, or remove that folder.",
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
    tops = {e.number: e.val_top1 for e in (*state.history, row)}
    # Ties go to the later epoch, which has seen the lower learning rate.
    best = row.number if which == "last" else max(tops, key=lambda number: (tops[number], number))
    new = replace(state, history=(*state.history, row), best=best, weights=weights)
    with room_for(f"Epoch {row.number}", checkpoint):
        tracker.write(str(checkpoint / weights))
        if best == row.number:
            with averages.applied():
                model.save_weights(str(checkpoint / f"best-{best:04d}.weights.h5"))
        write(new, checkpoint, f"{weights}.", f"best-{best:04d}.")
    return new


@contextlib.contextmanager
def room_for(what: str, checkpoint: Path) -> Iterator[None]:
    """Say what to do where the disk does not take what is to be kept.

    Raises:
        ModelError: If it does not.
    """
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        raise ModelError(
            f"{what} cannot be kept in '{checkpoint}': {first_line(error)}.",
            fix="Free some space there, then go on from the epoch before with --resume.",
        ) from error


def write(state: State, checkpoint: Path, *prefixes: str) -> None:
    """Put a state on disk, then remove all but it and the files of some prefixes.

    It comes last and names the rest, so a kill leaves no mixture; a write that was killed leaves a folder.
    """
    with whole_file(checkpoint / "state.json") as draft:
        draft.write_bytes(msgspec.json.encode(state))
    for path in checkpoint.iterdir():
        if path.name.startswith((*prefixes, "state.json")):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def restore(tracker: Any, weights: Path) -> None:
    """Bring model and optimizer to where the run stood.

    Raises:
        ModelError: If the checkpoint is incomplete.
    """
    try:
        with tempfile.TemporaryDirectory() as plain:
            # TensorFlow takes brackets in a path for a pattern.
            link = Path(plain, "checkpoint")
            link.symlink_to(weights.parent.resolve())
            tracker.read(str(link / weights.name)).assert_existing_objects_matched()
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
    """Shorten what another library says: TensorFlow puts names and a path before it, HDF5 adds lines."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    line = (str(error) or type(error).__name__).splitlines()[0]
    line = re.sub(r"^\{\{.*?\}\} ", "", line)
    return line if len(line) <= LONGEST else f"... {line[-LONGEST:]}"
