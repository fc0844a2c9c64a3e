"""qcow2, VHD and VHDX through the real qemu-nbd, looked at with the real qemu-img."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time

import pytest
from disk_access import read, views
from image_files import (
    KINDS,
    NEEDS_QEMU_UTILS,
    SIZE,
    contents,
    create,
)

from pyhv import qemunbd
from pyhv.config import Drive
from pyhv.disk import Disk
from pyhv.drives import opened
from pyhv.errors import ConfigError, HostError
from pyhv.imagedisk import FORMATS, ImageDisk

pytestmark = [pytest.mark.usefixtures("nothing_left"), NEEDS_QEMU_UTILS]

# data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["writeback", "none", "unsafe"])
def test_random_reads_and_writes_against_a_model(tmp_path, open_disk, kind: str, cache) -> None:
    path, format = create(tmp_path / "disk.image", kind), KINDS[kind][0]
    disk, model, rng = open_disk(path, format, cache=cache), bytearray(SIZE), random.Random(kind)
    assert (disk.size_bytes, disk.sectors, disk.sector_size) == (SIZE, SIZE // 512, 512)
    for _ in range(150):
        offset = rng.randrange(SIZE // 512) * 512
        length = min(rng.choice((512, 4096, 65536, 200_000 & ~511, 1 << 20)), SIZE - offset)
        action = rng.randrange(5)
        if action < 2:
            data = rng.randbytes(length)
            disk.writev(offset, views(data), rng.random() < 0.1)
            model[offset : offset + length] = data
        elif action == 2:
            disk.write_zeroes(offset, length, rng.random() < 0.5)
            model[offset : offset + length] = bytes(length)
        elif action == 3:
            disk.discard(offset, length)
            if disk.thin:
                model[offset : offset + length] = bytes(length)
        first = rng.randrange(length)
        assert read(disk, offset, first, length - first) == model[offset : offset + length]
    disk.flush()
    assert read(disk, 0, SIZE) == model
    disk.close()
    assert contents(path, format) == model


def test_only_formats_whose_discard_is_cheap_have_it(tmp_path, open_disk) -> None:
    for kind in ("qcow2", "VHD, fixed", "VHDX"):
        format = KINDS[kind][0]
        assert open_disk(create(tmp_path / format, kind), format).thin is FORMATS[format]


def test_a_discard_gives_the_host_its_blocks_back(tmp_path, open_disk) -> None:
    path = create(tmp_path / "d.qcow2")
    disk = open_disk(path)
    disk.writev(0, [memoryview(bytes([7]) * (4 << 20))], True)
    used = path.stat().st_blocks
    disk.discard(0, 4 << 20)
    disk.flush()
    assert path.stat().st_blocks < used // 4


def test_an_overlay_leaves_what_is_under_it(tmp_path, open_disk) -> None:
    backing = tmp_path / "base.img"
    backing.write_bytes(random.Random(2).randbytes(SIZE))
    before = backing.read_bytes()
    path = create(tmp_path / "over.qcow2", "qcow2", "-b", backing, "-F", "raw")
    disk = open_disk(path)
    assert read(disk, 0, SIZE) == before
    disk.writev(123 * 512, [memoryview(b"overlay!" * 64)])
    disk.discard(1 << 20, 1 << 16)
    disk.close()
    now = bytearray(before)
    now[123 * 512 : 124 * 512] = b"overlay!" * 64
    now[1 << 20 : (1 << 20) + (1 << 16)] = bytes(1 << 16)
    assert backing.read_bytes() == before
    assert contents(path) == now


@pytest.mark.parametrize("kind", KINDS)
def test_snapshot_on_leaves_the_image(tmp_path, open_disk, kind: str) -> None:
    path, format = create(tmp_path / "disk.image", kind), KINDS[kind][0]
    before = path.read_bytes()
    disk = open_disk(path, format, snapshot=True)
    disk.writev(4096, [memoryview(b"gone" * 1024)], True)
    frozen = disk.freeze()
    disk.discard(0, 65536)
    assert read(disk, 4096, 4096) == bytes(4096)
    disk.go_back(frozen)
    assert read(disk, 4096, 4096) == b"gone" * 1024
    disk.close()
    assert path.read_bytes() == before


def test_readonly(tmp_path, open_disk) -> None:
    path = create(tmp_path / "d.qcow2")
    disk = open_disk(path, readonly=True)
    for call in (lambda: disk.writev(0, [memoryview(bytes(512))]), lambda: disk.discard(0, 512),
                 lambda: disk.write_zeroes(0, 512)):  # fmt: skip
        with pytest.raises(OSError, match="Read-only"):
            call()
    assert read(disk, 0, 512) == bytes(512)


def test_4096_byte_sectors(tmp_path, open_disk) -> None:
    assert open_disk(create(tmp_path / "d.qcow2"), sector_size=4096).sectors == SIZE // 4096


def test_cache_none_gives_back_the_page_cache(tmp_path, open_disk, monkeypatch) -> None:
    advised = []
    monkeypatch.setattr("pyhv.disk.os.posix_fadvise", lambda *words: advised.append(words[1:]))
    open_disk(create(tmp_path / "d.qcow2"), cache="none").flush()
    assert advised == [(0, 0, os.POSIX_FADV_DONTNEED)]


def test_a_stamp_tells_of_a_change_that_is_not_in_the_file_yet(tmp_path, open_disk) -> None:
    disk = open_disk(create(tmp_path / "d.qcow2"))
    disk.writev(0, [memoryview(bytes([1]) * 65536)])
    stamp = disk.stamp()
    disk.check(stamp)
    time.sleep(0.02)  # a tick of the file system's clock
    disk.discard(0, 65536)
    with pytest.raises(ConfigError, match="changed since the snapshot"):
        disk.check(stamp)


# opening


def refused(kind: type[Exception], words: str, path, format: str = "qcow2", **options) -> None:
    with pytest.raises(kind, match=words) as caught:
        ImageDisk(path, format, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"disk {path}: ")


def test_what_is_no_such_image(tmp_path) -> None:
    raw = tmp_path / "raw.img"
    raw.write_bytes(bytes(SIZE))
    refused(HostError, "Image is not in qcow2 format; see what it is: qemu-img info", raw)
    for format in ("vpc", "vhdx"):
        refused(HostError, "Could not open|invalid|Invalid|not in", raw, format)
    refused(ConfigError, "no such file", tmp_path / "none.qcow2")
    refused(ConfigError, "a directory", tmp_path)
    refused(ConfigError, "format qcow: pyhv has raw, qcow2, vpc, vhdx", raw, "qcow")
    over = create(tmp_path / "o.qcow2", "qcow2", "-u", "-b", "gone.img", "-F", "raw")
    refused(HostError, "backing file: .*gone.img.*; see which: qemu-img info", over)
    assert raw.read_bytes() == bytes(SIZE)


@pytest.mark.parametrize("name", ["json:{}", "-r.qcow2", "nbd:unix:x", "a b'\"$(x).qcow2", "fd:3"])
def test_names_that_could_be_something_else(tmp_path, open_disk, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    create(tmp_path / name)
    assert open_disk(name).size_bytes == SIZE


def test_a_long_temporary_folder(tmp_path, open_disk, monkeypatch) -> None:
    """A socket's path has 107 bytes at most."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    assert open_disk(create(tmp_path / "d.qcow2")).size_bytes == SIZE
    assert not list(deep.iterdir())


def test_without_qemu_nbd(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(qemunbd, "SEARCH", str(tmp_path))
    path = create(tmp_path / "d.qcow2")
    refused(HostError, "format=qcow2 needs qemu-nbd; install it: apt install qemu-utils", path)


@pytest.mark.parametrize(
    ("script", "words"),
    [("echo qemu-nbd: something odd >&2; exit 1", "something odd"), ("exit 0", "closed|reset"),
     ("exec sleep 1000", "timed out"), ("kill -9 $$", "closed|reset"),
     ("yes | head -c 1000000 >&2; exit 1", "y$")],
)  # fmt: skip
def test_a_qemu_nbd_that_will_not_serve(tmp_path, instead, monkeypatch, script, words) -> None:
    path = create(tmp_path / "d.qcow2")
    instead(script)
    monkeypatch.setattr("pyhv.imagedisk.PATIENCE_S", 0.5)
    monkeypatch.setattr(qemunbd, "GRACE_S", 0.1)
    refused(HostError, words, path)


@pytest.mark.parametrize("when", [1, 2], ids=["in Thread.start", "after it"])
def test_interrupted_while_it_starts(tmp_path, monkeypatch, when: int) -> None:
    """Ctrl-C in a program that uses pyhv: the child is gone when the exception comes out."""
    path, waits = create(tmp_path / "d.qcow2"), []

    class Interrupted(threading.Event):
        def wait(self, timeout=None):
            assert super().wait(10)
            waits.append(self)
            if len(waits) == when:
                raise KeyboardInterrupt
            return True

    with monkeypatch.context() as patch:
        patch.setattr("pyhv.qemunbd.threading.Event", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            ImageDisk(path, "qcow2")
    assert len(waits) >= when


def test_no_thread_left(tmp_path, monkeypatch) -> None:
    path = create(tmp_path / "d.qcow2")

    def none(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("pyhv.qemunbd.threading.Thread.start", none)
    refused(HostError, "can't start new thread", path)


# sharing

WRITER, READER, SNAPSHOT = {}, {"readonly": True}, {"snapshot": True}


@pytest.mark.parametrize("second_is", ["qcow2", "raw"])
@pytest.mark.parametrize(
    ("first", "second", "together"),
    [(WRITER, WRITER, False), (WRITER, READER, False), (WRITER, SNAPSHOT, False),
     (READER, WRITER, False), (SNAPSHOT, WRITER, False), (READER, READER, True),
     (READER, SNAPSHOT, True), (SNAPSHOT, SNAPSHOT, True)],
)  # fmt: skip
def test_who_may_share_an_image(tmp_path, open_disk, first, second, together, second_is) -> None:
    path = create(tmp_path / "d.qcow2")
    disk = open_disk(path, **first)
    drive = Drive(str(path), format=second_is, **second)
    if not together:
        with pytest.raises(HostError, match="image in use"):
            opened(drive)
        disk.close()
    opened(drive).close()


def test_a_raw_disk_keeps_qemu_nbd_out(tmp_path) -> None:
    path = create(tmp_path / "d.qcow2")
    disk = Disk(path, surely_raw=True)
    refused(HostError, "image in use", path)
    disk.close()


def test_qemu_is_kept_out_and_its_own_words_say_so(tmp_path, open_disk) -> None:
    path = create(tmp_path / "d.qcow2")
    open_disk(path)
    said = subprocess.run(["qemu-img", "snapshot", "-c", "x", path], capture_output=True, text=True)
    assert said.returncode
    assert 'Failed to get "write" lock' in said.stderr
