from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecnn.bundle import file, flatbuffer
from edgecnn.bundle.metadata import Normalization
from edgecnn.core.prediction import Head
from edgecnn.errors import BundleError, MissingPackageError
from edgecnn.runtime.interpreter import open_interpreter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> file.Bundle:
    return tiny_models.write(tmp_path_factory.mktemp("made") / "tiny.int8.tflite")


def refused(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    try:
        file.read(path)
    except BundleError as error:
        return bool(error.fix)
    return False


def test_what_is_written_is_read(made: file.Bundle) -> None:
    found = file.read(made.path)
    assert found.manifest == made.manifest
    assert found.labels == tiny_models.LABELS
    assert found.golden is not None
    np.testing.assert_array_equal(found.golden.inputs, tiny_models.pictures(2))
    assert found.sha256 == hashlib.sha256(made.path.read_bytes()).hexdigest()
    assert found.size_bytes == made.path.stat().st_size
    assert found.manifest is not None
    assert found.manifest.model_sha256 == hashlib.sha256(found.model).hexdigest()


def test_the_same_input_gives_the_same_bytes(made: file.Bundle, tmp_path: Path) -> None:
    assert tiny_models.write(tmp_path / "other_name.tflite").sha256 == made.sha256


def test_any_zip_tool_opens_the_file_and_finds_the_labels(made: file.Bundle) -> None:
    with zipfile.ZipFile(made.path) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["edgecnn.json", "golden.npz", "labels.txt"]
        assert archive.read("labels.txt") == b"red\ngreen\nblue\n"
        with np.load(io.BytesIO(archive.read("golden.npz"))) as arrays:
            assert arrays["inputs"].shape == (2, 16, 16, 3)


def test_the_whole_file_computes_what_the_flatbuffer_computed_before(made: file.Bundle) -> None:
    picture = tiny_models.pictures(1)
    (before,) = open_interpreter(tiny_models.flat(), threads=1).invoke(picture)
    (after,) = open_interpreter(made.path.read_bytes(), threads=1).invoke(picture)
    np.testing.assert_array_equal(before, after)


def test_the_standard_metadata_says_what_any_tool_must_know(made: file.Bundle) -> None:
    found = made.metadata
    assert found is not None
    assert (found.name, found.author, found.licence) == ("tiny", "edgecnn", "Apache-2.0")
    assert found.description == "Tells colours apart."
    assert found.version == "ab" * 6
    assert found.label_files == ("labels.txt",)
    assert found.min_parser_version == "1.0.0"


def test_the_metadata_normalises_a_raw_byte_to_its_own_code(made: file.Bundle) -> None:
    spec = file.spec_of(flatbuffer.parse(made.model).inputs[0])
    assert made.metadata is not None
    normalization = made.metadata.normalization
    assert normalization is not None
    bytes_ = np.arange(256)
    real = (bytes_ - normalization.mean[0]) / normalization.std[0]
    np.testing.assert_array_equal(np.round(real / spec.scale) + spec.zero_point, bytes_)


def test_a_float_file_eats_raw_bytes(tmp_path: Path) -> None:
    bundle = tiny_models.write(tmp_path / "f.tflite", tiny_models.flat("float32"), precision="float32")
    assert bundle.metadata is not None
    assert bundle.metadata.normalization == Normalization((0.0,), (1.0,))


def test_two_labels_of_one_neuron_are_no_axis_labels(tmp_path: Path) -> None:
    model = tiny_models.flat("int8", 1, "sigmoid")
    bundle = tiny_models.write(tmp_path / "b.tflite", model, labels=("cold", "hot"), kind="sigmoid")
    assert bundle.labels == ("cold", "hot")
    assert bundle.metadata is not None
    assert bundle.metadata.label_files == ("",)


def test_a_reference_models_own_metadata_and_labels_are_read(shared: Path) -> None:
    bundle = file.read(shared / "reference_models" / "mobilenet_v1_0.5_160_quant.tflite")
    assert bundle.manifest is None
    assert bundle.metadata is not None
    assert bundle.metadata.name == "ImageClassifier"
    assert bundle.metadata.normalization == Normalization((127.5,), (127.5,))
    assert (len(bundle.labels), bundle.labels[0]) == (1001, "background")


def test_every_reference_model_is_read_as_a_foreign_file(shared: Path) -> None:
    for path in sorted((shared / "reference_models").glob("*.tflite")):
        bundle = file.read(path)
        assert bundle.manifest is None
        assert bundle.model == path.read_bytes()


def test_a_reference_model_that_brought_a_zip_of_its_own_can_be_made_ours(
    shared: Path, tmp_path: Path
) -> None:
    source = (shared / "reference_models" / "mobilenet_v1_0.25_128_quant.tflite").read_bytes()
    labels = tuple(f"class {index}" for index in range(1001))
    manifest = dataclasses.replace(
        tiny_models.manifest(labels),
        input=dataclasses.replace(tiny_models.manifest().input, height_px=128, width_px=128),
    )
    bundle = file.write(tmp_path / "m.tflite", source, manifest, None)
    assert file.read(bundle.path).labels == labels


def test_a_flipped_byte_anywhere_is_noticed(made: file.Bundle, tmp_path: Path) -> None:
    data = made.path.read_bytes()
    places = {*range(0, 400), *range(len(data) - 500, len(data)), *range(0, len(data), 17)}
    for place in sorted(places):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        assert refused(tmp_path / "d.tflite", bytes(damaged)), place


def test_a_file_cut_anywhere_is_refused(made: file.Bundle, tmp_path: Path) -> None:
    data = made.path.read_bytes()
    for length in {*range(len(data) - 300, len(data)), *range(0, len(data), 23)}:
        assert refused(tmp_path / "d.tflite", data[:length]), length


def test_a_model_whose_last_byte_was_lost_is_no_foreign_file(made: file.Bundle, tmp_path: Path) -> None:
    path = tmp_path / "d.tflite"
    path.write_bytes(made.path.read_bytes()[:-1])
    with pytest.raises(BundleError, match="its tail was lost"):
        file.read(path)


def test_a_model_whose_whole_tail_was_lost_is_no_foreign_file(made: file.Bundle, tmp_path: Path) -> None:
    path = tmp_path / "d.tflite"
    path.write_bytes(made.model)
    with pytest.raises(BundleError, match="its tail was lost"):
        file.read(path)


def test_appended_bytes_are_noticed(made: file.Bundle, tmp_path: Path) -> None:
    data = made.path.read_bytes()
    for tail in (b"\0", b"\n", b"sha256:", data[-71:], data):
        assert refused(tmp_path / "d.tflite", data + tail)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0), size=st.integers(1, 200), other=st.binary(min_size=0, max_size=200))
def test_a_piece_replaced_by_another_is_noticed(
    made: file.Bundle, tmp_path: Path, place: int, size: int, other: bytes
) -> None:
    data = made.path.read_bytes()
    place %= len(data)
    changed = data[:place] + other + data[place + size :]
    assert changed == data or refused(tmp_path / "d.tflite", changed)


def redigested(data: bytes) -> bytes:
    return data[:-64] + hashlib.sha256(data[:-71]).hexdigest().encode()


def test_a_model_under_another_manifest_is_refused_even_with_a_right_digest(
    made: file.Bundle, tmp_path: Path
) -> None:
    data = bytearray(made.path.read_bytes())
    data[len(made.model) - 1] ^= 1
    path = tmp_path / "d.tflite"
    path.write_bytes(redigested(bytes(data)))
    with pytest.raises(BundleError, match="belongs to another model"):
        file.read(path)


def test_a_changed_manifest_under_a_right_digest_is_caught_by_the_zip(
    made: file.Bundle, tmp_path: Path
) -> None:
    data = made.path.read_bytes().replace(b'"Tells colours', b'"Tells Colours')
    path = tmp_path / "d.tflite"
    path.write_bytes(redigested(data))
    with pytest.raises(BundleError, match=r"edgecnn\.json.*cannot be read"):
        file.read(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": (Head("colour", "softmax", ("a", "b", "c", "d")),)}, "4 outputs"),
        ({"heads": (Head("colour", "softmax", ("a", "b", "c"), 1),)}, "at output 1"),
        ({"heads": (Head("colour", "softmax", ("a", "b", "b")),)}, "one twice"),
        ({"heads": (Head("colour", "softmax", ("a", "b", "c\nd")),)}, "one line"),
        ({"heads": ()}, "names of their own"),
        ({"input": dataclasses.replace(tiny_models.manifest().input, width_px=17)}, "input of shape"),
    ],
)
def test_a_manifest_that_promises_what_the_model_has_not_is_never_written(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BundleError, match=words):
        tiny_models.write(tmp_path / "m.tflite", **changes)
    assert list(tmp_path.iterdir()) == []


def test_pictures_to_replay_must_fit_the_model(tmp_path: Path) -> None:
    golden = tiny_models.golden(tiny_models.flat())
    wrong = file.Golden(golden.inputs[:1], golden.outputs)
    with pytest.raises(BundleError, match="replayed outputs"):
        file.write(tmp_path / "m.tflite", tiny_models.flat(), tiny_models.manifest(), wrong)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    made: file.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(BundleError, match="cannot be written: No space left"):
        tiny_models.write(path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("m.tflite", b"old")]


def full_disk(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"missing.*cannot be written"):
        tiny_models.write(tmp_path / "missing" / "m.tflite")


@pytest.mark.parametrize("name", ["missing.tflite", "."])
def test_what_is_no_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        file.read(tmp_path / name)


def test_a_device_without_flatbuffers_reads_and_says_why_it_cannot_write(
    made: file.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = tiny_models.golden(tiny_models.flat())
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    assert file.read(made.path).manifest == made.manifest
    with pytest.raises(MissingPackageError, match="flatbuffers"):
        file.write(tmp_path / "m.tflite", tiny_models.flat(), tiny_models.manifest(), golden)
