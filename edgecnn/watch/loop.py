"""The loop: newest frame, scores, decision, sinks; for months."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from edgecnn.bundle.signature import read_trusted, verify
from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame, InputSpec
from edgecnn.core.ports import Clock, Predictor, Sink
from edgecnn.core.prediction import Head, Prediction
from edgecnn.errors import BundleError, EdgecnnError, RuntimeFault, SignatureError
from edgecnn.runtime.host import is_throttled, temperature_celsius
from edgecnn.runtime.predictor import TflitePredictor, load, verify_golden
from edgecnn.runtime.standby import Standby
from edgecnn.watch.capture import Capture
from edgecnn.watch.config import Config, ModelConfig
from edgecnn.watch.decision import Decider, Rules
from edgecnn.watch.outlet import Outlet
from edgecnn.watch.sources.live import WatchSource
from edgecnn.watch.sources.open import open_source
from edgecnn.watch.status import Fault, Status

_WAIT_S: Final = 0.1
"""How long the loop waits for a frame before it looks at everything else."""

_LOST_AFTER_S: Final = 1.0
"""A source that has failed and is not back within this time counts as lost."""

_RATE_OVER_S: Final = 5.0


class Model(Predictor, Protocol):
    """A predictor that says what it is; ``runtime.predictor.TflitePredictor`` is one."""

    @property
    def name(self) -> str:
        """Short, for people."""

    @property
    def sha256(self) -> str:
        """Digest of the file."""

    @property
    def heads(self) -> Sequence[Head]:
        """The answers."""

    @property
    def input(self) -> InputSpec:
        """What the resize makes of a picture."""


class SystemClock:
    """The clocks of this machine."""

    def now_s(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    def utc_s(self) -> float:
        """Seconds since 1970, which someone may set back and forward."""
        return time.time()


@dataclass(frozen=True, slots=True)
class _Seen:
    """The last frame that was looked at, and what came of it."""

    frame: Frame
    prediction: Prediction
    age_ms: float | None
    utc_s: float


@dataclass(slots=True)
class _Counts:
    frames: int = 0
    incidents: int = 0
    skipped_before: int = 0
    times_s: deque[float] = field(default_factory=lambda: deque(maxlen=600))


class Watch:
    """A camera that is watched.

    Args:
        config: How.
        predictor: The model.
        source: Where the frames come from.
        sinks: Who is told; a journal first, if there is one.
        clock: For a test to replace.
    """

    def __init__(
        self,
        config: Config,
        predictor: Model,
        source: WatchSource,
        sinks: Sequence[Sink],
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self._clock: Clock = clock or SystemClock()
        self._model = predictor
        self._capture = Capture(source)
        self._decider = Decider(Rules.of(config, predictor.heads, predictor.input, source.is_live))
        self._outlets = [Outlet(sink, self._clock) for sink in sinks]
        self._lock = threading.RLock()
        self._counts = _Counts()
        self._seen: _Seen | None = None
        self._state = "starting"
        self._faults: dict[str, Fault] = {}
        self._started_utc_s = self._clock.utc_s()
        self._last_frame_s = self._clock.now_s()
        self._is_running = False

    def run(self, stop: threading.Event) -> None:
        """Watch until told to stop, or until a clip has come to its end; then close source and sinks.

        Raises:
            EdgecnnError: If the source cannot be read, and trying again would not help.
        """
        self._is_running = True
        self._last_frame_s = self._clock.now_s()
        self._capture.start()
        try:
            while not stop.is_set() and not self._capture.has_ended:
                capture = self._capture
                frame = capture.take(_WAIT_S)
                with self._lock:
                    if capture is not self._capture:  # a reload has put another in its place meanwhile
                        continue
                    if frame is None:
                        self._look_for_loss()
                    else:
                        self._look(frame)
                    for outlet in self._outlets:
                        outlet.flush()
            self._state = "stopped" if stop.is_set() else "ended"
        except BaseException:
            self._state = "stopped"
            raise
        finally:
            self._is_running = False
            self._capture.close()
            for outlet in self._outlets:
                outlet.close()

    def reload(self, config: Config) -> None:
        """Watch by another configuration from the next frame on.

        The model is read anew if its file or its settings have changed, the source is opened anew if
        its settings have. Nothing changes if anything is wrong.

        Raises:
            EdgecnnError: If the model is damaged or does not fit the alarms, or there is no such source.
        """
        try:
            self._reload(config)
        except EdgecnnError as error:
            self.refuse(error)
            raise
        self._faults.pop("reload", None)

    def refuse(self, error: Exception) -> None:
        """Show why a new configuration was refused, until a good one comes."""
        said = f"{error.message} {error.fix}" if isinstance(error, EdgecnnError) else repr(error)
        self._note("reload", f"The old configuration goes on: {said}")

    @property
    def input(self) -> InputSpec:
        """What the resize makes of a picture, of the model in force."""
        return self._model.input

    def status(self) -> Status:
        """Give a snapshot of how it is; from any thread."""
        seen, now_s = self._seen, self._clock.now_s()
        capture = self._capture
        faults = list(self._faults.values())
        faults += [fault for outlet in self._outlets for fault in outlet.faults()]
        return Status(
            state=self._state,
            frames_count=self._counts.frames,
            skipped_count=self._counts.skipped_before + capture.skipped_count,
            fps=_rate(tuple(self._counts.times_s), now_s),
            age_ms=seen.age_ms if seen else None,
            times=seen.prediction.times if seen else None,
            scores=self._by_label(seen.prediction) if seen else {},
            smoothed=self._decider.smoothed,
            alarms=self._decider.alarms,
            faults=tuple(faults),
            incidents_count=self._counts.incidents,
            model_name=self._model.name,
            model_sha256=self._model.sha256,
            started_utc_s=self._started_utc_s,
            last_frame_utc_s=seen.utc_s if seen else None,
            temperature_celsius=temperature_celsius(),
            throttled=is_throttled(),
        )

    def latest(self) -> tuple[Frame, Prediction] | None:
        """Give the last frame that was looked at; from any thread."""
        seen = self._seen
        return (seen.frame, seen.prediction) if seen else None

    def followed(self, frame: Frame, prediction: Prediction) -> Mapping[str, float]:
        """Say by label which score the alarm follows in a frame; see ``Decider.followed``."""
        return self._decider.followed(frame, prediction)

    def _look(self, frame: Frame) -> None:
        """Do everything that one frame asks for."""
        self._last_frame_s = self._clock.now_s()
        try:
            prediction = _numbers(self._model.predict(frame))
        except EdgecnnError as error:
            self._tell(self._judge_model(frame, self._clock.utc_s(), f"{error.message} {error.fix}"))
            return
        now_s, utc_s = self._clock.now_s(), self._clock.utc_s()
        age_s = now_s - frame.captured_at_s if self._capture.source.is_realtime else 0.0
        events = self._judge_model(frame, utc_s - age_s, getattr(self._model, "fault", ""))
        events += self._decider.decide(frame, prediction, utc_s - age_s)
        self._counts.frames += 1
        self._counts.times_s.append(now_s)
        self._seen = _Seen(
            frame, prediction, age_s * 1e3 if self._capture.source.is_realtime else None, utc_s
        )
        self._state = "watching"
        self._faults.pop("source", None)
        for outlet in self._outlets:
            outlet.on_prediction(frame, prediction)
        self._tell(events)

    def _judge_model(self, frame: Frame, utc_s: float, fault: str) -> list[Event]:
        """Say once that the model fails or the CPU looks for an accelerator, and once that it is over."""
        if fault:
            self._note("camera degraded", fault)
        at_s, index = frame.captured_at_s, frame.index
        return self._decider.camera("degraded", bool(fault), at_s, index, utc_s, fault)

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.kind == "camera":
                self._note_camera(event)
            self._counts.incidents += event.kind == "started"
            for outlet in self._outlets:
                outlet.on_event(event)

    def _note_camera(self, event: Event) -> None:
        if event.label == "lost":  # the state and the fault of the source say it already
            return
        if event.score:
            self._note(f"camera {event.label}", event.detail)
        else:
            self._faults.pop(f"camera {event.label}", None)

    def _look_for_loss(self) -> None:
        """Say once that no more frames come."""
        source, fault = self._capture.source, self._capture.fault
        if not source.is_live:
            return
        silent_s = self._clock.now_s() - self._last_frame_s
        if silent_s < (self.config.source.stalled_after_s if fault is None else _LOST_AFTER_S):
            return
        self._state = "source lost"
        detail = (
            f"{fault.message} {fault.fix}"
            if fault
            else f"'{source.name}' has given no frame for {self.config.source.stalled_after_s:g} s."
        )
        self._note("source", detail)
        index = self._seen.frame.index if self._seen else 0
        self._tell(
            self._decider.camera("lost", True, self._clock.now_s(), index, self._clock.utc_s(), detail)
        )

    def _note(self, name: str, detail: str) -> None:
        known = self._faults.get(name)
        self._faults[name] = Fault(name, known.since_utc_s if known else self._clock.utc_s(), detail)

    def _reload(self, config: Config) -> None:
        model = load_model(config.model) if self._is_other_model(config.model) else self._model
        is_other_source = config.source != self.config.source
        source = (
            open_source(config.source, config.journal.incidents) if is_other_source else self._capture.source
        )
        rules = Rules.of(config, model.heads, model.input, source.is_live)
        with self._lock:
            self.config, self._model = config, model
            index = self._seen.frame.index if self._seen else 0
            self._tell(self._decider.follow(rules, self._clock.now_s(), index, self._clock.utc_s()))
            if is_other_source:
                self._replace(source)

    def _replace(self, source: WatchSource) -> None:
        old, self._capture = self._capture, Capture(source)
        self._counts.skipped_before += old.skipped_count
        old.close()  # a camera lets only one open it
        self._last_frame_s = self._clock.now_s()
        if self._is_running:
            self._capture.start()

    def _by_label(self, prediction: Prediction) -> dict[str, dict[str, float]]:
        """Scores of the heads that the model has now; a reload may have changed them since."""
        heads = [head for head in self._model.heads if head.name in prediction.heads]
        return prediction.by_label([h for h in heads if len(h.labels) == prediction.heads[h.name].shape[-1]])

    def _is_other_model(self, config: ModelConfig) -> bool:
        if config != self.config.model or _digest(config.path) != self._model.sha256:
            return True
        if config.fallback is None or not isinstance(self._model, Standby):
            return False
        return _digest(config.fallback) != self._model.second.sha256


def load_model(config: ModelConfig) -> Model:
    """Read, verify and try a model before it is trusted, and the one that looks when its delegate fails.

    Raises:
        BundleError: If a file is damaged, or gives other results here than where it was made.
        RecipeError: If the two give different answers.
        RuntimeFault: If the interpreter fails; or the delegate, and there is no other model.
        SignatureError: If keys are trusted, and none of them has signed a file.
    """
    if config.fallback is None:
        return _load(config)
    return Standby(lambda: _load(config), _load(replace(config, path=config.fallback, delegate="")))


def _load(config: ModelConfig) -> TflitePredictor:
    trusted = read_trusted(config.trusted_keys) if config.trusted_keys else ()
    signer = verify(config.path, trusted) if trusted else None
    model = load(config.path, None, config.threads or None, config.delegate or None)
    if signer is not None and signer.sha256 != model.sha256:
        raise SignatureError(f"'{config.path}' changed while it was read.", fix="Try again.")
    if not config.delegate:
        verify_golden(model)
    elif model.manifest and model.manifest.golden_tolerance_codes:  # else it may round in its own way
        _verify_delegate(model)
    return model


def _verify_delegate(model: TflitePredictor) -> None:
    """Replay the recorded pictures; the file is whole, so that what differs is the delegate's."""
    try:
        verify_golden(model)
    except BundleError as error:
        raise RuntimeFault(
            error.message, fix="Try another port and cable, or another accelerator."
        ) from error


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"The model '{path}' cannot be read: {error}.", fix="Check model.path.") from error


def _numbers(prediction: Prediction) -> Prediction:
    """Give a prediction back if all its scores are numbers.

    Raises:
        RuntimeFault: If one is none, as where a network divides by nothing.
    """
    if all(np.isfinite(scores).all() for scores in prediction.heads.values()):
        return prediction
    raise RuntimeFault(
        "The model gives a score that is no number.", fix="Convert it again, or deploy another model."
    )


def _rate(times_s: Sequence[float], now_s: float) -> float:
    """Count frames a second over the last seconds.

    Example:
        >>> _rate((0.0, 0.5, 1.0), 1.0), _rate((0.0, 0.5, 1.0), 9.0)
        (2.0, 0.0)
    """
    recent = [at_s for at_s in times_s if at_s > now_s - _RATE_OVER_S or at_s == now_s]
    if len(recent) < 2:
        return 0.0
    # A pause that goes on counts from its start, and one that is shorter than a period does not count.
    longest_s = max(recent[-1] - recent[0], now_s - recent[0] - (recent[-1] - recent[0]) / (len(recent) - 1))
    return (len(recent) - 1) / longest_s
