"""Image files made and looked at with the real qemu-img, and the processes that serve them."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest

from pyhv.imagedisk import ImageDisk

NEEDS_QEMU_UTILS = pytest.mark.skipif(
    shutil.which("qemu-nbd") is None or shutil.which("qemu-img") is None,
    reason="qemu-nbd, qemu-img: not installed (apt install qemu-utils)",
)
ROOT = pathlib.Path(__file__).parents[3]
SIZE = 8 << 20
#: name -> format, options of qemu-img create
KINDS = {
    "qcow2": ("qcow2", ""), "qcow2 v2": ("qcow2", "compat=0.10"),
    "qcow2 small clusters": ("qcow2", "cluster_size=4096"),
    "VHD, dynamic": ("vpc", "force_size=on"),
    "VHD, fixed": ("vpc", "subformat=fixed,force_size=on"),
    "VHDX": ("vhdx", ""), "VHDX, fixed": ("vhdx", "subformat=fixed"),
}  # fmt: skip


def img(*words: object, check: bool = True) -> str:
    done = subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


def create(path: pathlib.Path, kind: str = "qcow2", *more: object) -> pathlib.Path:
    format, options = KINDS[kind]
    img("create", "-q", "-f", format, *(["-o", options] if options else []), *more, path, SIZE)
    os.truncate(path, -(-path.stat().st_size // 512) * 512)  # so that it can be opened as raw
    return path


def contents(path: pathlib.Path, format: str = "qcow2") -> bytes:
    """What qemu-img finds in it, after its check if the format has one."""
    if format != "vpc":
        found = json.loads(img("check", "--output=json", "-f", format, path))
        assert not found["check-errors"]
        assert not found.get("corruptions")
        assert not found.get("leaks")
    raw = path.with_suffix(".converted")
    img("convert", "-f", format, "-O", "raw", path, raw)
    return raw.read_bytes()


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def ends(pid: int, patience_s: float = 20.0) -> bool:
    deadline = time.monotonic() + patience_s
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


def children() -> set[int]:
    found = pathlib.Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for path in found for pid in path.read_text().split()}


def server_of(disk: ImageDisk) -> int:
    return disk._server._process.pid
