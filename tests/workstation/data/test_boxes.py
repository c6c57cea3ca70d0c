"""Boxes that lie elsewhere than above the pictures."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgecnn.errors import DataError
from edgecnn.workstation.data.boxes import boxes_of
from edgecnn.workstation.data.catalog import open_dataset
from edgecnn.workstation.data.generated import real_flames
from edgecnn.workstation.data.picture import Boxed

NIGHT = np.full((40, 60, 3), 20, np.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Train and val of two classes; above them boxes of a.png alone."""
    root = tmp_path / "pictures"
    for split in ("train", "val"):
        for folder, name in (("fire", "a"), ("fire", "b"), ("no_fire", "c")):
            path = root / "images" / split / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), NIGHT)
    coco(root / "boxes.json", {"images/train/fire/a.png": [(0, 0, 30, 20)]}, smoke=[(0, 0, 60, 20)])
    return root


def coco(
    file: Path,
    boxes: Mapping[str, Sequence[tuple[int, int, int, int]]],
    smoke: Sequence[tuple[int, int, int, int]] = (),
) -> Path:
    """Write boxes of fire by picture, and of smoke in the first."""
    images = [{"id": at, "file_name": name, "width": 60, "height": 40} for at, name in enumerate(boxes)]
    marks = [
        {"image_id": at, "category_id": 1, "bbox": box}
        for at, found in enumerate(boxes.values())
        for box in found
    ]
    marks += [{"image_id": 0, "category_id": 2, "bbox": box} for box in smoke]
    categories = [{"id": 1, "name": "fire"}, {"id": 2, "name": "smoke"}]
    table = {"images": images, "annotations": marks, "categories": categories}
    file.write_text(json.dumps(table), encoding="utf-8")
    return file


def seen(data: Path, *boxes: Path) -> dict[str, Mapping[str, Sequence[Sequence[float]]]]:
    dataset = open_dataset(data, boxes=boxes)
    return {path: boxed.by_label_px for path, boxed in boxes_of(dataset.pictures).items()}


def test_of_its_labels_a_file_says_more_than_the_one_above(pictures: Path, tmp_path: Path) -> None:
    first = coco(tmp_path / "1.json", {"train/fire/a.png": [(1, 2, 3, 4)]})
    other = coco(tmp_path / "2.json", {"images/val/fire/b.png": [(10, 10, 5, 5), (20, 20, 5, 5)]})

    smoke = ((0, 0, 60, 20),)
    assert seen(pictures) == {"train/fire/a.png": {"fire": ((0, 0, 30, 20),), "smoke": smoke}}
    assert seen(pictures, first, other) == {
        "train/fire/a.png": {"fire": ((1, 2, 4, 6),), "smoke": smoke},
        "val/fire/b.png": {"fire": ((10, 10, 15, 15), (20, 20, 25, 25))},
    }


def test_a_dataset_says_which_files_of_boxes_it_has_and_what_they_name_in_vain(
    pictures: Path, tmp_path: Path
) -> None:
    file = coco(tmp_path / "marks.json", {"train/fire/b.png": [(1, 2, 3, 4)], "gone.png": [(1, 2, 3, 4)]})
    (boxes,) = open_dataset(pictures, boxes=[file]).boxes

    assert (boxes.name, boxes.picture_count, boxes.unknown) == ("marks.json", 1, ("gone.png",))
    assert boxes.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ({"": [(1, 2, 3, 4)]}, "'' is no file_name"),
        ({5: [(1, 2, 3, 4)]}, "5 is no file_name"),
        ({"train/fire/a.png": [(1, 2, 10**400, 4)]}, "cannot be read: OverflowError"),
        (
            {"train/fire/a.png": [(1, 2, 3, 4)], "images/train/fire/a.png": [(5, 5, 9, 9)]},
            "has boxes of 'fire' in 'train/fire/a.png', of which some were given already",
        ),
        ({"a.png": [(1, 2, 3, 4)]}, "may be each of 'train/fire/a.png', 'val/fire/a.png'"),
        ({"elsewhere/a.png": [(1, 2, 3, 4)]}, "of none of the pictures; the first is of 'elsewhere/a.png'"),
        ({"train/fire/a.png": []}, "holds no boxes"),
        ({"train/fire/a.png": [(1, 2, 3)]}, "cannot be read"),
    ],
)
def test_boxes_that_fit_no_picture_are_refused(
    pictures: Path, tmp_path: Path, boxes: Mapping[str, Sequence[tuple[int, int, int, int]]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(pictures, boxes=[coco(tmp_path / "marks.json", boxes)])


def test_two_files_that_know_one_label_in_one_picture_are_refused_in_either_order(
    pictures: Path, tmp_path: Path
) -> None:
    files = [coco(tmp_path / f"{n}.json", {"train/fire/a.png": [(n, 2, 9, 9)]}) for n in (1, 2)]
    for given in (files, files[::-1]):
        with pytest.raises(DataError, match="of which some were given already"):
            open_dataset(pictures, boxes=given)


def test_two_images_of_one_name_are_refused_in_the_boxes_above_the_pictures_too(pictures: Path) -> None:
    file = pictures / "boxes.json"
    table = json.loads(file.read_text(encoding="utf-8"))
    table["images"].append({**table["images"][0], "id": 7})
    table["annotations"].append({"image_id": 7, "category_id": 1, "bbox": [1, 1, 5, 5]})
    file.write_text(json.dumps(table), encoding="utf-8")

    with pytest.raises(DataError, match=r"two images are called 'images/train/fire/a\.png'"):
        seen(pictures)


def test_pictures_of_two_sets_are_told_apart_by_the_names_that_the_error_gives(
    pictures: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(pictures, tmp_path / "other"))
    file = coco(tmp_path / "marks.json", {"train/fire/b.png": [(1, 2, 3, 4)]})
    with pytest.raises(DataError, match="may be each of") as refused:
        open_dataset([pictures, other], boxes=[file])
    assert "'pictures/train/fire/b.png'" in str(refused.value.fix)
    coco(file, {"pictures/train/fire/b.png": [(1, 2, 3, 4)]})

    dataset = open_dataset([pictures, other], boxes=[file])

    assert [picture.path for picture in dataset.pictures if picture.boxed] == ["pictures/train/fire/b.png"]


def test_what_lies_beyond_the_edges_of_a_picture_marks_nothing_in_it_and_gives_no_flame(
    pictures: Path, tmp_path: Path
) -> None:
    beyond = [(-30, 5, 10, 20), (5, -30, 20, 10), (100, 5, 20, 20), (55, 5, 40, 20)]
    file = coco(tmp_path / "marks.json", {"train/fire/b.png": [*beyond, (-10, 10, 30, 20)]})
    dataset = open_dataset(pictures, boxes=[file])
    boxed = boxes_of(dataset.pictures)["train/fire/b.png"]

    assert [pixels.shape[:2] for pixels, _ in real_flames(dataset)] == [(20, 30), (20, 20)]
    assert Boxed(40, 60, {"fire": boxed.by_label_px["fire"][:3]}).masks()["fire"].sum() == 0


def test_flames_are_cut_where_they_are_in_a_picture_of_another_size_than_its_boxes_were_drawn_in(
    pictures: Path, tmp_path: Path
) -> None:
    file = coco(tmp_path / "marks.json", {"train/fire/b.png": [(10, 10, 20, 12)]})
    table = json.loads(file.read_text(encoding="utf-8"))
    table["images"][0].update(width=120, height=80)
    table["annotations"][0]["bbox"] = [20, 20, 40, 24]
    file.write_text(json.dumps(table), encoding="utf-8")
    cut = real_flames(open_dataset(pictures, boxes=[file]))

    assert [pixels.shape[:2] for pixels, _ in cut] == [(20, 30), (12, 20)]


def test_each_box_of_training_gives_a_flame_but_the_smallest(pictures: Path, tmp_path: Path) -> None:
    flames = {
        "train/fire/a.png": [(10, 10, 20, 12), (40, 5, 10, 30), (2, 2, 5, 30)],
        "val/fire/b.png": [(10, 10, 20, 12)],
    }
    cut = real_flames(open_dataset(pictures, boxes=[coco(tmp_path / "marks.json", flames)]))

    assert [pixels.shape[:2] for pixels, _ in cut] == [(12, 20), (30, 10)]


def test_the_marked_flames_are_of_training_and_val_pictures_and_lie_inside_of_them(shared: Path) -> None:
    """Pictures of the split test choose nothing, so nobody marked them."""
    file = Path(__file__).parents[3] / "boxes/flames.json"
    data = [shared / "data" / name for name in ("fire.tar.xz", "fire_extra.tar.xz")]
    dataset = open_dataset(data, boxes=[file])
    marked = [picture for picture in dataset.pictures if picture.boxed]

    assert [(boxes.picture_count, boxes.unknown) for boxes in dataset.boxes] == [(len(marked), ())]
    assert {picture.split for picture in marked} == {"train", "val"}
    assert {picture.folder for picture in marked} == {"fire", "controlled_fire"}
    for picture in marked[::40]:
        assert picture.boxed is not None
        assert picture.read().shape[:2] == (picture.boxed.height_px, picture.boxed.width_px)
    for boxed in (picture.boxed for picture in marked):
        assert boxed is not None
        for left, top, right, bottom in boxed.by_label_px["fire"]:
            assert 0 <= left < right <= boxed.width_px + 0.1
            assert 0 <= top < bottom <= boxed.height_px + 0.1
