"""Drives with snapshot=on in snapshots of a machine: going back in any order, beside a model."""

from __future__ import annotations

import os
import pathlib
import random

import pytest

from pyhv.disk import Disk
from pyhv.errors import ConfigError

SIZE = (1 << 20) + 512 * 3


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(0).randbytes(SIZE))
    return path


def content(disk: Disk) -> bytes:
    """Read all of it by pieces of odd sizes, scattered."""
    data = bytearray(SIZE)
    view, at = memoryview(data), 0
    while at < SIZE:
        parts = [view[at : at + 512], view[at + 512 : at + 512 * 301]]
        disk.readv(at, [part for part in parts if part])
        at += 512 * 301
    return bytes(data)


@pytest.mark.parametrize("seed", range(6))
def test_against_a_model(image: pathlib.Path, seed: int) -> None:
    """Writes, zeroes, snapshots and going back in any order; two disks, clones of one another."""
    rng = random.Random(seed)
    descriptors = len(os.listdir("/proc/self/fd"))
    disks = [Disk(image, snapshot=True) for _ in range(2)]
    models = [bytearray(image.read_bytes()) for _ in disks]
    taken: list[tuple[object, bytes]] = []
    for _ in range(120):
        n = rng.randrange(2)
        at = rng.randrange(SIZE // 512) * 512
        length = min(SIZE - at, 512 * rng.choice((1, 3, 128, 300)))
        act = rng.randrange(6)
        if act < 3:
            data = rng.randbytes(length)
            disks[n].writev(at, [memoryview(data)])
            models[n][at : at + length] = data
        elif act == 3:
            disks[n].write_zeroes(at, length)
            models[n][at : at + length] = bytes(length)
        elif act == 4:
            taken.append((disks[n].freeze(), bytes(models[n])))
        elif taken:
            clusters, was = rng.choice(taken)
            disks[n].go_back(clusters)
            models[n] = bytearray(was)
        assert content(disks[n]) == models[n]
    assert [content(disk) for disk in disks] == models
    for disk in disks:
        disk.close()
    clusters = was = None
    taken.clear()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert image.read_bytes() == random.Random(0).randbytes(SIZE)


@pytest.mark.parametrize("options", [{}, {"readonly": True}, {"snapshot": True}], ids=str)
def test_an_image_that_was_changed(image: pathlib.Path, options: dict[str, bool]) -> None:
    disk = Disk(image, **options)
    stamp = disk.stamp()
    disk.check(stamp)
    if options != {"readonly": True}:
        disk.writev(0, [memoryview(bytes(512))])
    if options == {"snapshot": True}:
        disk.check(stamp)  # its writes are elsewhere
    os.utime(image, ns=(1, 2))
    with pytest.raises(ConfigError, match="changed since the snapshot was taken") as caught:
        disk.check(stamp)
    assert ("needs snapshot=on" in str(caught.value)) == (not options)
    disk.close()


def test_only_snapshot_is_frozen(image: pathlib.Path) -> None:
    disk = Disk(image)
    assert disk.freeze() is None
    disk.go_back(None)
    disk.close()
