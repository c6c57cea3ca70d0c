"""Write the table of docs/models.md from the models that ship: ``python tests/models_page.py``."""

from __future__ import annotations

import re
from pathlib import Path

from edgecnn.measure.latency import NOT_MEASURED, ms
from edgecnn.measure.report import size
from edgecnn.workstation.card import answers, points
from edgecnn.zoo.figures import share
from edgecnn.zoo.shelf import Resident, models

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
_TABLE = re.compile(r"(?s)(?<=<!-- table -->\n).*?(?=<!-- end of the table -->)")


def page(text: str) -> str:
    """Give the page as it should be: the table anew, the rest as it is."""
    return _TABLE.sub(lambda _: table(models()), text)


def table(residents: tuple[Resident, ...]) -> str:
    """Write a row for each answer on each set of pictures."""
    head = (
        "| model | answer | input | size | on | right (95 %) | lost from float | p50 int8 (float32) |\n"
        "|---|---|---|---:|---|---:|---:|---:|\n"
    )
    return head + "".join(row for resident in residents for row in _rows(resident))


def _rows(resident: Resident) -> list[str]:
    figures, manifest = resident.figures, resident.manifest
    told = {head.name: f"{head.name}: {answers(head)}" for head in manifest.heads}
    speed = figures.speed
    times = f"{ms(speed.p50_ms)} ({ms(speed.float_p50_ms)})" if speed else NOT_MEASURED
    card = f"[`{resident.name}`](../edgecnn/zoo/{resident.name}/card.md)"
    return [
        f"| {card} | {told[found.head]} | {manifest.input} | {size(resident.size_bytes)} "
        f"| {pictures.count:,} of {pictures.data}, {pictures.split} | {share(found.accuracy)} "
        f"| {points(found.drop)} | {times} |\n"
        for pictures in figures.sets
        if not pictures.left_out
        for found in pictures.heads
    ]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
