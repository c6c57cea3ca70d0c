"""What is told of one frame: the alarms and the self-test together, without threads and without clocks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Final

from edgecnn.core.alarm import AlarmState, Event, resumed, step
from edgecnn.core.frame import Frame, InputSpec
from edgecnn.core.prediction import Head, Prediction
from edgecnn.core.zones import Aim, Window, aim, box_of, score_of
from edgecnn.watch.config import Config
from edgecnn.watch.selftest import DETAILS, LOOK_EVERY_S, SelfTest, forget_frame, judge

_NOT_OF_THE_PICTURE: Final = ("lost", "degraded")
"""What is told of a camera and was not found by looking at its picture."""


def new_id(utc_s: float) -> str:
    """Make an id that no other incident has; later ones sort later while the clock runs right.

    Example:
        >>> new_id(1.7e9).startswith("018bcfe56800-"), new_id(0) == new_id(0)
        (True, False)
    """
    return f"{max(0, int(utc_s * 1000)):012x}-{token_hex(5)}"


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides.

    Attributes:
        aims: Which score each policy follows.
        input: What the resize makes of a picture.
        self_tests: Whether the picture is tested.
        frozen_after_s: From when on an unchanged picture counts as frozen.
    """

    aims: tuple[Aim, ...]
    input: InputSpec
    self_tests: bool
    frozen_after_s: float

    @classmethod
    def of(cls, config: Config, heads: Sequence[Head], spec: InputSpec, is_live: bool) -> Rules:
        """Check a configuration against a model.

        Raises:
            RecipeError: If a policy watches what the model does not give.
        """
        chosen = config.source.self_test
        return cls(
            tuple(aim(policy, heads) for policy in config.alarm),
            spec,
            is_live if chosen is None else chosen,
            config.source.frozen_after_s,
        )


class Decider:
    """Remembers from frame to frame; ``core.alarm`` and ``watch.selftest`` do the thinking.

    Args:
        rules: What decides.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._states: dict[str, AlarmState] = {}
        self._self_test = SelfTest()
        self._is_suspect = self._is_blind = False
        self._camera_ids: dict[str, str] = {}

    @property
    def smoothed(self) -> dict[str, float]:
        """The smoothed score by label."""
        return {label: state.score for label, state in list(self._states.items())}

    @property
    def alarms(self) -> tuple[str, ...]:
        """Labels whose alarm lasts."""
        return tuple(label for label, state in list(self._states.items()) if state.is_on)

    @property
    def camera_faults(self) -> tuple[str, ...]:
        """What is wrong with the picture, as people were told."""
        return tuple(self._camera_ids)

    def decide(self, frame: Frame, prediction: Prediction, utc_s: float) -> list[Event]:
        """Take one frame into account.

        A frame that cannot be trusted raises no alarm and ends none: the picture is tested every
        ``LOOK_EVERY_S``, and beyond that each frame by which anything of an alarm would be told. Nor does a
        score hold while the camera is away or not trusted. Frames that repeat the one before are left out; a
        score holds over them until the picture counts as frozen.

        Returns:
            What is to be told, oldest first.
        """
        events = self.camera("lost", False, frame.captured_at_s, frame.index, utc_s)
        known = self._states
        if events or self._is_blind:
            known = {label: resumed(state, frame.captured_at_s) for label, state in known.items()}
        window = Window.of(self.rules.input, *frame.pixels_rgb.shape[:2])
        steps = [
            self._step(one, known.get(one.policy.label, AlarmState()), frame, prediction, window, utc_s)
            for one in self.rules.aims
        ]
        alarms = [event for _, event in steps if event is not None]
        if self.rules.self_tests:
            if alarms or self._is_due(frame):
                events += self._test(frame, utc_s)
            if self._is_suspect:
                return events
        for one, (state, _) in zip(self.rules.aims, steps, strict=True):
            self._states[one.policy.label] = state
        return events + alarms

    def followed(self, frame: Frame, prediction: Prediction) -> dict[str, float]:
        """Say by label which score its policy follows in a frame."""
        window = Window.of(self.rules.input, *frame.pixels_rgb.shape[:2])
        return {one.policy.label: score_of(one, prediction, window) for one in self.rules.aims}

    def camera(
        self, name: str, begins: bool, at_s: float, index: int, utc_s: float, detail: str = ""
    ) -> list[Event]:
        """Tell once that a fault of the camera begins, or that it is over."""
        if begins == (name in self._camera_ids):
            return []
        if begins:
            incident_id = self._camera_ids[name] = new_id(utc_s)
            detail = detail or DETAILS.get(name, "")
        else:
            incident_id, detail = self._camera_ids.pop(name), "It is over."
        if name == "lost":
            self._self_test = forget_frame(self._self_test)
        return [Event("camera", name, at_s, float(begins), index, incident_id, detail, None, utc_s)]

    def follow(self, rules: Rules, at_s: float, index: int, utc_s: float) -> list[Event]:
        """Decide by other rules from now on; alarms of labels that are still watched go on.

        Returns:
            The ends of those whose label is watched no more.
        """
        kept = {one.policy.label for one in rules.aims}
        events = [
            Event(
                "ended",
                label,
                at_s,
                state.score,
                index,
                state.incident_id,
                "It is watched no more.",
                None,
                utc_s,
            )
            for label, state in self._states.items()
            if state.is_on and label not in kept
        ]
        self.rules = rules
        self._states = {label: state for label, state in self._states.items() if label in kept}
        if not rules.self_tests:
            for name in [name for name in self._camera_ids if name not in _NOT_OF_THE_PICTURE]:
                events += self.camera(name, False, at_s, index, utc_s)
            self._self_test, self._is_suspect, self._is_blind = SelfTest(), False, False
        return events

    def _is_due(self, frame: Frame) -> bool:
        known = self._self_test
        return known.before is None or not 0 <= frame.captured_at_s - known.at_s < LOOK_EVERY_S

    def _test(self, frame: Frame, utc_s: float) -> list[Event]:
        """Look at the picture itself; what is found holds until the next look."""
        self._self_test, verdict = judge(
            self._self_test, frame.pixels_rgb, frame.captured_at_s, self.rules.frozen_after_s
        )
        self._is_suspect = bool(verdict.suspicions)
        # A picture that a camera sends again tells nothing, but until the next one time goes on.
        self._is_blind = bool(verdict.suspicions - {"frozen"} or "frozen" in self._self_test.told)
        return [
            event
            for name in verdict.began + verdict.ended
            for event in self.camera(name, name in verdict.began, frame.captured_at_s, frame.index, utc_s)
        ]

    def _step(
        self, one: Aim, known: AlarmState, frame: Frame, prediction: Prediction, window: Window, utc_s: float
    ) -> tuple[AlarmState, Event | None]:
        """Say what a frame would change, and change nothing."""
        state, event = step(
            one.policy,
            known,
            score_of(one, prediction, window),
            frame.captured_at_s,
            frame.index,
            hour=_hour(utc_s) if one.policy.hours else None,
        )
        if event is None:
            return state, None
        if event.kind == "started":
            state = replace(state, incident_id=new_id(utc_s))
            event = replace(event, incident_id=state.incident_id)
        return state, replace(event, box=box_of(one, prediction, window), at_utc_s=utc_s)


def _hour(utc_s: float) -> float:
    """Say what hour of the day it is here.

    Example:
        >>> 0 <= _hour(1.7e9) < 24
        True
    """
    now = time.localtime(utc_s)
    return now.tm_hour + now.tm_min / 60 + now.tm_sec / 3600
