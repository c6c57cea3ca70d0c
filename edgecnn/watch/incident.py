"""An alarm from its start to its end, as people look at it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Incident:
    """What is known of one alarm.

    Attributes:
        id: Unique.
        label: What was seen.
        started_utc_s: When.
        ended_utc_s: When it was over; None while it lasts.
        score: The highest so far.
        acknowledged: Whether a person has taken note.
        snapshot: Its picture; None where there is none.
        clip: Its clip; None where there is none, or none yet.
    """

    id: str
    label: str
    started_utc_s: float
    ended_utc_s: float | None
    score: float
    acknowledged: bool = False
    snapshot: Path | None = None
    clip: Path | None = None
