"""Where a network starts from: weights of a ``.tflite``, a Keras file, or Keras's own ImageNet ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import ModelError
from edgecnn.workstation.models.fitting import InitReport
from edgecnn.workstation.models.folded import OURS, Normalisation
from edgecnn.workstation.models.from_keras import (
    KERAS_NORMALISATION,
    copy_by_name,
    download,
    read_h5,
    read_keras,
)
from edgecnn.workstation.models.from_tflite import from_tflite
from edgecnn.workstation.models.zoo import NORMALISE

__all__ = ["InitReport", "Normalisation", "initialise"]


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
        weights, made_for = download(model)
        return copy_by_name(model, source, weights, made_for)
    path = Path(source)
    match path.suffix.lower():
        case ".tflite":
            return from_tflite(model, path, sample_codes, normalisation)
        case ".h5" | ".hdf5":
            weights = read_h5(path)
        case ".keras":
            weights = read_keras(path)
        case _:
            raise ModelError(
                f"Weights cannot be read from '{source}'.",
                fix='Give "imagenet" or the path of a .tflite, .h5 or .keras file.',
            )
    # A file of edgecnn normalises inside, as the model does; Keras's own files do not.
    made_for = OURS if NORMALISE in weights else KERAS_NORMALISATION.get(model.name, OURS)
    return copy_by_name(model, path.name, weights, made_for)
