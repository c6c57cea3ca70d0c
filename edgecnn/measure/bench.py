"""The bench: every model on the same pictures and the same frames, and what comes of it."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np

from edgecnn import __version__
from edgecnn.core.frame import Frame, InputSpec, Pixels, resize
from edgecnn.core.prediction import Head
from edgecnn.measure import latency as clock
from edgecnn.measure.accuracy import HeadAccuracy, head_accuracy
from edgecnn.measure.clips import watch_clips
from edgecnn.measure.compare import Trial, compare
from edgecnn.measure.evaluate import (
    Evaluation,
    Hits,
    Model,
    Pictures,
    Progress,
    count,
    evaluate,
    heads_that_fit,
    silent,
)
from edgecnn.measure.place import Place, place_of
from edgecnn.measure.report import (
    THUMBNAIL_COUNT,
    Comparison,
    DataReport,
    ModelReport,
    Report,
    verdict,
)
from edgecnn.runtime.host import Host

__all__ = ["Pictures", "Progress", "Settings", "evaluate", "memories", "run", "thumbnail", "unique_names"]


FRAME_COUNT = 16
"""So many pictures the latency is measured on, where they are small enough."""


FRAMES_BYTES = 64 * 2**20
"""So much memory they may take: a Pi Zero has 512 MiB in all."""


THUMBNAIL_PX = 160


@dataclass(frozen=True, slots=True)
class Settings:
    """How a bench is run.

    Attributes:
        calls: Timed calls of each model.
        warmup_calls: Calls that go before.
        seed: Of noise and resampling.
    """

    calls: int = 500
    warmup_calls: int = 50
    seed: int = 1


def run(
    models: Sequence[Model],
    host: Host,
    pictures: Pictures | None = None,
    settings: Settings = Settings(),
    memories: Sequence[clock.Memory | None] | None = None,
    progress: Progress = silent,
) -> tuple[Report, dict[str, bytes]]:
    """Measure models side by side.

    Args:
        models: The model under test first, then those that it is held against.
        host: The machine.
        pictures: What the accuracy is measured on, and clips to watch; ``None`` measures latency only, on
            noise.
        settings: How.
        memories: Peak memory of each model; ``None`` where it was not measured.
        progress: Told how far it is.

    Returns:
        The report, and thumbnails of flipped pictures (JPEG bytes by name).

    Raises:
        DataError: If no model knows the labels of the pictures, or if none can be read; if a clip cannot be
            decoded, or no model would raise an alarm.
    """
    names = unique_names(models)
    clips = pictures.clips if pictures else ()
    seen = watch_clips(models, names, clips, progress) if clips else None
    fits = [heads_that_fit(model, pictures) if pictures else () for model in models]
    found = evaluate(models, pictures, progress) if pictures else None
    frames, frames_in_words = _frames(models, found, settings)
    tick = count(progress, "Timing", settings.calls + settings.warmup_calls)
    times = clock.interleave(models, frames, settings.calls, settings.warmup_calls, tick)
    scores = found.scores if found else [{} for _ in models]
    hits = found.hits if found else [{} for _ in models]
    parts = zip(models, names, fits, scores, times, memories or repeat(None), hits, strict=False)
    trials = [Trial(*part) for part in parts]
    rows = tuple(_model_report(trial, found, settings) for trial in trials)
    comparison = tuple(
        row for against in trials[1:] for row in compare(trials[0], against, found, settings.seed)
    )
    data = _data_report(pictures, found) if pictures and found else None
    report = Report(
        verdict=verdict(rows, comparison, data),
        models=rows,
        comparison=comparison,
        host=host,
        data=data,
        frames=frames_in_words,
        at_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        edgecnn=__version__,
        clips=seen,
    )
    return report, _thumbnails(comparison, found) if found else {}


def memories(files: Sequence[clock.ModelFile], progress: Progress = silent) -> list[clock.Memory | None]:
    """Measure the peak memory of each model, one after the other; ``None`` where it is not told."""
    tick = count(progress, "Weighing", len(files))
    found = []
    for file in files:
        found.append(clock.peak_memory(file))
        tick()
    return found


def unique_names(models: Sequence[Model]) -> list[str]:
    """Tell models apart: by name, else by name and precision, else by file, else by number."""
    candidates = (
        [model.name for model in models],
        [f"{model.name} {model.precision}" for model in models],
        [model.path.stem for model in models],
        [f"{model.path.stem} {number}" for number, model in enumerate(models, 1)],
    )
    return next(names for names in candidates if len(set(names)) == len(names))


def _frames(
    models: Sequence[Model], found: Evaluation | None, settings: Settings
) -> tuple[tuple[Frame, ...], str]:
    if found is None:
        height_px, width_px = clock.input_size([model.input for model in models])
        words = f"random noise, {height_px} x {width_px}, seed {settings.seed}"
        return clock.noise_frames(height_px, width_px, settings.seed), words
    frames: list[Frame] = []
    room_bytes = FRAMES_BYTES
    for place in np.linspace(0, len(found.items) - 1, min(FRAME_COUNT, len(found.items))).astype(int):
        pixels = found.items[place].read()
        room_bytes -= pixels.nbytes
        if frames and room_bytes < 0:
            break
        frames.append(Frame(pixels, 0.0, len(frames), "bench"))
    sizes = Counter(frame.pixels_rgb.shape[:2] for frame in frames)
    (height_px, width_px), _ = sizes.most_common(1)[0]
    mostly = "" if len(sizes) == 1 else "mostly "
    plural = "picture" if len(frames) == 1 else "pictures"
    return tuple(frames), f"{len(frames)} {plural} of the data, {mostly}{height_px} x {width_px}"


def _model_report(trial: Trial, found: Evaluation | None, settings: Settings) -> ModelReport:
    model, manifest, memory = trial.model, trial.model.manifest, trial.memory
    return ModelReport(
        name=trial.name,
        file=model.path.name,
        sha256=model.sha256,
        precision=model.precision,
        input=str(model.input),
        size_bytes=model.size_bytes,
        gzip_size_bytes=gzip_size_bytes(model.path),
        peak_memory_bytes=memory.peak_bytes if memory else None,
        memory_before_load_bytes=memory.before_load_bytes if memory else None,
        accuracy={head.name: _accuracy(trial, head, found) for head in trial.heads if found},
        latency=clock.summarize(trial.times, settings.warmup_calls, model.interpreter.threads),
        measured=manifest.measured if manifest else (),
        provenance=manifest.provenance if manifest else None,
        description=manifest.description if manifest else "",
        licence=manifest.licence if manifest else "",
        place=_places(trial.hits),
    )


def _places(hits: Hits) -> dict[str, dict[str, Place]]:
    found = {
        head: {x: where for x, row in rows.items() if (where := place_of(row))} for head, rows in hits.items()
    }
    return {head: labels for head, labels in found.items() if labels}


def _accuracy(trial: Trial, head: Head, found: Evaluation) -> HeadAccuracy:
    holds, known = found.truth(head, trial.model)
    return head_accuracy(trial.scores[head.name], holds, head, trial.thresholds, known)


def gzip_size_bytes(path: Path) -> int | None:
    """Say what gzip makes of a file; ``None`` where it cannot be read.

    A fixed time stamp of 0 keeps the figure the same from run to run.
    """
    try:
        return len(gzip.compress(path.read_bytes(), mtime=0))
    except OSError:
        return None


def _data_report(pictures: Pictures, found: Evaluation) -> DataReport:
    return DataReport(
        name=pictures.name,
        split=pictures.split,
        count=len(found.items),
        per_label=dict(sorted(Counter(found.labels).items())),
        skipped=found.skipped,
        only=pictures.only,
    )


def _thumbnails(comparison: Sequence[Comparison], found: Evaluation) -> dict[str, bytes]:
    wanted = {flip.picture for row in comparison for flip in row.flipped[:THUMBNAIL_COUNT]}
    return {item.path: thumbnail(item.read()) for item in found.items if item.path in wanted}


def thumbnail(pixels_rgb: Pixels, side_px: int = THUMBNAIL_PX) -> bytes:
    """Shrink a picture to what fits a square, as JPEG; a small one stays as it is.

    Example:
        >>> thumbnail(np.zeros((300, 400, 3), np.uint8))[:2].hex()
        'ffd8'
    """
    height, width = pixels_rgb.shape[:2]
    ratio = min(1.0, side_px / max(height, width))
    spec = InputSpec(max(1, round(height * ratio)), max(1, round(width * ratio)))
    _, jpeg = cv2.imencode(".jpg", resize(pixels_rgb, spec)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    return jpeg.tobytes()
