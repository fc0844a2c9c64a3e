"""What looks like an image of another format is refused, unless it is called raw."""

from __future__ import annotations

import random

import pytest

from pyhv.disk import FORMATS, Disk
from pyhv.errors import ConfigError


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(1 << 20))
    return path


@pytest.mark.parametrize("magic", sorted(FORMATS), ids=lambda magic: FORMATS[magic][0])
def test_other_formats(image, magic: bytes) -> None:
    """Never opened as what a guest may have made it look like."""
    data = magic + image.read_bytes()[len(magic) :]
    image.write_bytes(data)
    name, format = FORMATS[magic]
    how = f"open it as one: format={format}" if format else "make it raw: qemu-img convert -O raw"
    with pytest.raises(ConfigError, match=f"a {name} image; {how} .or format=raw if that"):
        Disk(image)
    assert image.read_bytes() == data
    disk, view = Disk(image, surely_raw=True), memoryview(bytearray(8))
    disk.readv(0, [view])
    disk.close()
    assert view == data[:8]


def test_the_footer_of_a_fixed_vhd(image) -> None:
    """Its only mark."""
    with image.open("ab") as file:
        file.write(b"conectix".ljust(512, b"\0"))
    with pytest.raises(ConfigError, match="a VHD image; open it as one: format=vpc"):
        Disk(image)
