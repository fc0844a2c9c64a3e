"""SIGKILL while a guest writes: what was answered is in the image, what was flushed is safe.

PYHV_SCALE=25 makes it a hundred times.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

import pytest
from killed_writer import BLOCK, BLOCKS, block

from pyhv.config import Drive
from pyhv.drives import opened
from pyhv.errors import HostError

SEEDS = pytest.mark.parametrize(
    "seed", range(max(1, int(4 * float(os.environ.get("PYHV_SCALE", "1")))))
)
PROGRAM = pathlib.Path(__file__).with_name("killed_writer.py")
qemu_utils = pytest.mark.skipif(
    shutil.which("qemu-nbd") is None or shutil.which("qemu-img") is None,
    reason="qemu-nbd, qemu-img: not installed (apt install qemu-utils)",
)


def held(image: bytes) -> list[int]:
    """Return which write each block has; a torn one fails."""
    found = []
    for number in range(BLOCKS):
        data = image[number * BLOCK : (number + 1) * BLOCK]
        (sequence,) = struct.unpack_from("<Q", data)
        assert data == block(sequence), f"block {number} is torn"
        found.append(sequence)
    return found


def runs(pid: int) -> bool:
    try:
        return ") Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def killed(
    image: pathlib.Path, format: str, medium: pathlib.Path, seed: int, server: bool
) -> tuple[list[int], list[int]]:
    """Run the writer and kill it, or its qemu-nbd too, at some instant.

    Return for every block the last write that was answered, and the last that was flushed.
    """
    process = subprocess.Popen(
        [sys.executable, PROGRAM, image, format, medium, str(seed)], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if server else None,  # it may see the error before its end
        env={**os.environ, "PYTHONPATH": f"{PROGRAM.parent}:{PROGRAM.parents[3]}"},
    )  # fmt: skip
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    reader.start()
    deadline = time.monotonic() + 30
    while len(lines) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(random.Random(seed).random() * 0.5)
    pid = int(lines.pop(0).split()[1])
    if server:
        os.kill(pid, signal.SIGKILL)
    process.kill()
    assert process.wait() == -9 or server
    reader.join()
    while pid and runs(pid) and time.monotonic() < deadline + 30:
        time.sleep(0.005)
    answered, safe = [0] * BLOCKS, [0] * BLOCKS
    writes: dict[int, int] = {}
    flushed = 0
    for line in lines:
        kind, sequence, *where = (int(word) if word.isdigit() else word for word in line.split())
        if kind == b"f":
            flushed = max(flushed, sequence)
            continue
        writes[sequence] = where[0]
        answered[where[0]] = max(answered[where[0]], sequence)
        if kind == b"s":
            safe[where[0]] = max(safe[where[0]], sequence)
    for sequence, where in writes.items():
        if sequence <= flushed:
            safe[where] = max(safe[where], sequence)
    assert sum(answered) > 0
    while True:  # the lock goes with the last of its threads, which may be behind the first
        try:
            opened(Drive(str(image), format=format)).close()
            return answered, safe
        except HostError:
            if time.monotonic() > deadline + 30:
                raise
            time.sleep(0.005)


def compare(found: list[int], wanted: list[int], how: str) -> None:
    for number, (have, want) in enumerate(zip(found, wanted, strict=True)):
        assert have >= want, f"block {number} has write {have}, {want} was {how}"


@SEEDS
def test_killed_at_some_instant(tmp_path, seed: int) -> None:
    image, medium = tmp_path / "disk.img", tmp_path / "medium.img"
    for path in (image, medium):
        path.write_bytes(bytes(BLOCKS * BLOCK))
    answered, safe = killed(image, "raw", medium, seed, server=False)
    compare(held(image.read_bytes()), answered, "answered")
    compare(held(medium.read_bytes()), safe, "flushed")


def whole(path: pathlib.Path, leaks: bool) -> bytes:
    """Return what is in a qcow2 image in which qemu-img finds nothing wrong but *leaks*."""
    words = ["qemu-img", "check", "-f", "qcow2", "--output=json", path]
    done = subprocess.run(words, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert not found["check-errors"], done
    assert not found.get("corruptions"), done
    assert leaks or not found.get("leaks"), done
    raw = path.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw], check=True)
    return raw.read_bytes()


@qemu_utils
@SEEDS
@pytest.mark.parametrize("server", [False, True], ids=["pyhv", "qemu-nbd too"])
def test_a_qcow2_image_is_whole_after_each_kill(tmp_path, seed: int, server: bool) -> None:
    """When qemu-nbd is left, it brings all that was answered into the image, and no leaks."""
    image, medium = tmp_path / "disk.qcow2", tmp_path / "medium.qcow2"
    for path in (image, medium):
        words = ["-o", f"cluster_size={BLOCK}", path, str(BLOCKS * BLOCK)]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words], check=True)
    answered, safe = killed(image, "qcow2", medium, seed, server)
    how = "flushed" if server else "answered"
    compare(held(whole(image, leaks=server)), safe if server else answered, how)
    compare(held(whole(medium, leaks=True)), safe, "flushed")
