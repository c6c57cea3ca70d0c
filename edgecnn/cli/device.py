"""``inspect``, ``predict`` and ``verify``: what a model file says, what it sees, whether to trust it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from edgecnn.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgecnn.bundle.file import Bundle
    from edgecnn.bundle.flatbuffer import Model, Tensor
    from edgecnn.bundle.layers import Layer
    from edgecnn.core.frame import Frame
    from edgecnn.core.prediction import Prediction
    from edgecnn.runtime.predictor import TflitePredictor

_VIDEOS: Final = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mjpeg", ".mjpg")
_SHOWN_LABELS: Final = 3
_TABLE_WIDTH: Final = 112


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("pictures", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Float file of the same network: see where accuracy goes.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Where 16 pictures for --against come from; else PICTURES.",
)
@click.option("--split", default="val", show_default=True, help="Of --data.")
@click.option(
    "--normalization",
    type=(float, float),
    metavar="MEAN STD",
    help="What a float file without a manifest eats: (byte - MEAN) / STD.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for a report of --against.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(
    file: Path,
    pictures: tuple[Path, ...],
    against: Path | None,
    data: Path | None,
    split: str,
    normalization: tuple[float, float] | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Print the layers, the metadata and the provenance of a model FILE.

    With --against, print what quantization does to each layer instead, the one that costs most first: on
    PICTURES, on --data, or on the few pictures that FILE brings.

    \b
    Example:
        edgecnn inspect fire.int8.tflite
        edgecnn inspect fire.int8.tflite --against fire.float32.tflite --data data/fire --out report/
    """
    from edgecnn.bundle import file as files
    from edgecnn.bundle import flatbuffer
    from edgecnn.bundle.layers import layers

    if against is None and (pictures or data or normalization or out):
        raise click.UsageError("PICTURES, --data, --normalization and --out belong to --against FILE.")
    if pictures and data:
        raise click.UsageError("Give PICTURES or --data, not both.")
    bundle = files.read(file)
    model = flatbuffer.parse(bundle.model)
    rows = layers(model)
    facts = _facts(bundle, model, rows) if as_json else {}
    if against:
        from edgecnn.cli import fidelity

        report = fidelity.measure(file, against, pictures, data, split, normalization)
        if out:
            click.echo(f"Report: {fidelity.write(report, out)}", err=True)
        facts |= {"fidelity": fidelity.facts(report)}
        if not as_json:
            fidelity.print_report(report)
    elif not as_json:
        _print_facts(bundle, model, rows)
    if as_json:
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))


def _facts(bundle: Bundle, model: Model, rows: tuple[Layer, ...]) -> dict[str, Any]:
    import msgspec

    return {
        "file": str(bundle.path),
        "sha256": bundle.sha256,
        "size_bytes": bundle.size_bytes,
        "parameters": sum(row.parameters for row in rows),
        "macs": _total_macs(rows),
        "layers": msgspec.to_builtins(rows),
        "inputs": [_tensor_facts(tensor) for tensor in model.inputs],
        "outputs": [_tensor_facts(tensor) for tensor in model.outputs],
        "metadata": msgspec.to_builtins(bundle.metadata),
        "labels": list(bundle.labels),
        "manifest": msgspec.to_builtins(bundle.manifest),
    }


def _total_macs(rows: Iterable[Layer]) -> int | None:
    """Add up; None where an operator hides its own."""
    macs = [row.macs for row in rows]
    return None if None in macs else sum(count for count in macs if count is not None)


def _tensor_facts(tensor: Tensor) -> dict[str, Any]:
    scales = tensor.quantization.scales
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "scale": scales[0] if len(scales) == 1 else list(scales) or None,
        "zero_point": tensor.quantization.zero_points[0] if len(scales) == 1 else None,
    }


def _print_facts(bundle: Bundle, model: Model, rows: tuple[Layer, ...]) -> None:
    from rich.console import Console

    # A row that is cut cannot be read, one that a narrow terminal wraps can.
    width = max(Console().width, _TABLE_WIDTH)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)
    console.print(_layer_table(rows))
    macs = _total_macs(rows)
    console.print(
        f"{len(rows)} operators, {sum(row.parameters for row in rows):,} parameters, "
        f"{'unknown' if macs is None else f'{macs:,}'} multiply-accumulates, {bundle.size_bytes:,} bytes"
    )
    for kind, tensors in (("Input", model.inputs), ("Output", model.outputs)):
        for tensor in tensors:
            console.print(f"{kind}: {_described(tensor)}")
    _print_metadata(console, bundle)
    _print_manifest(console, bundle)
    console.print(f"sha256 {bundle.sha256}")


def _layer_table(rows: tuple[Layer, ...]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for title in ("", "operator", "input", "output", "type"):
        table.add_column(title, justify="right" if not title else "left", no_wrap=True)
    for title in ("parameters", "MACs"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        macs = "?" if row.macs is None else f"{row.macs:,}"
        shapes = (_shape(row.input_shape), _shape(row.output_shape))
        table.add_row(str(row.index), row.op, *shapes, row.dtype, f"{row.parameters:,}", macs)
    return table


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _described(tensor: Tensor) -> str:
    text = f"{tensor.name}, {_shape(tensor.shape)}, {tensor.dtype}"
    quantization = tensor.quantization
    if len(quantization.scales) == 1:
        text += f", scale {quantization.scales[0]:.9g}, zero point {quantization.zero_points[0]}"
    return text


def _print_metadata(console: Console, bundle: Bundle) -> None:
    found = bundle.metadata
    if found is None:
        console.print("Metadata: none")
        return
    words = [("name", found.name), ("version", found.version), ("author", found.author)]
    words += [("licence", found.licence), ("description", found.description)]
    console.print("Metadata: " + "; ".join(f"{name} {value}" for name, value in words if value))
    if found.normalization:
        means, stds = found.normalization.mean, found.normalization.std
        console.print(f"Normalisation: mean {', '.join(map(str, means))}; std {', '.join(map(str, stds))}")


def _print_manifest(console: Console, bundle: Bundle) -> None:
    manifest = bundle.manifest
    if manifest is None:
        count = f"{len(bundle.labels)} labels" if bundle.labels else "no labels"
        console.print(f"Manifest: none, edgecnn did not make this file; {count}")
        return
    console.print(f"Model: {manifest.name}, {manifest.precision}, {manifest.input} ({manifest.input.resize})")
    for head in manifest.heads:
        console.print(f"Head: {head.name}, {head.kind}: {', '.join(head.labels)}")
    for label, score in manifest.thresholds.items():
        console.print(f"Threshold: {label} counts as seen from {score:g}")
    for label, points in manifest.operating_points.items():
        console.print(
            f"Operating points: {label} at {points.low_false_alarms:g} for at most 1 % false alarms, "
            f"at {points.high_recall:g} for at least 95 % recall, on val"
        )
    for found in manifest.measured:
        console.print(
            f"Measured: {found.head} {found.metric} {found.value:.4f} "
            f"({found.low:.4f} to {found.high:.4f}) on {found.count} pictures, {found.data}"
        )
    made_from = manifest.provenance
    digests = {
        "weights": made_from.parent_sha256,
        "data": made_from.data_sha256,
        "calibration": made_from.calibration_sha256,
    }
    for name, digest in digests.items():
        console.print(f"Provenance: {name} {digest or 'not known'}")
    tools = ", ".join(f"{name} {version}" for name, version in sorted(made_from.tools.items()))
    console.print(f"Provenance: made with {tools or 'tools not known'}")
    for options in made_from.pruned:
        console.print(f"Provenance: pruned by 'edgecnn prune {options}'")
    if made_from.recipe:
        console.print(f"Recipe:\n{made_from.recipe.rstrip()}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--labels", type=click.Path(path_type=Path), help="Of a file that names none: its labels, one a line."
)
@click.option(
    "--normalization",
    nargs=2,
    type=float,
    metavar="MEAN STD",
    help="Of a file that does not say it: the network reads (byte - MEAN) / STD.",
)
@click.option("--threads", type=click.IntRange(1, 64), help="Default: all cores, up to 4.")
@click.option("--delegate", help="'edgetpu', or the path of a delegate's library.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def predict(
    file: Path,
    paths: tuple[Path, ...],
    labels: Path | None,
    normalization: tuple[float, float] | None,
    threads: int | None,
    delegate: str | None,
    as_json: bool,
) -> None:
    """Name what the model FILE sees in pictures, folders and clips.

    \b
    Example:
        edgecnn predict fire.int8.tflite photo.jpg clips/
    """
    from edgecnn.runtime.predictor import load, verify_golden

    model = load(file, labels, threads, delegate, normalization)
    if delegate is None:
        verify_golden(model)
    for note in model.notes:
        click.echo(f"Note: {note}", err=True)
    failed_count = sum(not _predict_file(model, path, as_json) for path in _files(paths))
    if failed_count:
        raise DataError(
            f"Files that could not be read: {failed_count}, named above.", fix="Remove or replace them."
        )


def _predict_file(model: TflitePredictor, path: Path, as_json: bool) -> bool:
    """Predict what is in one file; a bad one is named, so that the rest can go on.

    Returns:
        Whether it could be read.
    """
    from edgecnn.runtime.clip import frames

    line = _json_line if as_json else _text_line
    is_clip = path.suffix.lower() in _VIDEOS
    try:
        for frame in frames(path) if is_clip else _picture(path):
            click.echo(line(model, frame, model.predict(frame), is_clip))
    except DataError as error:
        click.echo(f"Error: {error.message}\nFix: {error.fix}", err=True)
        return False
    return True


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """Give what was named, and of a folder all pictures and clips in it, sorted."""
    from edgecnn.workstation.data.images import PICTURE_SUFFIXES

    suffixes = PICTURE_SUFFIXES.union(_VIDEOS)
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
        if not found:
            raise DataError(
                f"The folder '{path}' holds no picture and no clip.",
                fix=f"Give files that end in one of {' '.join(sorted(suffixes))}.",
            )
        yield from found


def _picture(path: Path) -> Iterator[Frame]:
    from edgecnn.core.frame import Frame
    from edgecnn.workstation.data.images import read_picture

    yield Frame(read_picture(path), 0.0, 0, str(path))


def _json_line(model: TflitePredictor, frame: Frame, prediction: Prediction, is_clip: bool) -> str:
    line: dict[str, Any] = {
        "file": frame.source_id,
        "heads": prediction.by_label(model.heads),
        "invoke_ms": prediction.times.invoke_ms,
    }
    if is_clip:
        line |= {"frame": frame.index, "at_s": frame.captured_at_s}
    return json.dumps(line, ensure_ascii=False)


def _text_line(model: TflitePredictor, frame: Frame, prediction: Prediction, is_clip: bool) -> str:
    answers = []
    for head, scores in prediction.by_label(model.heads).items():
        best = sorted(scores.items(), key=lambda item: item[1], reverse=True)[:_SHOWN_LABELS]
        text = ", ".join(f"{label} {score:.3f}" for label, score in best)
        answers.append(text if len(model.heads) == 1 else f"{head}: {text}")
    when = f" at {frame.captured_at_s:.2f} s" if is_clip else ""
    return f"{frame.source_id}{when}: {'; '.join(answers)} ({prediction.times.invoke_ms:.1f} ms)"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), help="A watch.toml that watches with FILE.")
@click.option(
    "--trust",
    type=click.Path(path_type=Path),
    help="A public key, or a folder of them: one must have signed.",
)
@click.option("--frame", is_flag=True, help="Take one frame from the source of --config, and look at it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(file: Path, config: Path | None, trust: Path | None, frame: bool, as_json: bool) -> None:
    """Find out whether the model FILE can be trusted on this machine.

    Its digest, its signature, its recorded pictures replayed by this machine's interpreter, and the
    configuration that watches with it.

    \b
    Example:
        edgecnn verify fire.int8.tflite --config watch.toml --frame
    """
    import msgspec

    from edgecnn.runtime.predictor import agreement
    from edgecnn.watch.trial import prove

    if frame and config is None:
        raise click.UsageError("--frame needs the camera that a --config names.")
    proof = prove(file, config, trust, frame)
    if as_json:
        click.echo(msgspec.json.encode(proof))
        return
    how = agreement(proof.tolerance, proof.tolerance_codes)
    click.echo(f"{file.name}: {proof.name}, {proof.precision}, sha256 {proof.sha256}")
    click.echo(f"Recorded pictures: {proof.golden_count}, {how} ({proof.runtime})")
    if proof.fault:
        click.echo(f"On the CPU: {proof.fault}")
    if proof.signer:
        click.echo(f"Signed by {proof.signer}, version {proof.version}")
    if proof.frame:
        click.echo(
            f"One frame: {proof.frame.width_px} x {proof.frame.height_px}, {proof.frame.invoke_ms:.1f} ms"
        )
