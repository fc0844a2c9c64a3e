"""The committed firmware images are what their sources give, byte for byte."""

from __future__ import annotations

import importlib.util
import pathlib
import shutil

import pytest

FIRMWARE = pathlib.Path(__file__).parents[2] / "firmware"

pytest.importorskip("elftools", reason="pyelftools reads what ld wrote; pip install pyelftools")
pytestmark = pytest.mark.skipif(
    not (shutil.which("as") and shutil.which("ld")), reason="GNU as and ld are not installed"
)


def load_build():
    """Import firmware/build.py, which is a tool and not part of the package."""
    spec = importlib.util.spec_from_file_location("firmware_build", FIRMWARE / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


@pytest.mark.parametrize("image", build.IMAGES, ids=lambda image: image.name)
def test_image_is_as_built(image) -> None:
    """Run firmware/build.py after a change of a source."""
    assert build.build(image) == (FIRMWARE / image.name).read_bytes()


@pytest.mark.parametrize("image", build.IMAGES, ids=lambda image: image.name)
def test_every_source_is_there_and_named(image) -> None:
    """The table names what the first source includes."""
    folder = (FIRMWARE / image.sources[0]).parent
    included = {
        folder / line.split('"')[1]
        for line in (FIRMWARE / image.sources[0]).read_text().splitlines()
        if line.strip().startswith(".include")
    }
    assert included == {FIRMWARE / name for name in image.sources[1:]}


def test_moved_symbol_is_refused() -> None:
    """Python relies on fixed addresses; a build that moves one fails."""
    image = build.IMAGES[0]
    with pytest.raises(build.BuildError, match="key_wait is at"):
        build.build(image._replace(symbols=image.symbols | {"key_wait": 0xE504}))


def test_wrong_size_is_refused() -> None:
    """The BIOS ends at 1 MiB."""
    with pytest.raises(build.BuildError, match="65536 bytes, not 1"):
        build.build(build.IMAGES[0]._replace(size=1))


def test_demo_is_a_small_bootable_disk() -> None:
    """Whole sectors, a signature, and no more than INT 13h moves at once."""
    data = (FIRMWARE / "demo.img").read_bytes()
    assert len(data) % 512 == 0
    assert len(data) <= 64 << 10
    assert data[510:512] == b"\x55\xaa"


def test_check_says_what_differs(tmp_path, monkeypatch, capsys) -> None:
    """--check writes nothing and ends with 1 where an image is not as built."""
    shutil.copytree(FIRMWARE, tmp_path / "firmware")
    monkeypatch.setattr(build, "FOLDER", str(tmp_path / "firmware"))
    assert build.main(["--check"]) == 0
    demo = tmp_path / "firmware" / "demo.img"
    spoilt = b"\0" + demo.read_bytes()[1:]
    demo.write_bytes(spoilt)
    assert build.main(["--check"]) == 1
    assert demo.read_bytes() == spoilt
    assert "demo.img: differs" in capsys.readouterr().out
    assert build.main([]) == 0
    assert build.main(["--check"]) == 0
