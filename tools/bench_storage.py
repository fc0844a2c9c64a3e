#!/usr/bin/env python3
"""Cost of a storage request in the VMBus server, without a guest: microseconds of this thread.

    tools/bench_storage.py [--profile | --no-io]
    tests/host/nested --icount python3 tools/bench_storage.py   thousands of instructions

A simulated guest fills the ring; only the server's part is timed: doorbell, ring, page list,
the read or write itself (page cache), completion, interrupt. The image is a temporary file, in
TMPDIR; with --no-io nothing is read or written, which leaves what is pyhv's own. At the end, what
the system calls take alone.
"""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/unit/vmbus")]

import stor_sim  # noqa: E402
from guest_sim import Guest  # noqa: E402

from pyhv.disk import Disk  # noqa: E402
from pyhv.vmbus.storvsc import Scsi  # noqa: E402

MIB, CHUNK = 1 << 20, 64 << 10
ROUNDS = 5
#: name, opcode, bytes per request, requests per doorbell, pages scattered
CASES = [
    ("read 4 KiB, one at a time", 0x28, 4096, 1, False),
    ("read 4 KiB, 32 per doorbell", 0x28, 4096, 32, False),
    ("read 64 KiB, 32 per doorbell", 0x28, 65536, 32, False),
    ("read 64 KiB scattered, 32", 0x28, 65536, 32, True),
    ("read 128 KiB, one at a time", 0x28, 131072, 1, False),
    ("read 128 KiB scattered, one", 0x28, 131072, 1, True),
    ("read 256 KiB, 16 per doorbell", 0x28, 262144, 16, False),
    ("read 256 KiB scattered, 16", 0x28, 262144, 16, True),
    ("write 4 KiB, one at a time", 0x2A, 4096, 1, False),
    ("write 4 KiB, 32 per doorbell", 0x2A, 4096, 32, False),
    ("write 128 KiB, one at a time", 0x2A, 131072, 1, False),
    ("write 128 KiB scattered, one", 0x2A, 131072, 1, True),
    ("write 256 KiB, 16 per doorbell", 0x2A, 262144, 16, False),
]
CALLS = 640


def measure(guest: Guest, driver: stor_sim.StorGuest, case: tuple, count: int) -> float:
    """Return the best microseconds per request of several rounds of *count* requests."""
    _, opcode, size, depth, scattered = case
    pages = driver.buffer[: size // 4096]
    if scattered:
        pages = [driver.buffer[(i * 2) % 128] for i in range(len(pages))]
    channel = driver.channel
    fd = guest.synic.bound[channel.connection_id]
    drain = guest.events.callbacks[fd]
    best = 1e9
    for _ in range(ROUNDS):
        spent, done = 0, 0
        while done < count:
            for i in range(depth):
                lba = (done + i) * 8 % 65536
                cdb = bytes((opcode, 0)) + lba.to_bytes(4, "big") + b"\0"
                cdb += (size // 512).to_bytes(2, "big") + b"\0"
                channel.put(
                    driver.submit(cdb, size, opcode == 0x28, ranges=[(size, 0, pages)])
                )
            os.eventfd_write(fd, 1)
            start = time.thread_time_ns()
            drain()
            spent += time.thread_time_ns() - start
            answers = channel.receive()
            assert len(answers) == depth
            assert all(driver.result(answer).srb == 1 for answer in answers[:1])
            done += depth
        best = min(best, spent / done / 1000)
    return best


def alone(call, fd: int) -> float:
    """Return the best microseconds of preadv or pwritev of 4 KiB, call after call."""
    best, views = 1e9, [memoryview(bytearray(4096))]
    for _ in range(ROUNDS):
        start = time.thread_time_ns()
        for i in range(CALLS):
            call(fd, views, i * 4096)
        best = min(best, (time.thread_time_ns() - start) / CALLS / 1000)
    return best


def main() -> int:
    """Print the table."""
    with tempfile.NamedTemporaryFile(prefix="pyhv-bench-") as file:
        # Not in one piece: ext4 keeps what came in one write of 1 MiB or more in such large parts
        # of the page cache that each later pwrite of 4 KiB takes 7 us instead of 1.4 (Linux 6.18).
        for _ in range(64 * MIB // CHUNK):
            file.write(bytes(CHUNK))
            file.flush()
        disk = Disk(file.name)
        if "--no-io" in sys.argv:
            disk.read_image = disk.write_image = lambda offset, views: None
        guest = Guest(Scsi([disk]))
        guest.synic.event_signaller = lambda vp, sint, flag: lambda: None
        driver = stor_sim.start(guest)
        if "--profile" in sys.argv:
            import cProfile

            profile = cProfile.Profile()
            profile.runcall(measure, guest, driver, CASES[1], 6400)
            profile.print_stats("tottime")
        else:
            print("us of CPU per request, best of", ROUNDS)
            for case in CASES:
                count = 640 if case[2] < 65536 else 160
                print(f"{case[0]:34s} {measure(guest, driver, case, count):6.2f}", flush=True)
            for call in (os.preadv, os.pwritev):
                print(f"{call.__name__ + ' of 4 KiB alone':34s} {alone(call, file.fileno()):6.2f}")
        guest.close()
        disk.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
