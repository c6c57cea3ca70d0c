"""What the Edge TPU runs of a model: foretold from the file, or decided by the compiler where it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from edgecnn.bundle.flatbuffer import Model, parse
from edgecnn.targets import compiler
from edgecnn.targets.edgetpu_rules import is_conversion_at_the_edge, obstacle, refusal
from edgecnn.targets.graph import (
    Basis,
    Check,
    Node,
    Obstacle,
    OpVerdict,
    nodes,
    operators,
    parameter_bytes,
    summary,
)

ON_CHIP_BYTES: Final = 8 << 20
"""Memory for parameters, of which the compiler needs a part for the program and for activations.

Source: Coral, "Edge TPU compiler", section "Parameter data caching": "roughly 8 MB"; logs of large
models show that up to 7.1 MiB of it hold parameters.
"""


def check(model: Model, flat: bytes) -> Check:
    """Say what the Edge TPU runs, by the compiler where it is on ``PATH``, else by rules.

    Args:
        model: The model.
        flat: The bytes of its flatbuffer, for the compiler.

    Returns:
        A verdict for every operator.

    Raises:
        RuntimeFault: If the compiler is there but cannot be run.
    """
    if compiler.COMPILED_OP in model.custom_operators:
        return _already_compiled(model)
    executable = find_compiler()
    return compiled(model, flat, executable) if executable else predict(model)


def find_compiler() -> Path | None:
    """Look for the compiler on ``PATH``."""
    executable = shutil.which(compiler.NAME)
    return Path(executable) if executable else None


def predict(model: Model) -> Check:
    """Foretell what compiler 16 maps.

    The compiler maps one connected part of the graph, from the inputs on: an operator is mapped if it
    can be and everything that it reads was. So one that stands behind an operator of the CPU stays on
    the CPU, while a branch beside it is mapped.

    Source: Coral, "TensorFlow models on the Edge TPU", section "Compiling": at the first operation
    that is not supported the graph is parted in two, and only the first part runs on the Edge TPU.

    Args:
        model: A model that was not compiled.

    Returns:
        A verdict for every operator, with ``basis`` "prediction".
    """
    steps = tuple(nodes(model))
    refused = next(((node, found) for node in steps if (found := refusal(node))), None)
    if refused:
        return _refused(model, steps, *refused)
    ops, cpu = [], dict[int, Node]()
    for node in steps:
        found = obstacle(node)
        behind = next((cpu[t.index] for t in node.inputs if t is not None and t.index in cpu), None)
        ops.append(_verdict(node, found, behind))
        if (found or behind) and not is_conversion_at_the_edge(node):
            cpu.update((tensor.index, behind or node) for tensor in node.outputs)
    return _finish(model, tuple(ops), None)


def _verdict(node: Node, found: Obstacle | None, behind: Node | None) -> OpVerdict:
    index, op = node.operator.index, node.op
    if behind:
        after = f"it reads what operator {behind.operator.index} ({behind.op}) leads to on the CPU"
        reason = f"{found.reason}; and {after}" if found else after
        return OpVerdict(index, op, False, reason, found.fix if found else None)
    if found:
        return OpVerdict(index, op, False, found.reason, found.fix)
    return OpVerdict(index, op, True)


def _first_blocking(ops: tuple[OpVerdict, ...], steps: tuple[Node, ...]) -> OpVerdict | None:
    """Find the first operator of the CPU that reads nothing from the CPU.

    The conversion of a float input is such a one, too, but takes no other with it: it counts only
    where there is no other.
    """
    left = {op.index for op in ops if not op.mapped}
    given = {
        t.index
        for n in steps
        if n.operator.index in left
        for t in n.outputs
        if not is_conversion_at_the_edge(n)
    }
    roots = [n for n in steps if n.operator.index in left and not given & set(n.operator.inputs)]
    first = next((n for n in roots if not is_conversion_at_the_edge(n)), roots[0] if roots else None)
    return ops[first.operator.index] if first else None


def _refused(model: Model, steps: tuple[Node, ...], culprit: Node, why: Obstacle) -> Check:
    ops = []
    for node in steps:
        found = refusal(node) or obstacle(node)
        other = f"the compiler refuses the file because of operator {culprit.operator.index} ({culprit.op})"
        reason = found.reason if found else other
        ops.append(OpVerdict(node.operator.index, node.op, False, reason, found.fix if found else None))
    first = next(op for op in ops if op.index == culprit.operator.index)
    verdict = (
        f"Compiler 16 is expected to refuse this file: operator {first.index} ({first.op}), {why.reason}."
    )
    return summary(
        model, "edgetpu", tuple(ops), first, "prediction", verdict, on_chip_bytes=ON_CHIP_BYTES
    )  # fmt: skip


def _already_compiled(model: Model) -> Check:
    """Read what a compiled file shows: one operator for the Edge TPU, the rest on the CPU."""
    ops = tuple(
        OpVerdict(o.index, o.op, True, "compiled for the Edge TPU")
        if o.op == compiler.COMPILED_OP
        else OpVerdict(o.index, o.op, False, "the compiler left it on the CPU")
        for o in model.operators
    )
    first = next((op for op in ops if not op.mapped), None)
    verdict = "This file was compiled for the Edge TPU already; " + (
        f"{operators(sum(not op.mapped for op in ops))} stayed on the CPU, the first is {first.op}."
        if first
        else "all of it runs there."
    )
    note = "Check the file that it was compiled from to see why, and how many multiply-accumulates that are."
    return summary(
        model, "edgetpu", ops, first, "compiler", verdict, on_chip_bytes=ON_CHIP_BYTES, notes=(note,)
    )  # fmt: skip


def compiled(model: Model, flat: bytes, executable: Path) -> Check:
    """Compile, and read from the compiled file and the log what was mapped.

    Args:
        model: The model.
        flat: The bytes of its flatbuffer.
        executable: The compiler.

    Returns:
        A verdict for every operator, with ``basis`` "compiler".

    Raises:
        RuntimeFault: If the compiler cannot be run or does not end.
    """
    return judged(model, compiler.run(executable, flat))


def judged(model: Model, result: compiler.Result) -> Check:
    """Read from what the compiler left and said which operators it mapped.

    Args:
        model: What was compiled.
        result: What came of it.

    Returns:
        As ``compiled``.
    """
    foretold = predict(model)
    if result.flat is None:
        return _failed(model, foretold, result.log)
    left = compiler.left_on_cpu(model, parse(result.flat))
    ops = tuple(_decided(op, op.index in left, result.log) for op in foretold.ops)
    return _finish(model, ops, result.log)


def _decided(op: OpVerdict, is_left: bool, log: compiler.Log) -> OpVerdict:
    """Take the compiler's word for whether an operator is mapped, and ours for why where both agree."""
    if not is_left:
        return OpVerdict(op.index, op.op, True)
    said = " or ".join(log.reasons(op.op))
    reason = f"compiler: {said or 'not mapped'}" + (f" ({op.reason})" if op.reason else "")
    return OpVerdict(op.index, op.op, False, reason, op.fix)


def _failed(model: Model, foretold: Check, log: compiler.Log) -> Check:
    why = log.failure or "it gave no reason"
    ops = tuple(
        OpVerdict(op.index, op.op, False, op.reason or f"the compiler failed: {why}", op.fix)
        for op in foretold.ops
    )
    first = foretold.first_blocking_op
    blocking = ops[first.index] if first else ops[0]
    verdict = f"The Edge TPU compiler {log.version or ''} failed: {why}".replace("  ", " ")
    return summary(
        model, "edgetpu", ops, blocking, "compiler", verdict, on_chip_bytes=ON_CHIP_BYTES
    )  # fmt: skip


def _finish(model: Model, ops: tuple[OpVerdict, ...], log: compiler.Log | None) -> Check:
    first = _first_blocking(ops, tuple(nodes(model)))
    size = parameter_bytes(model, (op.index for op in ops if op.mapped))
    basis: Basis = "compiler" if log else "prediction"
    return summary(
        model,
        "edgetpu",
        ops,
        first,
        basis,
        _sentence(ops, first, log),
        on_chip_bytes=ON_CHIP_BYTES,
        notes=_notes(size, log),
    )


def _sentence(ops: tuple[OpVerdict, ...], first: OpVerdict | None, log: compiler.Log | None) -> str:
    mapped, who = sum(op.mapped for op in ops), "is mapped" if log else "is expected to be mapped"
    if first is None:
        return f"All of the network {who} to the Edge TPU: {operators(len(ops))}."
    why = f"operator {first.index} ({first.op}) is the first that stays on the CPU: {first.reason}"
    return f"{mapped} of {operators(len(ops))} {'are' if log else 'are expected to be'} mapped; {why}."


def _notes(size: int, log: compiler.Log | None) -> tuple[str, ...]:
    if log and log.off_chip_bytes is not None and log.on_chip_bytes is not None:
        said = f"Parameters: {_mib(log.on_chip_bytes)} on the chip, {_mib(log.off_chip_bytes)} streamed"
        return (f"{said} at every inference (Edge TPU compiler {log.version}).",)
    if size > ON_CHIP_BYTES:
        return (
            f"The parameters need {_mib(size)}, the chip holds {_mib(ON_CHIP_BYTES)} at most: the rest is "
            "streamed at every inference, which is slow. Use fewer channels.",
        )
    if size > 7 << 20:
        return (
            f"The parameters need {_mib(size)} of {_mib(ON_CHIP_BYTES)}: some may not fit beside the "
            "program.",
        )
    return ()


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.2f} MiB"
