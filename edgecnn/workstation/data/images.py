"""Reads one picture file, or refuses it by name: never half a picture, never one that fills the memory."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from edgecnn.core.frame import Pixels
from edgecnn.errors import DataError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp"})
"""Files that are taken for pictures, compared in lower case."""

FOREIGN_SUFFIXES = frozenset(
    {".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".psd", ".svg", ".raw"}
)
"""Pictures that are not read; a data set reports them instead of losing them silently."""

MAX_PIXELS = 2**26
"""67 million: the 64-megapixel mode of a phone fits, and one decoded picture stays below 201 MB."""

# Entropy-coded JPEG data holds 0xFF only before 0x00 (a stuffed byte), a restart mark (D0 to D7)
# or another 0xFF (a fill byte); anything else is the next marker: ITU-T T.81, B.1.1.2 and B.1.1.5.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class _BrokenError(Exception):
    """What is wrong with the bytes, in words that follow the file's name."""


def read_picture(path: Path) -> Pixels:
    """Read a picture file.

    Returns:
        Shape (height, width, 3), uint8, red first.

    Raises:
        DataError: If the file cannot be read, or for what ``decode_picture`` refuses.
    """
    return decode_picture(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """Read a file whole.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read: {error.strerror or error}.",
            fix="Check that the file exists and that you may read it.",
        ) from error


def decode_picture(data: bytes, name: str) -> Pixels:
    """Turn the bytes of a JPEG, PNG, BMP or WebP file into pixels.

    The content decides, not the suffix. An EXIF orientation is obeyed, grey and CMYK become RGB,
    16 bits become 8, and transparency is laid over black, the colour of letterbox bars. Size and
    completeness are read from the file's structure *before* anything is decoded, because OpenCV fills
    what a truncated file lacks with grey, and would allocate whatever a header asks for.

    Args:
        data: The whole file.
        name: Of the file, for the error.

    Returns:
        Shape (height, width, 3), uint8, red first.

    Raises:
        DataError: If the bytes are no such picture, are broken or truncated, or hold more than
            ``MAX_PIXELS`` pixels.

    Example:
        >>> png = cv2.imencode(".png", np.full((2, 3, 3), 7, np.uint8))[1].tobytes()
        >>> decode_picture(png, "seven.png").shape
        (2, 3, 3)
    """
    try:
        height, width, has_alpha = _inspector(data)(data)
        if not height or not width:
            raise _BrokenError(f"is broken: its header promises {width} x {height} pixels")
    except _BrokenError as error:
        raise DataError(
            f"'{name}' {error}.", fix="Remove the file from the data, or copy it again from where it came."
        ) from None
    except (struct.error, IndexError, ValueError):
        raise _truncated(name) from None
    if height * width > MAX_PIXELS:
        raise DataError(
            f"'{name}' has {width} x {height} pixels, {height * width / 1e6:.0f} million; "
            f"at most {MAX_PIXELS / 1e6:.0f} million are read.",
            fix="Scale the picture down, or remove it from the data.",
        )
    return _decode_alpha(data, name) if has_alpha else _decode(data, name, cv2.IMREAD_COLOR)


def _truncated(name: str) -> DataError:
    return DataError(
        f"'{name}' is truncated: the file ends in the middle of the picture.",
        fix="Remove the file from the data, or copy it again from where it came.",
    )


def _decode(data: bytes, name: str, flags: int) -> Pixels:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DataError(
            f"'{name}' is broken: it begins like a picture and cannot be decoded.",
            fix="Remove the file from the data, or copy it again from where it came.",
        )
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
    return np.asarray(pixels)


def _decode_alpha(data: bytes, name: str) -> Pixels:
    """Lay a transparent picture over black, so that colours hidden in clear pixels do not appear."""
    opaque = _decode(data, name, cv2.IMREAD_COLOR)
    whole = _decode(data, name, cv2.IMREAD_UNCHANGED)
    if whole.ndim != 3 or whole.shape[2] != 4 or whole.shape[:2] != opaque.shape[:2]:
        return opaque
    alpha = whole[..., 3:].astype(np.float32) / np.iinfo(whole.dtype).max
    return np.rint(opaque * alpha).astype(np.uint8)


def _inspector(data: bytes) -> Callable[[bytes], tuple[int, int, bool]]:
    if data.startswith(b"\xff\xd8"):
        return _inspect_jpeg
    if data.startswith(_PNG_MAGIC):
        return _inspect_png
    if data.startswith(b"BM"):
        return _inspect_bmp
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _inspect_webp
    if not data:
        raise _BrokenError("is empty")
    if _PNG_MAGIC.startswith(data[:8]):
        raise _BrokenError("is truncated: the file ends in the middle of the picture")
    kind = "a text file" if _is_text(data[:512]) else "in a format that is not read"
    raise _BrokenError(f"is {kind}, not a JPEG, PNG, BMP or WebP picture")


def _is_text(head: bytes) -> bool:
    return not any(byte < 9 or 13 < byte < 32 for byte in head)


def _inspect_jpeg(data: bytes) -> tuple[int, int, bool]:
    """Walk the markers up to the end mark; source: ITU-T T.81, annex B."""
    size, at, has_scan = (0, 0), 2, False
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # fill bytes may precede a marker
            at += 1
        if data[at] != 0xFF:
            raise _BrokenError("is broken: its JPEG structure is damaged")
        marker, at = data[at + 1], at + 2
        if marker == 0xD9:
            if not has_scan:
                raise _BrokenError("is broken: it is a JPEG file without a picture")
            return *size, False
        if marker in _JPEG_BARE:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _JPEG_SIZES and not has_scan:
            size = struct.unpack_from(">HH", data, at + 3)
        at += length
        if marker == 0xDA:
            has_scan = True
            found = _NEXT_MARKER.search(data, at)
            if found is None:
                raise _BrokenError("is truncated: the JPEG data stops before its end mark")
            at = found.start()


def _inspect_png(data: bytes) -> tuple[int, int, bool]:
    """Check the digest of every chunk; source: PNG specification, third edition, 5.3 to 5.6."""
    width, height, _, colour = struct.unpack_from(">IIBB", data, 16)
    has_alpha, at = colour in (4, 6), 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        (digest,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(memoryview(data)[at + 4 : end]) != digest:
            raise _BrokenError(f"is broken: the digest of its {kind.decode('latin-1')!r} chunk is wrong")
        has_alpha |= kind == b"tRNS"
        if kind == b"IEND":
            return height, width, has_alpha
        at = end + 4


def _inspect_bmp(data: bytes) -> tuple[int, int, bool]:
    """Compare the rows that the header promises with the bytes; source: BITMAPINFOHEADER, Microsoft."""
    (offset, header_bytes) = struct.unpack_from("<II", data, 10)
    if header_bytes == 12:  # the header of OS/2 1.x
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    width, height = abs(width), abs(height)
    row_bytes = (width * bits + 31) // 32 * 4
    if compression in (0, 3) and len(data) < offset + row_bytes * height:
        raise _BrokenError("is truncated: the BMP data stops before its last row")
    return height, width, False


def _inspect_webp(data: bytes) -> tuple[int, int, bool]:
    """Read the size from the first chunk; source: RFC 9649, 2.4 to 2.7, RFC 6386, 9.1."""
    (length,) = struct.unpack_from("<I", data, 4)
    if len(data) < length + 8:
        raise _BrokenError("is truncated: the WebP data stops before its promised length")
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width, bool(data[20] & 0x10)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, bool(bits >> 28 & 1)
    width, height = struct.unpack_from("<HH", data, 26)
    return height & 0x3FFF, width & 0x3FFF, False
