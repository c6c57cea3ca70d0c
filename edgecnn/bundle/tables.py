"""A reader of flatbuffers that follows no offset before it has checked it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import BundleError

MAX_TABLES: Final = 200_000
"""A MobileNet has 700. The C++ verifier allows 1,000,000, which takes Python seconds."""

_FORMATS: Final = {
    name: (struct.Struct(f"<{code}"), struct.calcsize(f"<{code}"))
    for name, code in {
        "bool": "?", "i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I",
        "i64": "q", "u64": "Q", "f32": "f",
    }.items()
}  # fmt: skip


def damaged(what: str) -> BundleError:
    """Say that a flatbuffer does not hold together.

    Args:
        what: What was found, as the end of a sentence.
    """
    return BundleError(
        f"The model file is damaged: {what}.",
        fix="Copy the file again from where it was made, or convert the model again.",
    )


class Buffer:
    """The bytes of a flatbuffer, with a bound on how many tables are read from them.

    The bound ends the reading of a file whose vectors all point at one another's entries: such a
    file of megabytes would else unfold to terabytes.
    """

    __slots__ = ("_tables_left", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._tables_left = MAX_TABLES

    def scalar(self, position: int, kind: str) -> Any:
        """Read one number; ``kind`` is one of ``bool i8 u8 i16 u16 i32 u32 i64 u64 f32``.

        Raises:
            BundleError: If it lies outside of the file or is not aligned.
        """
        form, size = _FORMATS[kind]
        self.check(position, size, size)
        return form.unpack_from(self.data, position)[0]

    def check(self, position: int, size: int, alignment: int = 1) -> None:
        """Refuse a range that leaves the file or does not begin where its type must."""
        if position < 0 or size < 0 or position + size > len(self.data):
            raise damaged(
                f"{size} bytes are expected at byte {position}, and the file has {len(self.data)} bytes"
            )
        if position % alignment:
            raise damaged(f"the value at byte {position} does not begin at a multiple of {alignment}")

    def follow(self, position: int) -> int:
        """Read an offset and give the position that it points at."""
        offset: int = self.scalar(position, "u32")
        if offset == 0:
            raise damaged(f"the offset at byte {position} points at itself")
        return position + offset

    def root(self) -> Table:
        """Give the table that everything hangs from."""
        return self.table(self.follow(0))

    def table(self, position: int) -> Table:
        """Open the table at ``position``."""
        self._tables_left -= 1
        if self._tables_left < 0:
            raise damaged(f"it has more than {MAX_TABLES} tables")
        vtable = position - self.scalar(position, "i32")
        vtable_bytes = self.scalar(vtable, "u16")
        self.check(vtable, vtable_bytes, 2)
        table_bytes = self.scalar(vtable + 2, "u16")
        if vtable_bytes < 4 or vtable_bytes % 2 or table_bytes < 4:
            raise damaged(f"the table at byte {position} has an impossible description")
        self.check(position, table_bytes)
        return Table(self, position, table_bytes, vtable, (vtable_bytes - 4) // 2)


@dataclass(frozen=True, slots=True)
class Table:
    """One table; a slot is the number of a field in the schema, counted from 0.

    Attributes:
        buffer: Where it lies.
        position: At which byte it begins.
        size_bytes: How long it is, without what its offsets point at.
        vtable: At which byte the list of its fields begins.
        slot_count: How many fields that list has.
    """

    buffer: Buffer
    position: int
    size_bytes: int
    vtable: int
    slot_count: int

    def where(self, slot: int, size_bytes: int = 4) -> int | None:
        """Give the position of a field, None where the table leaves it out.

        Raises:
            BundleError: If the field would reach out of the table.
        """
        if slot >= self.slot_count:
            return None
        offset: int = self.buffer.scalar(self.vtable + 4 + 2 * slot, "u16")
        if offset == 0:
            return None
        if offset < 4 or offset + size_bytes > self.size_bytes:
            raise damaged(f"field {slot} of the table at byte {self.position} lies outside of it")
        return self.position + offset

    def scalar(self, slot: int, kind: str, default: Any = 0) -> Any:
        """Read a number, or its default where the table leaves it out."""
        position = self.where(slot, _FORMATS[kind][1])
        return default if position is None else self.buffer.scalar(position, kind)

    def table(self, slot: int) -> Table | None:
        """Open the table that a field points at."""
        position = self.where(slot)
        return None if position is None else self.buffer.table(self.buffer.follow(position))

    def vector(self, slot: int, kind: str) -> NDArray[Any] | None:
        """View a vector of numbers without copying it; None where the table leaves it out."""
        start = self._start(slot)
        if start is None:
            return None
        size = _FORMATS[kind][1]
        count = self.buffer.scalar(start, "u32")
        self.buffer.check(start + 4, count * size, size)
        dtype = np.dtype("?" if kind == "bool" else f"<{kind[0]}{size}")
        return np.frombuffer(self.buffer.data, dtype, count, start + 4)

    def numbers(self, slot: int, kind: str) -> tuple[Any, ...]:
        """Read a vector of numbers; empty where the table leaves it out."""
        vector = self.vector(slot, kind)
        return () if vector is None else tuple(vector.tolist())

    def blob(self, slot: int) -> memoryview | None:
        """View a vector of bytes without copying it; None where the table leaves it out."""
        start = self._start(slot)
        if start is None:
            return None
        count = self.buffer.scalar(start, "u32")
        self.buffer.check(start + 4, count)
        return memoryview(self.buffer.data)[start + 4 : start + 4 + count]

    def string(self, slot: int) -> str:
        """Read a string; empty where the table leaves it out."""
        start = self._start(slot)
        return "" if start is None else self._text(start)

    def strings(self, slot: int) -> tuple[str, ...]:
        """Read a vector of strings."""
        return tuple(self._text(start) for start in self.positions(slot))

    def tables(self, slot: int) -> Iterator[Table]:
        """Open the tables of a vector one by one."""
        return (self.buffer.table(position) for position in self.positions(slot))

    def positions(self, slot: int) -> Iterator[int]:
        """Give where the entries of a vector of offsets point."""
        start = self._start(slot)
        if start is None:
            return iter(())
        count = self.buffer.scalar(start, "u32")
        self.buffer.check(start + 4, 4 * count, 4)
        return (self.buffer.follow(start + 4 + 4 * index) for index in range(count))

    def _start(self, slot: int) -> int | None:
        position = self.where(slot)
        if position is None:
            return None
        return self.buffer.follow(position)

    def _text(self, start: int) -> str:
        count = self.buffer.scalar(start, "u32")
        self.buffer.check(start + 4, count + 1)
        if self.buffer.data[start + 4 + count]:
            raise damaged(f"the text at byte {start} does not end")
        try:
            # The interpreters' own Python layers fail on another encoding with a bare UnicodeDecodeError.
            return self.buffer.data[start + 4 : start + 4 + count].decode("utf-8")
        except UnicodeDecodeError as error:
            raise damaged(f"the text at byte {start} is not UTF-8") from error
