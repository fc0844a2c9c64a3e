"""pyhv or qemu-nbd ends at a bad moment, or the host has no space: what becomes of the data."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from disk_access import read
from image_files import (
    NEEDS_QEMU_UTILS,
    ROOT,
    SIZE,
    alive,
    contents,
    create,
    ends,
    img,
    server_of,
)

from pyhv import qemunbd

pytestmark = [pytest.mark.usefixtures("nothing_left"), NEEDS_QEMU_UTILS]

OWNER = """
import sys, time
from pyhv.imagedisk import ImageDisk
disk = ImageDisk(sys.argv[1], "qcow2")
disk.writev(0, [memoryview(b"answered" * 8192)])
print(disk._server._process.pid, flush=True)
time.sleep(1000)
"""


def owner(path: pathlib.Path, **options) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OWNER, str(path)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)


def test_what_was_answered_survives_our_sigkill(tmp_path) -> None:
    path = create(tmp_path / "d.qcow2")
    process = owner(path)
    pid = int(process.stdout.readline())
    assert alive(pid)
    process.kill()
    process.communicate()
    assert ends(pid)
    assert contents(path)[:65536] == b"answered" * 8192


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not there")
def test_our_sigkill_before_there_is_a_connection(tmp_path, instead) -> None:
    path, note = create(tmp_path / "d.qcow2"), tmp_path / "pid"
    instead(f"echo $$ > {note}; exec sleep 1000")
    process = owner(path, env={**os.environ, "PATH": qemunbd.SEARCH, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 20
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert ends(int(note.read_text()))


def test_the_thread_that_opened_it_may_end(tmp_path, open_disk) -> None:
    path, disks = create(tmp_path / "d.qcow2"), []
    thread = threading.Thread(target=lambda: disks.append(open_disk(path)))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert read(disks[0], 0, 512) == bytes(512)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lost_qemu_nbd_is_an_error_for_good(tmp_path, open_disk, number) -> None:
    told: list[str] = []
    disk = open_disk(create(tmp_path / "d.qcow2"), notice=told.append)
    os.kill(server_of(disk), number)
    assert ends(server_of(disk))
    for call in (lambda: read(disk, 0, 512), lambda: disk.writev(0, [memoryview(bytes(512))]),
                 disk.flush, disk.flush, lambda: disk.discard(0, 512)):  # fmt: skip
        with pytest.raises(OSError, match=".") as caught:
            call()
        assert caught.value.errno == errno.EIO
    assert len(told) == 1
    assert "qemu-nbd is lost: " in told[0]


@pytest.mark.parametrize("call", ["read", "write", "flush"])
def test_killed_in_the_middle_of_a_request(tmp_path, open_disk, call: str) -> None:
    disk = open_disk(create(tmp_path / "d.qcow2"))
    disk.writev(0, [memoryview(bytes(512))])
    os.kill(server_of(disk), signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (server_of(disk), signal.SIGKILL)).start()
    data = [memoryview(bytearray(4 << 20))]
    with pytest.raises(OSError, match=".") as caught:
        {"read": lambda: disk.readv(0, data), "write": lambda: disk.writev(0, data),
         "flush": disk.flush}[call]()  # fmt: skip
    assert caught.value.errno == errno.EIO
    time.sleep(0.05)  # the timer's thread


def test_a_flush_holds_nothing_up(tmp_path, open_disk) -> None:
    """It has a connection of its own: while one waits for its answer, reads go on."""
    disk, told = open_disk(create(tmp_path / "d.qcow2")), threading.Event()
    with disk._client._flush.lock:
        disk.flush_soon(lambda error: told.set())
        for _ in range(100):
            read(disk, 0, 4096)
        assert not told.is_set()
    assert told.wait(5)


def test_a_host_without_space(tmp_path, open_disk, instead) -> None:
    """The file may not grow: what does not fit is ENOSPC, what is there stays readable."""
    path = create(tmp_path / "d.qcow2")
    instead('trap "" XFSZ; ulimit -f 2048; exec "$REAL" "$@"')
    disk = open_disk(path)
    data = [memoryview(b"\1" * (1 << 19))]
    disk.writev(0, data)
    with pytest.raises(OSError, match=".") as caught:
        disk.writev(0, data * (SIZE >> 19))
    assert caught.value.errno == errno.ENOSPC
    assert read(disk, 0, 1 << 19) == b"\1" * (1 << 19)
    disk.close()
    img("check", "-q", path)
