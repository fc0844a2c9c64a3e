#!/usr/bin/env python3
"""Cost of a frame in the network card, without a guest: microseconds of this thread.

    tools/bench_network.py [--profile NAME]

A simulated guest fills the ring or gives receive sections back; only the server's part is timed:
doorbell, ring, copies, offloads, the write to a Unix socket that a thread empties (as passt does),
completions, interrupt.
"""

from __future__ import annotations

import os
import pathlib
import socket
import struct
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/unit/vmbus")]

import net_sim  # noqa: E402
from guest_sim import Guest  # noqa: E402
from net_sim import MAC, ethernet, ipv4, ppi, tcp  # noqa: E402

from pyhv.net import frames  # noqa: E402
from pyhv.net.stream import Stream  # noqa: E402
from pyhv.vmbus.netvsc import Netvsc  # noqa: E402

ROUNDS = 5
CHECKSUMS = ppi(0, 1 | 4 | 16 | 34 << 16)
LARGE = ppi(2, 1460 | 34 << 20 | 1 << 30)


class Whole(Stream):
    """A backend that takes large frames whole, and vouches for sums, as passt does."""

    checked = True

    def prepare(self, frame: bytes, requested: int, mss: int) -> list[bytes]:
        return frames.finished(frame, requested, mss, whole=True)


#: name, backend, payload bytes, information, frames per doorbell (0: received, that many at once)
SENT = [
    ("send 64 B, one at a time", Stream, 10, (), 1),
    ("send 64 B, 16 per doorbell", Stream, 10, (), 16),
    ("send 1514 B, sums made, 16", Stream, 1460, (CHECKSUMS,), 16),
    ("send 60 KiB, cut into 1514 B", Stream, 61320, (LARGE,), 4),
    ("send 60 KiB, whole", Whole, 61320, (LARGE,), 4),
]
RECEIVED = [
    ("receive 64 B, one at a time", 10, 1),
    ("receive 1514 B, one at a time", 1460, 1),
    ("receive 1514 B, 32 at once", 1460, 32),
]


class Bench:
    """A guest with a card on a socket pair whose other end a thread empties."""

    def __init__(self, kind: type[Stream]) -> None:
        self.backend = kind()
        self.guest = Guest(Netvsc(self.backend, MAC), memory=64 << 20)
        self.guest.synic.event_signaller = lambda vp, sint, flag: lambda: None
        self.backend.open(self.guest.events)
        ours, self.theirs = socket.socketpair()
        self.backend.attach(ours)
        self.driver = net_sim.start(self.guest)
        channel = self.driver.channel
        self.fd = self.guest.synic.bound[channel.connection_id]
        self.drain = self.guest.events.callbacks[self.fd]
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        while self.theirs.recv(1 << 20):
            pass

    def close(self) -> None:
        self.backend.close()
        self.reader.join()
        self.theirs.close()
        self.guest.close()

    def wait(self) -> None:
        """Let the reader take all, and the backend send what waited."""
        while self.backend._backlog:
            self.guest.events.run()
            time.sleep(0.001)

    def send(self, data: bytes, depth: int, count: int) -> float:
        """Return microseconds per packet."""
        channel, spent, done = self.driver.channel, 0, 0
        first = self.guest.next_page
        while done < count:
            self.guest.next_page = first
            for i in range(depth):
                self.driver.put(data, i % 4 if len(data) <= 6144 else None)
            os.eventfd_write(self.fd, 1)
            start = time.thread_time_ns()
            self.drain()
            spent += time.thread_time_ns() - start
            self.wait()
            assert len(channel.receive()) == depth
            done += depth
        return spent / done / 1000

    def receive(self, frame: bytes, depth: int, count: int) -> float:
        """Return microseconds per frame, its completion included."""
        sink, spent, done = self.backend.sink, 0, 0
        while done < count:
            some = [frame] * depth
            start = time.thread_time_ns()
            sink.receive(some)
            spent += time.thread_time_ns() - start
            for one in self.driver.channel.receive():
                self.driver.channel.put(
                    struct.pack("<HHHHQII", 11, 2, 3, 0, one.transaction, 108, 1)
                )
            os.eventfd_write(self.fd, 1)
            start = time.thread_time_ns()
            self.drain()
            spent += time.thread_time_ns() - start
            done += depth
        return spent / done / 1000


def frame_of(size: int) -> bytes:
    """Return a TCP frame with *size* bytes of data."""
    return ethernet(ipv4(tcp(bytes(size)), 6))


def main() -> int:
    """Print the table."""
    cases = [
        (name, kind, "send", net_sim.rndis_packet(frame_of(size), *more), depth)
        for name, kind, size, more, depth in SENT
    ]
    cases += [(name, Stream, "receive", frame_of(size), depth) for name, size, depth in RECEIVED]
    chosen = sys.argv[2] if sys.argv[1:2] == ["--profile"] else None
    print("us of CPU per packet, best of", ROUNDS)
    for name, kind, way, data, depth in cases:
        if chosen is not None and chosen not in name:
            continue
        bench = Bench(kind)
        run = getattr(bench, way)
        if chosen is not None:
            import cProfile

            profile = cProfile.Profile()
            profile.runcall(run, data, depth, 6400)
            profile.print_stats("tottime")
        else:
            best = min(run(data, depth, 640 if len(data) < 9000 else 80) for _ in range(ROUNDS))
            print(f"{name:34s} {best:7.2f}", flush=True)
        bench.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
