"""The Edge TPU compiler as another process: run it, read its log, and compare what it left."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecnn.bundle.flatbuffer import Model, Operator
from edgecnn.errors import RuntimeFault

NAME: Final = "edgetpu_compiler"

COMPILED_OP: Final = "edgetpu-custom-op"
"""Name of the one operator that stands for all that the compiler mapped."""

MAPPED: Final = "Mapped to Edge TPU"
BEHIND: Final = "More than one subgraph is not supported"
"""How the compiler says that an operator stands behind one that it could not map (issue 461 of
https://github.com/google-coral/edgetpu)."""

_TIMEOUT_S: Final = 600.0
"""The compiler gives up by itself after 180 s, unless it was told otherwise."""

_ROW: Final = re.compile(r"^([A-Za-z][\w-]*)\s{2,}(\d+)\s{2,}(\S.*?)\s*$", re.MULTILINE)
_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_FAILURES: Final = (
    r"^ERROR: *(.+)$",
    r"^Compilation failed: *(.+)$",
    r"^(Internal compiler error.*)$",
    r"^(Invalid model.*)$",
    r"^(Compilation failed.*)$",
)


@dataclass(frozen=True, slots=True)
class Log:
    """What the compiler printed.

    Attributes:
        version: ``16.0.384591198`` ...; empty where it did not say.
        rows: Operator, count and status, as in the table at the end.
        on_chip_bytes: Parameters that the chip keeps; None where the log does not say.
        off_chip_bytes: Parameters that are streamed at every inference; None where it does not say.
        failure: Why nothing came out; None where something did.
    """

    version: str
    rows: tuple[tuple[str, int, str], ...]
    on_chip_bytes: int | None
    off_chip_bytes: int | None
    failure: str | None

    def reasons(self, op: str) -> tuple[str, ...]:
        """Give what the log says of the operators of one kind that were not mapped."""
        return tuple(status for name, _, status in self.rows if name == op and status != MAPPED)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a compilation: the log, and the compiled flatbuffer unless it failed."""

    log: Log
    flat: bytes | None


def parse_log(text: str) -> Log:
    """Read what ``edgetpu_compiler -s`` prints.

    Args:
        text: Standard output and standard error.

    Returns:
        What could be found; nothing is required.

    Example:
        >>> log = parse_log('''Edge TPU Compiler version 16.0.384591198
        ... On-chip memory used for caching model parameters: 6.89MiB
        ... Operator                       Count      Status
        ...
        ... HARD_SWISH                     2          Operation not supported
        ... CONV_2D                        63         Mapped to Edge TPU
        ... ''')
        >>> log.version, log.reasons("HARD_SWISH"), log.on_chip_bytes
        ('16.0.384591198', ('Operation not supported',), 7224688)
    """
    version = re.search(r"Edge TPU Compiler version (\S+)", text)
    _, _, table = text.partition("Operator ")
    rows = tuple((name, int(count), status) for name, count, status in _ROW.findall(table))
    return Log(
        version[1] if version else "",
        tuple(row for row in rows if row[0] != "Count"),
        _bytes(text, "On-chip memory used for caching model parameters"),
        _bytes(text, "Off-chip memory used for streaming uncached model parameters"),
        next((m[1].strip() for p in _FAILURES if (m := re.search(p, text, re.MULTILINE))), None),
    )


def _bytes(text: str, what: str) -> int | None:
    found = re.search(rf"{what}: *([\d.]+) *([KMG]?i?B)", text)
    if not found or found[2] not in _UNITS:
        return None
    return int(float(found[1]) * _UNITS[found[2]])


def run(executable: Path, flat: bytes) -> Result:
    """Compile a model in a folder of its own.

    Args:
        executable: The compiler.
        flat: The bytes of a flatbuffer.

    Returns:
        The log, and the compiled flatbuffer; None for it where the compiler gave none.

    Raises:
        RuntimeFault: If it cannot be started or does not end.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "model.tflite")
        source.write_bytes(flat)
        command = [str(executable), "-s", "-o", folder, str(source)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeFault(
                f"'{executable}' could not compile the model: {error}.",
                fix="Install the Edge TPU compiler anew, or take it off PATH to get a prediction.",
            ) from error
        log = parse_log(f"{done.stdout}\n{done.stderr}")
        output = source.with_name("model_edgetpu.tflite")
        return Result(log, output.read_bytes() if output.is_file() else None)


def left_on_cpu(source: Model, compiled: Model) -> frozenset[int]:
    """Find out which operators of a model its compiled file still has.

    The compiler replaces what it mapped by one custom operator, and keeps the rest with the names of
    its tensors.

    Args:
        source: What was compiled.
        compiled: What came out.

    Returns:
        Numbers of the operators of ``source`` that run on the CPU.
    """
    left = {_signature(o, compiled) for o in compiled.operators if o.op != COMPILED_OP}
    return frozenset(o.index for o in source.operators if _signature(o, source) in left)


def _signature(operator: Operator, model: Model) -> tuple[str, tuple[str, ...]]:
    return operator.op, tuple(model.tensors[index].name for index in operator.outputs)
