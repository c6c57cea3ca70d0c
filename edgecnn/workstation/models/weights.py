"""Where a network starts from: weights of a ``.tflite``, a Keras file, or Keras's own ImageNet ones."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import ModelError
from edgecnn.workstation.backend import keras, tf
from edgecnn.workstation.models.folded import (
    OURS,
    Floats,
    FoldedLayer,
    Kind,
    Normalisation,
    describe,
    read,
)
from edgecnn.workstation.models.zoo import LOGITS, NORMALISE

_FROM_MINUS_1_TO_1 = Normalisation(np.array([1 / 127.5], np.float32), np.array([-1], np.float32))
"""Keras's own MobileNets; ``preprocess_input`` of mode "tf"."""

_MEAN_REMOVED = Normalisation(np.ones(1, np.float32), -np.array([123.68, 116.779, 103.939], np.float32))
"""Keras's own VGG16, red first; ``preprocess_input`` of mode "caffe", which also swaps red and blue."""

_DOWNLOAD_TIMEOUT_S = 20.0
_WRAPPERS = ("prune_low_magnitude_", "quant_")
"""What TFMOT puts before the name of a layer that it wraps."""

_Plan = list[tuple[Any, list[Floats]]]


@dataclass(frozen=True, slots=True)
class InitReport:
    """What became of the weights.

    Attributes:
        source: Where they came from.
        filled: Names of the layers that have them.
        left: Names of the layers with weights of their own that stay as they were, the head mostly.
        notes: What differs from the source, in sentences.
    """

    source: str
    filled: tuple[str, ...]
    left: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in one line.

        Example:
            >>> str(InitReport("a.tflite", ("conv1", "fc1"), ("label_logits",)))
            '2 layers start from a.tflite; left as they were: label_logits.'
        """
        left = f"left as they were: {', '.join(self.left)}" if self.left else "none was left out"
        return " ".join((f"{len(self.filled)} layers start from {self.source}; {left}.", *self.notes))


def initialise(
    model: Any,
    source: str,
    sample_codes: NDArray[np.uint8],
    *,
    normalisation: Normalisation | None = None,
) -> InitReport:
    """Fill a network with weights from elsewhere; nothing is changed if they do not fit.

    The first convolution is rewritten where the source makes other numbers of a byte than edgecnn: a
    quantized ``.tflite`` says it by its input's scale, a Keras file of edgecnn by its first layer, and
    any other Keras file is taken to be normalised as ``keras.applications`` does for that topology.
    A network for grey pictures gets the sum of a colour source's kernels.

    Args:
        model: What ``zoo.build`` gave.
        source: ``imagenet``, or the path of a ``.tflite``, ``.h5`` or ``.keras`` file.
        sample_codes: Some hundred training pictures, shape (count, height, width, channels), bytes.
            A ``.tflite`` holds batch norm folded into its convolutions; their outputs on these
            pictures give the statistics to unfold it with, so that the first training step does not
            destroy what the weights know.
        normalisation: What the source makes of bytes, for a float ``.tflite`` that does not say.

    Returns:
        Which layers were filled, and which were left.

    Raises:
        ModelError: If the source cannot be read or downloaded, or is of another topology or width;
            the message names the layer that does not fit.
    """
    if source == "imagenet":
        weights, made_for = _download(model)
        return _copy(model, source, weights, made_for)
    path = Path(source)
    match path.suffix.lower():
        case ".tflite":
            return _from_tflite(model, path, sample_codes, normalisation)
        case ".h5" | ".hdf5":
            weights = _read_h5(path)
        case ".keras":
            weights = _read_keras(path)
        case _:
            raise ModelError(
                f"Weights cannot be read from '{source}'.",
                fix='Give "imagenet" or the path of a .tflite, .h5 or .keras file.',
            )
    # A file of edgecnn normalises inside, as the model does; Keras's own files do not.
    made_for = OURS if NORMALISE in weights else _KERAS_NORMALISATION.get(model.name, OURS)
    return _copy(model, path.name, weights, made_for)


# --- .tflite ---------------------------------------------------------------------------------------


def _from_tflite(
    model: Any, path: Path, sample_codes: NDArray[np.uint8], given: Normalisation | None
) -> InitReport:
    file = read(path)
    made_for = given or file.normalisation
    if made_for is None:
        raise ModelError(
            f"'{path.name}' is a float file that does not say what it makes of a byte.",
            fix="Take its quantized sibling, whose input says it, or a file that edgecnn converted.",
        )
    pairs, left, notes = _pair(model, file.layers, path.name)
    _refuse_lone_norms(model, path.name)
    _refuse_bad_sample(model, sample_codes)
    first = pairs[0][0]
    plan: _Plan = []
    for layer, folded in pairs:
        kernel, bias = folded.kernel, folded.bias
        if layer is first:
            kernel, shift = _adapt(layer, kernel, made_for)
            bias = bias + shift
            notes += _border_note(layer, made_for)
        plan += _unfolded_as_identity(layer, kernel.reshape(layer.weights[0].shape), bias)
    _apply(plan)
    _unfold(model, sample_codes)
    filled = tuple(layer.name for layer, _ in plan)
    return InitReport(path.name, filled, left, notes)


def _pair(
    model: Any, layers: Sequence[FoldedLayer], source: str
) -> tuple[list[tuple[Any, FoldedLayer]], tuple[str, ...], tuple[str, ...]]:
    """Find the file's layer for each of ours: the next one of the same kind, shape and stride.

    Parallel branches come in another order in a file than in Keras, but differ in shape.
    """
    unused = dict(enumerate(layers))
    pairs, left, last = [], [], -1
    for layer in _weighted(model):
        found = next((i for i, folded in unused.items() if _fits(layer, folded)), None)
        if found is not None:
            pairs.append((layer, unused.pop(found)))
            last = max(last, found)
        elif _is_head(layer):
            left.append(layer.name)
        else:
            raise _misfit(model, layer, unused, source)
    if not pairs:
        raise ModelError(f"'{source}' holds no layer of {model.name}.", fix="Give a file of that topology.")
    between = [folded for i, folded in unused.items() if i < last]
    if between:
        raise ModelError(
            f"'{source}' has a layer that {model.name} has not: {describe(between[0])}.",
            fix="Choose the topology and width in [model] that the file has.",
        )
    notes = (f"The file's last {len(unused)} layers are not used.",) if unused else ()
    return pairs, tuple(left), notes


def _misfit(model: Any, layer: Any, unused: Mapping[int, FoldedLayer], source: str) -> ModelError:
    shape = " x ".join(str(side) for side in layer.weights[0].shape)
    stride = f", stride {_stride(layer)[0]}" if _stride(layer)[0] != 1 else ""
    found = describe(next(iter(unused.values()))) if unused else "no further layer"
    return ModelError(
        f"'{source}' does not fit {model.name}: layer '{layer.name}' needs a {_kind(layer)} {shape}{stride}; "
        f"the file has {found}.",
        fix="Choose the topology and width in [model] that the file has (and, where a dense layer "
        "reads the whole feature map, its input size), or another file.",
    )


def _weighted(model: Any) -> list[Any]:
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def _is_head(layer: Any) -> bool:
    return bool(layer.name.endswith(LOGITS))


def _kind(layer: Any) -> Kind:
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return "depthwise"
    return "dense" if isinstance(layer, keras.layers.Dense) else "conv"


def _stride(layer: Any) -> tuple[int, int]:
    return (1, 1) if _kind(layer) == "dense" else tuple(layer.strides)


def _fits(layer: Any, folded: FoldedLayer) -> bool:
    ours, theirs = tuple(layer.weights[0].shape), folded.kernel.shape
    if _kind(layer) == "dense" and folded.kind == "conv":
        # Google's MobileNets end in a 1 x 1 convolution over a map of 1 x 1: a dense layer.
        return theirs == (1, 1, *ours)
    if _kind(layer) != folded.kind or _stride(layer) != folded.stride:
        return False
    return ours == theirs or _is_grey_of(layer, theirs)


def _is_grey_of(layer: Any, shape: Sequence[int]) -> bool:
    """Whether the layer reads a grey picture where the source reads a colour one."""
    ours = tuple(layer.weights[0].shape)
    return (
        _kind(layer) == "conv"
        and _reads_picture(layer)
        and len(shape) == 4
        and (ours[2], shape[2]) == (1, 3)
        and (*ours[:2], ours[3]) == (*shape[:2], shape[3])
    )


def _reads_picture(layer: Any) -> bool:
    return bool(layer.input.node.layer.name == NORMALISE)


def _norms(model: Any) -> list[Any]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def _norm_after(layer: Any) -> Any | None:
    """The batch norm that reads this layer's output directly, if there is one."""
    followers = [node.outbound_layer for node in layer.outbound_nodes]
    norms = [f for f in followers if isinstance(f, keras.layers.BatchNormalization)]
    return norms[0] if norms else None


def _refuse_lone_norms(model: Any, source: str) -> None:
    folded = {norm.name for norm in map(_norm_after, _weighted(model)) if norm is not None}
    for layer in _norms(model):
        if layer.name not in folded:
            raise ModelError(
                f"'{layer.name}' does not directly follow a convolution or dense layer; '{source}' does not "
                "hold it in a form that could be told apart.",
                fix="Start from the .h5 that the file was converted from, or move the batch_norm before "
                "the activation.",
            )


def _refuse_bad_sample(model: Any, sample_codes: NDArray[np.uint8]) -> None:
    if not _norms(model):
        return
    if sample_codes.shape[1:] != tuple(model.input_shape[1:]) or len(sample_codes) < 2:
        raise ModelError(
            f"Unfolding batch norm needs two pictures or more of shape {tuple(model.input_shape[1:])}; "
            f"found an array of shape {sample_codes.shape}.",
            fix="Give pictures that were resized to the model's input.",
        )


def _unfolded_as_identity(layer: Any, kernel: Floats, bias: Floats) -> _Plan:
    """Set a layer to exactly what the file computes; its batch norm does nothing yet but add the bias."""
    norm = _norm_after(layer)
    if norm is None:
        return [(layer, [kernel, bias])]
    one, zero = np.ones_like(bias), np.zeros_like(bias)
    own = [kernel, zero] if layer.use_bias else [kernel]
    return [(layer, own), (norm, [np.sqrt(one + np.float32(norm.epsilon)), bias, zero, one])]


def _unfold(model: Any, sample_codes: NDArray[np.uint8]) -> None:
    """Give every batch norm real statistics, and the scale and shift that undo them.

    ``gamma = sqrt(variance + epsilon)`` and ``beta = bias + mean``: inference stays what it was, and
    in training the statistics of a batch are close to those that the scale undoes.
    """
    norms = _norms(model)
    if not norms:
        return
    statistics = _moments(keras.Model(model.input, [norm.input for norm in norms]), sample_codes)
    plan: _Plan = []
    for norm, (mean, variance) in zip(norms, statistics, strict=True):
        bias = norm.beta.numpy()
        plan.append((norm, [np.sqrt(variance + np.float32(norm.epsilon)), bias + mean, mean, variance]))
    _apply(plan)


def _moments(model: Any, codes: NDArray[np.uint8], batch: int = 16) -> list[tuple[Floats, Floats]]:
    """Mean and variance per channel of each output, over all pictures and pixels."""

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow comes without types
    def step(pictures: Any) -> Any:
        outputs = model(pictures, training=False)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        return [tf.nn.moments(o, axes=list(range(len(o.shape) - 1))) for o in outputs]

    means: list[NDArray[np.float64]] = []
    squares: list[NDArray[np.float64]] = []
    for start in range(0, len(codes), batch):
        part = codes[start : start + batch]
        share = len(part) / len(codes)
        found = [
            (m.numpy().astype(np.float64), v.numpy().astype(np.float64))
            for m, v in step(part.astype(np.float32))
        ]
        if not means:
            means, squares = ([np.zeros_like(m) for m, _ in found] for _ in range(2))
        for index, (mean, variance) in enumerate(found):
            means[index] += share * mean
            squares[index] += share * (variance + mean**2)
    return [
        (mean.astype(np.float32), np.maximum(square - mean**2, 0).astype(np.float32))
        for mean, square in zip(means, squares, strict=True)
    ]


# --- the first layer -------------------------------------------------------------------------------


def _adapt(layer: Any, kernel: Floats, made_for: Normalisation) -> tuple[Floats, Floats]:
    """Rewrite the first kernel for what our networks make of a byte.

    The source computes ``kernel * (scale * byte + offset)``; with ``byte = 128 * ours + 128`` that is
    ``(128 * scale * kernel) * ours`` and a constant.

    Returns:
        The kernel, its colours summed for a grey picture, and what is to be added to the output.

    Raises:
        ModelError: If the source normalises otherwise and the first layer is no convolution.
    """
    scale, offset = 128 * made_for.scale, 128 * made_for.scale + made_for.offset
    is_same = np.allclose(scale, 1, atol=1e-6) and np.allclose(offset, 0, atol=1e-6)
    shift = np.zeros(kernel.shape[-1], np.float32)
    if not is_same:
        if _kind(layer) != "conv" or not _reads_picture(layer):
            raise ModelError(
                f"The source makes other numbers of a byte than edgecnn, and '{layer.name}' is no "
                "convolution over the picture that could make up for it.",
                fix="Start from a file that edgecnn converted.",
            )
        shift = np.einsum("hwio,i->o", kernel, np.broadcast_to(offset, kernel.shape[2])).astype(np.float32)
        kernel = (kernel * scale.reshape(1, 1, -1, 1)).astype(np.float32)
    elif _kind(layer) == "depthwise":
        shift = np.zeros(kernel.shape[2] * kernel.shape[3], np.float32)
    if _is_grey_of(layer, kernel.shape):
        kernel = kernel.sum(axis=2, keepdims=True)
    return kernel, shift


def _border_note(layer: Any, made_for: Normalisation) -> tuple[str, ...]:
    offset = 128 * made_for.scale + made_for.offset
    # A tenth of a byte step is nothing that a border could be seen by.
    if getattr(layer, "padding", "valid") == "valid" or np.abs(offset / (128 * made_for.scale)).max() < 0.1:
        return ()
    return ("The source pads pictures with another colour than middle grey: borders differ a little.",)


# --- Keras -----------------------------------------------------------------------------------------

_KERAS_NORMALISATION = {
    "mobilenet_v1": _FROM_MINUS_1_TO_1,
    "mobilenet_v2": _FROM_MINUS_1_TO_1,
    "vgg16": _MEAN_REMOVED,
}


def _copy(
    model: Any, source: str, weights: Mapping[str, Mapping[str, Floats]], made_for: Normalisation
) -> InitReport:
    """Copy by name; a dense layer whose shape differs is left, a convolution must fit."""
    plan: _Plan = []
    left: list[str] = []
    notes: tuple[str, ...] = ()
    for layer in model.layers:
        if not layer.weights:
            continue
        found = _values(layer, weights.get(layer.name, {}))
        if found is None:
            left.append(layer.name)
        elif all(a.shape == tuple(b.shape) for a, b in zip(found, layer.weights, strict=True)) or _is_grey_of(
            layer, found[0].shape
        ):
            plan.append((layer, found))
        elif _kind_or_none(layer) == "dense" or _is_head(layer):
            left.append(layer.name)
        else:
            raise ModelError(
                f"'{source}' does not fit {model.name}: layer '{layer.name}' has weights of shape "
                f"{tuple(layer.weights[0].shape)}; the file has {found[0].shape}.",
                fix="Choose the topology, width and channels that the file has, or another file.",
            )
    if all(_is_head(layer) for layer, _ in plan):
        raise ModelError(
            f"'{source}' has no layer that {model.name} has; its layers are "
            f"{', '.join(list(weights)[:5]) or 'none'} ...",
            fix="Give a file of the same topology that edgecnn or keras.applications made.",
        )
    missing = [x.name for x in _weighted(model) if x.name in left and _kind(x) != "dense" and not _is_head(x)]
    if missing:
        raise ModelError(
            f"'{source}' does not fit {model.name}: layer '{missing[0]}' is not in it.",
            fix="Choose the topology that the file has, or another file.",
        )
    first = plan[0][0]
    if _kind_or_none(first) == "conv":
        plan[:] = _adapted(plan, first, made_for)
        notes = _border_note(first, made_for)
    _apply(plan)
    return InitReport(source, tuple(layer.name for layer, _ in plan), tuple(left), notes)


def _adapted(plan: _Plan, first: Any, made_for: Normalisation) -> Iterator[tuple[Any, list[Floats]]]:
    kernel = plan[0][1][0]
    if made_for is _MEAN_REMOVED:
        kernel = kernel[:, :, ::-1]
    kernel, shift = _adapt(first, kernel, made_for)
    norm = _norm_after(first)
    for layer, values in plan:
        if layer is first:
            yield layer, [kernel, *(bias + shift for bias in values[1:])]
        elif layer is norm and not first.use_bias:
            gamma, beta, mean, variance = values
            yield layer, [gamma, beta, mean - shift, variance]
        else:
            yield layer, values


def _kind_or_none(layer: Any) -> Kind | None:
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    return _kind(layer) if isinstance(layer, kinds) else None


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


def _read_h5(path: Path) -> dict[str, dict[str, Floats]]:
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


def _read_keras(path: Path) -> dict[str, dict[str, Floats]]:
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


def _download(model: Any) -> tuple[dict[str, dict[str, Floats]], Normalisation]:
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
    return weights, _KERAS_NORMALISATION[model.name]


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


def _apply(plan: _Plan) -> None:
    for layer, values in plan:
        layer.set_weights(values)
