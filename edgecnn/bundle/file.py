"""Reading and writing the one file: a flatbuffer, a zip behind it, and one digest over both.

The zip lies where the TFLite metadata convention wants it, so that any zip tool opens the file. The
comment at its very end is ``sha256:`` and the digest of every byte before the comment: about a fifth
of damaged models would else load and run silently wrong.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle import flatbuffer, metadata
from edgecnn.bundle import manifest as manifests
from edgecnn.bundle.flatbuffer import Model, Tensor
from edgecnn.bundle.manifest import Manifest
from edgecnn.bundle.whole import whole_file
from edgecnn.core.tensor import TensorSpec
from edgecnn.errors import BundleError

MARK: Final = "EDGECNN"
"""Metadata entry in the flatbuffer which says that a manifest follows, so that a lost tail is noticed."""

_MANIFEST: Final = "edgecnn.json"
_GOLDEN: Final = "golden.npz"
_COMMENT: Final = re.compile(rb"sha256:([0-9a-f]{64})")
_COMMENT_BYTES: Final = len("sha256:") + 64
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_MAX_LABEL_BYTES: Final = 1 << 20
_MAX_GOLDEN_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Golden:
    """A few pictures with the outputs that the model gave for them when it was made.

    Attributes:
        inputs: Shape (n, height, width, channels), uint8, as the one resize makes them.
        outputs: For each output tensor, what it gave: shape (n, ...), in the tensor's own type.
    """

    inputs: NDArray[np.uint8]
    outputs: tuple[NDArray[Any], ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """One model file, read and verified.

    Attributes:
        path: Where it lies.
        model: The flatbuffer.
        manifest: What it says about itself; None for a file that edgecnn did not make.
        labels: Of the first output; empty where the file names none.
        golden: Pictures to replay; None where there are none.
        sha256: Digest of the whole file.
        size_bytes: Of the whole file.
        metadata: What the standard metadata says; None where there is none.
    """

    path: Path
    model: bytes
    manifest: Manifest | None
    labels: tuple[str, ...]
    golden: Golden | None
    sha256: str
    size_bytes: int
    metadata: metadata.ModelMetadata | None = None


def spec_of(tensor: Tensor) -> TensorSpec:
    """Say what crosses the border at a tensor, for a tensor with one scale or none."""
    quantization = tensor.quantization
    scale = quantization.scales[0] if quantization.scales else 0.0
    zero_point = quantization.zero_points[0] if quantization.zero_points else 0
    return TensorSpec(tensor.shape, tensor.dtype, scale, zero_point)


def read(path: Path) -> Bundle:
    """Read a model file and verify it before anything else uses it.

    Args:
        path: A ``.tflite`` file, ours or another's.

    Returns:
        Its parts.

    Raises:
        BundleError: If it cannot be read, is damaged, was cut, or contradicts itself.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"The model file '{path}' cannot be read: {error.strerror or error}.",
            fix="Check the path and the permissions.",
        ) from error
    try:
        return _read(path, data)
    except BundleError as error:
        raise BundleError(f"'{path.name}': {error.message}", fix=error.fix) from error


def _read(path: Path, data: bytes) -> Bundle:
    is_ours = _verify_digest(data)
    files = _files(data) if is_ours else {}
    # The files follow the flatbuffer; what a foreign file appends does not disturb an interpreter.
    flat = data[: files[_MANIFEST].header_offset] if is_ours else data
    model = flatbuffer.parse(flat)
    if not is_ours and (MARK in model.metadata or _MANIFEST.encode() in data):
        raise BundleError(
            "edgecnn made this model file; its tail was lost or changed, and with it manifest and digest.",
            fix="Copy the file again from where it was made.",
        )
    entry = model.metadata.get(metadata.ENTRY)
    standard = metadata.read(entry) if entry else None
    digest = hashlib.sha256(data).hexdigest()
    if not is_ours:
        labels = _foreign_labels(data, standard)
        return Bundle(path, data, None, labels, None, digest, len(data), standard)
    manifest = manifests.from_json(_content(data, files[_MANIFEST]))
    if manifest.model_sha256 != hashlib.sha256(flat).hexdigest():
        raise BundleError(
            "The manifest in this file belongs to another model than the file holds.",
            fix="Convert the model again with 'edgecnn convert'.",
        )
    check(manifest, model)
    golden = _read_golden(_content(data, files[_GOLDEN])) if _GOLDEN in files else None
    if golden is not None:
        _check_golden(golden, model)
    return Bundle(path, flat, manifest, manifest.heads[0].labels, golden, digest, len(data), standard)


def _verify_digest(data: bytes) -> bool:
    """Whether the file ends with our digest; refuses one whose digest does not hold."""
    match = _COMMENT.fullmatch(data[-_COMMENT_BYTES:])
    if match is None:
        return False
    if hashlib.sha256(data[:-_COMMENT_BYTES]).hexdigest().encode() != match[1]:
        raise BundleError(
            "The model file is damaged: its bytes do not give the digest at its end.",
            fix="Copy the file again from where it was made.",
        )
    return True


def _files(data: bytes) -> Mapping[str, zipfile.ZipInfo]:
    """List the appended files; a file with a digest has a manifest among them, first of all."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BundleError(
            f"The files behind the model cannot be listed: {error}.",
            fix="Convert the model again with 'edgecnn convert'.",
        ) from error
    first = min((info.header_offset for info in files.values()), default=0)
    if _MANIFEST not in files or files[_MANIFEST].header_offset != first:
        raise BundleError(
            "The model file has a digest and no manifest edgecnn.json right behind the model.",
            fix="Convert the model again with 'edgecnn convert'.",
        )
    return files


def _content(data: bytes, info: zipfile.ZipInfo) -> bytes:
    # Stored, never packed: so no entry can be larger than the file that it lies in.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data):
        raise BundleError(
            f"'{info.filename}' in the model file is packed; edgecnn stores what it appends.",
            fix="Convert the model again with 'edgecnn convert'.",
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(info)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise BundleError(
            f"'{info.filename}' in the model file cannot be read: {error}.",
            fix="Copy the file again from where it was made.",
        ) from error


def _foreign_labels(data: bytes, standard: metadata.ModelMetadata | None) -> tuple[str, ...]:
    """Read the label file of the first output, where another's metadata names one."""
    name = standard.label_files[0] if standard and standard.label_files else ""
    if not name:
        return ()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            info = archive.getinfo(name)
            if info.file_size > _MAX_LABEL_BYTES:
                raise BundleError(
                    f"The label file '{name}' in the model has {info.file_size} bytes.",
                    fix="Give the labels beside it, with --labels.",
                )
            text = archive.read(info).decode("utf-8")
    except (
        KeyError,
        zipfile.BadZipFile,
        OSError,
        ValueError,
        EOFError,
        RuntimeError,
        zlib.error,
    ) as error:
        raise BundleError(
            f"The metadata of this model names the label file '{name}', which cannot be read: {error}.",
            fix="Copy the file again from where it was made.",
        ) from error
    return labels_of(text)


def labels_of(text: str) -> tuple[str, ...]:
    r"""Split a label file: one label a line, an empty last line is none.

    Example:
        >>> labels_of("cat\r\ndog\n")
        ('cat', 'dog')
    """
    return tuple(line.strip() for line in text.rstrip().splitlines())


def check(manifest: Manifest, model: Model) -> None:
    """Refuse a manifest that promises what the model does not have.

    Raises:
        BundleError: If the input, a head or its labels do not fit the tensors.
    """
    expected = (1, manifest.input.height_px, manifest.input.width_px, manifest.input.channels)
    found = tuple(tensor.shape for tensor in model.inputs)
    if found != (expected,):
        raise _contradiction(f"an input of shape {expected}", f"has {', '.join(map(str, found)) or 'none'}")
    names = [head.name for head in manifest.heads]
    if not names or len(set(names)) != len(names):
        raise _contradiction("heads with names of their own", f"has these: {', '.join(names) or 'none'}")
    for head in manifest.heads:
        if not 0 <= head.output_index < len(model.outputs):
            raise _contradiction(
                f"head '{head.name}' at output {head.output_index}", f"has {len(model.outputs)} outputs"
            )
        if not head.labels or len(set(head.labels)) != len(head.labels):
            raise _contradiction(f"labels for head '{head.name}'", "names none, or one twice")
        for label in head.labels:
            if label != label.strip() or not label or len(label.splitlines()) != 1:
                raise _contradiction("labels of one line each", f"has the label {label!r}")
        shape = model.outputs[head.output_index].shape
        if not shape or shape[-1] != head.neuron_count:
            raise _contradiction(
                f"{head.neuron_count} outputs for head '{head.name}'", f"has the shape {shape}"
            )


def _contradiction(promised: str, found: str) -> BundleError:
    return BundleError(
        f"The manifest promises {promised}, and the model {found}.",
        fix="Convert the model again with 'edgecnn convert'.",
    )


def write(path: Path, model: bytes, manifest: Manifest, golden: Golden | None) -> Bundle:
    """Write a model file whole, or leave what is there as it is.

    Args:
        path: Where to; replaced only when the new file is complete.
        model: A flatbuffer, as the converter gave it.
        manifest: What to say about it; its ``model_sha256`` is filled in.
        golden: Pictures with the outputs that ``model`` gives for them.

    Returns:
        What ``read`` then reads; the same input gives the same bytes.

    Raises:
        BundleError: If the parts contradict one another, or the file cannot be written.
    """
    parsed = flatbuffer.parse(model)
    check(manifest, parsed)
    if golden is not None:
        _check_golden(golden, parsed)
    standard = metadata.write(manifest, spec_of(parsed.inputs[0]), len(parsed.outputs))
    flat = flatbuffer.with_metadata(model, {metadata.ENTRY: standard, MARK: str(manifest.format).encode()})
    manifest = replace(manifest, model_sha256=hashlib.sha256(flat).hexdigest())
    files = {_MANIFEST: manifests.to_json(manifest)}
    if golden is not None:
        files[_GOLDEN] = _npz(golden)
    for number, head in enumerate(manifest.heads):
        files[metadata.label_file(number)] = "".join(f"{label}\n" for label in head.labels).encode()
    data = pack(flat, files)
    replace_whole(path, data)
    return _read(path, data)


def unpack(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Take a file of ours apart; ``pack`` puts it together again, byte for byte.

    Args:
        data: The whole file, which ``read`` has accepted.

    Returns:
        The flatbuffer, and the appended files by name, in their order.

    Raises:
        BundleError: If edgecnn did not make the file, or an appended file cannot be read.
    """
    if not _verify_digest(data):
        raise BundleError(
            "edgecnn did not make this model file: it holds no manifest.",
            fix="Convert the model with 'edgecnn convert'.",
        )
    files = _files(data)
    return data[: files[_MANIFEST].header_offset], {name: _content(data, i) for name, i in files.items()}


def pack(flat: bytes, files: Mapping[str, bytes]) -> bytes:
    """Append files to a flatbuffer, and the digest of everything at the end."""
    out = io.BytesIO()
    out.write(flat)
    # Not mode "a": it would add to a zip that a foreign converter had appended already.
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(_info(name), content)
        archive.comment = b"0" * _COMMENT_BYTES
    data = out.getvalue()[:-_COMMENT_BYTES]
    return data + b"sha256:" + hashlib.sha256(data).hexdigest().encode()


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3  # Unix, wherever this runs, so that the bytes are the same
    info.external_attr = 0o644 << 16
    return info


def _npz(golden: Golden) -> bytes:
    """Write the arrays as numpy's ``savez_compressed`` does, with dates that never change."""
    out = io.BytesIO()
    arrays = {"inputs": golden.inputs, **{f"output_{i}": a for i, a in enumerate(golden.outputs)}}
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(_info(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return out.getvalue()


def _read_golden(content: bytes) -> Golden:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MAX_GOLDEN_BYTES:
                raise ValueError(f"they unpack to more than {_MAX_GOLDEN_BYTES} bytes")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            count = sum(name.startswith("output_") for name in arrays.files)
            return Golden(arrays["inputs"], tuple(arrays[f"output_{i}"] for i in range(count)))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(
            f"The pictures to replay, golden.npz, cannot be read: {error}.",
            fix="Convert the model again with 'edgecnn convert'.",
        ) from error


def _check_golden(golden: Golden, model: Model) -> None:
    shape, dtype = golden.inputs.shape, golden.inputs.dtype
    if dtype != np.uint8 or not len(golden.inputs) or shape[1:] != model.inputs[0].shape[1:]:
        raise _contradiction(f"pictures of shape {shape} and type {dtype}", f"eats {model.inputs[0].shape}")
    expected = [((shape[0], *t.shape[1:]), t.dtype) for t in model.outputs]
    found = [(a.shape, a.dtype.name) for a in golden.outputs]
    if found != expected:
        raise _contradiction(f"replayed outputs {found}", f"gives {expected}")


def replace_whole(path: Path, data: bytes) -> None:
    """Write a file whole, or leave what is there as it is.

    Raises:
        BundleError: If it cannot be written.
    """
    try:
        with whole_file(path) as draft:
            draft.write_bytes(data)
    except OSError as error:
        raise BundleError(
            f"The model file '{path}' cannot be written: {error.strerror or error}.",
            fix="Check that the folder exists, that you may write there, and that there is room.",
        ) from error
