"""The real compiler's word counts where it is on PATH.

The compiler cannot be had here: it is proprietary and in no package registry. A stand-in prints the log
that compiler 16.0.384591198 prints, and hands out the file that Google's compiler made of the same model.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgecnn.bundle.flatbuffer import parse
from edgecnn.errors import RuntimeFault
from edgecnn.targets import compiler, edgetpu

DEEPLAB = "deeplabv3_mnv2_dm05_pascal_quant"

LOG = """\
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 1893 ms.

Input model: model.tflite
Input size: 743.07KiB
Output model: model_edgetpu.tflite
Output size: 1.06MiB
On-chip memory used for caching model parameters: 606.00KiB
On-chip memory remaining for caching model parameters: 4.83MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 72
Operation log: model_edgetpu.log

Model successfully compiled but not all operations are supported by the Edge TPU. A percentage of the model \
will instead run on the CPU, which is slower. If possible, consider updating your model to use only \
operations supported by the Edge TPU. For details, visit g.co/coral/model-reqs.
Number of operations that will run on Edge TPU: 64
Number of operations that will run on CPU: 8

Operator                       Count      Status

ADD                            10         Mapped to Edge TPU
ARG_MAX                        1          Operation is working on an unsupported data type
AVERAGE_POOL_2D                1          Mapped to Edge TPU
CONCATENATION                  1          More than one subgraph is not supported
CONV_2D                        2          More than one subgraph is not supported
CONV_2D                        36         Mapped to Edge TPU
DEPTHWISE_CONV_2D              17         Mapped to Edge TPU
QUANTIZE                       1          More than one subgraph is not supported
RESIZE_BILINEAR                1          Operation is otherwise supported, but not mapped due to some \
unspecified limitation
RESIZE_BILINEAR                2          More than one subgraph is not supported
Compilation child process completed within timeout period.
Compilation succeeded!
"""

REFUSED = """\
Edge TPU Compiler version 16.0.384591198
ERROR: Didn't find op for builtin opcode 'CONV_2D' version '6'. An older version of this builtin might be \
supported. Are you using an old TFLite binary with a newer model?

ERROR: Registration failed.

Invalid model: model.tflite
Model could not be parsed
"""


def stand_in(folder: Path, log: str, output: Path | None) -> Path:
    """Write an executable that prints ``log``, and copies ``output`` to where the compiler would write."""
    (folder / "log.txt").write_text(log)
    path = folder / compiler.NAME
    path.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, shutil, sys\n"
        "show, flag, out, model = sys.argv[1:]\n"
        "assert (show, flag) == ('-s', '-o') and pathlib.Path(model).read_bytes()[4:8] == b'TFL3'\n"
        f"print(pathlib.Path({str(folder / 'log.txt')!r}).read_text())\n"
        f"output = {str(output)!r}\n"
        "if output != 'None':\n"
        "    shutil.copy(output, pathlib.Path(out, pathlib.Path(model).stem + '_edgetpu.tflite'))\n"
        "else:\n"
        "    sys.exit(1)\n"
    )
    path.chmod(0o755)
    return path


def source(shared: Path, name: str = DEEPLAB) -> bytes:
    return (shared / "reference_models" / f"{name}.tflite").read_bytes()


def test_a_real_log_is_read_with_its_memory_and_its_reasons() -> None:
    log = compiler.parse_log(LOG)

    assert (log.version, log.on_chip_bytes, log.off_chip_bytes, log.failure) == (
        "16.0.384591198",
        606 * 1024,
        0,
        None,
    )
    assert (len(log.rows), sum(count for _, count, _ in log.rows)) == (10, 72)
    assert log.reasons("QUANTIZE") == (compiler.BEHIND,)


def test_a_compiler_on_path_decides_operator_by_operator(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = shared / "reference_models" / f"{DEEPLAB}_edgetpu.tflite"
    stand_in(tmp_path, LOG, output)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    flat = source(shared)

    check = edgetpu.check(parse(flat), flat)

    assert check.basis == "compiler"
    assert [op.index for op in check.ops if not op.mapped] == list(range(64, 72))
    assert check.first_blocking_op is check.ops[64]
    assert "unspecified limitation" in (check.ops[64].reason or "")
    assert "0.59 MiB on the chip" in check.notes[0]


def test_a_compiler_that_contradicts_the_prediction_is_believed(shared: Path, tmp_path: Path) -> None:
    output = shared / "reference_models" / "split_concat_edgetpu.tflite"
    flat = source(shared)

    check = edgetpu.compiled(parse(flat), flat, stand_in(tmp_path, LOG, output))

    # Nothing of this network is left in the file that came out: so all of it was mapped.
    assert check.passed


def test_a_file_that_the_compiler_refuses_maps_nowhere_and_says_why(shared: Path, tmp_path: Path) -> None:
    flat = source(shared, "vww_96_int8")

    check = edgetpu.compiled(parse(flat), flat, stand_in(tmp_path, REFUSED, None))

    assert (check.basis, sum(op.mapped for op in check.ops)) == ("compiler", 0)
    assert "version '6'" in check.verdict


def test_a_compiler_that_cannot_be_started_is_reported(shared: Path, tmp_path: Path) -> None:
    broken = tmp_path / compiler.NAME
    broken.write_text("#!/nowhere/at/all\n")
    broken.chmod(0o755)
    flat = source(shared)

    with pytest.raises(RuntimeFault, match="could not compile"):
        edgetpu.compiled(parse(flat), flat, broken)
