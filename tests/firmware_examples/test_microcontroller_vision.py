"""What the ESP32 does around the model is, bit by bit, what edgecnn does; gcc builds the same C for here."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from ctypes import c_bool, c_float, c_int, c_uint8
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.core.frame import InputSpec, Pixels, resize
from edgecnn.core.prediction import Head, decode
from edgecnn.core.tensor import TensorSpec
from edgecnn.measure.accuracy import decide

SOURCE = Path(__file__).resolve().parents[2] / "firmware_examples" / "microcontroller" / "main" / "vision.c"
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2", "-ffp-contract=off"]
BYTES = ctypes.POINTER(c_uint8)
ROW = ctypes.CFUNCTYPE(None, BYTES, c_int, c_int, BYTES)

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc: apt-get install gcc")


class Input(ctypes.Structure):
    """``vision_input``."""

    _fields_ = (
        ("height_px", c_int), ("width_px", c_int), ("channels", c_int), ("is_letterboxed", c_bool)
    )  # fmt: skip


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Any:
    library = tmp_path_factory.mktemp("vision") / "vision.so"
    subprocess.run(["gcc", *STRICT, "-shared", "-fPIC", str(SOURCE), "-lm", "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.vision_shrink.restype = c_bool
    loaded.vision_shrink.argtypes = [BYTES, c_int, c_int, ctypes.c_void_p, Input, BYTES]
    floats = ctypes.POINTER(c_float)
    loaded.vision_scores.argtypes = [BYTES, c_int, c_float, c_int, floats, c_int]
    loaded.vision_decide.argtypes = [floats, floats, c_int, c_bool]
    return loaded


def pointer(array: np.ndarray, kind: Any = c_uint8) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))


def shrunk(vision: Any, frame_rgb: Pixels, spec: InputSpec) -> Pixels | None:
    """Shrink as the ESP32 does; the frame goes in as blue, green, red."""
    height, width = frame_rgb.shape[:2]
    frame = np.ascontiguousarray(frame_rgb[..., ::-1])
    out = np.full((spec.height_px, spec.width_px, spec.channels), 7, np.uint8)
    wanted = Input(spec.height_px, spec.width_px, spec.channels, spec.resize == "letterbox")
    row = ctypes.cast(vision.vision_row_bgr888, ctypes.c_void_p)
    done = vision.vision_shrink(pointer(frame), height, width, row, wanted, pointer(out))
    return out if done else None


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("frame", [(120, 160), (144, 176), (240, 320), (296, 400), (480, 640)])
@pytest.mark.parametrize("side", [32, 48, 64, 80, 96])
@pytest.mark.parametrize("resize_by", ["stretch", "letterbox"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_frame_size_of_the_camera_shrinks_to_the_very_bytes_that_the_model_was_trained_on(
    vision: Any, frame: tuple[int, int], side: int, resize_by: Any, channels: Any
) -> None:
    spec = InputSpec(side, side, channels, resize_by)
    pixels = noise(*frame)

    np.testing.assert_array_equal(shrunk(vision, pixels, spec), resize(pixels, spec))


@pytest.mark.parametrize("side", [49, 98, 103])
def test_a_whole_ratio_that_opencv_does_not_find_whole_is_summed_as_opencv_does(
    vision: Any, side: int
) -> None:
    for seed in range(20):  # sums that end in a half are rounded by their last bit
        pixels = noise(128, side, seed)
        spec = InputSpec(128, 1, 1)
        np.testing.assert_array_equal(shrunk(vision, pixels, spec), resize(pixels, spec))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_frame_shrinks_to_the_same_bytes(vision: Any, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 130)), data.draw(st.integers(1, 130))
    rows, columns = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    spec = InputSpec(rows, columns, data.draw(st.sampled_from([1, 3])))
    pixels = noise(height, width, data.draw(st.integers(0, 99)))

    np.testing.assert_array_equal(shrunk(vision, pixels, spec), resize(pixels, spec))


@pytest.mark.parametrize(("height", "width"), [(95, 160), (160, 95)])
def test_a_frame_that_is_smaller_than_the_models_picture_is_refused(
    vision: Any, height: int, width: int
) -> None:
    assert shrunk(vision, noise(height, width), InputSpec(96, 96)) is None


def test_the_cameras_16_bits_become_the_nearest_24_to_within_one(vision: Any) -> None:
    words = np.arange(1 << 16, dtype=np.uint16)
    frame = words.astype(">u2").view(np.uint8)
    rgb = np.empty((1 << 16, 3), np.uint8)

    vision.vision_row_rgb565(pointer(frame), 1 << 16, 0, pointer(rgb))

    red, green, blue = words >> 11, words >> 5 & 63, words & 31
    exact = np.stack([red * 255 / 31, green * 255 / 63, blue * 255 / 31], axis=1)
    assert np.abs(rgb - exact).max() < 1
    np.testing.assert_array_equal(rgb[[0, -1]], [[0, 0, 0], [255, 255, 255]])
    opencv = cv2.cvtColor(words.view(np.uint8).reshape(1, -1, 2), cv2.COLOR_BGR5652RGB)[0]
    np.testing.assert_array_equal(rgb & [0xF8, 0xFC, 0xF8], opencv)


HEADS = [
    Head("fire", "sigmoid", ("no_fire", "fire")),
    Head("scene", "softmax", ("sea", "street", "forest")),
    Head("danger", "sigmoid", ("fire", "smoke", "flood")),
    Head("pair", "softmax", ("a", "b")),
]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
@pytest.mark.parametrize(("scale", "zero_point"), [(1 / 256, 0), (0.00392157, 3)])
def test_codes_become_the_very_scores_that_edgecnn_gives(
    vision: Any, head: Head, scale: float, zero_point: int
) -> None:
    spec = TensorSpec((1, head.neuron_count), "uint8", scale, zero_point)
    for code in range(256):
        codes = ((np.arange(head.neuron_count) * 37 + code) % 256).astype(np.uint8)
        found = np.empty(len(head.labels), np.float32)

        vision.vision_scores(
            pointer(codes), head.neuron_count, scale, zero_point, pointer(found, c_float), len(head.labels)
        )

        np.testing.assert_array_equal(found, decode(codes[None], spec, head))


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
def test_scores_become_the_decision_that_edgecnn_takes(vision: Any, head: Head) -> None:
    thresholds = {label: 0.4 + 0.15 * number for number, label in enumerate(head.labels)}
    rows = np.random.default_rng(1).random((200, len(head.labels)), np.float32)
    limits = np.array(list(thresholds.values()), np.float32)

    for scores, counts in zip(rows, decide(rows, head, thresholds), strict=True):
        seen = vision.vision_decide(
            pointer(scores, c_float), pointer(limits, c_float), len(head.labels), head.kind == "softmax"
        )

        # Of several labels that count, the microcontroller names the one with the highest score.
        expected = int(np.argmax(np.where(counts, scores, -1))) if counts.any() else -1
        assert seen == expected


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="needs arm-none-eabi-gcc")
def test_it_compiles_for_a_microcontroller_without_a_warning(tmp_path: Path) -> None:
    command = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", *STRICT, "-c", str(SOURCE)]

    done = subprocess.run(
        [*command, "-o", str(tmp_path / "vision.o")], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
