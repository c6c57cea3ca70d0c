"""Unpacks archives into the cache: once, whole or not at all, and never anywhere else."""

from __future__ import annotations

import hashlib
import io
import lzma
import shutil
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from edgecnn.errors import DataError
from edgecnn.runtime.host import cache_folder

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")

MAX_UNPACKED_BYTES = 64 * 2**30
"""The pictures of ImageNet at 256 pixels fit several times."""
MAX_MEMBERS = 4_000_000
MAX_RATIO = 100
"""Pictures hardly shrink (ratio 1 to 2), raw bitmaps up to 20 times; a bomb grows by 1,000 and more."""
FREE_OF_RATIO_BYTES = 64 * 2**20
"""Below this nothing is a bomb, whatever the ratio."""

_STALE_AFTER_S = 24 * 3600
_CHUNK_BYTES = 2**20
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class _Member:
    """A file or a folder of an archive; ``content`` is None for a folder."""

    name: str
    size_bytes: int
    content: IO[bytes] | None


def is_archive(path: Path) -> bool:
    """Whether a file is named like an archive that ``unpack`` reads.

    Example:
        >>> is_archive(Path("scenes.TAR.xz")), is_archive(Path("scenes.npz"))
        (True, False)
    """
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def file_sha256(path: Path) -> str:
    """Give the SHA-256 digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def unpack(path: Path, cache: Path | None = None) -> Path:
    """Unpack an archive into the cache, unless its content lies there already.

    The folder is named by the digest of the archive and appears in one step when all of it is there:
    a run that is killed, or another that unpacks the same archive at the same time, does no harm.

    Args:
        path: A ``.tar``, ``.tar.gz``, ``.tar.xz``, ``.tar.bz2`` or ``.zip``.
        cache: Where to; ``cache_folder()`` where not given.

    Returns:
        The folder with the content.

    Raises:
        DataError: If the archive cannot be read or is truncated; if a member is absolute, leads out by
            ``..``, is a link that leaves the archive, or a device; if it holds more than ``MAX_MEMBERS``
            members or ``MAX_UNPACKED_BYTES``, or grows by more than ``MAX_RATIO``. Nothing is left.
    """
    try:
        digest = file_sha256(path)
        home = (cache or cache_folder()) / "archives"
        target = home / digest
        if target.is_dir():
            return target
        home.mkdir(parents=True, exist_ok=True)
        sweep(home, ".unpacking-*")
        draft = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=home))
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        _extract(path, draft)
        _publish(draft, target)
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _unreadable(path: Path, error: OSError) -> DataError:
    where = f" ('{error.filename}')" if error.filename and error.filename != str(path) else ""
    return DataError(
        f"'{path}' cannot be unpacked: {error.strerror or error}{where}.",
        fix="Check the path, the permissions and the free space; EDGECNN_CACHE names another cache folder.",
    )


def _publish(draft: Path, target: Path) -> None:
    draft.chmod(0o755)
    try:
        draft.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster with the same content
            raise


def sweep(home: Path, pattern: str) -> None:
    """Remove the folders that killed runs left; a day, because another process may be at work right now."""
    for draft in home.glob(pattern):
        with suppress(FileNotFoundError):  # another run sweeps, or is done
            if time.time() - draft.stat().st_mtime > _STALE_AFTER_S:
                shutil.rmtree(draft, ignore_errors=True)


def _extract(path: Path, draft: Path) -> None:
    allowed_bytes = max(FREE_OF_RATIO_BYTES, MAX_RATIO * path.stat().st_size)
    written = 0
    members = _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path)
    try:
        for count, member in enumerate(members, start=1):
            place = draft / _safe_name(path, member.name)
            if count > MAX_MEMBERS:
                raise _bomb(path, f"holds more than {MAX_MEMBERS:,} members")
            if member.content is None:
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                for chunk in _chunks(member.content):
                    written += len(chunk)
                    if written > MAX_UNPACKED_BYTES:
                        raise _bomb(path, f"unpacks to more than {MAX_UNPACKED_BYTES / 2**30:.0f} GiB")
                    if written > allowed_bytes:
                        raise _bomb(path, f"grows more than {MAX_RATIO} times, at '{member.name}'")
                    file.write(chunk)
    except (*_DAMAGE, RuntimeError) as error:  # RuntimeError: zipfile's word for an encrypted member
        raise DataError(
            f"'{path}' is no whole archive: {error or 'it ends too early'}.",
            fix="Copy or download it again; without a password, and as .tar, .tar.gz, .tar.xz or .zip.",
        ) from error


def _bomb(path: Path, why: str) -> DataError:
    return DataError(
        f"'{path}' {why}; it looks like an archive that was made to fill the disk.",
        fix="If you trust it, unpack it yourself and pass the folder.",
    )


def _refused(path: Path, name: str, why: str) -> DataError:
    return DataError(
        f"'{path}' has a member '{name}' that {why}.",
        fix="Do not use this archive, or unpack by hand what you trust of it and pass the folder.",
    )


def _safe_name(path: Path, name: str) -> PurePosixPath:
    """Check a member's name; backslashes and drive letters lead out on Windows."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or (pure.parts and pure.parts[0].endswith(":")):
        raise _refused(path, name, "has an absolute path")
    if ".." in pure.parts:
        raise _refused(path, name, "leads out of the archive by '..'")
    if "\0" in name:
        raise _refused(path, name, "has a NUL in its name")
    return pure


def _tar_members(path: Path) -> Iterator[_Member]:
    """Walk a tar; links become copies of what they name *inside* the archive, so no link is ever made."""
    with tarfile.open(path) as archive:
        for info in archive:
            if info.isdir():
                yield _Member(info.name, 0, None)
            elif info.isfile() or info.islnk() or info.issym():
                _safe_name(path, info.name)
                yield _Member(info.name, info.size, _tar_content(path, archive, info))
            else:
                raise _refused(path, info.name, "is a device or a pipe")
        if not _has_end_mark(archive):
            raise EOFError


def _has_end_mark(archive: tarfile.TarFile) -> bool:
    """Whether an archive that was read through ends as it should.

    tarfile takes a file that was cut between two members for whole; only the end mark tells.
    """
    stream = archive.fileobj
    # Seeking back unpacks an .xz a second time: only where following links moved the place.
    if stream is None or stream.tell() >= archive.offset + tarfile.BLOCKSIZE:
        return True
    stream.seek(archive.offset)
    return len(stream.read(tarfile.BLOCKSIZE)) == tarfile.BLOCKSIZE


def _tar_content(path: Path, archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    if info.issym() and PurePosixPath(info.linkname).is_absolute():
        raise _refused(path, info.name, f"is a link out of the archive, to '{info.linkname}'")
    try:
        content = archive.extractfile(info)
    except (KeyError, RecursionError):
        raise _refused(path, info.name, f"is a link out of the archive, to '{info.linkname}'") from None
    if content is None:
        raise _refused(path, info.name, f"is a link to a folder, '{info.linkname}'")
    return content


def _zip_members(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                yield _Member(info.filename, 0, None)
                continue
            kind = info.external_attr >> 28  # the file type of Unix, where the archive was made there
            if kind not in (0, 0o10):
                raise _refused(path, info.filename, "is a link, a device or a pipe")
            _safe_name(path, info.filename)
            with archive.open(info) as content:
                yield _Member(info.filename, info.file_size, io.BufferedReader(content))  # type: ignore[type-var]
