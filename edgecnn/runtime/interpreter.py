"""The one door to a TFLite interpreter, whichever package brings it."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle import flatbuffer
from edgecnn.bundle.layers import EDGETPU_OPERATOR
from edgecnn.core.tensor import TensorSpec
from edgecnn.errors import BundleError, MissingPackageError, RuntimeFault
from edgecnn.runtime.quiet import quietly

"""What the Edge TPU compiler puts in the place of all that it mapped."""

EDGETPU_LIBRARY: Final = "libedgetpu.so.1"

PACKAGES: Final = (
    ("ai-edge-litert", "ai_edge_litert.interpreter"),
    ("tflite-runtime", "tflite_runtime.interpreter"),
    ("tensorflow", "tensorflow.lite.python.interpreter"),
)
"""Packages with an interpreter, best first; the last weighs half a gigabyte."""

_MAX_DEFAULT_THREADS: Final = 4


Write = Callable[[NDArray[Any], NDArray[np.uint8]], None]


@dataclass(frozen=True, slots=True)
class _Package:
    name: str
    module: ModuleType

    @property
    def label(self) -> str:
        try:
            return f"{self.name} {importlib.metadata.version(self.name)}"
        except importlib.metadata.PackageNotFoundError:
            return self.name


class Interpreter:
    """A model that is ready to be invoked.

    Not for several threads at once: its tensors are written in place.

    Attributes:
        inputs: What it eats, in order.
        outputs: What it gives, in order.
        runtime: The package that computes, with its version.
        threads: How many threads compute.
        delegate: What else computes; None for the CPU alone.
    """

    def __init__(self, implementation: Any, runtime: str, threads: int, delegate: str | None) -> None:
        self.runtime = runtime
        self.threads = threads
        self.delegate = delegate
        inputs, outputs = implementation.get_input_details(), implementation.get_output_details()
        self.inputs = tuple(_spec(detail) for detail in inputs)
        self.outputs = tuple(_spec(detail) for detail in outputs)
        self._input_indices = [detail["index"] for detail in inputs]
        self._output_indices = [detail["index"] for detail in outputs]
        self._first_view = implementation.tensor(self._input_indices[0]) if inputs else _nothing
        self._picture_shape = self.inputs[0].shape[1:] if inputs else ()
        self._implementation = implementation

    def invoke(self, *codes: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Compute the outputs.

        Args:
            codes: One array per input, of its shape and type.

        Returns:
            One array per output; copies, which the next call leaves alone.

        Raises:
            BundleError: If an array has another shape or type than its input.
            RuntimeFault: If the interpreter cannot compute them.
        """
        if len(codes) != len(self.inputs):
            raise BundleError(
                f"The model eats {len(self.inputs)} inputs; found {len(codes)}.",
                fix="Give one array per input.",
            )
        for number, (array, spec) in enumerate(zip(codes, self.inputs, strict=True)):
            if array.shape != spec.shape or array.dtype != spec.dtype:
                raise BundleError(
                    f"Input {number} of the model has shape {spec.shape} and type {spec.dtype}; "
                    f"found {array.shape} and {array.dtype}.",
                    fix="Resize the picture with edgecnn.core.frame.resize.",
                )
            self._implementation.set_tensor(self._input_indices[number], array)
        return self._run()

    def invoke_bytes(self, pixels: NDArray[np.uint8], write: Write | None) -> tuple[NDArray[Any], ...]:
        """Compute the outputs for one picture.

        Args:
            pixels: Of the shape of the only input, without the batch of 1 in front.
            write: Puts what the bytes stand for into the interpreter's own memory, which it is given
                first; None puts the bytes there as they are.

        Returns:
            As ``invoke``.

        Raises:
            BundleError: If ``pixels`` do not fit the input.
            RuntimeFault: If the interpreter cannot compute them.
        """
        if pixels.shape != self._picture_shape or pixels.dtype != np.uint8:
            raise BundleError(
                f"The model eats pictures of shape {self._picture_shape}; "
                f"found {pixels.shape} of type {pixels.dtype}.",
                fix="Resize the picture with edgecnn.core.frame.resize.",
            )
        if write is None:
            self._implementation.set_tensor(self._input_indices[0], pixels[None])
        else:
            # The view is gone with the call: the interpreter refuses to run while there is one.
            write(self._first_view()[0], pixels)
        return self._run()

    def tensor(self, index: int) -> NDArray[Any]:
        """Copy one tensor of the graph, as the last run left it; needs ``keep_all``."""
        values: NDArray[Any] = self._implementation.get_tensor(index)
        return values

    def _run(self) -> tuple[NDArray[Any], ...]:
        try:
            self._implementation.invoke()
        except (RuntimeError, ValueError) as error:
            raise RuntimeFault(
                f"{self.runtime} failed to run the model: {_brief(error)}.",
                fix="Look at the accelerator: its cable, its port, its power."
                if self.delegate
                else "Convert the model again; 'edgecnn inspect' lists its operators.",
            ) from error
        get = self._implementation.get_tensor
        return tuple([get(index) for index in self._output_indices])


def default_threads() -> int:
    """All cores that this process may use, up to 4; more make small networks slower."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, min(len(os.sched_getaffinity(0)), _MAX_DEFAULT_THREADS))
    return max(1, min(os.cpu_count() or 1, _MAX_DEFAULT_THREADS))


def open_interpreter(
    model: bytes, threads: int | None = None, delegate: str | None = None, keep_all: bool = False
) -> Interpreter:
    """Verify a model and make it ready.

    Args:
        model: The bytes of a ``.tflite`` file.
        threads: How many may compute; None for ``default_threads()``.
        delegate: ``edgetpu``, or the path of a delegate's library; None for the CPU alone.
        keep_all: Keep every tensor after a run for ``Interpreter.tensor``; costs memory and time.

    Returns:
        The interpreter, its tensors allocated.

    Raises:
        BundleError: If the model is damaged.
        MissingPackageError: If no interpreter is installed.
        RuntimeFault: If the interpreter refuses the model, or the delegate is missing.
    """
    if threads is not None and threads < 1:
        raise RuntimeFault(f"{threads} threads cannot compute anything.", fix="Give 1 or more.")
    parsed = flatbuffer.parse(model)
    _check_delegate(parsed.custom_operators, delegate)
    package = find_package()
    if package.name == "tflite-runtime":
        _check_old_runtime(parsed, package.label)
    count = default_threads() if threads is None else threads
    delegates = [_load_delegate(package, delegate)] if delegate else None
    try:
        with quietly():
            implementation = package.module.Interpreter(
                model_content=model,
                num_threads=count,
                experimental_delegates=delegates,
                experimental_preserve_all_tensors=keep_all,
            )
            implementation.allocate_tensors()
            return Interpreter(implementation, package.label, count, delegate)
    # A std::bad_alloc, from a model that asks for more than there is, comes as MemoryError.
    except (RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise RuntimeFault(
            f"{package.label} cannot open the model: {_brief(error)}.", fix=_way_out(str(error))
        ) from error


def find_package() -> _Package:
    """Import the best interpreter that is installed.

    Raises:
        MissingPackageError: If there is none.
    """
    reasons = []
    for name, module in PACKAGES:
        try:
            with quietly():
                found = importlib.import_module(module)
        except ImportError as error:
            reasons.append(f"{name}: {error}")
            continue
        if name == "tflite-runtime" and int(np.__version__.split(".")[0]) >= 2:
            # It imports with numpy 2, and fails at the first interpreter.
            reasons.append(f"{name} needs numpy below 2; found {np.__version__}")
            continue
        return _Package(name, found)
    raise MissingPackageError(
        f"No TFLite interpreter can be imported ({'; '.join(reasons)}).",
        fix="Install one: pip install ai-edge-litert, or on a 32-bit Pi OS tflite-runtime with 'numpy<2'.",
    )


def _check_delegate(custom_operators: tuple[str, ...], delegate: str | None) -> None:
    is_compiled = EDGETPU_OPERATOR in custom_operators
    if is_compiled and delegate is None:
        raise RuntimeFault(
            "This model was compiled for the Edge TPU, and no delegate was asked for.",
            fix="Run it with --delegate edgetpu where a Coral is attached, or take the file from before.",
        )
    if delegate == "edgetpu" and not is_compiled:
        raise RuntimeFault(
            f"The Edge TPU runs only models that its compiler made; this one has no {EDGETPU_OPERATOR}.",
            fix="Compile it with edgetpu_compiler, or leave out --delegate.",
        )


def _check_old_runtime(model: flatbuffer.Model, runtime: str) -> None:
    """Refuse what tflite-runtime 2.14 knows no kernel of, before it looks for one."""
    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator.op.startswith("STABLEHLO"):
                raise RuntimeFault(
                    f"{runtime} has no operator {operator.op}.",
                    fix="Convert the model with 'edgecnn convert', which uses TFLite's own operators.",
                )


def _load_delegate(package: _Package, delegate: str) -> Any:
    library = EDGETPU_LIBRARY if delegate == "edgetpu" else delegate
    try:
        # Tried first: an object of a delegate that could not be loaded prints a traceback when it dies.
        if not hasattr(ctypes.CDLL(library), "tflite_plugin_create_delegate"):
            raise ValueError("it is a library, and no TFLite delegate")
        return package.module.load_delegate(library)
    except (OSError, ValueError, RuntimeError) as error:
        raise RuntimeFault(
            f"The delegate '{library}' cannot be loaded: {_brief(error)}.",
            fix=_delegate_way_out(delegate),
        ) from error


def _delegate_way_out(delegate: str) -> str:
    if delegate == "edgetpu":
        return "Install libedgetpu1-std from Coral's repository, and attach the Edge TPU."
    return "Check the path, and that the library was built for this machine."


def _way_out(reason: str) -> str:
    if "custom op" in reason:
        return "The model needs an operator that only its own runtime or delegate has: pass --delegate."
    return "Copy the file again, or convert the model again with 'edgecnn convert'."


def _brief(error: BaseException) -> str:
    """Keep the first sentence of an interpreter's message, which runs to many lines."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.split(" See instructions:")[0]
    return text[:200].rstrip(".")


def _nothing() -> NDArray[Any]:
    return np.empty((1, 0))


def _spec(detail: dict[str, Any]) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    shape = tuple(int(size) for size in detail["shape"])
    return TensorSpec(shape, np.dtype(detail["dtype"]).name, float(scale), int(zero_point))
