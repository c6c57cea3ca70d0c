"""The quantization ladder: what plain int8 loses comes back, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import planted
import pytest
from click.testing import CliRunner

from edgecnn.bundle import file as bundle_file
from edgecnn.bundle import flatbuffer
from edgecnn.cli.main import edgecnn
from edgecnn.core.prediction import Head, tempered
from edgecnn.errors import CheckFailed, ModelError
from edgecnn.measure.accuracy import Drop, accuracy_drop
from edgecnn.runtime.predictor import load, verify_golden
from edgecnn.workstation.backend import keras
from edgecnn.workstation.ladder.activations import observe, scores_of
from edgecnn.workstation.ladder.climb import climb, ladder, timed
from edgecnn.workstation.ladder.equalize import equalize, pairs
from edgecnn.workstation.ladder.islands import islands
from edgecnn.workstation.ladder.judge import Answers, Judge
from edgecnn.workstation.ladder.metric import Metric, fit_temperature, parse_metric
from edgecnn.workstation.ladder.network import Network, layers, quantized, read_network, values, with_values
from edgecnn.workstation.ladder.rounding import adaround, correct_biases, rounded, settle
from edgecnn.workstation.subject import Subject, read_subject
from edgecnn.workstation.tflite import float_operators, to_flatbuffer, to_network

CALIBRATION = 120
FAULTS = (planted.outlier_channels, planted.dead_concat, planted.saturated_output)


@pytest.fixture(scope="module", params=FAULTS, ids=lambda make: make.__name__)
def fault(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[planted.Planted, Subject]:
    spoilt = request.param()
    path = spoilt.save(tmp_path_factory.mktemp("planted") / "model.h5")
    return spoilt, read_subject(path, planted.LABELS)


def drop_on(split: Any, subject: Subject) -> Callable[[bytes], Drop]:
    codes, labels = split
    before = subject.model.predict(codes.astype(np.float32), verbose=0).argmax(axis=1) == labels
    return lambda flat: accuracy_drop(before, scores_of(flat, codes)[0].argmax(axis=1) == labels)


def nothing() -> None:
    return None


def test_the_ladder_brings_back_what_plain_int8_loses_to_a_planted_fault(
    fault: tuple[planted.Planted, Subject],
) -> None:
    spoilt, subject = fault
    codes = spoilt.train[0][:CALIBRATION]
    on_test = drop_on(spoilt.test, subject)

    steps = ladder(lambda: to_network(subject, codes), codes, nothing, nothing)
    climbed = climb(steps, drop_on(spoilt.val, subject), budget_pp=1.0)

    assert on_test(climbed.rungs[0].flat).drop_pp >= 10
    assert climbed.has_held
    assert on_test(climbed.best.flat).drop_pp <= 1
    assert float_operators(climbed.best.flat) == ()


def network_of(model: Any, codes: Any, tmp_path: Path) -> tuple[Network, Any, Subject]:
    model.save(tmp_path / "model.keras")
    labels = [f"label{i}" for i in range(model.output_shape[-1])]
    subject = read_subject(tmp_path / "model.keras", labels)
    calibrated, pictures = to_network(subject, codes)
    return read_network(calibrated), pictures, subject


def pictures_of_noise(count: int = 24) -> Any:
    codes = np.random.default_rng(5).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    codes[:, 0, 0], codes[:, 0, 1] = 0, 255
    return codes


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Any, Subject]:
    """Two branches of uneven channels, relu and relu6, pools, a concatenation and a flattened end."""
    keras.utils.set_random_seed(2)
    layers_ = keras.layers
    picture = keras.Input((12, 12, 3))
    x = layers_.Rescaling(1 / 128, offset=-1.0)(picture)
    one = layers_.Conv2D(8, 3, padding="same", activation="relu", name="one")(x)
    two = layers_.Conv2D(8, 3, padding="same", name="two")(x)
    two = layers_.ReLU(6.0)(two)
    x = layers_.MaxPooling2D()(layers_.Concatenate()([one, two]))
    x = layers_.DepthwiseConv2D(3, activation="relu", name="depth")(x)
    x = layers_.Conv2D(6, 1, activation="relu", name="point")(x)
    x = layers_.Flatten()(x)
    model = keras.Model(picture, layers_.Dense(4, activation="softmax", name="scores")(x))
    rng = np.random.default_rng(0)
    for name in ("one", "two", "depth", "point"):
        layer = model.get_layer(name)
        kernel, bias = layer.get_weights()
        spread = np.exp(rng.normal(0, 1.5, bias.shape))
        kernel *= spread if name != "depth" else spread[:, None]
        layer.set_weights([kernel, bias + rng.normal(0, 0.1, bias.shape)])
    return network_of(model, pictures_of_noise(), tmp_path_factory.mktemp("mixed"))


def test_the_first_rung_gives_the_scores_of_plain_conversion(mixed: tuple[Network, Any, Subject]) -> None:
    network, _, subject = mixed
    codes = pictures_of_noise()

    plain = scores_of(to_flatbuffer(subject, "int8", codes), codes)

    np.testing.assert_array_equal(scores_of(quantized(network), codes), plain)


def test_equalization_leaves_the_float_answers_and_evens_the_channels(
    mixed: tuple[Network, Any, Subject],
) -> None:
    network, pictures, _ = mixed
    seen = observe(network, pictures)

    even = equalize(network, seen)

    assert [pair.layer.operator.op for pair in pairs(network.model)] == [
        "CONV_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D",
    ]  # fmt: skip
    np.testing.assert_allclose(scores_of(even.flat, pictures), scores_of(network.flat, pictures), atol=2e-4)
    first = pairs(network.model)[0].layer.given
    before, after = (found[first].channel_peak for found in (seen, observe(even, pictures)))
    assert np.ptp(np.log(after)) < 0.1 * np.ptp(np.log(before))


def test_a_channel_that_relu6_clips_is_not_scaled(mixed: tuple[Network, Any, Subject]) -> None:
    network, pictures, _ = mixed
    seen = observe(network, pictures)
    clipped = next(
        pair.layer for pair in pairs(network.model) if pair.layer.operator.options["activation"] == "RELU6"
    )
    at_six = seen[clipped.given].channel_high >= 6
    assert at_six.any()
    assert not at_six.all()

    ratio = values(equalize(network, seen), clipped.weights) / values(network, clipped.weights)

    np.testing.assert_array_equal(ratio[at_six], 1)
    assert (ratio[~at_six] != 1).any()


def test_a_channel_that_is_added_to_another_is_left_alone(tmp_path: Path) -> None:
    picture = keras.Input((12, 12, 3))
    x = keras.layers.Rescaling(1 / 128, offset=-1.0)(picture)
    one = keras.layers.Conv2D(4, 3, activation="relu")(x)
    two = keras.layers.Conv2D(4, 3, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([one, two]))
    model = keras.Model(picture, keras.layers.Dense(3, activation="softmax")(x))

    network, _, _ = network_of(model, pictures_of_noise(), tmp_path)

    assert pairs(network.model) == ()


def test_bias_correction_brings_the_mean_of_a_layer_back(tmp_path: Path) -> None:
    keras.utils.set_random_seed(4)
    picture = keras.Input((12, 12, 3))
    x = keras.layers.Rescaling(1 / 255)(picture)
    x = keras.layers.Conv2D(6, 1, name="mixed")(x)
    x = keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(picture, x)
    kernel, bias = model.get_layer("mixed").get_weights()
    kernel[:, :, 0] = 30  # its steps are too coarse for what the other two inputs are weighed with
    model.get_layer("mixed").set_weights([kernel, bias])
    network, pictures, _ = network_of(model, pictures_of_noise(), tmp_path)
    layer = layers(network.model)[0]
    coarse = {layer.weights: rounded(values(network, layer.weights), layer.out_axis)}

    def mean_of(candidate: Network) -> Any:
        return observe(candidate, pictures)[layer.given].channel_mean

    corrected = with_values(correct_biases(network, observe(network, pictures)), coarse)

    wanted = mean_of(network)
    lost = np.abs(mean_of(with_values(network, coarse)) - wanted).max()
    assert np.abs(mean_of(corrected) - wanted).max() < 0.05 * lost


def test_learned_rounding_changes_a_layers_output_less_than_the_nearest_codes() -> None:
    rng = np.random.default_rng(3)
    inputs = rng.normal(0, 1, (400, 6)) @ rng.normal(0, 1, (6, 24))
    rows = rng.normal(0, 1, (8, 24)).astype(np.float32)
    moments = (inputs.T @ inputs / len(inputs)).astype(np.float32)

    learned = settle(rows, moments)

    def error(codes: Any) -> float:
        return float(np.square((codes - rows) @ inputs.T).mean())

    assert error(learned) < 0.5 * error(rounded(rows, 0))
    np.testing.assert_allclose(rounded(learned, 0), learned, rtol=1e-5)


def test_the_int8_file_holds_the_codes_that_were_learned(mixed: tuple[Network, Any, Subject]) -> None:
    network, pictures, _ = mixed

    learned = adaround(network, pictures, lambda *_: None)

    made = flatbuffer.parse(quantized(learned))
    by_name = {
        made.tensors[o.outputs[0]].name: made.tensors[o.inputs[1]]
        for o in made.operators
        if len(o.inputs) > 1
    }
    changed = 0
    for layer in layers(learned.model):
        tensor = by_name[learned.model.tensors[layer.given].name]
        codes, wanted = made.values(tensor), values(learned, layer.weights)
        assert codes is not None
        shape = [1] * wanted.ndim
        shape[layer.out_axis] = -1
        scales = np.reshape(tensor.quantization.scales, shape)
        np.testing.assert_allclose(codes * scales, wanted, atol=1e-5 * float(np.abs(wanted).max()))
        changed += int(
            (np.abs(wanted - rounded(values(network, layer.weights), layer.out_axis)) > scales / 2).sum()
        )
    assert changed > 0


def test_islands_come_worst_first_and_are_float_in_the_file(
    mixed: tuple[Network, Any, Subject],
) -> None:
    network, _, _ = mixed
    names = [network.model.tensors[o.outputs[0]].name for o in network.model.operators]
    worst = next(name for name in names if "depth" in name)

    proposed = list(islands(network, lambda flat: 0.0 if worst in kept_float(flat) else 1.0))

    assert [len(found) for found in proposed] == [1, 2]
    assert proposed[0] == (worst,)
    assert kept_float(quantized(network, proposed[1])) >= set(proposed[1])


def kept_float(flat: bytes) -> set[str]:
    model = flatbuffer.parse(flat)
    return {
        model.tensors[o.outputs[0]].name
        for o in model.operators
        if model.tensors[o.outputs[0]].dtype == "float32" and o.op != "DEQUANTIZE"
    }


def test_no_rung_is_made_after_the_one_that_holds_and_the_lowest_upper_bound_is_the_best() -> None:
    asked: list[str] = []

    def steps() -> Iterator[tuple[str, bytes]]:
        for name in ("a", "b", "c"):
            asked.append(name)
            yield name, name.encode()

    highs = {b"a": 5.0, b"b": 0.9, b"c": 0.0}

    climbed = climb(steps(), lambda flat: Drop(0, 0, highs[flat], 0, 0, 1, "paired bootstrap"), 1.0)

    assert asked == ["a", "b"]
    assert (climbed.best.name, climbed.has_held) == ("b", True)


def test_the_rungs_are_timed_by_turns(mixed: tuple[Network, Any, Subject]) -> None:
    flat = quantized(mixed[0])
    climbed = climb([("a", flat), ("b", flat)], lambda _: Drop(0, 0, 9.0, 0, 0, 1, "paired bootstrap"), 1.0)

    first, second = (rung.p50_ms for rung in timed(climbed, pictures_of_noise()).rungs)

    assert first is not None
    assert second is not None
    assert 0.5 < first / second < 2


FIRE = Head("fire", "sigmoid", ("no_fire", "fire"))


def fire_answers(scores: list[float], shown: list[float]) -> Answers:
    from edgecnn.workstation.data.targets import Targets

    column = np.float32(scores)[:, None]
    return Answers((Targets(np.float32(shown)[:, None]),), (np.hstack([1 - column, column]),))


def test_recall_is_judged_on_positive_pictures_at_each_models_own_threshold() -> None:
    shown = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    before = fire_answers([0.1, 0.2, 0.1, 0.2, 0.9, 0.8, 0.9, 0.7], shown)
    halved = fire_answers([0.05, 0.1, 0.05, 0.1, 0.45, 0.4, 0.45, 0.35], shown)
    worse = fire_answers([0.1, 0.2, 0.1, 0.8, 0.9, 0.7, 0.9, 0.7], shown)
    judge = Judge(parse_metric("recall@fpr=0.05"), (FIRE,), lambda *_: {}, lambda *_: np.zeros(0, bool))

    assert judge.drop(before, halved).drop_pp == 0
    assert judge.drop(before, worse).drop_pp == 50
    assert len(judge.hits(worse, {"fire": 0.5})) == 4


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("f1", "recall@fpr"),
        ("recall@fpr=5", "recall@fpr"),
        ("smoke:top1", "fire"),
        ("scene:recall@fpr=0.1", "top1"),
    ],
)
def test_a_metric_that_the_model_has_not_is_refused(text: str, fix: str) -> None:
    heads = (FIRE, Head("scene", "softmax", ("a", "b", "c")))

    with pytest.raises(ModelError) as caught:
        Judge(parse_metric(text), heads, lambda *_: {}, lambda *_: np.zeros(0, bool))

    assert fix in caught.value.fix


def test_a_label_of_several_sigmoids_can_be_the_metric() -> None:
    assert parse_metric("smoke:recall@fpr=0.01") == Metric("smoke", 0.01)


@pytest.mark.parametrize("head", [FIRE, Head("scene", "softmax", ("a", "b", "c"))])
def test_the_temperature_makes_scores_honest_again(head: Head) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (4000, head.neuron_count))
    if head.is_binary:
        honest = 1 / (1 + np.exp(-logits))
        truth = (rng.random((4000, 1)) < honest).astype(np.float32)
        sure = np.hstack([1 - 1 / (1 + np.exp(-2 * logits)), 1 / (1 + np.exp(-2 * logits))])
    else:
        honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        truth = np.stack([rng.multinomial(1, row) for row in honest]).astype(np.float32)
        sure = np.exp(2 * logits) / np.exp(2 * logits).sum(axis=1, keepdims=True)

    found = fit_temperature(sure.astype(np.float32), truth, head)

    assert found == pytest.approx(2, rel=0.1)
    middling = np.float32([[0.4, 0.6]]) if head.is_binary else np.float32([[0.2, 0.3, 0.5]])
    assert tempered(middling, found, head).argmax() == middling.argmax()


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A spoilt model, its pictures and its labels, as a user has them."""
    folder = tmp_path_factory.mktemp("disk")
    spoilt = planted.outlier_channels()
    for split, (codes, labels) in (("train", spoilt.train), ("val", spoilt.val), ("test", spoilt.test)):
        for number, (picture, label) in enumerate(zip(codes, labels, strict=True)):
            place = folder / "data" / split / planted.LABELS[label]
            place.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place / f"{number}.png"), picture[..., ::-1])
    (folder / "labels.txt").write_text("\n".join(planted.LABELS))
    return spoilt.save(folder / "model.h5"), folder / "data", folder / "labels.txt"


def convert(on_disk: tuple[Path, Path, Path], out: Path, *more: str) -> Any:
    model, data, labels = map(str, on_disk)
    return CliRunner().invoke(
        edgecnn, ["convert", model, "--data", data, "--labels", labels, "--out", str(out), *more]
    )


def test_convert_says_which_rung_held_the_budget_and_what_it_cost(
    on_disk: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    result = convert(on_disk, tmp_path / "m.tflite", "--max-drop", "1")

    assert result.exit_code == 0, result.output
    assert "(held)" in result.output
    assert "On 800 test pictures, top1:" in result.output
    predictor = load(tmp_path / "m.tflite")
    verify_golden(predictor)
    manifest = predictor.manifest
    assert manifest is not None
    budget = manifest.provenance.budget
    assert budget is not None
    assert budget.rung in ("ranges", "equalization", "bias correction", "adaround")
    assert budget.high_pp <= budget.max_drop_pp == 1
    assert manifest.temperatures["label"] > 0
    assert [m.data.split()[0] for m in manifest.measured] == ["val", "test"]


def test_a_budget_that_nothing_holds_ends_in_3_with_the_best_file_kept_and_named(
    on_disk: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    result = convert(on_disk, tmp_path / "m.tflite", "--max-drop", "-50", "--target", "micro")

    assert isinstance(result.exception, CheckFailed)
    assert result.exception.exit_code == 3
    assert f"'{tmp_path / 'm.tflite'}'" in result.exception.message
    assert "adaround" in result.output
    kept = bundle_file.read(tmp_path / "m.tflite").manifest
    assert kept is not None
    assert kept.provenance.budget is not None
    assert kept.provenance.budget.drop_pp <= 1


def test_a_budget_for_a_float_file_is_refused_and_nothing_is_written(
    on_disk: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    result = convert(on_disk, tmp_path / "m.tflite", "--max-drop", "1", "--precision", "float16")

    assert isinstance(result.exception, ModelError)
    assert not list(tmp_path.iterdir())
