"""What rounding the weights costs, and how to lose less: bias correction and AdaRound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import numpy as np

from edgecnn.runtime.interpreter import open_interpreter
from edgecnn.workstation.ladder.activations import Observed
from edgecnn.workstation.ladder.network import Floats, Layer, Network, layers, values, with_values

TOP_CODE: Final = 127
"""TensorFlow Lite 8-bit quantization specification: weights are symmetric, from -127 to 127."""

PICTURES: Final = 128
PLACES: Final = 16
"""Calibration pictures, and places in each, at which a layer's inputs are looked at."""

WIDEST: Final = 4608
"""Inputs of one output channel up to which AdaRound keeps their second moments: 3 x 3 x 512 take 85 MB."""

STEPS: Final = 400
RATE: Final = 1e-2
PULL: Final = 0.01
WARM_UP: Final = 0.2
BETA: Final = (20.0, 2.0)
"""AdaRound's annealing, with the paper's warm-up and powers; the paper takes 10,000 steps of 32 pictures,
ours see all pictures in each step by their second moments."""

STRETCH: Final = (-0.1, 1.1)
"""Source: C. Louizos et al., ICLR 2018: the rectified sigmoid's ends."""


def rounded(weights: Floats, axis: int) -> Floats:
    """Give the real numbers that int8 weights will stand for, with one scale for each output channel.

    Example:
        >>> rounded(np.float32([[127.0, 0.4, 2.6]]), 0).tolist()
        [[127.0, 0.0, 3.0]]
    """
    scale = scale_of(weights, axis)
    return np.asarray(np.round(weights / scale) * scale, np.float32)


def scale_of(weights: Floats, axis: int) -> Floats:
    """Give the scale of each output channel, in a shape that divides the weights."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    peak = np.abs(weights).max(axis=others, keepdims=True)
    return np.asarray(np.where(peak > 0, peak, 1) / TOP_CODE, np.float32)


def correct_biases(network: Network, seen: Mapping[int, Observed]) -> Network:
    """Take from each bias what rounding the weights adds to the layer's mean output.

    The borders that padding adds count like the rest of the picture.

    Args:
        network: The float network.
        seen: Its activations.

    Returns:
        The network with other biases.

    Source:
        M. Nagel et al., ICCV 2019, equation 16: the expected error is that of the weights times the mean
        input; the mean is that of the calibration pictures.
    """
    made = {}
    for layer in layers(network.model):
        if layer.bias is None or layer.fed not in seen:
            continue
        weights = values(network, layer.weights)
        error = rounded(weights, layer.out_axis) - weights
        made[layer.bias] = values(network, layer.bias) - _mean_shift(layer, error, seen[layer.fed])
    return with_values(network, made)


def _mean_shift(layer: Layer, error: Floats, fed: Observed) -> Floats:
    """Give what an error of the weights adds to the mean of each output channel."""
    mean = fed.channel_mean
    if layer.operator.op == "DEPTHWISE_CONV_2D":
        every = error.reshape(-1, error.shape[-1]).sum(axis=0)
        return np.asarray(every * np.repeat(mean, len(every) // len(mean)), np.float32)
    # Groups and flattened pictures repeat the channels.
    by_channel = error.reshape(len(error), -1, len(mean)) if error[0].size % len(mean) == 0 else None
    if by_channel is None:
        return np.zeros(len(error), np.float32)
    return np.asarray(by_channel.sum(axis=1) @ mean, np.float32)


def adaround(network: Network, pictures: Floats, on_layer: Callable[[int, int], None]) -> Network:
    """Learn for each weight whether to round it up or down, so that the layer's output changes least.

    Layer by layer: with dW what rounding adds and M the second moments of the layer's inputs, the squared
    error of its outputs is tr(dW M dW'), so no picture is needed in the loop.

    Args:
        network: The float network.
        pictures: As it eats them, shape (count, height, width, channels).
        on_layer: Told which layer of how many is next.

    Returns:
        The network with weights that lie on the codes of int8, and biases that take back the mean shift.

    Source:
        M. Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020,
        equations 21 to 25.
    """
    todo = [layer for layer in layers(network.model) if _fan_in(network, layer) <= WIDEST]
    patches = patches_of(network, todo, pictures[:PICTURES])
    made: dict[int, Floats] = {}
    for number, (layer, inputs) in enumerate(zip(todo, patches, strict=True)):
        on_layer(number + 1, len(todo))
        weights = np.moveaxis(values(network, layer.weights), layer.out_axis, 0)
        rows = weights.reshape(len(weights), -1)
        grid = settle(rows, np.asarray(inputs.swapaxes(-1, -2) @ inputs / inputs.shape[-2], np.float32))
        made[layer.weights] = np.moveaxis(grid.reshape(weights.shape), 0, layer.out_axis)
        if layer.bias is not None:
            shift = ((grid - rows) * inputs.mean(axis=-2)).sum(axis=1)
            made[layer.bias] = values(network, layer.bias) - shift
    return with_values(network, made)


def settle(rows: Floats, moments: Floats) -> Floats:
    """Round each row of weights up or down with the least squared error of what it gives.

    Args:
        rows: Weights by output channel, shape (out, fan_in).
        moments: Second moments of the inputs, shape (fan_in, fan_in), or (out, fan_in, fan_in) where each
            channel has inputs of its own.

    Returns:
        Weights of the same shape, each one of its two neighbouring codes.

    Example:
        Two inputs are always equal, so their weights had better add up.

        >>> moments = np.float32([[0, 0, 0], [0, 1, 1], [0, 1, 1]])
        >>> settle(np.float32([[127.0, 0.6, 0.7]]), moments).tolist()
        [[127.0, 0.0, 1.0]]
    """
    scale = scale_of(rows, 0)
    low = np.floor(rows / scale)
    share = np.clip(rows / scale - low, 0.01, 0.99)
    span = STRETCH[1] - STRETCH[0]
    push = -np.log(span / (share - STRETCH[0]) - 1)
    first, second = np.zeros_like(push), np.zeros_like(push)
    # In units of the scale and of a typical input, one rate and one pull fit every layer.
    power = np.trace(moments, axis1=-2, axis2=-1) / moments.shape[-1]
    unit = moments / np.maximum(power, 1e-30)[..., None, None]
    for step in range(1, STEPS + 1):
        sigmoid = 1 / (1 + np.exp(-push))
        soft = np.clip(sigmoid * span + STRETCH[0], 0, 1)
        moves = (sigmoid * span + STRETCH[0] > 0) & (sigmoid * span + STRETCH[0] < 1)
        off = low + soft - rows / scale
        slope = 2 * (np.einsum("ok,okl->ol", off, unit) if unit.ndim == 3 else off @ unit)
        progress = (step / STEPS - WARM_UP) / (1 - WARM_UP)
        if progress > 0:
            beta = BETA[1] + 0.5 * (BETA[0] - BETA[1]) * (1 + np.cos(np.pi * progress))
            away = 2 * soft - 1
            slope -= PULL * 2 * beta * np.sign(away) * np.abs(away) ** (beta - 1)
        slope *= moves * span * sigmoid * (1 - sigmoid)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        mean, spread = first / (1 - 0.9**step), second / (1 - 0.999**step)
        push -= RATE * mean / (np.sqrt(spread) + 1e-8)
    up = 1 / (1 + np.exp(-push)) * span + STRETCH[0] >= 0.5
    codes = np.clip(low + up, -TOP_CODE, TOP_CODE)
    return np.asarray(codes * scale, np.float32)


def _fan_in(network: Network, layer: Layer) -> int:
    tensor = network.model.tensors[layer.weights]
    return tensor.size // tensor.shape[layer.out_axis]


def patches_of(network: Network, wanted: Sequence[Layer], pictures: Floats) -> list[Floats]:
    """Collect what layers see at a few places of each picture.

    Args:
        network: The float network.
        wanted: Which layers.
        pictures: As the network eats them.

    Returns:
        By layer, shape (count, fan_in); of a depthwise one (channels, count, fan_in).
    """
    interpreter, rng = open_interpreter(network.flat, keep_all=True), np.random.default_rng(0)
    found: list[list[Floats]] = [[] for _ in wanted]
    for picture in pictures:
        interpreter.invoke(picture[None])
        for layer, rows in zip(wanted, found, strict=True):
            rows.append(_patches(network, layer, interpreter.tensor(layer.fed), rng))
    stacked = (np.concatenate(rows) for rows in found)
    return [
        _by_channel(rows, network.model.tensors[layer.weights].shape[-1]) if rows.ndim == 3 else rows
        for layer, rows in zip(wanted, stacked, strict=True)
    ]


def _by_channel(rows: Floats, count: int) -> Floats:
    """Turn (count, fan_in, input channels) into (output channels, count, fan_in)."""
    return np.ascontiguousarray(np.repeat(rows, count // rows.shape[-1], axis=-1).transpose(2, 0, 1))


def _patches(network: Network, layer: Layer, fed: Floats, rng: np.random.Generator) -> Floats:
    """Cut out what a layer sees at random places of its input.

    Returns:
        Shape (places, fan_in), of a depthwise layer (places, fan_in, channels).
    """
    shape = network.model.tensors[layer.weights].shape
    if layer.operator.op == "FULLY_CONNECTED":
        return fed.reshape(-1, shape[-1])
    _, height, width, channels = shape
    options, given = layer.operator.options, network.model.tensors[layer.given].shape
    strides = int(cast(int, options["stride_h"])), int(cast(int, options["stride_w"]))
    spread = int(cast(int, options["dilation_h"])), int(cast(int, options["dilation_w"]))
    reach = (height - 1) * spread[0] + 1, (width - 1) * spread[1] + 1
    # The interpreter's SAME padding: what is missing, the odd one behind.
    missing = [max(0, (given[1 + i] - 1) * strides[i] + reach[i] - fed.shape[1 + i]) for i in (0, 1)]
    if options["padding"] == "SAME":
        fed = np.pad(fed, [(0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)])
    ys, xs = rng.integers(0, given[1], PLACES) * strides[0], rng.integers(0, given[2], PLACES) * strides[1]
    cut = np.stack(
        [
            fed[0, y : y + reach[0] : spread[0], x : x + reach[1] : spread[1]]
            for y, x in zip(ys, xs, strict=True)
        ]
    )
    if layer.operator.op == "DEPTHWISE_CONV_2D":
        return cut.reshape(PLACES, height * width, -1)
    return cut.reshape(PLACES, -1) if cut.shape[-1] == channels else cut[..., :channels].reshape(PLACES, -1)
