"""The report of a quantized file held against its float twin: JSON, Markdown and one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgecnn.measure.fidelity import CHEAP_DB, NOISELESS_DB, Fidelity, LayerFidelity
from edgecnn.measure.latency import NOT_MEASURED
from edgecnn.measure.report import MINUS, number, percent, size, template_of, write_files

ADVICE = {
    "ranges": "choose the range anew, by percentile or smallest error, so that outliers do not set it",
    "equalize": "scale channels against the next layer, so that all use the codes that they share",
    "bias": "take the constant shift that rounding left out of the bias",
    "adaround": "round the weights so that the layer's output, not each weight, comes nearest",
    "qat": "fine-tune with the rounding in place",
    "int16x8": "give its activations 16 bits, or keep it an island of float",
}
"""What each rung of the ladder does."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Which file was held against which."""

    file: str
    sha256: str
    precision: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FidelityReport:
    """Everything that was found, with its conditions.

    Attributes:
        verdict: The result in words.
        model: The quantized file.
        against: Its float twin.
        pictures: What both have seen, in words.
        fidelity: Layer by layer.
        runtime: The interpreter.
        at_utc: When, as ISO 8601.
        edgecnn: Version.
    """

    verdict: str
    model: FileFacts
    against: FileFacts
    pictures: str
    fidelity: Fidelity
    runtime: str
    at_utc: str
    edgecnn: str


def verdict(name: str, found: Fidelity) -> str:
    """Say in words how much noise the scores hold, and which layer costs most by itself."""
    if found.output_sqnr_db is None:
        whole = f"The last layers of {name} have no counterpart, so the noise of its scores is not known."
    elif found.output_sqnr_db >= NOISELESS_DB:
        whole = f"The scores of {name} are those of its float twin."
    else:
        whole = f"The scores of {name} lie {db(found.output_sqnr_db)} dB above their quantization noise."
    worst = found.worst_first[0]
    if worst.output_sqnr_db is None:
        return f"{whole} What single layers cost was not measured."
    cost = f"By itself {worst.label} ({worst.op}) costs most, {db(worst.output_sqnr_db)} dB"
    if not worst.rung:
        return f"{whole} {cost}, which is little."
    return f"{whole} {cost}: {worst.reason}. Try {worst.rung}: {ADVICE[worst.rung]}."


def db(value: float | None) -> str:
    """Write decibels.

    Example:
        >>> db(24.16), db(-2.85).replace(MINUS, "-"), db(200.0)
        ('24.2', '-2.9', 'exact')
    """
    if value is None:
        return NOT_MEASURED
    if value >= NOISELESS_DB:
        return "exact"
    return f"{value:.1f}".replace("-", MINUS)


def share(value: float | None) -> str:
    """Write a share in percent, small ones with the digits that tell them from none.

    Example:
        >>> share(0.5), share(0.00117), share(0.0)
        ('50 %', '0.12 %', '0 %')
    """
    if value is None:
        return NOT_MEASURED
    return f"{100 * value:.0f} %" if value >= 0.095 or not value else f"{100 * value:.2g} %"


def spread(value: float | None) -> str:
    """Write how many times one range is as large as another."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.3g}x" if value < 1000 else f"{value:,.0f}x"


def costly(layers: tuple[LayerFidelity, ...]) -> list[LayerFidelity]:
    """Choose the layers of which a rung is advised."""
    return [layer for layer in layers if layer.rung]


def to_json(report: FidelityReport) -> bytes:
    """Write the report for machines."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def to_markdown(report: FidelityReport) -> str:
    """Write the report for a terminal, a commit or a pull request."""
    return _render("fidelity.md.j2", report)


def to_html(report: FidelityReport) -> str:
    """Write the report for people: HTML that loads nothing from anywhere."""
    from edgecnn.measure import charts  # matplotlib takes half a second, and the Markdown needs none

    return _render("fidelity.html.j2", report, chart=charts.fidelity(report.fidelity.layers))


def _render(template: str, report: FidelityReport, **more: object) -> str:
    helpers = (db, share, spread, number, percent, size, costly)
    return template_of(template, helpers).render(report=report, advice=ADVICE, cheap_db=CHEAP_DB, **more)


def write(report: FidelityReport, folder: Path) -> Path:
    """Write ``fidelity.json``, ``fidelity.md`` and ``fidelity.html``, each whole or not at all.

    Returns:
        The path of ``fidelity.html``.

    Raises:
        DataError: If the folder cannot be written.
    """
    return write_files(
        {
            "fidelity.json": to_json(report),
            "fidelity.md": to_markdown(report).encode(),
            "fidelity.html": to_html(report).encode(),
        },
        folder,
    )
