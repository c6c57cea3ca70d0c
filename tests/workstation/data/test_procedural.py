from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgecnn.errors import DataError
from edgecnn.workstation.data.catalog import open_dataset
from edgecnn.workstation.data.procedural import render_clip, render_scene, write_pictures


def test_the_same_seed_renders_the_same_scene() -> None:
    one, other, third = (render_scene(np.random.default_rng(s), True, 64, 64) for s in (5, 5, 6))
    np.testing.assert_array_equal(one, other)
    assert (one != third).any()


def hot(pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 0] > 150) & (pixels[..., 0] - pixels[..., 2] > 80)


def test_flames_change_a_part_of_the_scene_and_not_all_of_it() -> None:
    for seed in range(12):
        burning, calm = (
            render_scene(np.random.default_rng(seed), flames, 96, 96).astype(int) for flames in (True, False)
        )
        changed = np.abs(burning - calm).max(axis=-1) > 60
        assert 0.004 < changed.mean() < 0.7
        assert hot(burning)[changed].mean() > 0.25 > hot(calm)[changed].mean()


def test_scenes_without_fire_hold_orange_light_too() -> None:
    scenes = [render_scene(np.random.default_rng([1, s]), False, 64, 64).astype(int) for s in range(60)]
    orange = [hot(one).mean() > 0.005 for one in scenes]
    assert 5 < sum(orange) < 55


def test_a_clip_burns_from_the_moment_of_ignition_on() -> None:
    frames = [frame.pixels_rgb.astype(int) for frame in render_clip(4, 4.0, 2.0, 2.0, 64, 64)]
    change = [float(np.abs(frame - frames[0]).mean()) for frame in frames]
    assert max(change[1:5]) < 6
    assert min(change[6:]) > 2 * max(change[1:5])


def test_the_same_fire_burns_at_2_and_at_10_frames_per_second() -> None:
    slow = {frame.captured_at_s: frame for frame in render_clip(4, 2.0, 2.0, 0.5, 48, 48)}
    fast = {frame.captured_at_s: frame for frame in render_clip(4, 2.0, 10.0, 0.5, 48, 48)}
    for at_s in (0.5, 1.0, 1.5):
        gap = slow[at_s].pixels_rgb.astype(int) - fast[at_s].pixels_rgb
        assert np.abs(gap).mean() < 6  # the noise of two exposures


def test_rendered_pictures_make_a_data_set_whose_splits_share_nothing(tmp_path: Path) -> None:
    write_pictures(tmp_path / "set", per_class=8, seed=1, height_px=32, width_px=32)
    data = open_dataset(tmp_path / "set")
    assert data.labels == ("fire", "no_fire")
    assert [len(data.split(name)) for name in ("train", "val", "test")] == [16, 4, 4]
    assert len({picture.sha256() for picture in data.pictures}) == 24


def test_rendering_again_gives_the_same_and_loses_nothing_else(tmp_path: Path) -> None:
    write_pictures(tmp_path / "set", per_class=2, seed=1, height_px=32, width_px=32)
    before = open_dataset(tmp_path / "set").digest()
    write_pictures(tmp_path / "set", per_class=2, seed=1, height_px=32, width_px=32)
    assert open_dataset(tmp_path / "set").digest() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.txt"):
        write_pictures(tmp_path, per_class=1, seed=1)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
