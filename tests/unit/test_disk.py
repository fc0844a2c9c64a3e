"""Raw images: what is refused and how, locks, short transfers, snapshot, flush, discard."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import struct
import subprocess
import sys

import pytest
from disk_access import read, views

from pyhv import disk as disk_module
from pyhv.disk import Disk
from pyhv.diskoverlay import Overlay
from pyhv.errors import ConfigError, HostError, PyhvError

SIZE = 1 << 20


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.fixture
def open_disk():
    disks: list[Disk] = []

    def opened(*arguments, **options) -> Disk:
        disks.append(Disk(*arguments, **options))
        return disks[-1]

    yield opened
    for disk in disks:
        disk.close()


# opening


def refused(message: str, *arguments, **options) -> None:
    with pytest.raises(PyhvError) as caught:
        Disk(*arguments, **options)
    text = str(caught.value)
    assert message in text, text
    assert "\n" not in text
    assert ";" in text or ":" in text


def test_missing(tmp_path) -> None:
    refused("no such file", tmp_path / "none.img")
    refused("no directory", __file__ + "/disk.img")


def test_directory(tmp_path) -> None:
    refused("a directory; name the image file in it", tmp_path)
    refused("a directory", tmp_path, readonly=True)


def test_empty(tmp_path) -> None:
    (tmp_path / "empty.img").touch()
    refused("empty; make one: truncate", tmp_path / "empty.img")


@pytest.mark.parametrize("size", [1, 511, 513, SIZE - 1])
def test_truncated(tmp_path, size: int) -> None:
    (tmp_path / "cut.img").write_bytes(bytes(size))
    refused(f"{size} bytes, not a multiple of 512: a copy cut short?", tmp_path / "cut.img")


def test_sector_sizes(image) -> None:
    with image.open("ab") as file:
        file.write(bytes(512))
    refused("not a multiple of 4096", image, sector_size=4096)
    refused("sector size 520: 512 or 4096", image, sector_size=520)


def test_things_that_are_no_disk(tmp_path) -> None:
    """A FIFO must not hang the start."""
    os.mkfifo(tmp_path / "fifo")
    refused("not a file or block device", tmp_path / "fifo")
    refused("not a file or block device", "/dev/null")
    refused("embedded null", "a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_not_permitted(image) -> None:
    image.chmod(0o400)
    refused("use readonly=on or snapshot=on", image)
    image.chmod(0)
    refused("chmod u+r", image, readonly=True)


@pytest.mark.parametrize(
    ("code", "hint"),
    [(errno.EACCES, "readonly=on"), (errno.EROFS, "readonly=on"), (errno.EBUSY, "unmount it"),
     (errno.ETXTBSY, "another program"), (errno.EMFILE, "Too many open files")],
)  # fmt: skip
def test_open_fails(image, monkeypatch, code: int, hint: str) -> None:
    def fails(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(disk_module.os, "open", fails)
    with pytest.raises(HostError, match=hint):
        Disk(image)


def test_a_refused_disk_leaves_no_descriptor(image, tmp_path, open_disk) -> None:
    open_disk(image)
    (tmp_path / "cut.img").write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))
    for path in (image, tmp_path / "cut.img", tmp_path):
        with pytest.raises(PyhvError):
            Disk(path)
    assert len(os.listdir("/proc/self/fd")) == before


# locks

WRITER, READER, SNAPSHOT = {}, {"readonly": True}, {"snapshot": True}


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [(WRITER, WRITER, False), (WRITER, READER, False), (WRITER, SNAPSHOT, False),
     (READER, WRITER, False), (SNAPSHOT, WRITER, False), (READER, READER, True),
     (READER, SNAPSHOT, True), (SNAPSHOT, SNAPSHOT, True)],
)  # fmt: skip
def test_who_may_share_an_image(image, open_disk, first, second, together) -> None:
    disk = open_disk(image, **first)
    if together:
        open_disk(image, **second)
        return
    with pytest.raises(HostError, match="image in use"):
        Disk(image, **second)
    disk.close()
    open_disk(image, **second)


def test_another_process_is_seen_and_its_death_too(image, open_disk) -> None:
    code = "import sys, pyhv.disk as d; x = d.Disk(sys.argv[1]); print(1, flush=True); input()"
    root = os.path.dirname(os.path.dirname(disk_module.__file__))
    child = subprocess.Popen(
        [sys.executable, "-c", code, image], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(HostError, match="image in use"):
        Disk(image)
    child.kill()
    child.communicate()
    open_disk(image)


def test_a_byte_that_qemu_locks_keeps_us_out(image) -> None:
    with image.open("r+b") as file:
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
        with pytest.raises(HostError, match="image in use"):
            Disk(image)
        with pytest.raises(HostError, match="image in use by a writer"):
            Disk(image, readonly=True)


# data


def test_properties(image, open_disk) -> None:
    disk = open_disk(image)
    assert (disk.sectors, disk.sector_size, disk.size_bytes) == (SIZE // 512, 512, SIZE)
    assert not disk.readonly
    assert len(disk.identity) == 16


def test_identity_is_the_paths(image, tmp_path, open_disk) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(bytes(512))
    (tmp_path / "link").symlink_to(image)
    names = [open_disk(p, readonly=True).identity for p in (image, tmp_path / "link", other)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("options", [WRITER, SNAPSHOT], ids=["raw", "snapshot"])
def test_random_reads_and_writes_against_a_model(image, open_disk, options) -> None:
    original = image.read_bytes()
    disk, model, rng = open_disk(image, **options), bytearray(original), random.Random(3)
    for _ in range(300):
        offset = rng.randrange(SIZE // 512) * 512
        length = min(rng.choice((512, 4096, 65536, 200_000 & ~511)), SIZE - offset)
        action = rng.randrange(4)
        if action == 0:
            data = rng.randbytes(length)
            disk.writev(offset, views(data), rng.random() < 0.1)
            model[offset : offset + length] = data
        elif action == 1:
            disk.write_zeroes(offset, length, rng.random() < 0.5)
            model[offset : offset + length] = bytes(length)
        elif action == 2 and rng.random() < 0.3:
            disk.discard(offset, length)
            model[offset : offset + length] = bytes(length)
        else:
            first = rng.randrange(length)
            assert read(disk, offset, first, length - first) == model[offset : offset + length]
    disk.flush()
    assert read(disk, 0, SIZE) == model
    assert image.read_bytes() == (original if options else model)


def test_snapshot_of_a_disk_smaller_than_a_cluster(tmp_path, open_disk) -> None:
    path = tmp_path / "small.img"
    path.write_bytes(b"s" * 1536)
    disk = open_disk(path, snapshot=True)
    disk.writev(512, [memoryview(b"new!" * 128)])
    assert read(disk, 0, 1536) == b"s" * 512 + b"new!" * 128 + b"s" * 512


def test_snapshot_zeroes_at_the_end(image, open_disk) -> None:
    disk = open_disk(image, snapshot=True)
    disk.write_zeroes(SIZE - Overlay.CLUSTER, Overlay.CLUSTER)
    assert read(disk, SIZE - Overlay.CLUSTER, Overlay.CLUSTER) == bytes(Overlay.CLUSTER)


def test_snapshot_keeps_old_data_when_a_write_fails(image, open_disk, monkeypatch) -> None:
    disk = open_disk(image, snapshot=True)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk_module.os, "pwritev", full)
        with pytest.raises(OSError, match="No space"):
            disk.writev(0, [memoryview(bytes(Overlay.CLUSTER))])
    assert read(disk, 0, Overlay.CLUSTER) == image.read_bytes()[: Overlay.CLUSTER]


def test_snapshot_without_a_place_for_it(image, monkeypatch) -> None:
    import tempfile

    def full(**options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    refused("needs a temporary file: No space left on device; set TMPDIR", image, snapshot=True)


@pytest.mark.parametrize("most", [1, 511, 4096, 7777])
def test_short_transfers_are_continued(image, open_disk, monkeypatch, most: int) -> None:
    preadv, pwritev = os.preadv, os.pwritev

    def cut(parts):
        kept, left = [], most
        for part in parts:
            kept.append(part[:left])
            left -= len(kept[-1])
            if not left:
                break
        return kept

    monkeypatch.setattr(disk_module.os, "preadv", lambda f, v, o, *m: preadv(f, cut(v), o, *m))
    monkeypatch.setattr(disk_module.os, "pwritev", lambda f, v, o, *m: pwritev(f, cut(v), o, *m))
    disk, data = open_disk(image), random.Random(4).randbytes(20_000)
    disk.writev(512, views(data))
    assert read(disk, 512, 3000, 17_000) == read(disk, 512, 20_000) == data
    assert image.read_bytes()[512:20_512] == data
    disk.writev(1024, [memoryview(data)])  # one piece has a way of its own
    assert image.read_bytes()[1024:21_024] == data


def test_more_views_than_iov_max(image, open_disk) -> None:
    disk, data = open_disk(image), random.Random(5).randbytes(5000)
    disk.writev(0, views(data, 1))
    assert read(disk, 0, *[1] * 5000) == data


def test_a_file_cut_while_it_is_open_is_an_error(image, open_disk) -> None:
    disk = open_disk(image, readonly=True)
    os.truncate(image, 4096)
    with pytest.raises(OSError, match="shorter") as caught:
        read(disk, 0, 8192)
    assert caught.value.errno == errno.EIO
    with pytest.raises(OSError, match="shorter"):
        read(disk, 8192, 512)


def test_update_size(image, open_disk) -> None:
    disk = open_disk(image)
    assert not disk.update_size()
    os.truncate(image, 2 * SIZE)
    assert disk.update_size()
    assert disk.sectors == 2 * SIZE // 512
    os.truncate(image, 100)
    with pytest.raises(ConfigError, match="not a multiple"):
        disk.update_size()


def test_readonly_is_never_written(image, open_disk) -> None:
    disk, before = open_disk(image, readonly=True), image.read_bytes()
    for change in (
        lambda: disk.writev(0, [memoryview(bytes(512))]),
        lambda: disk.discard(0, 512),
        lambda: disk.write_zeroes(0, 512),
    ):
        with pytest.raises(OSError, match="Read-only"):
            change()
    assert image.read_bytes() == before


def test_a_limit_of_the_host_is_an_error_of_the_write(image, tmp_path) -> None:
    """RLIMIT_FSIZE as a full disk: in a child, which must live on."""
    code = """
import resource, signal, sys
from pyhv.disk import Disk
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
disk = Disk(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    disk.writev(8192, [memoryview(bytes(512))])
except OSError as error:
    print(error.errno)
"""
    root = os.path.dirname(os.path.dirname(disk_module.__file__))
    found = subprocess.run(
        [sys.executable, "-c", code, image], cwd=root, capture_output=True, text=True, check=True
    )
    assert int(found.stdout) == errno.EFBIG
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


# flush and discard


def test_flush_calls_fdatasync_and_returns_after_it(image, open_disk, monkeypatch) -> None:
    disk, order = open_disk(image), []
    monkeypatch.setattr(disk_module.os, "fdatasync", lambda fd: order.append("synced"))
    disk.flush()
    order.append("returned")
    assert order == ["synced", "returned"]


def test_a_failed_flush_stays_failed(image, open_disk, monkeypatch) -> None:
    """The kernel reports a lost page once; a retry must not make that a success."""
    disk = open_disk(image)

    def broken(fd):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(disk_module.os, "fdatasync", broken)
        with pytest.raises(OSError, match="Input/output"):
            disk.flush()
    with pytest.raises(OSError, match="Input/output"):
        disk.flush()


def test_discard_and_zeroes_where_the_host_cannot(image, open_disk, monkeypatch) -> None:
    """Discard is a hint and does nothing; zeros are written."""
    disk, before = open_disk(image), image.read_bytes()
    monkeypatch.setattr(disk_module, "fallocate", lambda *arguments: errno.EOPNOTSUPP)
    disk.discard(0, 4096)
    assert image.read_bytes() == before
    disk.write_zeroes(4096, 3 << 18)
    assert image.read_bytes() == before[:4096] + bytes(3 << 18) + before[4096 + (3 << 18) :]


def test_discard_errors_are_said(image, open_disk, monkeypatch) -> None:
    disk = open_disk(image)
    monkeypatch.setattr(disk_module, "fallocate", lambda *arguments: errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        disk.discard(0, 4096)
    with pytest.raises(OSError, match="Input/output"):
        disk.write_zeroes(0, 4096)


def test_close_twice(image) -> None:
    for options in (WRITER, SNAPSHOT):
        disk = Disk(image, **options)
        disk.close()
        disk.close()
