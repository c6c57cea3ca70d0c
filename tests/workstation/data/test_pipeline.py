from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgecnn.core.frame import InputSpec, resize
from edgecnn.errors import DataError
from edgecnn.workstation.backend import tf
from edgecnn.workstation.data import pipeline
from edgecnn.workstation.data.augment import augment_picture
from edgecnn.workstation.data.catalog import Picture
from edgecnn.workstation.data.pipeline import WaitMeter, codes_of, training_batches
from edgecnn.workstation.data.targets import Targets
from edgecnn.workstation.recipe import Augment

STRONG = Augment(
    flip=True, rotate_degrees=15, zoom=0.2, shift=0.1, brightness=0.3, contrast=0.3, saturation=0.3,
    hue_degrees=10, blur_px=1.0, noise=8, jpeg=True, crop=0.5, exposure=0.4,
    white_balance=0.2, grey=0.7, shrink=0.5, motion_px=5, erase=0.2,
)  # fmt: skip


def pictures_in(folder: Path, count: int = 5) -> list[Picture]:
    rng = np.random.default_rng(1)
    made = []
    for number in range(count):
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (20, 30, 3), np.uint8))
        made.append(Picture(f"train/a/{number}.png", "train", "ab"[number % 2], "a", path))
    return made


def codes(count: int = 50) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("spec", [InputSpec(8, 8), InputSpec(8, 12, 1), InputSpec(40, 40, 3, "letterbox")])
def test_training_sees_the_codes_that_the_device_sees(tmp_path: Path, spec: InputSpec) -> None:
    pictures = pictures_in(tmp_path)
    expected = np.stack([resize(picture.read(), spec) for picture in pictures])
    np.testing.assert_array_equal(codes_of(pictures, spec, tmp_path / "cache"), expected)


def test_codes_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = pictures_in(tmp_path)
    first = np.array(codes_of(pictures, InputSpec(8, 8), tmp_path / "cache"))
    monkeypatch.setattr(pipeline, "_make", lambda *_: pytest.fail("made again"))
    np.testing.assert_array_equal(codes_of(pictures, InputSpec(8, 8), tmp_path / "cache"), first)


def test_a_changed_picture_is_decoded_again(tmp_path: Path) -> None:
    pictures = pictures_in(tmp_path)
    codes_of(pictures, InputSpec(8, 8), tmp_path / "cache")
    cv2.imwrite(str(pictures[2].source), np.full((9, 9, 3), 7, np.uint8))
    assert (codes_of(pictures, InputSpec(8, 8), tmp_path / "cache")[2] == 7).all()


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    pictures = pictures_in(tmp_path)
    first = np.array(codes_of(pictures, InputSpec(8, 8), tmp_path / "cache"))
    (kept,) = (tmp_path / "cache/codes").glob("*.npy")
    kept.write_bytes(kept.read_bytes()[:200])
    np.testing.assert_array_equal(codes_of(pictures, InputSpec(8, 8), tmp_path / "cache"), first)


def test_all_broken_pictures_are_named_at_once_and_nothing_is_kept(tmp_path: Path) -> None:
    pictures = pictures_in(tmp_path, 14)
    for picture in pictures[1:]:
        assert isinstance(picture.source, Path)
        picture.source.write_text("no picture")
    with pytest.raises(DataError) as caught:
        codes_of(pictures, InputSpec(8, 8), tmp_path / "cache")
    assert "13 pictures" in caught.value.message
    assert sum(f"'train/a/{n}.png'" in caught.value.message for n in range(14)) == 10
    assert "and 3 more" in caught.value.message
    assert list((tmp_path / "cache/codes").iterdir()) == []


def test_pixels_of_equal_bytes_and_another_shape_are_not_taken_for_each_other(tmp_path: Path) -> None:
    pixels = np.arange(8 * 32, dtype=np.uint8).reshape(8, 32)
    wide, high = (
        Picture("x_train/00000", "train", "a", "a", one) for one in (pixels, pixels.reshape(32, 8).copy())
    )
    spec = InputSpec(8, 8, 1)
    first = np.array(codes_of([wide], spec, tmp_path))
    assert (codes_of([high], spec, tmp_path) != first).any()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="only Linux reserves space")
def test_space_is_taken_before_the_first_picture_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_bytes: list[int] = []

    def resize_and_look(pixels: np.ndarray, spec: InputSpec) -> np.ndarray:
        (draft,) = tmp_path.glob("codes/.making-*/codes.npy")
        taken_bytes.append(draft.stat().st_blocks * 512)
        return resize(pixels, spec)

    monkeypatch.setattr(pipeline, "resize", resize_and_look)
    codes_of([Picture("x", "train", "a", "a", np.zeros((8, 8), np.uint8))], InputSpec(2000, 2000), tmp_path)
    assert taken_bytes[0] >= 2000 * 2000 * 3


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="only Linux reserves space")
def test_a_full_disk_is_an_error_with_a_way_out_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match="No space left on device") as caught:
        codes_of(pictures_in(tmp_path), InputSpec(8, 8), tmp_path / "cache")
    assert "EDGECNN_CACHE" in caught.value.fix
    assert list((tmp_path / "cache/codes").iterdir()) == []


def test_what_a_killed_run_left_is_removed_a_day_later(tmp_path: Path) -> None:
    old, young = (tmp_path / f"cache/codes/.making-{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "codes.npy").write_bytes(b"half")
    two_days_ago_s = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago_s, two_days_ago_s))
    codes_of(pictures_in(tmp_path), InputSpec(8, 8), tmp_path / "cache")
    assert (old.exists(), young.exists()) == (False, True)


def test_no_pictures_give_no_codes(tmp_path: Path) -> None:
    assert codes_of([], InputSpec(8, 8), tmp_path).shape == (0, 8, 8, 3)


def epoch_of(count: int, augment: Augment, seed: int, epoch: int, batch: int = 8) -> list[np.ndarray]:
    targets = Targets(np.arange(count, dtype=np.float32)[:, None])
    batches = training_batches(codes(count), [targets], batch, augment, seed, epoch)
    assert len(batches) == -(-count // batch)
    return [part.numpy() for pixels, (rows,) in batches for part in (pixels, tf.cast(rows[:, 0], tf.int64))]


def test_an_epoch_holds_every_picture_once_with_its_own_target() -> None:
    parts = epoch_of(50, Augment(), seed=1, epoch=0)
    pixels, targets = np.concatenate(parts[::2]), np.concatenate(parts[1::2])
    assert pixels.dtype == np.float32
    assert sorted(targets.tolist()) == list(range(50))
    assert targets.tolist() != list(range(50))
    np.testing.assert_array_equal(pixels, codes(50)[targets])


def test_a_resumed_epoch_sees_the_pictures_of_the_unbroken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = epoch_of(50, STRONG, seed=1, epoch=3)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    resumed = epoch_of(50, STRONG, seed=1, epoch=3)
    for one, other in zip(unbroken, resumed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_next_epoch_and_another_seed_vary_the_pictures_in_other_ways() -> None:
    def first_picture(seed: int, epoch: int) -> np.ndarray:
        parts = epoch_of(50, STRONG, seed, epoch)
        return np.concatenate(parts[::2])[np.argmin(np.concatenate(parts[1::2]))]

    one = first_picture(1, 0)
    assert (one != first_picture(1, 1)).any()
    assert (one != first_picture(2, 0)).any()


def test_a_picture_is_varied_alike_in_any_batch_size() -> None:
    small, large = (epoch_of(50, STRONG, 1, 0, batch) for batch in (3, 50))
    np.testing.assert_array_equal(np.concatenate(small[::2]), np.concatenate(large[::2]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("field", sorted(set(Augment.__dataclass_fields__) - {"mosaic"}))  # of four pictures
def test_each_way_of_varying_changes_pixels_and_keeps_the_shape(field: str, channels: int) -> None:
    if channels == 1 and field in ("saturation", "hue_degrees", "white_balance", "grey"):
        pytest.skip("a grey picture has no colour to change")
    picture = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8), (0, 0), 2)
    picture = np.ascontiguousarray(picture[..., :channels])
    augment = Augment(**{field: getattr(STRONG, field)})
    varied = [augment_picture(picture, augment, np.random.default_rng(seed)) for seed in range(8)]
    assert all(one.shape == picture.shape and one.dtype == np.uint8 for one in varied)
    assert any((one != picture).any() for one in varied)


def test_a_transmission_keeps_more_of_red_than_of_blue() -> None:
    # JPEG keeps half of the resolution of chroma; in YCbCr red counts 0.299 in luma, blue 0.114.
    rng = np.random.default_rng(1)
    loss = []
    for channel in (0, 2):
        picture = np.full((64, 64, 3), 128, np.uint8)
        picture[..., channel] = rng.integers(64, 192, (64, 64))
        sent = [
            augment_picture(picture, Augment(jpeg=True), np.random.default_rng(seed)) for seed in range(20)
        ]
        loss.append(np.mean([np.abs(one[..., channel].astype(int) - picture[..., channel]) for one in sent]))
    red, blue = loss
    assert red < blue


def test_flipping_mirrors_and_nothing_else() -> None:
    picture = codes(1)[0]
    seen = {
        augment_picture(picture, Augment(flip=True), np.random.default_rng(s)).tobytes() for s in range(9)
    }
    assert seen == {picture.tobytes(), picture[:, ::-1].tobytes()}


def test_turning_the_hue_leaves_the_luma() -> None:
    picture = np.full((4, 4, 3), (150, 100, 90), np.uint8)
    turned = augment_picture(picture, Augment(hue_degrees=30), np.random.default_rng(3))
    luma = [float(np.mean(one @ np.array([0.299, 0.587, 0.114]))) for one in (picture, turned)]
    assert abs(luma[0] - luma[1]) < 1.5
    assert (picture != turned).any()


def test_noise_has_no_bias_in_the_middle_of_the_scale() -> None:
    picture = np.full((64, 64, 3), 128, np.uint8)
    noisy = augment_picture(picture, Augment(noise=10), np.random.default_rng(1))
    assert abs(float(noisy.mean()) - 128) < 0.5
    assert 0.5 < float(noisy.std()) < 11


def test_the_meter_tells_a_starved_training_from_a_fed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(pipeline.time, "perf_counter", lambda: now[0])

    def slow_input() -> object:
        for number in range(3):
            now[0] += 3
            yield number

    meter = WaitMeter(slow_input())
    for _ in meter:
        now[0] += 1
    assert meter.waited_s == 9
    assert meter.share == 0.75
