"""A model on an accelerator, and one on the CPU that looks while the accelerator cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from edgecnn.core.frame import Frame, InputSpec
from edgecnn.core.prediction import Head, Prediction
from edgecnn.errors import EdgecnnError, RecipeError, RuntimeFault
from edgecnn.runtime.predictor import TflitePredictor

FIRST_WAIT_S: Final = 2.0
LONGEST_WAIT_S: Final = 300.0
"""The wait before the accelerator is tried again doubles from the first to the longest: opening one that
is there stops the camera for seconds, since its library loads firmware while it holds the interpreter."""


class Standby:
    """Looks by the first model while it can, by the second while it cannot; no frame is lost between.

    Args:
        open_first: Opens the model on the accelerator; called at once, and again while it cannot look.
        second: The model on the CPU.
        now_s: Seconds on a clock that never runs backwards.

    Attributes:
        first: The model on the accelerator; None while it cannot look.
        second: The model on the CPU.

    Raises:
        RecipeError: If the two models do not give the same answers.
        BundleError: If the first file is damaged. What the accelerator lacks is no error.
    """

    def __init__(
        self,
        open_first: Callable[[], TflitePredictor],
        second: TflitePredictor,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_first, self.second, self._now_s = open_first, second, now_s
        self.first: TflitePredictor | None = None
        self._opened_at_s = self._next_try_s = 0.0
        self._wait_s = FIRST_WAIT_S
        self._fault = ""
        self._try_first(RuntimeFault)

    @property
    def fault(self) -> str:
        """Why the CPU looks; empty while the accelerator does."""
        return self._fault

    @property
    def heads(self) -> Sequence[Head]:
        """The answers of both."""
        return self.second.heads

    @property
    def input(self) -> InputSpec:
        """What the resize makes of a picture for both."""
        return self.second.input

    @property
    def name(self) -> str:
        """Of the model that looks."""
        return self._looking.name

    @property
    def sha256(self) -> str:
        """Digest of the file that looks."""
        return self._looking.sha256

    def predict(self, frame: Frame) -> Prediction:
        """Give the scores of one frame, by the accelerator if it can.

        Raises:
            RuntimeFault: If the CPU cannot compute them either.
        """
        if self.first is None and self._now_s() >= self._next_try_s:
            self._try_first(EdgecnnError)
        if self.first is not None:
            try:
                return self.first.predict(frame)
            except EdgecnnError as error:
                if self._now_s() - self._opened_at_s > LONGEST_WAIT_S:
                    self._wait_s = FIRST_WAIT_S  # it had been well: this is another failure
                self._leave_first(error)
        return self.second.predict(frame)

    @property
    def _looking(self) -> TflitePredictor:
        return self.first or self.second

    def _try_first(self, forgiven: type[EdgecnnError]) -> None:
        try:
            self.first = self._opened()
        except forgiven as error:
            self._leave_first(error)
            return
        self._opened_at_s, self._fault = self._now_s(), ""

    def _opened(self) -> TflitePredictor:
        first = self._open_first()
        if (first.heads, first.input) != (self.second.heads, self.second.input):
            raise RecipeError(
                f"'{first.path.name}' and '{self.second.path.name}' give different answers or eat "
                "different pictures; one cannot stand in for the other.",
                fix="Convert both from the same model: 'edgecnn convert --target edgetpu' writes both.",
            )
        return first

    def _leave_first(self, error: EdgecnnError) -> None:
        self.first = None
        self._fault = f"{error.message} The CPU looks meanwhile. {error.fix}"
        self._next_try_s = self._now_s() + self._wait_s
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
