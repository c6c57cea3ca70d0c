"""The bench: every model on the same pictures and the same frames, and what comes of it."""

from __future__ import annotations

import contextlib
import gzip
import itertools
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import repeat
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn import __version__
from edgecnn.bundle.manifest import Manifest
from edgecnn.core.frame import Frame, InputSpec, Pixels, resize
from edgecnn.core.prediction import Head, Prediction, Scores
from edgecnn.errors import DataError
from edgecnn.measure import latency as clock
from edgecnn.measure.accuracy import (
    accuracy_drop,
    decide,
    head_accuracy,
    is_exclusive,
    is_right,
    truth,
)
from edgecnn.measure.parity import flipped, parity
from edgecnn.measure.report import (
    THUMBNAIL_COUNT,
    Comparison,
    DataReport,
    Flip,
    ModelReport,
    Report,
    Skipped,
    verdict,
)
from edgecnn.runtime.host import Host

FRAME_COUNT = 16
"""So many pictures the latency is measured on, where they are small enough."""

FRAMES_BYTES = 64 * 2**20
"""So much memory they may take: a Pi Zero has 512 MiB in all."""

THUMBNAIL_PX = 160

_READ_AHEAD = 32


class LabelledPicture(Protocol):
    """A picture of which the truth is known."""

    @property
    def path(self) -> str:
        """Where it lies within the data; names it in the report."""

    @property
    def label(self) -> str:
        """What it shows."""

    def read(self) -> Pixels:
        """Give its pixels, shape (height, width, 3), red first."""


class Threaded(Protocol):
    """What computes."""

    @property
    def threads(self) -> int:
        """How many threads."""


class Model(Protocol):
    """What the bench must know about a model and have it do."""

    @property
    def name(self) -> str:
        """Of the manifest, or of the file."""

    @property
    def path(self) -> Path:
        """Of the file."""

    @property
    def sha256(self) -> str:
        """Of the file."""

    @property
    def size_bytes(self) -> int:
        """Of the file."""

    @property
    def precision(self) -> str:
        """For instance ``int8``."""

    @property
    def input(self) -> InputSpec:
        """What it eats."""

    @property
    def heads(self) -> Sequence[Head]:
        """What it answers."""

    @property
    def manifest(self) -> Manifest | None:
        """What it says about itself; ``None`` for a foreign file."""

    @property
    def interpreter(self) -> Threaded:
        """What computes."""

    def predict(self, frame: Frame) -> Prediction:
        """Give the scores of one frame, with times."""

    def scores(self, codes: Pixels) -> Mapping[str, Scores]:
        """Give the scores of one picture that was resized already."""


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


@dataclass(frozen=True, slots=True)
class Pictures:
    """What the accuracy is measured on.

    Attributes:
        name: Of the data, for the report.
        split: For instance ``test``.
        items: The pictures.
    """

    name: str
    split: str
    items: Sequence[LabelledPicture]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of every model on every picture that could be read.

    Attributes:
        items: The pictures.
        scores: By model, by head: shape (picture_count, label_count).
        skipped: Pictures that could not be read, with the reason.
    """

    items: tuple[LabelledPicture, ...]
    scores: tuple[dict[str, NDArray[np.float32]], ...]
    skipped: tuple[Skipped, ...]

    @property
    def labels(self) -> list[str]:
        """What each picture shows."""
        return [item.label for item in self.items]


@dataclass(frozen=True, slots=True)
class Trial:
    """One model with what was measured of it.

    Attributes:
        model: The model.
        name: Unique among the models.
        heads: Those that the pictures can test.
        scores: By head, shape (picture_count, label_count).
        times: Milliseconds, shape (calls, 3).
        memory: Peak memory.
    """

    model: Model
    name: str
    heads: tuple[Head, ...]
    scores: Mapping[str, NDArray[np.float32]]
    times: NDArray[np.float64]
    memory: clock.Memory | None

    @property
    def thresholds(self) -> Mapping[str, float]:
        """By label; those of the manifest."""
        return self.model.manifest.thresholds if self.model.manifest else {}


Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def _silent(_what: str, _done: int, _total: int) -> None:
    pass


def run(
    models: Sequence[Model],
    host: Host,
    pictures: Pictures | None = None,
    settings: Settings = Settings(),
    memories: Sequence[clock.Memory | None] | None = None,
    progress: Progress = _silent,
) -> tuple[Report, dict[str, bytes]]:
    """Measure models side by side.

    Args:
        models: The model under test first, then those that it is held against.
        host: The machine.
        pictures: What the accuracy is measured on; ``None`` measures latency only, on noise.
        settings: How.
        memories: Peak memory of each model; ``None`` where it was not measured.
        progress: Told how far it is.

    Returns:
        The report, and thumbnails of flipped pictures (JPEG bytes by name).

    Raises:
        DataError: If no model knows the labels of the pictures, or if none can be read.
    """
    fits = [heads_that_fit(model, pictures) if pictures else () for model in models]
    found = evaluate(models, pictures, progress) if pictures else None
    frames, frames_in_words = _frames(models, found, settings)
    tick = _count(progress, "Timing", settings.calls + settings.warmup_calls)
    times = clock.interleave(models, frames, settings.calls, settings.warmup_calls, tick)
    scores = found.scores if found else [{} for _ in models]
    parts = zip(models, unique_names(models), fits, scores, times, memories or repeat(None), strict=False)
    trials = [Trial(*part) for part in parts]
    rows = tuple(_model_report(trial, found, settings) for trial in trials)
    comparison = tuple(
        row for against in trials[1:] for row in _compare(trials[0], against, found, settings.seed)
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
    )
    return report, _thumbnails(comparison, found) if found else {}


def memories(files: Sequence[clock.ModelFile], progress: Progress = _silent) -> list[clock.Memory | None]:
    """Measure the peak memory of each model, one after the other; ``None`` where it is not told."""
    tick = _count(progress, "Weighing", len(files))
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


def heads_that_fit(model: Model, pictures: Pictures) -> tuple[Head, ...]:
    """Choose the heads that pictures with these labels can test.

    A head that decides for exactly one label must know every label of the pictures. One of several
    sigmoids need not: a picture of something else shows none of its labels.

    Raises:
        DataError: If no head fits.
    """
    labels = {picture.label for picture in pictures.items}
    fitting = tuple(
        head
        for head in model.heads
        if (labels <= set(head.labels) if is_exclusive(head) else labels & set(head.labels))
    )
    if not fitting:
        raise DataError(
            f"The labels of '{pictures.name}' ({_some(labels)}) do not fit those of "
            f"'{model.path.name}' ({'; '.join(_some(head.labels) for head in model.heads)}).",
            fix="Name the folders of the data like the labels, give a foreign file its labels with "
            "--labels, or leave out --data to measure the latency only.",
        )
    return fitting


def _some(labels: Iterable[str], shown: int = 8) -> str:
    names = sorted(labels)
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def evaluate(models: Sequence[Model], pictures: Pictures, progress: Progress = _silent) -> Evaluation:
    """Run every model on every picture: read once, resized once for each distinct input.

    Args:
        models: At least one.
        pictures: One that cannot be read is left out and named.
        progress: Told how far it is.

    Returns:
        The scores.

    Raises:
        DataError: If not one picture can be read.
    """
    inputs = tuple(dict.fromkeys(model.input for model in models))
    kept: list[LabelledPicture] = []
    skipped: list[Skipped] = []
    rows: list[dict[str, list[NDArray[np.float32]]]] = [{h.name: [] for h in m.heads} for m in models]
    tick = _count(progress, "Evaluating", len(pictures.items))
    with contextlib.closing(_read_ahead(pictures.items, inputs)) as read:
        for item, codes in read:
            if isinstance(codes, DataError):
                skipped.append(Skipped(item.path, codes.message))
            else:
                kept.append(item)
                for model, columns in zip(models, rows, strict=True):
                    for head, scores in model.scores(codes[model.input]).items():
                        columns[head].append(_peak(scores))
            tick()
    if not kept:
        reason = f" The first: {skipped[0].reason}" if skipped else ""
        raise DataError(
            f"None of the {len(pictures.items)} pictures of '{pictures.name}' can be read.{reason}",
            fix="Look at the data with 'edgecnn data check'.",
        )
    stacked = tuple({head: np.stack(column) for head, column in columns.items()} for columns in rows)
    return Evaluation(tuple(kept), stacked, tuple(skipped))


def _peak(scores: Scores) -> NDArray[np.float32]:
    """Take a heatmap for what its strongest cells say of the whole picture."""
    return scores.reshape(-1, scores.shape[-1]).max(axis=0) if scores.ndim > 1 else scores


_Codes = dict[InputSpec, Pixels]


def _read_ahead(
    items: Sequence[LabelledPicture], inputs: Sequence[InputSpec]
) -> Generator[tuple[LabelledPicture, _Codes | DataError], None, None]:
    """Decode the next pictures on another thread while the interpreter works on this one."""

    def prepare(item: LabelledPicture) -> _Codes | DataError:
        try:
            pixels = item.read()
        except DataError as error:
            return error
        return {spec: resize(pixels, spec) for spec in inputs}

    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting: deque[tuple[LabelledPicture, Future[_Codes | DataError]]] = deque()
        rest = iter(items)
        for item in itertools.islice(rest, _READ_AHEAD):
            waiting.append((item, pool.submit(prepare, item)))
        try:
            while waiting:
                item, future = waiting.popleft()
                for coming in itertools.islice(rest, 1):
                    waiting.append((coming, pool.submit(prepare, coming)))
                yield item, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _count(progress: Progress, what: str, total: int) -> Callable[[], None]:
    counter = itertools.count(1)
    return lambda: progress(what, next(counter), total)


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
    labels = found.labels if found else []
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
        accuracy={
            head.name: head_accuracy(trial.scores[head.name], truth(labels, head), head, trial.thresholds)
            for head in trial.heads
        },
        latency=clock.summarize(trial.times, settings.warmup_calls, model.interpreter.threads),
        measured=manifest.measured if manifest else (),
        provenance=manifest.provenance if manifest else None,
        description=manifest.description if manifest else "",
        licence=manifest.licence if manifest else "",
    )


def gzip_size_bytes(path: Path) -> int | None:
    """Say what gzip makes of a file; ``None`` where it cannot be read.

    A fixed time stamp of 0 keeps the figure the same from run to run.
    """
    try:
        return len(gzip.compress(path.read_bytes(), mtime=0))
    except OSError:
        return None


def _compare(trial: Trial, against: Trial, found: Evaluation | None, seed: int) -> Iterator[Comparison]:
    """Hold one model against another, one row for each head that both have."""
    faster = clock.speedup(trial.times.sum(axis=1), against.times.sum(axis=1))
    timed = Comparison(
        model=trial.name,
        against=against.name,
        speedup_p50=faster.of_p50,
        speedup_pairwise=faster.pairwise,
        speedup_low=faster.low,
        speedup_high=faster.high,
    )
    shared = _shared_heads(trial.model, against.model) if found else []
    if not found or not shared:
        yield timed
    else:
        yield from (_compare_head(timed, trial, against, head, found, seed) for head in shared)


def _shared_heads(model: Model, against: Model) -> list[Head]:
    """Choose the heads that ask the same; where they lie in the file does not matter."""
    others = {(head.name, head.kind, head.labels) for head in against.heads}
    return [head for head in model.heads if (head.name, head.kind, head.labels) in others]


def _compare_head(
    timed: Comparison, trial: Trial, against: Trial, head: Head, found: Evaluation, seed: int
) -> Comparison:
    scores, other_scores = trial.scores[head.name], against.scores[head.name]
    decided = decide(scores, head, trial.thresholds)
    other_decided = decide(other_scores, head, against.thresholds)
    places = flipped(scores, other_scores, head, trial.thresholds, against.thresholds)
    row = replace(
        timed,
        head=head.name,
        flipped_count=len(places),
        parity=parity(scores, other_scores, head, trial.thresholds, against.thresholds),
        flipped=tuple(
            Flip(
                picture=found.items[place].path,
                truth=found.items[place].label,
                model_label=_named(decided[place], head),
                model_score=_score(decided[place], scores[place]),
                against_label=_named(other_decided[place], head),
                against_score=_score(other_decided[place], other_scores[place]),
            )
            for place in places.tolist()
        ),
    )
    if head.name not in {tested.name for tested in trial.heads}:
        return row
    holds = truth(found.labels, head)
    drop = accuracy_drop(is_right(other_decided, holds), is_right(decided, holds), seed)
    return replace(
        row,
        accuracy_drop_pp=drop.drop_pp,
        drop_low_pp=drop.low_pp,
        drop_high_pp=drop.high_pp,
        drop_method=drop.method,
        mcnemar_p=drop.mcnemar_p,
    )


def _named(decided: NDArray[np.bool_], head: Head) -> str:
    return " + ".join(label for label, yes in zip(head.labels, decided, strict=True) if yes) or "none"


def _score(decided: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    """Give the score of what was decided; where nothing was, the highest that was not enough."""
    return round(float(scores[decided].max() if decided.any() else scores.max()), 4)


def picture_name(item: LabelledPicture, root: str) -> str:
    """Name a picture by its path within the data, so that a report tells nothing of the machine."""
    text = str(item.path)
    with contextlib.suppress(ValueError):
        return Path(text).relative_to(root).as_posix() if root else text
    return "/".join(Path(text).parts[-2:])


def _data_report(pictures: Pictures, found: Evaluation) -> DataReport:
    return DataReport(
        name=pictures.name,
        split=pictures.split,
        count=len(found.items),
        per_label=dict(sorted(Counter(found.labels).items())),
        skipped=found.skipped,
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
