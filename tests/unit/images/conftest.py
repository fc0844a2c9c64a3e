"""Fixtures of the image tests: disks that are closed, and nothing that is left."""

from __future__ import annotations

import os
import shutil
import threading

import pytest
from image_files import (
    children,
)

from pyhv import qemunbd
from pyhv.disk import Disk
from pyhv.imagedisk import ImageDisk


@pytest.fixture
def nothing_left(tmp_path, monkeypatch):
    """No child, thread, descriptor or file of a disk outlives it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def now() -> tuple[object, ...]:
        return children(), threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = now()
    yield
    assert now() == before
    assert not list(tmp_path.glob("pyhv-*"))


@pytest.fixture
def open_disk(nothing_left):
    disks: list[Disk] = []

    def made(path, format: str = "qcow2", **options) -> ImageDisk:
        disks.append(ImageDisk(path, format, **options))
        return disks[-1]

    yield made
    for disk in disks:
        disk.close()


@pytest.fixture
def instead(tmp_path, monkeypatch):
    """Puts a shell script in the place of qemu-nbd; $REAL in it is the real one."""

    def put(script: str) -> None:
        program = tmp_path / "bin" / "qemu-nbd"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\nREAL={shutil.which('qemu-nbd')}\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(qemunbd, "SEARCH", f"{program.parent}:{os.environ['PATH']}")

    return put
