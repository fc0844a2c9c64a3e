"""Pictures of the screen, read back by Pillow."""

from __future__ import annotations

import io
import pathlib

import pytest
from PIL import Image

from pyhv.errors import HostError
from pyhv.picture import Picture
from pyhv.vmbus.video import Situation

WIDTH, HEIGHT = 5, 3
ROWS = [[(40 * x, 80 * y, 255 - x) for x in range(WIDTH)] for y in range(HEIGHT)]


def picture(pitch: int = 4 * WIDTH) -> Picture:
    """ROWS as a guest draws them: blue, green, red, and a byte that means nothing."""
    lines = [b"".join(bytes((b, g, r, 0xEE)) for r, g, b in row) for row in ROWS]
    data = b"".join(line.ljust(pitch, b"\xdd") for line in lines)
    return Picture(Situation(0, WIDTH, HEIGHT, pitch), data)


@pytest.mark.parametrize("kind", ["png", "ppm"])
@pytest.mark.parametrize("pitch", [20, 24, 32, 27])
def test_files_are_read_by_others(tmp_path: pathlib.Path, kind: str, pitch: int) -> None:
    picture(pitch).save(tmp_path / "x", kind)
    image = Image.open(tmp_path / "x")
    assert (image.format, image.mode, image.size) == (kind.upper(), "RGB", (WIDTH, HEIGHT))
    image.load()
    assert [[image.getpixel((x, y)) for x in range(WIDTH)] for y in range(HEIGHT)] == ROWS


def test_pixels() -> None:
    assert picture().pixel(0, 0) == ROWS[0][0]
    assert picture(24).pixel(4, 2) == ROWS[2][4]


def test_a_whole_screen() -> None:
    size = Situation(0, 1024, 768, 4096)
    image = Image.open(io.BytesIO(Picture(size, b"\1\2\3\0" * (1024 * 768)).png()))
    assert image.getcolors() == [(1024 * 768, (3, 2, 1))]


def test_a_file_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "no" / "x.png"
    with pytest.raises(HostError, match=f"^screenshot {path}: No such file or directory$"):
        picture().save(path)
