"""The commands that make models: train, prune, convert, demo."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from edgecnn.bundle.manifest import Precision
    from edgecnn.targets.graph import Target
    from edgecnn.workstation.budget import Kept
    from edgecnn.workstation.channels.allocation import Cost
    from edgecnn.workstation.channels.shrink import Shrunk
    from edgecnn.workstation.cluster import Clustered
    from edgecnn.workstation.data.catalog import Dataset
    from edgecnn.workstation.train import Progress

_OF_CHANNELS = {
    "cost": "--cost",
    "distil": "--no-distil",
    "learning_rate": "--learning-rate",
    "resume": "--resume",
}
"""Options of ``prune`` by parameter that only a cut of channels reads."""

DATA_HELP = "Folder, .tar[.gz|.xz], .zip or .npz with <split>/<class>/* or <class>/*."

boxes_option = click.option(
    "--boxes", multiple=True, type=click.Path(path_type=Path),
    help="COCO file that says where pictures show something, by the end of their paths.",
)  # fmt: skip


@click.command()
@click.argument("recipe")
@click.option(
    "--data", required=True, multiple=True, type=click.Path(path_type=Path),
    help=DATA_HELP + " May be repeated.",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the model.")
@click.option(
    "--init", metavar="FILE|imagenet", help="Weights to start from: .h5, .keras, .tflite or imagenet."
)
@click.option("--epochs", type=click.IntRange(0), help="Instead of the recipe's.")
@click.option(
    "--teacher", multiple=True, type=click.Path(path_type=Path),
    help="A model.h5 or .tflite to learn from as well; of several, the mean answer.",
)  # fmt: skip
@click.option(
    "--average", multiple=True, type=click.Path(path_type=Path),
    help="Another run's model.h5, from the same --init: the model is the mean of their weights.",
)  # fmt: skip
@click.option(
    "--leave-out", multiple=True, metavar="GLOB",
    help="File names to leave out of train and val; they become the split left_out.",
)  # fmt: skip
@boxes_option
@click.option("--resume", is_flag=True, help="Go on with the run that was stopped in --out.")
def train(
    recipe: str,
    data: tuple[Path, ...],
    out: Path,
    init: str | None,
    epochs: int | None,
    teacher: tuple[Path, ...],
    average: tuple[Path, ...],
    leave_out: tuple[str, ...],
    boxes: tuple[Path, ...],
    resume: bool,
) -> None:
    """Train the network of a recipe on pictures.

    RECIPE is a .toml file, or the name of one that ships with edgecnn.

    \b
    Example:
        edgecnn train scenes --data data/scenes --init imagenet --out out/scenes
    """
    from edgecnn.workstation import recipe as recipes
    from edgecnn.workstation.data.catalog import open_dataset

    chosen, text = recipes.load(recipe)
    if epochs is not None:
        chosen, text = recipes.with_epochs(chosen, text, epochs)
    chosen, text = recipes.with_leave_out(chosen, text, leave_out)
    dataset = open_dataset(data, recipes.folders_of(chosen), leave_out=chosen.leave_out, boxes=boxes)
    _tell_boxes(dataset)
    from edgecnn.workstation.train import train as run

    with progress_bar() as progress:
        trained = run(chosen, text, dataset, out, init, resume, progress, teachers=teacher, averaged=average)
    whose = "of the mean" if average else f"at epoch {trained.card.best_epoch}"
    click.echo(
        f"{trained.path}: val accuracy {100 * trained.card.val_top1:.2f} % {whose}, "
        f"{trained.card.seconds:.0f} s, curve in {out / 'curve.svg'}"
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data", required=True, multiple=True, type=click.Path(path_type=Path),
    help=DATA_HELP + " May be repeated.",
)  # fmt: skip
@boxes_option
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The .h5 to write.")
@click.option("--sparsity", type=float, help="Share of the weights that become zero: smaller after gzip.")
@click.option("--channels", type=float, help="Share of the cost that goes with whole channels: faster.")
@click.option("--clusters", type=int, help="Different values left in each kernel: smaller after gzip.")
@click.option(
    "--cost", type=click.Choice(["macs", "parameters"]), default="macs", show_default=True,
    help="What --channels counts: multiplications, or weights.",
)  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), help="Of fine-tuning.  [default: 2; with --channels 8]")
@click.option(
    "--distil/--no-distil", default=True, show_default=True,
    help="With --channels: learn from MODEL's answers too.",
)  # fmt: skip
@click.option("--learning-rate", type=float, help="With --channels: instead of the recipe's.")
@click.option("--resume", is_flag=True, help="With --channels: go on with a pruning that was killed.")
def prune(
    model: Path,
    data: tuple[Path, ...],
    boxes: tuple[Path, ...],
    out: Path,
    sparsity: float | None,
    channels: float | None,
    clusters: int | None,
    cost: str,
    epochs: int | None,
    distil: bool,
    learning_rate: float | None,
    resume: bool,
) -> None:
    """Take the least useful weights or channels out, and fine-tune the rest.

    --channels removes whole channels: what remains is an ordinary smaller model, and faster. --sparsity
    sets single weights to zero, --clusters lets weights share values: both are for storage. Give exactly
    one; one after the other, in this order, is possible.

    \b
    Example:
        edgecnn prune out/digits/model.h5 --data mnist.npz --sparsity 0.8 --out out/digits/pruned.h5
        edgecnn prune out/scenes/model.h5 --data data/scenes --channels 0.6 --out out/scenes/small.h5
    """
    if [sparsity, channels, clusters].count(None) != 2:
        raise click.UsageError("Give exactly one of --sparsity, --channels and --clusters.")
    source_of = click.get_current_context().get_parameter_source
    for name, option in _OF_CHANNELS.items():
        if channels is None and source_of(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{option} goes with --channels.")
    from edgecnn.workstation import prune as room
    from edgecnn.workstation.channels.shrink import shrink
    from edgecnn.workstation.cluster import cluster

    dataset = _open_data(model, data, boxes)
    with progress_bar() as progress:
        if channels is not None:
            _print_widths(
                shrink(
                    model,
                    dataset,
                    out,
                    channels,
                    epochs or 8,
                    cast("Cost", cost),
                    distil,
                    learning_rate,
                    progress,
                    resume,
                )
            )
        elif sparsity is not None:
            _print_sparsity(room.prune(model, dataset, out, sparsity, epochs or 2, progress))
        elif clusters is not None:
            _print_values(cluster(model, dataset, out, clusters, epochs or 2, progress))


def _open_data(model: Path, data: tuple[Path, ...], boxes: tuple[Path, ...]) -> Dataset:
    from edgecnn.workstation.prune import open_data_of

    dataset = open_data_of(model, data, boxes)
    _tell_boxes(dataset)
    return dataset


def _tell_boxes(dataset: Dataset) -> None:
    for file in dataset.boxes:
        lacking = f"; it names {len(file.unknown):,} that the data lack" if file.unknown else ""
        click.echo(f"{file.name}: boxes of {file.picture_count:,} pictures{lacking}", err=True)


def _print_widths(shrunk: Shrunk) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("layer", "channels before", "after", "left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in shrunk.layers:
        table.add_row(row.layer, str(row.before), str(row.after), f"{100 * row.after / row.before:.0f} %")
    Console().print(table)
    before, after = shrunk.before, shrunk.after
    click.echo(
        f"{shrunk.path}: val accuracy {100 * after.val_top1:.2f} % (before: {100 * before.val_top1:.2f} %), "
        f"{after.macs:,} MACs (before: {before.macs:,}), "
        f"{after.parameters:,} parameters (before: {before.parameters:,})"
    )


def _print_values(clustered: Clustered) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("layer", "weights", "values")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in clustered.layers:
        table.add_row(row.layer, f"{row.weight_count:,}", str(row.value_count))
    Console().print(table)
    click.echo(
        f"{clustered.path}: val accuracy {100 * clustered.val_top1:.2f} % "
        f"(before: {100 * clustered.parent_val_top1:.2f} %), {clustered.gzip_bytes:,} bytes after gzip "
        f"(before: {clustered.parent_gzip_bytes:,})"
    )


def _print_sparsity(pruned: object) -> None:
    from rich.console import Console
    from rich.table import Table

    from edgecnn.workstation.prune import Pruned

    assert isinstance(pruned, Pruned)
    table = Table("layer", "weights", "zero", "sparsity")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in pruned.layers:
        table.add_row(row.layer, f"{row.weight_count:,}", f"{row.zero_count:,}", f"{100 * row.share:.1f} %")
    Console().print(table)
    click.echo(
        f"{pruned.path}: val accuracy {100 * pruned.val_top1:.2f} % "
        f"(before: {100 * pruned.parent_val_top1:.2f} %), {pruned.size_bytes:,} bytes, "
        f"{pruned.gzip_bytes:,} after gzip (before: {pruned.parent_gzip_bytes:,})"
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The .tflite to write.")
@click.option(
    "--data", multiple=True, type=click.Path(path_type=Path),
    help=DATA_HELP + " May be repeated. Needed for int8 and int16x8.",
)  # fmt: skip
@boxes_option
@click.option(
    "--calibration", type=click.Path(path_type=Path),
    help="List of training pictures, '<sha256>  <path>' a line; if left out, drawn and written beside --out.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["int8", "int16x8", "float16", "float32"]),
    default="int8", show_default=True,
    help="What weights and activations become.",
)  # fmt: skip
@click.option(
    "--target", type=click.Choice(["cpu", "edgetpu", "micro"]), default="cpu", show_default=True,
    help="What is to run it: an Edge TPU gets a compiled file too, a microcontroller C source.",
)  # fmt: skip
@click.option(
    "--qat-epochs", type=click.IntRange(0), default=0, show_default=True,
    help="Epochs of quantization-aware fine-tuning first; a pruned model keeps its zeros.",
)  # fmt: skip
@click.option(
    "--max-drop", type=float, metavar="PP",
    help="Percentage points that int8 may cost on val, by the upper end of the interval: "
    "better and slower ways are tried until it holds; exit code 3 if none does.",
)  # fmt: skip
@click.option(
    "--metric", default="top1", show_default=True, metavar="[NAME:]top1|[NAME:]recall@fpr=RATE",
    help="What --max-drop counts; NAME is a head, or a label of a sigmoid.",
)  # fmt: skip
@click.option(
    "--labels", type=click.Path(path_type=Path), help="One label a line, for a model made elsewhere."
)
@click.option(
    "--normalization", type=(float, float), metavar="MEAN STD",
    help="Of (byte - MEAN) / STD, for a model made elsewhere that does not normalise by itself.",
)  # fmt: skip
@click.option("--sign", "key", type=click.Path(path_type=Path), help="Private key of 'edgecnn keys new'.")
def convert(
    model: Path,
    out: Path,
    data: tuple[Path, ...],
    boxes: tuple[Path, ...],
    calibration: Path | None,
    precision: str,
    target: str,
    qat_epochs: int,
    max_drop: float | None,
    metric: str,
    labels: Path | None,
    normalization: tuple[float, float] | None,
    key: Path | None,
) -> None:
    """Convert a Keras model into one self-describing .tflite file, and check it against its parent.

    \b
    Example:
        edgecnn convert out/scenes/model.h5 --data data/scenes --out scenes.int8.tflite
        edgecnn convert out/scenes/model.h5 --data data/scenes --max-drop 1 --out scenes.int8.tflite
    """
    from edgecnn.bundle import file as files
    from edgecnn.bundle import signature
    from edgecnn.cli.targets import print_check
    from edgecnn.workstation import convert as room
    from edgecnn.workstation.subject import read_labels

    if key is not None:
        signature.read_private(key)  # a wrong one is told before the work, not after it
    if boxes and not data:
        raise click.UsageError("--boxes goes with --data.")
    dataset = _open_data(model, data, boxes) if data else None
    names = read_labels(labels) if labels else None
    chosen = cast("Precision", precision)
    with progress_bar() as progress:
        made = room.convert(
            model,
            out,
            chosen,
            dataset,
            calibration,
            qat_epochs,
            names,
            normalization,
            progress,
            target=cast("Target", target),
            max_drop_pp=max_drop,
            metric=metric,
        )
    bundle = made.bundle
    if key is not None:
        _sign((bundle.path, *made.beside), key)
        bundle = files.read(bundle.path)
    click.echo(f"{bundle.path}: {bundle.size_bytes:,} bytes, sha256 {bundle.sha256}")
    if key is not None:
        click.echo(f"Signed with {key}, version {signature.version(bundle.path)}")
    for path in made.beside:
        click.echo(f"{path}: for the target '{target}'")
    if target != "cpu":
        print_check(made.fit.check)
    if made.calibration:
        click.echo(f"{made.calibration}: the calibration list that was drawn")
    for check in made.checks:
        own = check.file_top1
        head = f", {own.head} ({own.metric})" if len(made.checks) > 1 else ""
        click.echo(
            f"On {own.count} val pictures{head}: {100 * own.value:.2f} % "
            f"(95 % interval {100 * own.low:.2f} to {100 * own.high:.2f}); "
            f"the model that it was made from {100 * check.parent_top1:.2f} %; "
            f"drop {check.drop.drop_pp:+.2f} pp ({check.drop.low_pp:+.2f} to {check.drop.high_pp:+.2f})"
        )
    if made.kept:
        _print_ladder(made.kept, bundle.path)


def _sign(paths: tuple[Path, ...], key: Path) -> None:
    """Sign the model files among some files, all with one version; a device checks no C source."""
    from edgecnn.bundle import signature

    version = signature.version_at(datetime.now(timezone.utc))
    for path in paths:
        if path.suffix == ".tflite":
            signature.sign(path, key, version)


def _print_ladder(kept: Kept, path: Path) -> None:
    """Print what each rung cost; raise if none held."""
    from rich.console import Console
    from rich.table import Table

    from edgecnn.errors import CheckFailed

    climb, final, metric = kept.climb, kept.final, kept.budget.metric
    table = Table("rung", f"drop of {metric}, pp", "95 % on val", "made in", "bytes", "p50")
    for column in table.columns[1:]:
        column.justify = "right"
    for rung in climb.rungs:
        held = rung is climb.best and climb.has_held
        ratio = f"{rung.p50_ms / climb.rungs[0].p50_ms:.2f}x" if rung.p50_ms and climb.rungs[0].p50_ms else ""
        table.add_row(
            f"{rung.name} (held)" if held else rung.name,
            f"{rung.drop.drop_pp:+.2f}",
            f"{rung.drop.low_pp:+.2f} to {rung.drop.high_pp:+.2f}",
            f"{rung.seconds:.1f} s",
            f"{len(rung.flat):,}",
            ratio,
        )
    Console().print(table)
    if final:
        own, drop = final.file, final.drop
        click.echo(
            f"On {own.count} test pictures, {own.metric}: {100 * own.value:.2f} % "
            f"(95 % interval {100 * own.low:.2f} to {100 * own.high:.2f}); "
            f"the model that it was made from {100 * final.parent:.2f} %; "
            f"drop {drop.drop_pp:+.2f} pp ({drop.low_pp:+.2f} to {drop.high_pp:+.2f})"
        )
    if not climb.has_held:
        raise CheckFailed(
            f"No rung keeps {metric} within {climb.budget_pp:g} pp; the best, {climb.best.name}, "
            f"is in '{path}': its drop is at most {climb.best.drop.high_pp:+.2f} pp.",
            fix="Take more val pictures, which narrow the interval; allow a larger --max-drop; or give "
            "--qat-epochs a larger number.",
        )


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
def demo(out: Path) -> None:
    """Run the whole chain on pictures that edgecnn renders itself.

    \b
    Example:
        edgecnn demo --out out/demo
    """
    from edgecnn.cli.measure import print_report
    from edgecnn.workstation.demo import demo as run

    with progress_bar() as progress:
        result = run(out, progress)
    print_report(result.report, result.html)
    alarm = next(e for e in result.events if e.kind == "started")
    click.echo(
        f"The clip's fire starts at {result.ignites_at_s:.1f} s; "
        f"the alarm started at {alarm.at_s:.1f} s with a score of {alarm.score:.2f}."
    )
    seconds = sum(result.stages.values())
    click.echo(
        f"All of it took {seconds:.0f} s: " + ", ".join(f"{k} {v:.0f}" for k, v in result.stages.items())
    )


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a bar with the time left on a terminal, and one line an epoch anywhere."""
    import rich
    import rich.progress

    from edgecnn.workstation.checkpoint import Epoch
    from edgecnn.workstation.train import Progress

    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    terminal = rich.get_console().is_terminal
    with rich.progress.Progress(*columns, transient=True, disable=not terminal) as bar:
        task = bar.add_task("Starting", total=None)

        def on_step(epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
            done, total = (epoch - 1) * steps + step, epochs * steps
            bar.update(
                task, description=f"Epoch {epoch} of {epochs}, loss {loss:.3f}", completed=done, total=total
            )

        def on_note(text: str) -> None:
            bar.console.print(text, highlight=False, soft_wrap=True)

        def on_epoch(row: Epoch) -> None:
            name = f"epoch {row.number}" if row.number else "head on the frozen trunk"
            on_note(
                f"{name}: loss {row.loss:.4f}, val loss {row.val_loss:.4f}, "
                f"val accuracy {100 * row.val_top1:.2f} %, {row.seconds:.0f} s, "
                f"{100 * row.waiting_share:.1f} % of it waiting for pictures"
            )

        yield Progress(on_step, on_epoch, on_note)
