"""The whole chain on pictures that edgecnn renders itself, from an empty folder to an alarm."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecnn.core.alarm import AlarmPolicy, AlarmState, Event, step
from edgecnn.core.frame import Frame
from edgecnn.errors import CheckFailed
from edgecnn.measure import bench
from edgecnn.measure.latency import ModelFile
from edgecnn.measure.report import Report, write
from edgecnn.runtime.host import host_facts
from edgecnn.runtime.predictor import TflitePredictor, load, verify_golden
from edgecnn.workstation import recipe as recipes
from edgecnn.workstation.checkpoint import remove
from edgecnn.workstation.convert import convert
from edgecnn.workstation.data.catalog import open_dataset
from edgecnn.workstation.data.procedural import render_clip, write_pictures
from edgecnn.workstation.prune import prune
from edgecnn.workstation.train import Progress, train

SEED = 7
PICTURES_PER_CLASS = 400
SPARSITY = 0.5
CLIP_SECONDS = 8.0
CLIP_FRAMES_PER_SECOND = 10.0
IGNITES_AT_S = 3.0


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo shows.

    Attributes:
        report: Of the bench, int8 against float.
        html: Where it can be read.
        events: Alarms on the rendered clip.
        ignites_at_s: When its fire starts.
        stages: Seconds by stage of the chain.
    """

    report: Report
    html: Path
    events: tuple[Event, ...]
    ignites_at_s: float
    stages: dict[str, float]


def demo(out: Path, progress: Progress) -> Demo:
    """Render pictures, train, prune, quantize, convert, check, bench, and watch a clip.

    Args:
        out: Folder to work in; what an earlier demo left there is replaced.
        progress: Whom to tell.

    Returns:
        The report and the alarm.

    Raises:
        CheckFailed: If the clip's fire raises no alarm, or something before it does.
    """
    stages: dict[str, float] = {}
    pictures, run = out / "pictures", out / "run"
    _clear(run)
    with _timed("render", stages, progress):
        write_pictures(pictures, PICTURES_PER_CLASS, SEED)
    recipe, text = recipes.load("demo")
    dataset = open_dataset(pictures, recipe.classes)
    with _timed("train", stages, progress):
        trained = train(recipe, text, dataset, run, progress=progress)
    with _timed("prune", stages, progress):
        pruned = prune(trained.path, dataset, run / "pruned.h5", SPARSITY, epochs=3, progress=progress)
    with _timed("quantize and convert", stages, progress):
        plain = convert(pruned.path, out / "demo.float32.tflite", "float32", dataset)
        small = convert(pruned.path, out / "demo.int8.tflite", "int8", dataset)
    with _timed("check", stages, progress):
        models = [load(small.bundle.path), load(plain.bundle.path)]
        for model in models:
            verify_golden(model)
    with _timed("bench", stages, progress):
        test = bench.Pictures("rendered pictures", "test", dataset.split("test"))
        memories = bench.memories([ModelFile(model.path, threads=2) for model in models])
        settings = bench.Settings(calls=300)
        report, thumbnails = bench.run(models, host_facts(), test, settings, memories)
        html = write(report, out, thumbnails)
    with _timed("watch a clip", stages, progress):
        frames = render_clip(SEED + 1, CLIP_SECONDS, CLIP_FRAMES_PER_SECOND, IGNITES_AT_S, 240, 320)
        events = tuple(watch(models[0], frames, AlarmPolicy("fire")))
    _expect_alarm(events)
    return Demo(report, html, events, IGNITES_AT_S, stages)


def _clear(run: Path) -> None:
    """Take away what an earlier demo left, by name, and nothing else."""
    for name in ("model.h5", "pruned.h5", "history.json", "curve.svg"):
        (run / name).unlink(missing_ok=True)
    remove(run / "checkpoint")


def watch(model: TflitePredictor, frames: Iterator[Frame], policy: AlarmPolicy) -> Iterator[Event]:
    """Fold the alarm over the frames of a clip."""
    head = next(h for h in model.heads if policy.label in h.labels)
    column = head.labels.index(policy.label)
    state = AlarmState()
    for frame in frames:
        score = float(model.predict(frame).heads[head.name][column])
        state, event = step(policy, state, score, frame.captured_at_s, frame.index)
        if event:
            yield event


def _expect_alarm(events: tuple[Event, ...]) -> None:
    starts = [e.at_s for e in events if e.kind == "started"]
    if not starts or min(starts) < IGNITES_AT_S:
        raise CheckFailed(
            f"The clip's fire starts at {IGNITES_AT_S} s; the alarm started at {starts or 'no time'}.",
            fix="Run 'edgecnn demo' again; if it stays so, the installation computes something else.",
        )


@contextlib.contextmanager
def _timed(stage: str, stages: dict[str, float], progress: Progress) -> Iterator[None]:
    """Note how long a stage took."""
    progress.on_note(f"{stage[0].upper()}{stage[1:]} ...")
    began = time.monotonic()
    yield
    stages[stage] = time.monotonic() - began
