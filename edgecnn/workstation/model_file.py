"""Keras models on disk, with the card that says what they were made from."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np

from edgecnn.bundle.whole import whole_file
from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.workstation.backend import keras, tf, tfmot

_ATTRIBUTE = "edgecnn"
NORMALISE = "normalise"
"""Name of the layer in which our networks turn raw bytes into numbers around 0."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a Keras file of edgecnn knows about itself; stored as an attribute inside the ``.h5``.

    Attributes:
        recipe: The recipe's text.
        heads: The answers, with their labels.
        data_sha256: Digest of the training pictures.
        seconds: Training time.
        best_epoch: The epoch whose weights these are: the best on val, or the last.
        val_top1: Of these weights on val; of a mean of several runs', the mean's.
        teachers_sha256: By name, digests of the models whose answers it learned from too.
        averaged_sha256: By name, digests of the weights of other trainings; these are the mean of them and
            its own.
        init_sha256: By its recipe's or its own name, the digest of the file that it started from, or none of
            ``imagenet``; empty for random weights.
        pruned: What was taken out since, each time as the options of ``edgecnn prune``.
        boxes_sha256: By name, digests of the files that said where pictures show something, beside what lies
            above these.
    """

    recipe: str
    heads: tuple[Head, ...]
    data_sha256: str = ""
    seconds: float = 0.0
    best_epoch: int = 0
    val_top1: float = 0.0
    teachers_sha256: Mapping[str, str] = field(default_factory=dict)
    averaged_sha256: Mapping[str, str] = field(default_factory=dict)
    init_sha256: Mapping[str, str] = field(default_factory=dict)
    pruned: tuple[str, ...] = ()
    boxes_sha256: Mapping[str, str] = field(default_factory=dict)


def save(model: Any, path: Path, card: Card) -> None:
    """Write a tf_keras model and its card as one ``.h5``, whole or not at all.

    Raises:
        ModelError: If ``path`` has another suffix: what TFMOT makes loads from ``.h5`` only.
    """
    refuse_other_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        with warnings.catch_warnings():
            # Keras calls .h5 "legacy"; it is the format that TFMOT's models survive in.
            warnings.simplefilter("ignore")
            model.save(draft, include_optimizer=False)
        with h5py.File(draft, "a") as file:
            file.attrs[_ATTRIBUTE] = msgspec.json.encode(card).decode()


def refuse_other_suffix(path: Path) -> None:
    """Say before the work, not after it, that a model is saved as ``.h5``.

    Raises:
        ModelError: If it would be saved as something else.
    """
    if path.suffix != ".h5":
        raise ModelError(
            f"Models are saved as .h5; found '{path.name}'.", fix=f"Use '{path.with_suffix('.h5').name}'."
        )


def load(path: Path) -> tuple[Any, Card | None]:
    """Read a model: ``.h5``, ``.keras`` of tf_keras or of Keras 3, or a SavedModel folder.

    Returns:
        The model, not compiled, and its card; no card for a model that edgecnn did not make.

    Raises:
        ModelError: If there is none or it cannot be read.
    """
    if not path.exists():
        raise ModelError(f"There is no model '{path}'.", fix="Check the path.")
    try:
        if path.is_dir():
            return _saved_model(path), None
        if path.suffix == ".keras":
            return _keras_file(path), None
        if path.suffix in (".h5", ".hdf5"):
            with tfmot().quantization.keras.quantize_scope():
                model = keras.models.load_model(path, compile=False)
            return model, read_card(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    raise ModelError(
        f"'{path}' is neither .h5, .keras nor a SavedModel folder.",
        fix="Save the Keras model with model.save('name.h5').",
    )


def _unreadable(path: Path, error: Exception) -> ModelError:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ModelError(
        f"'{path}' cannot be read as a Keras model: {first_line}",
        fix="Save it again with model.save('name.h5'), or copy the file again.",
    )


def read_card(path: Path) -> Card | None:
    """Read what a Keras file of edgecnn knows about itself; none for any other file.

    Raises:
        ModelError: If it is damaged.
    """
    if not h5py.is_hdf5(path):
        return None
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get(_ATTRIBUTE)
    except OSError as error:
        raise _unreadable(path, error) from error
    return None if text is None else msgspec.json.decode(text, type=Card)


def _keras_file(path: Path) -> Any:
    """Open a ``.keras`` file with the Keras that wrote it."""
    with zipfile.ZipFile(path) as archive:
        version = json.loads(archive.read("metadata.json")).get("keras_version", "")
    if version.startswith("3."):
        import keras as keras3

        return keras3.saving.load_model(path, compile=False)
    return keras.models.load_model(path, compile=False)


def _saved_model(path: Path) -> Any:
    if not (path / "saved_model.pb").is_file():
        raise ModelError(
            f"The folder '{path}' holds no saved_model.pb.", fix="Give a SavedModel, or an .h5 file."
        )
    return tf.saved_model.load(str(path))


def normalisation(model: Any) -> tuple[float, float] | None:
    """Give (mean, std) of ``(byte - mean) / std`` where the first layer is a plain Rescaling, else none."""
    layer = first_layer(model)
    if layer is None or type(layer).__name__ != "Rescaling":
        return None
    scale, offset = np.asarray(layer.scale, float), np.asarray(layer.offset, float)
    if scale.size != 1 or offset.size != 1:
        return None
    return float(-offset.item() / scale.item()), float(1 / scale.item())


def first_layer(model: Any) -> Any:
    """Give the layer that the input goes into; None for a SavedModel."""
    layers = [x for x in getattr(model, "layers", ()) if type(x).__name__ != "InputLayer"]
    return layers[0] if layers else None


def trunk_of(model: Any) -> Any:
    """Cut the first layer, the normalisation, off a functional or sequential model.

    Returns:
        A model of the same weights that eats what the first layer gave out.
    """
    layer = first_layer(model)
    kind = keras.Model if isinstance(model, keras.Model) else _keras3_model()
    outputs = model.outputs[0] if len(model.outputs) == 1 else model.outputs
    # A name of its own: Keras would count "model_1", "model_2", and the count would be in the file.
    return kind(layer.output, outputs, name="trunk")


def _keras3_model() -> Any:
    import keras as keras3

    return keras3.Model


def digests_of(named: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Give digests by the name of their models; of two of one name the later has its number behind it.

    Example:
        >>> digests_of([("lenet", "ab"), ("lenet", "cd")])
        {'lenet': 'ab', 'lenet 2': 'cd'}
    """
    found: dict[str, str] = {}
    for number, (name, sha256) in enumerate(named, 1):
        found[f"{name} {number}" if name in found else name] = sha256
    return found


def weights_sha256(model: Any) -> str:
    """Digest of all weights in the order of the layers, whatever the file around them looks like."""
    digest = hashlib.sha256()
    for variable in getattr(model, "weights", None) or model.variables:
        digest.update(np.ascontiguousarray(np.asarray(variable)).tobytes())
    return digest.hexdigest()
