"""The card of a model that ships: what it is, what it was made from, what was measured, where it fails."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

import jinja2

from edgecnn.bundle import flatbuffer
from edgecnn.bundle.file import Bundle
from edgecnn.bundle.layers import layers
from edgecnn.core.prediction import Head
from edgecnn.measure.latency import NOT_MEASURED
from edgecnn.measure.report import UNREST, number, signed, size
from edgecnn.targets import edgetpu, micro
from edgecnn.workstation.data.catalog import in_order
from edgecnn.workstation.data.generated import threshold_count
from edgecnn.workstation.failures import Failures
from edgecnn.workstation.recipe import Recipe, built_in, load, parse
from edgecnn.zoo.figures import Figure, Figures, share

DATA_NOTES: Final = {
    "mnist": "MNIST in the layout and order of Keras's own copy, lossless. Licence: CC BY-SA 3.0, as Keras "
    "states it. Some digits are ambiguous to people too.",
    "cifar10": "CIFAR-10 as a lossy JPEG copy (about 30 dB): figures on it compare with figures on it only, "
    "never with published ones. Licence: none stated; A. Krizhevsky, 2009.",
    "scenes": "Intel's natural scenes around the world, at 128 x 128; test is the official 3,000. Licence: "
    "research use. Label noise is real: glacier and mountain, buildings and street overlap; no "
    "model is expected much above 93 to 95 %.",
    "fire": "Photographs and frames of clips with fire, with smoke, and without; splits keep near-duplicates "
    "together. Most pictures without fire show scenery: what only looks like fire is rare in them and common "
    "in life. Boxes are loose. Licence: rights in most stills are unclear; none is published with edgecnn.",
    "fire_extra": "Further pictures for training only: burning cars and houses, nights, hearths; sunsets, "
    "lamps, rooms and people without fire. Licence: rights mostly unclear; none is published with edgecnn.",
    "stress": "Pictures that edgecnn renders itself by `edgecnn data render stress`: what only looks like "
    "fire, of kinds and with settings that no training saw, with a few fires and smoke.",
}
"""What is known about a set of pictures: origin, licence, noise; by its name without suffixes."""


def card(name: str, bundle: Bundle, figures: Figures, shown: Failures | None = None) -> str:
    """Write the card of a model, as Markdown.

    Args:
        name: What the zoo calls it.
        bundle: The model file; it has a manifest.
        figures: What was measured of it.
        shown: What rendered look-alikes it takes for fire or smoke; None for a model that knows neither.
    """
    manifest = bundle.manifest
    assert manifest is not None
    model = flatbuffer.parse(bundle.model)
    rows = layers(model)
    speed = figures.speed
    recipe = parse(manifest.provenance.recipe) if manifest.provenance.recipe else None
    names = dict.fromkeys((*figures.training.data, *(s.data for s in figures.sets if not s.left_out)))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgecnn", "workstation"),
        autoescape=False,  # it is Markdown
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        {f.__name__: f for f in (share, area, points, answers, number, size, duration)}
    )
    return environment.get_template("card.md.j2").render(
        name=name,
        manifest=manifest,
        figures=figures,
        size_bytes=bundle.size_bytes,
        flatbuffer_bytes=len(bundle.model),
        parameters=sum(row.parameters for row in rows),
        macs=None if any(row.macs is None for row in rows) else sum(row.macs or 0 for row in rows),
        edgetpu=edgetpu.predict(model),
        micro=micro.check(model, bundle.model),
        is_busy=speed is not None and speed.p90_ms > UNREST * speed.p50_ms,
        shown=shown,
        recipe=recipe,
        keeps_last=recipe is not None and recipe.train.keep == "last",
        splits=in_order(figures.training.pictures),
        lookalikes=threshold_count(recipe) if recipe else 0,
        recipe_name=_recipe_name(recipe),
        notes={
            data: DATA_NOTES.get(_stem(data), "Licence and noise: not known to edgecnn.") for data in names
        },
    )


def _stem(data: str) -> str:
    """Take the suffixes off.

    Example:
        >>> _stem("fire.tar.xz")
        'fire'
    """
    return PurePath(data).name.split(".")[0]


def _recipe_name(recipe: Recipe | None) -> str | None:
    """Find which recipe that ships with edgecnn this is, but for what was left out on the command line."""
    if recipe is None:
        return None
    same = (name for name in built_in() if load(name)[0].name == recipe.name)
    return next(same, None)


def area(found: Figure | None) -> str:
    """Write an area under a curve with its interval.

    Example:
        >>> area(Figure(0.99, 0.977, 0.996, 535))
        '0.990 (0.977 to 0.996)'
    """
    return NOT_MEASURED if found is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def points(found: Figure | None) -> str:
    """Write percentage points with their interval."""
    if found is None:
        return NOT_MEASURED
    return f"{signed(found.value)} pp ({signed(found.low)} to {signed(found.high)})"


def answers(head: Head) -> str:
    """Say what a head answers.

    Example:
        >>> answers(Head("scene", "softmax", ("sea", "street", "forest")))
        'one of sea, street, forest'
    """
    labels = ", ".join(head.labels)
    if head.kind == "heatmap":
        return f"where in the picture: {labels}"
    return f"one of {labels}" if head.kind == "softmax" or head.is_binary else f"each by itself: {labels}"


def duration(seconds: float) -> str:
    """Write a time for people.

    Example:
        >>> duration(95), duration(3700)
        ('2 min', '1 h 02 min')
    """
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
