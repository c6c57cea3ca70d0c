"""The pictures that a bench measures on, and how far it is with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgecnn.bundle.manifest import Manifest
    from edgecnn.measure.bench import Pictures, Progress
    from edgecnn.runtime.predictor import TflitePredictor
    from edgecnn.workstation.data.catalog import Dataset


def pictures_for(
    models: Sequence[TflitePredictor],
    data: Sequence[Path],
    split: str,
    clips: bool = False,
    only: tuple[str, ...] = (),
) -> Pictures:
    """Open the data with the classes that the models were trained on, and take one split of it, or a part."""
    from edgecnn.errors import DataError
    from edgecnn.measure.bench import Pictures
    from edgecnn.workstation.data.boxes import boxes_of, clips_of
    from edgecnn.workstation.data.catalog import LEFT_OUT, is_named_like, open_dataset
    from edgecnn.workstation.data.picture import UNSPLIT

    manifests = [model.manifest for model in models if model.manifest]
    leave_out = _left_out_of(manifests[0]) if split == LEFT_OUT and manifests else ()
    # Several heads see several labels in one folder.
    by_folder = any(m.manifest and (m.manifest.negatives or len(m.heads) > 1) for m in models)
    dataset = open_dataset(data, None if by_folder else _classes(models), leave_out=leave_out)
    if dataset.drawn_from == UNSPLIT or (dataset.drawn_from and split != "test"):
        _warn_of_other_splits(models, dataset, split)
    items = tuple(one for one in dataset.split(split) if not only or is_named_like(one, only))
    if not items:
        raise DataError(
            f"No picture of '{dataset.name}', {split}, is named like {' or '.join(only)}.",
            fix="Correct --only.",
        )
    has_heatmap = any(head.kind == "heatmap" for model in models for head in model.heads)
    boxes = {path: boxed.shares() for path, boxed in boxes_of(items).items()} if has_heatmap else {}
    watched = clips_of(items, split, dataset.name) if clips else ()
    return Pictures(dataset.name, split, items, by_folder, boxes, watched, only)


def _warn_of_other_splits(models: Sequence[TflitePredictor], dataset: Dataset, split: str) -> None:
    from edgecnn.workstation.data.catalog import is_named_like

    @cache  # a digest reads every picture, and models that are compared mostly left out the same
    def digest_without(globs: tuple[str, ...]) -> str:
        kept = tuple(picture for picture in dataset.pictures if not is_named_like(picture, globs))
        return replace(dataset, pictures=kept).digest()

    others = sorted(
        model.path.name
        for model in models
        if model.manifest
        and model.manifest.provenance.data_sha256
        and model.manifest.provenance.data_sha256 != digest_without(_left_out_of(model.manifest))
    )
    if others:
        click.echo(
            f"Note: '{dataset.name}' has no {split} of its own, and {', '.join(others)} learned from other "
            f"pictures, or from more: what is drawn as {split} here may have been in train there. To measure "
            "on what it never saw, give all the --data that it was trained on.",
            err=True,
        )


def _left_out_of(manifest: Manifest) -> tuple[str, ...]:
    """Give the globs of the pictures that a model neither learned from nor was chosen by."""
    from edgecnn.workstation.recipe import parse

    recipe = manifest.provenance.recipe
    return tuple(parse(recipe).leave_out) if recipe else ()


def _classes(models: Sequence[TflitePredictor]) -> Mapping[str, tuple[str, ...]] | None:
    """Take the folders of each label from the first manifest that names them; all must agree."""
    from edgecnn.errors import DataError

    named = [
        (model, dict(model.manifest.classes)) for model in models if model.manifest and model.manifest.classes
    ]
    for model, classes in named[1:]:
        if classes != named[0][1]:
            raise DataError(
                f"'{named[0][0].path.name}' and '{model.path.name}' were trained with different classes: "
                f"{_listed(named[0][1])}; and {_listed(classes)}.",
                fix="Bench each of them alone, or compare models of the same classes.",
            )
    return named[0][1] if named else None


def _listed(classes: Mapping[str, tuple[str, ...]]) -> str:
    return ", ".join(f"{label} = {' + '.join(folders)}" for label, folders in classes.items())


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Show one bar a step, on a terminal only, and only so often that the measuring does not feel it."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    with Bars(console=console, transient=True, auto_refresh=False, disable=not console.is_terminal) as bars:
        tasks = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            if done == total or done % max(1, total // 50) == 0:
                bars.update(tasks[what], completed=done, refresh=True)

        yield show
