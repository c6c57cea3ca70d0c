from __future__ import annotations

import io
import lzma
import os
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from edgecnn.errors import DataError
from edgecnn.workstation.data import archive
from edgecnn.workstation.data.archive import unpack


def tar_with(path: Path, *members: tarfile.TarInfo, content: bytes = b"x", mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for member in members:
            member.size = len(content) if member.isfile() else 0
            file.addfile(member, io.BytesIO(content) if member.isfile() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")])
def test_what_is_in_a_tar_comes_out(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tar_with(tmp_path / f"a.{suffix}", member("a/b.txt"), mode=mode)
    assert (unpack(path, tmp_path / "cache") / "a/b.txt").read_bytes() == b"x"


def test_what_is_in_a_zip_comes_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a/b.txt", "x")
        file.mkdir("a/empty") if hasattr(file, "mkdir") else file.writestr("a/empty/", "")
    assert everything(unpack(tmp_path / "a.zip", tmp_path / "cache")) == ["a", "a/b.txt", "a/empty"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (member("../out.txt"), "'..'"),
        (member("a/../../out.txt"), "'..'"),
        (member("a\\..\\..\\out.txt"), "'..'"),
        (member("/out.txt"), "absolute"),
        (member("C:\\out.txt"), "absolute"),
        (member("l", tarfile.SYMTYPE, "/etc/passwd"), "link out"),
        (member("l", tarfile.SYMTYPE, "../../out.txt"), "link out"),
        (member("l", tarfile.LNKTYPE, "../out.txt"), "link out"),
        (member("l", tarfile.SYMTYPE, "l"), "link out"),
        (member("pipe", tarfile.FIFOTYPE), "device or a pipe"),
        (member("disk", tarfile.BLKTYPE), "device or a pipe"),
    ],
)
def test_a_tar_that_reaches_out_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, bad: tarfile.TarInfo, why: str
) -> None:
    path = tar_with(tmp_path / "bad.tar", member("good.txt"), bad)
    with pytest.raises(DataError, match=why.replace(".", r"\.")) as caught:
        unpack(path, tmp_path / "cache")
    assert bad.name.split("\\")[0] in caught.value.message
    assert everything(tmp_path) == ["bad.tar", "cache", "cache/archives"]


def test_a_link_within_the_archive_becomes_a_copy(tmp_path: Path) -> None:
    path = tar_with(tmp_path / "a.tar", member("a.txt"), member("b.txt", tarfile.LNKTYPE, "a.txt"))
    copy = unpack(path, tmp_path / "cache") / "b.txt"
    assert copy.read_bytes() == b"x"
    assert copy.stat().st_nlink == 1


def test_a_folder_link_cannot_redirect_what_follows(tmp_path: Path) -> None:
    path = tar_with(tmp_path / "a.tar", member("d", tarfile.SYMTYPE, str(tmp_path)), member("d/out.txt"))
    with pytest.raises(DataError):
        unpack(path, tmp_path / "cache")
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt"])
def test_a_zip_that_reaches_out_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr(name, "x")
    with pytest.raises(DataError, match=r"out\.txt"):
        unpack(tmp_path / "bad.zip", tmp_path / "cache")
    assert everything(tmp_path) == ["bad.zip", "cache", "cache/archives"]


def test_a_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("l")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="link"):
        unpack(tmp_path / "bad.zip", tmp_path / "cache")


@pytest.mark.parametrize("kind", ["tar.xz", "zip"])
def test_a_bomb_is_stopped_and_swept_up(tmp_path: Path, kind: str) -> None:
    zeros = bytes(archive.FREE_OF_RATIO_BYTES + 2**20)
    path = tmp_path / f"bomb.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("zeros.jpg", zeros)
    else:
        tar_with(path, member("zeros.jpg"), content=zeros, mode="w:xz")
    with pytest.raises(DataError, match=r"grows more than 100 times, at 'zeros\.jpg'"):
        unpack(path, tmp_path / "cache")
    assert everything(tmp_path / "cache") == ["archives"]


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    path = tar_with(tmp_path / "many.tar", *(member(f"{n}.txt") for n in range(4)))
    with pytest.raises(DataError, match="more than 3 members"):
        unpack(path, tmp_path / "cache")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w"])
def test_an_archive_whose_download_broke_off_is_refused_and_leaves_nothing(
    tmp_path: Path, share: float, mode: str
) -> None:
    members = [member(f"{n}.txt") for n in range(9)]
    whole = tar_with(tmp_path / "a.tar", *members, content=os.urandom(4000), mode=mode)
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="no whole archive"):
        unpack(whole, tmp_path / "cache")
    assert everything(tmp_path / "cache") == ["archives"]


def test_a_tar_that_was_cut_between_two_members_is_refused(tmp_path: Path) -> None:
    whole = tar_with(tmp_path / "a.tar", member("1.txt"), member("2.txt"))
    whole.write_bytes(whole.read_bytes()[:1024])
    with pytest.raises(DataError, match="no whole archive"):
        unpack(whole, tmp_path / "cache")


def test_a_text_file_named_zip_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("hello")
    with pytest.raises(DataError, match="no whole archive"):
        unpack(tmp_path / "a.zip", tmp_path / "cache")


def test_a_killed_extraction_is_not_taken_for_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar_with(tmp_path / "a.tar", member("1.txt"), member("2.txt"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archive, "_publish", killed)
        # A kill sweeps nothing up.
        patch.setattr(archive.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            unpack(path, tmp_path / "cache")
    assert everything(unpack(path, tmp_path / "cache")) == ["1.txt", "2.txt"]


def test_two_that_unpack_the_same_archive_at_once_both_get_it(tmp_path: Path) -> None:
    path = tar_with(tmp_path / "a.tar", *(member(f"{n}.txt") for n in range(200)))
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(unpack(path, tmp_path / "cache"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(everything(found[0])) == 200


def test_an_archive_is_unpacked_once(tmp_path: Path) -> None:
    path = tar_with(tmp_path / "a.tar", member("1.txt"))
    (unpack(path, tmp_path / "cache") / "mark").touch()
    assert (unpack(path, tmp_path / "cache") / "mark").exists()


def test_xz_damage_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.xz"
    path.write_bytes(lzma.compress(b"no tar at all" * 100))
    with pytest.raises(DataError, match="no whole archive"):
        unpack(path, tmp_path / "cache")
