"""Frozen batch norm inside the convolutions: another way to the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head
from edgecnn.workstation.backend import keras, tf
from edgecnn.workstation.models.frozen import with_batch_norm_folded
from edgecnn.workstation.models.zoo import build
from edgecnn.workstation.recipe import ModelSpec, Topology

HEADS = (Head("scene", "softmax", ("a", "b", "c")), Head("where", "heatmap", ("d", "e"), 1, True))


def network(topology: Topology, is_frozen: bool = True) -> Any:
    keras.utils.set_random_seed(1)
    model = build(
        ModelSpec(topology, width=0.5, dropout=0.0, dense_units=32, top_down=True), InputSpec(96, 96), HEADS
    )
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = not is_frozen
            layer.set_weights(
                [0.1 + weight * rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()]
            )
        elif layer.name == "where_logits":  # it starts from 0
            layer.set_weights([rng.normal(0, 0.3, weight.shape) for weight in layer.get_weights()])
    return model


def pictures() -> Any:
    return tf.constant(np.random.default_rng(2).uniform(0, 255, (3, 96, 96, 3)).astype(np.float32))


def answers_and_gradients(model: Any, variables: list[Any]) -> tuple[list[Any], list[Any]]:
    with tf.GradientTape() as tape:
        answers = model(pictures(), training=True)
        loss = tf.add_n([tf.reduce_mean(answer**2) for answer in answers])
    return [answer.numpy() for answer in answers], tape.gradient(loss, variables)


@pytest.mark.parametrize("topology", ["mobilenet_v1", "mobilenet_v2", "alexnet"])
def test_a_network_with_its_norms_folded_answers_and_learns_as_before(topology: Topology) -> None:
    model = network(topology)
    variables = model.trainable_variables
    answers, gradients = answers_and_gradients(model, variables)
    folded_answers, folded_gradients = answers_and_gradients(with_batch_norm_folded(model), variables)

    for one, other in zip(answers, folded_answers, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    for one, other in zip(gradients, folded_gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            scale = float(tf.norm(one)) + 1e-7
            # Rounding moves a few activations across the corners of ReLU6.
            assert float(tf.norm(one - other)) < 0.05 * scale


def test_no_norm_is_computed_by_itself_any_more_where_all_are_frozen() -> None:
    folded = with_batch_norm_folded(network("mobilenet_v2"))
    graph = tf.function(lambda x: folded(x, training=True)).get_concrete_function(pictures()).graph

    assert not [op.name for op in graph.get_operations() if "FusedBatchNorm" in op.type]


def test_norm_that_learns_its_statistics_still_learns_them() -> None:
    model = network("mobilenet_v1", is_frozen=False)
    norm = next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    before = norm.moving_mean.numpy()
    with_batch_norm_folded(model)(pictures(), training=True)

    assert not np.allclose(norm.moving_mean.numpy(), before)


def test_the_model_itself_does_not_learn_that_it_was_folded() -> None:
    model = network("mobilenet_v1")
    with_batch_norm_folded(model)

    assert all(len(layer.inbound_nodes) == 1 for layer in model.layers)
