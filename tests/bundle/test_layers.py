from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models

from edgecnn.bundle import flatbuffer
from edgecnn.bundle.layers import layers


@pytest.mark.parametrize(
    ("name", "macs_millions", "parameters_millions"),
    [
        # TensorFlow's own table of MobileNet V1: 76 million and 1.32 million for 0.50 at 160.
        ("mobilenet_v1_0.5_160_quant", 76, 1.32),
        # M. Sandler et al., MobileNetV2, arXiv:1801.04381, table 4: 300 million and 3.4 million.
        ("mobilenet_v2_1.0_224_quant", 300, 3.4),
        # C. Banbury et al., MLPerf Tiny, arXiv:2106.07597: 12.5 million and 78 thousand.
        ("pretrainedResnet_quant", 12.5, 0.078),
    ],
)
def test_published_networks_cost_what_their_papers_say(
    shared: Path, name: str, macs_millions: float, parameters_millions: float
) -> None:
    rows = layers(flatbuffer.parse((shared / "reference_models" / f"{name}.tflite").read_bytes()))
    macs = sum(row.macs or 0 for row in rows) / 1e6
    parameters = sum(row.parameters for row in rows) / 1e6
    assert macs == pytest.approx(macs_millions, rel=0.02)
    assert parameters == pytest.approx(parameters_millions, rel=0.03)


def test_a_small_network_is_counted_by_hand() -> None:
    rows = {row.op: row for row in layers(flatbuffer.parse(tiny_models.flat()))}
    assert rows["CONV_2D"].parameters == 3 * 3 * 3 * 4 + 4
    assert rows["CONV_2D"].macs == 8 * 8 * 4 * 3 * 3 * 3
    assert rows["DEPTHWISE_CONV_2D"].macs == 8 * 8 * 4 * 3 * 3
    assert rows["FULLY_CONNECTED"].parameters == 4 * 3  # its biases are all 0, and the converter drops them
    assert rows["MEAN"].parameters == 0


def test_a_compiled_part_costs_nobody_knows_what(shared: Path) -> None:
    path = shared / "reference_models" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite"
    (row,) = layers(flatbuffer.parse(path.read_bytes()))
    assert (row.op, row.macs) == ("edgetpu-custom-op", None)
