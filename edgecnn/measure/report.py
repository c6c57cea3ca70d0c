"""The report of a bench: values that become JSON, Markdown and one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import msgspec

from edgecnn.bundle.manifest import Measured, Provenance
from edgecnn.bundle.whole import whole_file
from edgecnn.errors import DataError
from edgecnn.measure.accuracy import Drop, DropMethod, HeadAccuracy, LabelAccuracy
from edgecnn.measure.latency import NOT_MEASURED, Latency, ms
from edgecnn.measure.parity import Parity
from edgecnn.measure.place import Place
from edgecnn.measure.watched import ClipsReport, alarm_in_words
from edgecnn.runtime.host import Host

MINUS = "\N{MINUS SIGN}"

UNREST = 1.5
"""p90 over p50 from which a machine counts as busy; idle ones, timed by turns, stay below 1.1."""

THUMBNAIL_COUNT = 24
"""So many flipped pictures are shown; a report stays a file that can be sent by mail."""


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What was measured of one model; ``None`` stands for "not measured".

    Attributes:
        name: Unique in the report.
        file: Name of the file.
        sha256: Of the file.
        precision: For instance ``int8``.
        input: As people write it: ``96 x 96 RGB``.
        size_bytes: Of the file.
        gzip_size_bytes: Of the file after gzip.
        peak_memory_bytes: Of a fresh process that predicts with it, Python and libraries included.
        memory_before_load_bytes: The part of it that was there before the model was loaded.
        accuracy: By head; empty where no pictures were given.
        place: By heatmap and label, on the pictures with boxes of the label; labels without any are left
            out.
        latency: Pixels to scores.
        measured: What the manifest promises.
        provenance: Where the model comes from.
        description: One sentence of the manifest.
        licence: Of the model.
    """

    name: str
    file: str
    sha256: str
    precision: str
    input: str
    size_bytes: int
    gzip_size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    memory_before_load_bytes: int | None = None
    accuracy: dict[str, HeadAccuracy] = field(default_factory=dict)
    latency: Latency | None = None
    measured: tuple[Measured, ...] = ()
    provenance: Provenance | None = None
    description: str = ""
    licence: str = ""
    place: dict[str, dict[str, Place]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flip:
    """A picture on which two models decide differently.

    Attributes:
        picture: Path within the data.
        truth: Its label; empty where the head does not know it.
        model_label: Decision of the model.
        model_score: Score of that decision.
        against_label: Decision of the model that it is compared with.
        against_score: Score of that decision.
    """

    picture: str
    truth: str
    model_label: str
    model_score: float
    against_label: str
    against_score: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model held against another on one head; ``None`` stands for "not measured".

    Attributes:
        model: Name of the model under test.
        against: Name of the model that it is compared with.
        head: Which answer; ``None`` where only time was measured.
        accuracy_drop_pp: Accuracy of ``against`` less that of ``model``, in percentage points.
        drop_low_pp: Lower end of its 95 % interval.
        drop_high_pp: Upper end of it.
        mcnemar_p: How often chance alone would part two equally good models so far.
        drop_method: How the interval of the drop was found: the paired bootstrap, or, where few pictures
            part the models, the score interval of Tango (1998).
        speedup_p50: p50 of ``against`` over p50 of ``model``: above 1, the model is faster.
        speedup_pairwise: Median of the ratios of neighbouring calls; the verdict goes by it, since the
            interval is its own.
        speedup_low: Lower end of the 95 % interval of ``speedup_pairwise``.
        speedup_high: Upper end of it.
        flipped_count: Pictures on which they decide differently.
        parity: How far their scores lie apart.
        flipped: These pictures, the widest difference first.
        place: Of a heatmap by label, what is lost of the share of boxed pictures whose peak lies
            in a box.
    """

    model: str
    against: str
    head: str | None = None
    accuracy_drop_pp: float | None = None
    drop_low_pp: float | None = None
    drop_high_pp: float | None = None
    mcnemar_p: float | None = None
    drop_method: DropMethod | None = None
    speedup_p50: float | None = None
    speedup_pairwise: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    flipped_count: int | None = None
    parity: Parity | None = None
    flipped: tuple[Flip, ...] = ()
    place: dict[str, Drop] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture that could not be read."""

    picture: str
    reason: str


@dataclass(frozen=True, slots=True)
class DataReport:
    """On which pictures the accuracy was measured.

    Attributes:
        name: Of the folder or archive.
        split: For instance ``test``.
        count: Pictures that were read.
        per_label: Pictures of each label.
        skipped: Pictures that could not be read.
        only: Globs of the file names that were measured on; empty for the whole split.
    """

    name: str
    split: str
    count: int
    per_label: dict[str, int]
    skipped: tuple[Skipped, ...] = ()
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one bench found.

    Attributes:
        verdict: The result in a sentence.
        models: The model under test first.
        comparison: The model under test against each other one, head by head.
        host: The machine.
        data: The pictures; ``None`` where there were none.
        frames: What the latency was measured on, in words.
        at_utc: When, as ISO 8601.
        edgecnn: Version.
        clips: What the models saw in clips; ``None`` where there were none.
    """

    verdict: str
    models: tuple[ModelReport, ...]
    comparison: tuple[Comparison, ...]
    host: Host
    data: DataReport | None
    frames: str
    at_utc: str
    edgecnn: str
    clips: ClipsReport | None = None


def verdict(
    models: Sequence[ModelReport], comparison: Sequence[Comparison], data: DataReport | None = None
) -> str:
    """Say the result in words, with the interval that belongs to it.

    Args:
        models: The model under test first.
        comparison: Its rows; the first one decides.
        data: The pictures.

    Returns:
        One sentence or more.
    """
    return _result(models, comparison, data) + "".join(map(_unmeasured, models[:1]))


def _result(models: Sequence[ModelReport], comparison: Sequence[Comparison], data: DataReport | None) -> str:
    if not comparison:
        return _verdict_of_one(models[0])
    row = comparison[0]
    if row.accuracy_drop_pp is None and row.speedup_pairwise is None:
        return f"{row.model} and {row.against} differ in nothing that was measured."
    told = [_speed(row)] if row.speedup_pairwise is not None else []
    told += [_drop(row, data)] if row.accuracy_drop_pp is not None else []
    return f"{row.model} is {' and '.join(told)}."


def _verdict_of_one(model: ModelReport) -> str:
    told = []
    if model.accuracy:
        head, found = next(iter(model.accuracy.items()))
        told.append(
            f"decides {percent(found.top1)} of {number(found.count)} pictures right "
            f"(95 % interval {percent(found.low)} to {percent(found.high)}"
            + (f", head '{head}')" if len(model.accuracy) > 1 else ")")
        )
    if model.latency:
        told.append(f"takes {ms(model.latency.p50_ms)} from pixels to scores (p50)")
    return f"{model.name} {' and '.join(told) or 'was not measured'}."


def _unmeasured(model: ModelReport) -> str:
    """Say of which label, where each picture shows exactly one, there was no picture."""
    missing = [
        f"'{label}'"
        for found in model.accuracy.values()
        if found.confusion and found.count
        for label, own in found.per_label.items()
        if not own.count
    ]
    return f" No picture shows {' or '.join(missing)}, so that this was not measured." if missing else ""


def _speed(row: Comparison) -> str:
    ratio, low, high = row.speedup_pairwise, row.speedup_low, row.speedup_high
    assert ratio is not None  # the caller asks only where it was measured, and the ends are with it
    assert low is not None
    assert high is not None
    if low <= 1 <= high:
        return f"as fast as {row.against} (95 % interval {times(low)} to {times(high)})"
    word = "faster"
    if ratio < 1:
        ratio, low, high, word = 1 / ratio, 1 / high, 1 / low, "slower"
    return f"{times(ratio)} {word} than {row.against} (95 % interval {times(low)} to {times(high)})"


def _drop(row: Comparison, data: DataReport | None) -> str:
    drop, low, high = row.accuracy_drop_pp, row.drop_low_pp, row.drop_high_pp
    assert drop is not None  # the caller asks only where it was measured, and the ends are with it
    assert low is not None
    assert high is not None
    against = "" if row.speedup_pairwise is not None else f" than {row.against}"
    if not row.flipped_count:
        changed = f"none of {number(data.count)} decisions changed" if data else "no decision changed"
        return f"equally accurate: {changed}"
    sign = 1 if drop >= 0 else -1
    low, high = sorted((sign * low, sign * high))
    word = "less" if drop > 0 else "more"
    amount = f"{abs(drop):.2f} pp {word} accurate{against}" if drop else "equally accurate"
    of = f" of {number(data.count)}" if data else ""
    verb = "decision" if row.flipped_count == 1 else "decisions"
    return (
        f"{amount} (95 % interval {signed(low)} to {signed(high)} pp), "
        f"{number(row.flipped_count)}{of} {verb} changed"
    )


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share in percent.

    Example:
        >>> percent(0.9067), percent(0.9067, digits=2)
        ('90.7 %', '90.67 %')
    """
    return NOT_MEASURED if share is None else f"{100 * share:.{digits}f} %"


def signed(value: float, digits: int = 2) -> str:
    """Write a number with a true minus sign, and zero without any.

    Example:
        >>> signed(-0.104).replace(MINUS, "-"), signed(0.5), signed(-0.0001)
        ('-0.10', '0.50', '0.00')
    """
    text = f"{abs(value):.{digits}f}"
    return f"{MINUS}{text}" if value < 0 and float(text) else text


def gain(value: float) -> str:
    """Write a change, with its sign.

    Example:
        >>> gain(0.25), gain(-0.25).replace(MINUS, "-"), gain(0.0)
        ('+0.25', '-0.25', '0.00')
    """
    return f"+{signed(value)}" if value > 0 and float(f"{value:.2f}") else signed(value)


def number(value: int) -> str:
    """Write a count with separators.

    Example:
        >>> number(10000)
        '10,000'
    """
    return f"{value:,}"


def times(ratio: float) -> str:
    """Write a ratio.

    Example:
        >>> times(2.149), times(1.034)
        ('2.15x', '1.03x')
    """
    return f"{ratio:.2f}x"


def size(count: int | None) -> str:
    """Write bytes in the unit that people use for files.

    Example:
        >>> size(512), size(96_304), size(3_577_648)
        ('512 B', '96.3 kB', '3.58 MB')
    """
    if count is None:
        return NOT_MEASURED
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB"


def conditions(model: ModelReport, host: Host) -> str:
    """Say under which conditions a latency was measured."""
    found = model.latency
    if found is None:
        return "Latency was not measured."
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    return (
        f"p50 {ms(found.p50_ms)}, p90 {ms(found.p90_ms)}, p99 {ms(found.p99_ms)} over "
        f"{number(found.calls)} calls after {number(found.warmup_calls)} warm-up calls, {threads}, {host.cpu}"
    )


def unrest(models: Sequence[ModelReport]) -> str:
    """Warn where calls spread so widely that something else must have run on the machine; else empty."""
    spreads = [m.latency.p90_ms / m.latency.p50_ms for m in models if m.latency and m.latency.p50_ms]
    if max(spreads, default=0) < UNREST:
        return ""
    return (
        f"The machine was busy: one call in ten took at least {max(spreads):.1f} times as long as the "
        "median. Ratios hold better than milliseconds here; measure again when nothing else runs."
    )


def to_json(report: Report) -> bytes:
    """Write the report for machines."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def to_markdown(report: Report) -> str:
    """Write the report for a terminal, a commit or a pull request."""
    return _render("report.md.j2", report)


def to_html(report: Report, thumbnails: Mapping[str, bytes] | None = None) -> str:
    """Write the report for people: one file, charts as SVG and pictures inside.

    Args:
        report: What was found.
        thumbnails: JPEG bytes by picture, of the flipped pictures that are to be shown.

    Returns:
        HTML that loads nothing from anywhere.
    """
    from edgecnn.measure import charts  # matplotlib takes half a second, and the Markdown needs none

    return _render(
        "report.html.j2",
        report,
        charts=charts.draw(report.models),
        clip_charts=charts.draw_clips(report.clips) if report.clips else [],
        confusions=[
            (model.name, head, svg) for model in report.models for head, svg in charts.draw_confusions(model)
        ],
        thumbnails={name: base64.b64encode(jpeg).decode() for name, jpeg in (thumbnails or {}).items()},
        thumbnail_count=THUMBNAIL_COUNT,
    )


def _render(template: str, report: Report, **more: object) -> str:
    helpers = (
        percent, signed, gain, number, ms, times, size, that_have, that_occur, places_of, place_in_words,
        unknown_in_words, alarm_in_words,
    )  # fmt: skip
    return template_of(template, helpers).render(
        report=report,
        conditions=conditions,
        unrest=unrest(report.models),
        drop_methods=list(dict.fromkeys(row.drop_method for row in report.comparison if row.drop_method)),
        heads=list(dict.fromkeys(head for model in report.models for head in model.accuracy)),
        by_name={model.name: model for model in report.models},
        places=place_rows(report.models),
        positions={model.name: index for index, model in enumerate(report.models)},
        host=msgspec.to_builtins(report.host),
        **more,
    )


def template_of(name: str, helpers: Sequence[Callable[..., object]]) -> jinja2.Template:
    """Open a template of a report.

    Args:
        name: Of the file beside this one.
        helpers: What the template may use as filters, by their own names.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgecnn", "measure"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({helper.__name__: helper for helper in helpers})
    return environment.get_template(name)


def that_have(models: Sequence[ModelReport], head: str) -> list[ModelReport]:
    """Choose the models of which this head was measured."""
    return [model for model in models if head in model.accuracy]


def place_rows(models: Sequence[ModelReport]) -> list[tuple[str, str]]:
    """List every heatmap and label of which a model was measured on boxed pictures."""
    found = [(head, label) for model in models for head, labels in model.place.items() for label in labels]
    return list(dict.fromkeys(found))


def places_of(models: Sequence[ModelReport], head: str, label: str) -> list[Place | None]:
    """Give what was measured of one label of a heatmap, model by model."""
    return [model.place.get(head, {}).get(label) for model in models]


def place_in_words(found: Place | None) -> str:
    """Write a share of boxed pictures with its interval.

    Example:
        >>> place_in_words(Place(0.75, 0.3, 0.95, 4, 3, 4))
        '75.0 % (30.0 % to 95.0 %)'
    """
    if found is None:
        return NOT_MEASURED
    return f"{percent(found.share)} ({percent(found.low)} to {percent(found.high)})"


def that_occur(per_label: Mapping[str, LabelAccuracy]) -> list[str]:
    """Choose the labels that a picture shows or was taken for."""
    return [label for label, found in per_label.items() if found.count or found.decided_count]


def unknown_in_words(models: Sequence[ModelReport], head: str) -> list[str]:
    """Say of each label how often it is seen in pictures whose folder does not say whether they show it."""
    found: dict[tuple[str, int], list[str]] = {}
    for model in models:
        for label, one in model.accuracy[head].per_label.items():
            if one.unknown_count:
                words = f"{model.name} sees it in {percent(one.unknown_rate)}"
                found.setdefault((label, one.unknown_count), []).append(words)
    return [
        f"Of {number(count)} pictures the folder does not say whether there is {label}: {', '.join(words)}."
        for (label, count), words in found.items()
    ]


def write(report: Report, folder: Path, thumbnails: Mapping[str, bytes] | None = None) -> Path:
    """Write ``report.json``, ``report.md`` and ``report.html``, each whole or not at all.

    Args:
        report: What was found.
        folder: Made where it is absent.
        thumbnails: JPEG bytes by picture.

    Returns:
        The path of ``report.html``.

    Raises:
        DataError: If the folder cannot be written.
    """
    return write_files(
        {
            "report.json": to_json(report),
            "report.md": to_markdown(report).encode(),
            "report.html": to_html(report, thumbnails).encode(),
        },
        folder,
    )


def write_files(texts: Mapping[str, bytes], folder: Path) -> Path:
    """Write the files of a report, each whole or not at all.

    Args:
        texts: By name of the file.
        folder: Made where it is absent.

    Returns:
        The path of the last one.

    Raises:
        DataError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Rendered first and moved into place last: a full disk leaves the report before untouched.
        with contextlib.ExitStack() as drafts:
            for name, text in texts.items():
                drafts.enter_context(whole_file(folder / name)).write_bytes(text)
    except OSError as error:
        raise DataError(
            f"The report cannot be written to '{folder}': {error.strerror or error}.",
            fix="Choose another folder with --out, or make room there.",
        ) from error
    return folder / list(texts)[-1]
