"""What a target wants beside the file: an Edge TPU a compiled one, a microcontroller C source."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgecnn.bundle import file as bundle_file
from edgecnn.bundle.file import Bundle
from edgecnn.bundle.flatbuffer import Model, parse
from edgecnn.errors import CheckFailed
from edgecnn.targets import c_array, compiler, cpu, edgetpu, micro
from edgecnn.targets.graph import Check, Target

EDGETPU_TOLERANCE_CODES: Final = 32
"""How far an output of the Edge TPU may lie from the CPU's for the same picture, of 256 codes.

Not measured: there is no Edge TPU where this was written. One code before a softmax or sigmoid can be
six behind it, so this is wide; it is to catch a wrong file, a wrong input or a broken chip."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a target makes of a model.

    Attributes:
        check: Operator by operator.
        compiled: The flatbuffer for the Edge TPU, where its compiler made one.
    """

    check: Check
    compiled: bytes | None = None


def examine(flat: bytes, target: Target) -> Fit:
    """Ask a target before anything is written.

    Args:
        flat: The bytes of a flatbuffer.
        target: What is to run it.

    Returns:
        The answer.

    Raises:
        CheckFailed: If the Edge TPU runs no operator of it, or another target not every one.
        ModelError: If it is to become C source and the C side could not feed it.
        RuntimeFault: If the Edge TPU compiler is there and cannot be run.
    """
    model = parse(flat)
    if target == "edgetpu":
        fit = _for_edgetpu(model, flat)
        is_fit = any(op.mapped for op in fit.check.ops)
    else:
        if target == "micro":
            c_array.refuse_unfit(model)
        fit = Fit(micro.check(model, flat) if target == "micro" else cpu.check(model))
        is_fit = fit.check.passed
    if not is_fit:
        blocking = fit.check.first_blocking_op
        raise CheckFailed(
            f"Nothing was written: {fit.check.verdict}",
            fix=(blocking.fix if blocking else None) or f"See 'edgecnn check --target {target}'.",
        )
    return fit


def deliver(bundle: Bundle, fit: Fit) -> tuple[Path, ...]:
    """Write what the target wants beside the file.

    A file that was compiled for the Edge TPU cannot run here, so that it keeps the outputs that the CPU
    gave, and says how far the Edge TPU may be from them.

    Returns:
        What was written.
    """
    if fit.check.target == "micro":
        return c_array.write(bundle, fit.check)
    if fit.compiled is None or bundle.manifest is None:
        return ()
    path = bundle.path.with_name(f"{bundle.path.stem}_edgetpu.tflite")
    manifest = replace(bundle.manifest, golden_tolerance_codes=EDGETPU_TOLERANCE_CODES)
    return (bundle_file.write(path, fit.compiled, manifest, bundle.golden).path,)


def _for_edgetpu(model: Model, flat: bytes) -> Fit:
    executable = edgetpu.find_compiler()
    if executable is None:
        return Fit(edgetpu.predict(model))
    result = compiler.run(executable, flat)
    return Fit(edgetpu.judged(model, result), result.flat)
