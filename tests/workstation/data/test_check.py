from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edgecnn.cli.data import data as command
from edgecnn.core.frame import Pixels
from edgecnn.errors import CheckFailed, DataError, MissingPackageError
from edgecnn.workstation.data import fetch as room
from edgecnn.workstation.data import leakage
from edgecnn.workstation.data.catalog import open_dataset
from edgecnn.workstation.data.check import check_data
from edgecnn.workstation.data.leakage import fingerprint, near_pairs


def scenery(seed: int, side: int = 64) -> Pixels:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def sound_set(root: Path) -> Path:
    for number, folder in enumerate(("train/a", "train/b", "val/a", "val/b")):
        (root / folder).mkdir(parents=True)
        for index in range(3):
            cv2.imwrite(str(root / folder / f"{index}.png"), scenery(10 * number + index))
    return root


def test_copies_in_another_size_quality_and_light_are_recognised() -> None:
    picture = scenery(1, 128)
    code = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
    copies = [
        cv2.resize(picture, (80, 60), interpolation=cv2.INTER_AREA),
        cv2.imdecode(code, cv2.IMREAD_COLOR),
        np.clip(picture * 0.8 + 10, 0, 255).astype(np.uint8),
    ]
    strangers = [scenery(seed, 128) for seed in range(2, 60)]
    prints = np.stack([fingerprint(one) for one in [picture, *copies, *strangers]])
    assert near_pairs(prints).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]


def test_pairs_are_found_across_blocks() -> None:
    rng = np.random.default_rng(1)
    prints = np.stack([fingerprint(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(2100)])
    prints[2099] = prints[3]
    assert near_pairs(prints).tolist() == [[3, 2099]]


def test_a_camera_that_does_not_move_is_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    prints = np.stack([fingerprint(scenery(seed % 2)) for seed in range(20)])
    alike = [[a, b] for a in range(20) for b in range(a + 1, 20) if a % 2 == b % 2]
    monkeypatch.setattr(leakage, "_AT_ONCE", 7)

    assert near_pairs(prints).tolist() == alike
    assert leakage.groups_of(20, alike).tolist() == [0, 1] * 10


def test_pictures_are_joined_through_others_in_any_order() -> None:
    chain = np.random.default_rng(1).permutation([(at, at + 1) for at in range(999) if at != 499])

    assert leakage.groups_of(1000, chain).tolist() == [0] * 500 + [500] * 500


def test_a_class_that_val_or_test_does_not_show_is_named_and_exits_with_3(tmp_path: Path) -> None:
    sound_set(tmp_path)
    (tmp_path / "test").mkdir()
    (tmp_path / "val/b").rename(tmp_path / "test/b")

    result = CliRunner().invoke(command, ["check", str(tmp_path)])

    assert isinstance(result.exception, CheckFailed)
    assert "val has no b, test has no a" in result.exception.message


def test_copies_are_found_across_several_sets(tmp_path: Path) -> None:
    sound_set(tmp_path / "one")
    sound_set(tmp_path / "two")

    pairs = check_data(tmp_path / "one", tmp_path / "two").pairs

    assert len(pairs) == 12
    assert all(Path(pair.first).relative_to("one") == Path(pair.second).relative_to("two") for pair in pairs)


def test_a_sound_set_passes(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["check", str(sound_set(tmp_path))])
    assert result.exit_code == 0
    assert "train: 6 pictures" in result.stdout
    assert "duplicates across splits: none" in result.stdout


def test_a_training_picture_among_those_of_val_is_named_and_exits_with_3(tmp_path: Path) -> None:
    sound_set(tmp_path)
    cv2.imwrite(str(tmp_path / "val/b/copy.jpg"), scenery(1))
    result = CliRunner().invoke(command, ["check", str(tmp_path)])
    assert isinstance(result.exception, CheckFailed)
    assert result.exception.exit_code == 3
    assert "train/a/1.png  val/b/copy.jpg  nearly equal, under two labels" in result.stdout


def test_the_splits_that_training_would_draw_are_looked_at(tmp_path: Path) -> None:
    for number in range(40):
        folder = tmp_path / "train" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("one", "twin"):
            cv2.imwrite(str(folder / f"{number}_{name}.png"), scenery(number))
    findings = check_data(tmp_path)
    drawn = Counter((p.split, p.folder) for p in open_dataset(tmp_path).pictures)
    assert findings.drawn_from == "train"
    assert {(s, c): n for s, by in findings.counts.items() for c, n in by.items()} == drawn
    assert {split for split, _ in drawn} == {"train", "val"}
    assert len(findings.pairs) == 40
    assert findings.crossing == ()
    result = CliRunner().invoke(command, ["check", str(tmp_path)])
    assert result.stdout.startswith("val is drawn from train, as training does\ntrain: ")


def test_a_copy_that_the_drawn_split_would_share_with_test_is_named(tmp_path: Path) -> None:
    for number, folder in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (tmp_path / folder).mkdir(parents=True)
        for index in range(10):
            cv2.imwrite(str(tmp_path / folder / f"{index}.png"), scenery(10 * number + index))
    (val, *_) = open_dataset(tmp_path).split("val")
    (tmp_path / "test/a/copy.png").write_bytes(val.data())
    assert [pair.second for pair in check_data(tmp_path).crossing] == [val.path]


def test_a_broken_picture_does_not_keep_the_check_from_drawing(tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), scenery(number))
    (tmp_path / "a/broken.png").write_bytes(b"")
    findings = check_data(tmp_path)
    assert findings.drawn_from == "all"
    assert list(findings.counts) == ["train", "val", "test", "all"]
    assert list(findings.broken) == ["a/broken.png"]


def test_a_duplicate_within_a_split_is_named_and_does_no_harm(tmp_path: Path) -> None:
    sound_set(tmp_path)
    (tmp_path / "train/a/twin.png").write_bytes((tmp_path / "train/a/0.png").read_bytes())
    result = CliRunner().invoke(command, ["check", str(tmp_path)])
    assert result.exit_code == 0
    assert "train/a/0.png  train/a/twin.png  equal\n" in result.stdout


def test_every_broken_picture_and_every_empty_class_is_named(tmp_path: Path) -> None:
    sound_set(tmp_path)
    whole = (tmp_path / "train/a/0.png").read_bytes()
    (tmp_path / "train/a/0.png").write_bytes(whole[:300])
    (tmp_path / "train/b/notes.jpg").write_text("hello")
    (tmp_path / "train/c").mkdir()
    findings = check_data(tmp_path)
    assert set(findings.broken) == {"train/a/0.png", "train/b/notes.jpg"}
    assert findings.empty == ("train/c",)
    assert not findings.is_sound


def test_tiny_pictures_are_duplicates_only_where_they_are_equal(tmp_path: Path) -> None:
    digits = np.zeros((40, 28, 28), np.uint8)
    digits[:, 4:24, 13:15] = np.arange(200, 240)[:, None, None]
    digits[39] = digits[0]
    targets = np.arange(40) % 2
    np.savez(
        tmp_path / "d.npz", x_train=digits[:30], y_train=targets[:30], x_test=digits[30:], y_test=targets[30:]
    )
    findings = check_data(tmp_path / "d.npz")
    assert [(p.first, p.second) for p in findings.pairs] == [("x_train/00000", "x_test/00009")]
    assert findings.crossing == findings.pairs


def test_the_json_holds_what_was_found(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["check", str(sound_set(tmp_path)), "--json"])
    found = json.loads(result.stdout)
    assert found["counts"]["val"] == {"a": 3, "b": 3}
    assert found["sizes"]["width_median_px"] == 64
    assert found["is_sound"] is True


@pytest.mark.slow
def test_the_36_known_copies_of_test_scenes_are_found_and_fewer_than_ten_others(
    shared: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path_factory.mktemp("cache")))
    crossing = check_data(shared / "data/scenes.tar.xz").crossing
    pairs = [
        {pair.first.split("/")[0]: pair.first, pair.second.split("/")[0]: pair.second} for pair in crossing
    ]
    known = {
        pair["train_neardup_of_test"] for pair in pairs if {"test", "train_neardup_of_test"} <= set(pair)
    }
    assert len(known) == 36
    assert sum("train_neardup_of_test" not in pair for pair in pairs) == 6  # looked at: all are copies


def test_every_public_set_is_listed_with_its_licence() -> None:
    lines = CliRunner().invoke(command, ["list"]).stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["digits", "cifar10", "scenes", "fire"]
    assert sum(line.startswith("  licence   ") for line in lines) == 4


def test_an_unknown_public_set_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        room.fetch("dogs", tmp_path)
    assert "digits, cifar10, scenes, fire" in caught.value.fix


def test_a_closed_network_ends_in_one_error_that_says_how_to_pass_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A proxy on a port that nothing listens on closes the network here wherever the test runs.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # an earlier download must not answer
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    with pytest.raises(DataError, match="'digits' cannot be downloaded: URL fetch failure") as caught:
        room.fetch("digits", tmp_path / "out")
    assert "--data PATH" in caught.value.fix
    assert list((tmp_path / "out").iterdir()) == []


def test_without_kagglehub_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "kagglehub", None)
    with pytest.raises(MissingPackageError) as caught:
        room.fetch("scenes", tmp_path)
    assert "edgecnn[kaggle]" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_is_there_already_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "digits.npz").write_bytes(b"mine")
    assert room.fetch("digits", tmp_path).read_bytes() == b"mine"


def test_kaggle_s_scenes_are_arranged_by_split_and_class(tmp_path: Path) -> None:
    for split in ("train", "test", "pred"):
        folder = tmp_path / f"download/seg_{split}/seg_{split}" / ("" if split == "pred" else "sea")
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "1.jpg"), scenery(1))
    room.arrange_scenes(tmp_path / "download", tmp_path / "scenes")
    files = sorted(str(p.relative_to(tmp_path / "scenes")) for p in (tmp_path / "scenes").rglob("*.jpg"))
    assert files == ["test/sea/1.jpg", "train/sea/1.jpg"]


def test_a_download_of_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="changed its layout"):
        room.arrange_fire(tmp_path, tmp_path / "fire")
