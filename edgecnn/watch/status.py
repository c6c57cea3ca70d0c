"""What the page, the metrics and the watchdog may know about a running watch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgecnn.core.prediction import StageTimes


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong now.

    Attributes:
        name: Short: ``source``, ``camera``, ``journal``, ``reload`` or the name of a sink.
        since_utc_s: Since when, in seconds since 1970.
        detail: What was found, and the way out.
    """

    name: str
    since_utc_s: float
    detail: str


@dataclass(frozen=True, slots=True)
class Status:
    """A snapshot; the loop makes a new one for everyone who asks.

    Attributes:
        state: ``starting``, ``watching``, ``source lost``, ``ended`` or ``stopped``.
        frames_count: Frames that were looked at.
        skipped_count: Frames that came while an older one was looked at, and were dropped.
        fps: Frames a second that were looked at, over the last seconds.
        age_ms: How old the last frame was when it was decided on; None where its source has another
            clock.
        times: Stages of the last prediction; None before the first.
        scores: The last ones, by head and label; of a heatmap its highest cell.
        smoothed: What the alarm makes of them, by label.
        alarms: Labels whose alarm lasts.
        faults: What is wrong now.
        incidents_count: Alarms that have started since the start of the program.
        model_name: Of the model's manifest.
        model_sha256: Digest of the model file.
        started_utc_s: When the watch started.
        last_frame_utc_s: When the last frame was decided on; None before the first.
        temperature_celsius: Of the processor; None where it is not told.
        throttled: Whether the board has slowed itself down; None where it is not told.
    """

    state: str = "starting"
    frames_count: int = 0
    skipped_count: int = 0
    fps: float = 0.0
    age_ms: float | None = None
    times: StageTimes | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    smoothed: Mapping[str, float] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    incidents_count: int = 0
    model_name: str = ""
    model_sha256: str = ""
    started_utc_s: float = 0.0
    last_frame_utc_s: float | None = None
    temperature_celsius: float | None = None
    throttled: bool | None = None
