"""What ``inspect --against`` does: two files, the same pictures, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgecnn.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from edgecnn.core.frame import InputSpec
    from edgecnn.measure.fidelity import Fidelity
    from edgecnn.measure.fidelity_report import FidelityReport
    from edgecnn.runtime.predictor import TflitePredictor

_WIDTH: Final = 200
_PICTURES: Final = 16
"""Taken evenly from a split. Thousands of values of each layer in each picture make its noise certain; what
more pictures would add are rarer outliers."""


def measure(
    file: Path,
    against: Path,
    paths: Sequence[Path],
    data: Path | None,
    split: str,
    normalization: tuple[float, float] | None,
) -> FidelityReport:
    """Hold a quantized file against its float twin on pictures of the user's, or on those it brings.

    Raises:
        DataError: If there are no pictures, or the files do not eat the same.
        BundleError: If a file is damaged or does not say what it eats.
    """
    from datetime import datetime, timezone

    import numpy as np

    from edgecnn import __version__
    from edgecnn.bundle import file as files
    from edgecnn.bundle import flatbuffer
    from edgecnn.measure import fidelity
    from edgecnn.measure import fidelity_report as reports
    from edgecnn.runtime import predictor

    bundles = [files.read(path) for path in (file, against)]
    # A normalisation is for files that bring none and eat no bytes; where there is none, it is refused.
    are_foreign = [
        bundle.manifest is None and all(t.dtype != "uint8" for t in flatbuffer.parse(bundle.model).inputs)
        for bundle in bundles
    ]
    models = [
        predictor.load(path, threads=1, normalization=normalization if own or not any(are_foreign) else None)
        for path, own in zip((file, against), are_foreign, strict=True)
    ]
    if models[0].input != models[1].input:
        raise DataError(
            f"'{file.name}' eats {models[0].input}, '{against.name}' {models[1].input}.",
            fix="Give the float file that was converted from the same network.",
        )
    codes, pictures = _pictures(models, paths, data, split)
    found = fidelity.compare(
        bundles[0].model,
        bundles[1].model,
        [np.stack([models[0].fed(row) for row in codes])],
        [np.stack([models[1].fed(row) for row in codes])],
    )
    ours, theirs = (reports.FileFacts(m.path.name, m.sha256, m.precision, m.size_bytes) for m in models)
    return reports.FidelityReport(
        reports.verdict(file.name, found),
        ours,
        theirs,
        pictures,
        found,
        models[0].interpreter.runtime,
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        __version__,
    )


def _pictures(
    models: Sequence[TflitePredictor], paths: Sequence[Path], data: Path | None, split: str
) -> tuple[NDArray[np.uint8], str]:
    """Read the pictures as the models see them, and say in words which they are."""
    from edgecnn.workstation.data.images import read_picture

    spec = models[0].input
    if data is not None:
        from edgecnn.workstation.data.catalog import open_dataset

        dataset = open_dataset(data)
        items = dataset.split(split)
        count = min(_PICTURES, len(items))
        chosen = [items[number * len(items) // count] for number in range(count)]
        return _seen(
            [item.read() for item in chosen], spec
        ), f"{len(chosen)} pictures of {dataset.name}, {split}"
    if paths:
        return _seen([read_picture(path) for path in paths], spec), _counted(
            len(paths), "picture given by name"
        )
    golden = next((model.golden for model in models if model.golden is not None), None)
    if golden is None:
        raise DataError(
            f"Neither '{models[0].path.name}' nor '{models[1].path.name}' brings pictures to look at.",
            fix="Name some pictures, or give --data PATH.",
        )
    return golden.inputs, f"the {len(golden.inputs)} drawn pictures that the file brings; real ones tell more"


def _seen(pictures: Sequence[NDArray[np.uint8]], spec: InputSpec) -> NDArray[np.uint8]:
    import numpy as np

    from edgecnn.core.frame import resize

    return np.stack([resize(pixels, spec) for pixels in pictures])


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what.replace('picture', 'pictures', 1)}"


def write(report: FidelityReport, folder: Path) -> Path:
    """Write the report; give where it lies."""
    from edgecnn.measure import fidelity_report

    return fidelity_report.write(report, folder)


def facts(report: FidelityReport) -> dict[str, Any]:
    """Give what ``--json`` shows."""
    import msgspec

    report_facts: dict[str, Any] = msgspec.to_builtins(report)
    layer_facts: dict[str, Any] = report_facts.pop("fidelity")
    return report_facts | layer_facts


def print_report(report: FidelityReport) -> None:
    """Print the table, worst first, what could not be paired, and the verdict."""
    from rich.console import Console

    # A row that is cut cannot be read, one that a narrow terminal wraps can.
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=_WIDTH)
    console.print(_table(report.fidelity))
    for item in report.fidelity.unpaired:
        name = (report.model if item.file == "model" else report.against).file
        console.print(
            f"Without a counterpart, measured with the layer behind it: {item.op} {item.index} of {name}"
        )
    console.print(f"On {report.pictures}; {report.runtime}")
    console.print(report.verdict)


def _table(found: Fidelity) -> Table:
    """Put the layers below one another, the one that costs most first."""
    from rich import box
    from rich.table import Table

    from edgecnn.measure.fidelity_report import db, share

    shown = Table(box=box.SIMPLE)
    for title in ("", "operator", "name"):
        shown.add_column(title, justify="right" if not title else "left", no_wrap=True)
    for title in (
        "alone, at\nthe scores",
        "alone\n(dB)",
        "all quan-\ntized (dB)",
        "cosine",
        "range\nused",
        "clipped",
    ):
        shown.add_column(title, justify="right", no_wrap=True)
    shown.add_column("try", no_wrap=True)
    shown.add_column("because", no_wrap=True)
    for layer in found.worst_first:
        shown.add_row(
            str(layer.index),
            layer.op,
            layer.label,
            db(layer.output_sqnr_db),
            db(layer.own_sqnr_db),
            db(layer.sqnr_db),
            f"{layer.cosine:.4f}",
            share(layer.range_used),
            share(layer.clipped),
            layer.rung,
            layer.reason,
        )
    return shown
