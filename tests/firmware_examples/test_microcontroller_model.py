"""A model as C source: what stands in it, who compiles it, and that it decides as the file does."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orange
import pytest
import tiny_models
from blobs import RECIPE, write_blobs

from edgecnn.bundle.file import Bundle
from edgecnn.bundle.flatbuffer import parse
from edgecnn.core.frame import resize
from edgecnn.errors import CheckFailed, EdgecnnError, ModelError
from edgecnn.runtime.predictor import load
from edgecnn.targets import c_array, micro
from edgecnn.targets.graph import Target
from edgecnn.workstation import delivery
from edgecnn.workstation.convert import convert
from edgecnn.workstation.data.catalog import Dataset, open_dataset

STRICT = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
COMPILERS = {"gcc": ["gcc"], "arm-none-eabi-gcc": ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb"]}

TFLITE_MICRO = """
import sys
import numpy as np
from tflite_micro import runtime

model, arena_bytes, pictures, out = sys.argv[1:]
interpreter = runtime.Interpreter.from_file(model, arena_size=int(arena_bytes))
rows = []
for picture in np.load(pictures):
    interpreter.set_input(picture[None], 0)
    interpreter.invoke()
    rows.append(interpreter.get_output(0).copy())
np.save(out, np.concatenate(rows))
"""

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc: apt-get install gcc")
needs_tflite_micro = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="needs tflite-micro, which is not installed"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made = orange.write_model(tmp_path_factory.mktemp("orange") / "model.tflite")
    c_array.write(made, micro.check(parse(made.model), made.model))
    return made


def needs(compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")


def defined(header: Path, name: str) -> str:
    (value,) = re.findall(rf"(?m)^#define MODEL_{name} (.*)$", header.read_text())
    return str(value)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_array_and_the_header_alone_compile_without_a_warning(
    bundle: Bundle, tmp_path: Path, compiler: str
) -> None:
    needs(compiler)
    alone = ["-x", "c", "-fsyntax-only", str(bundle.path.with_suffix(".h"))]

    for arguments in (["-c", str(bundle.path.with_suffix(".c")), "-o", str(tmp_path / "model.o")], alone):
        done = subprocess.run(
            [*COMPILERS[compiler], *STRICT, *arguments], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_cpp_reads_the_header_and_registers_each_kernel_once(bundle: Bundle, tmp_path: Path) -> None:
    program = tmp_path / "program.cc"
    program.write_text(
        f'#include "{bundle.path.with_suffix(".h")}"\n'
        "#include <cstdio>\n#define ADD(op) std::puts(#op);\n"
        "int main() { MODEL_OPERATORS(ADD) return MODEL_OPERATOR_COUNT; }\n"
    )
    subprocess.run(
        ["g++", "-Wall", "-Wextra", "-Werror", str(program), "-o", str(tmp_path / "program")], check=True
    )

    done = subprocess.run([str(tmp_path / "program")], capture_output=True, text=True, check=False)

    kinds = {c_array.method_of(operator.op) for operator in parse(bundle.model).operators}
    assert set(done.stdout.split()) == kinds
    assert len(done.stdout.split()) == done.returncode == len(kinds)


@needs_gcc
def test_the_array_holds_the_flatbuffer_byte_for_byte_aligned_and_without_the_files_behind_it(
    bundle: Bundle, tmp_path: Path
) -> None:
    library = tmp_path / "model.so"
    source = bundle.path.with_suffix(".c")
    subprocess.run(["gcc", *STRICT, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))

    data = (ctypes.c_uint8 * len(bundle.model)).in_dll(loaded, "model_data")
    labels = (ctypes.c_char_p * 2).in_dll(loaded, "model_labels")
    thresholds = (ctypes.c_float * 2).in_dll(loaded, "model_thresholds")

    assert bytes(data) == bundle.model
    assert ctypes.addressof(data) % c_array.ALIGNMENT_BYTES == 0
    assert len(bundle.model) < bundle.size_bytes
    assert ([label.decode() for label in labels], list(thresholds)) == (["no_fire", "fire"], [0.5, 0.5])


def test_the_constants_say_what_the_tensors_say(bundle: Bundle) -> None:
    header = bundle.path.with_suffix(".h")
    interpreter = load(bundle.path).interpreter

    for name, spec in (("INPUT", interpreter.inputs[0]), ("OUTPUT", interpreter.outputs[0])):
        scale = np.float32(defined(header, f"{name}_SCALE").rstrip("f"))
        assert (scale, int(defined(header, f"{name}_ZERO_POINT"))) == (
            np.float32(spec.scale),
            spec.zero_point,
        )
    # Of the array, which a signature of the file leaves as it is.
    assert defined(header, "SHA256") == f'"{hashlib.sha256(bundle.model).hexdigest()}"'
    assert [defined(header, f"{side}_PX") for side in ("HEIGHT", "WIDTH")] == ["16", "16"]


@needs_gcc
def test_labels_of_any_language_arrive_as_they_are(tmp_path: Path) -> None:
    labels = ("Feuer 火", 'what??/ "no" \\', "0 7")
    bundle = tiny_models.write(tmp_path / "m.tflite", labels=labels)
    c_array.write(bundle, micro.check(parse(bundle.model), bundle.model))
    library = tmp_path / "m.so"
    source = str(tmp_path / "m.c")
    subprocess.run(["gcc", *STRICT, "-shared", "-fPIC", source, "-o", str(library)], check=True)

    found = (ctypes.c_char_p * 3).in_dll(ctypes.CDLL(str(library)), "model_labels")

    assert tuple(label.decode() for label in found) == labels


@needs_tflite_micro
def test_the_model_decides_in_tflite_micro_as_in_litert_with_the_very_arena_of_the_header(
    bundle: Bundle, tmp_path: Path
) -> None:
    pictures = np.concatenate(
        [tiny_models.pictures(16), *(p[None] for p in np.linspace((0, 128, 255), (255, 128, 0), 32)
         .astype(np.uint8)[:, None, None].repeat(16, 1).repeat(16, 2))]
    )  # fmt: skip
    arena = int(defined(bundle.path.with_suffix(".h"), "ARENA_BYTES"))
    expected = in_litert(bundle.model, pictures)

    found = in_tflite_micro(bundle.model, arena, pictures, tmp_path)

    assert len(np.unique(expected)) > 10
    np.testing.assert_array_equal(found, expected)


def in_litert(flat: bytes, pictures: np.ndarray) -> np.ndarray:
    """Run a model by LiteRT's own kernels, without XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    own = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=flat, num_threads=1, experimental_op_resolver_type=own)
    interpreter.allocate_tensors()
    eaten, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for picture in pictures:
        interpreter.set_tensor(eaten["index"], picture[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(given["index"]))
    return np.concatenate(rows)


def in_tflite_micro(flat: bytes, arena_bytes: int, pictures: np.ndarray, folder: Path) -> np.ndarray:
    """Run a model in a child of its own, because tflite-micro may end the whole process."""
    (folder / "flat.tflite").write_bytes(flat)
    np.save(folder / "pictures.npy", pictures)
    names = [str(folder / "flat.tflite"), str(arena_bytes), str(folder / "pictures.npy")]
    done = subprocess.run(
        [sys.executable, "-c", TFLITE_MICRO, *names, str(folder / "out.npy")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-600:]
    return np.asarray(np.load(folder / "out.npy"))


def test_without_tflite_micro_there_is_no_arena_rather_than_a_guess(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    text = c_array.header(bundle, micro.check(parse(bundle.model), bundle.model))

    assert "MODEL_ARENA_BYTES" not in text
    assert "pip install" in text


@pytest.mark.parametrize("precision", ["float32", "signed"])
def test_a_model_that_does_not_eat_bytes_becomes_no_c_source(precision: str) -> None:
    with pytest.raises(ModelError, match="bytes in and out"):
        c_array.refuse_unfit(parse(tiny_models.flat(precision)))


# From pictures to C -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    """A Keras model and its pictures."""
    from edgecnn.workstation.recipe import parse as recipe
    from edgecnn.workstation.train import train

    folder = tmp_path_factory.mktemp("trained")
    data = open_dataset(write_blobs(folder / "data"))
    return train(recipe(RECIPE), RECIPE, data, folder / "out").path, data


@needs_tflite_micro
def test_convert_for_a_microcontroller_writes_the_file_and_its_c_source_which_decide_alike(
    trained: tuple[Path, Dataset], tmp_path: Path
) -> None:
    model, data = trained
    out = tmp_path / "model.tflite"

    made = convert(model, out, "int8", data, target="micro")

    assert made.beside == (tmp_path / "model.h", tmp_path / "model.c")
    predictor = load(out)
    pictures = np.stack([resize(p.read(), predictor.input) for p in data.split("val")])
    arena = int(defined(tmp_path / "model.h", "ARENA_BYTES"))
    micro_codes = in_tflite_micro(made.bundle.model, arena, pictures, tmp_path)
    np.testing.assert_array_equal(micro_codes, in_litert(made.bundle.model, pictures))
    # XNNPACK, by which edgecnn computes elsewhere, rounds in its own way: other codes, the same decisions.
    xnnpack_codes = np.concatenate([predictor.interpreter.invoke(p[None])[0] for p in pictures])
    np.testing.assert_array_equal(micro_codes.argmax(axis=1), xnnpack_codes.argmax(axis=1))


@pytest.mark.parametrize(("target", "error"), [("micro", ModelError), ("edgetpu", CheckFailed)])
def test_a_target_that_cannot_run_the_model_leaves_nothing_behind(
    trained: tuple[Path, Dataset], tmp_path: Path, target: Target, error: type[EdgecnnError]
) -> None:
    model, data = trained

    with pytest.raises(error) as caught:
        convert(model, tmp_path / "m.tflite", "float32", data, target=target)

    assert "--precision int8" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_network_with_an_operator_that_the_microcontroller_lacks_fails_the_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)  # our list decides alone
    monkeypatch.setitem(micro.KERNELS, "LOGISTIC", ("float32",))
    flat = tiny_models.flat("int8", 1, "sigmoid")

    with pytest.raises(CheckFailed, match="Nothing was written"):
        delivery.examine(flat, "micro")
