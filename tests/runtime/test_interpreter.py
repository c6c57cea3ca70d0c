from __future__ import annotations

import ctypes.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models

from edgecnn.errors import BundleError, MissingPackageError, RuntimeFault
from edgecnn.runtime import interpreter as room
from edgecnn.runtime.interpreter import open_interpreter


def test_the_light_interpreter_is_taken_before_tensorflow() -> None:
    opened = open_interpreter(tiny_models.flat(), threads=2)
    assert opened.runtime.startswith("ai-edge-litert ")
    assert opened.threads == 2
    assert opened.delegate is None


def test_without_the_light_ones_tensorflows_own_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tiny_models.pictures(1)
    (expected,) = open_interpreter(tiny_models.flat(), threads=1).invoke(picture)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    opened = open_interpreter(tiny_models.flat(), threads=1)
    assert opened.runtime.startswith("tensorflow ")
    np.testing.assert_array_equal(opened.invoke(picture)[0], expected)


def test_without_any_interpreter_the_user_learns_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PACKAGES", (("ai-edge-litert", "no_such_package"),))
    with pytest.raises(MissingPackageError, match="no_such_package") as caught:
        open_interpreter(tiny_models.flat())
    assert "pip install ai-edge-litert" in caught.value.fix


def test_the_old_interpreter_is_not_taken_beside_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PACKAGES", (("tflite-runtime", "json"),))
    monkeypatch.setattr(room.np, "__version__", "2.4.6")
    with pytest.raises(MissingPackageError, match=r"needs numpy below 2; found 2\.4\.6"):
        room.find_package()


def test_default_threads_are_the_cores_of_this_process_up_to_four(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((1, 1), (2, 2), (64, 4)):
        monkeypatch.setattr(room.os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        assert room.default_threads() == threads


def test_no_threads_at_all_are_refused() -> None:
    with pytest.raises(RuntimeFault, match="0 threads"):
        open_interpreter(tiny_models.flat(), threads=0)


def test_outputs_stay_as_they_are_when_the_next_picture_is_computed() -> None:
    opened = open_interpreter(tiny_models.flat(), threads=1)
    one, other = tiny_models.pictures(2)
    (first,) = opened.invoke(one[None])
    kept = first.copy()
    opened.invoke((255 - other)[None])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((1, 16, 16, 1), np.uint8),
        np.zeros((1, 16, 16, 3), np.float32),
    ],
)
def test_another_shape_or_type_than_the_inputs_is_refused_before_it_is_computed(array: np.ndarray) -> None:
    opened = open_interpreter(tiny_models.flat(), threads=1)
    with pytest.raises(BundleError, match=r"has shape \(1, 16, 16, 3\) and type uint8"):
        opened.invoke(array)


def test_a_missing_input_is_noticed() -> None:
    with pytest.raises(BundleError, match="eats 1 inputs; found 0"):
        open_interpreter(tiny_models.flat(), threads=1).invoke()


def test_several_inputs_are_fed_in_their_order(shared: Path) -> None:
    opened = open_interpreter((shared / "reference_models" / "split_concat.tflite").read_bytes(), threads=1)
    arrays = [
        np.full(spec.shape, 10 * number, np.uint8) for number, spec in enumerate(opened.inputs, start=1)
    ]
    assert [spec.shape[3] for spec in opened.inputs] == [3, 1, 2]
    assert {int(out.max()) for out in opened.invoke(*arrays)} <= {10, 20, 30}


def test_a_model_with_an_operator_that_nobody_has_is_refused_with_its_name(shared: Path) -> None:
    model = (shared / "reference_models" / "model_invoking_error.tflite").read_bytes()
    with pytest.raises(RuntimeFault, match="fake-op-double"):
        open_interpreter(model, threads=1)


def test_an_interpreter_that_fails_while_it_computes_gives_an_error_with_a_way_out() -> None:
    opened = open_interpreter(tiny_models.flat(), threads=1)
    real = opened._implementation
    opened._implementation = SimpleNamespace(
        set_tensor=real.set_tensor, invoke=lambda: real.set_tensor(9_999, np.zeros(1))
    )
    with pytest.raises(RuntimeFault, match="failed to run the model") as caught:
        opened.invoke(tiny_models.pictures(1))
    assert caught.value.fix


def opens(path: Path) -> bool:
    try:
        return bool(open_interpreter(path.read_bytes(), threads=1).outputs)
    except RuntimeFault:
        return False


def test_every_reference_model_opens_but_those_for_other_hardware(shared: Path) -> None:
    paths = sorted((shared / "reference_models").glob("*.tflite"))
    refused = {path.stem for path in paths if not opens(path)}
    compiled = {path.stem for path in paths if path.stem.endswith("_edgetpu")}
    assert len(paths) == 15
    assert refused == compiled | {"model_invoking_error"}


def test_a_damaged_model_never_reaches_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "find_package", lambda: pytest.fail("the interpreter was asked for"))
    model = tiny_models.flat()
    with pytest.raises(BundleError, match="damaged"):
        open_interpreter(model[: len(model) // 2])


def test_a_compiled_model_without_its_delegate_says_where_it_runs(shared: Path) -> None:
    model = (shared / "reference_models" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite").read_bytes()
    with pytest.raises(RuntimeFault, match="compiled for the Edge TPU") as caught:
        open_interpreter(model)
    assert "--delegate edgetpu" in caught.value.fix


@pytest.mark.skipif(
    ctypes.util.find_library("edgetpu") is not None, reason="an Edge TPU library is installed"
)
def test_where_there_is_no_edge_tpu_library_its_absence_is_said(
    shared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = (shared / "reference_models" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite").read_bytes()
    with pytest.raises(RuntimeFault, match=r"libedgetpu\.so\.1.*cannot be loaded"):
        open_interpreter(model, delegate="edgetpu")
    assert "Traceback" not in capfd.readouterr().err


def test_an_edge_tpu_is_not_asked_to_run_what_was_not_compiled_for_it() -> None:
    with pytest.raises(RuntimeFault, match="only models that its compiler made"):
        open_interpreter(tiny_models.flat(), delegate="edgetpu")


def test_a_library_that_is_no_delegate_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    libc = ctypes.util.find_library("c")
    assert libc
    with pytest.raises(RuntimeFault, match="no TFLite delegate"):
        open_interpreter(tiny_models.flat(), delegate=libc)
    assert "Traceback" not in capfd.readouterr().err
