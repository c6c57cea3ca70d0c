"""A watch on a stage: it shows rendered frames and says what it is told to, for tests of the page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgecnn.core.alarm import AlarmPolicy
from edgecnn.core.frame import Frame, InputSpec, Pixels
from edgecnn.core.prediction import Prediction, StageTimes
from edgecnn.watch.config import Config, ModelConfig, SourceConfig
from edgecnn.watch.history import History
from edgecnn.watch.incident import Incident
from edgecnn.watch.status import Status

FIRE = AlarmPolicy("fire", on_score=0.6, off_score=0.3, half_life_s=0.0, minimum_s=0.0, cooldown_s=0.0)
TIMES = StageTimes(0.3, 4.0, 0.1)


@dataclass
class StagedWatch:
    """Satisfies ``watch.web.Watched``; ``play`` is its loop."""

    history: History = field(
        default_factory=lambda: History(lambda _, seen: {"fire": float(seen.heads["fire"][1])})
    )
    config: Config = field(
        default_factory=lambda: Config("yard", ModelConfig(Path("fire.tflite")), SourceConfig("0"), (FIRE,))
    )
    said: Status = field(
        default_factory=lambda: Status(
            "starting",
            model_name="fire",
            model_sha256="ab" * 32,
            started_utc_s=time.time(),
            age_ms=41.0,
            temperature_celsius=48.3,
            throttled=False,
        )
    )
    input: InputSpec = field(default_factory=lambda: InputSpec(96, 128))
    shown: tuple[Frame, Prediction] | None = None

    def status(self) -> Status:
        return self.said

    def latest(self) -> tuple[Frame, Prediction] | None:
        return self.shown

    def play(self, pixels_rgb: Pixels, score: float, at_s: float, index: int) -> None:
        """Look at one frame."""
        heat = np.zeros((6, 8, 1), np.float32)
        heat[3:5, 4:6, 0] = score
        heads = {
            "fire": np.array([1 - score, score], np.float32),
            "where": heat,
        }
        frame = Frame(pixels_rgb, at_s, index, "clip")
        prediction = Prediction(heads, index, at_s, TIMES)
        scores = {"fire": {"no_fire": 1 - score, "fire": score}, "where": {"fire": score}}
        self.history.on_prediction(frame, prediction)
        self.shown = (frame, prediction)
        self.said = replace(
            self.said,
            state="watching",
            frames_count=self.said.frames_count + 1,
            fps=10.0,
            times=TIMES,
            scores=scores,
            last_frame_utc_s=time.time(),
        )


@dataclass
class StagedIncidents:
    """Satisfies ``watch.web.Incidents``."""

    all: list[Incident] = field(default_factory=list)

    def incidents(self, count: int) -> Sequence[Incident]:
        return self.all[:count]

    def incident(self, incident_id: str) -> Incident | None:
        return next((i for i in self.all if i.id == incident_id), None)

    def acknowledge(self, incident_id: str) -> bool:
        self.all = [replace(i, acknowledged=True) if i.id == incident_id else i for i in self.all]
        return self.incident(incident_id) is not None
