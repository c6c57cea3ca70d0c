"""The one resize."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.core.frame import InputSpec, resize


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    mode=st.sampled_from(["stretch", "letterbox"]),
    channels=st.sampled_from([1, 3]),
)
def test_any_picture_becomes_the_input_and_a_flat_colour_stays_that_colour(
    height: int, width: int, mode: str, channels: int
) -> None:
    picture = np.full((height, width, 3), 77, np.uint8)

    codes = resize(picture, InputSpec(24, 16, channels, mode))  # type: ignore[arg-type]

    assert codes.shape == (24, 16, channels)
    assert set(np.unique(codes)) <= {0, 77}


def test_a_picture_of_the_right_size_passes_unchanged() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)

    assert np.array_equal(resize(picture, InputSpec(24, 16)), picture)


def test_letterbox_keeps_the_aspect_ratio_and_pads_with_black() -> None:
    picture = np.full((10, 40, 3), 200, np.uint8)

    codes = resize(picture, InputSpec(20, 20, 3, "letterbox"))

    assert (codes[:, 0, 0] > 0).tolist() == [False] * 7 + [True] * 5 + [False] * 8


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255

    codes = resize(stripes, InputSpec(16, 16))

    assert 126 <= codes.min() <= codes.max() <= 128
