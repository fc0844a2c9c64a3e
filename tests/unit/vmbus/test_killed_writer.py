"""SIGKILL while a guest writes: what was answered is in the image, what was flushed is safe.

PYHV_SCALE=25 makes it a hundred times.
"""

from __future__ import annotations

import os
import pathlib
import random
import struct
import subprocess
import sys
import threading
import time

import pytest
from killed_writer import BLOCK, BLOCKS, block

from pyhv.disk import Disk

COUNT = max(1, int(4 * float(os.environ.get("PYHV_SCALE", "1"))))
PROGRAM = pathlib.Path(__file__).with_name("killed_writer.py")


def held(image: bytes) -> list[int]:
    """Return which write each block has; a torn one fails."""
    found = []
    for number in range(BLOCKS):
        data = image[number * BLOCK : (number + 1) * BLOCK]
        (sequence,) = struct.unpack_from("<Q", data)
        assert data == block(sequence), f"block {number} is torn"
        found.append(sequence)
    return found


@pytest.mark.parametrize("seed", range(COUNT))
def test_killed_at_some_instant(tmp_path, seed: int) -> None:
    image, medium = tmp_path / "disk.img", tmp_path / "medium.img"
    for path in (image, medium):
        path.write_bytes(bytes(BLOCKS * BLOCK))
    process = subprocess.Popen(
        [sys.executable, PROGRAM, image, medium, str(seed)], stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{PROGRAM.parent}:{PROGRAM.parents[3]}"},
    )  # fmt: skip
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    reader.start()
    deadline = time.monotonic() + 30
    while not lines and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(random.Random(seed).random() * 0.5)
    process.kill()
    assert process.wait() == -9
    reader.join()
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
    for number, (have, want) in enumerate(zip(held(image.read_bytes()), answered, strict=True)):
        assert have >= want, f"block {number} has write {have}, {want} was answered"
    for number, (have, want) in enumerate(zip(held(medium.read_bytes()), safe, strict=True)):
        assert have >= want, f"block {number} has write {have} on the medium, {want} was flushed"
    Disk(image).close()  # the lock went with the process
