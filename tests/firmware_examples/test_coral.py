"""What lies in firmware_examples/coral runs as it lies there, on a stick that a test can pull out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orange
import pytest
from accelerator import Stick, build, needs_gcc
from blobs import RECIPE, write_blobs
from click.testing import CliRunner

from edgecnn.bundle import file as files
from edgecnn.bundle import flatbuffer, signature
from edgecnn.bundle.file import Bundle, Golden
from edgecnn.bundle.manifest import Manifest
from edgecnn.cli.workstation import convert
from edgecnn.core.alarm import AlarmPolicy, Event
from edgecnn.core.frame import Frame, InputSpec
from edgecnn.core.prediction import Head, Prediction
from edgecnn.errors import RecipeError, RuntimeFault
from edgecnn.runtime.interpreter import open_interpreter
from edgecnn.runtime.predictor import load
from edgecnn.targets import compiler, edgetpu
from edgecnn.watch import config as configs
from edgecnn.watch.config import Config, ModelConfig, SourceConfig
from edgecnn.watch.loop import Watch, load_model
from edgecnn.workstation import delivery

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "firmware_examples" / "coral"
TOML = (FOLDER / "watch.toml").read_text(encoding="utf-8")
RULES = (FOLDER / "99-edgetpu.rules").read_text(encoding="utf-8")
UNIT = (ROOT / "firmware_examples" / "raspberry_pi_camera" / "edgecnn.service").read_text(encoding="utf-8")
EDGECNN = Path(sys.executable).parent / "edgecnn"
QUICK = AlarmPolicy("fire", half_life_s=0.0, minimum_s=0.0, cooldown_s=0.0)

pytestmark = pytest.mark.xdist_group("coral")

# Convert and compile ------------------------------------------------------------------------------------

LOG = "Edge TPU Compiler version 16.0.384591198\nModel compiled successfully in 100 ms.\n"


def stand_in(folder: Path, output: Path) -> None:
    """Put a compiler on a folder's path that hands out the file that Google's compiler made."""
    path = folder / compiler.NAME
    path.write_text(
        f"#!{sys.executable}\nimport pathlib, shutil, sys\n_, _, out, model = sys.argv[1:]\nprint({LOG!r})\n"
        f"shutil.copy({str(output)!r}, pathlib.Path(out, pathlib.Path(model).stem + '_edgetpu.tflite'))\n"
    )
    path.chmod(0o755)


@pytest.fixture
def source(shared: Path, tmp_path: Path) -> Bundle:
    """A whole file around a network of which there is one that Google's compiler made."""
    flat = (shared / "reference_models" / "mobilenet_v1_0.25_128_quant.tflite").read_bytes()
    head = Head("label", "softmax", tuple(f"label {number}" for number in range(1001)))
    pictures = np.random.default_rng(1).integers(0, 256, (2, 128, 128, 3), np.uint8)
    interpreter = open_interpreter(flat, threads=1)
    scores = np.concatenate([interpreter.invoke(picture[None])[0] for picture in pictures])
    manifest = Manifest("mobilenet", "int8", InputSpec(128, 128), (head,))
    return files.write(tmp_path / "m.tflite", flat, manifest, Golden(pictures, (scores,)))


@pytest.fixture
def compiled(
    shared: Path, source: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[bytes, Bundle]:
    """What the compiler gave, and the file that is written of it."""
    output = shared / "reference_models" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite"
    stand_in(tmp_path, output)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    (path,) = delivery.deliver(source, delivery.examine(source.model, "edgetpu"))
    return output.read_bytes(), files.read(path)


def test_a_compiled_file_is_whole_again_with_manifest_labels_and_pictures_to_replay(
    source: Bundle, compiled: tuple[bytes, Bundle]
) -> None:
    _, made = compiled

    assert made.path.name == "m_edgetpu.tflite"
    assert made.manifest is not None
    assert source.manifest is not None
    assert made.manifest == replace(
        source.manifest,
        model_sha256=made.manifest.model_sha256,
        golden_tolerance_codes=delivery.EDGETPU_TOLERANCE_CODES,
    )
    assert made.labels == source.labels
    assert made.golden is not None
    assert source.golden is not None
    np.testing.assert_array_equal(made.golden.outputs[0], source.golden.outputs[0])


def test_what_the_compiler_made_is_not_touched_by_what_is_said_about_it(
    compiled: tuple[bytes, Bundle],
) -> None:
    given, made = compiled

    before, after = flatbuffer.parse(given), flatbuffer.parse(made.model)

    assert after.subgraphs == before.subgraphs
    assert given[8:] in made.model  # all behind the pointer to the root: the program for the chip, too
    assert set(after.metadata) > set(before.metadata)


def test_a_compiled_file_says_by_itself_that_it_needs_a_coral(compiled: tuple[bytes, Bundle]) -> None:
    _, made = compiled

    with pytest.raises(RuntimeFault, match="compiled for the Edge TPU") as caught:
        load(made.path)

    assert "--delegate edgetpu" in caught.value.fix


def test_without_the_compiler_there_is_a_prediction_and_no_second_file(
    source: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edgetpu, "find_compiler", lambda: None)

    fit = delivery.examine(source.model, "edgetpu")

    assert (fit.check.basis, fit.compiled, delivery.deliver(source, fit)) == ("prediction", None, ())


def test_both_files_of_a_signed_conversion_are_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecnn.workstation.data.catalog import open_dataset
    from edgecnn.workstation.recipe import parse
    from edgecnn.workstation.train import train

    data = write_blobs(tmp_path / "data")
    model = train(parse(RECIPE), RECIPE, open_dataset(data), tmp_path / "out").path
    secret, public = signature.new_keys(tmp_path / "maker")
    copying = tmp_path / "bin" / compiler.NAME  # a network of which nothing is mapped comes out as it went in
    copying.parent.mkdir()
    copying.write_text('#!/bin/sh\ncp "$4" "$3/model_edgetpu.tflite"\n')
    copying.chmod(0o755)
    monkeypatch.setattr(edgetpu, "find_compiler", lambda: copying)
    monkeypatch.setattr(compiler, "left_on_cpu", lambda *_: frozenset())
    out = tmp_path / "m.tflite"

    options = ["--data", str(data), "--target", "edgetpu", "--sign", str(secret), "--out", str(out)]
    done = CliRunner().invoke(convert, [str(model), *options], catch_exceptions=False)

    assert "m_edgetpu.tflite" in done.output
    trusted = signature.read_trusted(public)
    signers = {signature.verify(path, trusted) for path in (out, tmp_path / "m_edgetpu.tflite")}
    assert len({signer.sha256 for signer in signers}) == 2


# The files that a user installs -------------------------------------------------------------------------


def test_the_watch_toml_is_valid_and_names_both_models() -> None:
    config = configs.parse(TOML)

    assert config.model.delegate == "edgetpu"
    assert config.model.fallback is not None
    assert config.model.path.stem == f"{config.model.fallback.stem}_edgetpu"


def test_a_fallback_without_a_delegate_is_a_mistake_that_is_named() -> None:
    with pytest.raises(RecipeError, match=r"model\.fallback"):
        configs.parse(TOML.replace("delegate =", "#delegate ="))


def test_the_rules_open_both_faces_of_the_stick_to_the_group_that_the_service_is_in() -> None:
    # Before its firmware is loaded the stick calls itself Global Unichip's, after that Google's.
    assert [f'"{vendor}"' in RULES and f'"{product}"' in RULES
            for vendor, product in (("1a6e", "089a"), ("18d1", "9302"))] == [True, True]  # fmt: skip
    groups = set(re.findall(r'GROUP="(\w+)"', RULES))
    (joined,) = re.findall(r"(?m)^SupplementaryGroups=(.+)$", UNIT)
    assert groups <= set(joined.split())


# A stick that is pulled ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return orange.write_model(tmp_path_factory.mktemp("model") / "fire.tflite").path


@pytest.fixture
def stick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stick:
    built = build(tmp_path)
    monkeypatch.setenv("TEST_DELEGATE", str(built.state))
    return built


class Camera:
    """Shows fire, ten frames a second of its own time, and none before it is asked."""

    is_live = True
    is_realtime = False
    name = "camera"

    def __init__(self, frames_count: int, before: Callable[[int], None] = lambda _: None) -> None:
        self.frames_count, self.before = frames_count, before

    def __iter__(self) -> Iterator[Frame]:
        pixels = np.broadcast_to(np.uint8([245, 120, 10]), (48, 64, 3)).copy()
        for index in range(self.frames_count):
            self.before(index)
            yield Frame(pixels, index * 0.1, index, self.name)
        time.sleep(0.5)  # the last frame is looked at before the camera counts as lost

    def close(self) -> None:
        pass


class Ears:
    """Hears everything, and stops the watch after so many frames."""

    def __init__(self, frames_count: int, stop: threading.Event) -> None:
        self.frames_count, self.stop = frames_count, stop
        self.frames: list[int] = []
        self.events: list[Event] = []

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        assert prediction.heads["colour"][1] > 0.9
        self.frames.append(frame.index)
        if len(self.frames) == self.frames_count:
            self.stop.set()

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


def watched(
    model: Path, stick: Stick, frames_count: int, before: Callable[[int], None] = lambda _: None
) -> tuple[Watch, Ears]:
    settings = ModelConfig(model, 1, str(stick.library), fallback=model)
    config = Config("yard", settings, SourceConfig("fake", self_test=False), (QUICK,))
    stop = threading.Event()
    ears = Ears(frames_count, stop)
    watch = Watch(config, load_model(settings), Camera(frames_count, before), [ears])
    watch.run(stop)
    return watch, ears


def told(ears: Ears) -> list[tuple[str, str, float]]:
    return [(e.kind, e.label, e.score) for e in ears.events if e.kind == "camera"]


@needs_gcc
@pytest.mark.parametrize("failure", ["missing", "at load", "in flight"])
def test_whatever_way_the_stick_fails_no_frame_is_lost_and_people_are_told_once(
    model: Path, stick: Stick, failure: str
) -> None:
    if failure == "missing":
        stick.library.unlink()
    if failure == "at load":
        stick.is_pulled()
    if failure == "in flight":
        stick.computes(3)

    watch, ears = watched(model, stick, 12)

    faults = {fault.name: fault.detail for fault in watch.status().faults}
    assert ears.frames == list(range(12))
    assert told(ears) == [("camera", "degraded", 1.0)]
    assert "The CPU looks meanwhile" in ears.events[0].detail + ears.events[-1].detail
    assert list(faults) == ["camera degraded"]
    assert [e.label for e in ears.events if e.kind == "started"] == ["fire"]


@needs_gcc
def test_a_stick_that_is_put_back_is_taken_again_and_people_are_told(
    model: Path, stick: Stick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecnn.runtime.standby.FIRST_WAIT_S", 0.0)
    stick.is_pulled()

    def put_back(index: int) -> None:
        if index == 4:
            stick.computes()

    watch, ears = watched(model, stick, 12, put_back)

    assert told(ears) == [("camera", "degraded", 1.0), ("camera", "degraded", 0.0)]
    assert stick.runs_count >= 6
    assert watch.status().faults == ()


@needs_gcc
def test_a_reload_tries_the_stick_at_once(model: Path, stick: Stick, tmp_path: Path) -> None:
    plain = files.read(model)
    assert plain.manifest is not None
    first = files.write(
        tmp_path / "first.tflite",
        plain.model,
        replace(plain.manifest, description="On the stick."),
        plain.golden,
    )
    stick.is_pulled()
    settings = ModelConfig(first.path, 1, str(stick.library), fallback=model)
    config = Config("yard", settings, SourceConfig("fake"), (QUICK,))
    watch = Watch(config, load_model(settings), Camera(0), [])
    before = watch.status().model_sha256
    stick.computes()

    watch.reload(config)

    assert (before, watch.status().model_sha256) == (plain.sha256, first.sha256)


@needs_gcc
def test_a_reload_takes_a_fallback_whose_file_alone_has_changed(
    model: Path, stick: Stick, tmp_path: Path
) -> None:
    plain = files.read(model)
    assert plain.manifest is not None
    spare = tmp_path / "spare.tflite"
    files.write(spare, plain.model, plain.manifest, plain.golden)
    settings = ModelConfig(model, 1, str(stick.library), fallback=spare)
    config = Config("yard", settings, SourceConfig("fake", self_test=False), (QUICK,))
    stop = threading.Event()
    ears = Ears(1, stop)
    watch = Watch(config, load_model(settings), Camera(1), [ears])
    changed = replace(plain.manifest, description="Looks meanwhile.")
    other = files.write(spare, plain.model, changed, plain.golden)

    stick.computes(0)
    watch.reload(config)
    watch.run(stop)

    assert watch.status().model_sha256 == other.sha256 != plain.sha256


# The program, when the library takes the whole process with it ------------------------------------------


@needs_gcc
def test_a_library_that_aborts_the_process_is_survived_by_the_restart_that_systemd_does(
    model: Path, stick: Stick, tmp_path: Path
) -> None:
    assert re.search(r"(?m)^Restart=always$", UNIT)
    clip = orange.write_clip(tmp_path / "clip.mp4", calm_s=1, fire_s=2)
    text = re.sub(r"(?m)^uri = .*$", f'uri = "{clip}"', TOML)
    text = text.replace("/opt/edgecnn/fire_edgetpu.tflite", str(model)).replace(
        "/opt/edgecnn/fire.tflite", str(model)
    )
    text = text.replace('"edgetpu"', f'"{stick.library}"').replace(
        "/var/lib/edgecnn", str(tmp_path / "state")
    )
    (tmp_path / "watch.toml").write_text(re.sub(r"(?m)^port = .*$", "port = 0", text))
    stick.aborts_after(5)
    command = [str(EDGECNN), "watch", str(tmp_path / "watch.toml")]

    first = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    stick.is_pulled()
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert first.returncode == -6
    assert second.returncode == 0, second.stderr
    assert "camera: degraded" in second.stdout
    assert "fire: started" in second.stdout
