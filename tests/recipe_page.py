"""Write the keys of docs/recipes.md from the docstrings of the recipe: ``python tests/recipe_page.py``."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from edgecnn.core.frame import InputSpec
from edgecnn.workstation import recipe

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
_KEYS = re.compile(r"(?s)(?<=<!-- keys -->\n).*?(?=<!-- end of the keys -->)")
_ATTRIBUTE = re.compile(r"(?s)(\w+): (.*)")
_TABLES: dict[str, type[Any]] = {
    "": recipe.Recipe,
    "input": InputSpec,
    "model": recipe.ModelSpec,
    "model.layers": recipe.Layer,
    "heads": recipe.HeadSpec,
    "lookalikes": recipe.Lookalikes,
    "pasted": recipe.Pasted,
    "distill": recipe.Distill,
    "train": recipe.TrainSpec,
    "augment": recipe.Augment,
}


def page(text: str) -> str:
    """Give the page as it should be: the keys anew, the rest as it is."""
    return _KEYS.sub(lambda _: keys(), text)


def keys() -> str:
    """Write a row for each key of each table, with its default."""
    rows = "".join(
        (f"| **`[{name}]`** | | |\n" if name else "")
        + "".join(
            f"| `{one.name}` | {_told(kind)[one.name]} | {_default(one)} |\n"
            for one in dataclasses.fields(kind)
            if one.name not in _TABLES and f"{name}.{one.name}" not in _TABLES
        )
        for name, kind in _TABLES.items()
    )
    return f"| key | what it is | if left out |\n|---|---|---|\n{rows}"


def _told(kind: type[Any]) -> dict[str, str]:
    """Give what the docstring of a dataclass says of each attribute."""
    text = inspect.getdoc(kind) or ""
    parts = re.split(r"\n    (?=\w+: )", text.partition("Attributes:")[2])
    found = (_ATTRIBUTE.match(part.strip()) for part in parts)
    return {one[1]: " ".join(one[2].split()).replace("``", "`") for one in found if one}


def _default(one: dataclasses.Field[Any]) -> str:
    if one.default is dataclasses.MISSING:
        return "needed" if one.default_factory is dataclasses.MISSING else "nothing"
    if one.default in ("", (), None):
        return "nothing"
    return f"`{str(one.default).lower() if isinstance(one.default, bool) else one.default}`"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
