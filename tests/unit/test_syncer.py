"""The thread that flushes a disk: who shares a flush, what close waits for, what is left."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from pyhv.disk import Disk
from pyhv.syncer import Syncer


@pytest.fixture
def gate():
    """A flush that waits to be let through, and counts."""

    class Gate:
        def __init__(self) -> None:
            self.count, self.begun, self.go = 0, threading.Event(), threading.Event()
            self.error: OSError | None = None

        def flush(self) -> None:
            self.count += 1
            self.begun.set()
            assert self.go.wait(10)
            if self.error is not None:
                raise self.error

    gate = Gate()
    yield gate
    gate.go.set()


def test_a_flush_under_way_covers_nobody_who_asks_later(gate) -> None:
    syncer, told = Syncer(gate.flush), []
    syncer.request(lambda error: told.append(("first", gate.count)))
    assert gate.begun.wait(10)
    for number in range(5):
        syncer.request(lambda error, number=number: told.append((number, gate.count)))
    assert told == []
    gate.go.set()
    syncer.close()
    assert told == [("first", 1), *((number, 2) for number in range(5))]


def test_an_error_reaches_all_who_share_it(gate) -> None:
    syncer, told = Syncer(gate.flush), []
    gate.error = OSError(errno.EIO, "Input/output error")
    for _ in range(3):
        syncer.request(told.append)
    gate.go.set()
    syncer.close()
    assert [error.errno for error in told] == [errno.EIO] * 3


def test_close_waits_for_what_was_asked_and_leaves_no_thread(gate) -> None:
    before = threading.active_count()
    syncer, told = Syncer(gate.flush), []
    syncer.close()  # nothing was asked: no thread was ever made
    syncer = Syncer(gate.flush)
    syncer.request(told.append)
    threading.Timer(0.05, gate.go.set).start()
    syncer.close()
    syncer.close()
    assert told == [None]
    assert threading.active_count() <= before + 1  # the timer may still be about to end


def test_after_close_it_is_refused(gate) -> None:
    syncer, told = Syncer(gate.flush), []
    syncer.close()
    syncer.request(told.append)
    assert told[0].errno == errno.EBADF
    assert gate.count == 0


def test_without_a_thread_the_caller_flushes(gate, monkeypatch) -> None:
    def none_left(self) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    syncer, told = Syncer(gate.flush), []
    gate.go.set()
    syncer.request(told.append)
    assert told == [None]
    syncer.close()


def test_a_disk_flushes_what_was_asked_before_it_closes(tmp_path, monkeypatch) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    disk, told, synced, fdatasync = Disk(path), [], [], os.fdatasync

    def noted(fd: int) -> None:
        fdatasync(fd)
        synced.append(fd)

    monkeypatch.setattr("pyhv.disk.os.fdatasync", noted)
    disk.flush_soon(told.append)
    disk.close()
    assert (told, len(synced)) == ([None], 1)
