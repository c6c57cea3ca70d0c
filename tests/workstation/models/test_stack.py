from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.workstation.backend import tf
from edgecnn.workstation.models.zoo import build
from edgecnn.workstation.recipe import Layer, ModelSpec

HEADS = (Head("label", "softmax", ("a", "b", "c")),)


def network(*layers: Layer, size_px: int = 16) -> object:
    return build(ModelSpec("layers", layers=layers), InputSpec(size_px, size_px), HEADS)


def names(*layers: Layer) -> list[str]:
    return [layer.name for layer in network(*layers).layers][2:-2]  # type: ignore[attr-defined]


def test_a_dense_layer_and_the_head_flatten_what_they_are_given() -> None:
    assert names(Layer("conv", filters=2), Layer("dense", units=4)) == [
        "conv_1",
        "dense_2_flatten",
        "dense_2",
    ]
    assert names(Layer("conv", filters=2)) == ["conv_1", "flatten"]
    assert names(Layer("conv", filters=2), Layer("flatten")) == ["conv_1", "flatten_2"]


def test_an_activation_is_a_layer_of_its_own_after_the_norm() -> None:
    layers = (Layer("conv", filters=2), Layer("batch_norm", activation="relu6"), Layer("global_average_pool"))
    assert names(*layers) == ["conv_1", "batch_norm_2", "batch_norm_2_relu6", "global_average_pool_3"]


def test_a_convolution_has_a_bias_unless_the_norm_behind_it_brings_one() -> None:
    bare, normed, active = (
        network(*layers).get_layer("conv_1").use_bias  # type: ignore[attr-defined]
        for layers in (
            (Layer("conv", filters=2),),
            (Layer("conv", filters=2), Layer("batch_norm")),
            (Layer("conv", filters=2, activation="relu"), Layer("batch_norm")),
        )
    )
    assert (bare, normed, active) == (True, False, True)


def test_a_pool_without_a_stride_takes_its_windows_side_by_side() -> None:
    model = network(Layer("max_pool", kernel=4))
    assert model.get_layer("max_pool_1").output_shape == (None, 4, 4, 3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ((Layer("conv"),), "'conv_1' has filters = 0"),
        ((Layer("dense"),), "'dense_1' has units = 0"),
        ((Layer("conv", filters=2, kernel=0),), "'conv_1' has kernel = 0"),
        ((Layer("conv", filters=2, stride=-1),), "'conv_1' has stride = -1"),
        ((Layer("dropout", rate=1.0),), "'dropout_1' drops a share of 1.0"),
        ((Layer("flatten"), Layer("conv", filters=2)), "'conv_2' needs rows and columns"),
        ((Layer("dense", units=2), Layer("max_pool")), "'max_pool_2' needs rows and columns"),
        ((Layer("conv", filters=2, kernel=17, padding="valid"),), "'conv_1' slides a 17 x 17 window"),
        ((Layer("max_pool", kernel=8), Layer("average_pool", padding="valid")), "only 2 x 2"),
        ((Layer("conv", filters=2, units=3),), "'conv_1' sets units = 3"),
        ((Layer("depthwise", filters=2),), "'depthwise_1' sets filters = 2"),
        ((Layer("max_pool", activation="relu"),), "'max_pool_1' sets activation = relu"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_impossible_layer_is_refused_by_its_name(layers: tuple[Layer, ...], says: str) -> None:
    with pytest.raises(ModelError) as caught:
        network(*layers)
    assert says in caught.value.message


def test_a_width_that_a_written_network_would_ignore_is_refused() -> None:
    with pytest.raises(ModelError, match=r"width = 0\.5 does nothing"):
        build(ModelSpec("layers", width=0.5, layers=(Layer("flatten"),)), InputSpec(8, 8), HEADS)


LAYERS = st.one_of(
    st.builds(
        Layer,
        st.just("conv"),
        filters=st.integers(-1, 3),
        kernel=st.integers(0, 9),
        stride=st.integers(0, 9),
        padding=st.sampled_from(["same", "valid"]),
        activation=st.sampled_from(["linear", "relu", "relu6", "tanh", "sigmoid"]),
    ),
    st.builds(Layer, st.just("depthwise"), kernel=st.integers(0, 9), stride=st.integers(0, 3)),
    st.builds(
        Layer,
        st.sampled_from(["max_pool", "average_pool"]),
        kernel=st.integers(0, 9),
        padding=st.sampled_from(["same", "valid"]),
    ),
    st.builds(Layer, st.sampled_from(["global_average_pool", "flatten", "batch_norm"])),
    st.builds(Layer, st.just("dense"), units=st.integers(-1, 3)),
    st.builds(Layer, st.just("dropout"), rate=st.sampled_from([0.0, 0.5, 1.5])),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(LAYERS, min_size=1, max_size=6), st.integers(1, 20))
def test_any_list_of_layers_is_either_built_or_refused_with_a_way_out(
    layers: list[Layer], size_px: int
) -> None:
    way_out, shape = "", None
    with tf.Graph().as_default():
        try:
            shape = network(*layers, size_px=size_px).output_shape  # type: ignore[attr-defined]
        except ModelError as error:
            way_out = error.fix
    assert way_out or shape == (None, 3)


def test_a_written_network_gives_scores() -> None:
    model = network(
        Layer("conv", filters=4, activation="relu"),
        Layer("depthwise", stride=2),
        Layer("batch_norm", activation="relu"),
        Layer("average_pool", kernel=2),
        Layer("dropout", rate=0.5),
        Layer("dense", units=8, activation="tanh"),
    )
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(model(pictures).numpy().sum(axis=1), 1, atol=1e-5)  # type: ignore[operator]
