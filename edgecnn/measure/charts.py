"""Charts as SVG that stands inside a page and takes its colours from it, in light and in dark."""

from __future__ import annotations

import html
import io
import re
import warnings
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Protocol

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from edgecnn.measure.accuracy import HeadAccuracy
from edgecnn.measure.fidelity import CHEAP_DB, LayerFidelity
from edgecnn.measure.latency import Latency, ms
from edgecnn.measure.watched import ClipReport, ClipsReport

# matplotlib knows no CSS: each of these colours is drawn, then replaced by the variable of the page.
INK, MUTED, GRID, ON_ACCENT = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04")
SHADES = ("#0b0b01", "#0b0b02", "#0b0b03")
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    ON_ACCENT: "--on-accent",
    **{colour: f"--series-{index}" for index, colour in enumerate(SERIES)},
    **{colour: f"--shade-{index}" for index, colour in enumerate(SHADES)},
}

WIDTH_INCH = 5.0  # 360 pt: one chart fills a phone's width at its natural size
WIDE_INCH = 9.0  # a chart as wide as the page
HIGHEST_DB = 80.0
"""Layers that add less noise than this, or none, would press all others together."""

LOG_FROM = 6
"""Where calls spread over more than this ratio, a linear axis would press the fast model against its end."""

_DASHES: Any = ("-", (0, (5, 2)), (0, (1, 1.5)))

CONFUSION_LABELS = 25
"""With more labels than this, cells of a heatmap are too small to read on any screen."""

_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib; the page sets its own family
    "font.size": 10,
    "text.parse_math": False,  # a label may hold a dollar sign
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


class Charted(Protocol):
    """A model with what was measured of it."""

    @property
    def name(self) -> str:
        """Unique in the report."""

    @property
    def accuracy(self) -> dict[str, HeadAccuracy]:
        """By head."""

    @property
    def latency(self) -> Latency | None:
        """Pixels to scores; ``None`` where it was not measured."""


def draw(models: Sequence[Charted]) -> list[tuple[str, str, str]]:
    """Draw every chart that the figures allow.

    Args:
        models: The model under test first; it gets the accent.

    Returns:
        Title, SVG and caption of each chart.
    """
    drawn = [(f"Accuracy{_of(head, models)}", accuracy(models, head), _ACCURACY) for head in _heads(models)]
    if any(model.latency for model in models):
        drawn.append(("Latency", latency(models), _LATENCY))
        drawn.append(("Where the time goes", stages(models), _STAGES))
    return drawn


def draw_confusions(model: Charted) -> list[tuple[str, str]]:
    """Draw the confusion of each head that has one; head and SVG."""
    return [
        (head, confusion(list(found.per_label), found.confusion, f"{model.name}, {head}"))
        for head, found in model.accuracy.items()
        if found.confusion and len(found.confusion) <= CONFUSION_LABELS
    ]


def draw_clips(report: ClipsReport) -> list[tuple[str, str]]:
    """Draw the scores of every clip over time; the clip's name and SVG."""
    return [(found.clip, clip(found, report.on_score)) for found in report.clips]


_ACCURACY = "Share of pictures decided right, with the 95 % Wilson interval."
_LATENCY = (
    "Share of calls that took at most so long, pixels to scores; the dots are p50, p90 and p99. "
    "The models' calls took turns on the same frames."
)
_STAGES = "Median of each stage, one after the other; their sum need not be the median of the whole call."


def _heads(models: Sequence[Charted]) -> list[str]:
    return list(dict.fromkeys(head for model in models for head in model.accuracy))


def _of(head: str, models: Sequence[Charted]) -> str:
    return f" of head '{head}'" if len(_heads(models)) > 1 else ""


def accuracy(models: Sequence[Charted], head: str) -> str:
    """Draw the accuracy of one head with its interval, a row for each model."""
    rows = [(index, m) for index, m in enumerate(models) if head in m.accuracy]
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(0.75 + 0.52 * len(rows))
        for place, (index, model) in enumerate(rows):
            found, colour = model.accuracy[head], SERIES[index % len(SERIES)]
            axes.plot(
                [100 * found.low, 100 * found.high], [place, place], color=colour, linewidth=5, alpha=0.35
            )
            axes.plot([100 * found.top1], [place], "o", color=colour, markersize=8)
            axes.annotate(
                f"{100 * found.top1:.1f} %",
                (100 * found.top1, place),
                (0, 9),
                textcoords="offset points",
                ha="center",
            )
        _name_rows(axes, [model.name for _, model in rows])
        axes.margins(x=0.12)
        axes.set_xlabel("% of pictures decided right")
        axes.grid(axis="x")
        return _svg(figure, f"Accuracy of {', '.join(m.name for _, m in rows)}")


def latency(models: Sequence[Charted]) -> str:
    """Draw how the calls of each model are distributed."""
    timed = [(index, m, m.latency) for index, m in enumerate(models) if m.latency]
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(3.3 + 0.18 * len(timed))
        for index, model, found in timed:
            colour = SERIES[index % len(SERIES)]
            axes.plot(
                found.percentiles_ms,
                range(101),
                color=colour,
                label=f"{_short([model.name], 26)[0]}, p50 {ms(found.p50_ms)}",
            )
            marks = [found.p50_ms, found.p90_ms, found.p99_ms]
            axes.plot(marks, [50, 90, 99], "o", color=colour, markersize=5.5)
        # The slowest call of hundreds is often the machine's, not the model's: it would flatten the rest.
        fastest = min(found.percentiles_ms[0] for _, _, found in timed)
        slowest = max(found.p99_ms for _, _, found in timed)
        margin = 0.1 * (slowest - fastest) + 1e-6
        axes.set_xlim(max(0.0, fastest - margin), slowest + margin)
        if slowest > LOG_FROM * fastest > 0:
            _log_scale(axes, fastest / 1.15, slowest * 1.15)
        axes.set_ylim(0, 103)
        axes.set_yticks([0, 50, 90, 99], ["0", "50", "90", "99"])
        axes.set_xlabel("milliseconds, pixels to scores")
        axes.set_ylabel("% of calls")
        axes.grid(axis="both")
        _legend(axes, 1)
        return _svg(figure, f"Latency of {', '.join(m.name for _, m, _ in timed)}")


def _log_scale(axes: Axes, left: float, right: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)


def stages(models: Sequence[Charted]) -> str:
    """Draw the median of resize, invoke and decode, a bar for each model."""
    timed = [(m, m.latency) for m in models if m.latency]
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(1.15 + 0.45 * len(timed))
        for place, (_, found) in enumerate(timed):
            left = 0.0
            for (name, part), shade in zip(found.stages.items(), SHADES, strict=True):
                label = name if place == 0 else "_"
                axes.barh(place, part.p50_ms, 0.5, left, color=shade, label=label)
                left += part.p50_ms
            axes.annotate(ms(left), (left, place), (5, 0), textcoords="offset points", va="center")
        _name_rows(axes, [model.name for model, _ in timed])
        axes.margins(x=0.16)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("milliseconds")
        axes.grid(axis="x")
        _legend(axes, 3)
        return _svg(figure, f"Stages of {', '.join(m.name for m, _ in timed)}")


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]], name: str = "") -> str:
    """Draw which label is taken for which: shade is the share of the row, the number counts pictures."""
    side = len(labels)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_INCH, WIDTH_INCH), layout="constrained")
        axes = figure.add_subplot()
        font = 10 if side <= 6 else 8 if side <= 12 else 6
        for row, line in enumerate(counts):
            total = sum(line) or 1
            for column, count in enumerate(line):
                share = count / total
                axes.add_patch(
                    Rectangle((column, row), 0.96, 0.96, facecolor=SERIES[0], alpha=share, linewidth=0)
                )
                axes.text(
                    column + 0.48, row + 0.48, f"{count:,}", ha="center", va="center", fontsize=font,
                    color=ON_ACCENT if share > 0.62 else INK if count else GRID,
                )  # fmt: skip
        axes.set_xlim(-0.02, side)
        axes.set_ylim(side, -0.02)
        axes.set_aspect("equal")
        centres = [place + 0.48 for place in range(side)]
        axes.set_xticks(
            centres, _short(labels), rotation=0 if side <= 3 else 45, ha="center" if side <= 3 else "right"
        )
        axes.set_yticks(centres, _short(labels))
        axes.tick_params(labelsize=font + 1 if side > 6 else font)
        axes.set_xlabel("decided")
        axes.set_ylabel("true")
        axes.spines["bottom"].set_visible(False)
        return _svg(figure, f"Confusion of {name}: true labels by decisions")


def clip(found: ClipReport, on_score: float) -> str:
    """Draw what the alarm goes by over the time of a clip, the plain scores faintly behind it.

    Models differ by colour, labels by the dashes of the line; a dot is an alarm, a bar below the axis the
    time in which there are boxes.
    """
    models = list(dict.fromkeys(seen.model for seen in found.watched))
    labels = list(dict.fromkeys(seen.label for seen in found.watched))
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(2.6 + 0.18 * len(found.watched))
        for place, seen in enumerate(found.watched):
            colour = SERIES[models.index(seen.model) % len(SERIES)]
            # The model under test lies on top.
            style: Any = {"color": colour, "zorder": 3 - place / len(found.watched)}
            dashes = _DASHES[labels.index(seen.label) % len(_DASHES)]
            name = _short([seen.model if len(labels) == 1 else f"{seen.model}, {seen.label}"], 40)[0]
            axes.plot(found.times_s, seen.scores, linewidth=0.7, alpha=0.35, **style)
            axes.plot(found.times_s, seen.smoothed, linestyle=dashes, linewidth=1.6, label=name, **style)
            heights = [seen.smoothed[bisect_left(found.times_s, round(at_s, 4))] for at_s in seen.alarms_s]
            axes.plot(seen.alarms_s, heights, "o", markersize=7, **style)
        axes.axhline(on_score, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        boxed = [0.0 if is_boxed else float("nan") for is_boxed in found.is_boxed]
        axes.plot(found.times_s, [height - 0.035 for height in boxed], color=MUTED, linewidth=4)
        axes.set_ylim(-0.06, 1.03)
        axes.set_yticks([0, on_score, 1], ["0", f"{on_score:g}", "1"])
        axes.set_xlim(found.times_s[0], max(found.times_s[-1], found.times_s[0] + 1e-3))
        axes.set_xlabel("seconds of the clip")
        axes.set_ylabel("score")
        axes.grid(axis="x")
        _legend(axes, 1)
        return _svg(figure, f"Scores over the clip {found.clip}")


def fidelity(layers: Sequence[LayerFidelity], named: int = 3) -> str:
    """Draw the signal over the noise of every layer in the order of execution; the worst are named."""
    series = (
        ("everything quantized", [layer.sqnr_db for layer in layers], SERIES[1], "-", 1.4),
        ("the layer alone", [layer.own_sqnr_db for layer in layers], SHADES[0], "o", 4.5),
        ("the layer alone, at the scores", [layer.output_sqnr_db for layer in layers], SERIES[0], "o", 6.0),
    )
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(4.4, WIDE_INCH)
        places = range(len(layers))
        for label, values, colour, style, size in series:
            heights = [None if db is None or db > HIGHEST_DB else db for db in values]
            # matplotlib leaves a gap where a number is none.
            drawn = [float("nan") if db is None else db for db in heights]
            axes.plot(places, drawn, style, color=colour, label=label, markersize=size, linewidth=size)
        axes.axhline(CHEAP_DB, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.margins(y=0.06)
        _name_worst(axes, layers, named)
        axes.set_xlim(-0.6, len(layers) - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        axes.set_xlabel("layer, in the order of execution")
        axes.set_ylabel("signal over noise, dB")
        axes.grid(axis="y")
        _legend(axes, 3)
        return _svg(figure, "Signal to quantization noise by layer")


def _name_worst(axes: Axes, layers: Sequence[LayerFidelity], count: int) -> None:
    """Write names below all points, each at the end of a line that hangs from its layer."""
    costs = {place: layer.output_sqnr_db for place, layer in enumerate(layers)}
    known = [(db, place) for place, db in costs.items() if db is not None and db <= HIGHEST_DB]
    low, high = axes.get_ylim()
    row = 0.075 * (high - low)
    # From the outside in: a name never lies across the line of another one.
    inward = sorted(sorted(known)[:count], key=lambda point: min(point[1], len(layers) - 1 - point[1]))
    for number, (db, place) in enumerate(inward):
        height = low - row * (len(inward) - number)
        is_left = place < len(layers) / 2
        axes.plot([place, place], [height, db], color=SERIES[0], linewidth=0.8)
        axes.plot([place], [db], "o", markersize=11, markerfacecolor="none", markeredgecolor=SERIES[0])
        axes.annotate(
            f"{_short([layers[place].label], 34)[0]}, {db:.1f} dB".replace("-", "\N{MINUS SIGN}"),
            (place, height),
            (5 if is_left else -5, 0),
            textcoords="offset points",
            ha="left" if is_left else "right",
            va="center",
        )
    axes.set_ylim(low - row * (len(inward) + 0.8), high)
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])


def _short(labels: Sequence[str], length: int = 16) -> list[str]:
    return [label if len(label) <= length else f"{label[: length - 1]}…" for label in labels]


def _figure(height_inch: float, width_inch: float = WIDTH_INCH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_inch, height_inch), layout="constrained")
    return figure, figure.add_subplot()


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), _short(names, 26))
    axes.set_ylim(len(names) - 0.4, -0.65)
    axes.tick_params(axis="y", labelcolor=INK)


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=min(columns, 3), frameon=False, borderpad=0,
        handlelength=1.2, columnspacing=1.4,
    )  # fmt: skip


def _svg(figure: Figure, title: str) -> str:
    """Turn a figure into the ``<svg>`` element that stands in a page."""
    text = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    # The ids of clips and marks come from the salt: the title keeps them apart within a page.
    with mpl.rc_context({"svg.hashsalt": title}), warnings.catch_warnings():
        # A label in a script that DejaVu lacks is only measured with it; the browser has the letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(text, format="svg", metadata=nothing)
    element = text.getvalue()
    element = element[element.index("<svg") :]
    for colour, variable in VARIABLES.items():
        element = element.replace(colour, f"var({variable})")
    for pattern, replacement in _FOR_A_PAGE:
        element = pattern.sub(replacement, element)
    return element.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1).strip()


_FOR_A_PAGE = (
    (re.compile(r"(?s)<style type=.*?</style>"), ""),  # a style inside a page's SVG reaches the whole page
    (re.compile(r'<g id="[^"]*"'), "<g"),  # numbered anew in each chart, so not unique in a page
    (re.compile(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"'), r"\1"),  # the page decides the size
    (re.compile(r"'DejaVu Sans'(, [^;\"]*)?"), "inherit"),
    (re.compile(r"font: ([\d.]+px) inherit"), r"font-size: \1"),
)
