from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.bundle import file, signature
from edgecnn.errors import BundleError, MissingPackageError, SignatureError

COMMENT_BYTES = len("sha256:") + 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signed")
    signature.new_keys(folder / "maker")
    signature.new_keys(folder / "other")
    tiny_models.write(folder / "plain.tflite")
    tiny_models.write(folder / "signed.tflite")
    signature.sign(folder / "signed.tflite", folder / "maker.key", 7)
    return folder


@pytest.fixture
def trusted(folder: Path) -> tuple[signature.PublicKey, ...]:
    return signature.read_trusted(folder / "maker.pub")


def with_its_digest(data: bytes) -> bytes:
    """End a file with the digest that fits, as one would who changes it on purpose."""
    body = data[:-COMMENT_BYTES]
    return body + b"sha256:" + hashlib.sha256(body).hexdigest().encode()


def candidates(data: bytes, at: int) -> set[bytes]:
    changed = bytearray(data)
    changed[at] ^= 0x20  # turns a letter into its capital
    return {bytes(changed), with_its_digest(bytes(changed))} - {data}


def is_refused(path: Path, data: bytes, trusted: tuple[signature.PublicKey, ...]) -> bool:
    path.write_bytes(data)
    try:
        signature.verify(path, trusted)
    except BundleError as error:
        return bool(error.fix)
    return False


def test_a_signed_file_names_its_signer_and_version(
    folder: Path, trusted: tuple[signature.PublicKey, ...]
) -> None:
    signer = signature.verify(folder / "signed.tflite", trusted)

    digest = hashlib.sha256((folder / "signed.tflite").read_bytes()).hexdigest()
    assert (signer.key.name, signer.version, signer.sha256) == ("maker", 7, digest)
    assert signature.version(folder / "signed.tflite") == 7


def test_a_signed_file_is_the_same_model_for_every_reader(folder: Path) -> None:
    plain, signed = file.read(folder / "plain.tflite"), file.read(folder / "signed.tflite")

    assert (signed.model, signed.manifest, signed.labels) == (plain.model, plain.manifest, plain.labels)
    with zipfile.ZipFile(signed.path) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[-1] == "signature"


def test_signing_again_replaces_the_signature_and_the_same_key_and_version_give_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "again.tflite"
    path.write_bytes((folder / "signed.tflite").read_bytes())

    signature.sign(path, folder / "other.key", 2**63 - 1)
    assert signature.verify(path, signature.read_trusted(folder)).key.name == "other"
    signature.sign(path, folder / "maker.key", 7)

    assert path.read_bytes() == (folder / "signed.tflite").read_bytes()


def test_an_unsigned_file_is_refused_where_a_key_is_trusted(
    folder: Path, trusted: tuple[signature.PublicKey, ...]
) -> None:
    with pytest.raises(SignatureError, match="is not signed"):
        signature.verify(folder / "plain.tflite", trusted)
    assert signature.version(folder / "plain.tflite") is None


def test_a_file_that_another_key_has_signed_is_refused(folder: Path) -> None:
    with pytest.raises(SignatureError, match="trusted: other"):
        signature.verify(folder / "signed.tflite", signature.read_trusted(folder / "other.pub"))


def test_no_byte_behind_the_model_can_be_changed_even_by_someone_who_mends_the_digest(
    folder: Path, tmp_path: Path, trusted: tuple[signature.PublicKey, ...]
) -> None:
    data = (folder / "signed.tflite").read_bytes()
    with zipfile.ZipFile(folder / "signed.tflite") as archive:
        # The labels, the signature, the list of the files and the end, byte by byte.
        first = archive.getinfo("labels.txt").header_offset

    passed = [
        at
        for at in range(first, len(data))
        for candidate in candidates(data, at)
        if not is_refused(tmp_path / "x.tflite", candidate, trusted)
    ]

    assert len(data) - first > 500
    assert passed == []


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 10**9), bit=st.integers(0, 7), mends=st.booleans())
def test_no_bit_of_the_file_can_be_turned_over(folder: Path, at: int, bit: int, mends: bool) -> None:
    data = bytearray((folder / "signed.tflite").read_bytes())
    data[at % (len(data) - COMMENT_BYTES)] ^= 1 << bit
    changed = with_its_digest(bytes(data)) if mends else bytes(data)

    assert is_refused(folder / "bit.tflite", changed, signature.read_trusted(folder / "maker.pub"))


@settings(max_examples=100, deadline=None)
@given(length=st.integers(0, 10**9), mends=st.booleans())
def test_a_file_that_was_cut_anywhere_is_refused(folder: Path, length: int, mends: bool) -> None:
    data = (folder / "signed.tflite").read_bytes()
    cut = data[: length % len(data)]
    whole = with_its_digest(cut) if mends else cut

    assert is_refused(folder / "cut.tflite", whole, signature.read_trusted(folder / "maker.pub"))


def repacked(folder: Path, change: str) -> bytes:
    flat, files = file.unpack((folder / "signed.tflite").read_bytes())
    mark = files.pop("signature")
    if change == "removed":
        del files["golden.npz"]
    elif change == "added":
        files["extra.txt"] = b"more"
    elif change == "reordered":
        files = {"edgecnn.json": files.pop("edgecnn.json"), "labels.txt": files.pop("labels.txt"), **files}
    elif change == "relabelled":
        files["labels.txt"] = b"green\nred\nblue\n"
    elif change == "newer":
        mark = mark.replace(b"version 7", b"version 8")
    return file.pack(flat, {**files, "signature": mark})


def test_taking_a_signed_file_apart_and_packing_it_again_changes_nothing(folder: Path) -> None:
    assert repacked(folder, "nothing") == (folder / "signed.tflite").read_bytes()


@pytest.mark.parametrize("change", ["removed", "added", "reordered", "relabelled", "newer"])
def test_a_file_of_the_zip_that_is_changed_under_its_signature_is_refused(
    folder: Path, tmp_path: Path, trusted: tuple[signature.PublicKey, ...], change: str
) -> None:
    assert is_refused(tmp_path / "x.tflite", repacked(folder, change), trusted)


def test_the_signature_of_another_model_does_not_fit(
    folder: Path, tmp_path: Path, trusted: tuple[signature.PublicKey, ...]
) -> None:
    other = tiny_models.write(tmp_path / "other.tflite", description="Another one.")
    signature.sign(other.path, folder / "maker.key", 7)
    flat, files = file.unpack(other.path.read_bytes())
    _, signed = file.unpack((folder / "signed.tflite").read_bytes())

    swapped = file.pack(flat, {**files, "signature": signed["signature"]})

    assert is_refused(other.path, swapped, trusted)


def test_the_private_key_is_for_its_owner_alone_and_is_never_overwritten(tmp_path: Path) -> None:
    key, pub = signature.new_keys(tmp_path / "mine")
    before = key.read_bytes()

    with pytest.raises(SignatureError, match="is there already"):
        signature.new_keys(tmp_path / "mine")

    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert (key.read_bytes(), b"PRIVATE" in pub.read_bytes()) == (before, False)


def test_where_only_the_public_half_is_there_no_private_half_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "mine.pub").write_text("somebody's")

    with pytest.raises(SignatureError):
        signature.new_keys(tmp_path / "mine")

    assert [path.name for path in tmp_path.iterdir()] == ["mine.pub"]


@pytest.mark.skipif(sys.platform == "win32", reason="OpenSSL is called as a program")
def test_openssl_reads_the_keys(folder: Path) -> None:
    try:
        done = subprocess.run(
            ["openssl", "pkey", "-in", str(folder / "maker.key"), "-pubout"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("needs openssl")
    assert done.stdout == (folder / "maker.pub").read_text()


@pytest.mark.parametrize("name", ["maker.pub", "plain.tflite", "absent.key"])
def test_what_is_no_private_key_signs_nothing_and_leaves_the_model_alone(folder: Path, name: str) -> None:
    before = (folder / "plain.tflite").read_bytes()

    with pytest.raises(SignatureError) as caught:
        signature.sign(folder / "plain.tflite", folder / name, 1)

    assert caught.value.fix
    assert (folder / "plain.tflite").read_bytes() == before


def test_what_is_no_public_key_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "maker.key", folder / "plain.tflite", tmp_path):
        with pytest.raises(SignatureError):
            signature.read_trusted(path)


def test_all_keys_of_a_folder_are_trusted(folder: Path) -> None:
    assert [key.name for key in signature.read_trusted(folder)] == ["maker", "other"]


def test_the_file_of_another_maker_cannot_be_signed(folder: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.tflite"
    foreign.write_bytes(tiny_models.flat())

    with pytest.raises(BundleError, match="did not make"):
        signature.sign(foreign, folder / "maker.key", 1)
    with pytest.raises(SignatureError, match="is not signed"):
        signature.verify(foreign, signature.read_trusted(folder))


def test_without_cryptography_a_signed_model_is_read_and_only_trust_asks_for_the_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)

    assert file.read(folder / "signed.tflite").manifest is not None
    assert signature.version(folder / "signed.tflite") == 7
    with pytest.raises(MissingPackageError, match="cryptography"):
        signature.read_trusted(folder / "maker.pub")
