"""A file is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Lend the path of a draft, which takes the file's place once the block has ended well.

    A reader finds the old file or the new one, even after a power cut in between; where the block raises,
    the old one stays as it is and the draft goes.

    Args:
        path: The file; its folder must exist.

    Yields:
        A path in the same folder, with the same suffix: some writers choose their format by it.

    Raises:
        OSError: If the draft cannot be kept, or was not written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(Path(folder, "list.txt")) as draft:
        ...         _ = draft.write_text("all of it")
        ...     [(file.name, file.read_text()) for file in Path(folder).iterdir()]
        [('list.txt', 'all of it')]
    """
    draft = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())  # a camera loses power at the worst moment
        draft.replace(path)
    finally:
        with contextlib.suppress(OSError):  # it took the file's place, or was never there
            draft.unlink()
