from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.workstation.backend import keras
from edgecnn.workstation.models.weights import initialise
from edgecnn.workstation.models.zoo import build, features_of
from edgecnn.workstation.recipe import ModelSpec

RGB = InputSpec(64, 64)
NO_PICTURES = np.zeros((0, 64, 64, 3), np.uint8)
"""Keras files hold batch norm whole: no statistics are needed."""


def heads(count: int = 3) -> tuple[Head, ...]:
    return (Head("label", "softmax", tuple(f"l{i}" for i in range(count))),)


def pictures(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (2, 64, 64, channels)).astype(np.float32)


def randomise(model: Any) -> Any:
    """Stand in for training: no batch norm does nothing."""
    rng = np.random.default_rng(4)
    for norm in (x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)):
        norm.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in norm.weights])
    return model


def application(name: str, **options: Any) -> Any:
    """One of Keras's own networks, random, without its head."""
    keras.utils.set_random_seed(9)
    options = {"weights": None, "include_top": False, "input_shape": (64, 64, 3), **options}
    return randomise(getattr(keras.applications, name)(**options))


@pytest.mark.parametrize(
    ("spec", "keras_name"),
    [
        (ModelSpec("mobilenet_v1", width=0.5), "MobileNet"),
        (ModelSpec("mobilenet_v2", width=0.35), "MobileNetV2"),
    ],
    ids=lambda value: f"{value.topology}-{value.width}" if isinstance(value, ModelSpec) else "",
)
def test_a_mobilenet_with_the_weights_of_keras_s_own_gives_the_same_features(
    spec: ModelSpec, keras_name: str, tmp_path: Path
) -> None:
    theirs = application(keras_name, alpha=spec.width, pooling="avg")
    theirs.save_weights(tmp_path / "downloaded.h5")
    model = build(spec, RGB, heads())
    report = initialise(model, str(tmp_path / "downloaded.h5"), NO_PICTURES)
    assert report.left == ("label_logits",)
    # What is left is the border: Keras pads with byte 127.5, edgecnn with 128.
    np.testing.assert_allclose(
        features_of(model)(pictures()), theirs(pictures() / 127.5 - 1), rtol=2e-2, atol=2e-3
    )


def test_vgg16_with_the_weights_of_keras_s_own_sees_the_same_inside_the_border(tmp_path: Path) -> None:
    theirs = application("VGG16")
    rng = np.random.default_rng(6)
    first = theirs.get_layer("block1_conv1")
    first.set_weights([first.get_weights()[0], rng.normal(0, 1, 64)])
    theirs.save_weights(tmp_path / "downloaded.h5")
    model = build(ModelSpec("vgg16", dense_units=8), RGB, heads())
    report = initialise(model, str(tmp_path / "downloaded.h5"), NO_PICTURES)
    prepared = keras.applications.vgg16.preprocess_input(pictures().copy())
    expected = keras.Model(theirs.input, first.output)(prepared)
    found = keras.Model(model.input, model.get_layer("block1_conv1_relu").output)(pictures())
    assert report.left == ("fc1", "fc2", "label_logits")
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], rtol=1e-3, atol=1e-3)


def test_imagenet_weights_are_taken_from_where_keras_keeps_its_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = tmp_path / ".keras" / "models"
    cache.mkdir(parents=True)
    theirs = application("MobileNetV2", alpha=0.35, pooling="avg")
    theirs.save_weights(cache / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5")
    model = build(ModelSpec("mobilenet_v2", width=0.35), RGB, heads())
    initialise(model, "imagenet", NO_PICTURES)
    np.testing.assert_allclose(
        features_of(model)(pictures()), theirs(pictures() / 127.5 - 1), rtol=2e-2, atol=2e-3
    )


@pytest.mark.parametrize("topology", ["mobilenet_v1", "mobilenet_v2", "vgg16"])
def test_a_closed_network_ends_in_the_advice_to_pass_a_file(
    topology: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens on the port "discard"
    model = build(ModelSpec(topology, dense_units=8), RGB, heads())
    with pytest.raises(ModelError, match="cannot be downloaded") as caught:
        initialise(model, "imagenet", NO_PICTURES)
    assert "--init FILE" in caught.value.fix


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (ModelSpec("lenet"), "no ImageNet weights for lenet"),
        (ModelSpec("mobilenet_v1", width=0.3), "of width 0.3"),
        (ModelSpec("mobilenet_v2", width=0.1), "no ImageNet weights for mobilenet_v2"),
    ],
    ids=["topology", "v1 width", "v2 width"],
)
def test_a_network_for_which_keras_has_no_imagenet_weights_is_refused(
    spec: ModelSpec, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ModelError) as caught:
        initialise(build(spec, RGB, heads()), "imagenet", NO_PICTURES)
    assert says in caught.value.message


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_our_own_file_starts_a_network_with_other_labels(suffix: str, tmp_path: Path) -> None:
    spec = ModelSpec("resnet8", width=0.5)
    first = randomise(build(spec, RGB, heads(3)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras would rather have .keras
        first.save(tmp_path / f"model{suffix}")
    second = build(spec, RGB, heads(5))
    report = initialise(second, str(tmp_path / f"model{suffix}"), NO_PICTURES)
    assert report.left == ("label_logits",)
    np.testing.assert_array_equal(features_of(second)(pictures()), features_of(first)(pictures()))


def test_a_grey_network_starts_from_a_colour_keras_file(tmp_path: Path) -> None:
    spec = ModelSpec("mobilenet_v2", width=0.35)
    theirs = application("MobileNetV2", alpha=0.35, pooling="avg")
    theirs.save_weights(tmp_path / "colour.h5")
    grey = build(spec, InputSpec(64, 64, 1), heads())
    initialise(grey, str(tmp_path / "colour.h5"), NO_PICTURES)
    np.testing.assert_allclose(
        features_of(grey)(pictures(1)),
        theirs(pictures(1).repeat(3, axis=3) / 127.5 - 1),
        rtol=2e-2,
        atol=2e-3,
    )


def test_a_keras_file_of_another_width_is_refused_by_the_layer_and_changes_nothing(tmp_path: Path) -> None:
    application("MobileNetV2", alpha=0.35).save_weights(tmp_path / "narrow.h5")
    model = build(ModelSpec("mobilenet_v2", width=0.5), RGB, heads())
    before = [weight.numpy() for weight in model.weights]
    with pytest.raises(ModelError, match="has weights of shape"):
        initialise(model, str(tmp_path / "narrow.h5"), NO_PICTURES)
    assert all((a == b.numpy()).all() for a, b in zip(before, model.weights, strict=True))


def test_a_keras_file_of_another_topology_is_refused(tmp_path: Path) -> None:
    application("MobileNet", alpha=0.25).save_weights(tmp_path / "other.h5")
    model = build(ModelSpec("mobilenet_v2", width=0.35), RGB, heads())
    with pytest.raises(ModelError, match="has no layer that mobilenet_v2 has"):
        initialise(model, str(tmp_path / "other.h5"), NO_PICTURES)


def test_a_keras_file_that_shares_only_its_first_layers_is_refused_by_the_one_that_is_missing(
    tmp_path: Path,
) -> None:
    application("MobileNet", alpha=0.5).save_weights(tmp_path / "other.h5")
    model = build(ModelSpec("resnet8"), RGB, heads())  # its conv1 and conv1_bn have the same shapes
    with pytest.raises(ModelError, match="'stack1_conv1' is not in"):
        initialise(model, str(tmp_path / "other.h5"), NO_PICTURES)
