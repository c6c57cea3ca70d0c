"""Tables of settings become values; a mistake is named with the nearest valid key."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from edgecnn.errors import RecipeError

T = TypeVar("T")


def convert(
    table: Mapping[str, Any],
    kind: type[T],
    name: str,
    see: str,
    dec_hook: Callable[[type, Any], Any] | None = None,
) -> T:
    """Turn a parsed file of settings into a frozen value.

    Args:
        table: What the TOML parser gave.
        kind: A dataclass; its fields may be dataclasses, tuples of them, or either of them or None.
        name: What to call the file in an error, for instance ``recipe``.
        see: Where its keys are described, as an imperative sentence.
        dec_hook: As msgspec's, for types that it does not know.

    Returns:
        The value.

    Raises:
        RecipeError: Names the key that is unknown, with the nearest valid one, or the value that does
            not fit.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Web:
        ...     port: int = 8080
        >>> convert({"prot": 80}, Web, "watch.toml", "See the manual.")
        Traceback (most recent call last):
        edgecnn.errors.RecipeError: The watch.toml has an unknown key 'prot'.
    """
    _refuse_unknown_keys(table, kind, "", name)
    try:
        return msgspec.convert(table, kind, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        # A rule of the dataclass itself, in words for people, comes wrapped in msgspec's own error.
        if isinstance(error.__cause__, RecipeError):
            raise error.__cause__ from None
        raise RecipeError(f"The {name} does not fit: {error}.".replace("`$.", "`"), fix=see) from error


def _refuse_unknown_keys(table: Mapping[str, Any], kind: type, where: str, name: str) -> None:
    hints = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise RecipeError(
                f"The {name} has an unknown key '{where}{key}'.",
                fix=f"Did you mean '{where}{near[0]}'?" if near else f"Use one of: {', '.join(known)}.",
            )
        inner = _without_none(hints[key])
        if dataclasses.is_dataclass(inner) and isinstance(value, dict):
            _refuse_unknown_keys(value, inner, f"{where}{key}.", name)  # type: ignore[arg-type]
        elif get_origin(inner) is tuple and isinstance(value, list):
            item = get_args(inner)[0]
            for number, row in enumerate(value):
                if dataclasses.is_dataclass(item) and isinstance(row, dict):
                    _refuse_unknown_keys(row, item, f"{where}{key}[{number}].", name)  # type: ignore[arg-type]


def _without_none(hint: Any) -> Any:
    """Give what a setting is when it is there.

    Example:
        >>> _without_none(Union[int, None]), _without_none(str)
        (<class 'int'>, <class 'str'>)
    """
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 else hint
