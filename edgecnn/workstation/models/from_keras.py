"""A network that starts from a Keras file or from Keras's own ImageNet weights, layer by layer by name."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from edgecnn.errors import ModelError
from edgecnn.workstation.backend import keras
from edgecnn.workstation.models.fitting import (
    InitReport,
    Plan,
    adapt,
    apply,
    border_note,
    is_grey_of,
    is_head,
    kind,
    kind_or_none,
    norm_after,
    weighted,
)
from edgecnn.workstation.models.folded import Floats, Normalisation

_FROM_MINUS_1_TO_1 = Normalisation(np.array([1 / 127.5], np.float32), np.array([-1], np.float32))
"""Keras's own MobileNets; ``preprocess_input`` of mode "tf"."""

_MEAN_REMOVED = Normalisation(np.ones(1, np.float32), -np.array([123.68, 116.779, 103.939], np.float32))
"""Keras's own VGG16, red first; ``preprocess_input`` of mode "caffe", which also swaps red and blue."""

KERAS_NORMALISATION = {
    "mobilenet_v1": _FROM_MINUS_1_TO_1,
    "mobilenet_v2": _FROM_MINUS_1_TO_1,
    "vgg16": _MEAN_REMOVED,
}

_DOWNLOAD_TIMEOUT_S = 20.0
_WRAPPERS = ("prune_low_magnitude_", "quant_")
"""What TFMOT puts before the name of a layer that it wraps."""


def copy_by_name(
    model: Any, source: str, weights: Mapping[str, Mapping[str, Floats]], made_for: Normalisation
) -> InitReport:
    """Copy by name; a dense layer whose shape differs is left, a convolution must fit."""
    plan: Plan = []
    left: list[str] = []
    notes: tuple[str, ...] = ()
    for layer in model.layers:
        if not layer.weights:
            continue
        found = _values(layer, weights.get(layer.name, {}))
        if found is None:
            left.append(layer.name)
        elif all(a.shape == tuple(b.shape) for a, b in zip(found, layer.weights, strict=True)) or is_grey_of(
            layer, found[0].shape
        ):
            plan.append((layer, found))
        elif kind_or_none(layer) == "dense" or is_head(layer):
            left.append(layer.name)
        else:
            raise ModelError(
                f"'{source}' does not fit {model.name}: layer '{layer.name}' has weights of shape "
                f"{tuple(layer.weights[0].shape)}; the file has {found[0].shape}.",
                fix="Choose the topology, width and channels that the file has, or another file.",
            )
    if all(is_head(layer) for layer, _ in plan):
        raise ModelError(
            f"'{source}' has no layer that {model.name} has; its layers are "
            f"{', '.join(list(weights)[:5]) or 'none'} ...",
            fix="Give a file of the same topology that edgecnn or keras.applications made.",
        )
    missing = [x.name for x in weighted(model) if x.name in left and kind(x) != "dense" and not is_head(x)]
    if missing:
        raise ModelError(
            f"'{source}' does not fit {model.name}: layer '{missing[0]}' is not in it.",
            fix="Choose the topology that the file has, or another file.",
        )
    first = plan[0][0]
    if kind_or_none(first) == "conv":
        plan[:] = _adapted(plan, first, made_for)
        notes = border_note(first, made_for)
    apply(plan)
    return InitReport(source, tuple(layer.name for layer, _ in plan), tuple(left), notes)


def _adapted(plan: Plan, first: Any, made_for: Normalisation) -> Iterator[tuple[Any, list[Floats]]]:
    kernel = plan[0][1][0]
    if made_for is _MEAN_REMOVED:
        kernel = kernel[:, :, ::-1]
    kernel, shift = adapt(first, kernel, made_for)
    norm = norm_after(first)
    for layer, values in plan:
        if layer is first:
            yield layer, [kernel, *(bias + shift for bias in values[1:])]
        elif layer is norm and not first.use_bias:
            gamma, beta, mean, variance = values
            yield layer, [gamma, beta, mean - shift, variance]
        else:
            yield layer, values


def _values(layer: Any, found: Mapping[str, Floats]) -> list[Floats] | None:
    """Bring a source's weights into the layer's order: by name, or as they come in older files."""
    names = [_short(weight.name) for weight in layer.weights]
    if all(name in found for name in names):
        return [found[name] for name in names]
    return list(found.values()) if len(found) == len(names) else None


def _short(name: str) -> str:
    """Give the last part of a weight's name.

    Example:
        >>> _short("conv1/depthwise_kernel:0")
        'depthwise_kernel'
    """
    return name.rsplit("/", 1)[-1].split(":")[0]


def _bare(name: str) -> str:
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def read_h5(path: Path) -> dict[str, dict[str, Floats]]:
    """Read a whole model or weights alone, without running anything that the file holds."""
    try:
        with h5py.File(path, "r") as file:
            group = file.get("model_weights", file)
            return {
                _bare(name): {
                    _short(_text(weight)): np.asarray(layer[weight], np.float32)
                    for weight in layer.attrs["weight_names"]
                }
                for name, layer in group.items()
                if isinstance(layer, h5py.Group) and "weight_names" in layer.attrs
            }
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"'{path}' cannot be read as a Keras .h5 file: {error}.",
            fix="Check the path, or save the model again with model.save('model.h5').",
        ) from error


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def read_keras(path: Path) -> dict[str, dict[str, Floats]]:
    """Read a ``.keras`` file, by layer and weight; ``ModelError`` if it cannot be loaded."""
    if not path.is_file():
        raise ModelError(f"There is no file '{path}'.", fix="Check the path.")
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # a file made by others may fail anywhere in Keras
        raise ModelError(
            f"'{path}' cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0]}",
            fix="Save the model as .h5, with the Keras that made it.",
        ) from error
    return _weights_of(model)


def _weights_of(model: Any) -> dict[str, dict[str, Floats]]:
    return {
        _bare(layer.name): {_short(weight.name): weight.numpy() for weight in layer.weights}
        for layer in model.layers
    }


def download(model: Any) -> tuple[dict[str, dict[str, Floats]], Normalisation]:
    """Get Keras's own ImageNet weights, from its cache or from the network."""
    applications = keras.applications
    options: dict[str, Any] = {"weights": "imagenet", "include_top": False, "input_shape": (224, 224, 3)}
    make: Any
    match model.name:
        case "mobilenet_v1":
            make = applications.MobileNet
            options["alpha"] = round(_filters(model, "conv_pw_13") / 1024, 2)
        case "mobilenet_v2":
            make = applications.MobileNetV2
            options["alpha"] = round(_filters(model, "block_16_project") / 320, 2)
        case "vgg16":
            make = applications.VGG16
            # The dense layers are nine tenths of the download, and fit one size only.
            kernel = model.get_layer("fc1").weights[0] if "fc1" in {x.name for x in model.layers} else None
            options["include_top"] = kernel is not None and tuple(kernel.shape) == (25088, 4096)
        case _:
            raise ModelError(
                f"Keras has no ImageNet weights for {model.name}.",
                fix="Use mobilenet_v1, mobilenet_v2 or vgg16, or give the path of a file.",
            )
    try:
        with _impatient():
            weights = _weights_of(make(**options))
    except ValueError as error:  # Keras refuses a width that it has no weights for
        raise ModelError(
            f"Keras has no ImageNet weights for {model.name} of width {options.get('alpha')}.",
            fix="Use width 0.25, 0.5, 0.75 or 1.0 for mobilenet_v1; 0.35, 0.5, 0.75, 1.0, 1.3 or 1.4 "
            "for mobilenet_v2.",
        ) from error
    except Exception as error:  # Keras raises a bare Exception where the network is closed
        raise ModelError(
            f"The ImageNet weights for {model.name} cannot be downloaded: {str(error).splitlines()[0]}",
            fix="Download them on another machine with keras.applications and give the path of the .h5 "
            "file, or give a .tflite of the same topology and width: --init FILE.",
        ) from error
    return weights, KERAS_NORMALISATION[model.name]


def _filters(model: Any, name: str) -> int:
    return int(model.get_layer(name).filters)


@contextmanager
def _impatient() -> Iterator[None]:
    """Give up a download from which nothing comes; Keras itself would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
