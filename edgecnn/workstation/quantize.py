"""Quantization-aware fine-tuning: the network learns with the rounding that int8 will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.workstation.backend import keras, tfmot
from edgecnn.workstation.model_file import first_layer, trunk_of
from edgecnn.workstation.prune import fine_tune, sparsity_of
from edgecnn.workstation.recipe import Recipe
from edgecnn.workstation.split import Split
from edgecnn.workstation.train import Progress

LEARNING_RATE_SHARE = 0.02
"""Rounding moves a converged network little, and a large step would move it more: 1/50 of the recipe's."""

SPARSE_FROM = 0.3
"""A model with more zeros than this was pruned; training makes hardly any exact zeros by itself."""


def quantization_aware(
    model: Any, heads: Sequence[Head], training: Split, recipe: Recipe, epochs: int, progress: Progress
) -> Any:
    """Fine-tune a copy of a model under emulated int8, with its zeros kept if it was pruned.

    Args:
        model: A trained tf_keras model whose first layer normalises bytes.
        heads: Its answers.
        training: Pictures to fine-tune on.
        recipe: That it was trained by.
        epochs: Of fine-tuning.
        progress: Whom to tell.

    Returns:
        A model of the same input and output with fake quantization inside; its trunk converts to int8
        without calibration.

    Raises:
        ModelError: If a layer cannot be quantized.

    Source:
        B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", CVPR 2018.
    """
    aware_trunk = _quantizable(trunk_of(_copy(model)), is_sparse(model))
    normalise = first_layer(model)
    picture = keras.Input(model.input_shape[1:], name="picture")
    copied = keras.layers.Rescaling.from_config(normalise.get_config())
    aware = keras.Model(picture, aware_trunk(copied(picture)))
    _rest_batch_norm(aware_trunk)
    rate = recipe.train.learning_rate * LEARNING_RATE_SHARE
    fine_tune(aware, heads, training, recipe, epochs, rate, [], progress)
    _fix_input_range(aware_trunk, normalise)
    return aware


def is_sparse(model: Any) -> bool:
    """Whether a model was pruned."""
    rows = sparsity_of(model)
    zeros, weights = sum(r.zero_count for r in rows), sum(r.weight_count for r in rows)
    return weights > 0 and zeros / weights > SPARSE_FROM


def aware_trunk_of(model: Any) -> Any:
    """Give the part of a quantization-aware model that converts to int8: all but the normalisation."""
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def is_aware(model: Any) -> bool:
    """Whether a model comes from quantization-aware fine-tuning."""
    return any(
        isinstance(layer, keras.Model) and any("Quantize" in type(x).__name__ for x in layer.layers)
        for layer in getattr(model, "layers", ())
    )


def _copy(model: Any) -> Any:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _quantizable(trunk: Any, sparse: bool) -> Any:
    quantization = tfmot().quantization.keras
    try:
        annotated = quantization.quantize_annotate_model(trunk)
        if not sparse:
            return quantization.quantize_apply(annotated)
        scheme = tfmot().experimental.combine.Default8BitPrunePreserveQuantizeScheme()
        return quantization.quantize_apply(annotated, scheme)
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"The model cannot be fine-tuned under quantization: {str(error).splitlines()[0]}",
            fix="Convert it without --qat-epochs, by calibration; "
            'or replace that layer (for AlexNet: normalization = "batch_norm").',
        ) from error


def _rest_batch_norm(trunk: Any) -> None:
    """Let batch norm run on its statistics: those of a few small batches would be worse."""
    for layer in trunk.layers:
        if isinstance(getattr(layer, "layer", None), keras.layers.BatchNormalization):
            layer.trainable = False


def _fix_input_range(trunk: Any, normalise: Any) -> None:
    """Pin the input's range to that of the bytes 0 to 255, so that a raw byte is its own code."""
    low, high = float(normalise.offset), float(255 * normalise.scale + normalise.offset)
    for layer in trunk.layers:
        if type(layer).__name__ == "QuantizeLayer":
            for variable in layer.weights:
                if variable.name.endswith("_min:0"):
                    variable.assign(low)
                if variable.name.endswith("_max:0"):
                    variable.assign(high)
