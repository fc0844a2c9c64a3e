"""Run as a program: a simulated guest that writes until it is killed, and tells what is done.

``killed_writer.py IMAGE FORMAT MEDIUM SEED``: IMAGE is the disk; MEDIUM becomes a copy of it
whenever the host is asked to bring it to the medium, so it is what a host that loses its power
would have. Lines on standard output, each written at once: ``p PID`` of qemu-nbd, 0 for a raw
image; ``w SEQUENCE BLOCK`` a write is answered, ``s SEQUENCE BLOCK`` one with FUA is, ``f
SEQUENCE`` a flush is, which covers all writes up to there.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import sys
import time

import stor_sim
from guest_sim import PAGE, Guest

from pyhv import disk as disk_module
from pyhv.config import Drive
from pyhv.drives import opened
from pyhv.vmbus import scsi
from pyhv.vmbus.storvsc import Scsi

BLOCKS, BLOCK = 64, 4096
SECTORS = BLOCK // 512


def block(sequence: int) -> bytes:
    """What the write number *sequence* puts into its block."""
    return struct.pack("<Q", sequence) * (BLOCK // 8)


def main() -> None:
    image, format, medium, seed = *sys.argv[1:4], int(sys.argv[4])
    rng = random.Random(seed)
    cache = rng.choice(("writeback", "none", "writethrough"))
    disk = opened(Drive(image, format=format, cache=cache))

    def copy() -> None:
        shutil.copyfile(image, medium + ".new")
        os.rename(medium + ".new", medium)
        time.sleep(rng.random() * 0.005)

    if format == "raw":
        fdatasync = os.fdatasync
        disk_module.os.fdatasync = lambda fd: (fdatasync(fd), copy())
    else:
        flush, busy = disk._client.flush, disk._client._data.lock

        def power_safe() -> None:
            flush()
            with busy:  # a copy of tables that change meanwhile is nothing that a host could have
                copy()

        disk._client.flush = power_safe
    os.write(1, b"p %d\n" % (0 if format == "raw" else disk._server._process.pid))
    guest = Guest(Scsi([disk]))
    stor = stor_sim.start(guest)
    fua_rate = 0.1 * (seed % 2)  # FUA synchronizes so often that it hides a flush that does not
    waiting: dict[int, str] = {}
    sequence = done = 0
    while True:
        if rng.random() < 0.15 and len(waiting) < 500:  # past 1024 flushes: TASK SET FULL
            stor.channel.send(stor.submit(stor_sim.cdb_10(scsi.SYNCHRONIZE_CACHE_10, 0, 0)))
            waiting[stor.transaction] = f"f {done}"
        elif len(waiting) < 16:
            sequence += 1
            slot, where = sequence % 32, rng.randrange(BLOCKS)
            guest.memory.write(stor.buffer[slot] * PAGE, block(sequence))
            fua = 8 * (rng.random() < fua_rate)
            cdb = stor_sim.cdb_10(scsi.WRITE_10, where * SECTORS, SECTORS, flags=fua)
            ranges = [(BLOCK, 0, [stor.buffer[slot]])]
            stor.channel.send(stor.submit(cdb, BLOCK, stor_sim.WRITE, ranges=ranges))
            waiting[stor.transaction] = f"{'s' if fua else 'w'} {sequence} {where}"
        guest.events.run()
        for answer in stor.channel.receive():
            result = stor.result(answer)
            assert (result.srb, result.scsi) == (1, 0), result
            line = waiting.pop(answer.transaction)
            os.write(1, line.encode() + b"\n")
            outstanding = [int(text.split()[1]) for text in waiting.values() if text[0] != "f"]
            done = min(outstanding, default=sequence + 1) - 1


if __name__ == "__main__":
    main()
