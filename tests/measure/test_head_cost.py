"""A network without one of its heads, which says what that head costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orange
import pytest
import tiny_models
from benchmarks.head_cost import macs_of, main, with_heads
from click.testing import CliRunner

from edgecnn.bundle.file import Bundle
from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head
from edgecnn.runtime.predictor import load

SIDE_PX = 32
HEADS = (Head("scene", "softmax", ("sea", "street", "forest")), Head("place", "heatmap", ("fire",)))


def write_two_heads(path: Path) -> Bundle:
    from edgecnn.bundle.flatbuffer import parse
    from edgecnn.workstation.backend import keras

    keras.utils.set_random_seed(3)
    layers = keras.layers
    entry = layers.Input((SIDE_PX, SIDE_PX, 3))
    trunk = layers.Rescaling(1 / 255)(entry)
    trunk = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(trunk)
    trunk = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(trunk)
    heat = layers.Conv2D(1, 1, activation="sigmoid")(trunk)
    scene = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(trunk))
    flat = orange._converted(keras.Model(entry, [scene, heat]), SIDE_PX, SIDE_PX)
    # The converter orders outputs as it likes.
    shapes = [len(tensor.shape) for tensor in parse(flat).outputs]
    scene_head, heat_head = HEADS
    heads = (
        Head(scene_head.name, scene_head.kind, scene_head.labels, shapes.index(2)),
        Head(heat_head.name, heat_head.kind, heat_head.labels, shapes.index(4)),
    )
    return tiny_models.write(path, flat, heads=heads, input=InputSpec(SIDE_PX, SIDE_PX), name="two")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_two_heads(tmp_path_factory.mktemp("two") / "two.tflite")


def test_without_a_head_the_others_answer_bit_for_bit_as_before(whole: Bundle, tmp_path: Path) -> None:
    assert whole.manifest is not None
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    scores = load(whole.path).scores(pixels)
    for head in whole.manifest.heads:
        part = with_heads(whole, [head], tmp_path / f"{head.name}.tflite")
        alone = load(part.path).scores(pixels)

        assert list(alone) == [head.name]
        assert np.array_equal(alone[head.name], scores[head.name])
        assert macs_of(part) < macs_of(whole)


def test_the_program_names_every_head_beside_a_control(whole: Bundle) -> None:
    done = CliRunner().invoke(main, [str(whole.path), "--calls", "30"], catch_exceptions=False)

    assert done.exit_code in (0, 3)
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == ["control", "scene", "place"]
