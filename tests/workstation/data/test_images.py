from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edgecnn.errors import DataError
from edgecnn.workstation.data.images import MAX_PIXELS, decode_picture, read_picture


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def smooth(height: int = 48, width: int = 64) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, 0 * x + 90], -1).astype(np.uint8))


def difference(data: bytes, picture: Image.Image) -> float:
    decoded = decode_picture(data, "x")
    return float(np.abs(decoded.astype(int) - np.asarray(picture.convert("RGB"))).mean())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_red_stays_red_in_every_format_that_is_read(kind: str) -> None:
    assert difference(encoded(smooth(), kind), smooth()) < 3


def test_a_grey_picture_becomes_three_equal_channels() -> None:
    pixels = decode_picture(encoded(smooth().convert("L"), "JPEG"), "grey.jpg")
    assert pixels.shape == (48, 64, 3)
    assert (pixels == pixels[..., :1]).all()


def test_a_cmyk_jpeg_looks_as_it_does_elsewhere() -> None:
    assert difference(encoded(smooth().convert("CMYK"), "JPEG", quality=95), smooth()) < 4


def test_sixteen_bits_become_eight_without_losing_the_bright_half() -> None:
    wide = np.linspace(0, 65535, 64 * 4).astype(np.uint16).reshape(4, 64)
    pixels = decode_picture(cv2.imencode(".png", wide)[1].tobytes(), "wide.png")
    assert np.abs(pixels[..., 0].astype(int) - (wide >> 8)).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_colours_hidden_in_clear_pixels_do_not_appear(kind: str) -> None:
    hidden = np.full((16, 16, 4), 255, np.uint8)
    hidden[:, :8, 3] = 0
    options = {} if kind == "PNG" else {"lossless": True, "exact": True}
    pixels = decode_picture(encoded(Image.fromarray(hidden), kind, **options), "clear")
    assert pixels[:, :8].max() == 0
    assert pixels[:, 8:].min() == 255


def test_a_palette_with_transparency_is_laid_over_black() -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 255, 255, 255])
    pixels = decode_picture(encoded(picture, "PNG", transparency=1), "palette.png")
    assert pixels.max() == 0


def test_a_phone_held_upright_gives_an_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    pixels = decode_picture(encoded(smooth(48, 64), "JPEG", exif=exif), "phone.jpg")
    assert pixels.shape == (64, 48, 3)
    assert pixels[:4, :, 1].mean() < pixels.mean(axis=(0, 1))[1] + 40


def test_one_pixel_is_a_picture() -> None:
    assert decode_picture(encoded(smooth(1, 1), "PNG"), "dot.png").shape == (1, 1, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_picture_whose_transfer_broke_off_is_refused_by_name(kind: str, share: float) -> None:
    data = encoded(smooth(), kind)
    with pytest.raises(DataError, match=r"'photos/cut\.x' "):
        decode_picture(data[: int(len(data) * share)], "photos/cut.x")


def test_a_progressive_jpeg_that_lacks_its_last_scan_is_refused() -> None:
    data = encoded(smooth(), "JPEG", progressive=True)
    with pytest.raises(DataError, match="truncated"):
        decode_picture(data[: data.rfind(b"\xff\xda") + 20], "cut.jpg")


def test_a_jpeg_with_bytes_after_its_end_is_whole() -> None:
    assert difference(encoded(smooth(), "JPEG") + b"\x00camera notes", smooth()) < 3


def test_a_jpeg_with_a_thumbnail_inside_is_not_taken_to_end_there() -> None:
    data = encoded(smooth(), "JPEG")
    thumbnail = encoded(smooth(8, 8), "JPEG")
    notes = b"\xff\xed" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    with pytest.raises(DataError, match="truncated"):
        decode_picture(data[:2] + notes + data[2 : len(data) // 2 + 200], "thumb.jpg")


def test_one_flipped_bit_in_a_png_is_noticed() -> None:
    data = bytearray(encoded(smooth(), "PNG"))
    data[len(data) // 2] ^= 4
    with pytest.raises(DataError, match="digest"):
        decode_picture(bytes(data), "bit.png")


def test_a_text_file_named_jpg_is_called_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "notes.jpg"
    file.write_text("remember the milk")
    with pytest.raises(DataError, match=r"notes\.jpg' is a text file"):
        read_picture(file)


def test_an_empty_file_is_called_empty() -> None:
    with pytest.raises(DataError, match="is empty"):
        decode_picture(b"", "nothing.jpg")


def huge_png(side: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_picture_that_would_fill_the_memory_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match="20000 x 20000"):
        decode_picture(huge_png(20_000), "bomb.png")


def test_a_long_side_alone_is_no_bomb() -> None:
    assert decode_picture(encoded(smooth(2, 20_000), "PNG"), "strip.png").shape == (2, 20_000, 3)
    assert MAX_PIXELS > 2 * 20_000


def test_a_header_that_lies_about_its_size_gives_an_error_and_no_crash() -> None:
    data = bytearray(encoded(smooth(), "JPEG"))
    at = data.find(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 0, 0)
    with pytest.raises(DataError, match="lie"):
        decode_picture(bytes(data), "lie")


def test_damage_anywhere_ends_in_pixels_or_in_a_data_error() -> None:
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "BMP", "WEBP"):
        whole = np.frombuffer(encoded(smooth(), kind), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[rng.integers(len(whole), size=5)] = rng.integers(256, size=5)
            with suppress(DataError):
                assert decode_picture(damaged.tobytes(), "x").ndim == 3


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        read_picture(tmp_path / "absent.png")
