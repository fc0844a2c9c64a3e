"""Run as a program: a simulated guest that writes until it is killed, and tells what is done.

``killed_writer.py IMAGE MEDIUM SEED``: IMAGE is the disk; MEDIUM becomes a copy of it whenever the
host is asked to bring it to the medium, so it is what a host that loses its power would have.
Lines on standard output, each written at once: ``w SEQUENCE BLOCK`` a write is answered, ``s
SEQUENCE BLOCK`` one with FUA is, ``f SEQUENCE`` a flush is, which covers all writes up to there.
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
from pyhv.disk import Disk
from pyhv.vmbus import scsi
from pyhv.vmbus.storvsc import Scsi

BLOCKS, BLOCK = 64, 4096
SECTORS = BLOCK // 512


def block(sequence: int) -> bytes:
    """What the write number *sequence* puts into its block."""
    return struct.pack("<Q", sequence) * (BLOCK // 8)


def main() -> None:
    image, medium, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rng = random.Random(seed)
    fdatasync = os.fdatasync

    def power_safe(fd: int) -> None:
        fdatasync(fd)
        shutil.copyfile(image, medium + ".new")
        os.rename(medium + ".new", medium)
        time.sleep(rng.random() * 0.005)

    disk_module.os.fdatasync = power_safe
    guest = Guest(Scsi([Disk(image, cache=rng.choice(("writeback", "none", "writethrough")))]))
    stor = stor_sim.start(guest)
    fua_rate = 0.1 * (seed % 2)  # FUA synchronizes so often that it hides a flush that does not
    waiting: dict[int, str] = {}
    sequence = done = 0
    while True:
        if rng.random() < 0.15:
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
