"""Who made a model file: an ed25519 signature in it, over every other byte.

The signature is the last associated file of the zip, ``signature``: three lines of text with the version
of the model, the public key and, in hexadecimal, the signature. Signed is the whole file with four things
blanked out: the signature's own digits, its two checksums in the zip, and the digest that ends the file.
Each of the four follows from the rest, and is checked against it; so no byte can change unnoticed, no
entry be added, removed or listed twice.

Source: RFC 8032 (ed25519); PKWARE APPNOTE 6.3, sections 4.3.7, 4.3.12 and 4.3.16 for the places in the zip.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgecnn.bundle import file
from edgecnn.errors import MissingPackageError, SignatureError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_VERSION: Final = 2**63 - 1

_ENTRY: Final = "signature"
_TEXT: Final = re.compile(
    rb"edgecnn signature, version (0|[1-9][0-9]{0,18})\nkey ([0-9a-f]{64})\n([0-9a-f]{128})\n"
)
_DIGITS_BYTES: Final = 128
_NO_DIGITS: Final = "0" * _DIGITS_BYTES
_COMMENT_BYTES: Final = len("sha256:") + 64
_LOCAL_BYTES: Final = 30 + len(_ENTRY)
_CENTRAL_BYTES: Final = 46 + len(_ENTRY)
_END_BYTES: Final = 22
_LOCAL_CRC_AT: Final = 14
_CENTRAL_CRC_AT: Final = 16
_CENTRAL_OFFSET_AT: Final = 16
_U32: Final = struct.Struct("<I")
# A signature that was made for something else, by the same key, is none of a model.
_CONTEXT: Final = b"edgecnn model signature 1\0"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that a device may trust.

    Attributes:
        name: Of the file that it was read from, without its ending; for people.
        raw: Its 32 bytes.
    """

    name: str
    raw: bytes

    @property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the key, to compare by eye."""
        return hashlib.sha256(self.raw).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Signer:
    """Who vouches for a file.

    Attributes:
        key: The trusted key that made the signature.
        version: Of the model, as it was signed; a later model has a higher one.
        sha256: Digest of the file that was verified.
    """

    key: PublicKey
    version: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Signed:
    """A file taken apart: who says that he signed it, what he signed, and the signature."""

    version: int
    key: bytes
    message: bytes
    signature: bytes


def new_keys(stem: Path) -> tuple[Path, Path]:
    """Write a new private key, ``STEM.key``, and its public half, ``STEM.pub``.

    Args:
        stem: Path without ending; its folder must be there.

    Returns:
        The two files: PEM, PKCS #8 that only its owner may read, and PEM, SubjectPublicKeyInfo.

    Raises:
        MissingPackageError: If the package cryptography is not installed.
        SignatureError: If one of the files is there already, or cannot be written.
    """
    _need_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = serialization.Encoding.PEM
    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    key, pub = stem.with_name(f"{stem.name}.key"), stem.with_name(f"{stem.name}.pub")
    _write_new(key, secret, 0o600)
    try:
        _write_new(pub, public, 0o644)
    except SignatureError:
        key.unlink()
        raise
    return key, pub


def version_at(when: datetime) -> int:
    """Give the version of a model that is signed at a moment, where nobody counts versions.

    Example:
        >>> version_at(datetime(2026, 3, 1, 12, 30, 5, tzinfo=timezone.utc))
        20260301123005
    """
    return int(when.astimezone(timezone.utc).strftime("%Y%m%d%H%M%S"))


def sign(path: Path, private_key: Path, version: int) -> None:
    """Sign a model file in place; a signature that it has already is replaced.

    Args:
        path: A file that ``edgecnn convert`` made.
        private_key: The ``.key`` file of ``new_keys``.
        version: Higher than that of every model that may be replaced by this one.

    Raises:
        BundleError: If the file is damaged, another's, or cannot be written.
        MissingPackageError: If the package cryptography is not installed.
        SignatureError: If the key cannot be read, or the version is out of range.
    """
    if not 0 <= version <= MAX_VERSION:
        raise SignatureError(
            f"A model cannot have the version {version}.", fix=f"Give a whole number from 0 to {MAX_VERSION}."
        )
    key = read_private(private_key)
    file.read(path)
    flat, files = file.unpack(path.read_bytes())
    files.pop(_ENTRY, None)
    head = f"edgecnn signature, version {version}\nkey {key.public_key().public_bytes_raw().hex()}\n"
    blank = file.pack(flat, {**files, _ENTRY: f"{head}{_NO_DIGITS}\n".encode()})
    digits = key.sign(_take_apart(blank).message).hex()
    file.replace_whole(path, file.pack(flat, {**files, _ENTRY: f"{head}{digits}\n".encode()}))


def verify(path: Path, trusted: Sequence[PublicKey]) -> Signer:
    """Make sure that a trusted key has signed a file, as it lies there now.

    Args:
        path: A model file.
        trusted: Keys of which one must have signed it.

    Returns:
        Who did; compare ``sha256`` with what is loaded later.

    Raises:
        BundleError: If the file cannot be read or is damaged.
        MissingPackageError: If the package cryptography is not installed.
        SignatureError: If it is not signed, was changed since, or was signed by another.
    """
    digest = file.read(path).sha256
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise SignatureError(f"'{path.name}' changed while it was read.", fix="Try again.")
    signed = _signed(path, data)
    if signed is None:
        raise SignatureError(
            f"'{path.name}' is not signed; only models that a trusted key has signed are taken here.",
            fix="Sign it on the workstation: edgecnn sign FILE --key NAME.key.",
        )
    key = next((key for key in trusted if key.raw == signed.key), None)
    if key is None:
        found = PublicKey("", signed.key).fingerprint
        known = ", ".join(f"{key.name} ({key.fingerprint})" for key in trusted) or "none"
        raise SignatureError(
            f"'{path.name}' says that the key {found} has signed it; trusted: {known}.",
            fix="Sign it with a key that is trusted here, or trust its maker's .pub file.",
        )
    if not _holds(signed):
        raise _broken(path, "its bytes are not the ones that were signed")
    return Signer(key, signed.version, digest)


def version(path: Path) -> int | None:
    """Read the version that a file says it has, without asking who signed it.

    Returns:
        The version; None for a file that is not signed.

    Raises:
        BundleError: If the file cannot be read or is damaged.
    """
    file.read(path)
    signed = _signed(path, path.read_bytes())
    return None if signed is None else signed.version


def read_trusted(path: Path) -> tuple[PublicKey, ...]:
    """Read the keys that are trusted.

    Args:
        path: A ``.pub`` file of ``new_keys``, or a folder of them.

    Returns:
        One or more keys, by name.

    Raises:
        MissingPackageError: If the package cryptography is not installed.
        SignatureError: If there is no key, or one cannot be read.
    """
    paths = sorted(path.glob("*.pub")) if path.is_dir() else [path]
    if not paths:
        raise SignatureError(
            f"The folder '{path}' holds no public key, so every model would be refused.",
            fix="Put a .pub file of 'edgecnn keys new' there.",
        )
    return tuple(_public_key(one) for one in paths)


def read_private(path: Path) -> Ed25519PrivateKey:
    """Read the ``.key`` file of ``new_keys``.

    Raises:
        MissingPackageError: If the package cryptography is not installed.
        SignatureError: If it cannot be read, or is another file.
    """
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(_text(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "private", ".key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "private", ".key")
    return key


def _signed(path: Path, data: bytes) -> _Signed | None:
    """Take a file that ``file.read`` has accepted apart; None where it is not signed."""
    if not data[-_COMMENT_BYTES:].startswith(b"sha256:") or _ENTRY not in file.unpack(data)[1]:
        return None
    try:
        return _take_apart(data)
    except (ValueError, struct.error) as error:
        raise _broken(path, str(error)) from error


def _take_apart(data: bytes) -> _Signed:
    """Find the four places that are not signed, and check what stands there.

    Raises:
        ValueError: If the signature is not where and what ``sign`` makes it.
    """
    end = len(data) - _COMMENT_BYTES - _END_BYTES
    central = end - _CENTRAL_BYTES
    (after,) = _U32.unpack_from(data, end + _CENTRAL_OFFSET_AT)
    (start,) = _U32.unpack_from(data, central + 42)
    match = _TEXT.fullmatch(data[start + _LOCAL_BYTES : after])
    names = data[start + 30 : start + _LOCAL_BYTES], data[central + 46 : end]
    if match is None or names != (_ENTRY.encode(), _ENTRY.encode()):
        raise ValueError("the signature is not the last of its files")
    crc = _U32.pack(zlib.crc32(match[0]))
    crcs = start + _LOCAL_CRC_AT, central + _CENTRAL_CRC_AT
    if any(data[at : at + 4] != crc for at in crcs):
        raise ValueError("the checksum of the signature does not hold")
    if int(match[1]) > MAX_VERSION:
        raise ValueError("its version is out of range")
    blank = bytearray(data[:-_COMMENT_BYTES])
    for at in crcs:
        blank[at : at + 4] = bytes(4)
    blank[after - _DIGITS_BYTES - 1 : after - 1] = _NO_DIGITS.encode()
    message = _CONTEXT + hashlib.sha512(blank).digest()
    return _Signed(int(match[1]), bytes.fromhex(match[2].decode()), message, bytes.fromhex(match[3].decode()))


def _holds(signed: _Signed) -> bool:
    _need_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(signed.key).verify(signed.signature, signed.message)
    except InvalidSignature:
        return False
    return True


def _broken(path: Path, what: str) -> SignatureError:
    return SignatureError(
        f"The signature of '{path.name}' does not hold: {what}.",
        fix="Copy the file again from where it was signed, or sign it again.",
    )


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "Signatures need the package cryptography, which is not installed.",
            fix="Install it: pip install 'edgecnn[signing]'.",
        ) from error


def _public_key(path: Path) -> PublicKey:
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = serialization.load_pem_public_key(_text(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "public", ".pub") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public", ".pub")
    return PublicKey(path.stem, key.public_bytes_raw())


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SignatureError(
            f"The key '{path}' cannot be read: {error.strerror or error}.",
            fix="Check the path and the permissions; 'edgecnn keys new NAME' makes a pair of keys.",
        ) from error


def _no_key(path: Path, kind: str, suffix: str) -> SignatureError:
    return SignatureError(
        f"'{path}' is no {kind} ed25519 key in PEM without a password.",
        fix=f"Give the {suffix} file of 'edgecnn keys new NAME'.",
    )


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise SignatureError(
            f"'{path}' is there already; a lost key cannot be made again.", fix="Choose another name."
        ) from error
    except OSError as error:
        raise SignatureError(
            f"The key '{path}' cannot be written: {error.strerror or error}.",
            fix="Check that the folder exists and that you may write there.",
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise SignatureError(
            f"The key '{path}' cannot be written: {error.strerror or error}.", fix="Make room on the disk."
        ) from error
