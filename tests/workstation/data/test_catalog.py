from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgecnn.core.frame import Pixels
from edgecnn.errors import DataError
from edgecnn.workstation.data.catalog import open_dataset


def scenery(seed: int, side: int = 48) -> Pixels:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def save(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def fill(root: Path, *folders: str, count: int = 2) -> Path:
    for number, folder in enumerate(folders):
        for index in range(count):
            save(root / folder / f"{index}.png", scenery(100 * number + index))
    return root


def test_folders_of_splits_and_classes_are_found(tmp_path: Path) -> None:
    data = open_dataset(fill(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog", "test/cat"))
    assert data.labels == ("cat", "dog")
    assert data.splits() == ("train", "val", "test")
    assert [p.path for p in data.split("test")] == ["test/cat/0.png", "test/cat/1.png"]


def test_other_names_of_the_splits_are_understood(tmp_path: Path) -> None:
    data = open_dataset(fill(tmp_path, "training/a", "training/b", "Valid/a", "testing/b"))
    assert data.splits() == ("train", "val", "test")


def test_a_split_of_another_name_stays_apart_from_training(tmp_path: Path) -> None:
    data = open_dataset(fill(tmp_path, "train/a", "train/b", "val/a", "train_neardup_of_test/a"))
    assert len(data.split("train")) == 4
    assert len(data.split("train_neardup_of_test")) == 2


def test_wrapping_folders_and_other_files_beside_are_looked_through(tmp_path: Path) -> None:
    fill(tmp_path / "fire/images", "train/a", "train/b", "val/a", "val/b")
    (tmp_path / "fire/videos").mkdir()
    (tmp_path / "fire/videos/clip.mp4").write_bytes(b"x")
    data = open_dataset(tmp_path)
    assert data.labels == ("a", "b")
    assert data.split("train")[0].path == "train/a/0.png"


@pytest.mark.parametrize("root", ["train", "."])
def test_a_copy_never_lies_in_train_beside_its_twin_in_a_drawn_split(tmp_path: Path, root: str) -> None:
    for number in range(80):
        path, pixels = tmp_path / root / "ab"[number % 2], scenery(number)
        save(path / f"{number}.png", pixels)
        save(path / f"{number}_again.jpg", np.clip(pixels * 0.9 + 4, 0, 255).astype(np.uint8))
    data = open_dataset(tmp_path)
    split_of = {p.path.split(".")[0]: p.split for p in data.pictures}
    assert "val" in split_of.values()
    assert all(split_of[name] == split_of[f"{name}_again"] for name in split_of if "_again" not in name)


def test_equal_digits_of_an_npz_lie_in_one_split(tmp_path: Path) -> None:
    half = np.random.default_rng(1).integers(0, 256, (200, 8, 8), np.uint8)
    path = npz(
        tmp_path / "d.npz", x_train=np.concatenate([half, half]), y_train=np.tile(np.arange(200) % 12, 2)
    )
    split_of = {p.path: p.split for p in open_dataset(path).pictures}
    assert Counter(split_of.values())["val"] > 10
    assert all(split_of[f"x_train/{n:05d}"] == split_of[f"x_train/{n + 200:05d}"] for n in range(200))


def test_many_frames_of_one_scene_stay_in_train(tmp_path: Path) -> None:
    for seed in range(6):
        for root in (tmp_path / f"{seed}/train", tmp_path / f"{seed}"):
            fill(root, "a", "b", count=12)
            for number in range(8):
                save(root / f"a/frame{number}.jpg", scenery(1000 + seed))
            data = open_dataset(root.parent if root.name == "train" else root)
            assert {p.split for p in data.pictures if "frame" in p.path} == {"train"}
            shutil.rmtree(root)


def test_pictures_that_are_added_move_no_other_to_another_split(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b", count=60)
    before = {p.path: p.split for p in open_dataset(tmp_path).pictures}
    for number in range(20):
        save(tmp_path / f"a/0{number}.png", scenery(5000 + number))
        save(tmp_path / f"c/{number}.png", scenery(6000 + number))
    after = {p.path: p.split for p in open_dataset(tmp_path).pictures}
    assert {path: after[path] for path in before} == before


def test_the_smallest_classes_have_a_picture_in_every_split(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b", "c", count=3)
    for seed in range(5):
        counts = Counter((p.split, p.label) for p in open_dataset(tmp_path, seed=seed).pictures)
        assert counts == {(split, label): 1 for split in ("train", "val", "test") for label in "abc"}


def clips(root: Path, lengths: dict[str, int], seed: int) -> None:
    """Write frames of clips: of one nearly the same picture."""
    for number, (clip, length) in enumerate(lengths.items()):
        still = scenery(seed + number).astype(np.int16)
        for frame in range(length):
            noise = np.random.default_rng(frame).integers(-3, 4, still.shape)
            save(root / f"{clip}_{frame}.png", np.clip(still + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("given", ["", "train/"])
def test_a_class_of_a_few_clips_has_its_shortest_in_every_split_that_is_drawn(
    tmp_path: Path, given: str
) -> None:
    clips(tmp_path / f"{given}fire", {"a": 9, "b": 5, "c": 7, "d": 8}, seed=500)
    fill(tmp_path, f"{given}no_fire", count=40)

    shown = {
        split: {p.path.split("/")[-1][0] for p in open_dataset(tmp_path).split(split) if p.label == "fire"}
        for split in open_dataset(tmp_path).splits()
    }

    drawn = {"val": {"b"}} if given else {"val": {"b"}, "test": {"c"}}
    assert shown == {"train": set("abcd") - set().union(*drawn.values()), **drawn}


def test_copies_of_pictures_that_have_a_split_follow_them(tmp_path: Path) -> None:
    fill(tmp_path / "first", *(f"{split}/{label}" for split in ("train", "val", "test") for label in "ab"))
    for label in "ab":
        for path in (tmp_path / "first").glob(f"*/{label}/*.png"):
            dimmed = np.clip(cv2.imread(str(path)) * 0.9 + 4, 0, 255).astype(np.uint8)
            save(tmp_path / "second" / label / f"{path.parts[-3]}_{path.stem}.png", dimmed)
    fill(tmp_path / "second", "a", "b", count=30)

    data = open_dataset([tmp_path / "first", tmp_path / "second"])

    followers = [p for p in data.pictures if "_" in p.path]
    assert len(followers) == 12
    assert all(Path(p.path).stem.startswith(f"{p.split}_") for p in followers)


def test_a_broken_picture_is_named_where_splits_have_to_be_drawn(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b")
    (tmp_path / "train/b/0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"train/b/0\.png' is empty"):
        open_dataset(tmp_path)


def test_a_set_with_train_alone_keeps_it_and_gives_a_tenth_to_val(tmp_path: Path) -> None:
    data = open_dataset(fill(tmp_path / "w/images", "train/a", "train/b", count=10))
    assert Counter(p.split for p in data.pictures) == {"train": 18, "val": 2}
    assert all(p.path.startswith("train/") for p in data.split("val"))


def test_a_name_that_is_no_utf_8_is_written_so_that_lists_and_reports_can_name_it(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b", "val/a")
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "train/a/0.png").rename(tmp_path / "train/a" / name)

    data = open_dataset(tmp_path)

    paths = [p.path for p in data.split("train")]
    assert "train/a/caf\\xe9.png" in paths
    assert "".join(paths).encode()
    assert data.split("train")[paths.index("train/a/caf\\xe9.png")].read().shape == (48, 48, 3)


def test_an_unknown_split_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    data = open_dataset(fill(tmp_path, "train/a", "train/b", "val/a"))
    with pytest.raises(DataError, match=r"no split 'test'; it has 'train', 'val'"):
        data.split("test")


def test_near_duplicates_stay_together_when_splits_are_drawn(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for number in range(30):
            pixels = scenery(1000 * (label == "b") + number)
            save(tmp_path / label / f"{number}.png", pixels)
            save(tmp_path / label / f"{number}_again.jpg", np.clip(pixels * 0.9 + 4, 0, 255).astype(np.uint8))
    data = open_dataset(tmp_path)
    split_of = {p.path.split(".")[0]: p.split for p in data.pictures}
    assert all(split_of[name] == split_of[f"{name}_again"] for name in split_of if "_again" not in name)


def test_each_class_is_split_80_to_10_to_10_on_average(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b", count=60)
    counts: Counter[tuple[str, str]] = Counter()
    for seed in range(10):
        counts.update((p.label, p.split) for p in open_dataset(tmp_path, seed=seed).pictures)
    for label in "ab":
        # Of 600 draws with a chance of a tenth: 60, give or take four times the deviation of 7.3.
        assert all(abs(counts[label, split] - 60) < 30 for split in ("val", "test"))


def test_the_same_seed_draws_the_same_splits_and_another_seed_others(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b", count=20)
    assert open_dataset(tmp_path, seed=3) == open_dataset(tmp_path, seed=3)
    assert open_dataset(tmp_path, seed=3) != open_dataset(tmp_path, seed=4)


def test_several_folders_make_one_label_and_the_rest_is_reported(tmp_path: Path) -> None:
    fill(tmp_path, "train/fire", "train/smoke", "train/no_fire", "train/hearth", "val/fire", "val/no_fire")
    data = open_dataset(tmp_path, {"no_fire": ["no_fire"], "fire": ["fire", "smoke"]})
    assert data.labels == ("no_fire", "fire")
    assert Counter(p.label for p in data.split("train")) == {"fire": 4, "no_fire": 2}
    assert data.left_out == ("hearth",)


def test_a_label_whose_folder_is_missing_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train/fire", "train/no_fire")
    with pytest.raises(DataError, match=r"folder 'smok'.*it has 'fire', 'no_fire'"):
        open_dataset(tmp_path, {"fire": ["smok"], "no": ["no_fire"]})


def test_an_empty_class_is_refused_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b", "val/a")
    (tmp_path / "train/c").mkdir()
    with pytest.raises(DataError, match="no picture of 'c'"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("folder", ["a", "train/a"])
def test_one_class_alone_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(DataError, match=r"one class only, 'a'|lie in no class folders"):
        open_dataset(fill(tmp_path, folder))


def test_pictures_without_class_folders_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", scenery(1))
    with pytest.raises(DataError, match="lie in no class folders"):
        open_dataset(tmp_path)


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no"):
        open_dataset(tmp_path / "nothing")


def test_pictures_in_formats_that_are_not_read_are_reported(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b", "val/a")
    (tmp_path / "train/a/moving.gif").write_bytes(b"GIF89a")
    (tmp_path / "train/a/._0.png").write_bytes(b"a Mac's notes")
    assert open_dataset(tmp_path).unread == ("train/a/moving.gif",)


def test_a_link_that_leads_back_up_does_not_run_forever(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b", "val/a")
    (tmp_path / "train/a/up").symlink_to(tmp_path)
    assert len(open_dataset(tmp_path).pictures) == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b")
    (tmp_path / "train/b").chmod(0)
    try:
        with pytest.raises(DataError, match=r"train/b' cannot be read"):
            open_dataset(tmp_path)
    finally:
        (tmp_path / "train/b").chmod(0o755)


def test_a_folder_that_vanishes_while_it_is_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "train/a", "train/b")
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"train/b' cannot be read: Permission denied"):
        open_dataset(tmp_path)


def test_an_archive_gives_the_same_data_set_as_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    folder = fill(tmp_path / "pets", "train/cat", "train/dog", "val/cat", "val/dog")
    with tarfile.open(tmp_path / "pets.tar.xz", "w:xz") as file:
        file.add(folder, "pets")
    packed = open_dataset(tmp_path / "pets.tar.xz")
    assert packed.pictures == open_dataset(folder).pictures
    assert packed.digest() == open_dataset(folder).digest()


def test_the_digest_changes_with_one_training_picture_and_not_with_a_test_picture(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b", "val/a", "test/a")
    before = open_dataset(tmp_path).digest()
    save(tmp_path / "test/a/0.png", scenery(77))
    assert open_dataset(tmp_path).digest() == before
    save(tmp_path / "train/a/0.png", scenery(78))
    assert open_dataset(tmp_path).digest() != before


def test_the_digest_changes_with_a_picture_that_chooses_the_epoch(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b", "val/a")
    before = open_dataset(tmp_path).digest()
    save(tmp_path / "val/a/0.png", scenery(78))
    assert open_dataset(tmp_path).digest() != before


def test_the_digest_of_an_npz_changes_with_a_label_that_teaches_alone(tmp_path: Path) -> None:
    # With a val of its own, so that other labels do not draw another one.
    own = {"x_val": np.zeros((24, 8, 8), np.uint8), "y_val": np.arange(24) % 12}
    before = open_dataset(npz(tmp_path / "digits.npz", **own)).digest()
    others = {name: np.roll(np.load(tmp_path / "digits.npz")[name], 1) for name in ("y_train", "y_test")}

    assert open_dataset(npz(tmp_path / "digits.npz", **own, y_test=others["y_test"])).digest() == before
    assert open_dataset(npz(tmp_path / "digits.npz", **own, y_train=others["y_train"])).digest() != before


def test_the_digest_tells_two_draws_of_val_apart(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b", count=10)
    assert open_dataset(tmp_path, seed=1).digest() != open_dataset(tmp_path, seed=2).digest()


def npz(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(1)
    arrays = {
        "x_train": rng.integers(0, 256, (200, 8, 8), np.uint8),
        "y_train": np.arange(200) % 12,
        "x_test": rng.integers(0, 256, (24, 8, 8), np.uint8),
        "y_test": np.arange(24) % 12,
    } | changes
    np.savez(path, **arrays)
    return path


def test_an_npz_of_keras_is_read_and_a_tenth_of_each_class_becomes_val(tmp_path: Path) -> None:
    data = open_dataset(npz(tmp_path / "digits.npz"))
    assert data.labels == tuple(str(number) for number in range(12))
    assert len(data.split("train")) + len(data.split("val")) == 200
    assert set(Counter(p.label for p in data.split("val")).values()) == {2}
    assert data.split("test")[13].path == "x_test/00013"
    assert data.split("test")[13].label == "1"
    assert data.split("test")[0].read().shape == (8, 8, 3)


def test_cifar_s_columns_of_targets_and_names_are_understood(tmp_path: Path) -> None:
    names = np.array([f"kind{number:02d}" for number in range(12)])
    path = npz(tmp_path / "c.npz", y_train=np.arange(200)[:, None] % 12, label_names=names)
    assert open_dataset(path).labels[11] == "kind11"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"x_train": np.zeros((200, 8, 8), np.float32)}, "float32"),
        ({"x_train": np.zeros((200, 3, 8, 8), np.uint8)}, "shape"),
        ({"y_train": np.zeros(7, np.int64)}, "y_train"),
        ({"y_train": np.zeros(200, np.float32)}, "y_train"),
        ({"x_train": np.array([{}], dtype=object)}, "cannot be read"),
        ({"label_names": np.array(["one"])}, "label_names"),
    ],
)
def test_an_npz_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, object], why: str) -> None:
    with pytest.raises(DataError, match=why):
        open_dataset(npz(tmp_path / "bad.npz", **changes))


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez_compressed(
        path, x_train=np.arange(64_000, dtype=np.uint8).reshape(1000, 8, 8), y_train=np.arange(1000) % 2
    )
    whole = path.read_bytes()
    refused = set()
    for place in range(30, 630, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with contextlib.suppress(DataError):
            open_dataset(path)
            continue
        refused.add(place)
    assert refused


def test_a_text_file_named_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_text("hello")
    with pytest.raises(DataError, match="cannot be read"):
        open_dataset(tmp_path / "bad.npz")


def test_a_device_reads_data_without_tensorflow_and_pillow() -> None:
    code = (
        "import sys, edgecnn.workstation.data.catalog, edgecnn.workstation.data.images, json;"
        "print(json.dumps([m for m in ('tensorflow', 'tf_keras', 'PIL', 'imagehash') if m in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(run.stdout) == []
