"""What an alarm makes of the scores of a clip: when it comes, and whether it should have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from edgecnn.core.alarm import AlarmPolicy, AlarmState, Box, step
from edgecnn.measure.place import Place


@dataclass(frozen=True, slots=True)
class Clip:
    """A video of which the truth is known.

    Attributes:
        name: For the report.
        path: Of the file.
        label: What it shows.
        boxes: Where, by number of the frame, as shares of the picture; empty where nobody marked it.
    """

    name: str
    path: Path
    label: str
    boxes: Mapping[int, tuple[Box, ...]]


@dataclass(frozen=True, slots=True)
class Watched:
    """One model that watched one clip for one label.

    Attributes:
        model: Its name in the report.
        label: What it watched for.
        shows: Whether the clip shows that; None where its label does not say.
        median_score: Of all frames, as the model gives it.
        highest_score: Likewise.
        alarms_s: When alarms started, in seconds of the clip.
        delay_s: From what is to be seen to the first alarm: from the first frame with a box of the label,
            or where there are no boxes from the clip's first. Below 0 the alarm came before; None without
            an alarm, or where the clip does not show the label.
        place: Of the frames with a box, how often the heatmap's peak lies in one; None without
            boxes or without a heatmap.
        scores: Of each frame.
        smoothed: Of each frame, what the alarm goes by.
    """

    model: str
    label: str
    shows: bool | None
    median_score: float
    highest_score: float
    alarms_s: list[float]
    delay_s: float | None
    place: Place | None
    scores: list[float]
    smoothed: list[float]


@dataclass(frozen=True, slots=True)
class ClipReport:
    """One clip, and what each model saw in it.

    Attributes:
        clip: Name of the file without its ending.
        label: What it shows, by its folder or list.
        frame_count: Frames, all of which were looked at.
        seconds: From the first frame to the end of the last.
        boxed_count: Frames with a box.
        times_s: Of each frame.
        is_boxed: Of each frame, whether it has a box.
        watched: Model by model, label by label.
    """

    clip: str
    label: str
    frame_count: int
    seconds: float
    boxed_count: int
    times_s: list[float]
    is_boxed: list[bool]
    watched: tuple[Watched, ...]


@dataclass(frozen=True, slots=True)
class ClipsReport:
    """All clips, and the alarm that was listened to.

    Attributes:
        on_score: As of ``AlarmPolicy``.
        off_score: Likewise.
        half_life_s: Likewise.
        minimum_s: Likewise.
        clips: One by one.
    """

    on_score: float
    off_score: float
    half_life_s: float
    minimum_s: float
    clips: tuple[ClipReport, ...]


def watched(
    model: str,
    policy: AlarmPolicy,
    shows: bool | None,
    times_s: Sequence[float],
    scores: Sequence[float],
    seen_from_s: float,
    place: Place | None,
) -> Watched:
    """Let an alarm listen to the scores of a clip.

    Args:
        model: Its name.
        policy: What raises the alarm.
        shows: Whether the clip shows the label.
        times_s: When each frame is shown, at least one.
        scores: Of each frame.
        seen_from_s: Since when there is something to see.
        place: Where the model saw it.

    Example:
        >>> times = [frame / 10 for frame in range(30)]
        >>> found = watched("m", AlarmPolicy("fire"), True, times, [0.0] * 10 + [1.0] * 20, 1.0, None)
        >>> found.alarms_s, found.delay_s
        ([2.3], 1.3)
    """
    smoothed, alarms_s = _listen(policy, times_s, scores)
    return Watched(
        model=model,
        label=policy.label,
        shows=shows,
        median_score=median(scores),
        highest_score=max(scores),
        alarms_s=alarms_s,
        delay_s=round(alarms_s[0] - seen_from_s, 4) if alarms_s and shows else None,
        place=place,
        scores=[round(score, 4) for score in scores],
        smoothed=smoothed,
    )


def _listen(
    policy: AlarmPolicy, times_s: Sequence[float], scores: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Give the smoothed scores, and when alarms started."""
    state, smoothed, started = AlarmState(), [], []
    for index, (at_s, score) in enumerate(zip(times_s, scores, strict=True)):
        state, event = step(policy, state, score, at_s, index)
        smoothed.append(round(state.score, 4))
        if event is not None and event.kind == "started":
            started.append(at_s)
    return smoothed, started


def alarm_in_words(found: Watched) -> str:
    """Say when the alarm came, and whether it should have.

    Example:
        >>> seen = watched("m", AlarmPolicy("fire", minimum_s=0), False, [0.0, 1.0], [0.9, 0.9], 0.0, None)
        >>> alarm_in_words(seen)
        '1 false alarm, at 0.00 s'
    """
    times = ", ".join(f"{at_s:.2f}" for at_s in found.alarms_s)
    if found.shows is False:
        plural = "" if len(found.alarms_s) == 1 else "s"
        return f"{len(found.alarms_s)} false alarm{plural}{f', at {times} s' if times else ''}"
    if found.shows is None:
        return f"at {times} s, unknown whether rightly" if times else "no alarm, unknown whether rightly"
    if found.delay_s is None:
        return "no alarm"
    more = f", {len(found.alarms_s) - 1} more later" if len(found.alarms_s) > 1 else ""
    if found.delay_s < 0:
        return f"{-found.delay_s:.2f} s before it was to be seen{more}"
    return f"after {found.delay_s:.2f} s{more}"
