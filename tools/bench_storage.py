#!/usr/bin/env python3
"""Cost of a storage request in the VMBus server, without a guest: microseconds of this thread.

    tools/bench_storage.py [--profile]

A simulated guest fills the ring; only the server's part is timed: doorbell, ring, page list,
the read or write itself (page cache), completion, interrupt. The image is a temporary file.
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

MIB = 1 << 20
ROUNDS = 5
#: name, opcode, bytes per request, requests per doorbell, pages scattered
CASES = [
    ("read 4 KiB, one at a time", 0x28, 4096, 1, False),
    ("read 4 KiB, 32 per doorbell", 0x28, 4096, 32, False),
    ("read 64 KiB, 32 per doorbell", 0x28, 65536, 32, False),
    ("read 64 KiB scattered, 32", 0x28, 65536, 32, True),
    ("read 256 KiB, 16 per doorbell", 0x28, 262144, 16, False),
    ("read 256 KiB scattered, 16", 0x28, 262144, 16, True),
    ("write 4 KiB, one at a time", 0x2A, 4096, 1, False),
    ("write 4 KiB, 32 per doorbell", 0x2A, 4096, 32, False),
    ("write 256 KiB, 16 per doorbell", 0x2A, 262144, 16, False),
]


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


def main() -> int:
    """Print the table."""
    with tempfile.NamedTemporaryFile(prefix="pyhv-bench-") as file:
        file.write(bytes(64 * MIB))
        file.flush()
        disk = Disk(file.name)
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
        guest.close()
        disk.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
