"""Models that watch clips, frame by frame, as a camera box would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgecnn.core.alarm import AlarmPolicy, Box
from edgecnn.core.place import lies_in, peak_of
from edgecnn.core.prediction import Prediction
from edgecnn.core.zones import Aim, Window, aim, dangers, score_of
from edgecnn.errors import DataError
from edgecnn.measure.accuracy import is_exclusive
from edgecnn.measure.evaluate import Model, Progress, count, silent, truth_for
from edgecnn.measure.place import place_of
from edgecnn.measure.watched import Clip, ClipReport, ClipsReport, Watched, watched
from edgecnn.runtime.clip import frames


@dataclass(frozen=True, slots=True)
class _Watch:
    """One model that watches for one label, and what it has seen so far.

    Attributes:
        name: Of the model.
        aim: Which score, and which heatmap.
        shows: Whether the clip shows the label.
        scores: Of each frame.
        hits: Of each frame with a box, whether the heatmap's peak lies in one.
    """

    name: str
    aim: Aim
    shows: bool | None
    scores: list[float] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)


def watch_clips(
    models: Sequence[Model], names: Sequence[str], clips: Sequence[Clip], progress: Progress = silent
) -> ClipsReport:
    """Show every frame of every clip to every model, with the alarm that ``edgecnn watch`` has by default.

    Args:
        models: At least one.
        names: Theirs, in the report.
        clips: At least one.
        progress: Told how far it is.

    Raises:
        DataError: If no model knows anything that is watched for, or a clip cannot be decoded.
    """
    aims = [
        [
            aim(AlarmPolicy(label), model.heads)
            for label in dangers(model.heads, model.manifest.thresholds if model.manifest else ())
        ]
        for model in models
    ]
    if not any(aims):
        raise DataError(
            "No model knows fire, flame or smoke, or has a threshold of anything: none would raise an alarm.",
            fix="Leave out --clips.",
        )
    policy = AlarmPolicy("")
    tick = count(progress, "Watching clips", len(clips))
    found = []
    for clip in clips:
        found.append(_watch(models, names, aims, clip))
        tick()
    return ClipsReport(policy.on_score, policy.off_score, policy.half_life_s, policy.minimum_s, tuple(found))


def _watch(
    models: Sequence[Model], names: Sequence[str], aims: Sequence[Sequence[Aim]], clip: Clip
) -> ClipReport:
    """Show one clip to every model; each frame is decoded once."""
    watches = [
        [_Watch(name, one, _shows(one, model, clip)) for one in own]
        for model, name, own in zip(models, names, aims, strict=True)
    ]
    times_s = []
    for frame in frames(clip.path):
        times_s.append(frame.captured_at_s)
        for model, own in zip(models, watches, strict=True):
            if not own:
                continue
            prediction = model.predict(frame)
            window = Window.of(model.input, *frame.pixels_rgb.shape[:2])
            for watch in own:
                _look(watch, prediction, window, clip.boxes.get(frame.index, ()))
    is_boxed = [bool(clip.boxes.get(index)) for index in range(len(times_s))]
    boxed_s = [at_s for at_s, boxed in zip(times_s, is_boxed, strict=True) if boxed]
    return ClipReport(
        clip=clip.name,
        label=clip.label,
        frame_count=len(times_s),
        seconds=round(times_s[-1] - times_s[0] + _period_s(times_s), 3),
        boxed_count=len(boxed_s),
        times_s=[round(at_s, 4) for at_s in times_s],
        is_boxed=is_boxed,
        watched=tuple(_judged(watch, times_s, boxed_s) for own in watches for watch in own),
    )


def _look(watch: _Watch, prediction: Prediction, window: Window, boxes: Sequence[Box]) -> None:
    """Take note of what a model says of one frame."""
    watch.scores.append(score_of(watch.aim, prediction, window))
    if boxes and watch.shows and watch.aim.heatmap is not None:
        heat = prediction.heads[watch.aim.heatmap][..., watch.aim.heatmap_column]
        # Of a foreign file an output of two axes may pass for a heatmap; it has no place.
        if heat.ndim == 2:
            watch.hits.append(lies_in(peak_of(heat, window), boxes))


def _judged(watch: _Watch, times_s: Sequence[float], boxed_s: Sequence[float]) -> Watched:
    seen_from_s = boxed_s[0] if boxed_s else times_s[0]
    where = place_of(watch.hits, boxed_s) if watch.hits else None
    return watched(watch.name, watch.aim.policy, watch.shows, times_s, watch.scores, seen_from_s, where)


def _shows(one: Aim, model: Model, clip: Clip) -> bool | None:
    """Say whether a clip shows what is watched for; None where the manifest does not say it of its label."""
    head = next(head for head in model.heads if head.name == one.head)
    holds, known = truth_for([clip.label], head, model.manifest, by_folder=model.manifest is not None)
    column = one.column
    # Where nothing was said to be absent anywhere, a folder shows what it is named after and nothing else.
    says_what_is_absent = is_exclusive(head) or bool(model.manifest and model.manifest.negatives)
    return bool(holds[0, column]) if known[0, column] or not says_what_is_absent else None


def _period_s(times_s: Sequence[float]) -> float:
    return (times_s[-1] - times_s[0]) / (len(times_s) - 1) if len(times_s) > 1 else 0.0
